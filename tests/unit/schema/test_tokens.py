"""Token counts without a tokenizer: hand-checked ratios, and a bound that is one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.schema.tokens import bound_tokens, estimate_tokens

PROSE = (
    "The history of the lighthouse begins in 1823, when a merchant from the town lost two ships on the rocks within a single "
    "winter. He wrote to the harbour board, and the board, which had little money and less patience, wrote back that the rocks "
    "had been there for a long time and that captains were expected to know about them."
)


def test_ascii_text_has_4_3_characters_per_token_rounded_up() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("a") == 1
    assert estimate_tokens("a" * 43) == 10
    assert estimate_tokens("a" * 44) == 11
    assert estimate_tokens("a" * 4300) == 1000


def test_prose_is_within_15_percent_of_a_real_vocabulary() -> None:
    """71 tokens: counted by SmolLM2's tokenizer (49k entries) in llama.cpp, chat template taken off."""
    assert estimate_tokens(PROSE) == pytest.approx(71, rel=0.15)


def test_a_wide_character_is_about_one_token() -> None:
    text = "\u5929\u5730\u7384\u9ec4\u5b87\u5b99\u6d2a\u8352" * 100  # 800 Han characters
    assert estimate_tokens(text) == pytest.approx(800, rel=0.02)


def test_an_accent_now_and_then_changes_little() -> None:
    plain, accented = "a cafe in the old town " * 40, "a caf\u00e9 in the old town " * 40
    assert estimate_tokens(plain) <= estimate_tokens(accented) <= 1.2 * estimate_tokens(plain)


def test_the_bound_is_the_number_of_bytes() -> None:
    assert bound_tokens("abc") == 3
    assert bound_tokens("\u00e9") == 2 and bound_tokens("\u5929") == 3 and bound_tokens("\U0001f600") == 4
    assert bound_tokens("\ud800") == 3


@given(st.text(max_size=200))
def test_the_bound_is_never_below_the_estimate_or_the_characters(text: str) -> None:
    assert bound_tokens(text) >= max(estimate_tokens(text) - 1, len(text))


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_longer_text_never_has_fewer_tokens(text: str, more: str) -> None:
    assert estimate_tokens(text) <= estimate_tokens(text + more)
    assert bound_tokens(text + more) == bound_tokens(text) + bound_tokens(more)


@given(st.text(st.characters(max_codepoint=127), max_size=200))
def test_the_estimate_of_ascii_is_exact_arithmetic(text: str) -> None:
    assert estimate_tokens(text) == math.ceil(len(text) * 10 / 43)
