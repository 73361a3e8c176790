"""What breaks when: seeded lists of faults."""

from __future__ import annotations

import random
from dataclasses import dataclass

SCENES = ("plain", "disk", "store", "budget", "dedup")
"""Where a schedule plays: run folder on a local disk, on a small disk of its own, on S3; a budget that is too small; dedup."""
ANYWHERE = ("driver", "worker", "engine", "ledger", "raylet", "endpoint")
FAULTS = {
    "plain": ANYWHERE, "budget": ANYWHERE, "disk": (*ANYWHERE, "disk"), "store": (*ANYWHERE, "store_flaky", "store_down"),
    "dedup": ("driver", "worker", "raylet", "disk"),
}
"""Kinds of fault that a scene knows; the last one of disk and store is in each of their schedules."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that breaks."""

    at: float
    """Moment, as a share of the undisturbed run's measure."""
    measure: str
    """What the moment counts: journaled "calls" or committed "parts"."""
    kind: str
    is_long: bool
    """An outage: lasts until the run has ended with it, not just for a second or two. A restart: waits before it."""
    dice: float
    """Picks the victim among processes of the kind."""


@dataclass(frozen=True)
class Schedule:
    """One or more faults, in order."""

    number: int
    scene: str
    faults: tuple[Fault, ...]


def draw_schedule(seed: int, number: int) -> Schedule:
    """The schedule of that number: scenes take turns, everything else is by chance from (seed, number)."""
    rng = random.Random(f"{seed}/{number}")
    scene = SCENES[number % len(SCENES)]
    kinds = [rng.choice(FAULTS[scene]) for _ in range(rng.randint(1, 3))]
    # each kind gets its turn, whatever the dice say
    kinds[0] = FAULTS[scene][(number // len(SCENES)) % len(FAULTS[scene])]
    if scene in ("disk", "store") and not set(kinds) & {"disk", "store_flaky", "store_down"}:
        kinds.append(FAULTS[scene][-1 - rng.randint(0, 1) if scene == "store" else -1])
    faults = [
        Fault(
            round(rng.uniform(0.03, 0.97), 3), "parts" if scene == "dedup" or rng.random() < 0.3 else "calls", kind,
            rng.random() < 0.6, rng.random(),
        )
        for kind in kinds
    ]
    return Schedule(number, scene, tuple(sorted(faults)))
