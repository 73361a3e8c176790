"""Which option a reply states: the thesis' rule as it is, the strict reader by cases."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.choice.answers import first_capital, read_letters, read_phrase

FOUR = ("a dog", "a cat", "a cow", "a pig")


@pytest.mark.parametrize(("reply", "letter"), [
    ("The answer is B", "T"), ("B", "B"), ("(b) or (C)", "C"), ("i think a", ""), ("\u00c4 B", "B"),
])
def test_the_thesis_rule_takes_the_first_capital_letter(reply: str, letter: str) -> None:
    assert first_capital(reply) == letter


@pytest.mark.parametrize(("reply", "letters"), [
    ("B", "B"), ("(B)", "B"), ("B.", "B"), ("**B**", "B"), ("b", None), ("The answer is (B).", "B"),
    ("The answer is B because it is.", "B"),
    ("The correct answer is: **C**", "C"), ("Answer: D", "D"), ("**Answer:** (D) a pig", "D"), ("So $\\boxed{C}$.", "C"),
    ("\\boxed{\\text{(A)}}", "A"), ("Option B is correct.", "B"), ("B. a cat\nIt purrs.", "B"),
    ("(C) a cow", "C"),
    ("The answer is A? No, the answer is D.", "D"), ("Let me see.\nIt gives milk.\n(C)", "C"), ("I would say (B), for it purrs.", "B"),
    ("The answer is a cow.", "C"), ("a pig", "D"), ("It barks.\nA dog.", "A"), ("\u7b54\u6848\u662fB", "B"), ("\u6545\u9009\uff1aC", "C"),
    ("\u7b54\u6848\uff1a\uff08D\uff09", "D"), ("The answer is A good friend.", None), ("The answer is A.", "A"),
    ("It is either (A) or (B).", None),
    ("The answer is A or B.", None), ("(A) barks, (B) purrs\nNone.", None), ("", None), ("I cannot say", None), ("The answer is E", None),
    ("A dog is nice but who knows", None), ("The answer is not clear.", None), ("(A) a dog\n(B) a cat\n(C) a cow\n(D) a pig", None),
    ("The best choice is the option C.", "C"), ("The answer to the question is (D)", "D"), ("Yes", None),
])
def test_the_strict_reader_reads_what_is_stated_and_nothing_else(reply: str, letters: str | None) -> None:
    assert read_letters(reply, FOUR) == (None if letters is None else tuple(letters))


@pytest.mark.parametrize(("reply", "letters"), [
    ("The answer is (A), (C).", "AC"), ("ACD", "ACD"), ("D, A", "AD"), ("Answer: B and C", "BC"), ("The answer is B", "B"),
])
def test_several_letters_where_several_may_hold(reply: str, letters: str) -> None:
    assert read_letters(reply, FOUR, many=True) == tuple(letters)


def test_options_of_one_wording_are_one_option() -> None:
    assert read_letters("The answer is town", ("town", "city", "town")) == ("A",)


@pytest.mark.parametrize(("reply", "phrase"), [
    ("So the answer is ] ] >.", "] ] >"), ("True", "true"), ("**42**", "42"), ("I think\nit is 5", None), ("the answer is\n", None),
    ("The answer is 3. No: the answer is -4.\nBye", "-4"), ("", None),
])
def test_a_free_answer_stands_after_the_answer_is_or_alone(reply: str, phrase: str | None) -> None:
    assert read_phrase(reply) == phrase


@given(st.text(max_size=200), st.lists(st.text(max_size=20), min_size=2, max_size=26))
def test_any_reply_gives_letters_of_the_options_or_nothing(reply: str, options: list[str]) -> None:
    letters = read_letters(reply, options, many=True)
    assert letters is None or set(letters) <= {chr(65 + number) for number in range(len(options))}
    assert (one := read_letters(reply, options)) is None or len(one) == 1


@pytest.mark.parametrize("hostile", [
    "answer is " * 3000, "(" * 20_000, "A " * 20_000, "\\boxed{" * 9000, "answer for " * 4000, " " * 20_000, "A, " * 9000, "\n(A)" * 9000,
    "answer is the the the " * 2000, "*" * 20_000, "\u7b54\u6848" * 9000,
])
def test_hostile_replies_take_no_time(hostile: str) -> None:
    started = time.process_time()
    read_letters(hostile, FOUR, many=True)
    read_phrase(hostile)
    assert time.process_time() - started < 1.5
