"""Keys and passwords in messages, configs and file names; and who may look into a run folder."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.config import load_config, without_secrets
from alignray.engine.http_errors import PIECE, redact, trouble_of_status, without_key
from alignray.errors import CallRefused, ConfigError, EngineDown, RecordError
from alignray.io.export import export
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.run_folder import RunFolder, redacted
from alignray.io.sources import IngestConfig, list_splits
from alignray.pipelines.webr_config import WebRJobConfig
from tests.runfolders import build_run
from tests.security.test_texts import ask, reply

SECRET = "canary-X5t8sW2qA9zE4dC7rF1vG6bH3nJ0mK"


# ---- a key that comes back


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, len(SECRET)), st.integers(0, len(SECRET)))
def test_no_piece_of_a_key_is_left_in_a_message(before: str, after: str, start: int, end: int) -> None:
    piece = SECRET[start:end]
    left = redact(f"{before}{piece}{after}", SECRET)
    assert not any(SECRET[at : at + PIECE] in left for at in range(len(SECRET) - PIECE + 1))


@given(st.text(max_size=200))
def test_a_message_without_the_key_is_untouched(message: str) -> None:
    assert without_key(message, SECRET) == message and without_key(message, None) == message


def test_a_key_that_the_quote_of_a_body_cuts_is_still_found() -> None:
    for filler in range(240, 310):
        body = json.dumps({"error": {"message": f"{'x' * filler} {SECRET}"}}).encode()
        message = redact(trouble_of_status(401, {}, body, now=0).message, SECRET)
        assert SECRET[:PIECE] not in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
def test_an_error_that_repeats_the_key_is_redacted(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_TEST_KEY", SECRET)
    with pytest.raises((CallRefused, EngineDown)) as caught:
        ask(json.dumps({"error": f"{SECRET} {'y' * 270} Bearer {SECRET}"}).encode(), status=status, key=SECRET)
    told = str(caught.value.args)
    assert SECRET[:PIECE] not in told and SECRET[-PIECE:] not in told and "[redacted]" in told


def test_an_answer_that_repeats_the_key_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_TEST_KEY", SECRET)
    answer = ask(reply(f"your key is {SECRET}.", model=f"m {SECRET}"), key=SECRET)
    assert answer.text == "your key is [redacted]." and SECRET not in answer.model


# ---- configs


@pytest.mark.parametrize("line", [
    f'base_url: "https://host/v1?key={SECRET}"', f'base_url: "https://me:{SECRET}@host/v1"', f'api_key_env: "{SECRET}"',
    f"api_key: {SECRET}", f'extra_body: {{next: "https://me:{SECRET}@host/"}}',
])
def test_a_refused_config_does_not_repeat_a_secret(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "ingest: {sources: [{name: a, paths: [x.jsonl]}]}\nroles: {default: {engine: e}}\nengines:\n  e:\n    kind: openai\n    model: m\n"
        f"    {line}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(WebRJobConfig, path)
    assert SECRET not in str(caught.value) and "config.yaml:" in str(caught.value)


@pytest.mark.parametrize("override", [
    f"engines.e.api_key={SECRET}", f"engines.e.extra.password=[{SECRET}", f"run_dir=sftp://me:{SECRET}@host/run",
    f"nothing.token.x={SECRET}", f"engines.e.base_url=https://host/?key={SECRET}", f"ingest.sources.7.password={SECRET}",
    f"seed=https://host/?sig={SECRET}",
])
def test_a_refused_override_does_not_repeat_a_secret(tmp_path: Path, override: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "ingest: {sources: [{name: a, paths: [x.jsonl]}]}\nroles: {default: {engine: e}}\nengines: {e: {kind: openai, model: m}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(WebRJobConfig, path, overrides=[override])
    assert SECRET not in str(caught.value) and override.partition("=")[0].split(".")[-1] in str(caught.value)


def test_values_of_overrides_are_data_and_never_objects(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\n")
    for value in ("!!python/object/apply:os.system [true]", "!!python/name:os.system", "!!python/module:os"):
        with pytest.raises(ConfigError, match="not a YAML value"):
            load_config(WebRJobConfig, path, overrides=[f"seed={value}"])


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
def test_texts_that_cannot_be_stored_are_refused_where_they_stand(text: str) -> None:
    with pytest.raises(ValueError, match="paths holds"):
        IngestConfig.model_validate({"sources": [{"name": "a", "paths": [text]}]})


# ---- URLs


def test_a_url_shows_its_query_without_the_secrets() -> None:
    query = f"page=2&key={SECRET}&X-Amz-Signature={SECRET};sig={SECRET}&AccessToken={SECRET}&design=3"
    shown = without_secrets(f"https://host/f.jsonl?{query}#top")
    assert SECRET not in shown
    assert shown.startswith("https://host/f.jsonl?") and "page=2" in shown and "design=3" in shown and "#top" in shown
    assert without_secrets("a/b?key=1") == "a/b?key=1"


def test_an_input_that_fails_is_named_without_its_secrets() -> None:
    url = f"http://127.0.0.1:9/pages.jsonl?token={SECRET}"
    (split,) = list_splits(IngestConfig.model_validate({"sources": [{"name": "a", "paths": [url]}]}))
    assert split.uri == url and SECRET not in split.shown
    with pytest.raises(RecordError) as caught, open_input(url, FetchConfig(attempts=1)) as stream:
        stream.read()
    assert SECRET not in str(caught.value) and "pages.jsonl" in str(caught.value)
    for path in (f"{url}&x=*", f"http://127.0.0.1:9/pages?token={SECRET}"):
        with pytest.raises(RecordError) as caught:
            list_splits(IngestConfig.model_validate({"sources": [{"name": "a", "paths": [path]}]}))
        assert SECRET not in str(caught.value)


def test_numbers_and_urls_are_redacted_in_the_config_of_a_run() -> None:
    config = {"password": 123456789, "paths": [f"https://host/a?token={SECRET}"], "api_key_env": "NAME", "max_tokens": 5}
    shown = orjson.dumps(redacted(config)).decode()
    assert SECRET not in shown and "123456789" not in shown and '"NAME"' in shown and '"max_tokens":5' in shown


# ---- who may look


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    before = os.umask(0o022)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def begin(folder: Path, **how: Any) -> RunFolder:
    run = RunFolder(str(folder))
    run.begin({"seed": 1}, {"seed": 1}, {"method": "webr"}, new_run=False, **how)
    return run


def others_can_read(path: Path) -> bool:
    """Whether a process of another user reads the file."""
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            path.read_bytes()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_others_read_a_run_folder_unless_it_is_private(open_dir: Path) -> None:
    begin(open_dir / "open")
    begin(open_dir / "private" / "run", private=True)
    assert others_can_read(open_dir / "open" / "manifest.json")
    assert not others_can_read(open_dir / "private" / "run" / "manifest.json")


def test_a_private_run_folder_has_mode_0700_and_stays_so(open_dir: Path) -> None:
    begin(open_dir / "run")
    assert stat.S_IMODE((open_dir / "run").stat().st_mode) == 0o755
    begin(open_dir / "run", private=True)
    assert stat.S_IMODE((open_dir / "run").stat().st_mode) == 0o700
    begin(open_dir / "run")
    assert stat.S_IMODE((open_dir / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644)])
def test_files_of_a_run_and_its_exports_get_what_the_umask_says(open_dir: Path, umask: int, mode: int) -> None:
    build_run(open_dir / "made", num_rows=5)
    os.umask(umask)
    run = begin(open_dir / "run")
    run.metric({"a": 1})
    export(open_dir / "made", "openai", open_dir / "out" / "rows.jsonl")
    for path in (*(open_dir / "run").iterdir(), open_dir / "out" / "rows.jsonl"):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
