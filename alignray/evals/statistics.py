"""What can be said from samples: means with clustered intervals, paired tests, agreement, and rates corrected for a judge's errors.

Every interval is two-sided. Nothing here clips an interval to the range of its metric unless its docstring says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Row = TypeVar("Row")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number from a sample with its interval."""

    value: float | None
    """None where there is nothing to estimate from."""
    low: float | None
    """None where there is no interval: fewer than two groups."""
    high: float | None
    num: int
    """Values that went in."""


@dataclass(frozen=True)
class PairedTest:
    """The difference first - second on the same items."""

    difference: Estimate
    first: float | None
    second: float | None
    """Means of the two over the common items."""
    bootstrap_p: float | None
    """Two-sided, by resampling groups of the differences shifted to mean 0."""
    mcnemar_p: float | None
    """Exact and two-sided; None where a value is neither 0 nor 1."""
    num_first_only: int
    """Items with 1 for the first and 0 for the second (0/1 values only, else 0)."""
    num_second_only: int
    num_groups: int


@dataclass(frozen=True)
class Calibration:
    """How often a judge was right on a slice that humans labelled."""

    num_positive: int
    """Items that humans call 1."""
    num_true_positive: int
    """Those of them that the judge calls 1 too."""
    num_negative: int
    num_true_negative: int

    @property
    def sensitivity(self) -> float | None:
        return self.num_true_positive / self.num_positive if self.num_positive else None

    @property
    def specificity(self) -> float | None:
        return self.num_true_negative / self.num_negative if self.num_negative else None


def mean_interval(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, weights: Sequence[float] | None = None, *, level: float = 0.95,
) -> Estimate:
    """Weighted mean with a cluster-robust t interval, G - 1 degrees of freedom for G groups.

    The variance is G / (G - 1) times the sum over groups of (sum of weight * residual)^2, over (sum of weights)^2 (the
    linearized variance of a ratio; Cameron & Miller 2015). Two cases take Wilson's score interval instead, because t has no
    width or a wrong one there: 0/1 values with equal weights that stand each for itself, and values that are all 0 or all 1
    (each group then counts as one draw).

    Args:
        groups: values of one group are not independent; None: each stands for itself.
        weights: >= 0, at least one above 0; None: all 1.

    Raises:
        ValueError: lengths differ, or the weights are negative or sum to 0.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        return Estimate(None, None, None, 0)
    w = _weights(weights, len(x))
    codes, num_groups = _codes(groups, len(x))
    mean = float(x @ w / w.sum())
    is_binary = bool(((x == 0) | (x == 1)).all())
    if is_binary and (x.min() == x.max() or (num_groups == len(x) and _is_constant(w))):
        low, high = wilson_interval(mean * num_groups, num_groups, level=level)
        return Estimate(mean, low, high, len(x))
    if num_groups < 2:
        return Estimate(mean, None, None, len(x))
    half = float(stats.t.ppf((1 + level) / 2, num_groups - 1)) * math.sqrt(_variance(x, w, codes, num_groups))
    return Estimate(mean, mean - half, mean + half, len(x))


def wilson_interval(num_ones: float, num: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate, within [0, 1]; ``num`` may be an effective sample size."""
    z = float(stats.norm.ppf((1 + level) / 2))
    rate, spread = num_ones / num, z * z / num
    center = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / num + spread / (4 * num)) / (1 + spread)
    # the score equation's root at the end itself, which floating point misses by an ulp
    return (0.0 if num_ones == 0 else center - half), (1.0 if num_ones == num else center + half)


def bootstrap_interval(
    statistic: Callable[[Sequence[Row]], float | None], groups_of_rows: Sequence[Sequence[Row]], *,
    seed: int, num_resamples: int = 2000, level: float = 0.95,
) -> Estimate:
    """Percentile interval of any statistic of rows, by drawing whole groups with replacement.

    Args:
        statistic: of a flat, nonempty sequence of rows. None: it has no value on these; such a resample is left out, and where
            more than one in ten is, there is no interval.
        groups_of_rows: rows that belong together; empty groups are left out.
    """
    groups = [list(group) for group in groups_of_rows if len(group)]
    num = sum(map(len, groups))
    if not groups:
        return Estimate(None, None, None, 0)
    value = statistic([row for group in groups for row in group])
    if value is None or len(groups) < 2:
        return Estimate(value, None, None, num)
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(len(groups), size=len(groups)) for _ in range(num_resamples))
    drawn = [found for places in resamples if (found := statistic([row for place in places for row in groups[place]])) is not None]
    if len(drawn) < 0.9 * num_resamples:
        return Estimate(float(value), None, None, num)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), num)


