"""Sentiment editing's edit success by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lte.sentiment import sentiment_success, token_mean

LOGS = st.lists(st.floats(-40, 0), min_size=1, max_size=6)
REPLIES = st.lists(LOGS, min_size=1, max_size=4)


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_success_by_hand() -> None:
    """Wanted tokens at 1/2 before, 1/4 after; the others at 1/12: odds of 3 to 1, and half as likely as they were."""
    found = sentiment_success([logs(0.5, 0.5), logs(0.5)], [logs(0.25, 0.25), logs(0.25)], [logs(1 / 12)])
    assert (found.sentiment, found.topic, found.value) == pytest.approx((0.75, 0.5, 0.375))


def test_the_mean_is_over_tokens_and_not_over_replies() -> None:
    """Three tokens at 1/8 and one at 1/2: the geometric mean is (1/8 1/8 1/8 1/2) ** 1/4 = 2 ** -2.5."""
    assert token_mean([logs(1 / 8, 1 / 8, 1 / 8), logs(1 / 2)]) == pytest.approx(-2.5 * math.log(2))


def test_what_became_likelier_is_no_more_than_kept() -> None:
    found = sentiment_success([logs(0.1)], [logs(0.9)], [logs(0.9)])
    assert (found.sentiment, found.topic) == (0.5, 1.0)


@given(REPLIES, REPLIES)
def test_no_edit_keeps_the_topic_and_swapping_sides_swaps_the_sentiment(wanted: list[list[float]], other: list[list[float]]) -> None:
    one, swapped = sentiment_success(wanted, wanted, other), sentiment_success(other, other, wanted)
    assert one.topic == 1.0 and one.sentiment + swapped.sentiment == pytest.approx(1)


def test_far_apart_is_0_or_1() -> None:
    assert sentiment_success([[-1.0]], [[-1.0]], [[-5000.0]]).sentiment == 1.0
    found = sentiment_success([[-1.0]], [[-5000.0]], [[-1.0]])
    assert (found.sentiment, found.topic, found.value) == (0.0, 0.0, 0.0)


def test_what_cannot_be_measured_is_told() -> None:
    with pytest.raises(ValueError, match="2 replies hold no token"):
        token_mean([[], []])
    with pytest.raises(ValueError, match="not of the same tokens"):
        sentiment_success([[-1.0, -1.0]], [[-1.0], [-1.0]], [[-1.0]])
    for value in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="not finite"):
            sentiment_success([[value]], [[-1.0]], [[-1.0]])
