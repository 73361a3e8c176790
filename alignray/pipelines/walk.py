"""Committed rows through prompt steps: how every method asks about the rows that have no outcome yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from alignray.engine import ScriptedConfig
from alignray.pipelines.watch import Watch
from alignray.runtime.ask import AskConfig, RoleConfig, ask
from alignray.runtime.index import Index, Positions
from alignray.runtime.ledger import expect_rows, snapshot_of
from alignray.runtime.stages import RowRef, commit_outcomes, committed_ids, over, rows_at
from alignray.schema import Completion
from alignray.steps import PromptStep


def pending_of(root: str, stage: str, index: Index, positions: Positions | None = None) -> Positions:
    """Of some rows (all by default) those that have no committed outcome in a stage."""
    return index.without(committed_ids(root, stage), positions)


def walk(
    index: Index, positions: Positions, steps: Sequence[PromptStep[Any, Any]], config: AskConfig, record: type, *,
    root: str, source: str | Mapping[str, str], into: str, title: str, ledger: Any, watch: Watch,
    start: Callable[[pa.Table], pa.Table] | None = None,
) -> None:
    """Rows through all steps, kept and rejected ones committed.

    Args:
        positions: in the index of stage ``source``; outcomes go into stage ``into``.
        record: what the steps take and give.
        source: the stage, or the stage of each part of an index over several.
        steps: none where the rows are finished as they are and only change their stage.
        title: what the display calls it.
        start: makes records of the source's rows; not needed where they are ``record`` already.
    """
    if not len(positions):
        return
    if not steps:
        steps = [PromptStep(name=f"{into}/unasked", role="nobody", takes=record, build=_nothing, parse=_same)]
        config = config.model_copy(update={"engines": {"none": ScriptedConfig()}, "roles": {"nobody": RoleConfig(engine="none")}})
    expect_rows(ledger, lambda: index.ids.take(positions).array)
    refs = [
        RowRef(source if isinstance(source, str) else source[part], part, rows)
        for part, rows in sorted(index.by_part(positions).items())
    ]
    drafts = rows_at(refs, start or over(record, _same, record), root=root, block_rows=config.runtime.block_rows)
    outcomes = ask(drafts, steps, config, root=root, ledger=ledger)
    with watch.stage(title, len(positions), partial(snapshot_of, ledger)) as advance:
        commit_outcomes(
            outcomes, record, root=root, stage=into, part_rows=config.runtime.part_rows,
            on_part=lambda part: advance(part["kept"] + part["rejected"]),
        )


def _nothing(record: Any) -> None:
    return None


def _same(record: Any, _answer: Completion | None = None) -> Any:
    return record