def paired_test(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable] | None = None, *, weights: Sequence[float] | None = None,
    second_weights: Sequence[float] | None = None, seed: int, num_resamples: int = 2000, level: float = 0.95,
) -> PairedTest:
    """Compare two candidates on the same items: clustered interval of the difference, bootstrap p, exact McNemar for 0/1 values.

    The interval is the t interval of ``mean_interval`` for a difference of two weighted means, each linearized on its own. McNemar's
    test takes items as independent and weighs them alike: with groups of several items the interval is what counts.

    Args:
        weights: of the first's items; None: all 1.
        second_weights: of the second's; None: those of the first.

    Raises:
        ValueError: lengths differ, or weights are negative or sum to 0.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"a paired test needs as many values on both sides; got {len(a)} and {len(b)}")
    if len(a) == 0:
        return PairedTest(Estimate(None, None, None, 0), None, None, None, None, 0, 0, 0)
    w_a = _weights(weights, len(a))
    w_b = w_a if second_weights is None else _weights(second_weights, len(a))
    codes, num_groups = _codes(groups, len(a))
    columns = [np.bincount(codes, weights=column, minlength=num_groups) for column in (w_a * a, w_a, w_b * b, w_b)]
    sums = np.stack(columns, axis=1).astype(np.float64)
    is_binary = bool((((a == 0) | (a == 1)) & ((b == 0) | (b == 1))).all()) and _is_constant(w_a) and _is_constant(w_b)
    num_first_only, num_second_only = int((a > b).sum()) if is_binary else 0, int((a < b).sum()) if is_binary else 0
    total = sums.sum(axis=0)
    return PairedTest(
        _difference_interval(sums, len(a), level), first=float(total[0] / total[1]), second=float(total[2] / total[3]),
        bootstrap_p=_bootstrap_p(sums, seed, num_resamples) if num_groups > 1 else None,
        mcnemar_p=mcnemar_p(num_first_only, num_second_only) if is_binary else None,
        num_first_only=num_first_only, num_second_only=num_second_only, num_groups=num_groups,
    )


def mcnemar_p(num_first_only: int, num_second_only: int) -> float:
    """Exact two-sided McNemar test: the binomial test of the discordant items against one half; 1 where there are none."""
    num = num_first_only + num_second_only
    return float(stats.binomtest(num_first_only, num, 0.5).pvalue) if num else 1.0


def agreement_rate(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Share of items with the same label; None without items. A judge's two orders (brought to one view): position consistency."""
    pairs = list(zip(first, second, strict=True))
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else None


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance, at most 1 (Cohen 1960).

    None without items, or where both give one and the same label throughout: chance alone then agrees fully.
    """
    observed = agreement_rate(first, second)
    if observed is None:
        return None
    num, left, right = len(first), Counter(first), Counter(second)
    expected = sum(left[label] * right[label] for label in left) / num**2
    return (observed - expected) / (1 - expected) if expected < 1 else None


def weighted_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kappa of two raters that give numbers: 1 - mean squared difference / that of independent raters (Cohen 1968).

    None without items, or where both give one and the same number throughout.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"kappa needs as many ratings on both sides; got {len(a)} and {len(b)}")
    if len(a) == 0:
        return None
    by_chance = float(a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    return 1 - float(((a - b) ** 2).mean()) / by_chance if by_chance > 0 else None


def calibration_of(labelled: Iterable[tuple[bool | int, bool | int]]) -> Calibration:
    """Count (human, judge) pairs of 0/1 labels."""
    counts = Counter((bool(human), bool(judge)) for human, judge in labelled)
    return Calibration(
        num_positive=counts[True, True] + counts[True, False], num_true_positive=counts[True, True],
        num_negative=counts[False, True] + counts[False, False], num_true_negative=counts[False, False],
    )


def corrected_rate(
    judged: Sequence[float], calibration: Calibration, groups: Sequence[Hashable] | None = None, *, level: float = 0.95,
) -> Estimate:
    """The rate that humans would find, from a judge's 0/1 verdicts and the judge's known errors; value and interval within [0, 1].

    The value is Rogan & Gladen's (1978), (p + specificity - 1) / (specificity + sensitivity - 1). The interval counts three samples
    (the verdicts and both halves of the calibration), with the adjusted counts and the shift of Lang & Reiczigel (2014) as taken up
    for LLM judges in arXiv:2511.21140. Verdicts that come in groups enter with their effective number.

    Returns:
        no value where the judge is not shown to be better than chance (sensitivity + specificity <= 1) or a half of the
        calibration is empty: nothing can be corrected then.
    """
    x = np.asarray(judged, dtype=np.float64)
    sensitivity, specificity = calibration.sensitivity, calibration.specificity
    if len(x) == 0 or sensitivity is None or specificity is None or sensitivity + specificity <= 1:
        return Estimate(None, None, None, len(x))
    p, n = float(x.mean()), _effective_number(x, groups)
    value = (p + specificity - 1) / (sensitivity + specificity - 1)
    z = float(stats.norm.ppf((1 + level) / 2))
    p_adjusted, n_adjusted = (n * p + z * z / 2) / (n + z * z), n + z * z
    spec, spec_variance = _plus_one(calibration.num_true_negative, calibration.num_negative)
    sens, sens_variance = _plus_one(calibration.num_true_positive, calibration.num_positive)
    slope = sens + spec - 1
    if slope <= 0:
        return Estimate(_clip(value), 0.0, 1.0, len(x))  # the few labels leave every rate open
    center = (p_adjusted + spec - 1) / slope
    shift = 2 * z * z * (center * sens_variance - (1 - center) * spec_variance)
    variance = p_adjusted * (1 - p_adjusted) / n_adjusted + (1 - center) ** 2 * spec_variance + center**2 * sens_variance
    half = z * math.sqrt(variance) / slope
    return Estimate(_clip(value), _clip(center + shift - half), _clip(center + shift + half), len(x))


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _plus_one(num_right: int, num: int) -> tuple[float, float]:
    """Adjusted rate and its variance: one success and one failure more."""
    rate = (num_right + 1) / (num + 2)
    return rate, rate * (1 - rate) / (num + 2)


def _codes(groups: Sequence[Hashable] | None, num: int) -> tuple[NDArray[np.int64], int]:
    if groups is None:
        return np.arange(num), num
    if len(groups) != num:
        raise ValueError(f"groups must name the group of each of the {num} values; got {len(groups)}")
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(group, len(places)) for group in groups]), len(places)


def _variance(x: Floats, w: Floats, codes: NDArray[np.int64], num_groups: int) -> float:
    """Variance of the weighted mean of x."""
    residual = w * (x - float(x @ w / w.sum()))
    sums = np.bincount(codes, weights=residual, minlength=num_groups)
    return float(num_groups / (num_groups - 1) * (sums @ sums) / w.sum() ** 2)


def _effective_number(x: Floats, groups: Sequence[Hashable] | None) -> float:
    """Independent 0/1 draws that would give the mean the variance that it has over groups; never more than there are."""
    codes, num_groups = _codes(groups, len(x))
    if num_groups == len(x) or num_groups < 2:
        return float(num_groups)
    p, variance = float(x.mean()), _variance(x, np.ones(len(x)), codes, num_groups)
    return min(float(len(x)), p * (1 - p) / variance) if variance > 0 else float(num_groups)


def _weights(weights: Sequence[float] | None, num: int) -> Floats:
    w = np.ones(num) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(w) != num or (w < 0).any() or not w.sum() > 0:
        raise ValueError(f"weights must be {num} numbers >= 0 with a sum above 0")
    return w


def _is_constant(x: Floats) -> bool:
    return bool((x == x[0]).all())


def _difference_interval(sums: Floats, num: int, level: float) -> Estimate:
    """Interval of a difference of two weighted means.

    Args:
        sums: a row for each group: sum of weight * value and sum of weights of the first, the same of the second.
    """
    total, num_groups = sums.sum(axis=0), len(sums)
    first, second = total[0] / total[1], total[2] / total[3]
    if num_groups < 2:
        return Estimate(float(first - second), None, None, num)
    residuals = (sums[:, 0] - first * sums[:, 1]) / total[1] - (sums[:, 2] - second * sums[:, 3]) / total[3]
    error = math.sqrt(num_groups / (num_groups - 1) * float(residuals @ residuals))
    half = float(stats.t.ppf((1 + level) / 2, num_groups - 1)) * error
    return Estimate(float(first - second), float(first - second - half), float(first - second + half), num)


def _bootstrap_p(sums: Floats, seed: int, num_resamples: int) -> float:
    """Share of resamples of groups whose difference is as far from the one seen as that is from 0, the one seen counted in."""
    total = sums.sum(axis=0)
    seen = total[0] / total[1] - total[2] / total[3]
    # how often each group is drawn, for all resamples at once
    times = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=num_resamples)
    drawn = times.astype(np.float64) @ sums
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    distances = np.abs(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3] - seen)
    return float((distances >= abs(seen) - 1e-12).sum() + 1) / (num_resamples + 1)
