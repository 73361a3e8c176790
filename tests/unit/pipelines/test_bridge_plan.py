"""The forecast of bridging, and the thesis' own bill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignray.cli import app
from alignray.errors import ConfigError
from alignray.pipelines.bridge_config import BridgeJobConfig, identity_of
from alignray.pipelines.bridge_plan import plan_bridge, table_6_5

ROOT = Path(__file__).parents[3]


def job(path: Path, **changes: Any) -> BridgeJobConfig:
    return BridgeJobConfig.model_validate({
        "input": {"paths": [str(path)]}, "bridge": {"task": "qa"},
        "engines": {"e": {"kind": "openai", "model": "x", "price": {"prompt": 10.0, "completion": 30.0}}},
        "roles": {"default": {"engine": "e", "max_new_tokens": 1024}}, **changes,
    })


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    pairs = ({"prompt": f"question {n}", "chosen": f"right {n}", "rejected": f"wrong {n}"} for n in range(50))
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def test_table_6_5_of_the_thesis() -> None:
    assert [step.usd for step in table_6_5((10.0, 30.0))] == [44.21, 228.00, 876.06]


@pytest.mark.parametrize("name", ["qa", "math", "if"])
def test_the_thesis_configs_print_it(name: str) -> None:
    done = CliRunner().invoke(app, ["plan", "bridge", str(ROOT / "configs" / "bridge" / f"thesis-{name}.yaml"), "--thesis-figures"])
    assert done.exit_code == 0
    assert all(figure in done.stdout for figure in ("44.21", "228.00", "876.06"))


@pytest.fixture
def tiny_prompts(tmp_path: Path) -> str:
    folder = tmp_path / "prompts" / "bmc"
    folder.mkdir(parents=True)
    (folder / "bridge_answer.txt").write_text("{{ question }}{{ reference }}{{ answer }}")
    return str(tmp_path / "prompts")


def test_one_pair_by_hand(tmp_path: Path, tiny_prompts: str) -> None:
    """question 100, reference 43 and answer 43 characters: 186 / 4.3 = 44 tokens, + 12 of template; the edit as long as the answer: 10."""
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"prompt": "q" * 100, "chosen": "r" * 43, "rejected": "w" * 43}))
    plan = plan_bridge(job(path, prompts={"dir": tiny_prompts}))
    step = plan.steps["bmc/edit"]
    assert (step.calls, step.prompt_tokens, step.completion_tokens) == (1, 56, 10)
    assert plan.usd == pytest.approx((56 * 10 + 10 * 30) / 1e6) and plan.unit == "pairs"


def test_questions_pay_for_the_student_too(rows: Path) -> None:
    plan = plan_bridge(job(rows, input={"paths": [str(rows)], "kind": "questions"}))
    assert {name: step.calls for name, step in plan.steps.items()} == {"bmc/answer": 50, "bmc/edit": 50}


def test_measured_lengths_and_max_pairs_are_heeded(rows: Path) -> None:
    plan = plan_bridge(job(rows, max_pairs=20, plan={"completion_tokens": {"bmc/edit": 7}}))
    assert (plan.pages, plan.drafts, plan.steps["bmc/edit"].completion_tokens) == (50, 20, 140)
    assert plan.low_usd < plan.usd < plan.high_usd


def test_a_sample_tells_how_many_pairs_there_are(rows: Path) -> None:
    with rows.open("a") as file:
        file.write("".join(json.dumps({"prompt": "q", "chosen": "same", "rejected": "same"}) + "\n" for _ in range(10)))
    plan = plan_bridge(job(rows, plan={"sample_pairs": 25}))
    assert plan.sampled_pages == 25 and plan.pages_low <= 60 and plan.pages == 60  # none of the sample was rejected
    whole = plan_bridge(job(rows))
    assert (whole.pages, whole.notes) == (50, ("rejected in the sample: identical_pair 10",))


def test_plain_pairs_cost_nothing_and_need_no_engine(rows: Path) -> None:
    config = BridgeJobConfig.model_validate({"input": {"paths": [str(rows)]}, "bridge": {"task": "qa", "variant": "plain"}})
    assert (plan_bridge(config).calls, plan_bridge(config).usd) == (0, 0)


def test_identity_holds_what_decides_the_rows(rows: Path) -> None:
    base = identity_of(job(rows))
    assert identity_of(job(rows, max_pairs=3, budget={"usd": 1}, run_dir="elsewhere")) == base
    assert identity_of(job(rows, bridge={"task": "math"})) != base
    other_price = {"e": {"kind": "openai", "model": "x", "price": {"prompt": 1.0, "completion": 1.0}}}
    assert identity_of(job(rows, engines=other_price)) == base


def test_wrong_inputs_say_so(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="originals is about pairs"):
        job(rows, input={"paths": [str(rows)], "kind": "questions", "originals": True})
    (tmp_path / "a.warc").write_bytes(b"")
    with pytest.raises(ConfigError, match="bridge reads parquet and jsonl, not warc"):
        job(tmp_path / "a.warc").input.splits()
