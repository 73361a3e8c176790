"""Edited models measured end to end on a tiny random model: who is asked what, weights that learn, a kill in the middle."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from alignray.methods.lte.render import render_prompt
from alignray.pipelines.edit_eval import Outcome, evaluate_edits, table_of_figures
from alignray.pipelines.edit_eval_config import EditEvalJobConfig
from alignray.train.tiny import write_tiny_model
from tests.ray.conftest import ROOT
from tests.ray.processes import finish, kill_tree, start, wait_for
from tests.ray.run_files import rows_of

RECORDS = 4
ITEMS = 3  # of each of the sample records: the edit, its rephrased form, one of locality
TIMES = ("edit_seconds", "answer_seconds")


def settings(run_dir: Path, tiny: Path, **changes: Any) -> dict[str, Any]:
    model = {"path": str(tiny), "dtype": "float32"}
    return {
        "run_dir": str(run_dir), "embedder": "hash",
        "input": {"edits": [{"form": "zsre_mend", "paths": [str(ROOT / "samples" / "edits.jsonl")]}], "max_records": RECORDS},
        "editing": {"batch": [2], "stream": [RECORDS]}, "write": {"max_new_tokens": 6}, "lte": {"top_k": 2},
        "methods": {
            "bare": {"kind": "bare", "model": model}, "lte": {"kind": "lte", "model": model}, "ice": {"kind": "ice", "model": model},
            "ft": {"kind": "fine_tune", "model": model, "fine_tune": {"weights": "all", "learning_rate": 3e-3, "steps": 40}},
        },
        **changes,
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", hidden_size=32)


@pytest.fixture(scope="module")
def measured(local_ray: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    run = tmp_path_factory.mktemp("edits") / "run"
    return run, evaluate_edits(EditEvalJobConfig.model_validate(settings(run, tiny)), console=Console(quiet=True))


def test_every_question_is_asked_of_every_method_in_every_setting(measured: tuple[Path, Outcome]) -> None:
    run, outcome = measured
    rows = rows_of(run)
    assert outcome.status == "done" and outcome.rows == len(rows) == len({row["row_id"] for row in rows})
    asked = Counter((row["method"], row["mode"], row["when"]) for row in rows)
    per_setting = RECORDS * ITEMS
    assert asked == {("bare", "single", ""): per_setting} | {
        (method, mode, when): per_setting for method in ("lte", "ice", "ft")
        for mode, when in (("single", ""), ("batch", ""), ("sequential", "at_insertion"), ("sequential", "final"))
    }
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in manifest["funnel"]:
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage
    assert Path(outcome.report).is_file()


def test_prompts_hold_the_edits_of_the_moment(measured: tuple[Path, Outcome]) -> None:
    run, _ = measured
    rows = [row for row in rows_of(run) if row["method"] == "lte"]
    facts = {row["edit_id"]: f"{row['query']} {row['target']}" for row in rows if row["aspect"] == "edit"}
    assert len(facts) == RECORDS
    for row in rows:
        assert row["prompt"] == render_prompt([facts[edit] for edit in row["retrieved"]], row["query"]), row
        if row["mode"] == "single":
            assert row["retrieved"] == [row["edit_id"]]
    at_once = {row["mode"]: max(len(one["retrieved"]) for one in rows if one["mode"] == row["mode"]) for row in rows}
    assert at_once == {"single": 1, "batch": 2, "sequential": 2}
    own = [row for row in rows if row["aspect"] == "edit"]
    assert all(row["retrieved"][0] == row["edit_id"] for row in own), "an edit's own prompt finds it first"


def test_weights_that_are_trained_on_an_edit_answer_by_it(measured: tuple[Path, Outcome]) -> None:
    _, outcome = measured
    single = {row["method"]: row for row in table_of_figures(outcome.evaluation) if row["mode"] == "single" and row["source"] == "zsre"}
    assert single["ft"]["edit_success"] > single["bare"]["edit_success"] + 0.2
    assert single["bare"]["locality"] == 1.0, "nothing has changed"
    assert {row["method"] for row in outcome.evaluation["times"]} == {"bare", "lte", "ice", "ft"}
    assert all(one["edit_seconds"] > 0 for one in outcome.evaluation["times"] if one["method"] != "bare")
    found = [one for one in outcome.evaluation["retrieval"] if one["aspect"] == "edit" and one["k"] == 1]
    assert found and all(one["hit"] == 1.0 for one in found)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_scores(measured: tuple[Path, Outcome], tiny: Path, tmp_path: Path) -> None:
    config, run = tmp_path / "edits.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(settings(run, tiny, unit_questions=1, runtime={"num_cpus": 1})))
    process = start(config, run, method="edit-eval")
    wait_for(lambda: len(list((run / "commits" / "scored").glob("*.json"))) >= 3, process)
    kill_tree(process)
    before = {path.name for path in (run / "commits" / "scored").glob("*.json")}
    finish(start(config, run, method="edit-eval"))
    after = {path.name for path in (run / "commits" / "scored").glob("*.json")}
    assert before < after
    undisturbed, _ = measured
    assert _scores(run) == _scores(undisturbed)


def _scores(run: Path) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: {name: value for name, value in row.items() if name not in TIMES} for row in rows_of(run)}
