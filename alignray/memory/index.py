"""Nearest keys: a main part that is trained, a tail of newer rows that is compared whole, and exact scores for all.

``vectors`` [rows, D] is always the mapped file; what an index keeps of its own is which rows to look at. Deletes need no work: a query's
``View`` says which rows are live, and a search that finds too few of them looks further, in the end at all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from alignray.engine.embedders import Vectors
from alignray.errors import ConfigError
from alignray.memory.config import IndexConfig
from alignray.memory.ledger import Longs, View

_CHUNK = 8192
_SPARE = 16
"""Rows beyond k that take part in the final order, so that float32 noise does not decide it."""
_ROUNDS = 6
_PER_LIST = 32
"""Rows per list that training looks at."""

Function = TypeVar("Function", bound=Callable[..., Any])


class Near(NamedTuple):
    """What one query found, best first."""

    rows: Longs
    scores: npt.NDArray[np.float64]


class MainPart(Protocol):
    """An index over rows [0, num_rows). It may be searched while it is extended, and then finds newer rows or not."""

    num_rows: int

    def is_outgrown(self, rows: int) -> bool:
        """Whether so many rows want an index that is built anew."""

    def search(self, query: Vectors, vectors: Vectors, view: View, wanted: int) -> Longs:
        """Live rows [<= wanted] that are probably nearest to one query [D], in no order."""

    def extended(self, vectors: Vectors) -> MainPart:
        """An index, this one or another, with all rows of ``vectors`` in it."""

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """What a snapshot keeps."""


def compiled(function: Function) -> Function:
    """Machine code of a kernel, kept on disk where that is possible."""
    try:
        kernel: Function = numba.njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:  # read-only install and no writable home: compile anew in each process
        kernel = numba.njit(nogil=True, fastmath=True)(function)
    return kernel


@compiled
def dots(vectors: Vectors, rows: Longs, query: Vectors, out: Vectors) -> None:
    """Inner products of some rows with a query, without copying the rows together."""
    for place in range(rows.shape[0]):
        row = vectors[rows[place]]
        total = np.float32(0.0)
        for axis in range(query.shape[0]):
            total += row[axis] * query[axis]
        out[place] = total


def lists_for(rows: int) -> int:
    """How many inverted lists: about 4 times the root of the rows, a power of two, at most 4096."""
    return int(min(4096, 1 << round(np.log2(4 * np.sqrt(max(1, rows))))))


class InvertedLists:
    """Rows by their nearest centroid; a query looks into the lists of its nearest centroids."""

    def __init__(self, centroids: Vectors, list_of: npt.NDArray[np.uint16], trained_rows: int, probes: int) -> None:
        self.num_rows, self._trained_rows = len(list_of), trained_rows
        self._centroids, self._list_of, self._probes = centroids, list_of, probes
        self._order: Longs = np.argsort(list_of, kind="stable")
        self._starts = np.searchsorted(list_of[self._order], np.arange(len(centroids) + 1))

    @classmethod
    def trained(cls, vectors: Vectors, probes: int) -> InvertedLists:
        """Lists over all rows, from a sample of them."""
        num_lists = lists_for(len(vectors))
        sample = np.random.default_rng(0).permutation(len(vectors))[: num_lists * _PER_LIST]
        centroids = _spherical_means(vectors[np.sort(sample)], min(num_lists, len(sample)))
        return cls(centroids, _nearest(vectors, centroids), len(vectors), probes)

    def is_outgrown(self, rows: int) -> bool:
        """At four times what it was trained on."""
        return rows >= 4 * self._trained_rows

    def search(self, query: Vectors, vectors: Vectors, view: View, wanted: int) -> Longs:
        """Of ever more lists, until enough live rows are found."""
        near, probes = np.empty(len(self._centroids), dtype=np.float32), self._probes
        dots(self._centroids, np.arange(len(near)), query, near)
        while True:
            probes = min(probes, len(near))
            lists = np.argpartition(-near, probes - 1)[:probes]
            rows = np.concatenate([self._order[self._starts[at] : self._starts[at + 1]] for at in lists])
            rows = rows[view.sees(rows)]
            if len(rows) >= wanted or probes == len(near):
                break
            probes *= 4
        if len(rows) <= wanted:
            return rows
        scores = np.empty(len(rows), dtype=np.float32)
        dots(vectors, rows, query, scores)
        return rows[np.argpartition(-scores, wanted - 1)[:wanted]]

    def extended(self, vectors: Vectors) -> InvertedLists:
        """Newer rows join the lists that there are."""
        newer = _nearest(vectors[self.num_rows :], self._centroids)
        return InvertedLists(self._centroids, np.concatenate([self._list_of, newer]), self._trained_rows, self._probes)

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """Centroids and the list of each row."""
        return {"centroids": self._centroids, "list_of": self._list_of, "trained_rows": np.array(self._trained_rows)}


class VectorIndex:
    """Top k of all rows of a memory."""

    def __init__(self, config: IndexConfig) -> None:
        self._config = config
        self._build, self._load = _backend(config)
        self._main: MainPart | None = None
        self._merging = threading.Lock()

    @property
    def num_merged(self) -> int:
        """Rows in the main part."""
        return self._main.num_rows if self._main else 0

    def search(self, queries: Vectors, vectors: Vectors, view: View, k: int) -> list[Near]:
        """The k live rows nearest to each query [B, D]; of equal scores the newer row comes first."""
        if not len(queries):
            return []
        main = self._main
        merged = min(main.num_rows, view.rows) if main else 0
        older = View(merged, view.ends, view.version)
        wanted = k + _SPARE
        found = [[rows] for rows in _scan(queries, vectors, merged, view, wanted)]
        if main is not None:
            short = []
            for at, query in enumerate(queries):
                found[at].append(main.search(query, vectors, older, wanted))
                if sum(map(len, found[at])) < k:
                    short.append(at)
            if short and any(sum(map(len, found[at])) < np.count_nonzero(view.live(0, view.rows)) for at in short):
                for at, rows in zip(short, _scan(queries[short], vectors, 0, view, wanted), strict=True):
                    found[at] = [rows]
        return [_ranked(np.concatenate(rows), vectors, query, k) for rows, query in zip(found, queries, strict=True)]

    def needs_merge(self, rows: int) -> bool:
        """Whether enough rows wait outside the main part."""
        return rows > self._config.flat_below and rows - self.num_merged >= self._config.merge_at

    def merge(self, vectors: Vectors) -> None:
        """Take all rows into the main part; searches go on meanwhile."""
        with self._merging:
            main = self._main
            if len(vectors) <= max(self.num_merged, self._config.flat_below):
                return
            self._main = main.extended(vectors) if main and not main.is_outgrown(len(vectors)) else self._build(vectors)

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """The main part for a snapshot."""
        return self._main.dump() if self._main else {}

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over a main part that was dumped; one of another backend is left, and built anew by the next merge."""
        with contextlib.suppress(KeyError):
            if arrays:
                self._main = self._load(arrays)


