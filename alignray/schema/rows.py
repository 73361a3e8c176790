"""Frozen dataclasses to Arrow rows and back.

A record's fields may be str, int, float, bool (each also as one of some literals, or None), another record, or a tuple of strings
or records.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa

Record = TypeVar("Record")
Convert = Callable[[Any], Any]

_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((field.name, _stored(hints[field.name])) for field in dataclasses.fields(cls))


def _stored(hint: Any) -> Any:
    """The scalar that ``scalar | None`` or literals are stored as; another hint as it is."""
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    given = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(given) == 2 and types.NoneType in given:
        return next(inner for inner in given if inner is not types.NoneType)
    return hint


def _is_record(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _arrow_type(hint: Any) -> pa.DataType:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if _is_record(hint):
        return pa.struct([pa.field(name, _arrow_type(inner)) for name, inner in _fields(hint)])
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    raise TypeError(f"a record field cannot be {hint!r}; use str, int, float, bool, a record or a tuple of them")


@cache
def arrow_schema(cls: Any) -> pa.Schema:
    """Arrow schema of a record class, columns in field order."""
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _fields(cls)])


def _to_plain(hint: Any) -> Convert | None:
    """How a field's value becomes a row's; None where it already is."""
    if hint in _SCALARS:
        return None
    if _is_record(hint):
        return to_row
    inner = _to_plain(typing.get_args(hint)[0])
    return list if inner is None else lambda values: [inner(value) for value in values]


def _to_typed(hint: Any) -> Convert | None:
    """The way back."""
    if hint in _SCALARS:
        return None
    if _is_record(hint):
        return lambda row: from_row(hint, row)
    inner = _to_typed(typing.get_args(hint)[0])
    return tuple if inner is None else lambda values: tuple(inner(value) for value in values)


@cache
def _nested(cls: Any, direction: Callable[[Any], Convert | None]) -> tuple[tuple[str, Convert], ...]:
    """The fields of a class that are not scalars, with their conversion."""
    conversions = ((name, direction(hint)) for name, hint in _fields(cls))
    return tuple((name, convert) for name, convert in conversions if convert is not None)


def to_row(record: Any) -> dict[str, Any]:
    """The record as a plain dict, nested records as dicts, tuples as lists."""
    cls: Any = type(record)
    row = dict(record.__dict__)
    for name, convert in _nested(cls, _to_plain):
        row[name] = convert(row[name])
    return row


def from_row(cls: type[Record], row: Mapping[str, Any]) -> Record:
    """The record of a row; columns the record does not have are ignored.

    Raises:
        KeyError: a column is missing.
    """
    key: Any = cls
    values = {name: row[name] for name, _ in _fields(key)}
    for name, convert in _nested(key, _to_typed):
        values[name] = convert(values[name])
    return cls(**values)


def table_of(cls: Any, records: Sequence[Any]) -> pa.Table:
    """Arrow table of records, with the class' schema even when there are none."""
    return pa.Table.from_pylist([to_row(record) for record in records], schema=arrow_schema(cls))


def records_of(cls: type[Record], table: pa.Table) -> Iterable[Record]:
    """The records of a table, in row order."""
    return (from_row(cls, row) for row in table.to_pylist())
