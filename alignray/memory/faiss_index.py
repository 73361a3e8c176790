"""The main part of the index with FAISS: a graph (HNSW), and above some size inverted lists with 8-bit codes; scores are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from alignray.engine.embedders import Vectors
from alignray.errors import ConfigError
from alignray.memory.config import IndexConfig
from alignray.memory.ledger import Longs, View

_BUILD_EFFORT = 80
"""HNSW: candidates per edit while the graph is built."""
_ADD_AT_ONCE = 65_536


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

        self.num_rows, self.trained_rows = int(index.ntotal), trained_rows
        self._index, self._config, self._searched = index, config, index
        if config.device == "gpu":
            # HNSW has no GPU form, so trained() makes none there
            self._resources = faiss.StandardGpuResources()
            self._searched = faiss.index_cpu_to_gpu(self._resources, 0, index)
        if isinstance(index, faiss.IndexIVF):
            self._searched.nprobe = config.probes
        elif isinstance(index, faiss.IndexHNSW):
            index.hnsw.efSearch = config.hnsw_search

    @classmethod
    def trained(cls, vectors: Vectors, config: IndexConfig) -> FaissPart:
        """An index of the kind that fits the number of rows."""
        import faiss

        dimensions, metric = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
        if len(vectors) > config.hnsw_below:
            num_lists = min(4096, 1 << round(np.log2(2 * np.sqrt(len(vectors)))))
            quantizer = faiss.IndexFlatIP(dimensions)
            index = faiss.IndexIVFScalarQuantizer(quantizer, dimensions, num_lists, faiss.ScalarQuantizer.QT_8bit, metric)
            index.own_fields = True
            quantizer.this.disown()
            sample = np.random.default_rng(0).permutation(len(vectors))[: num_lists * 40]
            index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        elif config.device == "gpu":
            index = faiss.IndexFlatIP(dimensions)
        else:
            index = faiss.IndexHNSWFlat(dimensions, config.hnsw_links, metric)
            index.hnsw.efConstruction = _BUILD_EFFORT
        _add(index, vectors)
        return cls(index, len(vectors), config)

    def search(self, query: Vectors, vectors: Vectors, view: View, wanted: int) -> Longs:
        """Ever more neighbours, until enough of them are live."""
        fetch = 2 * wanted
        while True:
            fetch = min(fetch, self.num_rows)
            rows = self._searched.search(query[None], fetch)[1][0]
            rows = rows[rows >= 0]
            is_all = fetch == self.num_rows or len(rows) < fetch
            rows = rows[view.sees(rows)]
            if len(rows) >= wanted or is_all or fetch >= 2048:  # a GPU gives no more; the index compares all rows then
                return rows[:wanted] if self._searched is not self._index else _reranked(rows, vectors, query, wanted)
            fetch *= 4

    def extended(self, vectors: Vectors) -> FaissPart:
        """A copy with the newer rows added; another kind where the rows have outgrown this one."""
        import faiss

        if self.num_rows <= self._config.hnsw_below < len(vectors):
            return self.trained(vectors, self._config)
        index = faiss.clone_index(self._index)
        _add(index, vectors[self.num_rows :])
        return FaissPart(index, self.trained_rows, self._config)

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """The index as FAISS writes it."""
        import faiss

        return {"faiss": faiss.serialize_index(self._index), "trained_rows": np.array(self.trained_rows)}

    @classmethod
    def loaded(cls, arrays: Mapping[str, npt.NDArray[Any]], config: IndexConfig) -> FaissPart:
        """The one that was dumped."""
        import faiss

        return cls(faiss.deserialize_index(arrays["faiss"]), int(arrays["trained_rows"]), config)


def _add(index: Any, vectors: Vectors) -> None:
    for start in range(0, len(vectors), _ADD_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + _ADD_AT_ONCE]))


def _reranked(rows: Longs, vectors: Vectors, query: Vectors, wanted: int) -> Longs:
    """The best by the stored vectors: 8-bit codes order them only roughly."""
    if len(rows) <= wanted:
        return rows
    scores = vectors[rows] @ query
    return rows[np.argpartition(-scores, wanted - 1)[:wanted]]
