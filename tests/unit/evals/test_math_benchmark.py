"""MATH-like benchmarks end to end on the official files, with answers put in by hand."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from alignray.errors import ConfigError, RecordError
from alignray.evals.math import MathConfig, benchmark
from alignray.schema import Completion, EvalDraft, Rejected, Reply, ScoredItem
from alignray.steps import run_chain


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def answered(draft: EvalDraft, text: str, finish_reason: str = "stop") -> EvalDraft:
    return dataclasses.replace(draft, replies=(Reply("math/answer", text, finish_reason),))


def values(scores: Any) -> dict[str, Any]:
    return {score.metric: score.problem or score.value for score in scores}


@pytest.mark.parametrize(("form", "file", "num", "gold_reply"), [
    ("gsm8k", "math/gsm8k_test.jsonl.gz", 1319, "#### {}"), ("math", "math/math500.jsonl.gz", 500, "\\boxed{{{}}}"),
    ("mawps", "math/mawps_test.jsonl.gz", 2065, "The answer is {}."), ("svamp", "math/svamp_test.jsonl.gz", 1000, "so {}"),
    ("agieval", "agieval/math.jsonl.gz", 1000, "\\boxed{{{}}}"), ("agieval", "agieval/gaokao-mathcloze.jsonl.gz", 118, "\\boxed{{{}}}"),
])
def test_official_files_are_read_whole_and_their_gold_answers_score(
    data_dir: Path, form: Any, file: str, num: int, gold_reply: str,
) -> None:
    bench = benchmark(MathConfig(format=form, path=file))
    drafts = list(bench.read({"path": rows_of(data_dir / file)}))
    assert len(drafts) == num and all(isinstance(draft, EvalDraft) for draft in drafts)
    assert len({draft.row_id for draft in drafts}) == num
    wrong = []
    for draft in drafts[:500]:
        gold = json.loads(draft.facts)["gold"]
        scores = values(bench.score(answered(draft, gold_reply.format(gold))))
        if set(scores.values()) != {1.0}:
            wrong.append((gold, scores) if form != "gsm8k" or scores["accuracy"] != 1.0 else None)
    assert [entry for entry in wrong if entry] == []


def test_unreadable_cut_and_missing_replies_are_told_apart() -> None:
    bench = benchmark(MathConfig(format="gsm8k", path="x"))
    (draft,) = bench.read({"path": [{"question": "1+1?", "answer": "#### 2"}]})
    assert isinstance(draft, EvalDraft)
    assert values(bench.score(answered(draft, "two"))) == {"accuracy": "unreadable", "accuracy_all": 0.0, "accuracy_official": 0.0}
    assert values(bench.score(answered(draft, "it", "length")))["accuracy"] == "cut_at_max_tokens"
    assert values(bench.score(draft)) == dict.fromkeys(("accuracy", "accuracy_all", "accuracy_official"), "no_answer")
    assert values(bench.score(answered(draft, "#### 2.0"))) == {"accuracy": 1.0, "accuracy_all": 1.0, "accuracy_official": 0.0}


def test_a_chain_asks_once_and_figures_come_by_subject() -> None:
    bench = cloudpickle.loads(cloudpickle.dumps(benchmark(MathConfig(format="math", path="x"))))
    rows = [{"problem": f"p{n}", "solution": f"\\boxed{{{n}}}", "type": "Algebra" if n < 3 else "Geometry"} for n in range(4)]
    items = []
    for draft in bench.read({"path": rows}):
        done = run_chain(draft, bench.steps, lambda _step, _record, _request: Completion("it is \\boxed{1}", prompt_tokens=5))
        items.append(ScoredItem(
            done.row_id, "m", bench.name, done.key, done.group, done.category, done.prompt, done.facts, done.replies, bench.score(done),
        ))
    figures = {(figure.metric, figure.category): figure.value for figure in bench.summarize(items).figures}
    assert figures["accuracy", ""] == 0.25 and figures["accuracy", "Algebra"] == pytest.approx(1 / 3)
    assert figures["accuracy", "Geometry"] == 0.0


def test_a_bad_row_is_rejected_and_a_wrong_file_is_an_error() -> None:
    bench = benchmark(MathConfig(format="svamp", path="x"))
    good = {"Body": "Two apples", "Question": "How many?", "Answer": 2.0, "Type": "Common-Divison", "ID": "c-1"}
    draft, bad = bench.read({"path": [{"Body": "b", "Question": "q", "Answer": None}, good]})
    assert isinstance(draft, EvalDraft) and draft.category == "Common-Division" and "Two apples. How many?" in draft.prompt[0].content
    assert isinstance(bad, Rejected) and (bad.step, bad.reason) == ("svamp/read", "no_answer")
    first, again = bench.read({"path": [good, {**good, "Answer": 3}]})
    assert isinstance(first, EvalDraft) and isinstance(again, Rejected) and again.row_id != first.row_id
    assert (again.reason, json.loads(again.detail)) == ("duplicate_item", {"key": "c-1", "row": 1}) and json.loads(again.raw)["Answer"] == 3
    with pytest.raises(RecordError, match="holds no problem of format svamp"):
        list(bench.read({"path": [{"text": "hello"}]}))
    with pytest.raises((ConfigError, ValueError)):
        MathConfig(format="sums", path="x")  # type: ignore[arg-type]
