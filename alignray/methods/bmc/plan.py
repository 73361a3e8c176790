"""What bridging costs: the figures of thesis Table 6.5."""

from __future__ import annotations

TABLE_6_5: dict[str, tuple[int, float, float]] = {
    "question answering": (15_732, 206, 25), "mathematics": (40_000, 429, 47), "instruction following": (61_135, 728, 235),
}
"""Pairs, prompt tokens and completion tokens per pair; priced there at 0.01 and 0.03 USD per thousand."""

TYPICAL_COMPLETION: dict[str, float] = {"qa": 25, "math": 47, "instruction": 235}
"""Mean completion tokens of an edit by task, from the same table: verdicts count, which are a few tokens long."""
