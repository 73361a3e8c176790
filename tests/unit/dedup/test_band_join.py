import itertools
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.dedup.bands import NO_KEY, band_keys, band_records, bucket_pairs, candidate_pairs, pair_rows

key_tables = st.integers(1, 4).flatmap(
    lambda bands: st.lists(st.lists(st.integers(0, 3), min_size=bands, max_size=bands), min_size=1, max_size=14)
)


def distinct_by_band(table: list[list[int]]) -> np.ndarray:
    """Keys that no two bands share, as those of band_keys are; 0 stays no key."""
    keys = np.array(table, np.uint64)
    return np.where(keys == NO_KEY, NO_KEY, keys + 10 * np.arange(keys.shape[1], dtype=np.uint64))


@settings(max_examples=150, deadline=None)
@given(key_tables, st.randoms(use_true_random=False))
def test_pairs_meet_the_quadratic_oracle_whatever_the_order(table: list[list[int]], random: Random) -> None:
    keys = distinct_by_band(table)
    ranks = list(range(len(keys)))
    random.shuffle(ranks)
    pairs, capped = candidate_pairs(keys, ranks, max_bucket=100)
    expected = [
        sorted((left, right), key=ranks.__getitem__)
        for left, right in itertools.combinations(range(len(keys)), 2)
        if ((keys[left] == keys[right]) & (keys[left] != NO_KEY)).any()
    ]
    assert capped == 0
    assert pairs.tolist() == sorted(expected, key=lambda pair: [ranks[row] for row in pair])


@settings(max_examples=100, deadline=None)
@given(key_tables, st.integers(2, 5))
def test_capped_buckets_stay_connected_and_small(table: list[list[int]], max_bucket: int) -> None:
    keys = distinct_by_band(table)
    pairs, capped = candidate_pairs(keys, np.arange(len(keys)), max_bucket)
    everything, _ = candidate_pairs(keys, np.arange(len(keys)), max_bucket=100)
    found = {tuple(pair) for pair in pairs.tolist()}
    assert found <= {tuple(pair) for pair in everything.tolist()}
    sizes = [(keys[:, band] == key).sum() for band in range(keys.shape[1]) for key in np.unique(keys[:, band]) if key != NO_KEY]
    assert capped == sum(size > max_bucket for size in sizes)
    for band in range(keys.shape[1]):
        for key in np.unique(keys[:, band]):
            rows = np.flatnonzero(keys[:, band] == key)
            if key != NO_KEY and len(rows) > 1:
                assert all((rows[0], row) in found for row in rows[1:])


def test_a_hot_bucket_costs_linear_time_and_is_counted() -> None:
    keys = distinct_by_band([[7, 7]] * 20_000)
    pairs, capped = candidate_pairs(keys, np.arange(20_000), max_bucket=100)
    assert capped == 2
    assert len(pairs) == 2 * 20_000 - 3


@settings(max_examples=100, deadline=None)
@given(key_tables, st.integers(2, 5), st.integers(1, 40), st.randoms(use_true_random=False))
def test_pairs_are_the_same_in_chunks_of_any_size(table: list[list[int]], max_bucket: int, at_once: int, random: Random) -> None:
    keys = distinct_by_band(table)
    orders = np.array(random.sample(range(100), len(keys)), np.uint64)
    records = band_records(keys, orders, np.arange(len(keys), dtype=np.uint32))
    whole = list(bucket_pairs(records, max_bucket, num_own=len(keys)))
    chunks = list(bucket_pairs(records, max_bucket, num_own=len(keys), at_once=at_once))
    assert {code for codes, _ in whole for code in codes.tolist()} == {code for codes, _ in chunks for code in codes.tolist()}
    assert sum(capped for _, capped in whole) == sum(capped for _, capped in chunks)


@settings(max_examples=100, deadline=None)
@given(key_tables, st.integers(2, 5), st.integers(0, 14))
def test_planted_rows_change_no_pair_of_the_others(table: list[list[int]], max_bucket: int, num_planted: int) -> None:
    keys = distinct_by_band(table)
    num_own = max(1, len(keys) - num_planted)
    rows, orders = np.arange(len(keys), dtype=np.uint32), np.arange(len(keys), 0, -1, dtype=np.uint64)

    def pairs_of(count: int) -> tuple[set[tuple[int, int]], int]:
        found = list(bucket_pairs(band_records(keys[:count], orders[:count], rows[:count]), max_bucket, num_own=num_own))
        return {(left, right) for codes, _ in found for left, right in pair_rows(codes).tolist()}, sum(capped for _, capped in found)

    alone, capped_alone = pairs_of(num_own)
    together, capped_together = pairs_of(len(keys))
    assert {pair for pair in together if pair[1] < num_own} == alone
    assert capped_together == capped_alone
    for row in range(num_own, len(keys)):
        meets = {left for left in range(num_own) if ((keys[left] == keys[row]) & (keys[row] != NO_KEY)).any()}
        found = {left for left, right in together if right == row}
        assert found <= meets and bool(found) == bool(meets)
    assert not any(left >= num_own for left, _ in together)


def test_keys_tell_bands_apart_and_empty_documents_have_none() -> None:
    table = np.full((3, 8), 5, np.uint32)
    table[2] = 0xFFFFFFFF
    keys = band_keys(table, 4, 2)
    assert keys.dtype == np.uint64
    assert len(set(keys[0].tolist())) == 4  # same values, other band: another key
    assert keys[0].tolist() == keys[1].tolist()
    assert keys[2].tolist() == [0] * 4
    table[1, 7] = 6
    assert (band_keys(table, 4, 2)[1] == keys[0]).tolist() == [True, True, True, False]


def test_no_rows_make_no_pairs() -> None:
    pairs, capped = candidate_pairs(np.empty((0, 3), np.uint64), [], 10)
    assert pairs.shape == (0, 2) and capped == 0
