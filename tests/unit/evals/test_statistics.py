import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.evals.statistics import (
    Calibration,
    Estimate,
    agreement_rate,
    bootstrap_interval,
    calibration_of,
    cohen_kappa,
    corrected_rate,
    mcnemar_p,
    mean_interval,
    paired_test,
    weighted_kappa,
    wilson_interval,
)
from alignray.evals.summary import mean_figures
from alignray.schema import Score, ScoredItem

numbers = st.lists(st.floats(-10, 10).map(lambda value: round(value, 3)), min_size=3, max_size=30)


def close(found: Estimate, value: float, low: float, high: float) -> bool:
    assert found.low is not None and found.high is not None and found.value is not None
    return np.allclose([found.value, found.low, found.high], [value, low, high], atol=1e-4)


# ---- intervals of a mean


def test_a_mean_and_its_t_interval_by_hand() -> None:
    # t of 2 degrees of freedom is 4.3027, the standard error 1 / sqrt(3)
    assert close(mean_interval([1.0, 2.0, 3.0]), 2.0, 2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3))


def test_a_clustered_interval_by_hand() -> None:
    # mean 2.5; residuals by group a: -1.5 - 0.5 = -2, b: 0.5, c: 1.5; variance 3/2 * (4 + 0.25 + 2.25) / 16
    half = 4.30265 * math.sqrt(1.5 * 6.5 / 16)
    assert close(mean_interval([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "c"]), 2.5, 2.5 - half, 2.5 + half)


@settings(max_examples=30)
@given(numbers)
def test_items_written_twice_say_nothing_new_if_the_groups_are_named(values: list[float]) -> None:
    groups = [str(place) for place in range(len(values))]
    once, twice = mean_interval(values, groups), mean_interval(values * 2, groups * 2)
    assert twice.num == 2 * once.num
    if set(values) > {0.0, 1.0} or not set(values) <= {0.0, 1.0}:
        assert np.allclose([once.value, once.low, once.high], [twice.value, twice.low, twice.high])


@settings(max_examples=30)
@given(numbers, st.integers(2, 4))
def test_a_weight_of_n_is_n_copies_in_one_group(values: list[float], times: int) -> None:
    groups = [str(place) for place in range(len(values))]
    weights = [float(times)] + [1.0] * (len(values) - 1)
    copies = [values[0]] * times + values[1:]
    weighted, copied = mean_interval(values, groups, weights), mean_interval(copies, ["0"] * times + groups[1:])
    assert np.allclose([weighted.value, weighted.low, weighted.high], [copied.value, copied.low, copied.high])


def test_rates_at_the_ends_keep_an_interval() -> None:
    assert close(mean_interval([0.0] * 10), 0.0, 0.0, 0.27753)  # Wilson's, from tables
    assert close(mean_interval([1.0] * 10), 1.0, 1 - 0.27753, 1.0)
    assert mean_interval([1.0] * 10, list("aabbccddee")) == mean_interval([1.0] * 5, list("abcde")).__class__(
        1.0, *wilson_interval(5, 5), 10,
    )
    assert np.allclose(wilson_interval(81, 263), (0.2553, 0.3662), atol=1e-4)  # Newcombe 1998, table I


def test_one_group_has_no_interval_and_no_values_have_no_mean() -> None:
    assert mean_interval([1.0, 2.0], ["a", "a"]) == Estimate(1.5, None, None, 2)
    assert mean_interval([]) == Estimate(None, None, None, 0)
    with pytest.raises(ValueError, match="weights"):
        mean_interval([1.0], weights=[0.0])
    with pytest.raises(ValueError, match="groups"):
        mean_interval([1.0, 2.0], ["a"])


def test_clustered_intervals_cover_where_plain_ones_do_not() -> None:
    rng = np.random.default_rng(5)
    covered = {True: 0, False: 0}
    groups = np.repeat(np.arange(40), 5).tolist()
    for _ in range(300):
        values = (rng.normal(size=40).repeat(5) + rng.normal(size=200) * 0.5).tolist()
        for is_clustered in (True, False):
            found = mean_interval(values, groups if is_clustered else None)
            covered[is_clustered] += found.low <= 0 <= found.high  # type: ignore[operator]
    assert 0.92 <= covered[True] / 300 <= 0.98 and covered[False] / 300 < 0.75


