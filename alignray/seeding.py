"""Ids from content, randomness from ids: the same rows come out on 1 worker or 100."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import orjson


def row_id_of(*source: str) -> str:
    """128-bit blake2b of the parts, as 32 hex digits. For a page: WARC record id and payload digest.

    Parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in source:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def row_id_of_json(value: Any) -> str:
    """Row id of a record without an id of its own: its canonical JSON (sorted keys, UTF-8)."""
    return row_id_of(orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str).decode())


def draw(seed: int, row_id: str, purpose: str) -> int:
    """Uniform 64-bit integer fixed by (seed, row_id, purpose); the cheap form of ``rng_for``."""
    key = f"{seed}\x00{row_id}\x00{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def unit_draw(seed: int, row_id: str, purpose: str) -> float:
    """Uniform float in [0, 1) fixed by (seed, row_id, purpose)."""
    return (draw(seed, row_id, purpose) >> 11) / float(1 << 53)


def pick(seed: int, row_id: str, purpose: str, choices: Sequence[Any]) -> Any:
    """One of ``choices``, uniformly, fixed by (seed, row_id, purpose)."""
    return choices[int(unit_draw(seed, row_id, purpose) * len(choices))]


def rng_for(seed: int, row_id: str, purpose: str) -> random.Random:
    """Random generator of one row and purpose, for draws that need more than one number."""
    return random.Random(draw(seed, row_id, purpose))
