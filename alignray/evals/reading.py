"""What the benchmarks' readers share: how a row that is no item is kept for the reject file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignray.schema import Rejected
from alignray.untrusted import storable

MAX_DEPTH = 50
"""Levels of a row that are shown; JSON is read up to 1024 deep, but neither orjson nor ``repr`` writes that."""


def raw_of(row: object) -> str:
    """A row for ``Rejected.raw``: a text as it is, else JSON; what lies deeper than MAX_DEPTH is "...", the whole cut at RAW_LIMIT."""
    text = row if isinstance(row, str) else json.dumps(_shallow(row, MAX_DEPTH), ensure_ascii=False)
    return storable(text[: Rejected.RAW_LIMIT])


def _shallow(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _shallow(inner, depth - 1) for key, inner in value.items()} if depth else "..."
    if isinstance(value, list | tuple):
        return [_shallow(inner, depth - 1) for inner in value] if depth else "..."
    return value if value is None or isinstance(value, str | int | float) else str(value)
