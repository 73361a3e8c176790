"""Answers recorded elsewhere, in the forms that benchmarks publish them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, Summary, answer_step
from alignray.evals.recorded import RecordedAnswers
from alignray.schema import EvalDraft, Message, Rejected

BENCHMARK = Benchmark("b", lambda files: iter(()), (answer_step("b/answer"),), lambda draft: (), lambda items: Summary(()))
TWO_TURNS = Benchmark("b", BENCHMARK.read, (answer_step("b/turn_1"), answer_step("b/turn_2")), BENCHMARK.score, BENCHMARK.summarize)
draft_of = partial(EvalDraft, row_id="r", benchmark="b", group="g", category="", facts="{}")


def draft(key: str = "k1", prompt: str = "How?") -> EvalDraft:
    return draft_of(key=key, prompt=(Message("user", prompt),))


@pytest.mark.parametrize("row", [
    {"key": "k1", "answer": "So."},
    {"prompt": "How? ", "response": "So."},
    {"question": "How?", "answer": "the gold one", "response": "So."},
    {"id": 7, "instruction": "How?", "output": "So."},
    {"uid": "k1", "messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": {"answer": "So."}}]},
    {"prompt_new": "How?", "choices": [{"message": {"content": "So."}}]},
    {"question_id": "k1", "choices": [{"index": 0, "turns": ["So."]}]},
])
def test_every_published_form_is_read(row: dict[str, Any]) -> None:
    filled = RecordedAnswers([row], "file").fill(draft(), BENCHMARK)
    assert isinstance(filled, EvalDraft) and [reply.text for reply in filled.replies] == ["So."]


def test_prompts_count_more_than_numbers_that_count_otherwise() -> None:
    rows = [{"id": 1, "prompt": "First?", "response": "one"}, {"id": 2, "prompt": "Second?", "response": "two"}]
    filled = RecordedAnswers(rows, "file").fill(draft("1", "Second?"), BENCHMARK)
    assert isinstance(filled, EvalDraft) and filled.replies[0].text == "two"


def test_one_prompt_of_two_items_is_told_apart_by_its_key() -> None:
    rows = [{"key": "a", "prompt": "Same?", "response": "one"}, {"key": "b", "prompt": "Same?", "response": "two"}]
    filled = RecordedAnswers(rows, "file").fill(draft("b", "Same?"), BENCHMARK)
    assert isinstance(filled, EvalDraft) and filled.replies[0].text == "two"


def test_turns_and_samples_fill_the_steps_and_another_number_is_a_reject() -> None:
    rows = [{"key": "k1", "response": "one"}, {"key": "k1", "response": "two"}]
    filled = RecordedAnswers(rows, "file").fill(draft(), TWO_TURNS)
    assert isinstance(filled, EvalDraft)
    assert [(reply.step, reply.text) for reply in filled.replies] == [("b/turn_1", "one"), ("b/turn_2", "two")]
    short = RecordedAnswers(rows[:1], "file").fill(draft(), TWO_TURNS)
    assert isinstance(short, Rejected) and (short.reason, short.detail) == ("other_number_of_recorded_answers", "file: 1 for k1, 2 wanted")
    none = RecordedAnswers(rows, "file").fill(draft("k2"), BENCHMARK)
    assert isinstance(none, Rejected) and none.reason == "no_recorded_answer"


def test_a_row_without_answer_or_item_is_named() -> None:
    with pytest.raises(RecordError, match="file: row 1 has no answer"):
        RecordedAnswers([{"key": "a", "answer": "x"}, {"key": "b", "answer": 3}], "file")
    with pytest.raises(RecordError, match="file: row 0 names no item"):
        RecordedAnswers([{"answer": "x"}], "file")
