"""ROUGE-L of words, by hand and against the table of all prefixes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.dedup.rouge import first_like, rouge_l, words_of


@pytest.mark.parametrize(("first", "second", "score"), [
    ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1
    ("police killed the gunman", "the gunman kill police", 2 / 4),
    ("the cat sat", "The CAT, sat!", 1.0),  # case and marks aside
    ("a b c d", "d c b a", 1 / 4),  # order counts
    ("a b c", "a x b y c z", 2 * 3 / 9),  # words between do not
    ("one two three four five six seven", "one two three four five six seven eight nine ten eleven twelve thirteen", 14 / 20),
    ("don't stop_now", "don t stop now", 1.0),
    ("写一首诗", "写两首诗", 3 / 4),
    ("", "words", 0.0), ("", "", 0.0), ("!!", "??", 0.0),
])
def test_rouge_l_is_what_one_gets_by_hand(first: str, second: str, score: float) -> None:
    assert rouge_l(words_of(first), words_of(second)) == pytest.approx(score)
    assert rouge_l(words_of(second), words_of(first)) == pytest.approx(score)


def slow_lcs(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


TEXTS = st.lists(st.sampled_from("abcde"), max_size=12)


@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_the_table_of_all_prefixes(first: list[str], second: list[str]) -> None:
    length = len(first) + len(second)
    assert rouge_l(first, second) == (2 * slow_lcs(first, second) / length if length else 0)


@given(TEXTS, st.lists(TEXTS, max_size=5), st.floats(0.05, 1))
def test_the_first_like_text_is_the_first_that_reaches_the_threshold(words: list[str], pool: list[list[str]], threshold: float) -> None:
    scores = [rouge_l(words, other) for other in pool]
    reached = [(place, score) for place, score in enumerate(scores) if score >= threshold]
    assert first_like(words, pool, threshold=threshold) == (reached[0] if reached else None)
