"""HSR, SSR, CSL and failure consistency against hand-worked groups, the recorded tables and their own definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.followbench.judge import read_as_authors
from alignray.evals.followbench.metrics import (
    agreement,
    consistent_satisfaction_levels,
    failure_consistency,
    failure_consistency_pairwise,
    hard_satisfaction_rate,
    is_hard,
    mean_over_levels,
    original_scores,
    satisfied_levels,
    soft_satisfaction_rate,
)

Verdict = tuple[bool, ...] | None
GROUP_TABLES = (
    "all_satisfied", "none_satisfied", "fails_from_3", "recovers", "fails_only_at_5", "five_groups", "with_rule_groups", "unparsable_judge",
    "unparsable_only",
)


def table(spec_vectors: Callable[[str], Any], name: str) -> tuple[dict[str, Any], list[list[Verdict]], list[list[bool]]]:
    case = next(case for case in spec_vectors("followbench_metrics")["group_metrics"] if case["name"] == name)
    judged: list[list[Verdict]] = [
        [read_as_authors(bits, level) if isinstance(bits, str) else tuple(map(bool, bits)) for level, bits in enumerate(group, start=1)]
        for group in case["judge_groups"]
    ]
    return case, judged, [[bool(bit) for bit in group] for group in case["rule_groups"]]


def counts(found: Any) -> dict[str, Any]:
    return {"n_consistent": found.num_consistent, "percent": None if found.rate is None else pytest.approx(found.rate * 100)}


@pytest.mark.parametrize("name", GROUP_TABLES)
def test_group_tables_of_the_thesis(spec_vectors: Callable[[str], Any], name: str) -> None:
    case, judged, ruled = table(spec_vectors, name)
    groups: list[list[Verdict]] = [*judged, *([(bit,) for bit in group] for group in ruled)]
    hard = [[is_hard(verdict) for verdict in group] for group in groups]
    thesis = case["thesis"]
    for level in range(5):
        verdicts = [group[level] for group in groups]
        assert hard_satisfaction_rate(verdicts, unreadable="unsatisfied") == pytest.approx(thesis["hsr_percent"][level] / 100)
        assert soft_satisfaction_rate(verdicts, unreadable="unsatisfied") == pytest.approx(thesis["ssr_percent"][level] / 100)
    assert [satisfied_levels([bit is True for bit in group]) for group in hard] == thesis["csl_per_group"]
    assert consistent_satisfaction_levels(hard, unreadable="unsatisfied") == pytest.approx(thesis["csl"])
    by_group = failure_consistency(hard, unreadable="unsatisfied")
    expected = thesis["failure_consistency_group"]
    assert (by_group.num, counts(by_group)) == (expected.pop("n_groups"), expected)
    by_pair, expected = failure_consistency_pairwise(hard, unreadable="unsatisfied"), thesis["failure_consistency_pairwise"]
    assert (by_pair.num, counts(by_pair)) == (expected.pop("n_pairs"), expected)


@pytest.mark.parametrize("name", GROUP_TABLES)
def test_group_tables_of_the_authors_program(spec_vectors: Callable[[str], Any], name: str) -> None:
    case, judged, ruled = table(spec_vectors, name)
    scores, expected = original_scores(judged, ruled), case["original"]
    assert list(scores.hsr_percent) == expected["hsr_percent"] and list(scores.ssr_percent) == expected["ssr_percent"]
    assert scores.csl == expected["csl"]
    found = expected["failure_consistency"]
    assert (scores.failure_consistency.num, counts(scores.failure_consistency)) == (found.pop("n_groups"), found)


def test_failure_consistency_over_all_32_groups(spec_vectors: Callable[[str], Any]) -> None:
    rows = spec_vectors("followbench_metrics")["failure_consistency_truth_table"]
    assert len(rows) == 32
    for row in rows:
        found = failure_consistency([[bool(bit) for bit in row["bits"]]])
        assert found.num == row["counted"] and found.num_consistent == (row["counted"] and not row["one_after_zero"]), row


def test_level_aggregation(spec_vectors: Callable[[str], Any]) -> None:
    for row in spec_vectors("followbench_metrics")["level_aggregation"]:
        assert mean_over_levels(row["levels"], is_level_weighted=True) == pytest.approx(row["level_weighted"])
        assert mean_over_levels(row["levels"]) == pytest.approx(row["plain_mean"])


def test_unreadable_verdicts_are_left_out_by_default_and_never_negative() -> None:
    verdicts: list[Verdict] = [(True, True), (True, False), None]
    assert hard_satisfaction_rate(verdicts) == 1 / 2 and hard_satisfaction_rate(verdicts, unreadable="unsatisfied") == 1 / 3
    assert soft_satisfaction_rate(verdicts) == 3 / 4 and soft_satisfaction_rate(verdicts, unreadable="unsatisfied") == 1 / 2
    assert hard_satisfaction_rate([None]) is None and soft_satisfaction_rate([None], unreadable="unsatisfied") == 0
    groups = [[True, True, None, True, True], [True, False, True, True, True]]
    assert consistent_satisfaction_levels(groups) == 1 and consistent_satisfaction_levels(groups, unreadable="unsatisfied") == 1.5
    assert failure_consistency(groups).num == 1 and failure_consistency_pairwise([groups[0]]).rate is None


def test_agreement_with_humans() -> None:
    judged, human = [True, True, False, False, True], [True, False, False, False, True]
    found = agreement(judged, human)  # 4 of 5; by chance 3/5 * 2/5 + 2/5 * 3/5 = 12/25
    assert (found.num, found.rate) == (5, 0.8) and found.kappa == pytest.approx((0.8 - 0.48) / 0.52)
    assert agreement([True], [True]).kappa is None and agreement([], []).rate is None


VERDICTS = st.lists(st.lists(st.booleans(), min_size=1, max_size=5).map(tuple) | st.none(), min_size=1, max_size=8)
GROUPS = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6)


@given(VERDICTS)
def test_hsr_is_never_above_ssr_and_leaving_out_never_lowers(verdicts: list[Verdict]) -> None:
    for rate in (hard_satisfaction_rate, soft_satisfaction_rate):
        without, failed = rate(verdicts), rate(verdicts, unreadable="unsatisfied")
        assert failed is not None and (without is None or failed <= without + 1e-12)
    hard, soft = hard_satisfaction_rate(verdicts), soft_satisfaction_rate(verdicts)
    assert (hard is None) == (soft is None) and (hard is None or soft is None or hard <= soft + 1e-12)


@given(GROUPS)
def test_consistent_levels_stay_below_all_satisfied_levels(groups: list[list[bool]]) -> None:
    csl = consistent_satisfaction_levels(groups)
    assert csl is not None and 0 <= csl <= sum(map(sum, groups)) / len(groups) <= 5
    by_group, by_pair = failure_consistency(groups), failure_consistency_pairwise(groups)
    assert (by_group.num == 0) == (by_pair.num == 0) and by_group.num_consistent <= by_group.num <= len(groups)
    if by_group.rate == 1:
        assert by_pair.rate == 1
