"""Sentences, capital words and languages, on cases whose answer NLTK's and langdetect's rules give by hand."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ConfigError
from alignray.evals.ifeval import language
from alignray.evals.ifeval.language import detect_language, need_language_models
from alignray.evals.ifeval.tokens import count_capital_words, count_sentences, count_words, split_sentences


@pytest.mark.parametrize(("text", "sentences"), [
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("A heading\n\nand its text. End", ["A heading\n\nand its text.", "End"]),
    ("Dr. Jones met Mrs. Smith. They left.", ["Dr. Jones met Mrs. Smith.", "They left."]),
    ("We left the U.S. in May. It rained.", ["We left the U.S. in May.", "It rained."]),
    ("We left the U.S. The rain followed.", ["We left the U.S.", "The rain followed."]),
    ("It was J. Smith. Vitamin C. The end.", ["It was J. Smith.", "Vitamin C.", "The end."]),
    ("It costs 3.50 or 4. We paid.", ["It costs 3.50 or 4.", "We paid."]),
    ("1. First\n2. Second", ["1.", "First\n2.", "Second"]),
    ("lower. case. too", ["lower.", "case.", "too"]),
    ("Wait... what? Wait... The end.", ["Wait... what?", "Wait...", "The end."]),
    ('"Stop!" he said. (Really.) Yes.', ['"Stop!"', "he said.", "(Really.)", "Yes."]),
    ("see example.com. now", ["see example.com.", "now"]),
    ("**Bold.** Next", ["**Bold.", "** Next"]),
    ("no end", ["no end"]),
    ("  \n", []),
])
def test_sentences_by_punkts_rules(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text("ab .!?\"')*\n1A", max_size=60))
def test_sentences_hold_all_but_the_blanks_between_them(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())
    assert count_sentences(text) == len(split_sentences(text)) <= max(1, sum(map(text.count, ".!?")) + 1)


@pytest.mark.parametrize(("text", "count"), [
    ("I am A test", 2), ("DON'T", 2), ("CAN'T.", 2), ("DON\u2019T", 2), ("X-RAY", 1), ("U.S.A. wins", 1), ("AND/OR", 1), ("A:B", 2),
    ("10:30AM", 1), ("CANNOT", 2), ("IT'S", 2), ("THE DOGS' BED", 3), ("\"HI\", (YES)!", 2), ("NaN 42 a", 0), ("A--B", 2),
    ("WAIT...NOW", 2),
])
def test_capital_words_by_treebanks_rules(text: str, count: int) -> None:
    assert count_capital_words(text) == count


def test_words_are_runs_of_letters_and_digits() -> None:
    assert count_words("it's a well-known 3.5 snake_case \u00fcber") == 9


ENGLISH = "The weather was fine, and so they walked along the river until the evening came and the lights of the town were lit."
GERMAN = "Das Wetter war gut, und so gingen sie am Fluss entlang, bis der Abend kam und die Lichter der Stadt angingen."


@pytest.mark.parametrize(("text", "code"), [
    (ENGLISH, "en"), (ENGLISH.upper(), "en"), (GERMAN, "de"),
    ("\u0c95\u0ca8\u0ccd\u0ca8\u0ca1 \u0c92\u0c82\u0ca6\u0cc1 \u0cad\u0cbe\u0cb7\u0cc6", "kn"),
    ("\u0d2e\u0d32\u0d2f\u0d3e\u0d33\u0d02", "ml"),
    ("नेपाल दक्षिण एशियामा अवस्थित एक देश हो। यसको राजधानी काठमाडौं हो।", "ne"),
    ("भारत एक विशाल देश है और इसकी राजधानी नई दिल्ली है।", "hi"),
    ("महाराष्ट्र हे भारतातील एक राज्य आहे आणि मुंबई ही राजधानी आहे.", "mr"),
    ("Цей будинок дуже великий і гарний", "uk"), ("これはテストです", "ja"), ("وہ آج گھر نہیں گیا کیونکہ بارش ہو رہی تھی", "ur"),
    ("123 !?", None), ("", None), ("https://example.com/page", None),
])
def test_languages(text: str, code: str | None) -> None:
    assert detect_language(text) == code


@pytest.mark.parametrize(("text", "code"), [
    ("etchings", "en"), ("YES", "en"), ("MY ANSWER IS NO.", "en"), ("the cat sat on the mat", "en"), ("das ist nicht gut", "de"),
    ("bonjour tout le monde", "fr"), ("het is goed", "nl"),
])
def test_short_texts_in_latin_letters(text: str, code: str) -> None:
    assert detect_language(text) == code


def test_without_lingua_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lingua", None)
    with pytest.raises(ConfigError, match=r"pip install 'alignray\[eval\]'"):
        need_language_models()
    language._detector.cache_clear()
    language._language_of.cache_clear()
    with pytest.raises(ConfigError, match="lingua-language-detector"):
        detect_language(ENGLISH)
