"""Whole runs on hostile pages, with a hostile model behind an endpoint that repeats its key: nothing leaks, breaks out or is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from alignray.io.export import FORMATS, export, read_export
from alignray.pipelines.inspect_run import rewrite_report
from tests.ray.run_files import assert_nothing_is_lost, journal_of, rows_of
from tests.security import hostile
from tests.security.pages import NASTY_NAME, write_inputs
from tests.security.runs import end_of, files_with, has_secret, hostile_endpoint, on_a_terminal, plain, web_server

KEY = "canary-K9f3xQ7mZ2vL8pR4tW6yB1nD5hJ0gS"
IN_URL = "canary-U4b8cN2kX6qT0wE9rY5uI1oP7aM3dF"
IN_ENVIRONMENT = "canary-E7h1jV5zC9sG3lK6fD0xB4nQ8mW2tR"
IN_CONFIG = "canary-C2w6eR0tY4uI8oP1aS5dF9gH3jK7lZ"
CANARIES = [KEY, IN_URL, IN_ENVIRONMENT, IN_CONFIG]
ATTACKS_ON_A_TERMINAL = [b"\x1b]0;", b"\x1b]52", b"\x1b[31mred", b"\x1b[2J\x1b]", "\x9b".encode(), "\u202e".encode(), b"\x1b[31m.jsonl"]


@dataclass(frozen=True)
class Run:
    """A finished run and everything that it said."""

    folder: Path
    config: Path
    ray_folder: Path
    refused: tuple[int, bytes]
    finished: tuple[int, bytes]
    metrics: bytes


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: Ray makes sockets in it
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _scraping(ray_folder: Path, pieces: list[bytes]) -> Iterator[None]:
    """What the metrics endpoints of a Ray say while it is up."""
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(1.0):
            for listing in ray_folder.glob("ray/session_2*/prom_metrics_service_discovery.json"):
                with contextlib.suppress(OSError, ValueError):
                    for target in json.loads(listing.read_bytes())[0]["targets"]:
                        with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as reply:
                            pieces.append(reply.read())

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_folder: Path) -> Iterator[Run]:
    """A run that is refused with 401, and goes on through 500, 429 and 400; every refusal repeats the key."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = write_inputs(folder / "in")
    (folder / "served").mkdir()
    shutil.copy(paths[2], folder / "served" / "rows.parquet")
    variables = {"CANARY_KEY": KEY, "SOMETHING_ELSE": IN_ENVIRONMENT, "RAY_TMPDIR": str(ray_folder)}
    with hostile_endpoint(401, 500, 429, 400) as url, web_server(folder / "served") as files:
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({
            "ingest": {"sources": [
                {"name": f"src {hostile.TERMINAL}".replace("\x00", ""), "paths": paths[:2]},
                {"name": "served", "paths": [f"{files}/rows.parquet?page=1&token={IN_URL}"]},
            ]},
            "engines": {"main": {
                "kind": "openai", "model": "m", "base_url": url, "api_key_env": "CANARY_KEY", "max_in_flight": 1,
                "extra_body": {"headers": {"x-api-key": IN_CONFIG}, "password": IN_CONFIG},
            }},
            "roles": {"default": {"engine": "main"}}, "analysis": {"embedder": "hash"},
            "runtime": {"num_cpus": 2, "dashboard": True, "private": True},
        }))
        arguments = ("webr", str(config), "--run", str(folder / "run [bold] <b>{{7*7}}"))
        metrics: list[bytes] = []
        refused = on_a_terminal(*arguments, **variables)
        with _scraping(ray_folder, metrics):
            finished = on_a_terminal(*arguments, **variables)
    yield Run(folder / "run [bold] <b>{{7*7}}", config, ray_folder, refused, finished, b"".join(metrics))


