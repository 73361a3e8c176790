"""Nearest keys through a trained index: against the exact ones, and with most of them dead."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from alignray.engine.embedders import Vectors
from alignray.errors import ConfigError
from alignray.memory.config import IndexConfig
from alignray.memory.index import VectorIndex
from alignray.memory.ledger import View
from alignray.memory.records import LIVE

HAS_FAISS = importlib.util.find_spec("faiss") is not None
NEEDS_FAISS = pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
BACKENDS = [
    pytest.param({"backend": "lists"}, id="lists"),
    pytest.param({"backend": "faiss"}, id="ivf", marks=NEEDS_FAISS),
    pytest.param({"backend": "faiss", "kind": "hnsw"}, id="hnsw", marks=NEEDS_FAISS),
]
Backend = dict[str, Any]
ROWS, DIMENSIONS = 6000, 32


def unit(vectors: Vectors) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(num: int, seed: int) -> Vectors:
    """Unit vectors around 40 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, DIMENSIONS))
    return unit(centres[rng.integers(0, 40, num)] + 0.6 * rng.normal(size=(num, DIMENSIONS)))


def all_live(rows: int) -> View:
    return View(rows, np.full(rows, LIVE), rows)


def exact(queries: Vectors, vectors: Vectors, view: View, k: int) -> list[list[int]]:
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    scores[:, ~(np.arange(len(vectors)) < view.rows) | ~(view.ends > view.version)] = -np.inf
    return [[int(row) for row in np.argsort(-line)[:k] if line[row] > -np.inf] for line in scores]


def recall(found: list[list[int]], wanted: list[list[int]]) -> float:
    return sum(len(set(left) & set(right)) for left, right in zip(found, wanted, strict=True)) / sum(map(len, wanted))


