"""Settings of the edit memory."""

from __future__ import annotations

from typing import Literal

import pydantic

from alignray.config import Config


class IndexConfig(Config):
    """How the nearest keys are found. Whatever it is, scores are exact: only which edits are looked at is approximate."""

    backend: Literal["auto", "faiss", "lists"] = "auto"
    """faiss: needs it installed. lists: inverted lists over the stored vectors, no library needed. auto: faiss where it is."""
    kind: Literal["ivf", "hnsw"] = "ivf"
    """faiss only. ivf: inverted lists of 16-bit floats, half the vectors' size in memory; an edit always answers to its own key.
    hnsw: a graph with a second copy of the vectors; it can lose edits whose keys are equal."""
    device: Literal["cpu", "gpu"] = "cpu"
    """gpu: searches with a faiss that has StandardGpuResources (kind ivf); refused where it has not."""
    flat_below: int = pydantic.Field(default=2000, ge=0)
    """Up to so many edits every key is compared."""
    merge_at: int = pydantic.Field(default=2048, ge=1)
    """Edits that wait outside the index, all compared, until they are merged into it."""
    probes: int = pydantic.Field(default=32, ge=1)
    """Lists looked into per query (lists, ivf)."""
    hnsw_links: int = pydantic.Field(default=16, ge=2)
    """hnsw: links per edit and layer."""
    hnsw_search: int = pydantic.Field(default=128, ge=1)
    """hnsw: candidates kept while searching."""
    background: bool = True
    """Whether merging waits for no one: a thread does it. Off: the add that fills merge_at does it."""

    @pydantic.model_validator(mode="after")
    def _gpus_have_no_graph(self) -> IndexConfig:
        if self.device == "gpu" and self.kind == "hnsw":
            raise ValueError("device = gpu cannot search a graph; set kind to ivf")
        return self


class MemoryConfig(Config):
    """An edit memory. Source: LTE, thesis 5.1.2 (retrieval on the fly); the authors' code where it says "original"."""

    path: str
    """Its folder, on a local disk."""
    embedder: str = "multi-qa-mpnet-base-dot-v1"
    """A sentence-transformers model by hub name or local folder, or hash (tests)."""
    key: Literal["descriptor", "prompt"] = "descriptor"
    """What is embedded of an edit: its descriptor (thesis) or its prompt alone (original)."""
    index: IndexConfig = IndexConfig()
    """How the nearest keys are found."""
    fsync: bool = True
    """Whether an edit is on the disk before it is acknowledged. Off: it survives a killed process, not a power cut."""
    snapshot_every: int = pydantic.Field(default=20_000, ge=1)
    """Events between snapshots, which make a restart quick."""
    on_damage: Literal["refuse", "cut"] = "refuse"
    """A log with a damaged line in it is refused, or cut off there by the writer; what was cut stays in a file beside it."""

    @pydantic.field_validator("path")
    @classmethod
    def _is_local(cls, path: str) -> str:
        if "://" in path or not path:
            raise ValueError("the edit memory needs a folder on a local disk: it locks, appends and maps files")
        return path
