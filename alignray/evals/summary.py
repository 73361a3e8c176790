"""Figures of a benchmark from the scores of its items."""

from __future__ import annotations

from collections.abc import Sequence

from alignray.evals.statistics import mean_interval
from alignray.schema import Figure, Score, ScoredItem


def mean_figures(items: Sequence[ScoredItem], metrics: Sequence[str], *, by_category: bool = True) -> tuple[Figure, ...]:
    """Weighted mean of each metric, over all items and then by category in alphabetical order.

    Scores with a problem are left out of the mean. ``num`` counts the items with a score, ``num_unscored`` those with a
    problem; an item with several scores of one metric can count in both. Items without the metric count in neither. The
    interval is 95 %, clustered by the items' group.
    """
    categories = sorted({item.category for item in items if item.category}) if by_category else []
    figures = []
    for metric in metrics:
        for category in ("", *categories):
            inside = [item for item in items if category in ("", item.category)]
            if category and not any(score.metric == metric for item in inside for score in item.scores):
                continue
            figures.append(mean_figure(inside, metric, category=category))
    return tuple(figures)


def mean_figure(items: Sequence[ScoredItem], metric: str, *, category: str = "") -> Figure:
    """One metric's weighted mean over the items given; ``category`` only names the figure."""
    scored: list[tuple[ScoredItem, Score]] = []
    num, num_unscored = 0, 0
    for item in items:
        scores = [score for score in item.scores if score.metric == metric]
        good = [score for score in scores if not score.problem]
        scored += [(item, score) for score in good]
        num += bool(good)
        num_unscored += len(good) < len(scores)
    if not any(score.weight > 0 for _, score in scored):
        return Figure(metric, category, None, None, None, num, num_unscored)
    estimate = mean_interval(
        [score.value for _, score in scored], [item.group for item, _ in scored], [score.weight for _, score in scored],
    )
    return Figure(metric, category, estimate.value, estimate.low, estimate.high, num, num_unscored)
