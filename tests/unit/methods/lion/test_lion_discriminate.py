"""Hard and easy: the conformance vectors, hand-worked gaps, and relative quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lion import Gap, LionConfig, gap_of, is_hard, relative_quality
from alignray.methods.lion.referee import STUDENT_FIRST, TEACHER_FIRST
from alignray.schema import LionDraft, Review

CONFIG = LionConfig()


def draft_of(*reviews: tuple[str, float | None, float | None]) -> LionDraft:
    """A draft with (step, teacher, student) reviews."""
    return LionDraft("id", "Do it.", "seed", 0, reviews=tuple(Review(step, teacher, student, "") for step, teacher, student in reviews))


def test_the_vectors_are_labelled_as_they_are_there_where_both_orders_were_read(spec_vectors: Callable[[str], Any]) -> None:
    cases = spec_vectors("lion")["discrimination"]
    assert len(cases) == 10
    for case in cases:
        first, second = case["review12"], case["review21"]
        reviews = []
        for step, scores in ((TEACHER_FIRST, first), (STUDENT_FIRST, second[::-1])):
            readable = scores != [-1, -1]
            reviews.append((step, scores[0] if readable else None, scores[1] if readable else None))
        gap = gap_of(draft_of(*reviews))
        if first == second == [-1, -1]:
            assert gap is None and case["original_label"] == "easy"  # what made failures easy
            continue
        assert gap is not None
        readable_pairs = [(teacher, student) for _, teacher, student in reviews if teacher is not None and student is not None]
        assert gap.readings == len(readable_pairs)
        if gap.readings == 2:
            assert (gap.teacher, gap.student, gap.gap) == (case["teacher"], case["student"], case["diff"])
            assert ("hard" if is_hard(gap, CONFIG) else "easy") == case["original_label"]
        else:  # -1 halves the gap in the original; the one reading alone decides here
            assert gap.gap == readable_pairs[0][0] - readable_pairs[0][1] == 2 * case["diff"] and is_hard(gap, CONFIG)


def test_the_first_readable_reply_of_each_order_counts() -> None:
    gap = gap_of(draft_of(
        (TEACHER_FIRST, None, None), (f"{TEACHER_FIRST}_again_1", 9, 5), (f"{TEACHER_FIRST}_again_2", 1, 9), (STUDENT_FIRST, 7, 6),
    ))
    assert gap == Gap(8.0, 5.5, 2.5, 2)


def test_a_gap_of_exactly_the_threshold_is_hard_whatever_floating_point_makes_of_it() -> None:
    assert 2.3 - 1.3 < 1
    gap = gap_of(draft_of((TEACHER_FIRST, 2.3, 1.3), (STUDENT_FIRST, 2.3, 1.3)))
    assert gap is not None and gap.gap == 1.0 and is_hard(gap, CONFIG)
    assert not is_hard(Gap(8, 7.001, 0.999, 2), CONFIG)


@pytest.mark.parametrize(("threshold", "hard"), [(0.0, True), (0.5, True), (0.51, False), (-9.0, True)])
def test_the_threshold_is_the_configs(threshold: float, hard: bool) -> None:
    assert is_hard(Gap(8, 7.5, 0.5, 2), LionConfig(threshold=threshold)) == hard


SCORE = st.integers(2, 20).map(lambda halves: halves / 2)


@given(SCORE, SCORE, SCORE, SCORE)
def test_the_gap_is_within_the_scale_and_turns_its_sign_when_the_two_change_places(a: float, b: float, c: float, d: float) -> None:
    gap = gap_of(draft_of((TEACHER_FIRST, a, b), (STUDENT_FIRST, c, d)))
    turned = gap_of(draft_of((TEACHER_FIRST, b, a), (STUDENT_FIRST, d, c)))
    assert gap is not None and turned is not None
    assert gap.gap == -turned.gap == gap.teacher - gap.student and -9 <= gap.gap <= 9


def test_relative_quality_is_the_ratio_of_sums_and_can_pass_100() -> None:
    assert relative_quality([(10, 5), (2, 4)]) == 75.0  # the mean of ratios would be 125
    assert relative_quality([(4, 5)]) == 125.0 and relative_quality([]) is None
