"""From pairs to clusters, and from each cluster the row that stays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.csgraph

from alignray.dedup.shingles import IntArray
from alignray.errors import RecordError


@dataclass(frozen=True)
class Representatives:
    """Per row [N]: whether it stays, the position of its cluster's keeper, and the size of its cluster."""

    keep: npt.NDArray[np.bool_]
    keeper: IntArray
    cluster_size: IntArray


def connected_components(num: int, pairs: IntArray) -> IntArray:
    """Labels [num] from 0 on, equal where pairs [M, 2] link two rows directly or through others."""
    links = np.ones(len(pairs), np.int8)
    graph = scipy.sparse.coo_matrix((links, (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return np.asarray(labels, np.int64)


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
