"""What bridged pairs are like: how much was changed (thesis Figure 6.3), copies of the reference, results that agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from alignray.methods.bmc.edits import result_of

NUM_BINS = 20


def analyze_pairs(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What analysis.json holds, from the columns edit_rate, original_edit_rate, copies_reference and both original answers."""
    rates: dict[str, list[float]] = {"edit_rate": [], "original_edit_rate": []}
    copies = same_result = with_results = 0
    for row in rows:
        for name, values in rates.items():
            values.append(row[name])
        copies += row["copies_reference"]
        results = result_of(row["original_chosen"]), result_of(row["original_rejected"])
        if None not in results:
            with_results += 1
            same_result += results[0] == results[1]
    return {
        **{name: _summary(values) for name, values in rates.items()},
        "copies": copies, "same_result": same_result, "with_results": with_results,
    }


def _summary(values: list[float]) -> dict[str, Any]:
    counts, edges = np.histogram(values, NUM_BINS, (0.0, 1.0))
    known = np.array(values) if values else None
    return {
        "mean": float(known.mean()) if known is not None else None,
        "median": float(np.median(known)) if known is not None else None,
        "histogram": {"edges": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()},
    }
