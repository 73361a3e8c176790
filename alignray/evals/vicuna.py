"""Vicuna-80: a candidate's scores beside a reference model's, by one question (setting 1) or many in both orders (setting 2).

Source: thesis arXiv:2506.09329, section 3 (Lion); multiple evidence and balanced position calibration are those of
arXiv:2305.17926.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pydantic

from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step
from alignray.evals.judged import (
    LOSS,
    TIE,
    UNREADABLE,
    WIN,
    Question,
    answers_by_id,
    as_outcome,
    consistency_score,
    facts_of,
    facts_text,
    failure_scores,
    json_object,
    judge_details,
    judge_figures,
    judge_steps,
    kappa_figure,
    number_schema,
    numbered_labels,
    read_questions,
    text_of,
    verdict_of,
)
from alignray.evals.summary import mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Message, Rejected, Score, ScoredItem

ANSWER = "vicuna/answer"
Scores = tuple[float, float]
"""Of assistant 1 and assistant 2, or (``_pair``) of candidate and reference model."""


class VicunaConfig(BenchmarkConfig):
    """Vicuna-80 in one of the thesis's two settings."""

    kind: Literal["vicuna"] = "vicuna"
    questions: str
    """Official question.jsonl of vicuna_bench."""
    reference: str
    """Recorded answers of the reference model; questions that it did not answer are set aside."""
    setting: Literal[1, 2] = 2
    """1: one question, the reference model first, scores before reasons. 2: ``num_evidence`` questions in each order, reasons first."""
    num_evidence: int = pydantic.Field(3, ge=1)
    """Judge samples in each order, setting 2; each is a step of its own, for which the runtime draws a seed."""
    judge_temperature: float = 1.0
    """Of setting 2's samples; setting 1 asks at 0."""
    labels: str | None = None
    """Human labels for kappa: rows of question_id and label: win, tie or loss."""
    max_new_tokens: int | None = 1024
    """Of an answer."""

    def files(self) -> dict[str, str]:
        paths = {"questions": self.questions, "reference": self.reference, "labels": self.labels}
        return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True)
class _Asked:
    """A question to the judge, and whether it shows the candidate as assistant 1."""

    question: Question[Scores]
    is_first: bool


def benchmark(config: VicunaConfig, prompts_dir: str | None = None) -> Benchmark:
    """Vicuna-80 of a config."""
    asked = _questions(config, prompts_dir)
    steps = (
        answer_step(ANSWER, max_new_tokens=config.max_new_tokens), *(step for one in asked for step in judge_steps(one.question)),
    )
    name = f"vicuna/setting_{config.setting}"
    return Benchmark(
        name, read=partial(_read, config, name), steps=steps, score=partial(_score, asked), summarize=partial(_summarize, config, asked),
    )


def _questions(config: VicunaConfig, prompts_dir: str | None) -> tuple[_Asked, ...]:
    make = partial(Question, again=load_prompt("vicuna/again", prompts_dir), schema=number_schema("assistant_1", "assistant_2"))
    if config.setting == 1:
        template = load_prompt("vicuna/scores_first", prompts_dir)
        return (_Asked(make("vicuna/judge", ask=partial(_ask, False, template), read=read_scores), is_first=False),)
    template = load_prompt("vicuna/evidence_first", prompts_dir)
    return tuple(
        _Asked(make(
            f"vicuna/judge_{'first' if is_first else 'second'}_{sample + 1}", ask=partial(_ask, is_first, template), read=read_scores,
            temperature=config.judge_temperature,
        ), is_first)
        for is_first in (True, False) for sample in range(config.num_evidence)
    )


def _read(config: VicunaConfig, name: str, files: Files) -> Iterator[EvalDraft | Rejected]:
    reference = answers_by_id(files["reference"], "vicuna.reference")
    labels = numbered_labels(files.get("labels", ()), "vicuna.labels", as_outcome)

    def read_one(row: Mapping[str, Any], key: str, row_id: str) -> EvalDraft | str:
        turns, category = row.get("turns"), row.get("category")
        if not isinstance(turns, list) or not turns or not isinstance(turns[0], str) or not isinstance(category, str):
            return "malformed"
        if key not in reference:
            return "no_reference_answer"
        facts = facts_text({"reference": reference[key][0], "label": labels.get(f"{key}/1")})
        return EvalDraft(
            row_id, benchmark=name, key=key, group=key, category=category, prompt=(Message("user", turns[0]),), facts=facts,
        )

    yield from read_questions(
        files["questions"], read_one, benchmark=name, source="questions", needs="question_id, category and turns",
    )


def _ask(is_first: bool, template: PromptTemplate, draft: EvalDraft) -> str:
    own, reference = text_of(draft, ANSWER), facts_of(draft)["reference"]
    first, second = (own, reference) if is_first else (reference, own)
    return template.render(question=draft.prompt[-1].content, first=first, second=second)


