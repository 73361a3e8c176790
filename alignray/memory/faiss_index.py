"""The main part of the index with FAISS: inverted lists of 16-bit floats, or a graph (HNSW); candidates only, scores are ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from alignray.engine.embedders import Vectors
from alignray.errors import ConfigError
from alignray.memory.config import IndexConfig
from alignray.memory.index import lists_for
from alignray.memory.ledger import Longs, View

_BUILD_EFFORT = 80
"""HNSW: candidates per edit while the graph is built."""
_PER_LIST = 40
"""Rows per list that training looks at."""
_ADD_AT_ONCE = {"ivf": 256, "hnsw": 16}
"""Rows for which searches wait: some milliseconds."""
_MOST = 2048
"""Neighbours that a GPU index gives at most; where too few of so many are live, all rows are compared."""


def faiss_there(config: IndexConfig) -> bool:
    """Whether faiss can be used as configured.

    Raises:
        ConfigError: it is asked for and not there, or has no GPU part.
    """
    try:
        import faiss
    except ImportError as err:
        if config.backend == "faiss":
            raise ConfigError("memory.index.backend = 'faiss' needs it; pip install faiss-cpu, or set it to auto or lists") from err
        return False
    if config.device == "gpu" and not hasattr(faiss, "StandardGpuResources"):
        raise ConfigError("memory.index.device = 'gpu', and this faiss was built without GPUs; install a GPU build, or set it to cpu")
    return True


class FaissPart:
    """A FAISS index over rows [0, num_rows). FAISS must not search while it adds: searches wait for a few rows at a time."""

    def __init__(self, index: Any, trained_rows: int, config: IndexConfig) -> None:
        import faiss

        self.num_rows, self._trained_rows = int(index.ntotal), trained_rows
        self._index, self._config, self._searched = index, config, index
        self._gate = _Gate()
        if config.device == "gpu":
            self._resources = faiss.StandardGpuResources()
            self._searched = faiss.index_cpu_to_gpu(self._resources, 0, index)
        if config.kind == "ivf":
            self._searched.nprobe = config.probes
        else:
            index.hnsw.efSearch = config.hnsw_search

    @classmethod
    def trained(cls, vectors: Vectors, config: IndexConfig) -> FaissPart:
        """An index over all rows, from a sample of them."""
        import faiss

        dimensions = vectors.shape[1]
        index: Any
        if config.kind == "hnsw":
            index = faiss.IndexHNSWFlat(dimensions, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _BUILD_EFFORT
        else:
            num_lists = min(lists_for(len(vectors)), len(vectors))  # faiss takes no more centroids than rows
            index = faiss.index_factory(dimensions, f"IVF{num_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
            index.cp.min_points_per_centroid = 1  # else faiss complains of small memories on stderr
            sample = np.random.default_rng(0).permutation(len(vectors))[: num_lists * _PER_LIST]
            index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        part = cls(index, len(vectors), config)
        part._add(vectors, 65_536)
        return part

    def is_outgrown(self, rows: int) -> bool:
        """Inverted lists at four times what they were trained on; a graph never."""
        return self._config.kind == "ivf" and rows >= 4 * self._trained_rows

    def search(self, query: Vectors, vectors: Vectors, view: View, wanted: int) -> Longs:
        """Ever more neighbours, until enough of them are live."""
        fetch, most = 2 * wanted, min(self.num_rows, _MOST)
        while True:
            fetch = min(fetch, most)
            with self._gate.shared():
                rows = self._searched.search(query[None], fetch)[1][0]
            rows = rows[rows >= 0]
            rows = rows[view.sees(rows)]
            if len(rows) >= wanted or fetch == most:
                return _reranked(rows, vectors, query, wanted)
            fetch *= 4

    def extended(self, vectors: Vectors) -> FaissPart:
        """This one, with the newer rows added."""
        self._add(vectors, _ADD_AT_ONCE[self._config.kind])
        return self

    def _add(self, vectors: Vectors, at_once: int) -> None:
        for start in range(self.num_rows, len(vectors), at_once):
            rows = np.ascontiguousarray(vectors[start : start + at_once])
            with self._gate.alone():
                self._index.add(rows)
                if self._searched is not self._index:
                    self._searched.add(rows)
                self.num_rows = int(self._index.ntotal)

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """The index as FAISS writes it."""
        import faiss

        with self._gate.shared():
            return {f"faiss_{self._config.kind}": faiss.serialize_index(self._index), "trained_rows": np.array(self._trained_rows)}

    @classmethod
    def loaded(cls, arrays: Mapping[str, npt.NDArray[Any]], config: IndexConfig) -> FaissPart:
        """The one that was dumped."""
        import faiss

        return cls(faiss.deserialize_index(arrays[f"faiss_{config.kind}"]), int(arrays["trained_rows"]), config)


class _Gate:
    """Many who read, or one who writes and goes first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers, self._writers = 0, 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """With other readers."""
        with self._condition:
            self._condition.wait_for(lambda: not self._writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """After the readers that are in; merging holds a lock, so there is one writer."""
        with self._condition:
            self._writers += 1
            self._condition.wait_for(lambda: not self._readers)
        try:
            yield
        finally:
            with self._condition:
                self._writers -= 1
                self._condition.notify_all()


def _reranked(rows: Longs, vectors: Vectors, query: Vectors, wanted: int) -> Longs:
    """The best by the stored vectors: 16-bit floats order them only roughly."""
    if len(rows) <= wanted:
        return rows
    scores = vectors[rows] @ query
    return rows[np.argpartition(-scores, wanted - 1)[:wanted]]
