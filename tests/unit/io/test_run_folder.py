"""A run folder holds one run: it goes on, it refuses another, it keeps no secret and deletes nothing."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from alignray.errors import ResumeError
from alignray.io.run_folder import CONFIG, MANIFEST, RunFolder, redacted

IDENTITY = {"config": {"seed": 0, "webr": {"refine": True}}, "inputs": {"a.warc.gz": 100}}


def begin(root: Path | str, identity: dict[str, Any] | None = None, *, new_run: bool = False, **config: Any) -> dict[str, Any]:
    return RunFolder(str(root)).begin(config, identity or IDENTITY, {"alignray": "0.1.0"}, new_run=new_run)


# ---- begin


def test_a_new_folder_gets_a_manifest_and_the_config(tmp_path: Path) -> None:
    manifest = begin(tmp_path / "run", seed=0, words=("a", "b"))
    assert (manifest["status"], manifest["sessions"], manifest["identity"], manifest["alignray"]) == ("running", 1, IDENTITY, "0.1.0")
    assert orjson.loads((tmp_path / "run" / MANIFEST).read_bytes()) == manifest
    assert yaml.safe_load((tmp_path / "run" / CONFIG).read_text()) == {"seed": 0, "words": ["a", "b"]}


def test_the_same_run_goes_on_and_keeps_its_beginning(tmp_path: Path) -> None:
    first = begin(tmp_path)
    second = begin(tmp_path)
    assert (second["started"], second["sessions"]) == (first["started"], 2)


def test_another_run_is_refused_with_what_changed_and_the_ways_out(tmp_path: Path) -> None:
    begin(tmp_path)
    other = {"config": {"seed": 1, "webr": {"refine": False}}, "inputs": {"a.warc.gz": 100, "b.warc.gz": 5}}
    with pytest.raises(ResumeError) as caught:
        begin(tmp_path, other)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} holds a run of another config: ")
    assert "config.seed: 0 -> 1; config.webr.refine: True -> False; inputs.b.warc.gz: '(not set)' -> 5" in message
    assert "--run" in message and "--new-run" in message
    assert orjson.loads((tmp_path / MANIFEST).read_bytes())["identity"] == IDENTITY


def test_a_long_list_of_changes_is_cut_and_counted(tmp_path: Path) -> None:
    begin(tmp_path, {"inputs": {f"{n:02}": 0 for n in range(20)}})
    with pytest.raises(ResumeError, match=r"inputs.07: 0 -> 1 and 12 more;"):
        begin(tmp_path, {"inputs": {f"{n:02}": 1 for n in range(20)}})


def test_tuples_and_lists_are_the_same_identity(tmp_path: Path) -> None:
    begin(tmp_path, {"words": ("a", "b")})
    assert begin(tmp_path, {"words": ["a", "b"]})["sessions"] == 2


def test_a_new_run_moves_the_old_folder_aside_whole(tmp_path: Path) -> None:
    root = tmp_path / "run"
    for number in range(3):
        begin(root, {"seed": number}, new_run=True)
        (root / "paid.txt").write_text(str(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]
    assert [(tmp_path / name / "paid.txt").read_text() for name in ("run.old-1", "run.old-2", "run")] == ["0", "1", "2"]
    assert orjson.loads((tmp_path / "run.old-1" / MANIFEST).read_bytes())["identity"] == {"seed": 0}


def test_a_new_run_where_none_was_begins_plainly(tmp_path: Path) -> None:
    assert begin(tmp_path / "run", new_run=True)["sessions"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("manifest", [b"", b'{"identity": ', b"[]", b"{}", b"null"])
def test_a_damaged_manifest_names_itself_and_a_new_run_is_a_way_out(tmp_path: Path, manifest: bytes) -> None:
    root = tmp_path / "run"
    begin(root)
    (root / MANIFEST).write_bytes(manifest)
    with pytest.raises(ResumeError, match=r"run/manifest.json: not .*restore it or start over with --new-run"):
        begin(root)
    assert begin(root, new_run=True)["sessions"] == 1
    assert (tmp_path / "run.old-1" / MANIFEST).read_bytes() == manifest


def test_an_object_store_holds_a_run_too_but_cannot_move_one() -> None:
    root = f"memory://run-{uuid.uuid4().hex}"
    assert RunFolder(root).manifest() is None
    begin(root)
    assert begin(root)["sessions"] == 2
    with pytest.raises(ResumeError, match="seed: 0 -> 1"):
        begin(root, {**IDENTITY, "config": {"seed": 1, "webr": {"refine": True}}})
    with pytest.raises(ResumeError, match="--new-run cannot move a folder on an object store; take another --run folder"):
        begin(root, new_run=True)


# ---- secrets


def test_secrets_are_redacted_wherever_they_stand() -> None:
    secrets = {
        "api_key": "sk-1", "HF_TOKEN": "hf-1", "password": "p", "client_secret": ["s1", "s2"],
        "extra_body": {"headers": {"Authorization": "Bearer x"}}, "secrets": {"anything": "hidden"},
    }
    shown = orjson.dumps(redacted(secrets)).decode()
    assert not any(secret in shown for secret in ("sk-1", "hf-1", '"p"', "s1", "s2", "Bearer", "hidden"))
    assert shown.count("(redacted)") == 7


def test_what_only_sounds_like_a_secret_stays() -> None:
    harmless = {
        "api_key_env": "OPENAI_API_KEY", "tokens": "5", "max_new_tokens": 512, "tokens_key": "max_tokens", "api_key": "", "token": None,
        "completion_tokens": {"webr/persona": 30}, "unit": "token_id", "stop_token_ids": [1, 2],
    }
    assert redacted(harmless) == harmless


def test_no_secret_reaches_a_file_of_the_folder_and_a_new_key_is_no_other_run(tmp_path: Path) -> None:
    def identity(key: str) -> dict[str, Any]:
        return {"engines": {"e": {"extra_body": {"api_key": key}}}}

    begin(tmp_path, identity("sk-old"), engines=identity("sk-old"))
    begin(tmp_path, identity("sk-new"), engines=identity("sk-new"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-" in path.read_bytes()]


# ---- the rest


def test_metrics_are_lines_with_a_time(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.metric({"rows": 1})
    folder.metric({"rows": 2})
    lines = [orjson.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert [line["rows"] for line in lines] == [1, 2] and lines[0]["t"] <= lines[1]["t"]


def test_metrics_of_a_second_session_follow_those_of_the_first(tmp_path: Path) -> None:
    for session in range(2):
        RunFolder(str(tmp_path)).metric({"session": session})
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 2
