"""The main part of the index with FAISS: inverted lists of 16-bit floats, or a graph (HNSW); candidates only, scores are ours."""

from __future__ import annotations

from collections.abc import Mapping
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
_ADD_AT_ONCE = 65_536
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
    """A FAISS index over rows [0, num_rows). FAISS does not search while it adds, so ``extended`` works on a copy."""

    def __init__(self, index: Any, trained_rows: int, config: IndexConfig) -> None:
        import faiss

        self.num_rows, self._trained_rows = int(index.ntotal), trained_rows
        self._index, self._config, self._searched = index, config, index
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
            num_lists = lists_for(len(vectors))
            index = faiss.index_factory(dimensions, f"IVF{num_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
            index.cp.min_points_per_centroid = 1  # else faiss complains of small memories on stderr
            sample = np.random.default_rng(0).permutation(len(vectors))[: num_lists * _PER_LIST]
            index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        _add(index, vectors)
        return cls(index, len(vectors), config)

    def is_outgrown(self, rows: int) -> bool:
        """Inverted lists at four times what they were trained on; a graph never."""
        return self._config.kind == "ivf" and rows >= 4 * self._trained_rows

    def search(self, query: Vectors, vectors: Vectors, view: View, wanted: int) -> Longs:
        """Ever more neighbours, until enough of them are live."""
        fetch, most = 2 * wanted, min(self.num_rows, _MOST)
        while True:
            fetch = min(fetch, most)
            rows = self._searched.search(query[None], fetch)[1][0]
            rows = rows[rows >= 0]
            rows = rows[view.sees(rows)]
            if len(rows) >= wanted or fetch == most:
                return _reranked(rows, vectors, query, wanted)
            fetch *= 4

    def extended(self, vectors: Vectors) -> FaissPart:
        """A copy with the newer rows added."""
        import faiss

        index = faiss.clone_index(self._index)
        _add(index, vectors[self.num_rows :])
        return FaissPart(index, self._trained_rows, self._config)

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """The index as FAISS writes it."""
        import faiss

        return {f"faiss_{self._config.kind}": faiss.serialize_index(self._index), "trained_rows": np.array(self._trained_rows)}

    @classmethod
    def loaded(cls, arrays: Mapping[str, npt.NDArray[Any]], config: IndexConfig) -> FaissPart:
        """The one that was dumped."""
        import faiss

        return cls(faiss.deserialize_index(arrays[f"faiss_{config.kind}"]), int(arrays["trained_rows"]), config)


def _add(index: Any, vectors: Vectors) -> None:
    for start in range(0, len(vectors), _ADD_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + _ADD_AT_ONCE]))


def _reranked(rows: Longs, vectors: Vectors, query: Vectors, wanted: int) -> Longs:
    """The best by the stored vectors: 16-bit floats order them only roughly."""
    if len(rows) <= wanted:
        return rows
    scores = vectors[rows] @ query
    return rows[np.argpartition(-scores, wanted - 1)[:wanted]]
