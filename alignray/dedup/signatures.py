"""From shingle sets to MinHash signatures, and Jaccard similarity by signature or by set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alignray.dedup.hashing import compiled, splitmix64
from alignray.dedup.shingles import AnyHashArray, HashArray, IntArray

SignatureArray = npt.NDArray[np.uint32]

EMPTY = np.uint32(0xFFFFFFFF)
"""Every value of an empty document's signature."""

_PAIRS_AT_A_TIME = 1 << 16


def signatures(flat: HashArray, offsets: IntArray, num_perm: int, seed: int) -> SignatureArray:
    """Signatures [N, num_perm]: for each hash function the least value over a document's shingles.

    Function p is the upper half of a * x + b modulo 2**64, where a (made odd) and b are numbers 2p and 2p + 1 of the
    splitmix64 sequence of ``seed``. A longer signature therefore begins with the shorter one of the same seed.
    """
    factors = np.array([splitmix64(seed, 2 * p) | 1 for p in range(num_perm)], np.uint64)
    terms = np.array([splitmix64(seed, 2 * p + 1) for p in range(num_perm)], np.uint64)
    least = np.full((offsets.size - 1, num_perm), EMPTY, np.uint32)
    _least_values(flat, offsets, factors, terms, least)
    return least


def estimated_jaccard(signatures: SignatureArray, pairs: IntArray) -> npt.NDArray[np.float64]:
    """Share of equal signature values for each pair of rows [M, 2]; unbiased, standard error <= 0.5 / sqrt(num_perm)."""
    estimates = np.empty(len(pairs), np.float64)
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        left, right = pairs[start : start + _PAIRS_AT_A_TIME].T
        estimates[start : start + _PAIRS_AT_A_TIME] = (signatures[left] == signatures[right]).mean(axis=1)
    return estimates


def exact_jaccard(flat: AnyHashArray, offsets: IntArray, pairs: IntArray) -> npt.NDArray[np.float64]:
    """True Jaccard similarity of the shingle sets of each pair of rows [M, 2]; 0 where both are empty."""
    similarity = np.empty(len(pairs), np.float64)
    _merged_jaccard(flat, offsets, pairs, similarity)
    return similarity


@compiled
def _least_values(flat: HashArray, offsets: IntArray, factors: HashArray, terms: HashArray, least: SignatureArray) -> None:
    for row in range(offsets.size - 1):
        values = least[row]
        for index in range(offsets[row], offsets[row + 1]):
            shingle = flat[index]
            for p in range(factors.size):
                values[p] = min(values[p], np.uint32((factors[p] * shingle + terms[p]) >> np.uint64(32)))


@compiled
def _merged_jaccard(flat: AnyHashArray, offsets: IntArray, pairs: IntArray, similarity: npt.NDArray[np.float64]) -> None:
    for pair in range(len(pairs)):
        left, left_end = offsets[pairs[pair, 0]], offsets[pairs[pair, 0] + 1]
        right, right_end = offsets[pairs[pair, 1]], offsets[pairs[pair, 1] + 1]
        union = (left_end - left) + (right_end - right)
        common = 0
        while left < left_end and right < right_end:
            if flat[left] == flat[right]:
                common += 1
                left += 1
                right += 1
            elif flat[left] < flat[right]:
                left += 1
            else:
                right += 1
        union -= common
        similarity[pair] = common / union if union else 0.0
