"""Evaluation end to end on a real local Ray: answers, verdicts, scores, resume, shared verdicts, comparisons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignray.errors import ConfigError, RecordError, ResumeError
from alignray.io.benchmark_files import read_rows
from alignray.io.fetch import FetchConfig
from alignray.pipelines.compare_runs import compare_folders
from alignray.pipelines.evaluate import Outcome, evaluate
from alignray.pipelines.evaluate_config import EvaluateJobConfig, FollowBenchJobConfig
from alignray.pipelines.inspect_run import status_of, trace
from tests.ray.conftest import ROOT
from tests.ray.processes import finish, kill_tree, start, wait_for
from tests.ray.run_files import journal_of, rows_of
from tests.ray.test_kill_and_resume import completions, endpoint

SAMPLES = ROOT / "samples" / "benchmarks"
FOLLOWBENCH = {"kind": "followbench", **{name: str(SAMPLES / f"followbench_{name}.json") for name in ("style", "format", "example")}}
IFEVAL = {"kind": "ifeval", "prompts": str(SAMPLES / "ifeval.jsonl")}
NUM_FOLLOWBENCH, NUM_JUDGED, NUM_IFEVAL = 20, 15, 6
Evaluate = Callable[..., Outcome]


@pytest.fixture
def run_evaluate(local_ray: None) -> Evaluate:
    def run(run_dir: Path, *, new_run: bool = False, **changes: Any) -> Outcome:
        data: dict[str, Any] = {
            "run_dir": str(run_dir), "benchmarks": [IFEVAL, FOLLOWBENCH], "candidates": {"fake": {"engine": "fake", "max_new_tokens": 200}},
            "engines": {"fake": {"kind": "scripted"}, "other": {"kind": "scripted", "seed": 1}},
            "roles": {"judge": {"engine": "fake", "max_new_tokens": 200}},
        }
        return evaluate(EvaluateJobConfig.model_validate({**data, **changes}), new_run=new_run, console=Console(quiet=True))

    return run


def assert_nothing_is_lost(run_dir: Path) -> dict[str, Any]:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    read, answered = manifest["funnel"]
    for stage in (read, answered):
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage
    assert answered["in"] == read["kept"] and answered["kept"] == len(rows_of(run_dir))
    written = Counter(f"{row['step']}/{row['reason']}" for row in rows_of(run_dir, "rejects"))
    assert written == Counter({name: count for stage in (read, answered) for name, count in stage["rejected"].items() if "/" in name})
    keys = Counter(event["key"] for event in journal_of(run_dir) if "key" in event)
    assert not [key for key, times in keys.items() if times > 1], "a call was asked twice"
    return manifest


def value(outcome: Outcome, candidate: str, benchmark: str, metric: str) -> float:
    [found] = [figure for figure in outcome.figures[candidate][benchmark] if figure["metric"] == metric and not figure["category"]]
    return float(found["value"])


def test_two_candidates_are_answered_judged_scored_and_compared(run_evaluate: Evaluate, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = run_evaluate(run, candidates={"one": {"engine": "fake"}, "two": {"engine": "other"}})
    assert (outcome.status, outcome.rows, outcome.rejected) == ("done", 2 * (NUM_FOLLOWBENCH + NUM_IFEVAL), {})
    assert_nothing_is_lost(run)
    steps = {name: step["calls"] for name, step in outcome.usage["steps"].items()}
    assert steps == {
        "followbench/answer": 2 * NUM_FOLLOWBENCH, "followbench/judge": 2 * NUM_JUDGED, "ifeval/answer": 2 * NUM_IFEVAL,
    }, "what a rule decides is not judged, and the judge's schema leaves nothing unreadable"
    for name in ("one", "two"):
        for figures in outcome.figures[name].values():
            assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in figures if figure["low"] is not None)
    rows = [row for row in rows_of(run) if row["candidate"] == "one" and row["benchmark"] == "ifeval"]
    strict = [score["value"] for row in rows for score in row["scores"] if score["metric"] == "prompt_strict"]
    assert value(outcome, "one", "ifeval", "prompt_strict") == pytest.approx(sum(strict) / NUM_IFEVAL)
    assert {row["verdict"] for row in outcome.comparisons} == {"not separable"}
    report = (run / "report.html").read_text()
    assert "not separable" in report and "followbench/judge" in report and "prompt_strict" in report
    assert trace(str(run), rows[0]["row_id"])["row"]["candidate"] == "one" and status_of(str(run))["status"] == "done"
    again = run_evaluate(run, candidates={"one": {"engine": "fake"}, "two": {"engine": "other"}})
    assert again.figures == outcome.figures and again.usage["calls"] == outcome.usage["calls"]
    with pytest.raises(ResumeError, match="candidates"):
        run_evaluate(run)


def test_a_verdict_is_paid_for_once_by_all_runs_that_share_a_store(run_evaluate: Evaluate, tmp_path: Path) -> None:
    store = str(tmp_path / "verdicts")
    first = run_evaluate(tmp_path / "first", benchmarks=[FOLLOWBENCH], verdicts=store)
    second = run_evaluate(tmp_path / "second", benchmarks=[FOLLOWBENCH], verdicts=store)
    judged = [outcome.usage["steps"]["followbench/judge"] for outcome in (first, second)]
    assert [(step["calls"], step["shared"]) for step in judged] == [(NUM_JUDGED, 0), (0, NUM_JUDGED)]
    assert second.figures == first.figures
    other = run_evaluate(tmp_path / "third", benchmarks=[FOLLOWBENCH], verdicts=store, roles={"judge": {"engine": "other"}})
    assert other.usage["steps"]["followbench/judge"]["calls"] == NUM_JUDGED, "another judge's verdicts are its own"
    found = compare_folders(str(tmp_path / "first"), str(tmp_path / "second"))
    assert found and {row["difference"] for row in found} == {0.0}
    with pytest.raises(RecordError, match="no run here"):
        compare_folders(str(tmp_path / "first"), str(tmp_path / "nothing"))


def test_a_temperature_sweep_is_one_candidate_each(run_evaluate: Evaluate, tmp_path: Path) -> None:
    outcome = run_evaluate(tmp_path / "run", benchmarks=[IFEVAL], temperatures=[0, 0.7])
    assert set(outcome.figures) == {"fake@0", "fake@0.7"}
    assert len({event["key"] for event in completions(tmp_path / "run")}) == 2 * NUM_IFEVAL


def test_recorded_answers_are_scored_as_they_were_published(run_evaluate: Evaluate, tmp_path: Path, data_dir: Path) -> None:
    recorded = data_dir / "ifeval" / "gpt4_responses_with_verdicts.jsonl.gz"
    outcome = run_evaluate(
        tmp_path / "run", benchmarks=[{"kind": "ifeval", "prompts": str(data_dir / "ifeval" / "input_data.jsonl")}],
        candidates={"gpt-4": {"answers": str(recorded)}}, roles={},
    )
    rows = read_rows(str(recorded), FetchConfig())
    assert outcome.rejected == {"ifeval/read/no_recorded_answer": 541 - len(rows)}
    assert any("no_recorded_answer" in note for note in outcome.notes)
    for name in ("strict", "loose"):
        official = sum(row[name]["follow_all"] for row in rows) / len(rows)
        assert value(outcome, "gpt-4", "ifeval", f"prompt_{name}") == pytest.approx(official, abs=5.01 / len(rows)), "five items differ"
    assert outcome.usage["calls"] == 0


def test_a_driver_killed_while_judging_goes_on(local_ray: None, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with endpoint("--latency", "0.2") as mock:
        settings: dict[str, Any] = {
            "benchmarks": [FOLLOWBENCH], "candidates": {"mock": {"engine": "mock", "max_new_tokens": 100}},
            "engines": {"mock": {"kind": "openai", "model": "mock", "base_url": mock.url, "api_key_env": None, "max_in_flight": 4}},
            "roles": {"judge": {"engine": "mock", "max_new_tokens": 200}}, "runtime": {"num_cpus": 2, "block_rows": 4, "part_rows": 4},
        }
        config.write_text(json.dumps(settings))
        run, whole = tmp_path / "run", tmp_path / "whole"
        process = start(config, run, method="followbench")
        wait_for(lambda: sum(event["step"] == "followbench/judge" for event in completions(run)) >= 4, process)
        kill_tree(process)
        journaled = {event["key"] for event in completions(run)}
        finish(start(config, run, method="followbench"))
        served = mock.served()
        undisturbed = FollowBenchJobConfig.model_validate({**settings, "run_dir": str(whole)})
        evaluate(undisturbed, method="followbench", console=Console(quiet=True))
    assert rows_of(run) == rows_of(whole)
    assert_nothing_is_lost(run)
    keys = [event["key"] for event in completions(run)]
    assert len(keys) == len(set(keys)) == NUM_FOLLOWBENCH + NUM_JUDGED and journaled <= set(keys)
    assert served <= len(keys) + 4


def test_the_budget_parks_the_run_and_an_endpoint_that_is_down_stops_it(run_evaluate: Evaluate, tmp_path: Path) -> None:
    run = tmp_path / "run"
    parked = run_evaluate(run, budget={"tokens": 9_000})
    assert parked.status == "stopped_at_budget" and parked.rows < NUM_FOLLOWBENCH + NUM_IFEVAL
    assert parked.usage["tokens"] <= 9_000
    done = run_evaluate(run)
    assert done.status == "done" and done.rows == NUM_FOLLOWBENCH + NUM_IFEVAL
    assert_nothing_is_lost(run)
    down = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None, "down_after_s": 0.5}
    stopped = run_evaluate(tmp_path / "down", engines={"fake": down})
    assert stopped.status == "failed" and stopped.rows == 0 and "127.0.0.1:9" in stopped.message
    assert run_evaluate(tmp_path / "down", engines={"fake": down | {"base_url": "http://127.0.0.1:10/v1"}}).status == "failed"


def test_bad_configs_and_files_say_what_is_wrong(run_evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="benchmarks holds 'ifeval' twice"):
        run_evaluate(tmp_path / "a", benchmarks=[IFEVAL, IFEVAL])
    with pytest.raises(ConfigError, match='roles has no "judge"'):
        run_evaluate(tmp_path / "b", roles={})
    with pytest.raises(ValueError, match="either engine"):
        run_evaluate(tmp_path / "c", candidates={"x": {}})
    with pytest.raises(RecordError, match="no-such-file"):
        run_evaluate(tmp_path / "d", benchmarks=[{"kind": "ifeval", "prompts": str(tmp_path / "no-such-file.jsonl")}])
    broken = tmp_path / "answers.jsonl"
    broken.write_text('{"key": "s1"}\n')
    with pytest.raises(RecordError, match=r"candidates\.x\.answers: row 0 has no answer"):
        run_evaluate(tmp_path / "e", candidates={"x": {"answers": str(broken)}})
    assert not any((tmp_path / name).exists() for name in "abcde"), "nothing is begun"
