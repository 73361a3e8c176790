"""Every kept row of a stage by id: where it stands and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alignray.runtime.stages import scan
from alignray.seeding import draw

Positions = npt.NDArray[np.int64]
SLICE = 10_000
"""Strings that are Python objects at a time while one goes through them."""


class Strings(Sequence[str]):
    """Strings in an Arrow array: an id takes 40 bytes and a repeated value 4, where a list of Python's takes 90 and 8."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Strings: ...

    def __getitem__(self, place: int | slice) -> str | Strings:
        return Strings(self.array[place]) if isinstance(place, slice) else self.array[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.array), SLICE):
            yield from self.array.slice(start, SLICE).to_pylist()

    def take(self, positions: Positions) -> Strings:
        """Those at some positions."""
        return Strings(self.array.take(pa.array(positions)))


@dataclass(frozen=True)
class Index:
    """Rows by id: where each stands and what is known of it. The driver holds some 60 bytes for each."""

    ids: Strings
    parts: Strings
    rows: Positions
    columns: dict[str, Strings]

    @classmethod
    def of(
        cls, ids: Sequence[str], parts: Sequence[str], rows: Sequence[int], columns: Mapping[str, Sequence[str]] | None = None,
    ) -> Index:
        """An index of rows whose places are known."""
        few = {name: Strings(pa.array(values, pa.string()).dictionary_encode()) for name, values in {"": parts, **(columns or {})}.items()}
        return cls(Strings(pa.array(ids, pa.large_string())), few.pop(""), np.asarray(rows, np.int64), few)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Positions) -> Index:
        """The rows at some positions."""
        columns = {name: column.take(positions) for name, column in self.columns.items()}
        return Index(self.ids.take(positions), self.parts.take(positions), self.rows[positions], columns)

    def without(self, ids: pa.Array, positions: Positions | None = None) -> Positions:
        """Of some positions (all by default) those whose id is not among ``ids``."""
        is_left: npt.NDArray[np.bool_] = ~pc.is_in(self.ids.array, value_set=ids).to_numpy(zero_copy_only=False)
        return np.flatnonzero(is_left) if positions is None else positions[is_left[positions]]

    def everywhere(self) -> Positions:
        """The position of every row."""
        return np.arange(len(self), dtype=np.int64)

    def least(self, number: int, seed: int, purpose: str) -> Positions:
        """Where the rows of the least seeded draws stand: with a larger number the same ones and more."""
        draws = np.fromiter((draw(seed, row_id, purpose) for row_id in self.ids), np.uint64, len(self))
        order: Positions = np.argsort(draws, kind="stable")
        return np.sort(order[:number])

    def by_part(self, positions: Positions | None = None) -> dict[str, Positions]:
        """Row numbers of the given positions (all by default) in their order, by part."""
        positions = self.everywhere() if positions is None else positions
        parts, names = self.parts.array.indices.to_numpy()[positions], self.parts.array.dictionary.to_pylist()
        order = np.argsort(parts, kind="stable")
        borders = np.flatnonzero(np.diff(parts[order])) + 1
        return {names[parts[own[0]]]: self.rows[positions[own]] for own in np.split(order, borders) if len(own)}


def index_of(root: str, stage: str, columns: dict[str, Callable[[pa.Table], pa.Array]], *, read: list[str]) -> Index:
    """Index of all kept rows of a stage, sorted by id, with the given columns, computed in tasks. A row committed twice counts once.

    Args:
        columns: name to function of the part's table; strings, few different ones.
        read: columns of the part that the functions need.
    """

    def describe(part: str, table: pa.Table, _facts: None) -> pa.Table:
        return pa.table({
            "row_id": table["row_id"].cast(pa.large_string()), "row": pa.array(range(len(table)), pa.int64()),
            "part": pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), [part]),
            **{name: function(table).dictionary_encode() for name, function in columns.items()},
        })

    tables = list(scan(root, stage, describe, columns=sorted({"row_id", *read})))
    if not tables:
        return Index.of([], [], [], {name: [] for name in columns})
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    tables.clear()
    part = table["part"].chunk(0)
    rank = np.argsort(np.argsort(np.array(part.dictionary.to_pylist())))  # of each part by its name
    keys = pa.table({"row_id": table["row_id"], "part": rank[part.indices.to_numpy()], "row": table["row"]})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    ids = table["row_id"].chunk(0).take(order)
    is_first = np.ones(len(ids), np.bool_)
    is_first[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    if not is_first.all():
        order, ids = order.filter(pa.array(is_first)), ids.filter(pa.array(is_first))
    return Index(
        Strings(ids), Strings(part.take(order)), table["row"].chunk(0).take(order).to_numpy(),
        {name: Strings(table[name].chunk(0).take(order)) for name in columns},
    )
