"""HumanEval on its official files and recorded verdicts, in the real sandbox."""

from __future__ import annotations

import dataclasses
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from alignray.errors import ConfigError, RecordError
from alignray.evals.code import HumanEvalConfig, benchmark, pass_at_k
from alignray.evals.code.humaneval import run_answer
from alignray.evals.sandbox import Limits, run_tests
from alignray.schema import Completion, EvalDraft, Rejected, Reply, ScoredItem
from alignray.steps import run_chain

RUNS = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")


def rows_of(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def drafts_of(data_dir: Path, config: HumanEvalConfig) -> list[EvalDraft]:
    drafts = list(benchmark(config).read({"path": rows_of(data_dir / "humaneval" / config.path)}))
    assert all(isinstance(draft, EvalDraft) for draft in drafts)
    return drafts  # type: ignore[return-value]


def replied(draft: EvalDraft, *texts: str) -> EvalDraft:
    return dataclasses.replace(draft, replies=tuple(Reply(f"code/answer_{number}", text) for number, text in enumerate(texts, 1)))


def metrics_of(scores: Any) -> dict[str, Any]:
    return {score.metric: score.problem or score.value for score in scores}


@RUNS
def test_the_official_example_gives_a_half(data_dir: Path) -> None:
    """openai/human-eval's README: pass@1 = 0.4999... on its six samples; one waits for ten seconds."""
    samples = rows_of(data_dir / "humaneval" / "example_samples.jsonl")
    config = HumanEvalConfig(path="example_problem.jsonl", style="completion", num_samples=6, k=(1, 2), timeout_s=0.5, require="best")
    (draft,) = drafts_of(data_dir, config)
    bench = benchmark(config)
    scores = metrics_of(bench.score(replied(draft, *(sample["completion"] for sample in samples))))
    assert scores["pass_at_1"] == pytest.approx(0.5) and scores["pass_at_2"] == pytest.approx(pass_at_k(6, 3, 2))
    assert scores["timed_out"] == pytest.approx(1 / 6) and scores["no_code"] == 0.0


def recorded(data_dir: Path, step: int) -> list[tuple[str, bool, bool]]:
    """Task, the recorded verdict, ours."""
    config = HumanEvalConfig(path="HumanEval.jsonl.gz")
    problems = {draft.key: json.loads(draft.facts) for draft in drafts_of(data_dir, config)}
    rows = rows_of(data_dir / "humaneval" / "Mistral-7B-Instruct-v0.2.solutions_with_verdicts.jsonl.gz")[::step]

    def verdict(row: dict[str, Any]) -> bool:
        facts = problems[row["task_id"]]
        support = facts["prompt"] + facts["solution"]
        outcome = run_tests(row["solution"], facts["test"], entry_point=facts["entry_point"], support=support, limits=Limits(timeout_s=3))
        return outcome.status == "passed"

    with ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(verdict, rows))
    return [(row["task_id"], row["base_status"] == "pass", mine) for row, mine in zip(rows, ours, strict=True)]


@RUNS
def test_recorded_verdicts_agree_on_a_sample(data_dir: Path) -> None:
    assert [entry for entry in recorded(data_dir, 16) if entry[1] != entry[2]] == []


@RUNS
@pytest.mark.slow
def test_all_recorded_verdicts_agree(data_dir: Path) -> None:
    """164 solutions of Mistral-7B-Instruct-v0.2 with EvalPlus' verdicts on the base tests: 74 pass there and here."""
    verdicts = recorded(data_dir, 1)
    assert [entry for entry in verdicts if entry[1] != entry[2]] == []
    assert sum(ours for _, _, ours in verdicts) == 74


@RUNS
@pytest.mark.slow
def test_every_canonical_solution_passes(data_dir: Path) -> None:
    config = HumanEvalConfig(path="HumanEval.jsonl.gz", timeout_s=10, require="best")
    bench, drafts = benchmark(config), drafts_of(data_dir, config)

    def passes(draft: EvalDraft) -> float:
        facts = json.loads(draft.facts)
        return float(metrics_of(bench.score(replied(draft, f"```python\n{facts['prompt']}{facts['solution']}\n```")))["pass_at_1"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(passes, drafts)) == [1.0] * 164


@RUNS
def test_a_chain_asks_for_every_sample_and_the_summary_names_the_walls() -> None:
    row = {"task_id": "t/0", "prompt": "def one():\n", "entry_point": "one", "canonical_solution": "    return 1\n",
           "test": "def check(candidate):\n    assert candidate() == 1\n"}
    bench = cloudpickle.loads(cloudpickle.dumps(benchmark(HumanEvalConfig(path="x", num_samples=2, k=(1, 2), require="best"))))
    (draft,) = bench.read({"path": [row]})
    assert [step.name for step in bench.steps] == ["code/answer_1", "code/answer_2"]
    assert "def one():" in bench.steps[1].build(draft).messages[0].content
    replies = iter(["```python\ndef one():\n    return 1\n```", ""])
    done = run_chain(draft, bench.steps, lambda _step, _record, _request: Completion(next(replies)))
    scores = bench.score(done)
    assert {name: value for name, value in metrics_of(scores).items() if name != "isolated"} == {
        "pass_at_1": 0.5, "pass_at_2": 1.0, "no_code": 0.5, "timed_out": 0.0,
    }
    item = ScoredItem(done.row_id, "m", bench.name, done.key, done.group, "", done.prompt, done.facts, done.replies, scores)
    summary = bench.summarize([item])
    assert {figure.metric: figure.value for figure in summary.figures}["pass_at_1"] == 0.5 and "seccomp" in summary.details["sandbox"]
    assert metrics_of(bench.score(draft)) == {"pass_at_1": "no_answer", "pass_at_2": "no_answer"}


@RUNS
def test_by_default_no_program_runs_without_every_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    config = HumanEvalConfig(path="x")
    assert config.require == "strict"
    facts = {"prompt": "", "entry_point": "one", "solution": "", "test": "def check(candidate):\n    assert candidate() == 1\n"}
    monkeypatch.setattr("alignray.evals.code.humaneval.run_tests", partial(run_tests, attempt=("seccomp",)))
    with pytest.raises(ConfigError, match="set require: best on a machine that may be harmed"):
        run_answer("```python\ndef one(): return 1\n```", facts, config)


def test_bad_rows_files_and_configs_say_what_is_wrong() -> None:
    good = {"task_id": "t/0", "prompt": "def one():\n", "entry_point": "one", "canonical_solution": "x", "test": "y"}
    read = benchmark(HumanEvalConfig(path="x")).read
    entries = list(read({"path": [good, good, {**good, "task_id": "t/1", "entry_point": "a b"}, {"task_id": "t/2"}]}))
    assert [entry.reason for entry in entries if isinstance(entry, Rejected)] == ["twice", "not_a_name", "no_prompt"]
    assert len({entry.row_id for entry in entries}) == 4
    with pytest.raises(RecordError, match="no row has task_id"):
        list(read({"path": [{"text": "hello"}]}))
    with pytest.raises(ValueError, match="raise num_samples"):
        HumanEvalConfig(path="x", k=(10,))
