"""Scores of an item, and what the scores of all items come to."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignray.evals.benchmark import Summary, reply_of
from alignray.evals.followbench.config import CATEGORIES, FollowBenchConfig
from alignray.evals.followbench.items import LEVELS, Facts
from alignray.evals.followbench.judge import AGAIN, ANSWER, ASK, verdict_of
from alignray.evals.followbench.metrics import (
    LEVEL_WEIGHTS,
    Agreement,
    Consistency,
    Verdict,
    agreement,
    consistent_satisfaction_levels,
    failure_consistency,
    failure_consistency_pairwise,
    hard_satisfaction_rate,
    is_hard,
    readable_groups,
    soft_satisfaction_rate,
)
from alignray.evals.followbench.rules import EXAMPLE, RuleVerdict, Variant, check_rule
from alignray.evals.followbench.templates import answer_is_right
from alignray.evals.statistics import calibration_of, corrected_rate, mean_interval
from alignray.schema import EvalDraft, Figure, Score, ScoredItem

HSR, SSR = "hsr", "ssr"
"""Of the rules as the authors have them; with ``_fixed``: mended. Judged items count alike in both."""
HSR_ANSWER = "hsr_answer"
"""Of example items alone: in form and right. Their hsr is the share in form, the official measure."""
CSL_OF = {"hsr": "csl", "hsr_fixed": "csl_fixed", HSR_ANSWER: "csl_answer"}
NO_ANSWER, NO_VERDICT, UNREADABLE = "no_answer", "no_verdict", "unreadable"
JUDGE_FAILURE = "judge_failure_rate"


# ---- one item


def score_item(draft: EvalDraft, *, config: FollowBenchConfig) -> tuple[Score, ...]:
    """hsr, hsr_fixed and, but for examples, ssr and ssr_fixed; for examples with a true answer hsr_answer. Each in [0, 1]."""
    facts = Facts.from_json(draft.facts)
    metrics = _metrics_of(facts)
    answer = reply_of(draft, ANSWER)
    if answer is None:
        return _unscored(metrics, NO_ANSWER)
    if facts.rule:
        return tuple(Score(metric, _rule_value(metric, facts, answer.text, config)) for metric in metrics)
    verdict = verdict_of(draft.replies, facts, config.judge.parser)
    if verdict is None:
        return _unscored(metrics, UNREADABLE if reply_of(draft, ASK) is not None else NO_VERDICT)
    return tuple(Score(metric, _rate(metric, verdict)) for metric in metrics)


def _metrics_of(facts: Facts) -> tuple[str, ...]:
    if facts.rule == EXAMPLE:
        return (HSR, f"{HSR}_fixed", *([HSR_ANSWER] if facts.gold else []))
    return HSR, SSR, f"{HSR}_fixed", f"{SSR}_fixed"


def _unscored(metrics: Iterable[str], problem: str) -> tuple[Score, ...]:
    return tuple(Score(metric, 0.0, problem=problem) for metric in metrics)


def _rate(metric: str, bits: tuple[bool, ...]) -> float:
    """What one item adds to a rate: the rate of it alone."""
    rate = hard_satisfaction_rate([bits]) if metric.startswith(HSR) else soft_satisfaction_rate([bits])
    assert rate is not None, "there is an item"
    return rate


def _rule_value(metric: str, facts: Facts, answer: str, config: FollowBenchConfig) -> float:
    if metric == HSR_ANSWER:
        return float(answer_is_right(answer, facts.target, facts.gold))
    verdict = rule_verdict(facts, answer, "fixed" if metric.endswith("_fixed") else "original")
    is_soft = metric.startswith(SSR) and config.ssr_rules == "per_constraint"
    return _rate(SSR if is_soft else HSR, verdict.bits)


def rule_verdict(facts: Facts, answer: str, variant: Variant) -> RuleVerdict:
    """What the item's rule says of an answer."""
    verdict = check_rule(
        facts.rule, answer, language=facts.language, level=facts.level, target=facts.target, gold=facts.gold, variant=variant,
    )
    assert verdict is not None, facts.rule
    return verdict


