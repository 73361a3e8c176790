import json
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from alignray.dedup.config import MinHashConfig
from alignray.dedup.near_duplicates import near_duplicates
from alignray.dedup.planting import PlantedPair, Quality, measure, plant_pairs, stratum_bounds

CYCLE = ["at", "at", "above", "at", "below"]


def generated(num: int, seed: int = 0, num_words: int = 120) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.integers(0, 50_000, num_words)) for _ in range(num)]


def set_jaccard(one: list[Any], other: list[Any], n: int) -> float:
    sides = [{tuple(units[start : start + n]) for start in range(max(1, len(units) - n + 1))} for units in (one, other)]
    return len(sides[0] & sides[1]) / len(sides[0] | sides[1])


def assert_in_strata(pairs: list[PlantedPair], threshold: float) -> None:
    bounds = stratum_bounds(threshold)
    for pair in pairs:
        low, high = bounds[pair.stratum]
        assert low <= pair.jaccard < high and pair.jaccard <= 1


@pytest.mark.parametrize(("threshold", "n"), [(0.7, 5), (0.5, 3), (0.1, 5), (0.9, 1)])
def test_every_pair_lies_in_its_stratum_and_python_sets_agree(threshold: float, n: int) -> None:
    texts = generated(60)
    before = list(texts)
    pairs = plant_pairs(texts, MinHashConfig(threshold=threshold, n=n, num_perm=256), seed=3)
    assert texts == before
    assert len(pairs) > 50
    assert_in_strata(pairs, threshold)
    for pair in pairs:
        assert isinstance(pair.text, str)
        assert pair.stratum == CYCLE[pair.source % 5]
        assert pair.jaccard == pytest.approx(set_jaccard(texts[pair.source].split(), pair.text.split(), n), abs=1e-12)


def test_three_of_five_pairs_are_at_the_threshold_and_close_to_it() -> None:
    pairs = plant_pairs(generated(200, num_words=400), MinHashConfig(), seed=1)
    assert Counter(pair.stratum for pair in pairs) == {"at": 120, "above": 40, "below": 40}
    assert np.mean([pair.jaccard for pair in pairs if pair.stratum == "at"]) < 0.72
    spread = [pair.jaccard for pair in pairs if pair.stratum == "above"]
    assert min(spread) < 0.82 and max(spread) > 0.92


def test_a_pair_depends_on_its_text_its_position_and_the_seed_alone() -> None:
    texts = generated(10)
    pairs = {pair.source: pair for pair in plant_pairs(texts, MinHashConfig(), seed=5)}
    assert {pair.source: pair for pair in plant_pairs(texts, MinHashConfig(), seed=5)} == pairs
    others = [*generated(7, seed=9, num_words=333), texts[7], "short"]
    assert {pair.source: pair for pair in plant_pairs(others, MinHashConfig(), seed=5)}[7] == pairs[7]
    assert {pair.source: pair for pair in plant_pairs(texts, MinHashConfig(), seed=6)}[7] != pairs[7]
    twice = plant_pairs([texts[0], texts[0]], MinHashConfig(), seed=5)
    assert twice[0].text != twice[1].text


def test_texts_that_cannot_be_edited_finely_enough_get_no_pair() -> None:
    assert plant_pairs([], MinHashConfig(), seed=1) == []
    short = ["", "!?", "one", "a few words", "no more than six words here"]
    assert plant_pairs(short, MinHashConfig(), seed=1) == []
    assert [pair.source for pair in plant_pairs([*short, *generated(1, num_words=400)], MinHashConfig(), seed=1)] == [5]
    # 9 shingles: an edit in the middle leaves 4 of 14, one at the end 8 of 10; none is in [0.7, 0.75)
    assert plant_pairs([" ".join(f"w{word}" for word in range(13))], MinHashConfig(), seed=1) == []


def test_at_threshold_one_copies_are_exact_and_near_it_they_are_not() -> None:
    texts = generated(20, num_words=600)
    exact = plant_pairs(texts, MinHashConfig(threshold=1.0), seed=1)
    assert all((pair.text == texts[pair.source]) == (pair.stratum == "at") for pair in exact)
    assert {pair.stratum for pair in exact} == {"at", "below"} and len(exact) == 20
    assert_in_strata(exact, 1.0)
    close = plant_pairs(texts, MinHashConfig(threshold=0.97), seed=1)
    assert {pair.stratum for pair in close} == {"at", "below"}
    assert all(pair.jaccard < 1 for pair in close)


def test_words_of_scripts_without_spaces_are_edited_one_by_one() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x9000, 150))) for _ in range(10)]
    pairs = plant_pairs(texts, MinHashConfig(), seed=1)
    assert len(pairs) == 10
    assert_in_strata(pairs, 0.7)


