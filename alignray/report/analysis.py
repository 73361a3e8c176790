"""Statistics of a dataset for its report: token lengths, diversity, root verbs, ratings. Pure; numpy and word rules only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from alignray.errors import RecordError
from alignray.report.verb_nouns import VerbNounStructure, root_verb_noun, structure_of, verb_noun_structure
from alignray.schema import InstructionRow
from alignray.schema.tokens import estimate_tokens

__all__ = [
    "DIFFICULTY_LEVELS", "QUALITY_LEVELS", "Analysis", "analyze", "diversity", "root_verb_noun", "summarize_ratings",
    "token_length_statistics", "verb_noun_structure",
]

# Magpie's five levels (arXiv:2406.08464), least first
QUALITY_LEVELS = ("very poor", "poor", "average", "good", "excellent")
DIFFICULTY_LEVELS = ("very easy", "easy", "medium", "hard", "very hard")

NUM_BINS = 30


class Histogram(TypedDict):
    """Equal bins [edges[i], edges[i+1]); ``over`` counts what lies at or beyond the last edge."""

    edges: list[float]
    counts: list[int]
    over: int


class LengthSummary(TypedDict):
    """Estimated tokens of one text per row; ``std`` is over the population."""

    count: int
    mean: float
    std: float
    min: int
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    max: int
    histogram: Histogram


class TokenLengths(TypedDict):
    """Request alone, first user turn with its document, and all assistant turns; None without rows."""

    instruction: LengthSummary | None
    prompt: LengthSummary | None
    response: LengthSummary | None


class Diversity(TypedDict):
    """1 - mean pairwise cosine, in [0, 2] (0: all alike), with a percentile bootstrap interval."""

    diversity: float
    low: float
    high: float
    confidence: float
    vectors: int


class LevelCounts(TypedDict):
    """Counts by level, least level first. ``unscored`` answers could not be read and are in no mean."""

    levels: dict[str, int]
    scored: int
    unscored: int
    mean: float | None
    """Mean level, 1 to 5; None when nothing was scored."""


class Ratings(TypedDict):
    """Quality and difficulty of the rated instructions."""

    quality: LevelCounts
    difficulty: LevelCounts


class Analysis(TypedDict):
    """The content of analysis.json; None where an input was not given."""

    version: int
    rows: int
    branches: dict[str, int]
    token_lengths: TokenLengths
    diversity: Diversity | None
    verb_nouns: VerbNounStructure
    ratings: Ratings | None


def analyze(
    rows: Iterable[InstructionRow],
    embeddings: ArrayLike | None = None,
    ratings: Iterable[Mapping[str, str | None]] | None = None,
    *,
    seed: int = 0,
) -> Analysis:
    """Everything the report shows about the rows, as JSON values. Walks the rows once and keeps only their lengths.

    Args:
        rows: all rows of the dataset, in any order.
        embeddings: [N, D] instruction vectors, sampled by the caller (the thesis: 10,000).
        ratings: what a judge said per instruction, under "quality" and "difficulty".
        seed: of the bootstrap.
    """
    lengths, branches, pairs = _Lengths(), Counter[str](), Counter[tuple[str, str]]()
    num_rows = 0
    for row in rows:
        num_rows += 1
        lengths.add(row)
        branches[row.branch] += 1
        pair = root_verb_noun(row.instruction)
        if pair is not None:
            pairs[pair] += 1
    return Analysis(
        version=1,
        rows=num_rows,
        branches=dict(sorted(branches.items())),
        token_lengths=lengths.summary(),
        diversity=None if embeddings is None else diversity(embeddings, seed=seed),
        verb_nouns=structure_of(pairs, total=num_rows),
        ratings=None if ratings is None else summarize_ratings(ratings),
    )


def token_length_statistics(rows: Iterable[InstructionRow]) -> TokenLengths:
    """Token lengths of requests, prompts and responses (thesis, figure B.1), estimated without a tokenizer."""
    lengths = _Lengths()
    for row in rows:
        lengths.add(row)
    return lengths.summary()


class _Lengths:
    """Lengths gathered row by row."""

    def __init__(self) -> None:
        self.instruction: list[int] = []
        self.prompt: list[int] = []
        self.response: list[int] = []

    def add(self, row: InstructionRow) -> None:
        self.instruction.append(estimate_tokens(row.instruction))
        self.prompt.append(estimate_tokens(next((m.content for m in row.messages if m.role == "user"), "")))
        self.response.append(sum(estimate_tokens(m.content) for m in row.messages if m.role == "assistant"))

    def summary(self) -> TokenLengths:
        return TokenLengths(
            instruction=_summarize(self.instruction), prompt=_summarize(self.prompt), response=_summarize(self.response)
        )


def _summarize(lengths: Sequence[int]) -> LengthSummary | None:
    if not lengths:
        return None
    values = np.asarray(lengths, dtype=np.int64)
    p05, p25, p50, p75, p95, p99 = (float(q) for q in np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)))
    width = _round_width(max(p99, 1.0) / NUM_BINS)
    edges = width * np.arange(NUM_BINS + 1)
    counts = np.bincount(np.minimum(values // width, NUM_BINS), minlength=NUM_BINS + 1)
    used = NUM_BINS if counts[-1] else int(np.flatnonzero(counts)[-1]) + 1
    return LengthSummary(
        count=len(values), mean=float(values.mean()), std=float(values.std()), min=int(values.min()),
        p05=p05, p25=p25, p50=p50, p75=p75, p95=p95, max=int(values.max()),
        histogram=Histogram(
            edges=[float(edge) for edge in edges[: used + 1]], counts=[int(c) for c in counts[:used]], over=int(counts[-1])
        ),
    )


def _round_width(width: float) -> int:
    """Least of 1, 2, 5, 10, 20, 25, 50 ... at or over ``width``, so that edges are numbers one can read."""
    scale = 1
    while True:
        for step in (1, 2, 2.5, 5):
            if step * scale >= width and step * scale == int(step * scale):
                return int(step * scale)
        scale *= 10


def diversity(
    embeddings: ArrayLike, *, seed: int = 0, num_resamples: int = 200, confidence: float = 0.95
) -> Diversity | None:
    """1 - mean cosine over all pairs of distinct vectors, or None below two vectors.

    Source: WebR, arXiv:2504.15573 (mean pairwise cosine of 10,000 instructions). No pair is formed: for unit vectors
    the sum over pairs i != j is |sum of vectors|^2 - sum of |vector|^2. The bootstrap draws vectors with replacement and
    leaves a vector's pairs with its own copies out, which would count as cosine 1 and pull the interval down.

    Args:
        embeddings: [N, D]; any length, normalised here. A zero vector is at cosine 0 to everything.

    Raises:
        RecordError: not a matrix of finite numbers.
    """
    given = np.asarray(embeddings, dtype=np.float32)
    if given.size and (given.ndim != 2 or not np.isfinite(given).all()):
        raise RecordError(f"embeddings of shape {given.shape} are no finite [N, D] matrix; embed the instructions again")
    if len(given) < 2:
        return None
    norms = np.linalg.norm(given, axis=1, keepdims=True)
    vectors = (given / np.where(norms > 0, norms, 1)).astype(np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    rng = np.random.default_rng(seed)
    num = len(vectors)
    resamples = [_mean_cosine(vectors, squares, rng.multinomial(num, np.full(num, 1 / num))) for _ in range(num_resamples)]
    finite = [value for value in resamples if value is not None]
    mean = _mean_cosine(vectors, squares, np.ones(num, dtype=np.int64))
    assert mean is not None
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite, (tail, 1 - tail)) if finite else (mean, mean)
    return Diversity(diversity=1 - mean, low=1 - float(high), high=1 - float(low), confidence=confidence, vectors=num)


def _mean_cosine(vectors: np.ndarray, squares: np.ndarray, weights: np.ndarray) -> float | None:
    total = weights.astype(np.float32) @ vectors
    own = weights.astype(np.float64) ** 2
    pairs = float(weights.sum()) ** 2 - float(own.sum())
    if pairs <= 0:  # every draw hit the same vector
        return None
    return float((np.dot(total.astype(np.float64), total.astype(np.float64)) - own @ squares) / pairs)


def summarize_ratings(ratings: Iterable[Mapping[str, str | None]]) -> Ratings:
    """Counts per level of the judge's "quality" and "difficulty"; any other text is unscored, not the lowest level."""
    items = list(ratings)
    return Ratings(
        quality=_count_levels([item.get("quality") for item in items], QUALITY_LEVELS),
        difficulty=_count_levels([item.get("difficulty") for item in items], DIFFICULTY_LEVELS),
    )


def _count_levels(values: Sequence[str | None], levels: Sequence[str]) -> LevelCounts:
    counts = Counter(" ".join(value.lower().split()) for value in values if value is not None)
    by_level = {level: counts[level] for level in levels}
    scored = sum(by_level.values())
    mean = sum(rank * by_level[level] for rank, level in enumerate(levels, start=1)) / scored if scored else None
    return LevelCounts(levels=by_level, scored=scored, unscored=len(values) - scored, mean=mean)
