"""How many rows of each branch, and of each source."""

from __future__ import annotations

from collections.abc import Mapping

from alignray.methods.webr.config import WebRConfig
from alignray.seeding import unit_draw


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
    """Most rows whose split by ``shares`` is covered by ``available``; 0 when a share has nothing."""
    total = sum(shares.values())
    rows = int(min((available.get(name, 0) * total / share for name, share in shares.items() if share > 0), default=0) + 1e-6) + len(shares)
    while rows > 0 and any(count > available.get(name, 0) for name, count in quotas(rows, shares).items()):
        rows -= 1
    return rows
