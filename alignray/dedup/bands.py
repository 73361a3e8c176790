"""From signatures to candidate pairs: one 8-byte key per band, joined by sorting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BandRecords:
    """What the join sorts: for every row and band the key, a number that orders rows by their ids, and the row."""

    keys: HashArray
    orders: HashArray
    rows: npt.NDArray[np.uint32]


def band_records(band_keys: HashArray, orders: HashArray, rows: npt.NDArray[np.uint32]) -> BandRecords:
    """Records of rows [N] with their keys [N, bands], sorted by key; rows without a key make none."""
    keys = band_keys.ravel()
    by_key = np.argsort(keys)
    by_key = by_key[np.searchsorted(keys, 1, sorter=by_key) :]
    owners = by_key // band_keys.shape[1]
    return BandRecords(keys[by_key], orders[owners], rows[owners])


def bucket_pairs(
    records: BandRecords, max_bucket: int, *, num_own: int, at_once: int = 1 << 22
) -> Iterator[tuple[HashArray, int]]:
    """Pairs of rows that share a key, as sorted distinct codes, and the number of capped buckets; chunk by chunk.

    A bucket of more than ``max_bucket`` rows yields, in place of all pairs, each row with the bucket's first and with
    the next one in order: linear, and enough for copies of one text. Rows from ``num_own`` on are planted: they are
    paired as any row would be, but never with each other, and never make a bucket hot.

    Args:
        records: sorted by key.
        at_once: pairs held at a time, about; a pair of two buckets may come in two chunks.
    """
    start = 0
    codes = np.empty(at_once, np.uint64)
    while start < records.keys.size:
        stop, written, capped = _fill_pairs(
            records.keys, records.orders, records.rows, start, max_bucket, num_own, codes
        )
        if stop == start:  # one bucket with more pairs than there is room for
            codes = np.empty(2 * codes.size, np.uint64)
            continue
        start = stop
        yield np.unique(codes[:written]), int(capped)


def pair_rows(codes: HashArray) -> IntArray:
    """Pairs [M, 2] of row numbers behind codes, the lesser first."""
    return np.stack([codes >> np.uint64(32), codes & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)


def candidate_pairs(band_keys: HashArray, ranks: npt.ArrayLike, max_bucket: int) -> tuple[IntArray, int]:
    """Pairs [M, 2] of row positions that share a key, and how many buckets were capped; all in memory.

    Each pair comes once, the row of lesser rank first, in order of ranks, so the pairs do not depend on the order of
    the input.

    Args:
        ranks: distinct numbers [N] from 0 on, the place of each row in the order of row ids.
    """
    places = np.asarray(ranks, np.int64)
    records = band_records(band_keys, places.astype(np.uint64), places.astype(np.uint32))
    found, num_capped = [np.empty(0, np.uint64)], 0
    for codes, capped in bucket_pairs(records, max_bucket, num_own=len(places)):
        found.append(codes)
        num_capped += capped
    return np.argsort(places, kind="stable")[pair_rows(np.unique(np.concatenate(found)))], num_capped


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
def _pair_code(one: np.uint32, other: np.uint32) -> np.uint64:
    return (np.uint64(min(one, other)) << np.uint64(32)) | np.uint64(max(one, other))


@compiled
def _fill_pairs(
    keys: HashArray, orders: HashArray, rows: npt.NDArray[np.uint32], start: int, max_bucket: int, num_own: int, codes: HashArray
) -> tuple[int, int, int]:
    """Codes of whole buckets from ``start`` on while there is room: where it stopped, codes written, buckets capped."""
    written, num_capped = 0, 0
    while start < keys.size:
        stop, num_planted = start, 0
        while stop < keys.size and keys[stop] == keys[start]:
            num_planted += rows[stop] >= num_own
            stop += 1
        own = np.empty(stop - start - num_planted, np.uint32)
        planted = np.empty(num_planted, np.uint32)
        before = np.empty(num_planted, np.int64)  # the own row that each follows in order
        is_capped = own.size > max_bucket
        num_pairs = 2 * (own.size + planted.size) if is_capped else own.size * (own.size - 1) // 2 + own.size * planted.size
        if written + num_pairs > codes.size:
            break
        if stop - start > 1:
            places = np.argsort(orders[start:stop]) if is_capped else np.arange(stop - start)
            num_own_seen, num_planted_seen = 0, 0
            for place in places:
                row = rows[start + place]
                if row < num_own:
                    own[num_own_seen] = row
                    num_own_seen += 1
                else:
                    planted[num_planted_seen] = row
                    before[num_planted_seen] = max(num_own_seen - 1, 0)
                    num_planted_seen += 1
            if is_capped:
                num_capped += 1
                for place in range(1, own.size):
                    codes[written] = _pair_code(own[0], own[place])
                    codes[written + 1] = _pair_code(own[place - 1], own[place])
                    written += 2
                for place in range(planted.size):
                    codes[written] = _pair_code(own[0], planted[place])
                    codes[written + 1] = _pair_code(own[before[place]], planted[place])
                    written += 2
            else:
                for first in range(own.size):
                    for second in range(first + 1, own.size):
                        codes[written] = _pair_code(own[first], own[second])
                        written += 1
                    for copy in planted:
                        codes[written] = _pair_code(own[first], copy)
                        written += 1
        start = stop
    return start, written, num_capped
