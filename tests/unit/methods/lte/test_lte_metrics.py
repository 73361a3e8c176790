"""Metrics of edited models: the vectors, hand-worked numbers, and what each of the two definitions of a figure misses."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lte.metrics import (
    exact_match,
    fluency,
    fluency_of_tokens,
    hit_at_k,
    is_answered,
    locality_agreement,
    measured_text,
    ngram_entropy,
    precision_at_k,
    token_accuracy,
    word_tokens,
)
from alignray.schema import Answer

GENERATED = {"w0..w99": " ".join(f"w{number}" for number in range(100)), "same x100": " ".join(["same"] * 100)}


def test_fluency_meets_every_vector_in_words_and_bits(spec_vectors: Callable[[str], Any]) -> None:
    section = spec_vectors("lte")["fluency"]
    for case in section["cases"]:
        text = GENERATED.get(case["generator"], case["text"])
        found = fluency(text)
        assert found.num_tokens == case["n_tokens"]
        assert case["tokens"] is None or word_tokens(text) == case["tokens"]
        assert (found.h2, found.h3) == pytest.approx((case["H2"], case["H3"]), abs=1e-12)
        assert found.value == pytest.approx(case["original"], abs=1e-12) == pytest.approx(case["weighted"], abs=1e-12)
        assert round(100 * found.value, 2) == case["reported_x100"]
    first = [fluency(case["text"]).value for case in section["cases"][:4]]
    assert sum(first) / 4 == pytest.approx(section["mean_of_first_four"], abs=1e-12)


def test_token_accuracy_and_exact_match_meet_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    for case in spec_vectors("lte")["token_accuracy"]:
        ids = case["argmax_ids"], case["target_ids"]
        assert (token_accuracy(*ids), exact_match(*ids)) == (case["original_token_accuracy"], case["exact_match"])


def test_locality_meets_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    for case in spec_vectors("lte")["locality"]:
        assert locality_agreement(case["pre_argmax_ids"], case["post_argmax_ids"]) == case["original_locality"]


@pytest.mark.parametrize("rate", [token_accuracy, exact_match, locality_agreement])
@pytest.mark.parametrize(("one", "other"), [([], []), ([1], [1, 2])])
def test_ids_of_different_lengths_are_a_mistake_and_no_rate(rate: Any, one: list[int], other: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"{len(one)} tokens and .* {len(other)}"):
        rate(one, other)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_exact_match_is_one_only_where_token_accuracy_is(pairs: list[tuple[int, int]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    assert exact_match(one, other) <= token_accuracy(one, other) <= 1
    assert token_accuracy(one, other) == token_accuracy(other, one)
    assert token_accuracy(one, one) == exact_match(one, one) == 1


@pytest.mark.parametrize("num", [3, 10, 57])
def test_a_text_that_repeats_nothing_has_the_fluency_of_its_length(num: int) -> None:
    value = fluency_of_tokens([f"w{number}" for number in range(num)]).value
    assert value == pytest.approx(math.log2(num - 1) / 3 + 2 * math.log2(num - 2) / 3)


def test_entropy_of_hand_counted_bigrams() -> None:
    assert ngram_entropy(list("ababa"), 2) == pytest.approx(1.0)  # ab, ba, ab, ba
    assert ngram_entropy(list("abac"), 2) == pytest.approx(math.log2(3))
    assert (ngram_entropy(["a"], 2), ngram_entropy([], 3)) == (0.0, 0.0)
    assert math.copysign(1, ngram_entropy(["a"] * 9, 2)) == 1


@given(st.text())
def test_tokens_hold_every_character_but_blanks_and_double_quotes(text: str) -> None:
    joined = "".join(word_tokens(text))
    quotes = '"`\''
    assert [char for char in joined if char not in quotes] == [char for char in "".join(text.split()) if char not in quotes]


@pytest.mark.parametrize(("text", "tokens"), [
    ("Mr. J. Smith paid $1,000.50 at 10:30.", ["Mr.", "J.", "Smith", "paid", "$", "1,000.50", "at", "10:30", "."]),
    ('He said, "I can\'t." Then he left.', ["He", "said", ",", "``", "I", "ca", "n't", ".", "''", "Then", "he", "left", "."]),
    ("They could've, e.g. on Monday (or not)...", ["They", "could", "'ve", ",", "e.g.", "on", "Monday", "(", "or", "not", ")", "..."]),
    ("I cannot -- gonna 'try' AT&T!", ["I", "can", "not", "--", "gon", "na", "'", "try", "'", "AT", "&", "T", "!"]),
    ("the dogs' tails: state-of-the-art", ["the", "dogs", "'", "tails", ":", "state-of-the-art"]),
])
def test_words_are_split_as_in_the_penn_treebank(text: str, tokens: list[str]) -> None:
    assert word_tokens(text) == tokens


def test_fluency_is_taken_of_the_decomposed_text() -> None:
    ligature = "of\ufb01ce work is of\ufb01ce work"
    assert fluency(ligature) == fluency(unicodedata.normalize("NFKD", ligature)) == fluency("office work is office work")


def test_the_original_variant_measures_the_prompt_as_well() -> None:
    assert measured_text("The tide", " comes in") == " comes in"
    assert measured_text("The tide", " comes in", "original") == "The tide comes in"


def test_answers_are_found_by_any_of_their_names_and_at_word_boundaries() -> None:
    answers = (Answer("United Kingdom", ("the UK",)), Answer("Lyon"))
    assert is_answered("the united kingdom.", answers) and is_answered("UK", answers) and is_answered("Lyon!", answers)
    assert not is_answered("Lyon, in France", answers) and is_answered("Lyon, in France", answers, how="starts")
    assert not is_answered("It is Lyon", answers, how="starts") and is_answered("It is Lyon", answers, how="contains")
    assert not is_answered("Lyonnais", answers, how="contains") and not is_answered("", answers, how="contains")
    assert not is_answered("anything", (Answer("?"),), how="contains")
    assert is_answered("a", (Answer("A"),)) and not is_answered("b", (Answer("A"),))  # nothing but an article is left as it is


def test_precision_at_k_counts_relevant_ids_and_a_hit_is_one_of_them() -> None:
    assert [precision_at_k(["a", "b", "c"], ["b"], k) for k in (1, 2, 3, 4)] == [0, 1 / 2, 1 / 3, 1 / 4]
    assert [hit_at_k(["a", "b", "c"], ["b"], k) for k in (1, 2, 3)] == [0, 1, 1]
    assert precision_at_k([], ["b"], 3) == 0
    with pytest.raises(ValueError, match="k=0"):
        hit_at_k(["a"], ["a"], 0)