# ---- many items


@dataclass(frozen=True)
class _Row:
    """One item with what it counts."""

    facts: Facts
    group: str
    scores: Mapping[str, Score]
    item: ScoredItem

    def value(self, metric: str, config: FollowBenchConfig) -> float | None:
        score = self.scores[metric]
        if not score.problem:
            return score.value
        return 0.0 if score.problem == UNREADABLE and config.unreadable == "unsatisfied" else None


def summarize(items: Sequence[ScoredItem], *, config: FollowBenchConfig) -> Summary:
    """Rates, CSL, failure consistency and the judge's failures with 95 % intervals, and the curves behind them.

    A rate over all is the plain mean over categories and levels (thesis 7.3), each category at each level weighing the same; SSR
    has no example items. Intervals are clustered by initial instruction.
    """
    rows = [_Row(Facts.from_json(item.facts), item.group, {score.metric: score for score in item.scores}, item) for item in items]
    metrics = [metric for metric in (HSR, SSR, f"{HSR}_fixed", f"{SSR}_fixed", HSR_ANSWER) if any(metric in row.scores for row in rows)]
    figures = [figure for metric in metrics for figure in _rate_figures(rows, metric, config)]
    consistency: dict[str, Any] = {}
    for metric in metrics:
        if metric in CSL_OF:
            groups = _groups(rows, metric, config)
            figures += _csl_figures(groups, CSL_OF[metric])
            consistency |= _consistency(groups, metric)
            figures += _consistency_figures(groups, metric)
    judge, failures = _judge(rows, config)
    details = {
        "language": config.language, "aggregation": config.aggregation, "ssr_rules": config.ssr_rules, "unreadable": config.unreadable,
        "max_items": config.max_items, "curves": {metric: _curves(rows, metric, config) for metric in metrics},
        "radar": _radar(figures), "failure_consistency": consistency, "judge": judge, "rules": _rule_changes(rows),
        "human_agreement": _human_agreement(rows, config),
    }
    return Summary((*figures, *failures), details)


def _cells(rows: Iterable[_Row], metric: str) -> dict[tuple[str, int], list[_Row]]:
    cells: dict[tuple[str, int], list[_Row]] = {}
    for row in rows:
        if metric in row.scores:
            cells.setdefault((row.facts.category, row.facts.level), []).append(row)
    return cells


def _rate_figures(rows: Sequence[_Row], metric: str, config: FollowBenchConfig) -> list[Figure]:
    cells = _cells(rows, metric)
    figures = [_rate_figure(cells, metric, "", config)]
    for level in LEVELS:
        inside = {place: found for place, found in cells.items() if place[1] == level}
        figures += [_rate_figure(inside, metric, f"level_{level}", config)] if inside else []
    for category in CATEGORIES:
        inside = {place: found for place, found in cells.items() if place[0] == category}
        figures += [_rate_figure(inside, metric, category, config)] if inside else []
    return figures


def _rate_figure(cells: Mapping[tuple[str, int], Sequence[_Row]], metric: str, name: str, config: FollowBenchConfig) -> Figure:
    """Weighted mean of the cells' means: an item weighs its cell's share over the cell's items."""
    values, groups, weights, num_unscored = [], [], [], 0
    for (_, level), inside in cells.items():
        scored = [(row, value) for row in inside if (value := row.value(metric, config)) is not None]
        num_unscored += len(inside) - len(scored)
        share = LEVEL_WEIGHTS[level - 1] if config.aggregation == "level_weighted" else 1
        values += [value for _, value in scored]
        groups += [row.group for row, _ in scored]
        weights += [share / len(scored) for _ in scored]
    return _figure(metric, name, values, groups, weights, num_unscored)


def _figure(
    metric: str, category: str, values: Sequence[float], groups: Sequence[str], weights: Sequence[float], num_unscored: int,
) -> Figure:
    if not values:
        return Figure(metric, category, None, None, None, 0, num_unscored)
    estimate = mean_interval(values, groups, _leveled(weights))
    return Figure(metric, category, estimate.value, estimate.low, estimate.high, estimate.num, num_unscored)


