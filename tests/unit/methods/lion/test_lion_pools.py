"""Pools: Train replaced, Cache enriched; sizes and calls are those of the thesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import RecordError
from alignray.methods.lion import Pools, advance, calls_of, sizes_of


def test_train_is_replaced_and_cache_enriched() -> None:
    pools = advance(Pools(), ["a", "b"])
    assert pools.train == pools.cache == ("a", "b")
    later = advance(advance(pools, ["c"]), ["d", "e"])
    assert (later.train, later.cache) == (("d", "e"), ("a", "b", "c", "d", "e"))
    assert advance(pools, []).train == () and advance(pools, []).cache == pools.cache


def test_an_instruction_cannot_come_in_twice() -> None:
    for new in (["a"], ["c", "c"]):
        with pytest.raises(RecordError, match=f"row {new[0]} would be in the Cache Pool twice"):
            advance(advance(Pools(), ["a", "b"]), new)
    with pytest.raises(RecordError):
        advance(Pools(), ["a", "a"])


def test_the_thesis_sizes_and_calls() -> None:
    assert sizes_of(52_000, 6_000, 3) == [(52_000, 52_000), (6_000, 58_000), (6_000, 64_000), (6_000, 70_000)]
    assert sum(train for train, _ in sizes_of(52_000, 6_000, 3)) == 70_000
    calls = calls_of(52_000, 6_000, 3)
    assert calls == {"teacher": 70_000, "student": 174_000, "referee": 348_000, "generator": 18_000}
    assert sum(calls.values()) - calls["student"] == 436_000


@given(st.integers(1, 30), st.integers(0, 9), st.integers(0, 5))
def test_sizes_and_calls_are_what_playing_the_loop_counts(seeds: int, per_round: int, rounds: int) -> None:
    pools = advance(Pools(), [f"seed {n}" for n in range(seeds)])
    teacher = judged = generator = 0
    sizes = []
    for number in range(rounds):
        sizes.append((len(pools.train), len(pools.cache)))
        teacher, judged, generator = teacher + len(pools.train), judged + len(pools.cache), generator + per_round
        pools = advance(pools, [f"{number} {n}" for n in range(per_round)])
    sizes.append((len(pools.train), len(pools.cache)))
    teacher += len(pools.train)
    assert sizes_of(seeds, per_round, rounds) == sizes
    assert calls_of(seeds, per_round, rounds) == {"teacher": teacher, "student": judged, "referee": 2 * judged, "generator": generator}
