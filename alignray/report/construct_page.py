"""The report of a grown benchmark: what came out by category and level, whole paths of some examples, cost, rejects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from alignray.report.page import cut, frame, is_number, labelled, mapping, number
from alignray.report.run_folder import RunFolder, batches, lookup, reject_reasons
from alignray.report.webr_page import rows_and_cost, throughput, usage
from alignray.schema import ConstructedItem, records_of
from alignray.seeding import draw

NUM_SAMPLES = 12
MAX_TEXT = 3000
"""Characters shown of one instruction; the rest is counted."""
LEVELS = ("0", "1", "2", "3", "4", "5")


def construct_page(run: RunFolder) -> dict[str, Any]:
    """What construct.html shows."""
    facts = [
        ("Construction", labelled(lookup(run.config, "grow"))), ("Seconds by stage", labelled(run.manifest.get("seconds"))),
        ("Versions", labelled(run.manifest.get("versions"))),
    ]
    reviewed = "reviewed; accepted ones are in the files" if run.manifest.get("reviewed") else "not reviewed"
    return {
        **frame(run, tiles=rows_and_cost(run, "Items", reviewed), facts=facts, rejects=reject_reasons(run)),
        "usage": usage(run), "throughput": throughput(run.metrics), "notes": [str(note) for note in run.manifest.get("notes") or ()],
        "categories": [_category(str(name), facts) for name, facts in mapping(run.manifest.get("construction")).items()],
        "levels": LEVELS, "samples": [_sample(group) for group in sample_groups(run, NUM_SAMPLES)],
    }


def _category(name: str, facts: Any) -> dict[str, Any]:
    words = mapping(lookup(facts, "words"))
    shown = [f"{words[level]:.0f}" if is_number(words.get(level)) else None for level in LEVELS]
    keys = ("examples", "complete", "items", "written", "accepted", "rejected", "unreviewed")
    return {"name": name, "words": shown, **{key: number(lookup(facts, key)) for key in keys}}


def sample_groups(run: RunFolder, count: int) -> list[list[ConstructedItem]]:
    """Seeded choice of examples, each with all its levels; categories take turns."""
    groups: dict[tuple[str, int], list[ConstructedItem]] = {}
    for batch in batches(run.part_paths(), None):
        for item in records_of(ConstructedItem, pa.Table.from_batches([batch])):
            groups.setdefault((item.category, item.example_id), []).append(item)
    order = sorted(groups, key=lambda key: draw(run.seed, f"{key[0]}/{key[1]}", "report/sample"))
    turn = {key: sum(other[0] == key[0] for other in order[:place]) for place, key in enumerate(order)}
    chosen = sorted(order, key=lambda key: (turn[key], key[0]))[:count]
    return [sorted(groups[key], key=lambda item: item.level) for key in chosen]


def _sample(group: Sequence[ConstructedItem]) -> dict[str, Any]:
    first = group[0]
    return {
        "title": f"{first.category} {first.example_id}", "source": first.source, "target": first.target, "answer": first.answer,
        "kinds": group[-1].kinds,
        "levels": [
            {"level": item.level, "text": cut(item.instruction, MAX_TEXT), "added": cut(item.added_constraint, MAX_TEXT),
             "review": item.review} for item in group
        ],
    }
