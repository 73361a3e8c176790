"""Bridging end to end on a real local Ray with the scripted editor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignray.errors import RecordError, ResumeError
from alignray.io.fetch import FetchConfig
from alignray.io.preferences import read_pairs
from alignray.io.sources import IngestConfig, SourceConfig, list_splits
from alignray.pipelines.bridge import Outcome, bridge
from alignray.pipelines.bridge_config import BridgeJobConfig
from alignray.pipelines.inspect_run import status_of, trace
from alignray.schema import PreferencePair
from tests.ray.conftest import ROOT
from tests.ray.processes import finish, kill_tree, start, wait_for
from tests.ray.run_files import journal_of, rows_of
from tests.ray.test_kill_and_resume import completions, endpoint

QUESTIONS = str(ROOT / "samples" / "questions.jsonl")
NUM_PAIRS, NUM_GOOD = 24, 4
Bridge = Callable[..., Outcome]


@pytest.fixture
def run_bridge(local_ray: None) -> Bridge:
    def run(run_dir: Path, *, new_run: bool = False, **changes: Any) -> Outcome:
        data: dict[str, Any] = {
            "run_dir": str(run_dir), "input": {"paths": [QUESTIONS]}, "bridge": {"task": "qa"},
            "engines": {"fake": {"kind": "scripted"}}, "roles": {"default": {"engine": "fake", "max_new_tokens": 300}},
        }
        return bridge(BridgeJobConfig.model_validate({**data, **changes}), new_run=new_run, console=Console(quiet=True))

    return run


def assert_nothing_is_lost(run_dir: Path) -> dict[str, Any]:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    for stage in manifest["funnel"]:
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage
    for before, after in zip(manifest["funnel"], manifest["funnel"][1:], strict=False):
        assert after["in"] == before["kept"], (before, after)
    written = Counter(f"{row['step']}/{row['reason']}" for row in rows_of(run_dir, "rejects"))
    told = Counter({name: count for stage in manifest["funnel"] for name, count in stage["rejected"].items() if "/" in name})
    assert written == told
    assert manifest["funnel"][-1]["kept"] == len(rows_of(run_dir))
    keys = Counter(event["key"] for event in journal_of(run_dir) if "key" in event)
    assert not [key for key, times in keys.items() if times > 1], "a call was asked twice"
    return manifest


def test_pairs_are_bridged_and_good_ones_filtered(run_bridge: Bridge, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = run_bridge(run)
    assert (outcome.status, outcome.rows, outcome.rejected) == ("done", NUM_PAIRS - NUM_GOOD, {"bmc/edit/already_good": NUM_GOOD})
    assert outcome.bridging["good_rate"] == NUM_GOOD / NUM_PAIRS and outcome.bridging["edited"] == NUM_PAIRS
    manifest = assert_nothing_is_lost(run)
    assert manifest["bridging"] == outcome.bridging and manifest["plan"]["pages"] == NUM_PAIRS
    originals = {row["prompt"]: row for row in map(json.loads, Path(QUESTIONS).read_text().splitlines())}
    for row in rows_of(run):
        given = originals[row["prompt"][0]["content"]]
        assert (row["original_chosen"], row["original_rejected"]) == (given["chosen"], given["rejected"])
        assert row["rejected"] == given["rejected"]
        assert row["chosen"].split("\n")[-1] == given["chosen"].split("\n")[-1] and 0 < row["edit_rate"] < 0.5
    assert outcome.bridging["mean_edit_rate"] < outcome.bridging["mean_original_edit_rate"]
    report = (run / "report.html").read_text()
    assert "Modification proportion" in report and '<mark class="added">' in report and "16.7%" in report
    assert "bmc/edit" in report and "already_good" in report
    card = (run / "README.md").read_text()
    assert "4 of 24 pairs (16.7%) were filtered" in card and "`original_rejected`" in card


def test_the_rows_are_pairs_to_train_on_and_the_originals_a_baseline(run_bridge: Bridge, tmp_path: Path) -> None:
    run_bridge(tmp_path / "run")
    parts = SourceConfig(name="parts", paths=(str(tmp_path / "run" / "parts"),))
    pairs = [pair for split in list_splits(IngestConfig(sources=(parts,))) for pair in read_pairs(split, FetchConfig(), Counter())]
    rows = {row["row_id"]: row for row in rows_of(tmp_path / "run")}
    assert len(pairs) == len(rows)
    assert all(isinstance(pair, PreferencePair) and pair.chosen == rows[pair.row_id]["chosen"] for pair in pairs)
    baseline = run_bridge(
        tmp_path / "plain", input={"paths": [str(tmp_path / "run" / "parts")], "originals": True},
        bridge={"task": "qa", "variant": "plain"}, engines={}, roles={},
    )
    assert baseline.rows == len(rows) and baseline.usage["calls"] == 0
    for row in rows_of(tmp_path / "plain"):
        assert (row["chosen"], row["rejected"]) == (rows[row["row_id"]]["original_chosen"], rows[row["row_id"]]["original_rejected"])
    assert_nothing_is_lost(tmp_path / "plain")


def test_questions_are_answered_by_the_student_first(run_bridge: Bridge, tmp_path: Path) -> None:
    outcome = run_bridge(tmp_path / "run", input={"paths": [QUESTIONS], "kind": "questions"})
    assert set(outcome.usage["steps"]) == {"bmc/answer", "bmc/edit"} and outcome.rows == NUM_PAIRS
    rows = rows_of(tmp_path / "run")
    assert all(row["rejected"] == row["original_rejected"] and row["rejected"] not in Path(QUESTIONS).read_text() for row in rows)
    row = rows[0]
    story = trace(str(tmp_path / "run"), row["row_id"])
    assert [call["step"] for call in story["calls"]] == ["bmc/answer", "bmc/edit"]
    assert story["pair"]["rejected"] == "" and story["draft"]["rejected"] == row["rejected"] and story["row"]["chosen"] == row["chosen"]
    assert status_of(str(tmp_path / "run"))["pairs"].startswith("24 kept")


@pytest.mark.parametrize("variant", ["no_reference", "degrade", "plain"])
def test_each_row_of_table_6_3_is_one_setting(run_bridge: Bridge, tmp_path: Path, variant: str) -> None:
    outcome = run_bridge(tmp_path / "run", bridge={"task": "instruction", "variant": variant})
    assert outcome.rows + sum(outcome.rejected.values()) == NUM_PAIRS and outcome.rows > NUM_PAIRS - 4
    assert {row["variant"] for row in rows_of(tmp_path / "run")} == {variant}
    assert_nothing_is_lost(tmp_path / "run")


def test_one_block_and_seven_blocks_give_the_same_rows(run_bridge: Bridge, tmp_path: Path) -> None:
    run_bridge(tmp_path / "one", runtime={"block_rows": 1000, "part_rows": 1000})
    run_bridge(tmp_path / "seven", runtime={"block_rows": 4, "part_rows": 3, "max_actors": 2, "cpus_per_actor": 0.25})
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "seven")
    assert rows_of(tmp_path / "one", "rejects") == rows_of(tmp_path / "seven", "rejects")


def test_a_run_can_be_extended_and_another_config_is_refused(run_bridge: Bridge, tmp_path: Path) -> None:
    run_bridge(tmp_path / "run", max_pairs=6)
    first = {row["row_id"] for row in rows_of(tmp_path / "run")}
    assert len(journal_of(tmp_path / "run")) == 6
    run_bridge(tmp_path / "run", max_pairs=NUM_PAIRS)
    assert len(journal_of(tmp_path / "run")) == NUM_PAIRS
    assert first < {row["row_id"] for row in rows_of(tmp_path / "run")}
    assert_nothing_is_lost(tmp_path / "run")
    run_bridge(tmp_path / "run", max_pairs=6)  # what was paid for stays
    assert_nothing_is_lost(tmp_path / "run")
    with pytest.raises(ResumeError, match=r"config\.bridge\.variant: 'bridge' -> 'degrade'"):
        run_bridge(tmp_path / "run", bridge={"task": "qa", "variant": "degrade"})


def test_bad_rows_are_counted_and_a_file_without_pairs_is_an_error(run_bridge: Bridge, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = Path(QUESTIONS).read_text().splitlines()[:3]
    bad = [{"prompt": "a", "chosen": "b"}, {"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "", "chosen": "b", "rejected": "c"}]
    path.write_text("\n".join([*good, *map(json.dumps, bad), good[0], "{"]))
    (tmp_path / "again.jsonl").write_text(good[1])
    outcome = run_bridge(tmp_path / "run", input={"paths": [str(path), str(tmp_path / "again.jsonl")]})
    reasons = ("one_sided", "identical_pair", "empty_prompt", "duplicate_record", "bad_row")
    assert outcome.rejected == {f"ingest/{reason}": 1 for reason in reasons}
    assert outcome.funnel[1]["rejected"] == {"duplicate_pair": 1} and outcome.rows == 3
    assert_nothing_is_lost(tmp_path / "run")
    path.write_text('{"text": "no pair"}')
    with pytest.raises(RecordError, match=r"no row has chosen and rejected.*there are: text"):
        run_bridge(tmp_path / "none", input={"paths": [str(path)]})


def test_the_budget_parks_the_run_and_a_higher_one_goes_on(run_bridge: Bridge, tmp_path: Path) -> None:
    with endpoint() as mock:
        engines = {"fake": {
            "kind": "openai", "model": "mock", "base_url": mock.url, "api_key_env": None, "max_in_flight": 2,
            "price": {"prompt": 1.0, "completion": 1.0},
        }}
        parked = run_bridge(tmp_path / "run", engines=engines, budget={"usd": 0.004}, bridge={"task": "instruction"})
        assert parked.status == "stopped_at_budget" and parked.usage["usd"] <= 0.004 and parked.rows < NUM_PAIRS
        assert assert_nothing_is_lost(tmp_path / "run")["funnel"][-1]["rejected"]["not_asked_yet"] > 0
        done = run_bridge(tmp_path / "run", engines=engines, budget={"usd": 1}, bridge={"task": "instruction"})
    assert done.status == "done" and done.rows + sum(done.rejected.values()) == NUM_PAIRS
    assert_nothing_is_lost(tmp_path / "run")


CONFIG = """
input: {{paths: ["{questions}"]}}
bridge: {{task: instruction}}
engines: {{mock: {{kind: openai, model: mock, base_url: "{url}", api_key_env: null, max_in_flight: 2}}}}
roles: {{editor: {{engine: mock, max_new_tokens: 100}}}}
runtime: {{num_cpus: 2, block_rows: 6, part_rows: 4}}
"""


@pytest.mark.slow  # test_evaluate.py kills the same walk
def test_a_killed_driver_resumes_with_the_rows_of_an_undisturbed_run(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with endpoint("--latency", "0.2") as mock:
        path.write_text(CONFIG.format(questions=QUESTIONS, url=mock.url))
        process = start(path, tmp_path / "run", method="bridge")
        wait_for(lambda: len(completions(tmp_path / "run")) >= 7, process)
        kill_tree(process)
        journaled = {event["key"] for event in completions(tmp_path / "run")}
        assert "(resumed)" in finish(start(path, tmp_path / "run", method="bridge"))
        finish(start(path, tmp_path / "undisturbed", method="bridge"))
    assert journaled <= {event["key"] for event in completions(tmp_path / "run")}
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "undisturbed")
    assert rows_of(tmp_path / "run", "rejects") == rows_of(tmp_path / "undisturbed", "rejects")
    assert_nothing_is_lost(tmp_path / "run")