def test_a_run_on_hostile_pages_with_a_hostile_model_ends_well_and_loses_nothing(run: Run) -> None:
    assert run.refused[0] == 1 and "HTTP 401" in plain(run.refused[1]) and "[redacted]" in plain(run.refused[1]), end_of(run.refused[1])
    assert run.finished[0] == 0, end_of(run.finished[1])
    manifest = assert_nothing_is_lost(run.folder)
    reasons = {f"{row['step']}/{row['reason']}" for row in rows_of(run.folder, "rejects")}
    assert {"ingest/bad_row", "ingest/bad_encoding", "ingest/payload_too_large"} <= reasons
    assert manifest["result"]["rows"] >= 9 and any(reason.endswith("/http_4xx") for reason in reasons)
    texts = [event["text"] for event in journal_of(run.folder) if "text" in event]
    for name, text in hostile.ALL.items():
        assert any(hostile.storable(text) in answer for answer in texts), f"{name} did not survive"
    assert max(map(len, texts)) > 5_000_000
    assert all(0 <= event["pt"] < 1 << 41 and 0 <= event["ct"] < 1 << 41 for event in journal_of(run.folder) if "text" in event)


def test_no_secret_is_left_anywhere(run: Run) -> None:
    assert files_with(run.folder, CANARIES) == []
    assert files_with(run.ray_folder, CANARIES) == []
    said = run.refused[1] + run.finished[1] + run.metrics
    assert not [secret for secret in CANARIES if has_secret(said, secret)]
    assert b"ray_" in run.metrics, "no metrics were read"
    shown = (run.folder / "config.yaml").read_text()
    assert shown.count("(redacted)") == 3 and "page=1&token=(redacted)" in shown and "CANARY_KEY" in shown
    assert any(row["file"].endswith("rows.parquet?page=1&token=(redacted)") for row in rows_of(run.folder, "stages/pages"))


def test_nothing_hostile_reaches_the_terminal(run: Run) -> None:
    said = [run.refused[1], run.finished[1]]
    row_ids = [row["row_id"] for row in rows_of(run.folder, "stages/pages")][:3]
    rejected = [row["row_id"] for row in rows_of(run.folder, "rejects")][:2]
    told = [on_a_terminal("trace", str(run.folder), row_id) for row_id in (*row_ids, *rejected)]
    told += [on_a_terminal("status", str(run.folder)), on_a_terminal("report", str(run.folder))]
    assert [code for code, _ in told] == [0] * len(told)
    for output in (*said, *(output for _, output in told)):
        assert not [attack for attack in ATTACKS_ON_A_TERMINAL if attack in output]
    for _, output in told:
        assert not [attack for attack in hostile.RAW_ON_A_TERMINAL if attack in output]
    assert json.loads(told[0][1])["page"]["row_id"] == row_ids[0]