def _backend(config: IndexConfig) -> tuple[Callable[[Vectors], MainPart], Callable[[Mapping[str, npt.NDArray[Any]]], MainPart]]:
    if config.backend != "lists":
        from alignray.memory.faiss_index import FaissPart, faiss_there

        if faiss_there(config):
            return (lambda vectors: FaissPart.trained(vectors, config)), (lambda arrays: FaissPart.loaded(arrays, config))
    if config.device == "gpu":
        raise ConfigError(f"memory.index.device = 'gpu' needs faiss, and memory.index.backend is {config.backend!r}; set it to faiss")
    return (lambda vectors: InvertedLists.trained(vectors, config.probes)), (lambda arrays: InvertedLists(
        arrays["centroids"], arrays["list_of"], int(arrays["trained_rows"]), config.probes))


def _scan(queries: Vectors, vectors: Vectors, start: int, view: View, wanted: int) -> list[Longs]:
    """Best live rows of [start, view.rows) for each query, all of them compared."""
    best_rows: list[list[Longs]] = [[np.zeros(0, np.int64)] for _ in queries]
    best_scores: list[list[Vectors]] = [[np.zeros(0, np.float32)] for _ in queries]
    for begin in range(start, view.rows, _CHUNK):
        stop = min(begin + _CHUNK, view.rows)
        rows = begin + np.flatnonzero(view.live(begin, stop))
        if len(queries) == 1:
            # one thread by itself is done before the threads of a BLAS on a busy machine have found each other
            scores_BC = np.empty((1, len(rows)), dtype=np.float32)
            dots(vectors, rows, queries[0], scores_BC[0])
        else:
            scores_BC = (queries @ vectors[begin:stop].T)[:, rows - begin]
        for at, live_scores in enumerate(scores_BC):
            top = _top(live_scores, wanted)
            best_rows[at].append(rows[top])
            best_scores[at].append(live_scores[top])
    return [np.concatenate(rows)[_top(np.concatenate(scores), wanted)] for rows, scores in zip(best_rows, best_scores, strict=True)]


def _top(scores: Vectors, wanted: int) -> Longs:
    """Places of the best, in no order."""
    return np.arange(len(scores)) if len(scores) <= wanted else np.argpartition(-scores, wanted - 1)[:wanted]


def _ranked(rows: Longs, vectors: Vectors, query: Vectors, k: int) -> Near:
    """Exact scores, each the same whatever it was found among."""
    scores = (vectors[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = np.lexsort((-rows, -scores))[:k]
    return Near(rows[order], scores[order])


def _nearest(vectors: Vectors, centroids: Vectors) -> npt.NDArray[np.uint16]:
    """The nearest centroid of each row."""
    nearest = np.empty(len(vectors), dtype=np.uint16)
    for start in range(0, len(vectors), _CHUNK):
        nearest[start : start + _CHUNK] = np.argmax(vectors[start : start + _CHUNK] @ centroids.T, axis=1)
    return nearest


def _spherical_means(sample: Vectors, num_lists: int) -> Vectors:
    """Unit centroids of a sample by k-means on the sphere; an empty one is put onto a row."""
    rng = np.random.default_rng(1)
    centroids = sample[rng.permutation(len(sample))[:num_lists]].copy()
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centroids)
        order = np.argsort(nearest, kind="stable")
        starts = np.searchsorted(nearest[order], np.arange(num_lists))
        counts = np.bincount(nearest, minlength=num_lists)
        sums = np.zeros_like(centroids)
        filled = np.flatnonzero(counts)
        sums[filled] = np.add.reduceat(sample[order], starts[filled], axis=0)
        sums[counts == 0] = sample[rng.integers(0, len(sample), int((counts == 0).sum()))]
        centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centroids
