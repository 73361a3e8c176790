"""Lion's config refuses what cannot work, and its plan counts what the thesis paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from typer.testing import CliRunner

from alignray.cli import app
from alignray.config import load_config
from alignray.engine import TransformersConfig, VLLMConfig
from alignray.pipelines.lion import stop_rule
from alignray.pipelines.lion_config import LionJobConfig, StopConfig, identity_of
from alignray.pipelines.lion_plan import plan_lion
from alignray.pipelines.lion_stages import engines_of, first_model

ROOT = Path(__file__).parents[3]
SEEDS = str(ROOT / "samples" / "benchmarks" / "instructions.jsonl")
STUDENT = {"model": {"path": "some/model"}}


def job(**changes: Any) -> LionJobConfig:
    data: dict[str, Any] = {
        "input": {"paths": [SEEDS]}, "student": STUDENT, "engines": {"paid": {
            "kind": "openai", "model": "x", "price": {"prompt": 1.0, "completion": 2.0}}}, "roles": {"default": {"engine": "paid"}},
    }
    return LionJobConfig.model_validate(data | changes)


@pytest.mark.parametrize(("changes", "message"), [
    ({"student_engine": {"kind": "vllm", "model": "other"}}, "each round's checkpoint goes there"),
    ({"student_engine": {"kind": "scripted"}}, "cannot hold a trained student"),
    ({"student": {**STUDENT, "objective": {"kind": "dpo"}}}, "imitation is supervised"),
    ({"engines": {"student": {"kind": "scripted"}}}, "engines.student is made from"),
    ({"roles": {"default": {"engine": "paid"}, "student": {"engine": "paid"}}}, "answers by itself"),
    ({"student": None}, "nothing is trained"),
    ({"run_dir": "s3://bucket/lion"}, "checkpoints need a local path"),
    ({"answers": {"root": "runs/lion", "roles": ["teacher"]}}, "is the run folder"),
])
def test_what_cannot_work_is_refused_with_the_way_out(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        job(**changes)


def test_the_student_of_a_round_answers_in_the_template_that_it_was_trained_with() -> None:
    config = job(student={**STUDENT, "tokens": {"chat_template": "plain", "add_bos": True}})
    engine = engines_of(config, "runs/lion/students/round_2/model")["student"]
    assert isinstance(engine, TransformersConfig)
    assert (engine.model, engine.chat_template, engine.add_bos) == ("runs/lion/students/round_2/model", "plain", True)
    own = engines_of(job(student_engine={"kind": "vllm", "max_model_len": 512}), "checkpoint")["student"]
    assert isinstance(own, VLLMConfig) and (own.model, own.max_model_len) == ("checkpoint", 512)


def test_rounds_budget_and_where_the_work_is_done_are_no_part_of_the_identity() -> None:
    first = identity_of(job())
    same = identity_of(job(
        rounds=5, budget={"usd": 1}, stop={"hard_share": 0.1}, run_dir="elsewhere", student={**STUDENT, "workers": {"num_workers": 8}},
    ))
    assert same == first
    few: dict[str, Any] = {"input": {"paths": [SEEDS], "max_seeds": 3}}
    for changes in ({"seed": 1}, {"lion": {"per_round": 7}}, {"student": {**STUDENT, "epochs": 2}}, few):
        assert identity_of(job(**changes)) != first


def test_the_plan_counts_the_calls_of_all_rounds() -> None:
    plan = plan_lion(job(rounds=2, lion={"per_round": 4}))
    calls = {name: step.calls for name, step in plan.steps.items()}
    assert calls == {"lion/teacher": 12 + 8, "lion/student": 12 + 16, "lion/referee": 2 * (12 + 16), "lion/generator": 8}
    assert plan.steps["lion/student"].usd == 0 and plan.usd > 0 and plan.low_usd < plan.usd < plan.high_usd
    referee = plan.steps["lion/referee"]
    assert referee.usd == pytest.approx((referee.prompt_tokens + 2 * referee.completion_tokens) / 1e6, rel=1e-3)


def test_the_thesis_paid_for_436_000_calls() -> None:
    steps = plan_lion(job(), thesis=True).steps
    assert {name: step.calls for name, step in steps.items() if name != "lion/student"} == {
        "lion/teacher": 70_000, "lion/referee": 348_000, "lion/generator": 18_000}


@pytest.mark.parametrize("name", ["thesis-7b", "thesis-13b"])
def test_the_thesis_configs_hold_the_settings_of_its_tables(name: str) -> None:
    config = load_config(LionJobConfig, ROOT / "configs" / "lion" / f"{name}.yaml")
    assert config.student is not None
    sampling = {role: (one.temperature, one.max_new_tokens) for role, one in config.roles.items()}
    assert sampling == {"teacher": (0.7, 1024), "referee": (0.2, 512), "generator": (1.0, 512), "student": (0.7, 1024)}
    assert (config.student.optimizer.learning_rate, config.student.epochs, config.student.batch_size) == (2e-5, 3, 128)
    assert (config.lion.threshold, config.lion.hard_rate, config.lion.per_round, config.rounds) == (1.0, 0.5, 6000, 3)


def test_the_plan_of_the_command_line_is_json_where_asked() -> None:
    config = str(ROOT / "configs" / "lion" / "smoke.yaml")
    result = CliRunner().invoke(app, ["plan", "lion", config, "--json", "--set", f'input.paths=["{SEEDS}"]'])
    assert result.exit_code == 0 and json.loads(result.stdout)["steps"]["lion/referee"]["calls"] == 60


@pytest.mark.parametrize(("stop", "quality", "said"), [
    ({}, [60.0, 60.0], ""), ({"hard_share": 0.2}, [60.0, 70.0], ""), ({"hard_share": 0.4}, [60.0, 70.0], "30.0% of the Cache Pool is hard"),
    ({"min_gain": 5.0}, [60.0], ""), ({"min_gain": 5.0}, [60.0, 65.0], ""),
    ({"min_gain": 5.0}, [60.0, 64.0], "relative quality rose by 4.00 points in round 2"),
])
def test_the_loop_ends_by_its_rule(stop: dict[str, float], quality: list[float], said: str) -> None:
    rounds = [
        {"round": number, "judged": 10, "hard_share": 0.3, "relative_quality": value} for number, value in enumerate(quality, start=1)]
    assert stop_rule(StopConfig.model_validate(stop), rounds).startswith(said) and (said or not stop_rule(StopConfig(), rounds))


def test_a_round_of_which_nothing_could_be_judged_ends_the_loop() -> None:
    assert "no instruction" in stop_rule(StopConfig(), [{"round": 1, "judged": 0, "hard_share": None, "relative_quality": None}])


def test_a_student_goes_on_from_its_last_checkpoint_or_starts_over() -> None:
    assert first_model(job(), None) == "some/model"
    assert first_model(job(), "runs/lion/students/round_1/model") == "runs/lion/students/round_1/model"
    assert first_model(job(lion={"student_start": "restart"}), "runs/lion/students/round_1/model") == "some/model"
