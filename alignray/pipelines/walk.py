"""Committed rows through prompt steps: how every method asks about the rows that have no outcome yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from alignray.engine import ScriptedConfig
from alignray.pipelines.watch import Watch
from alignray.runtime.ask import AskConfig, RoleConfig, ask
from alignray.runtime.index import Index
from alignray.runtime.ledger import expect_rows, snapshot_of
from alignray.runtime.stages import RowRef, commit_outcomes, committed_ids, over, rows_at
from alignray.schema import Completion
from alignray.steps import PromptStep


def pending_of(root: str, stage: str, index: Index, positions: Sequence[int]) -> list[int]:
    """Of some rows those that have no committed outcome in a stage."""
    done = committed_ids(root, stage)
    return [position for position in positions if index.ids[position] not in done]


def walk(
    index: Index, positions: Sequence[int], steps: Sequence[PromptStep[Any, Any]], config: AskConfig, record: type, *,
    root: str, source: str | Mapping[str, str], into: str, title: str, ledger: Any, watch: Watch,
) -> None:
    """Rows through all steps, kept and rejected ones committed.

    Args:
        positions: in the index of stage ``source``, whose rows are ``record``; outcomes go into stage ``into``.
        source: the stage, or the stage of each part of an index over several.
        steps: none where the rows are finished as they are and only change their stage.
        title: what the display calls it.
    """
    if not positions:
        return
    if not steps:
        steps = [PromptStep(name=f"{into}/unasked", role="nobody", takes=record, build=_nothing, parse=_same)]
        config = config.model_copy(update={"engines": {"none": ScriptedConfig()}, "roles": {"nobody": RoleConfig(engine="none")}})
    expect_rows(ledger, [index.ids[position] for position in positions])
    refs = [
        RowRef(source if isinstance(source, str) else source[part], part, tuple(rows))
        for part, rows in sorted(index.by_part(positions).items())
    ]
    drafts = rows_at(refs, over(record, _same, record), root=root, block_rows=config.runtime.block_rows)
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
