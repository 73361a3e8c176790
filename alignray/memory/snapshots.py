"""Snapshots: the ledger (and the trained index) at one event, so that a restart reads only the log behind it.

The vectors are not in it: ``vectors.f32`` is append-only and raw already, and the snapshot says how many of its rows it covers.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from alignray.memory.log import Place

logger = logging.getLogger(__name__)

_KEPT = 2


@dataclass(frozen=True)
class Snapshot:
    """One that was read whole."""

    version: int
    place: Place
    columns: dict[str, npt.NDArray[Any]]
    """Of the ledger."""
    index: dict[str, npt.NDArray[Any]]
    """Of the index; empty where it was flat."""


def write_snapshot(folder: Path, version: int, place: Place, columns: Mapping[str, npt.NDArray[Any]],
                   index: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write it aside, sync it and rename it into place; older ones but the last go."""
    folder.mkdir(exist_ok=True)
    aside = folder / f".{version:015d}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        crcs = {}
        for name, array in {**{f"ledger.{key}": value for key, value in columns.items()},
                            **{f"index.{key}": value for key, value in index.items()}}.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            crcs[name] = zlib.crc32(buffer.getbuffer())
            _put(aside / f"{name}.npy", buffer.getbuffer())
        manifest = {"version": version, "offset": place.offset, "chain": place.chain, "files": crcs}
        _put(aside / "manifest.json", orjson.dumps(manifest))
        sync_folder(aside)
        if (folder / f"{version:015d}").exists():
            shutil.rmtree(aside)
            return
        aside.rename(folder / f"{version:015d}")
        sync_folder(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in _names(folder)[:-_KEPT]:
        shutil.rmtree(folder / old, ignore_errors=True)


def newest_snapshot(folder: Path, log_bytes: int) -> tuple[Snapshot | None, list[str]]:
    """The newest whole one that the log still reaches, and why newer ones were passed over."""
    notes: list[str] = []
    for name in reversed(_names(folder)):
        try:
            snapshot = _read(folder / name)
        except (OSError, ValueError, KeyError, TypeError) as err:
            notes.append(f"snapshot {name} is damaged ({err}) and was passed over")
            continue
        if snapshot.place.offset <= log_bytes:
            return snapshot, notes
        notes.append(f"snapshot {name} covers {snapshot.place.offset} bytes of a log of {log_bytes} and was passed over")
    return None, notes


def clear_aside(folder: Path) -> None:
    """Remove what a killed writer left half written."""
    if folder.is_dir():
        for left in folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a folder's names survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path) -> Snapshot:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    parts: dict[str, dict[str, npt.NDArray[Any]]] = {"ledger": {}, "index": {}}
    for name, crc in manifest["files"].items():
        data = (folder / f"{name}.npy").read_bytes()
        if zlib.crc32(data) != crc:
            raise ValueError(f"{name}.npy fails its checksum")
        part, _, column = name.partition(".")
        parts[part][column] = np.load(io.BytesIO(data), allow_pickle=False)
    return Snapshot(manifest["version"], Place(manifest["offset"], manifest["chain"]), parts["ledger"], parts["index"])


def _put(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.isdecimal()) if folder.is_dir() else []
