"""Rows by id without a Python object for each."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from alignray.runtime.index import SLICE, Index, Strings
from alignray.seeding import draw

IDS = [f"{number:06d}" for number in range(SLICE + 300)]


@pytest.fixture(scope="module")
def index() -> Index:
    parts, branches = [f"part-{number % 7}" for number in range(len(IDS))], ["ab"[number % 2] for number in range(len(IDS))]
    return Index.of(IDS, parts, range(len(IDS)), {"branch": branches})


def test_strings_are_read_as_from_a_list() -> None:
    strings = Strings(pa.array(IDS, pa.large_string()))
    assert list(strings) == IDS and len(strings) == len(IDS)
    assert strings[3] == IDS[3] and strings[-1] == IDS[-1] and strings[np.int64(5)] == IDS[5]
    assert list(strings[10:20]) == IDS[10:20]
    assert list(strings.take(np.array([4, 4, 1]))) == [IDS[4], IDS[4], IDS[1]]
    assert list(Strings(pa.array([], pa.string()))) == []
    with pytest.raises(IndexError):
        strings[len(IDS)]


def test_rows_stand_under_their_part_in_the_order_asked_for(index: Index) -> None:
    positions = np.array(random.Random(0).sample(range(len(IDS)), 500))
    expected: dict[str, list[int]] = {}
    for position in positions.tolist():
        expected.setdefault(index.parts[position], []).append(position)
    assert {part: rows.tolist() for part, rows in index.by_part(positions).items()} == expected
    assert sum(len(rows) for rows in index.by_part().values()) == len(IDS)
    assert index.by_part(np.empty(0, np.int64)) == {}


def test_a_part_of_an_index_keeps_everything_known_of_its_rows(index: Index) -> None:
    few = index.take(np.array([9, 2]))
    assert list(few.ids) == [IDS[9], IDS[2]] and list(few.parts) == ["part-2", "part-2"] and few.rows.tolist() == [9, 2]
    assert list(few.columns["branch"]) == ["b", "a"]


def test_what_is_done_is_left_out(index: Index) -> None:
    done = pa.array([IDS[1], IDS[3], "unknown"], pa.large_string())
    assert index.without(done, np.arange(6)).tolist() == [0, 2, 4, 5]
    assert len(index.without(done)) == len(IDS) - 2
    assert index.without(pa.array([], pa.large_string()), np.arange(3)).tolist() == [0, 1, 2]


def test_a_larger_number_only_adds_rows_of_the_least_draws(index: Index) -> None:
    least = index.least(5, 0, "purpose")
    expected = sorted(range(len(IDS)), key=lambda position: draw(0, IDS[position], "purpose"))[:5]
    assert least.tolist() == sorted(expected)
    assert set(least) < set(index.least(50, 0, "purpose"))
    assert len(index.least(10**9, 0, "purpose")) == len(IDS)


def test_an_id_takes_little_memory(index: Index) -> None:
    """A list takes 8 bytes for the reference and 55 for a string of six letters, and every other column as much again."""
    held = index.ids.array.nbytes + index.parts.array.nbytes + index.rows.nbytes + index.columns["branch"].array.nbytes
    assert held / len(IDS) == pytest.approx(6 + 8 + 4 + 8 + 4, abs=0.5)
