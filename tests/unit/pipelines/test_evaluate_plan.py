"""The forecast of an evaluation: every item counted, tokens worked out by hand, no step left out and none twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignray.config import load_config
from alignray.errors import ConfigError, RecordError
from alignray.pipelines.evaluate_config import EvaluateJobConfig, FollowBenchJobConfig
from alignray.pipelines.evaluate_plan import TYPICAL_COMPLETION, completion_mean, plan_evaluation
from alignray.pipelines.plan import Plan

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples" / "benchmarks"
NUM_STYLE, NUM_FORMAT, NUM_EXAMPLE, NUM_IFEVAL = 10, 5, 5, 6
"""Items above level 0; examples are checked by rule, the others judged."""
FOLLOWBENCH = {"kind": "followbench", **{name: str(SAMPLES / f"followbench_{name}.json") for name in ("style", "format", "example")}}
IFEVAL = {"kind": "ifeval", "prompts": str(SAMPLES / "ifeval.jsonl")}
LENGTHS = {"followbench/answer": 100, "followbench/judge": 50, "ifeval/answer": 40}


def job(**changes: Any) -> EvaluateJobConfig:
    return EvaluateJobConfig.model_validate({
        "benchmarks": [FOLLOWBENCH], "candidates": {"one": {"engine": "own"}},
        "engines": {
            "own": {"kind": "openai", "model": "own", "price": {"prompt": 1.0, "completion": 2.0}},
            "judge": {"kind": "openai", "model": "judge", "price": {"prompt": 10.0, "completion": 30.0}},
        },
        "roles": {"judge": {"engine": "judge", "max_new_tokens": 2048}}, "plan": {"completion_tokens": LENGTHS}, **changes,
    })


def calls_of(plan: Plan) -> dict[str, int]:
    return {name: step.calls for name, step in plan.steps.items()}


# ---- counts


def test_what_a_rule_decides_is_not_judged() -> None:
    plan = plan_evaluation(job())
    num_items, num_judged = NUM_STYLE + NUM_FORMAT + NUM_EXAMPLE, NUM_STYLE + NUM_FORMAT
    assert (plan.pages, plan.drafts, plan.rows, plan.unit) == (num_items, num_items, num_items, "items")
    assert calls_of(plan) == {"followbench/answer": num_items, "followbench/judge": num_judged}
    assert plan.calls == num_items + num_judged
    assert plan.completion_tokens == num_items * 100 + num_judged * 50


def test_every_candidate_is_counted_on_every_benchmark_at_every_temperature() -> None:
    two = {"one": {"engine": "own"}, "two": {"engine": "judge"}}
    plan = plan_evaluation(job(benchmarks=[FOLLOWBENCH, IFEVAL], candidates=two, temperatures=[0, 0.5, 1]))
    assert calls_of(plan) == {"followbench/answer": 6 * 20, "followbench/judge": 6 * 15, "ifeval/answer": 6 * NUM_IFEVAL}
    assert plan.pages == 6 * (20 + NUM_IFEVAL)
    assert plan.notes[:2] == ("followbench: 20 items", "ifeval: 6 items") and "asked for again" in plan.notes[-1]


def test_max_items_is_heeded() -> None:
    plan = plan_evaluation(job(benchmarks=[{**FOLLOWBENCH, "max_items": 12}, {**IFEVAL, "max_items": 2}]))
    assert calls_of(plan) == {"followbench/answer": 12, "followbench/judge": 12, "ifeval/answer": 2}  # style and format come first


# ---- tokens and dollars by hand


@pytest.fixture
def tiny_prompts(tmp_path: Path) -> str:
    """Judge prompts that hold the answer and the last instruction alone: fields are kept by tests that are never true."""
    folder = tmp_path / "prompts" / "followbench"
    folder.mkdir(parents=True)
    unused = "".join(f"{{% if {name} == 'never' %}}{{% endif %}}" for name in ("kind", "num", "initial", "between", "form"))
    (folder / "judge_multi_level.txt").write_text(f"{unused}{{{{ final }}}}{{{{ answer }}}}")
    return str(tmp_path / "prompts")


def test_one_item_by_hand(tmp_path: Path, tiny_prompts: str) -> None:
    """The instruction has 86 characters, 20 tokens at 4.3 each, + 12 of template: 32. The answer is taken for 100 tokens, 86 times
    "word " of 5 characters: the judge sees 86 + 430 = 516 characters, 120 tokens, + 12: 132; its verdict is taken for 50."""
    path = tmp_path / "style_constraints.json"
    rows = [{"example_id": 1, "category": "style", "source": "", "level": level, "instruction": "i" * 86} for level in (0, 1)]
    path.write_text(json.dumps(rows))
    plan = plan_evaluation(job(benchmarks=[{"kind": "followbench", "style": str(path)}], prompts={"dir": tiny_prompts}))
    answer, judge = plan.steps["followbench/answer"], plan.steps["followbench/judge"]
    assert (answer.calls, answer.prompt_tokens, answer.completion_tokens) == (1, 32, 100)
    assert (judge.calls, judge.prompt_tokens, judge.completion_tokens) == (1, 132, 50)
    assert answer.usd == pytest.approx((32 * 1 + 100 * 2) / 1e6) and judge.usd == pytest.approx((132 * 10 + 50 * 30) / 1e6)
    assert (plan.prompt_tokens, plan.completion_tokens, plan.usd) == (164, 150, pytest.approx((232 + 2820) / 1e6))
    assert (plan.low_usd, plan.high_usd) == (pytest.approx(plan.usd * 0.75), pytest.approx(plan.usd * 1.25)), "all items were sampled"


def test_ifeval_by_hand() -> None:
    """The prompts have 50, 97, 57, 90, 87 and 73 characters: 12 + 23 + 14 + 21 + 21 + 17 tokens, and 6 x 12 of template: 180."""
    step = plan_evaluation(job(benchmarks=[IFEVAL])).steps["ifeval/answer"]
    assert (step.prompt_tokens, step.completion_tokens) == (180, NUM_IFEVAL * 40)
    assert step.usd == pytest.approx((180 * 1 + 240 * 2) / 1e6)


def test_each_candidate_is_paid_at_its_own_price() -> None:
    one, two = (plan_evaluation(job(benchmarks=[IFEVAL], candidates={"x": {"engine": engine}})).usd for engine in ("own", "judge"))
    both = plan_evaluation(job(benchmarks=[IFEVAL], candidates={"x": {"engine": "own"}, "y": {"engine": "judge"}})).usd
    assert both == pytest.approx(one + two) and one < two


def test_lengths_are_measured_ones_then_typical_ones_and_never_above_the_cap() -> None:
    measured = {"vicuna/judge": 70.0, "vicuna/judge_first": 80.0}
    assert completion_mean("vicuna/judge_first_2", measured, 2048) == 80  # the longest beginning that fits
    assert completion_mean("vicuna/judge_second_1", measured, 2048) == 70
    assert completion_mean("mt_bench/judge_turn_2", {}, 2048) == TYPICAL_COMPLETION["mt_bench/judge"]
    assert completion_mean("mt_bench/judge_turn_2", {}, 100) == 100
    assert completion_mean("somebody/asks", {}, 300) == 150
    plan = plan_evaluation(job(benchmarks=[IFEVAL], candidates={"one": {"engine": "own", "max_new_tokens": 7}}))
    assert plan.steps["ifeval/answer"].completion_tokens == NUM_IFEVAL * 7


# ---- judged benchmarks


def test_questions_to_a_judge_are_counted_once_in_each_order(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("".join(
        json.dumps({"question_id": n, "category": "writing", "turns": [f"first {n}", f"second {n}"]}) + "\n" for n in range(4)
    ))
    (tmp_path / "reference.jsonl").write_text("".join(
        json.dumps({"question_id": n, "choices": [{"index": 0, "turns": ["a", "b"]}]}) + "\n" for n in range(3)
    ))
    (tmp_path / "baseline.json").write_text(json.dumps([{"instruction": f"do {n}", "output": "x", "dataset": "d"} for n in range(5)]))
    questions, reference = str(tmp_path / "questions.jsonl"), str(tmp_path / "reference.jsonl")
    plan = plan_evaluation(job(benchmarks=[
        {"kind": "mt_bench", "questions": questions}, {"kind": "vicuna", "questions": questions, "reference": reference, "num_evidence": 2},
        {"kind": "alpaca_eval", "baseline": str(tmp_path / "baseline.json"), "orders": "both"},
    ]))
    assert calls_of(plan) == {
        "mt_bench/answer_1": 4, "mt_bench/answer_2": 4, "mt_bench/judge_turn_1": 4, "mt_bench/judge_turn_2": 4,
        "vicuna/answer": 3, "vicuna/judge_first_1": 3, "vicuna/judge_first_2": 3, "vicuna/judge_second_1": 3, "vicuna/judge_second_2": 3,
        "alpaca_eval/answer": 5, "alpaca_eval/judge": 5, "alpaca_eval/judge_swapped": 5,
    }
    assert "vicuna/setting_2: 3 items; rejected: no_reference_answer 1" in plan.notes
    second, first = plan.steps["mt_bench/answer_2"], plan.steps["mt_bench/answer_1"]
    assert second.prompt_tokens > first.prompt_tokens + 4 * 300, "the second turn is sent with the first answer"


def test_a_step_that_two_benchmarks_share_is_added_up() -> None:
    gsm8k = {"kind": "math", "format": "gsm8k", "path": str(SAMPLES / "gsm8k.jsonl")}
    once = plan_evaluation(job(benchmarks=[gsm8k])).steps["math/answer"]
    twice = plan_evaluation(job(benchmarks=[gsm8k, {**gsm8k, "name": "again"}])).steps["math/answer"]
    assert (once.calls, twice.calls) == (4, 8) and twice.prompt_tokens == 2 * once.prompt_tokens


# ---- recorded answers


def test_recorded_answers_cost_nothing_but_their_judge(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answered = [f"en/style/{group}/{level}" for group in (1, 2) for level in range(1, 6)]
    path.write_text("".join(json.dumps({"key": key, "answer": "a" * 430}) + "\n" for key in answered))
    plan = plan_evaluation(job(candidates={"old": {"answers": str(path)}}))
    assert calls_of(plan) == {"followbench/judge": NUM_STYLE} and plan.pages == NUM_STYLE
    assert f"followbench: {path} lacks answers to 10 items (old)" in plan.notes
    ifeval = tmp_path / "ifeval.jsonl"
    ifeval.write_text("".join(json.dumps({"key": f"s{n}", "answer": "a"}) + "\n" for n in range(1, 7)))
    nothing = plan_evaluation(job(benchmarks=[IFEVAL], candidates={"old": {"answers": str(ifeval)}}, roles={}, engines={}))
    assert (nothing.calls, nothing.usd, nothing.pages) == (0, 0.0, NUM_IFEVAL)


# ---- a sample of many


def test_a_sample_speaks_for_all_items(tmp_path: Path) -> None:
    path = tmp_path / "input_data.jsonl"
    row = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    path.write_text("".join(json.dumps({"key": n, "prompt": "p" * (43 + 43 * (n % 9)), **row}) + "\n" for n in range(900)))
    benchmarks = [{"kind": "ifeval", "prompts": str(path)}]
    whole = plan_evaluation(job(benchmarks=benchmarks, plan={"completion_tokens": LENGTHS, "sample_items": 900}))
    part = plan_evaluation(job(benchmarks=benchmarks, plan={"completion_tokens": LENGTHS, "sample_items": 60}))
    assert (whole.calls, part.calls, part.sampled_pages) == (900, 900, 60)
    assert whole.steps["ifeval/answer"].prompt_tokens == 900 * (50 + 12)  # ten to ninety tokens, as many of each
    assert part.usd == pytest.approx(whole.usd, rel=0.15) and part.low_usd < whole.usd < part.high_usd
    assert part.high_usd - part.low_usd > (whole.high_usd - whole.low_usd) * part.usd / whole.usd, "a sample is less sure"
    again = plan_evaluation(job(benchmarks=benchmarks, plan={"completion_tokens": LENGTHS, "sample_items": 60}))
    assert again == part, "the same config, the same plan"


# ---- shipped configs, and errors before anything is spent


@pytest.mark.parametrize(("name", "calls"), [("evaluate/smoke", 62), ("followbench/smoke", 35), ("followbench/demo", 35)])
def test_shipped_trials_are_free(name: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kind = FollowBenchJobConfig if name.startswith("followbench") else EvaluateJobConfig
    plan = plan_evaluation(load_config(kind, ROOT / "configs" / f"{name}.yaml"))
    assert (plan.calls, plan.usd) == (calls, 0.0)


def test_wrong_input_is_said_as_the_run_would_say_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='roles has no "judge"'):
        plan_evaluation(job(roles={}))
    with pytest.raises(ConfigError, match="roles.judge.engine = 'nobody' is not under engines"):
        plan_evaluation(job(roles={"judge": {"engine": "nobody"}}))
    with pytest.raises(RecordError, match="ifeval.prompts: no row has an instruction_id_list"):
        plan_evaluation(job(benchmarks=[{"kind": "ifeval", "prompts": str(SAMPLES / "gsm8k.jsonl")}]))
    with pytest.raises(RecordError, match="gone.jsonl"):
        plan_evaluation(job(benchmarks=[{"kind": "ifeval", "prompts": str(tmp_path / "gone.jsonl")}]))