_NUMBER = r"(\d{1,2}(?:\.\d{1,4})?)"
_PAD = r"[ \t*]{0,4}"
_FIRST_LINE = re.compile(rf"{_NUMBER}[ \t]{{0,4}}[ ,\t][ \t]{{0,4}}{_NUMBER}")
_LABELLED = tuple(
    re.compile(rf"^{_PAD}score of (?:the )?assistant {place}{_PAD}:{_PAD}{_NUMBER}(?:/10)?[ \t*.]{{0,4}}$", re.IGNORECASE | re.MULTILINE)
    for place in (1, 2)
)


def read_scores(text: str) -> Scores | None:
    """Scores of assistant 1 and 2: a first line of two numbers, two lines that name them, or JSON; each in 1 to 10, or None.

    The first form is Vicuna's, the second that of arXiv:2305.17926.
    """
    found = json_object(text)
    if found is not None:
        numbers = [found.get("assistant_1"), found.get("assistant_2")]
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
            return None
        return _in_range([float(str(number)) for number in numbers])
    labelled = [{float(number) for number in pattern.findall(text)} for pattern in _LABELLED]
    if any(labelled):
        return _in_range([numbers.pop() for numbers in labelled]) if all(len(numbers) == 1 for numbers in labelled) else None
    line = text.strip().split("\n", 1)[0].strip()
    match = _FIRST_LINE.fullmatch(line)
    return _in_range([float(match[1]), float(match[2])]) if match else None


def _in_range(scores: Sequence[float]) -> Scores | None:
    return (scores[0], scores[1]) if all(1 <= score <= 10 for score in scores) else None


def _pair(draft: EvalDraft | ScoredItem, asked: _Asked) -> Scores | None:
    """Scores of candidate and reference model."""
    scores = verdict_of(draft, asked.question)
    return scores if scores is None or asked.is_first else (scores[1], scores[0])


def _mean(pairs: Sequence[Scores | None]) -> Scores | None:
    """Mean scores of one order; None where no reply of it was readable."""
    readable = [pair for pair in pairs if pair is not None]
    return (sum(pair[0] for pair in readable) / len(readable), sum(pair[1] for pair in readable) / len(readable)) if readable else None


def _orders(draft: EvalDraft | ScoredItem, asked: Sequence[_Asked]) -> list[Scores | None]:
    """Mean scores of each order that was asked, candidate first where it was shown first."""
    return [
        _mean([_pair(draft, one) for one in asked if one.is_first == is_first])
        for is_first in (True, False) if any(one.is_first == is_first for one in asked)
    ]


def _outcome(pair: Scores | None) -> str | None:
    if pair is None:
        return None
    return WIN if pair[0] > pair[1] else LOSS if pair[0] < pair[1] else TIE


def _score(asked: Sequence[_Asked], draft: EvalDraft) -> tuple[Score, ...]:
    """The mean over both orders; an item of which one order is unreadable has no score, as it would not be balanced."""
    orders = _orders(draft, asked)
    whole = _mean(orders) if None not in orders else None
    # weighted by the reference's score, the mean of the ratios is the ratio of the sums: the thesis's relative score
    relative = Score("relative_score", whole[0] / whole[1], whole[1]) if whole else Score("relative_score", 0.0, problem=UNREADABLE)
    own = [Score(metric, whole[place] if whole else 0.0, problem="" if whole else UNREADABLE)
           for place, metric in enumerate(("candidate_score", "reference_score"))]
    consistency = (consistency_score(_outcome(orders[0]), _outcome(orders[1])),) if len(orders) == 2 else ()
    return (relative, *own, *consistency, *failure_scores(_pair(draft, one) for one in asked))


def _summarize(config: VicunaConfig, asked: Sequence[_Asked], items: Sequence[ScoredItem]) -> Summary:
    """Relative score as a ratio (1.02 is the thesis's 102 %) with the interval of a ratio of sums."""
    figures = mean_figures(items, ["relative_score", "candidate_score", "reference_score"])
    pairs = []
    for item in items:
        orders = _orders(item, asked)
        whole, label = _outcome(_mean(orders) if None not in orders else None), facts_of(item).get("label")
        if whole is not None and label is not None:
            pairs.append((item.group, whole, label))
    notes = ["relative_score is sum of the candidate's scores / sum of the reference model's; above 1 the candidate is ahead"]
    if config.setting == 1:
        notes.append("setting 1 asks in one order: position consistency is not measured")
    details: dict[str, Any] = {"judge": judge_details(items), "notes": notes}
    if config.max_items is not None:
        details["max_items"] = config.max_items
    return Summary((*figures, *judge_figures(items), *kappa_figure(pairs)), details)
