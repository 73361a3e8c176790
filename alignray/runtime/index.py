"""Every kept row of a stage by id: where it stands and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alignray.runtime.stages import scan


@dataclass(frozen=True)
class Index:
    """Every kept row of a stage, sorted by id: where it stands and what is known of it."""

    ids: list[str]
    parts: list[str]
    rows: npt.NDArray[np.int64]
    columns: dict[str, list[Any]]

    def by_part(self, positions: Iterable[int] | None = None) -> dict[str, list[int]]:
        """Row numbers of the given positions (all by default), by part."""
        found: dict[str, list[int]] = {}
        for position in range(len(self.ids)) if positions is None else positions:
            found.setdefault(self.parts[position], []).append(int(self.rows[position]))
        return found


def index_of(root: str, stage: str, columns: dict[str, Callable[[pa.Table], pa.Array]], *, read: list[str]) -> Index:
    """Index of a stage with the given columns, computed in tasks. A row committed twice counts once.

    Args:
        columns: name to function of the part's table.
        read: columns of the part that the functions need.
    """

    def describe(part: str, table: pa.Table, _facts: None) -> pa.Table:
        return pa.table({
            "row_id": table["row_id"], "part": pa.array([part] * len(table), pa.string()),
            "row": pa.array(range(len(table)), pa.int64()), **{name: function(table) for name, function in columns.items()},
        })

    tables = list(scan(root, stage, describe, columns=sorted({"row_id", *read})))
    if not tables:
        return Index([], [], np.empty(0, np.int64), {name: [] for name in columns})
    table = pa.concat_tables(tables).sort_by([("row_id", "ascending"), ("part", "ascending"), ("row", "ascending")])
    ids = table["row_id"].to_pylist()
    first = [position for position, row_id in enumerate(ids) if position == 0 or row_id != ids[position - 1]]
    table = table.take(first)
    return Index(
        table["row_id"].to_pylist(), _values(table["part"]), table["row"].to_numpy(), {name: _values(table[name]) for name in columns},
    )


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values, equal ones as one object: there are few."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [values[place] for place in encoded.indices.to_pylist()]