def _leveled(weights: Sequence[float]) -> Sequence[float] | None:
    """None for weights that are all the same, so that values that stand each for itself are seen as such."""
    return weights if min(weights) != max(weights) else None


# ---- groups


@dataclass(frozen=True)
class _Group:
    """The hard bits of one initial instruction's levels."""

    name: str
    category: str
    levels: tuple[bool, ...] | None
    """None where a level is missing or has no score."""


def _groups(rows: Iterable[_Row], metric: str, config: FollowBenchConfig) -> list[_Group]:
    found: dict[str, dict[int, bool | None]] = {}
    categories: dict[str, str] = {}
    for row in rows:
        if metric in row.scores:
            value = row.value(metric, config)
            found.setdefault(row.group, {})[row.facts.level] = None if value is None else value == 1
            categories[row.group] = row.facts.category
    groups = []
    for name, levels in found.items():
        whole = readable_groups([[levels.get(level) for level in LEVELS]], "excluded")
        groups.append(_Group(name, categories[name], tuple(whole[0]) if whole else None))
    return groups


def _by_category(groups: Sequence[_Group]) -> list[tuple[str, list[_Group]]]:
    named = [(category, [group for group in groups if group.category == category]) for category in CATEGORIES]
    return [("", list(groups)), *((category, inside) for category, inside in named if inside)]


def _csl_figures(groups: Sequence[_Group], metric: str) -> list[Figure]:
    """Levels, 0 to 5; over all the plain mean of the categories'."""
    figures = []
    for name, inside in _by_category(groups):
        whole = [(group, group.levels) for group in inside if group.levels is not None]
        sizes = Counter(group.category for group, _ in whole)
        reached = [csl for _, levels in whole if (csl := consistent_satisfaction_levels([levels])) is not None]
        figures.append(_figure(
            metric, name, reached, [group.name for group, _ in whole],
            [1 / sizes[group.category] for group, _ in whole], len(inside) - len(whole),
        ))
    return figures


def _suffix(metric: str) -> str:
    return metric.removeprefix(HSR)


def _consistency_figures(groups: Sequence[_Group], metric: str) -> list[Figure]:
    """Share of failing groups, or failing levels, that go on failing; groups weigh the same whatever their category (7.4.3)."""
    figures = []
    for measure, counts in (("failure_consistency", failure_consistency), ("failure_consistency_pairwise", failure_consistency_pairwise)):
        for name, inside in _by_category(groups):
            whole = [(group.name, counts([group.levels])) for group in inside if group.levels is not None]
            bits = [(group, place < count.num_consistent) for group, count in whole for place in range(count.num)]
            figures.append(_figure(
                measure + _suffix(metric), name, [float(bit) for _, bit in bits], [group for group, _ in bits], [1.0] * len(bits),
                len(inside) - len(whole),
            ))
    return figures


