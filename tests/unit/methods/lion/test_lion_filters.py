"""What the generator may write: the conformance vectors by the authors' rules, and instructions of every script by the thesis preset."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lion import LionConfig
from alignray.methods.lion.filters import BAD_START, CUT, MARKER_WORD, TOO_SHORT, instruction_in, num_words, why_unusable

THESIS, ORIGINAL = LionConfig(), LionConfig(preset="original")
CHINESE = "\u5199\u4e00\u9996\u5173\u4e8e\u79cb\u96e8\u7684\u8bd7"
FRENCH = "\u00e9cris un po\u00e8me sur la pluie"
RUSSIAN = "\u041d\u0430\u043f\u0438\u0448\u0438 \u0441\u0442\u0438\u0445 \u043e \u0434\u043e\u0436\u0434\u0435"
SPANISH = "\u00bfCu\u00e1l es la capital de Francia?"


def test_the_vectors_are_kept_and_dropped_as_the_authors_do(spec_vectors: Callable[[str], Any]) -> None:
    cases = spec_vectors("lion")["generation_filter"]
    assert len(cases) == 14
    for case in cases:
        text, finish = case["content"], case["finish_reason"]
        assert (not why_unusable(text, finish, ORIGINAL)) == case["original_keep"], case
        assert (not why_unusable(instruction_in(text, ORIGINAL), finish, ORIGINAL)) == case["original_keep"], case


def test_the_thesis_preset_departs_from_the_vectors_for_other_scripts_and_a_repeated_label_alone(
    spec_vectors: Callable[[str], Any],
) -> None:
    departs = [
        case["content"] for case in spec_vectors("lion")["generation_filter"]
        if (not why_unusable(instruction_in(case["content"], THESIS), case["finish_reason"], THESIS)) != case["original_keep"]
    ]
    assert [text[:1] for text in departs] == ["\u00e9", "\u5199", "#"]


@pytest.mark.parametrize("text", [FRENCH, CHINESE, SPANISH, RUSSIAN])
def test_instructions_of_every_script_are_usable_by_letters_and_unusable_by_ascii(text: str) -> None:
    assert why_unusable(text, "stop", THESIS) == ""
    assert why_unusable(text, "stop", ORIGINAL) in (BAD_START, TOO_SHORT)


@pytest.mark.parametrize(("reason", "text"), [
    (TOO_SHORT, ""), (TOO_SHORT, "Write a poem."), (TOO_SHORT, "\u5199\u8bd7\u5427"), (TOO_SHORT, "a - b - c"), (TOO_SHORT, "? ! . ,"),
    (BAD_START, "* Write a short poem."), (BAD_START, "\u2022 Write a short poem."), (BAD_START, "\u201cWrite a short poem.\u201d"),
    (MARKER_WORD, "Give me INSTRUCTIONS for bread."), (MARKER_WORD, "Turn the instructional video into text."),
])
def test_the_reason_is_named(reason: str, text: str) -> None:
    assert why_unusable(text, "stop", THESIS) == reason


def test_a_cut_text_is_cut_before_all_else() -> None:
    assert why_unusable("- instruction", "length", THESIS) == why_unusable("- instruction", "length", ORIGINAL) == CUT


@pytest.mark.parametrize("echo", [
    "#Created Instruction#: ", "**Created Instruction:**\n", "#created instruction#:\n\n", " Created Instruction: ",
])
def test_a_repeated_label_is_taken_off_or_drops_the_text(echo: str) -> None:
    assert instruction_in(f"{echo}Write a short poem.\n", THESIS) == "Write a short poem."
    kept = instruction_in(f"{echo}Write a short poem.\n", LionConfig(on_echo="reject"))
    assert kept == f"{echo}Write a short poem.".strip() and why_unusable(kept, "stop", ORIGINAL) == MARKER_WORD


def test_words_are_counted_between_blanks_or_by_character_where_a_script_has_none() -> None:
    assert (num_words(CHINESE, THESIS), num_words(CHINESE, ORIGINAL)) == (9, 1)
    assert num_words("Translate \u96e8 into English, please", THESIS) == 5


@given(st.text(alphabet=string.printable, max_size=60))
def test_of_ascii_texts_of_plain_words_both_rules_keep_the_same(text: str) -> None:
    """But for tokens without a letter or digit, which are no words for the thesis preset."""
    text = text.strip()
    words = text.split()
    if all(any(map(str.isalnum, word)) for word in words):
        assert why_unusable(text, "stop", THESIS) == why_unusable(text, "stop", ORIGINAL)
