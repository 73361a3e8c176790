"""All edits of a memory embedded anew: after a change of embedder or key, or where stored vectors are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import orjson

from alignray.engine.embedders import Embedder, build_embedder
from alignray.errors import ConfigError, StorageError
from alignray.memory.config import MemoryConfig
from alignray.memory.folder import Generation, current_generation, make_current, new_generation
from alignray.memory.log import Damaged, Place, Writer, WriterLock, read_lines, vector_crc
from alignray.memory.planning import line_of
from alignray.memory.store import folder_of

_GROUP = 1024


def rebuild(config: MemoryConfig, *, embedder: Embedder | None = None) -> int:
    """Write the memory's next generation with ``config``'s embedder and key; ids, versions and times stay.

    Readers go over at their next ``refresh``. The old generation's folder stays, for whoever wants to go back; killed half-way, the
    old one stays in use.

    Returns:
        How many edits were embedded.

    Raises:
        ConfigError: there is no memory.
        StorageError: somebody writes to it, or its log is damaged.
    """
    root = folder_of(config.path)
    if (old := current_generation(root)) is None:
        raise ConfigError(f"edit memory {root}: there is none to rebuild; check memory.path")
    lock = WriterLock(root)
    try:
        model = embedder or build_embedder(config.embedder, setting="memory.embedder")
        new = new_generation(root, config, model)
        writer = Writer(new.log, new.vectors, Place(0, 0), 0, new.meta.dimensions, fsync=config.fsync)
        try:
            events = _events(old)
            while group := list(islice(events, _GROUP)):
                _copy(group, writer, model, config)
        finally:
            writer.close()
        make_current(root, new)
        return writer.rows
    finally:
        lock.release()


def _copy(group: list[dict[str, Any]], writer: Writer, model: Embedder, config: MemoryConfig) -> None:
    texts = [event[config.key] for event in group if event["kind"] == "add"]
    vectors = np.ascontiguousarray(model.embed(texts), dtype=np.float32) if texts else np.zeros((0, 1), dtype=np.float32)
    crcs = iter([vector_crc(vector) for vector in vectors])
    writer.commit([line_of(event, next(crcs) if event["kind"] == "add" else None) for event in group], vectors)


def _events(generation: Generation) -> Iterator[dict[str, Any]]:
    try:
        for line in read_lines(generation.log, Place(0, 0)):
            yield orjson.loads(line.payload)
    except Damaged as damage:
        raise StorageError(
            f"{generation.log}: the event at byte {damage.place.offset} fails its checksum; restore the file from a copy, or open the "
            "memory once with on_damage = cut"
        ) from damage
