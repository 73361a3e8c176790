"""Which pairs become training data: exactly the numbers of Table C.1, or as many as there are and the shortfall said.

Source: thesis Table C.1. Its numbers follow from what the notes on the authors' data give cell by cell: 1,000 ZsRE, 2,250 RippleEdits,
250 WikiBio, 4,000 MQuAKE and 7,500 COUNTERFACT in each of in-scope and out-of-scope, with and without the edit prompt.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignray.methods.lte.config import GROUP_OF, Group, QuotaConfig
from alignray.schema import Edit, EditDraft
from alignray.seeding import draw

Cell = tuple[Group, str]
"""Data set and in_scope or out_of_scope; free text is in scope."""


@dataclass(frozen=True)
class Shortfall:
    """A cell that could not be filled."""

    group: Group
    scope: str
    wanted: int
    found: int


def cell_of(draft: EditDraft) -> Cell:
    """The cell of Table C.1 that a pair belongs to."""
    return GROUP_OF[draft.source], "out_of_scope" if draft.kind == "out_of_scope" else "in_scope"


def wanted_pairs(config: QuotaConfig) -> dict[Cell, int]:
    """Pairs of every cell, scaled; cells that want none are left out."""
    wanted: dict[Cell, int] = {}
    for group, quota in config.table.items():
        for scope, num in (("in_scope", quota.in_scope), ("out_of_scope", quota.out_of_scope)):
            if num:
                wanted[group, scope] = int(num * config.scale + 0.5)
    return wanted


def select_pairs(
    drafts: Sequence[EditDraft], config: QuotaConfig, *, seed: int, edits: Sequence[Edit] = (), drop_rate: float = 0.0,
) -> list[EditDraft]:
    """The pairs to work on, by cell and the order of a seeded draw: a larger table only adds to them, and no order of input matters.

    RippleEdits' two data sets give equally many where both can; of either, and of every other, edits take turns, so that one with many
    queries does not crowd the others out. Pairs that a model is asked for are taken in surplus for those it will not deliver.

    Args:
        edits: in the order of their files; only ``ripple_edits_rule: original`` needs them.
        drop_rate: share of asked pairs that is expected to be lost (the thesis: about 0.15 at verification); 0 when drafts are finished.
    """
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate={drop_rate} must be in [0, 1)")
    wanted = wanted_pairs(config)
    chosen: list[EditDraft] = []
    cells: dict[Cell, list[EditDraft]] = defaultdict(list)
    for draft in drafts:
        cells[cell_of(draft)].append(draft)
    for cell in sorted(cells):
        if cell[0] == "ripple_edits" and config.ripple_edits_rule == "original" and cell in wanted:
            kept = _whole_records(edits, drafts, config)
            chosen += [draft for draft in cells[cell] if draft.row_id in kept]
        elif cell in wanted:
            chosen += _take(_in_turns(cells[cell], seed), wanted[cell], drop_rate)
    return chosen


def shortfalls(drafts: Sequence[EditDraft], config: QuotaConfig) -> list[Shortfall]:
    """Cells with fewer pairs than wanted; of finished and selected drafts, what the data card has to say."""
    found = Counter(map(cell_of, drafts))
    by_rule = {"ripple_edits"} if config.ripple_edits_rule == "original" else set()
    return [
        Shortfall(group, scope, num, found[group, scope]) for (group, scope), num in wanted_pairs(config).items()
        if found[group, scope] < num and group not in by_rule
    ]


def _take(drafts: Sequence[EditDraft], num: int, drop_rate: float) -> list[EditDraft]:
    """As many drafts as are expected to leave ``num``."""
    taken, expected = [], 0.0
    for draft in drafts:
        if expected >= num - 1e-9:
            break
        taken.append(draft)
        expected += 1 - drop_rate if draft.asks else 1
    return taken


def _in_turns(drafts: Sequence[EditDraft], seed: int) -> list[EditDraft]:
    """First one pair of every edit, then a second one of each that has two; data sets of a group take turns as well."""
    by_edit: dict[str, list[EditDraft]] = defaultdict(list)
    for draft in drafts:
        by_edit[draft.edit_id].append(draft)
    ranked: dict[str, list[tuple[int, int, str, EditDraft]]] = defaultdict(list)
    for edit_id, own in by_edit.items():
        own.sort(key=lambda draft: (draw(seed, draft.row_id, "lte/quota"), draft.row_id))
        for turn, draft in enumerate(own):
            ranked[draft.source].append((turn, draw(seed, edit_id, "lte/quota"), draft.row_id, draft))
    queues = [[entry[-1] for entry in sorted(ranked[source], key=lambda entry: entry[:3])] for source in sorted(ranked)]
    longest = max(map(len, queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def _whole_records(edits: Sequence[Edit], drafts: Sequence[EditDraft], config: QuotaConfig) -> set[str]:
    """Ids of the pairs that the authors' stop leaves: records whole, until in-scope and out-of-scope queries are equally many.

    wiki_counterfact's records come by falling number of kinds of items. Where the two numbers never meet, all records are taken.
    """
    of_edit: dict[str, list[EditDraft]] = defaultdict(list)
    for draft in drafts:
        of_edit[draft.edit_id].append(draft)
    stop = math.ceil(config.original_stop * config.scale)
    kept: set[str] = set()
    for source in ("wiki_recent", "wiki_counterfact"):
        own = [edit for edit in edits if edit.source == source]
        if source == "wiki_counterfact":
            own.sort(key=_num_kinds, reverse=True)  # stable: equals stay in the order of the file
        counts: Counter[str] = Counter()
        for edit in own:
            for draft in of_edit[edit.row_id]:
                counts[cell_of(draft)[1]] += 1
                kept.add(draft.row_id)
            if counts["in_scope"] == counts["out_of_scope"] > stop:
                break
    return kept


def _num_kinds(edit: Edit) -> int:
    return len({probe.kind for probe in edit.portability}) + len({probe.kind for probe in edit.locality})


def num_examples(config: QuotaConfig) -> Mapping[str, int]:
    """Training examples that the table asks for, by data set: four cells each, two of them with the edit prompt."""
    totals: Counter[str] = Counter()
    for (group, _), num in wanted_pairs(config).items():
        totals[group] += 2 * num
    return totals
