"""From pairs to clusters, and from each cluster the row that stays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignray.dedup.hashing import compiled
from alignray.dedup.shingles import HashArray, IntArray
from alignray.errors import RecordError


@dataclass(frozen=True)
class Representatives:
    """Per row [N]: whether it stays, the position of its cluster's keeper, and the size of its cluster."""

    keep: npt.NDArray[np.bool_]
    keeper: IntArray
    cluster_size: IntArray


class DisjointSets:
    """Clusters of rows that grow link by link; 4 bytes per row, whatever the number of links."""

    def __init__(self, num: int) -> None:
        self._parents = np.arange(num, dtype=np.uint32)

    def link(self, pairs: IntArray) -> npt.NDArray[np.bool_]:
        """Join the rows of each pair [M, 2]; True [M] for those pairs that joined two clusters, a forest of all links."""
        is_joining = np.empty(len(pairs), np.bool_)
        _link(self._parents, pairs, is_joining)
        return is_joining

    def roots(self) -> npt.NDArray[np.uint32]:
        """The least row [num] of each row's cluster."""
        _flatten(self._parents)
        return self._parents


def connected_components(num: int, pairs: IntArray) -> IntArray:
    """Labels [num] from 0 on, equal where pairs [M, 2] link two rows directly or through others."""
    sets = DisjointSets(num)
    sets.link(pairs)
    return np.unique(sets.roots(), return_inverse=True)[1].astype(np.int64)


def exact_copies(
    high: HashArray, low: HashArray, orders: HashArray, rows: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Rows [M] whose text another row has, and beside each the first such row in order; texts told by 128-bit hashes [N]."""
    by_high = np.argsort(high)
    is_shared = high[by_high[1:]] == high[by_high[:-1]]
    places = by_high[np.concatenate([is_shared, [False]]) | np.concatenate([[False], is_shared])] if len(high) else by_high
    places = places[np.lexsort((rows[places], orders[places], low[places], high[places]))]
    is_first = np.ones(len(places), np.bool_)
    is_first[1:] = (high[places[1:]] != high[places[:-1]]) | (low[places[1:]] != low[places[:-1]])
    firsts = places[is_first][np.cumsum(is_first) - 1] if len(places) else places
    return rows[places[~is_first]], rows[firsts[~is_first]]


def rank_ids(ids: Sequence[str] | Sequence[int]) -> IntArray:
    """Place [N] of each id in their sorted order.

    Raises:
        RecordError: an id comes twice.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for before, after in itertools.pairwise(order):
        if ids[before] == ids[after]:
            raise RecordError(f"id {ids[after]!r} comes twice (rows {before} and {after}); ids must be distinct")
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks


def representatives(
    labels: IntArray, ids: Sequence[str] | Sequence[int], scores: npt.ArrayLike | None = None
) -> Representatives:
    """The keeper of each cluster: best score, then least id. A NaN score is worse than any number."""
    num = len(labels)
    ranks = rank_ids(ids)
    badness = np.zeros(num) if scores is None else -np.asarray(scores, np.float64)
    order = np.lexsort((ranks, badness, labels))  # NaN sorts last
    is_first = np.ones(num, np.bool_)
    is_first[1:] = labels[order][1:] != labels[order][:-1]
    cluster = np.cumsum(is_first) - 1
    keep = np.zeros(num, np.bool_)
    keep[order] = is_first
    keeper = np.empty(num, np.int64)
    keeper[order] = order[is_first][cluster]
    cluster_size = np.empty(num, np.int64)
    cluster_size[order] = np.bincount(cluster, minlength=0)[cluster]
    return Representatives(keep, keeper, cluster_size)


@compiled
def _root(parents: npt.NDArray[np.uint32], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@compiled
def _link(parents: npt.NDArray[np.uint32], pairs: IntArray, is_joining: npt.NDArray[np.bool_]) -> None:
    for index in range(len(pairs)):
        one, other = _root(parents, pairs[index, 0]), _root(parents, pairs[index, 1])
        is_joining[index] = one != other
        parents[max(one, other)] = min(one, other)


@compiled
def _flatten(parents: npt.NDArray[np.uint32]) -> None:
    for row in range(parents.size):
        parents[row] = parents[parents[row]]  # a parent is never greater than its row, so it has its root by now