def _consistency(groups: Sequence[_Group], metric: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, inside in _by_category(groups):
        whole = [group.levels for group in inside if group.levels is not None]
        table[name or "all"] = {
            "group": _counts(failure_consistency(whole)), "pairwise": _counts(failure_consistency_pairwise(whole)),
            "num_groups": len(whole), "num_groups_left_out": len(inside) - len(whole),
        }
    return {metric: table}


def _counts(consistency: Consistency) -> dict[str, Any]:
    return {"num_consistent": consistency.num_consistent, "num": consistency.num, "rate": consistency.rate}


# ---- details


def _curves(rows: Sequence[_Row], metric: str, config: FollowBenchConfig) -> dict[str, list[dict[str, Any]]]:
    """By category, and for "all", a point per level."""
    cells = _cells(rows, metric)
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in ("all", *CATEGORIES):
        for level in LEVELS:
            inside = {place: found for place, found in cells.items() if place[1] == level and name in ("all", place[0])}
            if inside:
                figure = _rate_figure(inside, metric, "", config)
                point = {"level": level, "value": figure.value, "low": figure.low, "high": figure.high}
                curves.setdefault(name, []).append({**point, "num": figure.num, "num_unscored": figure.num_unscored})
    return curves


def _radar(figures: Iterable[Figure]) -> dict[str, dict[str, float | None]]:
    """A value per category, for each rate and CSL."""
    radar: dict[str, dict[str, float | None]] = {}
    for figure in figures:
        if figure.category in CATEGORIES and figure.metric.startswith((HSR, SSR, "csl")):
            radar.setdefault(figure.metric, {})[figure.category] = figure.value
    return radar


def _judge(rows: Sequence[_Row], config: FollowBenchConfig) -> tuple[dict[str, Any], list[Figure]]:
    """How often the judge was asked and could not be read in the end."""
    asked = [row for row in rows if any(reply.step == ASK for reply in row.item.replies)]
    failed = [float(row.scores[HSR].problem == UNREADABLE) for row in asked]
    again = sum(any(reply.step in AGAIN for reply in row.item.replies) for row in asked)
    num_rules = sum(bool(row.facts.rule) for row in rows)
    details = {
        "prompt": config.judge.prompt, "form": config.judge.form, "parser": config.judge.parser, "num_judged": len(asked),
        "num_rule_checked": num_rules, "num_asked_again": again, "num_unreadable": int(sum(failed)),
        "failure_rate": sum(failed) / len(failed) if failed else None,
    }
    if not asked:
        return details, []
    return details, [_figure(JUDGE_FAILURE, "", failed, [row.group for row in asked], [1.0] * len(asked), 0)]


def _rule_changes(rows: Iterable[_Row]) -> dict[str, dict[str, int]]:
    """By rule, how many items pass as the authors check, mended, and how many verdicts differ."""
    table: dict[str, Counter[str]] = {}
    for row in rows:
        original, fixed = row.scores[HSR], row.scores[f"{HSR}_fixed"]
        if row.facts.rule and not original.problem:
            counts = table.setdefault(row.facts.rule, Counter(num=0, original=0, fixed=0, differ=0))
            counts.update(num=1, original=int(original.value), fixed=int(fixed.value), differ=int(original.value != fixed.value))
    return {rule: dict(counts) for rule, counts in sorted(table.items())}


def _human_agreement(rows: Sequence[_Row], config: FollowBenchConfig) -> dict[str, Any] | None:
    """The judge beside humans on all labelled items that it could decide: by item (all satisfied or not) and by constraint (7.4.1)."""
    labelled = [row for row in rows if row.facts.human is not None and not row.facts.rule]
    if not labelled:
        return None
    read = [(row.facts.human, verdict) for row in labelled if (verdict := verdict_of(row.item.replies, row.facts, config.judge.parser))]
    pairs = [(human, verdict) for human, verdict in read if human is not None]
    by_item = agreement([bool(is_hard(verdict)) for _, verdict in pairs], [bool(is_hard(human)) for human, _ in pairs])
    flat = [(bit, label) for human, verdict in pairs for bit, label in zip(verdict, human, strict=True)]
    by_constraint = agreement([bit for bit, _ in flat], [label for _, label in flat])
    return {
        "prompt": config.judge.prompt, "num_labelled": len(labelled), "num_undecided": len(labelled) - len(pairs),
        "item": _agreement(by_item), "constraint": _agreement(by_constraint), "corrected_hsr": _corrected_hsr(rows, pairs),
    }


def _corrected_hsr(rows: Sequence[_Row], pairs: Sequence[tuple[Verdict, Verdict]]) -> dict[str, Any]:
    """HSR of the judged items, each weighing the same, as humans would find it: the judge's errors on the labelled items taken out.

    Without a value where the labels do not show the judge to be better than chance. It holds for labels of items drawn at random.

    Args:
        pairs: verdicts of humans and judge on the labelled items.
    """
    judged = [row for row in rows if not row.facts.rule and not row.scores[HSR].problem]
    calibration = calibration_of((bool(is_hard(human)), bool(is_hard(verdict))) for human, verdict in pairs)
    return dataclasses.asdict(corrected_rate([row.scores[HSR].value for row in judged], calibration, [row.group for row in judged]))


def _agreement(found: Agreement) -> dict[str, Any]:
    return dataclasses.asdict(found)
