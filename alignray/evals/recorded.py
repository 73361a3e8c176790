"""Answers that a model gave elsewhere, in the forms that benchmarks publish them, found again for the items they answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignray.errors import RecordError
from alignray.evals.benchmark import CANDIDATE, Benchmark
from alignray.schema import EvalDraft, Rejected, Reply

_KEYS = ("key", "question_id", "uid", "task_id", "example_id", "id")
_PROMPTS = ("prompt", "prompt_new", "instruction", "question")
_ANSWERS = ("answers", "answer", "response", "output", "completion", "solution", "choices", "messages")


class RecordedAnswers:
    """Answers by item key and by prompt."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        """
        Args:
            rows: each names its item (key, question_id, task_id, or the prompt as prompt or instruction) and holds ``answer``,
                ``response``, ``output`` or ``completion`` as text, ``answers`` as a list of texts (turns, samples), or
                ``choices`` as FastChat and the OpenAI API write them. A ``benchmark`` in a row limits it to that one.
            name: of the file, for messages.

        Raises:
            RecordError: a row is in none of these forms.
        """
        self._name = name
        self._by_key: dict[tuple[str, str], tuple[str, ...]] = {}
        for number, row in enumerate(rows):
            answers = _answers(row)
            if not answers:
                raise RecordError(f"{name}: row {number} has no answer; one of these columns holds it: {', '.join(_ANSWERS)}")
            names = {str(row[column]) for column in (*_KEYS, *_PROMPTS) if isinstance(row.get(column), str | int)}
            if not names:
                raise RecordError(f"{name}: row {number} names no item; one of these columns does: {', '.join((*_KEYS, *_PROMPTS))}")
            for item in names:
                self._by_key.setdefault((str(row.get("benchmark", "")), item.strip()), answers)

    def fill(self, draft: EvalDraft, benchmark: Benchmark) -> EvalDraft | Rejected:
        """The draft with the recorded replies of its candidate's steps; a Rejected where there is none, or too few."""
        steps = [step.name for step in benchmark.steps if step.role == CANDIDATE]
        answers = self._find(draft)
        if len(answers) < len(steps):
            reason = "no_recorded_answer" if not answers else "too_few_recorded_answers"
            return Rejected(draft.row_id, f"{draft.benchmark}/read", reason, detail=f"{self._name}: {draft.key}")
        replies = tuple(Reply(step, text) for step, text in zip(steps, answers, strict=False))
        return dataclasses.replace(draft, replies=replies)

    def _find(self, draft: EvalDraft) -> tuple[str, ...]:
        for name in (draft.key, draft.prompt[-1].content.strip()):
            for benchmark in (draft.benchmark, ""):
                if (found := self._by_key.get((benchmark, name))) is not None:
                    return found
        return ()


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    for column in _ANSWERS:
        value = row.get(column)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and value:
            return _texts(value)
    return ()


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    """Texts of a list: texts, FastChat's choices with turns, the API's choices with a message."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, Mapping) and isinstance(value.get("turns"), list):
            return tuple(str(turn["content"] if isinstance(turn, Mapping) else turn) for turn in value["turns"])
        elif isinstance(value, Mapping) and isinstance(value.get("message"), Mapping):
            texts.append(str(value["message"].get("content") or ""))
        elif isinstance(value, Mapping) and value.get("role") == "assistant":
            texts.append(_content(value.get("content")))
    return tuple(texts)


def _content(value: Any) -> str:
    """A turn's text; Arena-Hard keeps it as {"answer": ...}."""
    return str(value.get("answer", "")) if isinstance(value, Mapping) else str(value or "")
