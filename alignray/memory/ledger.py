"""Which edit lives from when to when, as columns: 80 bytes and two dictionary entries an edit; the texts stay in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignray.memory.records import LIVE, fact_key, id_key

Longs = npt.NDArray[np.int64]

_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "versions": ("<i8", ()), "ends": ("<i8", ()), "offsets": ("<i8", ()), "lengths": ("<i4", ()), "previous": ("<i4", ()),
    "successors": ("<i4", ()), "ids": ("|u1", (16,)), "facts": ("|u1", (16,)),
}


class View(NamedTuple):
    """Which rows a query sees. It stays what it is while edits come and go, for those have later versions."""

    rows: int
    """Rows from here on are too new."""
    ends: Longs
    version: int

    def sees(self, rows: Longs) -> npt.NDArray[np.bool_]:
        """Which of some rows are live."""
        return (rows < self.rows) & (self.ends[np.minimum(rows, max(self.rows - 1, 0))] > self.version)

    def live(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Which of a range of rows, all below ``rows``, are live."""
        return self.ends[start:stop] > self.version


class Ledger:
    """State of the memory after some number of events."""

    def __init__(self) -> None:
        self.num_rows = self.version = self.num_live = 0
        self._data: dict[str, npt.NDArray[Any]] = {name: np.zeros((0, *shape), kind) for name, (kind, shape) in _COLUMNS.items()}
        self._times = np.zeros(0)
        self._row_of_id: dict[bytes, int] = {}
        self._head_of_fact: dict[bytes, int] = {}

    def apply(self, event: Mapping[str, Any], offset: int, length: int) -> None:
        """Take one event, whose version must be the next."""
        if event["v"] != self.version + 1:
            raise ValueError(f"version {event['v']} after {self.version}")
        if event["kind"] == "delete":
            self._end(self._row_of_id[id_key(event["id"])], event["v"], -1)
        else:
            self._add(event, offset, length)
        if self.version == len(self._times):
            self._times = _grown(self._times)
        self._times[self.version] = event["t"]
        self.version += 1

    def _add(self, event: Mapping[str, Any], offset: int, length: int) -> None:
        row, key, fact = self.num_rows, id_key(event["id"]), fact_key(event["subject"], event["relation"], event["prompt"])
        if event["row"] != row or key in self._row_of_id:
            raise ValueError(f"edit {event['id']!r} at row {event['row']} after row {row - 1}")
        if row == len(self._data["versions"]):
            self._data = {name: _grown(column) for name, column in self._data.items()}
        values = {
            "versions": event["v"], "ends": LIVE, "offsets": offset, "lengths": length, "successors": -1,
            "previous": self._head_of_fact.get(fact, -1), "ids": np.frombuffer(key, "u1"), "facts": np.frombuffer(fact, "u1"),
        }
        for name, value in values.items():
            self._data[name][row] = value
        if event["ends"] is not None:
            self._end(self._row_of_id[id_key(event["ends"])], event["v"], row)
        self._row_of_id[key] = self._head_of_fact[fact] = row
        self.num_rows += 1
        self.num_live += 1

    def _end(self, row: int, version: int, successor: int) -> None:
        if self._data["ends"][row] != LIVE:
            raise ValueError(f"row {row} has ended before")
        self._data["successors"][row] = successor
        self._data["ends"][row] = version
        self.num_live -= 1

    def view(self, version: int | None = None) -> View:
        """What a query sees, now or as of a version."""
        if version is None or version >= self.version:
            return View(self.num_rows, self._data["ends"], self.version)
        rows = int(np.searchsorted(self.column("versions"), version, side="right"))
        return View(rows, self._data["ends"], version)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column [num_rows, ...]."""
        return self._data[name][: self.num_rows]

    def row_of(self, edit_id: str) -> int | None:
        """Where an edit is."""
        return self._row_of_id.get(id_key(edit_id))

    def live_row(self, fact: bytes) -> int | None:
        """The live edit of a fact."""
        row = self._head_of_fact.get(fact)
        return row if row is not None and self._data["ends"][row] == LIVE else None

    def rows_of(self, fact: bytes) -> list[int]:
        """All edits of a fact, oldest first."""
        rows, row = [], self._head_of_fact.get(fact, -1)
        while row >= 0:
            rows.append(row)
            row = int(self._data["previous"][row])
        return rows[::-1]

    def time_of(self, version: int) -> float:
        """When an event was taken; 0 before the first."""
        return float(self._times[version - 1]) if version else 0.0

    def version_at(self, time: float) -> int:
        """The last event up to a time; 0 before the first."""
        return int(np.searchsorted(self._times[: self.version], time, side="right"))

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """Everything, as copies of the columns."""
        return {**{name: self.column(name).copy() for name in _COLUMNS}, "times": self._times[: self.version].copy()}

    @classmethod
    def load(cls, columns: Mapping[str, npt.NDArray[Any]]) -> Ledger:
        """The ledger that was dumped."""
        ledger = cls()
        ledger._data = {name: np.array(columns[name]) for name in _COLUMNS}
        ledger._times = np.array(columns["times"])
        ledger.num_rows, ledger.version = len(columns["versions"]), len(ledger._times)
        ledger.num_live = int(np.count_nonzero(ledger._data["ends"] == LIVE))
        # later rows overwrite earlier ones, so a fact's head is its last edit
        ledger._row_of_id = dict(zip(_keys(ledger._data["ids"]), range(ledger.num_rows), strict=True))
        ledger._head_of_fact = dict(zip(_keys(ledger._data["facts"]), range(ledger.num_rows), strict=True))
        return ledger


def _keys(column: npt.NDArray[Any]) -> list[bytes]:
    data = column.tobytes()
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def _grown(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    grown = np.zeros((max(1024, 2 * len(column)), *column.shape[1:]), column.dtype)
    grown[: len(column)] = column
    return grown
