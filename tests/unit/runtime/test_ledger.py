"""A ledger that took the place of one that died still knows which rows were begun."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from alignray.engine.budget import BudgetConfig
from alignray.io.journal import Journal
from alignray.io.storage import Storage
from alignray.runtime import ledger
from alignray.schema import Completion

ANSWER = Completion(text="tide", prompt_tokens=1, completion_tokens=1, model="m")


@pytest.mark.parametrize("is_reborn", [True, False])
def test_a_call_that_is_journaled_after_the_ledger_died_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_reborn: bool,
) -> None:
    """Row "a" was begun with the first ledger, answered after its death, then its actor died: it is begun again elsewhere."""
    monkeypatch.setattr(ledger, "_is_reborn", lambda: is_reborn)
    storage = Storage(str(tmp_path))
    writer = Journal(storage, "calls-0")
    writer.append(writer.completion("key-b", "b", "step", "role", ANSWER, grant=""))

    async def main() -> None:
        state = ledger.LedgerState(str(tmp_path), BudgetConfig(), "session", 1.0)
        writer.append(writer.completion("key-a", "a", "step", "role", ANSWER, grant=""))
        again = await state.begin(["a", "new"])
        assert {row_id: set(answers) for row_id, answers in again.items() if answers} == ({"a": {"key-a"}} if is_reborn else {})
        writer.append(writer.completion("key-c", "c", "step", "role", ANSWER, grant=""))
        assert bool((await state.begin(["c"])).get("c")) == is_reborn
        assert not (await state.begin(["fresh"])).get("fresh")

    asyncio.run(main())
