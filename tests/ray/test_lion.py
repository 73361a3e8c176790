"""Lion's loop: pools that grow, verdicts that are never guessed, runs that are extended, stopped and killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from alignray.methods.lion.pools import calls_of
from alignray.pipelines.inspect_run import status_of, trace
from alignray.pipelines.lion import Outcome, distill
from alignray.pipelines.lion_config import LionJobConfig
from alignray.train.tiny import write_tiny_model
from tests.ray.conftest import ROOT
from tests.ray.processes import endpoint, finish, kill_tree, start, wait_for
from tests.ray.run_files import journal_of, rows_of

SEEDS = str(ROOT / "samples" / "benchmarks" / "instructions.jsonl")
NUM_SEEDS, PER_ROUND = 12, 4
Lion = Callable[..., Outcome]


def lion_data(run_dir: Path | str, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "run_dir": str(run_dir), "rounds": 2, "input": {"paths": [SEEDS]}, "lion": {"per_round": PER_ROUND}, "student": None,
        "student_engine": {"kind": "scripted", "seed": 7}, "engines": {"fake": {"kind": "scripted"}},
        "roles": {"default": {"engine": "fake", "max_new_tokens": 200}},
    }
    return data | changes


@pytest.fixture(scope="module")
def run_lion(local_ray: None) -> Lion:
    def run(run_dir: Path | str, *, new_run: bool = False, **changes: Any) -> Outcome:
        return distill(LionJobConfig.model_validate(lion_data(run_dir, **changes)), new_run=new_run, console=Console(quiet=True))

    return run


@pytest.fixture(scope="module")
def finished(run_lion: Lion, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    run = tmp_path_factory.mktemp("lion") / "run"
    return run, run_lion(run)


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "lion.json").read_text())
    return found


def instructions_of(run: Path) -> list[tuple[str, str, str]]:
    """Of two rounds, with the teacher's answers; another test lets the run of two go on to a third."""
    return sorted((row["row_id"], row["instruction"], row["response"]) for row in rows_of(run) if row["round"] < 3)


