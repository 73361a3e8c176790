"""Train Pool and Cache Pool, and how they advance (thesis chapter 3): the one is replaced, the other enriched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignray.errors import RecordError


@dataclass(frozen=True)
class Pools:
    """Ids of the two pools of one round; both are empty before the seeds come in."""

    train: tuple[str, ...] = ()
    """What the student is trained on: all seeds in round 1, later what the last round brought."""
    cache: tuple[str, ...] = ()
    """What student and teacher are compared on: everything that the teacher has answered so far."""


def advance(pools: Pools, new: Sequence[str]) -> Pools:
    """The pools of the next round: Train is what is new, Cache is what it was and what is new.

    Raises:
        RecordError: a new id is in the Cache Pool already, or there twice.
    """
    known = set(pools.cache)
    for row_id in new:
        if row_id in known:
            raise RecordError(f"row {row_id} would be in the Cache Pool twice; give every instruction an id of its own")
        known.add(row_id)
    return Pools(tuple(new), (*pools.cache, *new))


def sizes_of(seeds: int, per_round: int, rounds: int) -> list[tuple[int, int]]:
    """(Train Pool, Cache Pool) of each round, and last of the closing imitation; thesis: 52k, 6k, 6k, 6k and 52k, 58k, 64k, 70k."""
    return [(per_round if done else seeds, seeds + done * per_round) for done in range(rounds + 1)]


def calls_of(seeds: int, per_round: int, rounds: int) -> dict[str, int]:
    """Calls by role, where every reply can be read and every new instruction is kept.

    With the thesis' 52k seeds, 6k per round and 3 rounds: teacher 70k, referee 348k, generator 18k, 436k in all, which with what is
    turned down is its 450k. The student's 174k answers are the run's own.
    """
    judged = sum(cache for _, cache in sizes_of(seeds, per_round, rounds)[:rounds])
    return {"teacher": seeds + rounds * per_round, "student": judged, "referee": 2 * judged, "generator": rounds * per_round}
