"""Two candidates, or many, on the items that all of them have scores for: who is ahead, and where that cannot be said."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignray.evals.statistics import PairedTest, paired_test
from alignray.schema import ScoredItem

NOT_SEPARABLE = "not separable"

ItemKey = tuple[str, str]
"""Benchmark and item."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two candidates on their common items."""

    benchmark: str
    metric: str
    first: str
    second: str
    test: PairedTest
    num_left_out: int
    """Items that only one of the two has a score for."""

    @property
    def is_separable(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        low, high = self.test.difference.low, self.test.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)

    @property
    def verdict(self) -> str:
        """Name of the candidate with the higher mean, or that the two are not separable."""
        if not self.is_separable or self.test.difference.value is None:
            return NOT_SEPARABLE
        return self.first if self.test.difference.value > 0 else self.second


@dataclass(frozen=True)
class Ranking:
    """Candidates in tiers, the best first; within a tier no order is claimed."""

    metric: str
    tiers: tuple[tuple[str, ...], ...]
    means: Mapping[str, float]
    """Over the items that all candidates have a score for."""
    comparisons: tuple[Comparison, ...]
    """Of every pair, at ``level``."""
    num_items: int
    level: float
    """Of each pair's interval, so that all of them hold together with the probability asked for (Bonferroni)."""

    @property
    def is_full(self) -> bool:
        """Whether every candidate has a place of its own."""
        return all(len(tier) == 1 for tier in self.tiers)

    @property
    def statement(self) -> str:
        """The ranking in words: "a > b = c (not separable)"; "=" claims no equality."""
        said = " > ".join(" = ".join(tier) for tier in self.tiers)
        return said if self.is_full else f"{said} ({NOT_SEPARABLE})"


def compare(
    first: Sequence[ScoredItem], second: Sequence[ScoredItem], metric: str, *, seed: int = 0, level: float = 0.95,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """The metric of two candidates over their common items, clustered by group.

    An item's value is the weighted mean of its scores of the metric, its weight their sum, as in ``mean_figures``.

    Args:
        names: of the two; None: those of the items.
    """
    values, others = item_values(first, metric), item_values(second, metric)
    common = sorted(values.keys() & others.keys())
    test = paired_test(
        [values[key][0] for key in common], [others[key][0] for key in common], [values[key][2] for key in common],
        weights=[values[key][1] for key in common], second_weights=[others[key][1] for key in common], seed=seed, level=level,
    )
    one, other = names or (_name(first), _name(second))
    benchmarks = sorted({item.benchmark for item in first} & {item.benchmark for item in second})
    return Comparison(", ".join(benchmarks), metric, one, other, test, num_left_out=len(values.keys() ^ others.keys()))


def compare_runs(
    first: Sequence[ScoredItem], second: Sequence[ScoredItem], *, seed: int = 0, level: float = 0.95,
) -> tuple[Comparison, ...]:
    """Every metric of every benchmark that one candidate of each of two runs has in common."""
    found = []
    for benchmark in sorted({item.benchmark for item in first} & {item.benchmark for item in second}):
        sides = [[item for item in run if item.benchmark == benchmark] for run in (first, second)]
        metrics = [{score.metric for item in side for score in item.scores} for side in sides]
        found += [compare(sides[0], sides[1], metric, seed=seed, level=level) for metric in sorted(metrics[0] & metrics[1])]
    return tuple(found)


def rank(
    candidates: Mapping[str, Sequence[ScoredItem]], metric: str, *, higher_is_better: bool = True, seed: int = 0, level: float = 0.95,
) -> Ranking:
    """Candidates in tiers by a metric's mean over the items that all have a score for.

    Between two tiers every candidate of the upper is separable from every one of the lower; where that fails the tiers are one, even
    if some pairs in it are separable. With 0 in the interval of a difference no order is claimed.
    """
    values = {name: item_values(items, metric) for name, items in candidates.items()}
    common = frozenset.intersection(*(frozenset(found) for found in values.values())) if values else frozenset()
    shared = {name: [item for item in items if (item.benchmark, item.key) in common] for name, items in candidates.items()}
    means = {name: _mean([found[key][:2] for key in sorted(common)]) for name, found in values.items()} if common else {}
    order = sorted(candidates, key=lambda name: (means.get(name, 0.0) * (-1 if higher_is_better else 1), name))
    num_pairs = max(1, len(order) * (len(order) - 1) // 2)
    level = 1 - (1 - level) / num_pairs
    comparisons = {
        (one, other): compare(shared[one], shared[other], metric, seed=seed, level=level, names=(one, other))
        for place, one in enumerate(order) for other in order[place + 1 :]
    }
    tiers: list[tuple[str, ...]] = []
    start = 0
    for cut in range(1, len(order) + 1):
        if cut == len(order) or all(comparisons[one, other].is_separable for one in order[:cut] for other in order[cut:]):
            tiers.append(tuple(order[start:cut]))
            start = cut
    return Ranking(metric, tuple(tiers), means, tuple(comparisons.values()), len(common), level)


def item_values(items: Sequence[ScoredItem], metric: str) -> dict[ItemKey, tuple[float, float, Hashable]]:
    """Value, weight and group of each item with a score of the metric; what has a problem or no weight is left out."""
    found: dict[ItemKey, tuple[float, float, Hashable]] = {}
    for item in items:
        scores = [score for score in item.scores if score.metric == metric and not score.problem]
        weight = sum(score.weight for score in scores)
        if weight > 0:
            value = sum(score.value * score.weight for score in scores) / weight
            found[item.benchmark, item.key] = value, weight, (item.benchmark, item.group)
    return found


def _mean(rows: Sequence[tuple[float, float]]) -> float:
    return float(np.average([row[0] for row in rows], weights=[row[1] for row in rows]))


def _name(items: Sequence[ScoredItem]) -> str:
    return ", ".join(sorted({item.candidate for item in items}))