def assert_nothing_is_lost(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in manifest["funnel"]:
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage
    written = Counter(f"{row['step']}/{row['reason']}" for row in rows_of(run, "rejects"))
    told = Counter[str]()
    for stage in manifest["funnel"]:
        told.update({name: count for name, count in stage["rejected"].items() if "/" in name})
    assert written == told
    keys = Counter(event["key"] for event in journal_of(run) if "key" in event)
    assert not [key for key, times in keys.items() if times > 1], "a call was asked twice"


def test_the_pools_grow_as_the_thesis_says(finished: tuple[Path, Outcome]) -> None:
    run, outcome = finished
    assert outcome.status == "done"
    assert [(state["train_pool"], state["cache_pool"]) for state in outcome.rounds] == [
        (NUM_SEEDS, NUM_SEEDS), (PER_ROUND, NUM_SEEDS + PER_ROUND), (PER_ROUND, NUM_SEEDS + 2 * PER_ROUND),
    ]
    assert [state["judged"] for state in outcome.rounds] == [NUM_SEEDS, NUM_SEEDS + PER_ROUND, 0]
    for state in outcome.rounds[:-1]:
        assert (state["generated"]["hard"], state["generated"]["easy"]) == (PER_ROUND // 2, PER_ROUND // 2)
    assert outcome.rows == NUM_SEEDS + 2 * PER_ROUND == len(rows_of(run))
    assert_nothing_is_lost(run)


def test_the_teacher_is_asked_once_and_the_referee_twice_for_each_student_answer(finished: tuple[Path, Outcome]) -> None:
    _, outcome = finished
    roles = Counter[str]()
    for step in outcome.usage["steps"].values():
        roles[step["role"]] += step["calls"]
    expected = calls_of(NUM_SEEDS, PER_ROUND, 2)
    assert {name: roles[name] for name in ("teacher", "student", "referee")} == {
        name: expected[name] for name in ("teacher", "student", "referee")}
    assert roles["generator"] == sum(state["generated"]["drawn"] for state in outcome.rounds[:-1])
    by_round = [state["usage"] for state in outcome.rounds]
    assert by_round[1]["referee"]["calls"] == 2 * (NUM_SEEDS + PER_ROUND) and by_round[2].keys() == {"teacher"}


def test_a_row_says_where_it_comes_from_and_how_it_was_judged_last(finished: tuple[Path, Outcome]) -> None:
    run, _ = finished
    rows = {row["row_id"]: row for row in rows_of(run)}
    assert Counter((row["origin"], row["round"]) for row in rows.values()) == {
        ("seed", 0): NUM_SEEDS, ("hard", 1): 2, ("easy", 1): 2, ("hard", 2): 2, ("easy", 2): 2,
    }
    for row in rows.values():
        assert row["judged_in"] == (0 if row["round"] == 2 else 2)
        assert (row["gap"] is None) == (row["judged_in"] == 0)
        assert row["messages"] == [
            {"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["response"]}]
        if row["gap"] is not None:
            assert row["is_hard"] == (row["gap"] >= 1.0)
        if row["round"]:
            assert row["parent_id"] in rows and rows[row["parent_id"]]["round"] < row["round"]
    made = next(row for row in rows.values() if row["round"] == 1)
    story = trace(str(run), made["row_id"])
    assert {call["step"] for call in story["calls"]} >= {"lion/generator/round_1", "lion/teacher/round_2", "lion/student/round_2"}
    assert "taught_1" in status_of(str(run)) and "judged_2" in status_of(str(run))


def test_a_finished_run_is_extended_by_further_rounds_alone(finished: tuple[Path, Outcome], run_lion: Lion, tmp_path: Path) -> None:
    run, outcome = finished
    longer = run_lion(run, rounds=3)
    assert [state["judged"] for state in longer.rounds] == [12, 16, 20, 0]
    assert longer.rounds[:2] == outcome.rounds[:2]
    assert_nothing_is_lost(run)
    at_once = tmp_path / "at_once"
    run_lion(at_once, rounds=3)
    assert rows_of(at_once) == rows_of(run)


def test_a_referee_that_cannot_be_read_is_asked_again_and_then_set_aside_never_easy(run_lion: Lion, tmp_path: Path) -> None:
    garbled = {"fake": {"kind": "scripted"}, "loose": {"kind": "scripted", "garble_rate": 0.6}}
    roles = lion_data(tmp_path)["roles"] | {"referee": {"engine": "loose"}}
    outcome = run_lion(tmp_path / "run", rounds=1, engines=garbled, roles=roles, lion={"per_round": 2, "retries": 1})
    state = outcome.rounds[0]
    assert state["quarantined"] and state["judged"] and state["one_reading"]
    assert state["judged"] + state["quarantined"] == NUM_SEEDS
    assert 0.3 < state["referee"]["unreadable"] / state["referee"]["readings"] < 0.9
    aside = [row for row in rows_of(tmp_path / "run", "rejects") if row["reason"] == "unreadable"]
    assert len(aside) == state["quarantined"] and all(row["step"] == "lion/referee" for row in aside)
    rows = {row["row_id"]: row for row in rows_of(tmp_path / "run")}
    assert all(rows[row["row_id"]]["is_hard"] is None for row in aside)
    parents = {row["parent_id"] for row in rows.values()}
    assert not parents & {row["row_id"] for row in aside}
    shown = [sample for sample in result_of(tmp_path / "run")["samples"] if sample["kind"] == "quarantined"]
    assert {sample["row_id"] for sample in shown} == {row["row_id"] for row in aside}
    assert_nothing_is_lost(tmp_path / "run")


@pytest.mark.slow  # budgets that hold through a kill are in test_kill_and_resume.py
def test_the_budget_stops_the_loop_and_a_larger_one_goes_on_to_the_same_rows(
    finished: tuple[Path, Outcome], run_lion: Lion, tmp_path: Path,
) -> None:
    stopped = run_lion(tmp_path / "run", budget={"tokens": 12_000})
    assert stopped.status == "stopped_at_budget" and stopped.usage["tokens"] <= 12_000
    done = run_lion(tmp_path / "run")
    assert done.status == "done"
    assert_nothing_is_lost(tmp_path / "run")
    undisturbed, _ = finished
    assert instructions_of(tmp_path / "run") == instructions_of(undisturbed)


def test_the_loop_ends_when_too_little_is_hard_and_has_measured_its_student(run_lion: Lion, tmp_path: Path) -> None:
    gsm8k = {"kind": "math", "format": "gsm8k", "path": str(ROOT / "samples" / "benchmarks" / "gsm8k.jsonl")}
    outcome = run_lion(tmp_path / "run", stop={"hard_share": 0.9}, benchmarks={"benchmarks": [gsm8k]})
    assert outcome.status == "done" and len(outcome.rounds) == 1
    assert "below stop.hard_share = 0.9" in outcome.message
    (name, figure), = outcome.rounds[0]["benchmarks"].items()
    assert name == "gsm8k" and 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert (tmp_path / "run" / "benchmarks" / "round_1" / "report.html").is_file()


def test_the_student_is_trained_in_each_round_and_answers_from_its_checkpoint(run_lion: Lion, tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny", hidden_size=32)
    student = {
        "model": {"path": str(tiny), "dtype": "float32", "lora": {"rank": 4, "alpha": 8}}, "batch_size": 4,
        "tokens": {"max_length": 512, "max_prompt_length": 384, "chat_template": "plain"}, "optimizer": {"learning_rate": 1.0e-2},
    }
    roles = lion_data(tmp_path)["roles"] | {"student": {"engine": "student", "temperature": 1.0, "max_new_tokens": 12}}
    outcome = run_lion(tmp_path / "run", rounds=1, student=student, student_engine={"kind": "transformers"}, roles=roles)
    assert outcome.status == "done" and outcome.rounds[0]["judged"] == NUM_SEEDS
    assert [state["train"]["rows"] for state in outcome.rounds] == [NUM_SEEDS, PER_ROUND]
    first, last = (Path(outcome.run_dir) / "students" / f"round_{number}" for number in (1, 2))
    assert outcome.model == str(last / "merged")
    began_with = yaml.safe_load((last / "config.yaml").read_text())["model"]["path"]
    assert began_with == str(first / "merged"), "a round goes on from the student of the one before"
    assert "### Instruction:" in (last / "merged" / "chat_template.jinja").read_text()
    answers = {row["student"] for row in rows_of(outcome.run_dir)}
    assert len(answers) > 1 and not answers & {row["response"] for row in rows_of(outcome.run_dir)}
    weights = [load_file(folder / "model.safetensors") for folder in (tiny, first / "merged", last / "merged")]
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights[0][name], weights[1][name]) and not torch.equal(weights[1][name], weights[2][name])
    again = run_lion(tmp_path / "run", rounds=1, student=student, student_engine={"kind": "transformers"}, roles=roles)
    assert again.usage["calls"] == outcome.usage["calls"] and again.rounds == outcome.rounds


@pytest.mark.slow
def test_a_faulty_endpoint_changes_nothing_but_the_time(run_lion: Lion, tmp_path: Path) -> None:
    rows = []
    faults = ("--faults", "429:1,429,500,hang,cut,drop,bad_json,empty_choices,503:1", "--fault-rate", "500=0.1")
    for name, flags in (("healthy", ()), ("faulty", faults)):
        with endpoint(*flags) as mock:
            remote = {"kind": "openai", "model": "mock", "base_url": mock.url, "api_key_env": None, "max_in_flight": 4, "timeout_s": 3}
            outcome = run_lion(tmp_path / name, rounds=1, engines={"fake": remote}, lion={"per_round": 2})
        assert outcome.status == "done"
        assert_nothing_is_lost(tmp_path / name)
        rows.append(instructions_of(tmp_path / name))
    assert rows[0] == rows[1]


KILLS = ["taught_1", "judged_1", "written_1", "new_1", "judged_2"]


@pytest.mark.slow  # test_evaluate.py kills the same walk in make test
@pytest.mark.parametrize("stage", KILLS)
def test_a_driver_that_is_killed_in_any_stage_goes_on_to_the_same_rows(
    stage: str, finished: tuple[Path, Outcome], tmp_path: Path,
) -> None:
    config, run = tmp_path / "lion.yaml", tmp_path / "run"
    slowly = {"fake": {"kind": "scripted", "latency_s": 0.2, "max_in_flight": 2}}
    config.write_text(yaml.safe_dump(lion_data(run, engines=slowly, runtime={"num_cpus": 2, "part_rows": 2, "block_rows": 2})))
    process = start(config, run, method="lion")
    wait_for(lambda: any((run / "commits" / stage).glob("*.json")), process)
    kill_tree(process)
    finish(start(config, run, method="lion"))
    assert_nothing_is_lost(run)
    undisturbed, _ = finished
    assert instructions_of(run) == instructions_of(undisturbed)
