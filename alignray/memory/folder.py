"""A memory's folder: ``CURRENT`` names the generation in use, ``meta.json`` in it says whose vectors it holds.

    CURRENT  writer.lock  g000001/{meta.json, events.jsonl, vectors.f32, snapshots/}

A rebuild writes the next generation and then swaps ``CURRENT``, which is one atomic step for writer and readers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from alignray.engine.embedders import Embedder
from alignray.errors import ConfigError, StorageError
from alignray.io.storage import Storage
from alignray.memory.config import MemoryConfig

FORMAT = 1
_PROBE = ("Marie Curie was born in Warsaw.", "the probe by which an embedder is known again")


@dataclass(frozen=True)
class Meta:
    """Whose vectors a generation holds."""

    format: int
    embedder: str
    dimensions: int
    key: str
    probe: tuple[float, ...]
    """The embedder's vectors of two fixed texts, first 8 numbers each: a model that changed under its name is seen."""


@dataclass(frozen=True)
class Generation:
    """One generation's files."""

    folder: Path
    meta: Meta

    @property
    def log(self) -> Path:
        """Its events."""
        return self.folder / "events.jsonl"

    @property
    def vectors(self) -> Path:
        """Its keys."""
        return self.folder / "vectors.f32"

    @property
    def snapshots(self) -> Path:
        """Its snapshots."""
        return self.folder / "snapshots"


def current_generation(root: Path) -> Generation | None:
    """The generation in use; None where there is no memory yet.

    Raises:
        StorageError: its files cannot be read.
    """
    try:
        name = (root / "CURRENT").read_text().strip()
    except FileNotFoundError:
        return None
    try:
        data = orjson.loads((root / name / "meta.json").read_bytes())
        if data["format"] != FORMAT:
            raise StorageError(f"edit memory {root}: written in format {data['format']}, this version reads {FORMAT}; use a newer alignray")
        return Generation(root / name, Meta(**{**data, "probe": tuple(data["probe"])}))
    except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as err:
        raise StorageError(f"edit memory {root}: {name}/meta.json cannot be read ({err}); restore the folder from a copy") from err


def new_generation(root: Path, config: MemoryConfig, embedder: Embedder) -> Generation:
    """The next generation, empty; ``make_current`` puts it to use."""
    vectors = embedder.embed(_PROBE)
    meta = Meta(FORMAT, embedder.name, vectors.shape[1], config.key, probe_of(embedder))
    number = max((int(entry.name[1:]) for entry in root.glob("g[0-9]*")), default=0) + 1
    name = f"g{number:06d}"
    Storage(str(root)).write(f"{name}/meta.json", orjson.dumps(asdict(meta)))
    generation = Generation(root / name, meta)
    generation.log.touch()
    generation.vectors.touch()
    return generation


def make_current(root: Path, generation: Generation) -> None:
    """Swap it in."""
    Storage(str(root)).write("CURRENT", generation.folder.name.encode())


def probe_of(embedder: Embedder) -> tuple[float, ...]:
    """What an embedder is known by."""
    return tuple(round(float(value), 6) for value in embedder.embed(_PROBE)[:, :8].ravel())


def check_config(root: Path, meta: Meta, config: MemoryConfig) -> None:
    """A memory is used as it was made.

    Raises:
        ConfigError: another embedder or another key.
    """
    for name, made, wanted in (("embedder", meta.embedder, config.embedder), ("key", meta.key, config.key)):
        if made != wanted:
            raise ConfigError(
                f"edit memory {root}: made with {name} = {made!r}, the config says {wanted!r}; set memory.{name} back, "
                "or embed all edits anew with alignray.memory.rebuild(config)"
            )


def check_embedder(root: Path, meta: Meta, embedder: Embedder) -> None:
    """An embedder that changed under its name gives vectors that do not compare with the stored ones.

    Raises:
        ConfigError: it did.
    """
    found = probe_of(embedder)
    if len(found) != len(meta.probe) or not np.allclose(found, meta.probe, atol=0.01):
        raise ConfigError(
            f"edit memory {root}: embedder {meta.embedder!r} gives other vectors than when this memory was made; use the model "
            "of then, or embed all edits anew with alignray.memory.rebuild(config)"
        )