def searched(index: VectorIndex, queries: Vectors, vectors: Vectors, view: View, k: int) -> list[list[int]]:
    return [near.rows.tolist() for near in index.search(queries, vectors, view, k)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_recall_against_all_pairs(backend: Backend) -> None:
    vectors, queries, view = clustered(ROWS, 1), clustered(100, 2), all_live(ROWS)
    index = VectorIndex(IndexConfig(**backend, flat_below=0))
    wanted = exact(queries, vectors, view, 3)
    assert searched(index, queries, vectors, view, 3) == wanted  # nothing is merged yet: all are compared
    index.merge(vectors)
    assert index.num_merged == ROWS
    assert recall(searched(index, queries, vectors, view, 3), wanted) >= 0.97
    few = VectorIndex(IndexConfig(backend="lists", flat_below=0, probes=1))
    few.merge(vectors)
    assert recall(searched(few, queries, vectors, view, 3), wanted) < 0.9  # so the test can fail


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 3, 15])
def test_fewer_rows_than_lists(backend: Backend, rows: int) -> None:
    vectors = clustered(rows, 1)
    index = VectorIndex(IndexConfig(**backend, flat_below=0))
    index.merge(vectors)
    assert index.num_merged == rows
    assert searched(index, vectors, vectors, all_live(rows), 1) == [[row] for row in range(rows)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_are_exact_and_ordered(backend: Backend) -> None:
    vectors, queries = clustered(ROWS, 1), clustered(20, 2)
    index = VectorIndex(IndexConfig(**backend, flat_below=0))
    index.merge(vectors)
    for query, near in zip(queries, index.search(queries, vectors, all_live(ROWS), 5), strict=True):
        assert near.scores == pytest.approx(vectors[near.rows].astype(np.float64) @ query, abs=1e-12)
        assert list(near.scores) == sorted(near.scores, reverse=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_live", [0, 1, 2, 5, 100])
def test_the_few_that_live_are_found_among_the_dead(backend: Backend, num_live: int) -> None:
    vectors, queries = clustered(ROWS, 1), clustered(10, 2)
    index = VectorIndex(IndexConfig(**backend, flat_below=0, probes=1))
    index.merge(vectors[:5000])
    ends = np.full(ROWS, 1)
    ends[np.random.default_rng(num_live).permutation(ROWS)[:num_live]] = LIVE
    view = View(ROWS, ends, ROWS)
    found = searched(index, queries, vectors, view, 3)
    assert all(len(rows) == min(3, num_live) for rows in found)
    if num_live <= 19:
        assert found == exact(queries, vectors, view, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_after_a_version_are_not_seen(backend: Backend) -> None:
    vectors, queries = clustered(ROWS, 1), clustered(10, 2)
    index = VectorIndex(IndexConfig(**backend, flat_below=0))
    index.merge(vectors)
    for rows in (0, 1, 700, 5999):
        view = View(rows, np.full(ROWS, LIVE), rows)
        found = searched(index, queries, vectors, view, 3)
        assert all(row < rows for near in found for row in near) and all(len(near) == min(3, rows) for near in found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_newer_rows_join_and_lists_are_trained_anew_when_they_have_grown_fourfold(backend: Backend) -> None:
    vectors, queries = clustered(ROWS, 1), clustered(50, 2)
    index = VectorIndex(IndexConfig(**backend, flat_below=100, merge_at=500))
    assert not index.needs_merge(100) and not index.needs_merge(499) and index.needs_merge(500)
    built = []
    for rows in (600, 1400, 2300, 2400, 6000):
        index.merge(vectors[:rows])
        built.append(index._main._trained_rows)  # type: ignore[union-attr]
        wanted = exact(queries, vectors[:rows], all_live(rows), 3)
        assert recall(searched(index, queries, vectors, all_live(rows), 3), wanted) >= 0.95
    # a graph needs no training
    assert built == ([600] * 5 if "kind" in backend else [600, 600, 600, 2400, 2400]) and index.num_merged == ROWS
    assert not index.needs_merge(ROWS + 499) and index.needs_merge(ROWS + 500)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dumped_index_is_the_same_one(backend: Backend) -> None:
    vectors, queries = clustered(ROWS, 1), clustered(30, 2)
    config = IndexConfig(**backend, flat_below=0, probes=2)
    index, other = VectorIndex(config), VectorIndex(config)
    index.merge(vectors[:4000])
    other.load(index.dump())
    assert other.num_merged == 4000
    assert searched(other, queries, vectors, all_live(ROWS), 3) == searched(index, queries, vectors, all_live(ROWS), 3)


def test_equal_vectors_come_newest_first_by_any_way() -> None:
    vectors = np.repeat(clustered(1, 1), 12, axis=0)
    index = VectorIndex(IndexConfig(backend="lists", flat_below=0))
    assert searched(index, vectors[:1], vectors, all_live(12), 3) == [[11, 10, 9]]
    index.merge(vectors[:7])
    assert searched(index, vectors[:2], vectors, all_live(12), 3) == [[11, 10, 9]] * 2


def test_a_backend_that_is_not_there_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu, or set it to auto or lists"):
        VectorIndex(IndexConfig(backend="faiss"))
    with pytest.raises(ConfigError, match="device = 'gpu' needs faiss"):
        VectorIndex(IndexConfig(backend="auto", device="gpu"))
    index = VectorIndex(IndexConfig(backend="auto", flat_below=0))
    index.merge(clustered(100, 1))
    assert type(index._main).__name__ == "InvertedLists"


@NEEDS_FAISS
def test_faiss_is_taken_where_it_is_and_asked_for_gpus() -> None:
    import faiss

    index = VectorIndex(IndexConfig(flat_below=0))
    index.merge(clustered(100, 1))
    assert type(index._main).__name__ == "FaissPart"
    if not hasattr(faiss, "StandardGpuResources"):
        with pytest.raises(ConfigError, match="this faiss was built without GPUs; install a GPU build, or set it to cpu"):
            VectorIndex(IndexConfig(device="gpu"))


def test_a_graph_on_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot search a graph; set kind to ivf"):
        IndexConfig(device="gpu", kind="hnsw")


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_every_row_answers_to_its_own_key_however_many_are_equal(backend: Backend) -> None:
    vectors = np.repeat(clustered(200, 1), 10, axis=0)[np.random.default_rng(0).permutation(2000)]
    index = VectorIndex(IndexConfig(**backend, flat_below=0, probes=1))
    index.merge(vectors[:1500])
    for row, near in enumerate(index.search(vectors, vectors, all_live(2000), 10)):
        assert row in near.rows and near.scores[-1] == pytest.approx(1, abs=1e-6)


@NEEDS_FAISS
def test_a_snapshot_of_another_backend_is_built_anew() -> None:
    vectors = clustered(1000, 1)
    index, other = VectorIndex(IndexConfig(backend="lists", flat_below=0)), VectorIndex(IndexConfig(backend="faiss", flat_below=0))
    index.merge(vectors)
    other.load(index.dump())
    assert other.num_merged == 0 and searched(other, vectors[:1], vectors, all_live(1000), 1) == [[0]]