# ---- bootstrap


def mean_of(rows: list[float]) -> float:
    return sum(rows) / len(rows)


def test_the_bootstrap_agrees_with_t_and_repeats_itself() -> None:
    values = np.random.default_rng(1).normal(size=200).tolist()
    exact, drawn = mean_interval(values), bootstrap_interval(mean_of, [[value] for value in values], seed=3)  # type: ignore[arg-type]
    assert close(drawn, exact.value, drawn.low, drawn.high) and drawn.num == 200  # type: ignore[arg-type]
    assert np.allclose([drawn.low, drawn.high], [exact.low, exact.high], atol=0.02)  # type: ignore[arg-type]
    assert drawn == bootstrap_interval(mean_of, [[value] for value in values], seed=3)  # type: ignore[arg-type]


def test_the_bootstrap_draws_groups_and_leaves_out_what_has_no_value() -> None:
    found = bootstrap_interval(mean_of, [[0.0] * 5, [1.0] * 5, []], seed=0)  # type: ignore[arg-type]
    assert found == Estimate(0.5, 0.0, 1.0, 10)
    assert bootstrap_interval(mean_of, [[1.0, 2.0]], seed=0) == Estimate(1.5, None, None, 2)  # type: ignore[arg-type]
    assert bootstrap_interval(mean_of, [], seed=0) == Estimate(None, None, None, 0)  # type: ignore[arg-type]
    often_none = bootstrap_interval(lambda rows: None if rows[0] else 1.0, [[0], [1]], seed=0)
    assert often_none == Estimate(1.0, None, None, 2)


# ---- two candidates


def test_a_paired_test_by_hand() -> None:
    # 10 discordant of 12: 1 against 9; 2 * (1 + 10) / 2^10
    first, second = [1.0] * 9 + [0.0] + [1.0, 0.0], [0.0] * 9 + [1.0] + [1.0, 0.0]
    found = paired_test(first, second, seed=0)
    assert (found.num_first_only, found.num_second_only) == (9, 1) and found.mcnemar_p == pytest.approx(22 / 1024)
    assert found.difference.value == pytest.approx(8 / 12) and found.bootstrap_p is not None and found.bootstrap_p < 0.01
    differences = [one - other for one, other in zip(first, second, strict=True)]
    half = 2.20099 * np.std(differences, ddof=1) / math.sqrt(12)
    assert close(found.difference, 8 / 12, 8 / 12 - half, 8 / 12 + half)
    assert mcnemar_p(0, 0) == 1.0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10), st.integers(0, 4)), min_size=2, max_size=20))
def test_swapping_the_candidates_flips_the_difference_and_nothing_else(rows: list[tuple[int, int, int]]) -> None:
    first, second, groups = ([float(row[0]) for row in rows], [float(row[1]) for row in rows], [row[2] for row in rows])
    there, back = paired_test(first, second, groups, seed=1, num_resamples=50), paired_test(second, first, groups, seed=1, num_resamples=50)
    assert there.difference.value == pytest.approx(-back.difference.value)  # type: ignore[operator]
    assert there.bootstrap_p == back.bootstrap_p and there.mcnemar_p == back.mcnemar_p
    if there.difference.low is not None:
        assert there.difference.low == pytest.approx(-back.difference.high)  # type: ignore[operator]


def test_a_candidate_does_not_differ_from_itself() -> None:
    found = paired_test([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], seed=0)
    assert found.difference == Estimate(0.0, 0.0, 0.0, 3) and found.bootstrap_p == found.mcnemar_p == 1.0


def test_means_with_weights_of_their_own_are_compared_each_by_its_own() -> None:
    found = paired_test([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], weights=[3.0, 1.0, 1.0], second_weights=[1.0, 1.0, 2.0], seed=0)
    assert (found.first, found.second) == (0.6, 0.5) and found.difference.value == pytest.approx(0.1) and found.mcnemar_p is None


def test_bootstrap_p_is_uniform_enough_where_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    found = [paired_test(rng.normal(size=40).tolist(), rng.normal(size=40).tolist(), seed=run, num_resamples=199) for run in range(120)]
    assert 0.01 <= np.mean([one.bootstrap_p <= 0.05 for one in found]) <= 0.1  # type: ignore[operator]


# ---- agreement


