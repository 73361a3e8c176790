"""Length, language, and the cut to a token budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.io.gates import GatesConfig, gate, truncate
from alignray.io.reasons import PageError
from alignray.schema.tokens import estimate_tokens
from tests.warcs import PROSE

TEXTS = st.text(st.sampled_from("ab é漢。.!\n\t "), max_size=400) | st.text(max_size=200)


@given(TEXTS, st.integers(1, 60))
def test_a_cut_text_is_a_beginning_within_the_budget(text, max_tokens):
    cut = truncate(text, max_tokens)
    assert text.startswith(cut)
    if estimate_tokens(text) <= max_tokens:
        assert cut == text
    elif estimate_tokens(text[:1]) <= max_tokens:
        assert estimate_tokens(cut) <= max_tokens


@given(st.text("abc é漢.\n ", min_size=1, max_size=300), st.integers(2, 60))
def test_cutting_twice_changes_nothing(text, max_tokens):
    cut = truncate(text, max_tokens)
    assert truncate(cut, max_tokens) == cut


@given(st.lists(st.integers(1, 6), min_size=3, max_size=30), st.integers(20, 60))
def test_paragraphs_stay_whole_where_they_are_short(lengths, max_tokens):
    paragraphs = ["word " * length + "end." for length in lengths]
    text = "\n\n".join(paragraphs)
    cut = truncate(text, max_tokens)
    assert cut.split("\n\n") == paragraphs[: len(cut.split("\n\n"))]


@pytest.mark.parametrize("text, expected", [
    ("one two three.\n\nfour five six.\n\nseven", "one two three.\n\nfour five six."),
    ("one two three\nfour five six\nseven eight", "one two three\nfour five six"),
    ("One two three four. Five six. Seven eight nine", "One two three four. Five six."),
    ("one two three four five six seven eight nine", "one two three four five six seven"),
    ("x" * 60, "x" * 34),
    ("一二三四五。六七八九十一二三四", "一二三四五。"),
    ("one two three four five six.\n\nseven eight nine ten", "one two three four five six."),
])
def test_borders_in_their_order(text, expected):
    assert truncate(text, 8) == expected


def test_gates_reject_by_length_and_language():
    config = GatesConfig(min_chars=50, max_chars=2000)
    for text, reason in [
        (" \n\0", "no_text"), ("too short", "too_short"), ("long " * 500, "too_long"),
        ("Der Kessel stand seit einer Stunde auf dem Herd, bevor jemand merkte, dass kein Wasser mehr darin war.", "language"),
        ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25", "language"),
    ]:
        with pytest.raises(PageError) as caught:
            gate(text, config)
        assert caught.value.reason == reason
    assert gate(PROSE, config).language == "en"
    assert gate(PROSE, config).truncated is False
    cut = gate(PROSE, GatesConfig(max_tokens=40))
    assert cut.truncated and cut.num_tokens <= 40 and PROSE.startswith(cut.text)
    assert gate("Der Kessel stand seit einer Stunde auf dem Herd. " * 5, GatesConfig(languages=())).language == "de"


def test_an_unclear_language_passes_within_the_margin():
    menu = "Browse Published Resources Details Book Section Author Gaston Carol Title Imprint Publisher Melbourne Abstract " * 3
    with pytest.raises(PageError):
        gate(menu, GatesConfig(language_margin=0))
    assert gate(menu, GatesConfig(language_margin=200)).language == "en"


def test_an_unknown_language_code_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown language\(s\) english; known are .* en "):
        GatesConfig(languages=("english",))
