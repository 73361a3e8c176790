"""Records of evaluation: an item on its way from question to score, and what the scores of many come to."""

from __future__ import annotations

from dataclasses import dataclass

from alignray.schema.chat import Message


@dataclass(frozen=True)
class Reply:
    """One answer of a model on the way to a score: the candidate's or a judge's."""

    step: str
    """Of the prompt step that asked, "ifeval/answer", "mt_bench/judge"."""
    text: str
    finish_reason: str = "stop"


@dataclass(frozen=True)
class EvalDraft:
    """One item of a benchmark for one candidate, while it is answered and judged."""

    row_id: str
    """Of benchmark, item and candidate."""
    benchmark: str
    """Such as "ifeval" or "followbench/content"."""
    key: str
    """The item's name in the official file."""
    group: str
    """Items of a group are not independent (levels of one initial instruction); intervals are clustered by it."""
    category: str
    """Table column of the item: task, level or domain; empty where the benchmark has none."""
    prompt: tuple[Message, ...]
    """What the candidate is asked first."""
    facts: str
    """What the scorer and the judge's prompt need (reference, choices, rules), as JSON written by the benchmark's reader."""
    replies: tuple[Reply, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Score:
    """One number of one item."""

    metric: str
    value: float
    """In the metric's own unit; 0 where there is a problem."""
    weight: float = 1.0
    """Share in the metric's mean: an item with three instructions weighs 3 in an accuracy over instructions."""
    problem: str = ""
    """Why there is no score ("unreadable", "cut_at_max_tokens", ...): counted, and never part of a mean."""


@dataclass(frozen=True)
class ScoredItem:
    """One row of an evaluation's output."""

    row_id: str
    candidate: str
    """Name of the model in the config."""
    benchmark: str
    key: str
    group: str
    category: str
    prompt: tuple[Message, ...]
    facts: str
    replies: tuple[Reply, ...]
    scores: tuple[Score, ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Figure:
    """A metric over many items, with its 95 % interval."""

    metric: str
    category: str
    """Empty: over all."""
    value: float | None
    """None where no item has a score."""
    low: float | None
    high: float | None
    num: int
    """Items with a score."""
    num_unscored: int


@dataclass(frozen=True)
class ConstructedItem:
    """One level of one example of a benchmark that ``alignray construct`` grew."""

    row_id: str
    """Of the initial instruction, its category and the level."""
    example_id: int
    """From 1 on within a category, as in the official files."""
    category: str
    """content, situation, style, format, example or mixed: the file that the item belongs to."""
    kinds: str
    """Kinds of the constraints so far where they are mixed, "content, format"; else empty."""
    source: str
    level: int
    """0 is the initial instruction; each level has one constraint (in example: one noise template) more than the one before."""
    instruction: str
    target: str
    """The template that an answer has to fill, in example; else empty."""
    answer: str
    """The true answer in its template, in example; else empty."""
    added_constraint: str
    """What this level added, in the generator's words; in example the form of answers that came in."""
    review: str
    """unreviewed, accepted or rejected, by people."""
