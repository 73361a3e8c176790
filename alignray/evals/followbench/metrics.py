"""HSR, SSR, CSL, failure consistency, agreement: the thesis' definitions, and beside them the authors' arithmetic for comparison.

Source: thesis 7.3 (Eq. 7.1 to 7.3), 7.4.1 and 7.4.3. Rates are in [0, 1] but for ``original_scores``, which gives the percents of the
authors' tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from alignray.evals.followbench.config import Unreadable
from alignray.evals.statistics import agreement_rate, cohen_kappa

Verdict = tuple[bool, ...] | None
Hard = bool | None
"""Whether all constraints of an item are satisfied; None: no readable verdict."""

LEVEL_WEIGHTS = (1, 2, 3, 4, 5)
"""Of the authors' aggregation script, over 15."""


@dataclass(frozen=True)
class Consistency:
    """How often a failure stays one."""

    num_consistent: int
    num: int

    @property
    def rate(self) -> float | None:
        return self.num_consistent / self.num if self.num else None


@dataclass(frozen=True)
class Agreement:
    """A judge beside humans, on the same items or constraints."""

    num: int
    rate: float | None
    kappa: float | None
    """Cohen's; None where both give one and the same label throughout."""


@dataclass(frozen=True)
class OriginalScores:
    """What the authors' program prints for one category."""

    hsr_percent: tuple[float, ...]
    """By level, two decimals."""
    ssr_percent: tuple[float, ...]
    csl: float
    """One decimal."""
    failure_consistency: Consistency


def is_hard(verdict: Verdict) -> Hard:
    """Whether every constraint is satisfied; None for an unreadable verdict."""
    return None if verdict is None else all(verdict)


def hard_satisfaction_rate(verdicts: Sequence[Verdict], *, unreadable: Unreadable = "excluded") -> float | None:
    """Eq. 7.1 for one level: the share of items with all constraints satisfied; None without any."""
    return _mean([float(all(verdict)) for verdict in _counted(verdicts, unreadable)])


def soft_satisfaction_rate(verdicts: Sequence[Verdict], *, unreadable: Unreadable = "excluded") -> float | None:
    """Eq. 7.2 for one level: the mean share of an item's constraints that are satisfied; None without any."""
    return _mean([sum(verdict) / len(verdict) for verdict in _counted(verdicts, unreadable)])


def satisfied_levels(levels: Sequence[bool]) -> int:
    """Levels from the first on that are satisfied without a gap. Eq. 7.3 leaves open what a failed level 1 gives; here 0."""
    return next((number for number, holds in enumerate(levels) if not holds), len(levels))


def consistent_satisfaction_levels(groups: Sequence[Sequence[Hard]], *, unreadable: Unreadable = "excluded") -> float | None:
    """Eq. 7.3: the mean of ``satisfied_levels``, 0 to 5. A group with an unreadable verdict is left out whole, or counts it as failed."""
    return _mean([float(satisfied_levels(group)) for group in readable_groups(groups, unreadable)])


def failure_consistency(groups: Sequence[Sequence[Hard]], *, unreadable: Unreadable = "excluded") -> Consistency:
    """Of the groups that fail below the last level, those that fail every level after their first failure (7.4.3)."""
    failing = [group for group in readable_groups(groups, unreadable) if not all(group[:-1])]
    return Consistency(sum(not any(group[satisfied_levels(group) :]) for group in failing), len(failing))


def failure_consistency_pairwise(groups: Sequence[Sequence[Hard]], *, unreadable: Unreadable = "excluded") -> Consistency:
    """Of all failed levels below the last, those whose next level fails too."""
    after = [harder for group in readable_groups(groups, unreadable) for easier, harder in pairwise(group) if not easier]
    return Consistency(len(after) - sum(after), len(after))


def readable_groups(groups: Sequence[Sequence[Hard]], unreadable: Unreadable) -> list[list[bool]]:
    """Groups with a verdict on every level; with "unsatisfied", all of them, unreadable verdicts as failures."""
    return [[bool(level) for level in group] for group in groups if unreadable == "unsatisfied" or None not in group]


def mean_over_levels(levels: Sequence[float], *, is_level_weighted: bool = False) -> float:
    """Mean of the five levels' rates, plain or with weights 1 to 5."""
    weights = LEVEL_WEIGHTS if is_level_weighted else (1,) * len(LEVEL_WEIGHTS)
    return sum(weight * rate for weight, rate in zip(weights, levels, strict=True)) / sum(weights)


def agreement(judged: Sequence[bool], human: Sequence[bool]) -> Agreement:
    """A judge's verdicts beside humans' (7.4.1)."""
    return Agreement(len(judged), agreement_rate(judged, human), cohen_kappa(judged, human))


def original_scores(
    judged_groups: Sequence[Sequence[Verdict]], rule_groups: Sequence[Sequence[bool]] = (), *, num_levels: int = 5,
) -> OriginalScores:
    """The authors' arithmetic, only to compare with their tables: an unreadable verdict adds -1 to both rates.

    It also fails CSL, is no failure for failure consistency, and that looks at judged groups alone. A rule-checked item adds its
    hard bit to SSR. Rounded as they print.

    Args:
        judged_groups: per group the verdicts of its levels in order, as ``read_as_authors`` gives them.
        rule_groups: per group the levels' hard bits.
    """
    hard = [[-1.0 if verdict is None else float(all(verdict)) for verdict in group] for group in judged_groups]
    soft = [[-1.0 if verdict is None else sum(verdict) / len(verdict) for verdict in group] for group in judged_groups]
    ruled = [[float(bit) for bit in group] for group in rule_groups]
    num = len(hard) + len(ruled)
    leading = [satisfied_levels([bit == 1 for bit in group]) for group in (*hard, *ruled)]
    failing = [group for group in hard if 0 in group[:-1]]
    consistent = sum(1 not in group[group.index(0) :] for group in failing)
    return OriginalScores(
        hsr_percent=tuple(_percent(sum(group[level] for group in (*hard, *ruled)), num) for level in range(num_levels)),
        ssr_percent=tuple(_percent(sum(group[level] for group in (*soft, *ruled)), num) for level in range(num_levels)),
        csl=float(f"{sum(leading) / num:.1f}"), failure_consistency=Consistency(consistent, len(failing)),
    )


def _percent(total: float, num: int) -> float:
    return float(f"{total / num * 100:.2f}")


def _counted(verdicts: Sequence[Verdict], unreadable: Unreadable) -> list[tuple[bool, ...]]:
    return [verdict or (False,) for verdict in verdicts if verdict is not None or unreadable == "unsatisfied"]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
