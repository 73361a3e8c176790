"""The whole of near-duplicate removal in one process: for tests and for jobs that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignray.dedup.bands import band_keys, candidate_pairs
from alignray.dedup.clusters import connected_components, rank_ids, representatives
from alignray.dedup.config import MinHashConfig
from alignray.dedup.shingles import AnyHashArray, IntArray, Texts, shingle_hashes
from alignray.dedup.signatures import SignatureArray, estimated_jaccard, exact_jaccard, signatures


@dataclass(frozen=True)
class DedupStats:
    """What one pass did: pairs that shared a band, pairs that passed the check, capped buckets, the split, empty texts."""

    candidates: int
    verified: int
    capped: int
    bands: int
    rows: int
    num_empty: int


@dataclass(frozen=True)
class DedupResult:
    """Per row: whether it stays, the id of its cluster's keeper (its own where it stays), and its cluster's size."""

    keep: npt.NDArray[np.bool_]
    cluster: list[str] | list[int]
    cluster_size: IntArray
    stats: DedupStats


def near_duplicates(
    ids: Sequence[str] | Sequence[int], texts: Texts, config: MinHashConfig, *, scores: npt.ArrayLike | None = None
) -> DedupResult:
    """One row kept of each cluster of near-duplicates: best score, then least id. Empty texts are all kept.

    The result for a row depends on ids, texts and scores, never on their order.
    """
    flat, offsets = shingle_hashes(texts, config)
    signed = signatures(flat, offsets, config.num_perm, config.seed)
    bands, rows = config.split()
    candidates, capped = candidate_pairs(band_keys(signed, bands, rows), rank_ids(ids), config.max_bucket)
    verified = verify_pairs(candidates, config, signed, flat, offsets)
    chosen = representatives(connected_components(len(ids), verified), ids, scores)
    stats = DedupStats(
        candidates=len(candidates), verified=len(verified), capped=capped, bands=bands, rows=rows,
        num_empty=int((np.diff(offsets) == 0).sum()),
    )  # fmt: skip
    return DedupResult(chosen.keep, [ids[row] for row in chosen.keeper], chosen.cluster_size, stats)


def verify_pairs(
    pairs: IntArray, config: MinHashConfig, signed: SignatureArray, flat: AnyHashArray, offsets: IntArray
) -> IntArray:
    """Those of the pairs [M, 2] that reach ``config.threshold`` in the way that ``config.verify`` names."""
    if config.verify == "exact":
        return pairs[exact_jaccard(flat, offsets, pairs) >= config.threshold]
    if config.verify == "estimate":
        return pairs[estimated_jaccard(signed, pairs) >= config.threshold]
    return pairs
