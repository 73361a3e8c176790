"""Answers that a model gave elsewhere, in the forms that benchmarks publish them, found again for the items they answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignray.errors import RecordError
from alignray.evals.benchmark import CANDIDATE, Benchmark
from alignray.schema import EvalDraft, Rejected, Reply

_NAMES = (
    ("key", ("id", "example_id", "task_id", "uid", "question_id", "key")), ("prompt", ("question", "instruction", "prompt_new", "prompt")),
)
"""Columns that name an item, the surest last."""
_ANSWERS = ("response", "output", "completion", "solution", "choices", "messages", "answers", "answer")


class RecordedAnswers:
    """Answers by prompt and by item key."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        """
        Args:
            rows: each names its item (key, question_id, task_id, or the prompt as prompt or instruction) and holds ``answer``,
                ``response``, ``output`` or ``completion`` as text, ``answers`` as a list of texts (turns, samples), or
                ``choices`` as FastChat and the OpenAI API write them. Several rows of one item are its samples. A ``benchmark`` in
                a row limits it to that one.
            name: of the file, for messages.

        Raises:
            RecordError: a row is in none of these forms.
        """
        self._name = name
        self._found: dict[tuple[str, str, str], list[str]] = {}
        for number, row in enumerate(rows):
            answers = _answers(row)
            if not answers:
                raise RecordError(f"{name}: row {number} has no answer; one of these columns holds it: {', '.join(_ANSWERS)}")
            named = [(kind, str(row[column]).strip()) for kind, columns in _NAMES for column in columns
                     if isinstance(row.get(column), str | int)]
            if not named:
                columns = ", ".join(column for _, columns in _NAMES for column in columns)
                raise RecordError(f"{name}: row {number} names no item; one of these columns does: {columns}")
            for kind, item in dict(named).items():
                self._found.setdefault((str(row.get("benchmark", "")), kind, item), []).extend(answers)

    def fill(self, draft: EvalDraft, benchmark: Benchmark) -> EvalDraft | Rejected:
        """The draft with the recorded replies of its candidate's steps; a Rejected where there is none, or not as many."""
        steps = [step.name for step in benchmark.steps if step.role == CANDIDATE]
        found = self._find(draft)
        answers = next((one for one in found if len(one) == len(steps)), found[0] if found else [])
        if len(answers) != len(steps):
            reason = "no_recorded_answer" if not answers else "other_number_of_recorded_answers"
            detail = f"{self._name}: {len(answers)} for {draft.key}, {len(steps)} wanted"
            return Rejected(draft.row_id, f"{draft.benchmark}/read", reason, detail=detail)
        return dataclasses.replace(draft, replies=tuple(Reply(step, text) for step, text in zip(steps, answers, strict=True)))

    def _find(self, draft: EvalDraft) -> list[list[str]]:
        """By prompt, then by key: a file that numbers its rows may count them otherwise than the benchmark does."""
        names = [("prompt", draft.prompt[-1].content.strip()), ("key", draft.key)]
        found = (self._found.get((benchmark, *name)) for name in names for benchmark in (draft.benchmark, ""))
        return [answers for answers in found if answers is not None]


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
            return tuple(str(turn.get("content") or "" if isinstance(turn, Mapping) else turn) for turn in value["turns"])
        elif isinstance(value, Mapping) and isinstance(value.get("message"), Mapping):
            texts.append(str(value["message"].get("content") or ""))
        elif isinstance(value, Mapping) and value.get("role") == "assistant":
            texts.append(_content(value.get("content")))
    return tuple(texts)


def _content(value: Any) -> str:
    """A turn's text; Arena-Hard keeps it as {"answer": ...}."""
    return str(value.get("answer", "")) if isinstance(value, Mapping) else str(value or "")
