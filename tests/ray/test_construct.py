"""Growing a benchmark end to end on a real local Ray: levels, rejects, review, resume, budget, and FollowBench on what came out."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignray.errors import ConfigError, RecordError, ResumeError
from alignray.pipelines.construct import Outcome, construct
from alignray.pipelines.construct_config import ConstructJobConfig
from alignray.pipelines.evaluate import evaluate
from alignray.pipelines.evaluate_config import EvaluateJobConfig
from alignray.pipelines.inspect_run import status_of, trace
from alignray.report import card, html
from alignray.report.construct_card import construct_card
from alignray.report.construct_page import construct_page
from tests.ray.conftest import ROOT
from tests.ray.run_files import journal_of, rows_of

SAMPLE = str(ROOT / "samples" / "benchmarks" / "instructions.jsonl")
NUM_JUDGED = 11
STUBBORN = "Praise a rainy day."
"""The endpoint never adds anything to this one; to others it does, at level 2 only when asked again."""
Construct = Callable[..., Outcome]


class Generator(BaseHTTPRequestHandler):
    """A model that adds one constraint to the instruction it is shown."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        given = question.partition("[Instruction]\n")[2].partition("\n\n[End of the instruction]")[0]
        level = given.count("Mind ") + 1
        text = json.dumps({"instruction": f"{given} Mind point {level}.", "added_constraint": f"mind point {level}"})
        if given.startswith(STUBBORN):
            text = json.dumps({"instruction": given, "added_constraint": "nothing"})
        elif level == 2 and last == question:
            text = "Here you are!"
        usage = {"prompt_tokens": 100, "completion_tokens": 100}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = json.dumps({"id": "1", "object": "chat.completion", "model": "mock", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Any]]:
    """Engines of a config with the model above."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Generator) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"writer": {
            "kind": "openai", "model": "mock", "base_url": f"http://127.0.0.1:{server.server_address[1]}/v1", "api_key_env": None,
            "max_in_flight": 4, "price": {"prompt": 1.0, "completion": 1.0},
        }}
        server.shutdown()


@pytest.fixture(scope="module")
def run_construct(local_ray: None, engines: dict[str, Any]) -> Iterator[Construct]:
    def run(run_dir: Path, *, new_run: bool = False, **changes: Any) -> Outcome:
        data: dict[str, Any] = {
            "run_dir": str(run_dir), "input": {"paths": [SAMPLE]}, "engines": engines,
            "roles": {"generator": {"engine": "writer", "max_new_tokens": 200}},
        }
        return construct(ConstructJobConfig.model_validate({**data, **changes}), new_run=new_run, console=Console(quiet=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(card.CARDS, "construct", construct_card)
        patch.setitem(html.PAGES, "construct", ("construct.html", construct_page))
        yield run


@dataclass(frozen=True)
class Made:
    """A run and what it held when it was done."""

    run: Path
    initial: Path
    outcome: Outcome
    rows: list[dict[str, Any]]
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def made(run_construct: Construct, tmp_path_factory: pytest.TempPathFactory) -> Made:
    run, initial = tmp_path_factory.mktemp("construct") / "run", tmp_path_factory.mktemp("input") / "initial.jsonl"
    twice = json.dumps({"instruction": "Tell me all about volcanoes.", "category": "style"})
    initial.write_text(Path(SAMPLE).read_text() + twice + "\n" + json.dumps({"instruction": "x"}))
    outcome = run_construct(run, input={"paths": [str(initial)]})
    return Made(run, initial, outcome, rows_of(run), files_of(run))


def files_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("benchmark_*.json")}


def assert_nothing_is_lost(run_dir: Path) -> dict[str, Any]:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    read, grown = manifest["funnel"]
    for stage in (read, grown):
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage
    groups = {(row["category"], row["example_id"]) for row in rows_of(run_dir)}
    assert grown["in"] == read["kept"] and grown["kept"] == len(groups)
    written = Counter(f"{row['step']}/{row['reason']}" for row in rows_of(run_dir, "rejects"))
    assert written == Counter({name: count for stage in (read, grown) for name, count in stage["rejected"].items() if "/" in name})
    keys = Counter(event["key"] for event in journal_of(run_dir) if "key" in event)
    assert not [key for key, times in keys.items() if times > 1], "a call was asked twice"
    return manifest


def test_a_benchmark_grows_from_instructions_unlike_each_other(made: Made) -> None:
    run, outcome, asked = made.run, made.outcome, NUM_JUDGED - 1
    assert (outcome.status, outcome.rejected) == ("done", {
        "followbench_construct/novelty/near_duplicate": 1, "followbench_construct/read/bad_category": 1,
        "followbench_construct/level_1/unchanged": 1,
    })
    assert_nothing_is_lost(run)
    assert {name.removeprefix("followbench_construct/"): step["calls"] for name, step in outcome.usage["steps"].items()} == {
        "level_1": NUM_JUDGED, "level_1_retry_1": 1, "level_1_retry_2": 1, "level_2": asked, "level_2_retry_1": asked,
        "level_3": asked, "level_4": asked, "level_5": asked,
    }
    assert outcome.rows == 6 * asked + 5 and {row["review"] for row in made.rows} == {"unreviewed"}
    assert set(outcome.benchmarks) == {"content", "situation", "style", "format", "example", "mixed"}
    assert "no item was reviewed" in outcome.notes[0]
    style = json.loads(made.files["benchmark_style.json"])
    assert [row["level"] for row in style] == [0, 1, 2, 3, 4, 5] and style[5]["added_constraint"] == "mind point 5"
    row_id = next(row["row_id"] for row in rows_of(run, "rejects") if row["reason"] == "unchanged")
    assert len(trace(str(run), row_id)["calls"]) == 3 and status_of(str(run))["answered"].startswith("11 kept, 1 rejected")


def test_the_budget_parks_a_run_and_a_higher_one_goes_on_to_the_same_items(
    run_construct: Construct, made: Made, tmp_path: Path,
) -> None:
    paths = {"paths": [str(made.initial)]}
    parked = run_construct(tmp_path / "run", input=paths, budget={"usd": 0.006})
    assert parked.status == "stopped_at_budget" and parked.usage["usd"] <= 0.006
    assert assert_nothing_is_lost(tmp_path / "run")["funnel"][1]["rejected"]["not_asked_yet"] > 0
    done = run_construct(tmp_path / "run", input=paths, budget={"usd": 1}, runtime={"block_rows": 2, "part_rows": 3})
    assert done.status == "done" and done.usage["calls"] == made.outcome.usage["calls"]
    assert_nothing_is_lost(tmp_path / "run")
    assert rows_of(tmp_path / "run") == made.rows and files_of(tmp_path / "run") == made.files
    with pytest.raises(ResumeError, match="min_kept"):
        run_construct(tmp_path / "run", input=paths, grow={"min_kept": 0.5})


def test_a_review_decides_what_followbench_measures_with(run_construct: Construct, made: Made, tmp_path: Path) -> None:
    run, review = made.run, tmp_path / "review.jsonl"
    report = (run / "report.html").read_text()
    assert "level_2_retry_1" in report and "mind point 5" in report and "Nobody has reviewed" in (run / "README.md").read_text()
    decided = [json.loads(line) for line in (run / "to_review.jsonl").read_text().splitlines()]
    for row in decided:
        row["review"] = "rejected" if (row["category"], row["level"]) == ("style", 4) else "accepted"
    review.write_text("\n".join(map(json.dumps, (row for row in decided if row["category"] != "format"))))
    again = run_construct(run, input={"paths": [str(made.initial)]}, review=str(review))
    assert again.usage["calls"] == made.outcome.usage["calls"], "a review asks no model"
    assert "format" not in again.benchmarks and not (run / "benchmark_format.json").exists()
    assert [row["level"] for row in json.loads((run / "benchmark_style.json").read_text())] == [0, 1, 2, 3]
    assert (again.construction["style"]["rejected"], again.construction["format"]["unreviewed"]) == (1, 10)
    assert again.notes == ["12 items are not in the files: not accepted, or above a level that is not"]
    assert again.notes[0] in (run / "report.html").read_text() and "Nobody has reviewed" not in (run / "README.md").read_text()
    measured = evaluate(EvaluateJobConfig.model_validate({
        "run_dir": str(tmp_path / "measured"), "benchmarks": [{"kind": "followbench", **again.benchmarks}],
        "candidates": {"fake": {"engine": "fake"}}, "engines": {"fake": {"kind": "scripted"}}, "roles": {"judge": {"engine": "fake"}},
    }), console=Console(quiet=True))
    assert (measured.status, measured.rejected) == ("done", {})
    assert measured.rows == sum(facts["written"] for facts in again.construction.values()) == 5 * 11 - 12


def test_examples_alone_need_no_engine_and_what_cannot_grow_is_an_error(run_construct: Construct, tmp_path: Path) -> None:
    lines = Path(SAMPLE).read_text().splitlines()
    path = tmp_path / "rows.jsonl"
    path.write_text(lines[-1])
    outcome = run_construct(tmp_path / "run", input={"paths": [str(path)]}, roles={})
    assert (outcome.status, outcome.rows, outcome.usage["calls"], set(outcome.benchmarks)) == ("done", 5, 0, {"example"})
    with pytest.raises(ConfigError, match='no "generator"'):
        run_construct(tmp_path / "none", roles={})
    path.write_text('{"instruction": "x"}')
    with pytest.raises(RecordError, match="no instruction is left to grow; rejected: followbench_construct/read/bad_category 1"):
        run_construct(tmp_path / "bad", input={"paths": [str(path)]})
