"""Novelty by ROUGE-L: the spec's vectors, every decision that of comparing all pairs in a plain loop, blocks and repetitions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.dedup import novelty
from alignray.dedup.novelty import Match, TooLike, closest, closest_of, decide, similar_pairs, tokens_of
from alignray.errors import ConfigError

THESIS: dict[str, Any] = {"threshold": 0.7, "inclusive": True}
ORIGINAL: dict[str, Any] = {"threshold": 0.7, "inclusive": False}
TEN = tokens_of("one two three four five six seven eight nine ten", "original")
SEVEN_OF_TEN = [*TEN[:7], "x", "y", "z"]


def plain_f(new: Sequence[str], other: Sequence[str]) -> float:
    """As the usual scorer: the table of all prefixes, then precision, recall and their harmonic mean in floats."""
    table = [[0] * (len(other) + 1) for _ in range(len(new) + 1)]
    for i, word in enumerate(new):
        for j, against in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if word == against else max(table[i][j + 1], table[i + 1][j])
    if not table[-1][-1]:
        return 0.0
    precision, recall = table[-1][-1] / len(other), table[-1][-1] / len(new)
    return 2 * precision * recall / (precision + recall)


def is_like(score: float, threshold: float, inclusive: bool) -> bool:
    return score >= threshold if inclusive else score > threshold


def plain_closest(new: Sequence[str], pool: Sequence[Sequence[str]], threshold: float, inclusive: bool) -> Match | None:
    scores = [plain_f(new, other) for other in pool]
    best = max(scores, default=0.0)
    return (scores.index(best), best) if best > 0 and is_like(best, threshold, inclusive) else None


def plain_decide(
    new: list[list[str]], pool: list[list[str]], groups: list[str], threshold: float, inclusive: bool
) -> list[TooLike | None]:
    decided: list[TooLike | None] = []
    for number, words in enumerate(new):
        from_pool = plain_closest(words, pool, threshold, inclusive)
        kept = [row for row in range(number) if decided[row] is None and groups[row] == groups[number]]
        from_kept = plain_closest(words, [new[row] for row in kept], threshold, inclusive)
        if from_pool is not None:
            decided.append(TooLike(from_pool[0], "pool", from_pool[1]))
        else:
            decided.append(None if from_kept is None else TooLike(kept[from_kept[0]], "kept", from_kept[1]))
    return decided


def texts(max_texts: int) -> st.SearchStrategy[list[list[str]]]:
    """Few words and many repetitions, so that pairs at all similarities, equal counts in another order, and ties come up."""
    random = st.lists(st.sampled_from("abcde"), max_size=24)
    at_threshold = st.sampled_from([TEN, SEVEN_OF_TEN, TEN[:7], [*TEN, *SEVEN_OF_TEN], TEN[::-1], ["a", "b"] * 5, ["b", "a"] * 5])
    return st.lists(random | at_threshold, max_size=max_texts)


THRESHOLDS = st.sampled_from([0.7, 0.7, 0.5, 0.3, 1.0, 1e-6]) | st.floats(0.01, 1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "_NEW_ROWS", 2)
    monkeypatch.setattr(novelty, "_POOL_ROWS", 3)
    monkeypatch.setattr(novelty, "_FIRST_ROWS", 3)


# ---- against the spec and by hand


def test_tokens_scores_and_verdicts_are_those_of_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    for case in spec_vectors("lion")["rouge_l"]["cases"]:
        new, existing = (tokens_of(case[name], "original") for name in ("new", "existing"))
        assert (new, existing) == (case["new_tokens"], case["existing_tokens"])
        found = similar_pairs([new], [existing], threshold=1e-6, inclusive=True)
        assert found == ([(0, 0, case["fmeasure"])] if case["fmeasure"] else []), case
        assert bool(similar_pairs([new], [existing], **ORIGINAL)) is case["original_rejects"], case
        assert bool(similar_pairs([new], [existing], **THESIS)) is not case["thesis_valid"], case


def test_seven_of_ten_words_are_too_like_for_the_thesis_and_kept_by_the_original() -> None:
    assert closest([SEVEN_OF_TEN], [TEN], **THESIS) == [(0, 0.7)]
    assert closest([SEVEN_OF_TEN], [TEN], **ORIGINAL) == [None]
    assert decide([TEN, SEVEN_OF_TEN], [None, None], **THESIS) == [None, TooLike(0, "kept", 0.7)]
    assert decide([TEN, SEVEN_OF_TEN], [None, None], **ORIGINAL) == [None, None]


def test_pairs_on_the_threshold_on_paper_fall_where_the_scorers_rounding_puts_them() -> None:
    sides: set[int] = set()
    for num_new in range(1, 40):
        for num_old in range(num_new, 40):
            common = Fraction(7, 20) * (num_new + num_old)
            if common.denominator == 1 and common <= num_new:
                old = [f"w{place}" for place in range(num_old)]
                new = old[: int(common)] + [f"n{place}" for place in range(num_new - int(common))]
                score = plain_f(new, old)
                sides.add((score > 0.7) - (score < 0.7))
                for one, other in ((new, old), (old, new)):
                    assert similar_pairs([one], [other], **THESIS) == ([(0, 0, score)] if score >= 0.7 else [])
                    assert similar_pairs([one], [other], **ORIGINAL) == ([(0, 0, score)] if score > 0.7 else [])
    assert sides == {-1, 0, 1}


def test_a_repeated_text_in_another_script_is_caught_by_unicode_words_and_passes_the_original() -> None:
    for text in ("写一首关于秋雨的诗", "Напишите короткое стихотворение", "اكتب قصيدة قصيرة عن المطر"):
        assert closest([tokens_of(text, "unicode")], [tokens_of(text, "unicode")], **THESIS) == [(0, 1.0)]
        assert tokens_of(text, "original") == [] and closest([[]], [[]], **ORIGINAL) == [None]
        assert decide([[], []], [None, None], **ORIGINAL) == [None, None]


def test_original_words_are_runs_of_ascii_letters_and_digits() -> None:
    assert tokens_of("Don't STOP_now: 3.5 caf\u00e9s", "original") == ["don", "t", "stop", "now", "3", "5", "caf", "s"]
    assert tokens_of("Don't STOP_now: 3.5 caf\u00e9s", "unicode") == ["don", "t", "stop", "now", "3", "5", "caf\u00e9s"]


def test_the_closest_is_named_and_of_equals_the_first() -> None:
    nine, ten = [*TEN[:9], "x"], list(TEN)
    assert closest([TEN], [SEVEN_OF_TEN, nine, ten, ten], **THESIS) == [(2, 1.0)]
    assert closest([TEN], [SEVEN_OF_TEN, nine], **THESIS, first_index=100) == [(101, plain_f(TEN, nine))]


def test_a_rejected_candidate_bars_no_other() -> None:
    first, second, third = list("abcdefghij"), list("abcdefghxy"), list("abcdefxyzw")
    assert plain_f(second, third) >= 0.7 > plain_f(first, third)
    assert decide([first, second, third], [None] * 3, **THESIS) == [None, TooLike(0, "kept", 0.8000000000000002), None]
    assert decide([first, second, third], [(4, 0.9), None, None], **THESIS) == [
        TooLike(4, "pool", 0.9), None, TooLike(1, "kept", 0.8000000000000002),
    ]


def test_with_groups_only_kept_candidates_of_the_same_kind_count() -> None:
    kinds = ["hard", "easy", "hard", "easy"]
    assert decide([TEN] * 4, [None] * 4, **THESIS, groups=kinds) == [None, None, TooLike(0, "kept", 1.0), TooLike(1, "kept", 1.0)]
    assert decide([TEN] * 4, [None] * 4, **THESIS) == [None, *[TooLike(0, "kept", 1.0)] * 3]
    assert decide([TEN] * 2, [(7, 1.0), (7, 1.0)], **THESIS, groups=kinds[:2]) == [TooLike(7, "pool", 1.0)] * 2


def test_nothing_new_and_an_empty_pool_are_no_trouble() -> None:
    assert closest([], [TEN], **THESIS) == [] and closest([TEN, []], [], **THESIS) == [None, None]
    assert similar_pairs([], [], **THESIS) == [] and decide([], [], **THESIS) == []


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    for call in (similar_pairs, closest):
        with pytest.raises(ConfigError, match="threshold="):
            call([TEN], [TEN], threshold=threshold, inclusive=True)
    with pytest.raises(ConfigError, match="threshold="):
        decide([TEN], [None], threshold=threshold, inclusive=True)


def test_decisions_need_one_match_and_one_group_for_each_candidate() -> None:
    with pytest.raises(ValueError, match="2 candidates, 1 pool matches, 2 groups"):
        decide([TEN, TEN], [None], **THESIS)
    with pytest.raises(ValueError, match="1 candidates, 1 pool matches, 2 groups"):
        decide([TEN], [None], **THESIS, groups=["hard", "easy"])


# ---- against the plain loop


@given(texts(8), texts(12), THRESHOLDS, st.booleans())
@settings(max_examples=150)
def test_pairs_are_those_of_the_plain_loop(new: list[list[str]], pool: list[list[str]], threshold: float, inclusive: bool) -> None:
    scores = [(i, j, plain_f(one, other)) for i, one in enumerate(new) for j, other in enumerate(pool)]
    expected = [found for found in scores if found[2] > 0 and is_like(found[2], threshold, inclusive)]
    assert similar_pairs(new, pool, threshold=threshold, inclusive=inclusive) == expected


@pytest.mark.usefixtures("small_blocks")
class TestInSmallBlocks:
    @settings(max_examples=150)
    @given(texts(8), texts(12), THRESHOLDS, st.booleans(), st.lists(st.integers(0, 12), max_size=3), st.randoms())
    def test_the_closest_is_that_of_the_plain_loop_however_the_pool_is_split(
        self, new: list[list[str]], pool: list[list[str]], threshold: float, inclusive: bool, cuts: list[int], random: Any
    ) -> None:
        expected = [plain_closest(words, pool, threshold, inclusive) for words in new]
        assert closest(new, pool, threshold=threshold, inclusive=inclusive) == expected
        ends = sorted({0, *(min(cut, len(pool)) for cut in cuts), len(pool)})
        parts = [(first, pool[first:end]) for first, end in itertools.pairwise(ends)] or [(0, pool)]
        random.shuffle(parts)
        answers = [closest(new, part, threshold=threshold, inclusive=inclusive, first_index=first) for first, part in parts]
        assert closest_of(answers) == expected

    @settings(max_examples=150)
    @given(texts(14), texts(5), st.lists(st.sampled_from(["hard", "easy"]), min_size=14, max_size=14), THRESHOLDS, st.booleans())
    def test_decisions_are_those_of_the_plain_loop(
        self, new: list[list[str]], pool: list[list[str]], kinds: list[str], threshold: float, inclusive: bool
    ) -> None:
        how: dict[str, Any] = {"threshold": threshold, "inclusive": inclusive}
        best = closest(new, pool, **how)
        shared = decide(new, best, **how)
        assert shared == plain_decide(new, pool, [""] * len(new), threshold, inclusive)
        assert decide(new, best, **how, groups=kinds[: len(new)]) == plain_decide(new, pool, kinds, threshold, inclusive)

    @given(texts(14), texts(5), st.integers(0, 14), THRESHOLDS, st.booleans())
    def test_going_on_with_what_was_kept_in_front_decides_as_one_call(
        self, new: list[list[str]], pool: list[list[str]], cut: int, threshold: float, inclusive: bool
    ) -> None:
        how: dict[str, Any] = {"threshold": threshold, "inclusive": inclusive}
        best = closest(new, pool, **how)
        whole = decide(new, best, **how)
        kept = [row for row, found in enumerate(whole[:cut]) if found is None]
        rows = [*kept, *range(cut, len(new))]
        again = decide([new[row] for row in rows], [best[row] for row in rows], **how)
        assert again[: len(kept)] == [None] * len(kept)
        named = [TooLike(rows[found.index], "kept", found.score) if found and found.side == "kept" else found for found in again]
        assert named[len(kept) :] == whole[cut:]


# ---- many words, many texts


def test_words_whose_characters_are_surrogates_are_told_apart() -> None:
    long = [str(number) for number in range(60_000)]
    other = long[2:]
    assert similar_pairs([long, TEN], [SEVEN_OF_TEN, other], **THESIS) == [(0, 1, plain_f_of(59_998, 60_000, 59_998)), (1, 0, 0.7)]


def test_words_beyond_the_number_of_characters_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [SEVEN_OF_TEN, TEN, TEN[::-1], []]
    found = similar_pairs([TEN, SEVEN_OF_TEN], pool, **THESIS)
    monkeypatch.setattr(novelty, "_MAX_CODES", 13)  # there are 13 words, and one for all unknown ones
    assert similar_pairs([TEN, SEVEN_OF_TEN], pool, **THESIS) == found == [(0, 0, 0.7), (0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.7)]


def plain_f_of(common: int, num_new: int, num_old: int) -> float:
    precision, recall = common / num_old, common / num_new
    return 2 * precision * recall / (precision + recall)


def test_a_generator_that_repeats_itself_is_kept_once() -> None:
    new = [[*TEN, str(number)] for number in range(2000)]  # each pair shares 10 of 11 words
    decided = decide(new, [None] * len(new), **THESIS)
    assert decided[0] is None and set(decided[1:]) == {TooLike(0, "kept", plain_f_of(10, 11, 11))}
