"""The 64-bit hash under every signature, fixed for good: what one run writes, a later one compares with.

All arithmetic is modulo 2**64, so values agree on every platform and with every library version. Change anything
here, in ``shingles`` or in ``signatures`` that changes a value, and HASH_VERSION goes up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

HASH_VERSION = 1
"""Stored beside persisted signatures; those of another version do not compare."""

BASIS = np.uint64(0xCBF29CE484222325)
"""Start value of a word's hash."""
FACTOR = np.uint64(0x9FB21C651E98DF25)
"""Odd factor of every absorbing step, and base of the rolling combination of n units."""

_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_MASK = (1 << 64) - 1

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function compiled on first call, kept on disk where numba finds a folder it may write to."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only install and no writable home: compile anew in each process
        return numba.njit(nogil=True)(function)


@compiled
def mix64(value: np.uint64) -> np.uint64:
    """Bijective finalizer (murmur3's): every input bit reaches every output bit."""
    value ^= value >> np.uint64(33)
    value *= _MIX_1
    value ^= value >> np.uint64(33)
    value *= _MIX_2
    value ^= value >> np.uint64(33)
    return value


@compiled
def absorb(state: np.uint64, value: np.uint64) -> np.uint64:
    """State of a running hash after one more value."""
    state = (state ^ value) * FACTOR
    return state ^ (state >> np.uint64(32))


def splitmix64(seed: int, index: int) -> int:
    """The index-th number of the splitmix64 sequence of this seed; plain integers."""
    value = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
