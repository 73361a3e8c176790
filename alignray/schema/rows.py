"""Frozen dataclasses to Arrow rows and back.

A record's fields may be str, int, float, bool, another record, or a tuple of strings or records.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa

Record = TypeVar("Record")

_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(cls))


def _arrow_type(hint: Any) -> pa.DataType:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if dataclasses.is_dataclass(hint):
        return pa.struct([pa.field(name, _arrow_type(inner)) for name, inner in _fields(typing.cast(type, hint))])
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    raise TypeError(f"a record field cannot be {hint!r}; use str, int, float, bool, a record or a tuple of them")


@cache
def arrow_schema(cls: type) -> pa.Schema:
    """Arrow schema of a record class, columns in field order."""
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _fields(cls)])


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_row(value)
    return value


def to_row(record: Any) -> dict[str, Any]:
    """The record as a plain dict, nested records as dicts, tuples as lists."""
    return {name: _plain(getattr(record, name)) for name, _ in _fields(type(record))}


def _typed(hint: Any, value: Any) -> Any:
    if hint in _SCALARS:
        return value
    if dataclasses.is_dataclass(hint):
        return from_row(typing.cast(type, hint), value)
    inner = typing.get_args(hint)[0]
    return tuple(_typed(inner, item) for item in value)


def from_row(cls: type[Record], row: Mapping[str, Any]) -> Record:
    """The record of a row; columns the record does not have are ignored.

    Raises:
        KeyError: a column is missing.
    """
    return cls(**{name: _typed(hint, row[name]) for name, hint in _fields(cls)})


def table_of(cls: type, records: Sequence[Any]) -> pa.Table:
    """Arrow table of records, with the class' schema even when there are none."""
    return pa.Table.from_pylist([to_row(record) for record in records], schema=arrow_schema(cls))


def records_of(cls: type[Record], table: pa.Table) -> Iterable[Record]:
    """The records of a table, in row order."""
    return (from_row(cls, row) for row in table.to_pylist())
