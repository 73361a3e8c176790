"""What a benchmark is: a reader of its official files, the questions it asks, a score per item, a summary of many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from alignray.config import Config
from alignray.schema import ChatRequest, Completion, EvalDraft, Figure, Rejected, Reply, Score, ScoredItem
from alignray.steps import PromptStep

Files = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of each official file, by the field of the config that names the file."""
CANDIDATE, JUDGE = "candidate", "judge"
"""Roles: the model that is measured, the model that judges."""


class BenchmarkConfig(Config):
    """What all benchmarks' configs share; each adds ``kind``, a Literal, and its own switches."""

    kind: str
    max_items: int | None = pydantic.Field(default=None, ge=1)
    """The first so many items only, for a trial; the report says so."""

    def files(self) -> dict[str, str]:
        """Paths or URLs to read, by name; JSON, JSON lines and CSV (each may end in .gz) become rows, a text file one row {"text": ...}."""
        raise NotImplementedError


@dataclass(frozen=True)
class Summary:
    """What the scores of one candidate come to."""

    figures: tuple[Figure, ...]
    details: dict[str, Any] = field(default_factory=dict)
    """Plain JSON for the report: curves, tables, notes that a reader has to know."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark as plain functions."""

    name: str
    read: Callable[[Files], Iterator[EvalDraft | Rejected]]
    """Items in file order; ``row_id`` is of benchmark and key, the pipeline makes it the candidate's own."""
    steps: tuple[PromptStep[EvalDraft, EvalDraft], ...]
    """Answers first, role candidate; then what the judge is asked."""
    score: Callable[[EvalDraft], tuple[Score, ...]]
    """Every metric of an answered and judged item."""
    summarize: Callable[[Sequence[ScoredItem]], Summary]
    """Over all scored items of one candidate."""
    check: Callable[[], None] = lambda: None
    """Raises ConfigError on a machine that cannot score; called on one before answers are paid for."""


def reply_of(draft: EvalDraft, step: str) -> Reply | None:
    """The reply to a step; None where it was not asked."""
    return next((reply for reply in draft.replies if reply.step == step), None)


def with_reply(draft: EvalDraft, step: str, completion: Completion | None) -> EvalDraft:
    """The draft with what a step was answered; as it was where nothing was asked. For a step's ``parse``."""
    if completion is None:
        return draft
    return dataclasses.replace(
        draft, replies=(*draft.replies, Reply(step, completion.text, completion.finish_reason)),
        prompt_tokens=draft.prompt_tokens + completion.prompt_tokens,
        completion_tokens=draft.completion_tokens + completion.completion_tokens, cost_usd=draft.cost_usd + completion.cost_usd,
    )


def answer_step(name: str, *, max_new_tokens: int | None = None, temperature: float | None = None) -> PromptStep[EvalDraft, EvalDraft]:
    """The candidate answers the item's prompt; a reply that is there already (recorded answers) is kept and nothing is asked."""

    def build(draft: EvalDraft) -> ChatRequest | None:
        if reply_of(draft, name) is not None:
            return None
        return ChatRequest(draft.prompt, max_new_tokens=max_new_tokens, temperature=temperature)

    def parse(draft: EvalDraft, completion: Completion | None) -> EvalDraft | Rejected:
        return with_reply(draft, name, completion)

    return PromptStep(name=name, role=CANDIDATE, takes=EvalDraft, build=build, parse=parse)
