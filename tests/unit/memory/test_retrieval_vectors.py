"""Nearest edits by cosine, as the conformance vectors have them: order and scores, whatever finds the rows."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alignray.engine.embedders import Vectors
from alignray.memory import EditDraft, EditMemory, MemoryConfig
from alignray.memory.config import IndexConfig
from alignray.memory.index import VectorIndex
from alignray.memory.ledger import View
from alignray.memory.records import LIVE

NEEDS_FAISS = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
BACKENDS = [
    pytest.param({"backend": "lists"}, id="lists"),
    pytest.param({"backend": "faiss"}, id="ivf", marks=NEEDS_FAISS),
    pytest.param({"backend": "faiss", "kind": "hnsw"}, id="hnsw", marks=NEEDS_FAISS),
]
K = 3


class Given:
    """An embedder that answers with the vectors of the file, by the text's last word."""

    name = "hash"

    def __init__(self, raw: Vectors) -> None:
        self._raw = raw

    def embed(self, texts: Sequence[str]) -> Vectors:
        words = [text.split()[-1] for text in texts]
        return unit(self._raw[[int(word) if word.isdigit() else 0 for word in words]])


def unit(vectors: Vectors) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def section(spec_vectors: Callable[[str], Any]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.array(value) for name, value in spec_vectors("lte")["retrieval"].items()}


def check(section: dict[str, npt.NDArray[Any]], rows: list[list[int]], scores: list[list[float]]) -> None:
    assert rows == section["top3"].tolist()
    wanted = np.take_along_axis(section["cosine"], section["top3"], axis=1)
    assert np.array(scores) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("is_merged", [False, True], ids=["all_compared", "merged"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_index_finds_the_vectors_top_three(section: dict[str, npt.NDArray[Any]], backend: dict[str, Any], is_merged: bool) -> None:
    """Sixty rows that have ended, and are the nearest of all, stand behind the live ones: a trained index needs some rows."""
    live = len(section["memory_embeddings"])
    keys = unit(np.concatenate([section["memory_embeddings"], np.tile(section["query_embeddings"], (20, 1))]))
    index = VectorIndex(IndexConfig(**backend, flat_below=0))
    if is_merged:
        index.merge(keys)
    assert index.num_merged == (len(keys) if is_merged else 0)
    view = View(len(keys), np.where(np.arange(len(keys)) < live, LIVE, 1), len(keys))
    found = index.search(unit(section["query_embeddings"]), keys, view, K)
    check(section, [near.rows.tolist() for near in found], [near.scores.tolist() for near in found])


def test_the_whole_memory_finds_them_too(section: dict[str, npt.NDArray[Any]], tmp_path: Path) -> None:
    """From texts: the memory embeds descriptors and queries, and gives the edits back."""
    keys, queries = section["memory_embeddings"], section["query_embeddings"]
    embedder = Given(np.concatenate([keys, queries]))
    config = MemoryConfig(path=str(tmp_path / "memory"), embedder="hash", fsync=False)
    with EditMemory(config, embedder=embedder) as memory:
        memory.add_many([EditDraft(f"subject {row}", "is", str(row), descriptor=f"edit {row}") for row in range(len(keys))])
        found = memory.top_k([f"query {len(keys) + row}" for row in range(len(queries))], K)
    check(section, [[int(near.edit.target) for near in line] for line in found], [[near.score for near in line] for line in found])
