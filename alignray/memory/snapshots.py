"""Snapshots: the ledger (and the trained index) at one event, so that a restart reads only the log behind it.

The vectors are not in it: ``vectors.f32`` is append-only and raw already, and the snapshot says how many of its rows it covers.
"""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson

from alignray.memory.log import Place

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
                   index: Mapping[str, npt.NDArray[Any]], *, fsync: bool = True) -> None:
    """Write it aside, sync it and rename it into place; older ones but the last go."""
    folder.mkdir(exist_ok=True)
    aside = folder / f".{version:015d}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        files = {}
        for name, array in {**{f"ledger.{key}": value for key, value in columns.items()},
                            **{f"index.{key}": value for key, value in index.items()}}.items():
            files[name] = _seal(array)
            with (aside / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _flush(file, fsync)
        manifest = {"version": version, "offset": place.offset, "chain": place.chain, "files": files}
        with (aside / "manifest.json").open("wb") as file:
            file.write(orjson.dumps(manifest))
            _flush(file, fsync)
        _sync_folder(aside, fsync)
        if (folder / f"{version:015d}").exists():
            shutil.rmtree(aside)
            return
        aside.rename(folder / f"{version:015d}")
        _sync_folder(folder, fsync)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in _names(folder)[:-_KEPT]:
        shutil.rmtree(folder / old, ignore_errors=True)


def newest_snapshot(folder: Path, log_bytes: int) -> tuple[Snapshot | None, dict[str, str]]:
    """The newest whole one that the log still reaches, and by name why newer ones were passed over."""
    passed_over: dict[str, str] = {}
    for name in reversed(_names(folder)):
        try:
            snapshot = _read(folder / name)
        except (OSError, ValueError, KeyError, TypeError) as err:
            passed_over[name] = f"damaged ({err})"
            continue
        if snapshot.place.offset <= log_bytes:
            return snapshot, passed_over
        passed_over[name] = f"it covers {snapshot.place.offset} bytes of a log that has {log_bytes}"
    return None, passed_over


def clear_aside(folder: Path) -> None:
    """Remove what a killed writer left half written."""
    if folder.is_dir():
        for left in folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)


def _sync_folder(folder: Path, fsync: bool) -> None:
    if not fsync:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path) -> Snapshot:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    parts: dict[str, dict[str, npt.NDArray[Any]]] = {"ledger": {}, "index": {}}
    for name, seal in manifest["files"].items():
        array = np.load(folder / f"{name}.npy", allow_pickle=False)
        if _seal(array) != seal:
            raise ValueError(f"{name}.npy fails its checksum")
        part, _, column = name.partition(".")
        parts[part][column] = array
    return Snapshot(manifest["version"], Place(manifest["offset"], manifest["chain"]), parts["ledger"], parts["index"])


def _seal(array: npt.NDArray[Any]) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x} {array.dtype.str} {list(array.shape)}"


def _flush(file: IO[bytes], fsync: bool) -> None:
    file.flush()
    if fsync:
        os.fsync(file.fileno())


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.isdecimal()) if folder.is_dir() else []