class _Tags(HTMLParser):
    """Elements and attributes of a page that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "base", "form", "link", "img"):
            self.active.append(tag)
        self.active += [f"{tag} {name}" for name, value in attrs if name.startswith("on") or "javascript:" in (value or "").lower()]


def test_report_and_card_hold_hostile_texts_as_texts(run: Run) -> None:
    rewrite_report(str(run.folder))
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(page)
    assert tags.active == ["link"] and page.count("<link") == page.count('<link rel="icon" href="data:,">') == 1  # our own
    assert "{{ 7*7 }}" in page or "7*7" in page
    assert "run [bold]" not in page or "run [bold] &lt;b&gt;" in page
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "<script" not in card and "](javascript:" not in card
    front = yaml.safe_load(card.split("---")[1])
    assert isinstance(front, dict)


def test_exports_of_hostile_rows_are_valid_and_give_the_rows_back(run: Run, tmp_path: Path) -> None:
    wanted = sorted(
        [(turn["role"], turn["content"]) for turn in row["messages"]] for row in rows_of(run.folder)
    )
    for name in FORMATS:
        out = tmp_path / name / ("folder" if name == "openrlhf" else "rows.jsonl")
        assert export(run.folder, name, out) == len(wanted)
        back = sorted([(turn.role, turn.content) for turn in conversation.messages] for conversation in read_export(out, name))
        assert len(back) == len(wanted)
        if name != "alpaca":  # puts the instruction first
            assert back == wanted
    assert {path.name for path in tmp_path.iterdir()} == set(FORMATS)


def test_a_private_run_folder_is_closed_to_others(run: Run) -> None:
    assert run.folder.stat().st_mode & 0o777 == 0o700


def test_dedup_of_hostile_rows_ends_well_and_hands_them_on_untouched(tmp_path: Path, ray_folder: Path) -> None:
    write_inputs(tmp_path / "in")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({
        "input": {"paths": [str(tmp_path / "in" / NASTY_NAME), str(tmp_path / "in" / "rows.parquet")]},
        "num_planted": 0, "runtime": {"num_cpus": 2},
    }))
    run_dir = tmp_path / "run [/nothing] \x1b[31m"
    code, output = on_a_terminal("dedup", str(config), "--run", str(run_dir), RAY_TMPDIR=str(ray_folder))
    assert code == 0, end_of(output)
    assert not [attack for attack in ATTACKS_ON_A_TERMINAL if attack in output]
    lines = {line for path in (run_dir / "parts").glob("*.jsonl") for line in path.read_bytes().splitlines()}
    assert lines <= set((tmp_path / "in" / NASTY_NAME).read_bytes().split(b"\n"))
    texts = [json.loads(line)["text"] for line in lines]
    for name, text in hostile.ALL.items():
        assert name == "surrogates" or any(text in kept for kept in texts), f"{name} did not survive"
    manifest = json.loads((run_dir / "manifest.json").read_bytes())
    for stage in manifest["funnel"]:
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values())
    assert sum(manifest["funnel"][0]["rejected"].values()) >= 8
    for command in ("status", "report"):
        code, output = on_a_terminal(command, str(run_dir))
        assert code == 0 and not [attack for attack in hostile.RAW_ON_A_TERMINAL if attack in output]


def test_a_hostile_config_is_refused_in_one_line_that_tells_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    cases = {
        "!!python/object/apply:os.system ['touch pwned']": "not valid YAML",
        '{input: {paths: ["a\\0b"]}}': "NUL",
        '{input: {paths: ["\\ud800"]}}': "surrogate",
        '{run_dir: "ftp://me:' + IN_CONFIG + '@host/x", input: {paths: [a]}}': "password",
        '{input: {paths: ["s3://me:' + IN_CONFIG + '@bucket/x"]}}': "password",
    }
    for text, why in cases.items():
        config.write_text(text)
        code, output = on_a_terminal("dedup", str(config))
        assert code == 2 and why in plain(output) and b"Traceback" not in output, end_of(output)
        assert not has_secret(output, IN_CONFIG)
    config.write_text("{input: {paths: [a]}}")
    for override in (f"engine.api_key={IN_CONFIG}", f"input.password=[{IN_CONFIG}", f"run_dir=ftp://me:{IN_CONFIG}@host/x"):
        code, output = on_a_terminal("dedup", str(config), "--set", override)
        assert code == 2 and b"Traceback" not in output, end_of(output)
        assert not has_secret(output, IN_CONFIG)
    code, output = on_a_terminal("dedup", str(config), "--set", "seed=!!python/object/apply:os.system ['touch pwned']")
    assert code == 2 and not (Path.cwd() / "pwned").exists()
    code, output = on_a_terminal("dedup", str(config), "--run", os.fsdecode(b"\xff\x1b[31m"))
    assert code == 2 and b"Traceback" not in output and b"\x1b[31m" not in output, end_of(output)
    code, output = on_a_terminal("status", os.fsdecode(b"\xff\x1b[31m"))
    assert code == 2 and b"Traceback" not in output and b"\x1b[31m" not in output, end_of(output)