def test_characters_and_token_ids_are_edited_in_their_own_kind() -> None:
    texts = generated(10, num_words=60)
    pairs = plant_pairs(texts, MinHashConfig(unit="character"), seed=1)
    assert len(pairs) >= 9
    assert_in_strata(pairs, 0.7)
    for pair in pairs:
        assert len(pair.text) == len(texts[pair.source])
        assert pair.jaccard == pytest.approx(set_jaccard(list(texts[pair.source]), list(pair.text), 5), abs=1e-12)
    ids = np.random.default_rng(0).integers(0, 50_000, (10, 120)).tolist()
    pairs = plant_pairs(ids, MinHashConfig(unit="token_id"), seed=1)
    assert len(pairs) >= 9
    assert_in_strata(pairs, 0.7)
    for pair in pairs:
        assert isinstance(pair.text, list) and max(pair.text) < 1 << 63
        assert pair.jaccard == pytest.approx(set_jaccard(ids[pair.source], pair.text, 5), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(max_size=80), max_size=6), st.sampled_from([0.1, 0.5, 0.7, 1.0]), st.sampled_from(["word", "character"]), st.integers()
)  # fmt: skip
def test_any_text_is_planted_in_bounds_or_left_out(texts: list[str], threshold: float, unit: str, seed: int) -> None:
    config = MinHashConfig(threshold=threshold, n=2, unit=unit, recall=0.9)  # type: ignore[arg-type]
    assert_in_strata(plant_pairs(texts, config, seed=seed), threshold)


# ---- measuring


def test_intervals_meet_the_clopper_pearson_tables() -> None:
    quality = measure([0.72] * 100, [True] * 99 + [False], threshold=0.7, recall=0.99)
    assert (quality.num_at, quality.found_at, quality.recall) == (100, 99, 0.99)
    assert quality.recall_low == pytest.approx(0.94554, abs=1e-5)
    assert quality.recall_high == pytest.approx(0.99975, abs=1e-5)
    assert quality.precision == 1.0 and quality.precision_high == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_intervals_agree_with_scipy(hits_of_num: tuple[int, int]) -> None:
    hits, num = hits_of_num
    quality = measure([0.7] * num, np.arange(num) < hits, threshold=0.7, recall=0.9)
    interval = binomtest(hits, num).proportion_ci(0.95, "exact")
    assert (quality.recall_low, quality.recall_high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_strata_come_from_the_similarity_and_precision_counts_linked_pairs() -> None:
    jaccard = [0.5, 0.69, 0.7, 0.7499, 0.75, 0.8, 1.0]
    quality = measure(jaccard, [False, True, True, False, True, True, True], threshold=0.7, recall=0.95)
    assert (quality.num_below, quality.num_at, quality.num_above) == (2, 2, 3)
    assert (quality.found_below, quality.found_at, quality.found_above) == (1, 1, 3)
    assert (quality.recall, quality.recall_above, quality.precision) == (0.5, 1.0, 0.8)
    assert not quality.is_missed  # 1 of 2 may be chance


def test_a_missed_wish_is_told_from_bad_luck() -> None:
    assert measure([0.7] * 200, [True] * 170 + [False] * 30, threshold=0.7, recall=0.99).is_missed
    assert not measure([0.7] * 200, [True] * 196 + [False] * 4, threshold=0.7, recall=0.99).is_missed


def test_no_pairs_are_none_and_not_nan() -> None:
    quality = measure([], [], threshold=0.7, recall=0.99)
    assert quality.recall is None and quality.recall_above_low is None and quality.precision_high is None
    assert not quality.is_missed
    assert json.loads(json.dumps(asdict(quality), allow_nan=False))["num_at"] == 0
    full = measure(np.array([0.71, 0.6]), np.array([True, True]), threshold=0.7, recall=0.99)
    assert Quality(**json.loads(json.dumps(asdict(full), allow_nan=False))) == full
    assert replace(full, is_missed=True) != full


def quality_of(config: MinHashConfig) -> Quality:
    texts = generated(300, seed=2)
    pairs = plant_pairs(texts, config, seed=7)
    result = near_duplicates(list(range(len(texts) + len(pairs))), [*texts, *(str(pair.text) for pair in pairs)], config)
    is_found = [result.cluster[len(texts) + place] == result.cluster[pair.source] for place, pair in enumerate(pairs)]
    return measure([pair.jaccard for pair in pairs], is_found, threshold=config.threshold, recall=config.recall)


def test_a_run_finds_what_it_was_asked_for_and_too_few_bands_are_seen() -> None:
    quality = quality_of(MinHashConfig())
    assert quality.num_at > 140 and quality.num_above > 50 and quality.num_below > 50
    assert not quality.is_missed
    assert quality.precision == 1.0 and quality.found_below == 0
    assert quality.recall is not None and quality.recall > 0.95
    few = quality_of(MinHashConfig(bands=4))
    assert few.is_missed
    assert few.recall is not None and few.recall_above is not None and few.recall < few.recall_above


def test_unchecked_candidates_cost_precision() -> None:
    precision = quality_of(MinHashConfig(verify="none")).precision
    assert precision is not None and precision < 0.9
