import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.dedup.bands import NO_KEY, band_keys, candidate_pairs

key_tables = st.integers(1, 4).flatmap(
    lambda bands: st.lists(st.lists(st.integers(0, 3), min_size=bands, max_size=bands), min_size=1, max_size=14)
)


@settings(max_examples=150, deadline=None)
@given(key_tables, st.randoms(use_true_random=False))
def test_pairs_meet_the_quadratic_oracle_whatever_the_order(table: list[list[int]], random: object) -> None:
    keys = np.array(table, np.uint64)
    ranks = list(range(len(keys)))
    random.shuffle(ranks)  # type: ignore[attr-defined]
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
    keys = np.array(table, np.uint64)
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
    keys = np.full((20_000, 2), 7, np.uint64)
    pairs, capped = candidate_pairs(keys, np.arange(20_000), max_bucket=100)
    assert capped == 2
    assert len(pairs) == 2 * 20_000 - 3


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
