"""Two evaluations item by item, from their run folders alone."""

from __future__ import annotations

import dataclasses
from typing import Any

from alignray.errors import RecordError
from alignray.io.run_folder import RunFolder
from alignray.pipelines.evaluate import comparison_rows, scored_items
from alignray.schema import ScoredItem


def compare_folders(first: str, second: str) -> list[dict[str, Any]]:
    """Paired differences, first minus second, on the items that both have: of candidates of one name, else of every two.

    Raises:
        RecordError: a folder holds no evaluation, or the two have no benchmark in common.
    """
    one, other = _candidates(first), _candidates(second)
    same = one.keys() & other.keys()
    pairs = [(name, name) for name in sorted(same)] or [(a, b) for a in sorted(one) for b in sorted(other)]
    found = [
        row for a, b in pairs for row in comparison_rows(_named(one[a], f"{a} ({first})"), _named(other[b], f"{b} ({second})"), seed=0)
    ]
    if not found:
        names = [", ".join(sorted({item.benchmark for items in run.values() for item in items})) for run in (one, other)]
        raise RecordError(f"nothing in common: {first} measured {names[0]}; {second} measured {names[1]}")
    return found


def _candidates(run: str) -> dict[str, list[ScoredItem]]:
    folder = RunFolder(run)
    if folder.manifest() is None:
        raise RecordError(f"{run}: no run here (manifest.json is missing); name a run folder")
    found = {name: [item for items in own.values() for item in items] for name, own in scored_items(folder).items()}
    if not found:
        raise RecordError(f"{run}: no scored items; compare takes runs of alignray evaluate or alignray followbench")
    return found


def _named(items: list[ScoredItem], name: str) -> list[ScoredItem]:
    return [dataclasses.replace(item, candidate=name) for item in items]
