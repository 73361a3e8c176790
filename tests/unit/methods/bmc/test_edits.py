import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.bmc.edits import edit_rate, result_of, same_text


def test_edit_rates_by_hand() -> None:
    assert edit_rate("a b c d", "a b c d") == 0
    assert edit_rate("a b c d", "a x c d") == 0.25
    assert edit_rate("a b", "a b c d") == 0.5
    assert edit_rate("a b", "c d") == 1
    assert edit_rate("a  b\n", "a b") == 0  # blanks are no words
    assert edit_rate("abcd", "abxd", unit="character") == 0.25


@given(st.text("ab ", max_size=20), st.text("ab ", max_size=20))
def test_an_edit_rate_is_a_rate_and_has_no_direction(one: str, other: str) -> None:
    assert 0 <= edit_rate(one, other) <= 1
    assert edit_rate(one, other) == edit_rate(other, one)
    assert (edit_rate(one, other) == 0) == same_text(one, other)


@pytest.mark.parametrize(("answer", "result"), [
    ("It rains.\nThe answer is umbrella", "umbrella"),
    ("The answer is: 12.", "12"),
    ("the final answer is **Have Knowledge**.", "have knowledge"),
    ("The answer is 1. No: the answer is 2", "2"),
    ("I do not know", None),
    ("The answer is .", None),
    ("The answer is\n12\nas shown", "12"),
    ("Theanswer isles", None),
])
def test_the_result_is_what_stands_behind_the_last_answer_is(answer: str, result: str | None) -> None:
    assert result_of(answer) == result
