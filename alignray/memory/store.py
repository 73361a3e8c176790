"""One generation of a memory as a process sees it: read from snapshot and log, then followed."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import orjson

from alignray.errors import StorageError
from alignray.memory.folder import Generation
from alignray.memory.ledger import Ledger
from alignray.memory.log import Damaged, Place, map_vectors, payload_at, read_lines, vector_crc
from alignray.memory.records import MemoryEdit
from alignray.memory.snapshots import newest_snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """How a memory came up."""

    snapshot_version: int
    """0 without one."""
    events_read: int
    """From the log behind it."""
    bytes_cut: int
    """Of an event that a killed writer had begun and never acknowledged, or of a damaged part that was cut on request."""
    notes: tuple[str, ...]


class Store:
    """Ledger, log and vectors of a generation."""

    def __init__(self, generation: Generation, *, writable: bool, on_damage: str) -> None:
        """Reads them.

        Raises:
            StorageError: a line or a vector is damaged.
        """
        self.generation = generation
        self._log = generation.log.open("rb", buffering=0)
        snapshot, passed_over = newest_snapshot(generation.snapshots, self._log_bytes())
        if writable:
            # the log is the truth; once it has grown past them they would look like part of it
            for name in passed_over:
                shutil.rmtree(generation.snapshots / name)
        notes = [f"snapshot {name} was passed over: {why}" for name, why in passed_over.items()]
        self.ledger = Ledger.load(snapshot.columns) if snapshot else Ledger()
        self.place = snapshot.place if snapshot else Place(0, 0)
        self.index_arrays: dict[str, npt.NDArray[Any]] = snapshot.index if snapshot else {}
        self._mapped = map_vectors(generation.vectors, self.ledger.num_rows, generation.meta.dimensions)
        self.vectors = self._mapped[: self.ledger.num_rows]
        start, cut = self.ledger.version, 0
        try:
            self.follow()
        except Damaged as damage:
            if not (writable and on_damage == "cut"):
                raise StorageError(self._told(damage)) from damage
            cut, note = self._cut(damage)
            notes.append(note)
        if writable and (torn := self._log_bytes() - self.place.offset) > 0 and not cut:
            cut = torn
            notes.append(f"{generation.log}: {torn} byte(s) of an event that was never acknowledged were cut off")
        self.recovery = Recovery(snapshot.version if snapshot else 0, self.ledger.version - start, cut, tuple(notes))
        for note in notes:
            logger.warning("%s", note)

    @property
    def version(self) -> int:
        """Of the last event."""
        return self.ledger.version

    @property
    def num_rows(self) -> int:
        """Edits, live or not."""
        return self.ledger.num_rows

    def follow(self) -> int:
        """Events that came since; half a line waits until it is whole.

        Raises:
            Damaged: the log does not go on where it ended; ``is_stale`` tells whether it was written anew.
        """
        checks: list[tuple[int, int]] = []
        events = 0
        try:
            for line in read_lines(self.generation.log, self.place):
                event = orjson.loads(line.payload)
                self._apply(event, line.offset, line.length)
                if event["kind"] == "add":
                    checks.append((event["row"], event["crc"]))
                self.place = line.after
                events += 1
        finally:
            self._map()
        for row, crc in checks:
            if vector_crc(self.vectors[row]) != crc:
                raise StorageError(f"{self.generation.vectors}: vector {row} fails its checksum; embed anew with alignray.memory.rebuild")
        return events

    def is_stale(self) -> bool:
        """Whether the log is shorter than what was read of it: its writer took back what it could not sync."""
        return self.generation.log.stat().st_size < self.place.offset

    def written(self, events: Iterable[Mapping[str, Any]], places: Iterable[tuple[int, int]], place: Place) -> None:
        """Take what this process' own writer has put down."""
        for event, (offset, length) in zip(events, places, strict=True):
            self._apply(event, offset, length)
        self.place = place
        self._map()

    def _apply(self, event: Mapping[str, Any], offset: int, length: int) -> None:
        try:
            self.ledger.apply(event, offset, length)
        except (KeyError, ValueError, TypeError) as err:
            raise StorageError(f"{self.generation.log}: the event at byte {offset} makes no sense ({err!r}); restore the file") from err

    def _map(self) -> None:
        if len(self._mapped) < self.ledger.num_rows:
            self._mapped = map_vectors(self.generation.vectors, self.ledger.num_rows, self.generation.meta.dimensions)
        self.vectors = self._mapped[: self.ledger.num_rows]

    def _told(self, damage: Damaged) -> str:
        return (
            f"{self.generation.log}: the event after version {self.ledger.version}, at byte {damage.place.offset}, fails its checksum "
            f"({damage.why}); restore the file from a copy, or set memory.on_damage = cut to go on with the {self.ledger.version} before it"
        )

    def _cut(self, damage: Damaged) -> tuple[int, str]:
        """Put the damaged rest into a file of its own; the writer cuts the log at ``place``."""
        aside = self.generation.folder / f"cut-after-{self.ledger.version}.jsonl"
        with self.generation.log.open("rb") as file:
            file.seek(damage.place.offset)
            rest = file.read()
        aside.write_bytes(rest)
        return len(rest), f"{self.generation.log}: damaged at byte {damage.place.offset}; what follows is in {aside.name}"

    def find(self, edit_id: str) -> MemoryEdit | None:
        """An edit by its id, as it is now."""
        row = self.ledger.row_of(edit_id)
        return None if row is None else self.edit(row)

    def live(self, fact: bytes) -> MemoryEdit | None:
        """The live edit of a fact."""
        row = self.ledger.live_row(fact)
        return None if row is None else self.edit(row)

    def edit(self, row: int, version: int | None = None) -> MemoryEdit:
        """The edit of a row, now or as of a version."""
        event = self._event(row)
        end = int(self.ledger.column("ends")[row])
        is_live = end > (self.ledger.version if version is None else version)
        successor = -1 if is_live else int(self.ledger.column("successors")[row])
        return MemoryEdit(
            edit_id=event["id"], version=event["v"], time=event["t"], subject=event["subject"], relation=event["relation"],
            prompt=event["prompt"], target=event["target"], descriptor=event["descriptor"], metadata=event["metadata"],
            ended_version=None if is_live else end, ended_time=None if is_live else self.ledger.time_of(end),
            superseded_by=self._event(successor)["id"] if successor >= 0 else None, deleted=not is_live and successor < 0,
        )

    def _event(self, row: int) -> dict[str, Any]:
        offset, length = (int(self.ledger.column(name)[row]) for name in ("offsets", "lengths"))
        try:
            event = orjson.loads(payload_at(self._log.fileno(), offset, length))
        except orjson.JSONDecodeError as err:
            raise StorageError(f"{self.generation.log}: the event at byte {offset} is damaged ({err}); restore the file") from err
        return dict(event)

    def verify(self) -> int:
        """Check every line and every vector; returns how many events there are.

        Raises:
            StorageError: naming the first that is damaged.
        """
        events = 0
        try:
            for line in read_lines(self.generation.log, Place(0, 0)):
                if line.after.offset > self.place.offset:
                    break
                event = orjson.loads(line.payload)
                if event["kind"] == "add" and vector_crc(self.vectors[event["row"]]) != event["crc"]:
                    raise StorageError(
                        f"{self.generation.vectors}: vector {event['row']} fails its checksum; embed anew with alignray.memory.rebuild")
                events += 1
        except Damaged as damage:
            raise StorageError(
                f"{self.generation.log}: the event after version {events}, at byte {damage.place.offset}, fails its checksum "
                f"({damage.why}); restore the file from a copy"
            ) from damage
        return events

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()

    def _log_bytes(self) -> int:
        return os.fstat(self._log.fileno()).st_size




def folder_of(path: str) -> Path:
    """The memory's folder, absolute."""
    return Path(path).expanduser().absolute()
