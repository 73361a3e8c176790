"""From signatures to candidate pairs: one 8-byte key per band, joined by sorting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alignray.dedup.hashing import BASIS, absorb, compiled, mix64
from alignray.dedup.shingles import HashArray, IntArray
from alignray.dedup.signatures import EMPTY, SignatureArray

NO_KEY = np.uint64(0)
"""Key of every band of an empty document: it never makes a candidate."""


def band_keys(signatures: SignatureArray, bands: int, rows: int) -> HashArray:
    """Keys [N, bands]: a hash of the band's index and its ``rows`` signature values; NO_KEY for empty documents."""
    keys = np.empty((len(signatures), bands), np.uint64)
    _band_keys(signatures, rows, keys)
    return keys


def candidate_pairs(band_keys: HashArray, ranks: npt.ArrayLike, max_bucket: int) -> tuple[IntArray, int]:
    """Pairs [M, 2] of row positions that share a key, and how many buckets were capped.

    Each pair comes once, the row of lesser rank first, in order of ranks, so the pairs do not depend on the order of
    the input. A bucket of more than ``max_bucket`` rows yields, in place of all pairs, each row with the bucket's
    least and with the next: linear, and enough for copies of one text.

    Args:
        ranks: distinct numbers [N], the place of each row in the order of row ids.
    """
    num_rows, num_bands = band_keys.shape
    by_rank = np.argsort(np.asarray(ranks), kind="stable")
    keys = band_keys[by_rank]  # a copy: capped buckets are struck out of it
    found = [np.empty(0, np.int64)]
    num_capped = 0
    for band in range(num_bands):
        by_key = np.argsort(keys[:, band], kind="stable")
        num_pairs, _ = _bucket_pairs(keys, by_key, band, max_bucket, np.empty(0, np.int64))
        codes = np.empty(num_pairs, np.int64)
        _, capped = _bucket_pairs(keys, by_key, band, max_bucket, codes)
        found.append(codes)
        num_capped += capped
    codes = np.unique(np.concatenate(found))
    left, right = np.divmod(codes, max(num_rows, 1))
    return np.stack([by_rank[left], by_rank[right]], axis=1).astype(np.int64), int(num_capped)


@compiled
def _band_keys(signatures: SignatureArray, rows: int, keys: HashArray) -> None:
    for row in range(keys.shape[0]):
        is_empty = True
        for p in range(signatures.shape[1]):
            is_empty = is_empty and signatures[row, p] == EMPTY
        for band in range(keys.shape[1]):
            state = absorb(BASIS, np.uint64(band))
            for p in range(band * rows, (band + 1) * rows):
                state = absorb(state, np.uint64(signatures[row, p]))
            key = mix64(state)
            keys[row, band] = NO_KEY if is_empty else max(key, np.uint64(1))


@compiled
def _bucket_pairs(keys: HashArray, by_key: IntArray, band: int, max_bucket: int, codes: IntArray) -> tuple[int, int]:
    """Number of pairs of this band and of capped buckets; the pairs too, as left * N + right, where ``codes`` has room.

    A pair that an earlier, uncapped band has found is left out. Filling strikes capped buckets out of ``keys``.
    """
    num_rows = keys.shape[0]
    is_filling = codes.size > 0
    written = 0
    num_capped = 0
    start = 0
    while start < num_rows:
        key = keys[by_key[start], band]
        stop = start + 1
        while stop < num_rows and keys[by_key[stop], band] == key:
            stop += 1
        if key != NO_KEY and stop - start > max_bucket:
            num_capped += 1
            for place in range(start + 1, stop):
                if is_filling:
                    codes[written] = by_key[start] * num_rows + by_key[place]
                written += 1
                if place > start + 1:
                    if is_filling:
                        codes[written] = by_key[place - 1] * num_rows + by_key[place]
                    written += 1
            if is_filling:
                for place in range(start, stop):
                    keys[by_key[place], band] = NO_KEY
        elif key != NO_KEY:
            for first in range(start, stop):
                for second in range(first + 1, stop):
                    left, right = by_key[first], by_key[second]
                    is_known = False
                    for earlier in range(band):
                        if keys[left, earlier] == keys[right, earlier] and keys[left, earlier] != NO_KEY:
                            is_known = True
                            break
                    if not is_known:
                        if is_filling:
                            codes[written] = left * num_rows + right
                        written += 1
        start = stop
    return written, num_capped
