"""How many rows of each branch, and of each source."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from alignray.methods.webr.config import WebRConfig
from alignray.seeding import draw, unit_draw


def branch_of(row_id: str, config: WebRConfig, *, seed: int) -> str:
    """Branch of a page by a draw seeded with its id, so that no order of the input confounds domain and branch."""
    return "instruction" if unit_draw(seed, row_id, "webr/branch") < config.instruction_share else "response"


def quotas(num_rows: int, shares: Mapping[str, float], *, rounding: str = "nearest") -> dict[str, int]:
    """``num_rows`` split by shares: by largest remainder (ties to the first name), or all rounded down.

    Thesis: 100,000 at 2:1 is 66,667 and 33,333. The authors' code rounds down: 66,666 and 33,333.
    """
    total = sum(shares.values())
    exact = {name: num_rows * share / total for name, share in shares.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    if rounding == "nearest":
        by_remainder = sorted(exact, key=lambda name: (-(exact[name] - counts[name]), name))
        for name in by_remainder[: num_rows - sum(counts.values())]:
            counts[name] += 1
    return counts


def branch_shares(config: WebRConfig) -> dict[str, float]:
    """Shares of the branches that take part at all."""
    shares = {"instruction": config.instruction_share, "response": 1 - config.instruction_share}
    return {name: share for name, share in shares.items() if share > 0}


def largest_balanced(available: Mapping[str, int], shares: Mapping[str, float]) -> int:
    """Most rows whose split by ``shares`` is covered by ``available``."""
    total = sum(shares.values())
    # a quota is at least the rounded-down share, so no more rows than these can be covered
    bounds = [(available.get(name, 0) + 1) * total / share for name, share in shares.items() if share > 0]
    rows = int(min(bounds)) + 1 if bounds else 0
    while rows > 0 and any(count > available.get(name, 0) for name, count in quotas(rows, shares).items()):
        rows -= 1
    return rows


def fill(target: int, available: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """``target`` split over sources by weight; what a source cannot give is split over the others.

    Each next one goes to the source that is furthest behind its weight (Sainte-Lague), so that a larger target never
    takes fewer of any source; largest remainders would (the Alabama paradox).
    """
    limits = {name: available.get(name, 0) for name, weight in weights.items() if weight > 0}
    if target >= sum(limits.values()):
        return {name: limits.get(name, 0) for name in weights}
    low, high = 0.0, max((limits[name] + 1) / weights[name] for name in limits)
    for _ in range(64):  # the level that all sources reach together, from below
        middle = (low + high) / 2
        reached = sum(min(limits[name], int(middle * weights[name] + 0.5)) for name in limits)
        low, high = (middle, high) if reached <= target else (low, middle)
    low *= 1 - 1e-12  # what stands at that level, but for rounding, is left to the exact order below
    taken = {name: min(limits.get(name, 0), int(low * weight + 0.5)) for name, weight in weights.items()}
    while sum(taken.values()) < target:  # ties to the first name
        open_names = [name for name in limits if taken[name] < limits[name]]
        taken[min(open_names, key=lambda name: ((taken[name] + 0.5) / weights[name], name))] += 1
    return taken


def select_pages(
    row_ids: Sequence[str], sources: Sequence[str], weights: Mapping[str, float] | None, targets: Mapping[str, int] | None,
    config: WebRConfig, *, seed: int,
) -> npt.NDArray[np.int64]:
    """Positions of the pages to work on, the same whatever their order.

    In each branch the pages with the least seeded draw come first, so that a larger target only adds pages.

    Args:
        weights: share of each source; None takes sources as they come.
        targets: pages wanted by branch; None takes all that the weights allow.
    """
    cells: dict[str, dict[str, tuple[array[int], array[int]]]] = {}  # draws and positions: millions, so no objects
    for position, (row_id, source) in enumerate(zip(row_ids, sources, strict=True)):
        name = source if weights is not None else ""
        draws, positions = cells.setdefault(branch_of(row_id, config, seed=seed), {}).setdefault(name, (array("Q"), array("q")))
        draws.append(draw(seed, row_id, "webr/select"))
        positions.append(position)
    shares = weights or {"": 1.0}
    chosen = [np.empty(0, np.int64)]
    for branch, by_source in cells.items():
        available = {name: len(positions) for name, (_, positions) in by_source.items()}
        target = largest_balanced(available, shares) if targets is None else targets.get(branch, 0)
        for name, count in fill(target, available, shares).items():
            draws, positions = by_source.get(name, (array("Q"), array("q")))
            chosen.append(np.array(positions)[np.argsort(draws, kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


def over_quota(row_ids: Sequence[str], branches: Sequence[str], wanted: Mapping[str, int], *, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are beyond the wanted number of their branch: those with the largest seeded draw."""
    draws = np.fromiter((draw(seed, row_id, "webr/quota") for row_id in row_ids), np.uint64, len(row_ids))
    surplus = np.zeros(len(row_ids), np.bool_)
    for branch in set(branches):
        own = np.flatnonzero(np.fromiter((name == branch for name in branches), np.bool_, len(row_ids)))
        surplus[own[np.argsort(draws[own], kind="stable")[wanted.get(branch, 0):]]] = True
    return surplus