def test_kappa_by_hand() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, by chance 0.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4) and agreement_rate(first, second) == 0.7
    assert cohen_kappa(first, first) == 1.0
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None and cohen_kappa([], []) is None and agreement_rate([], []) is None
    assert cohen_kappa(["a", "b"], ["b", "a"]) == -1.0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_weighted_kappa_is_that_of_all_pairs(rows: list[tuple[int, int]]) -> None:
    first, second = [float(row[0]) for row in rows], [float(row[1]) for row in rows]
    seen = sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / len(rows)
    by_chance = sum((a - b) ** 2 for a in first for b in second) / len(rows) ** 2
    found = weighted_kappa(first, second)
    assert (found is None) == (by_chance == 0) and (found is None or found == pytest.approx(1 - seen / by_chance, abs=1e-9))


# ---- a judge's rate, corrected


def test_the_corrected_rate_by_hand() -> None:
    # 61 of 100 by a judge with sensitivity 0.85 and specificity 0.75: (0.61 - 0.25) / 0.6
    found = corrected_rate([1.0] * 61 + [0.0] * 39, Calibration(100, 85, 100, 75))
    assert found.value == pytest.approx(0.6) and found.num == 100
    assert found.low is not None and found.high is not None and 0.35 < found.low < 0.6 < found.high < 0.85


def test_a_judge_that_is_never_wrong_needs_no_correction() -> None:
    values = [1.0] * 61 + [0.0] * 39
    found, plain = corrected_rate(values, Calibration(100_000, 100_000, 100_000, 100_000)), wilson_interval(61, 100)
    assert found.value == pytest.approx(0.61) and np.allclose([found.low, found.high], plain, atol=0.005)  # type: ignore[arg-type]


def test_few_labels_make_a_wide_interval_and_chance_makes_none() -> None:
    values = [1.0] * 61 + [0.0] * 39
    few, many = corrected_rate(values, Calibration(20, 17, 20, 15)), corrected_rate(values, Calibration(2000, 1700, 2000, 1500))
    assert few.high - few.low > 1.5 * (many.high - many.low)  # type: ignore[operator]
    for calibration in (Calibration(10, 5, 10, 5), Calibration(0, 0, 10, 9), Calibration(10, 1, 10, 2)):
        assert corrected_rate(values, calibration) == Estimate(None, None, None, 100)


def test_verdicts_in_groups_count_less() -> None:
    values = [1.0] * 50 + [0.0] * 50
    alone = corrected_rate(values, Calibration(100, 85, 100, 75))
    grouped = corrected_rate(values, Calibration(100, 85, 100, 75), [place // 10 for place in range(100)])
    assert grouped.value == alone.value and grouped.high - grouped.low > alone.high - alone.low  # type: ignore[operator]


def test_calibration_counts() -> None:
    found = calibration_of([(1, 1), (1, 1), (1, 0), (0, 0), (False, True)])
    assert found == Calibration(3, 2, 2, 1) and found.sensitivity == pytest.approx(2 / 3) and found.specificity == 0.5


# ---- figures of items


def item(key: str, group: str, category: str, *scores: Score) -> ScoredItem:
    return ScoredItem(key, "model", "bench", key, group, category, (), "{}", (), scores)


def test_figures_leave_out_scores_with_a_problem_and_count_them() -> None:
    items = [
        item("1", "a", "x", Score("hit", 1.0), Score("depth", 4.0, 3.0)),
        item("2", "b", "x", Score("hit", 0.0, problem="unreadable")),
        item("3", "b", "y", Score("hit", 0.0), Score("depth", 8.0, 1.0)),
    ]
    hit, hit_x, hit_y, depth, depth_x, depth_y = mean_figures(items, ["hit", "depth"])
    assert (hit.metric, hit.category, hit.value, hit.num, hit.num_unscored) == ("hit", "", 0.5, 2, 1)
    assert (hit_x.category, hit_x.value, hit_x.num, hit_x.num_unscored) == ("x", 1.0, 1, 1)
    assert (hit_y.value, depth.value, depth_x.value, depth_y.value) == (0.0, 5.0, 4.0, 8.0)
    assert depth_x.low is None and hit.low is not None
    none, = mean_figures([items[1]], ["hit"], by_category=False)
    assert (none.value, none.low, none.num, none.num_unscored) == (None, None, 0, 1)
