"""One actor per run that everybody asks: what was journaled for these rows, may this call be paid, should we stop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray

from alignray.engine.budget import Budget, BudgetConfig
from alignray.errors import StorageError
from alignray.io.journal import Journal, JournalTotals, Tail, add_up, answers_for
from alignray.io.storage import Storage
from alignray.runtime.metrics import FLUSH_EVERY_S, Meter, run_label

SNAPSHOT_TIMEOUT_S = 300
"""A ledger whose node died is back once Ray has noticed: after half a minute, or so."""
ENOUGH_TO_JUDGE = 200
"""Records after which a reject rate means something."""


class LedgerState:
    """The ledger's state, rebuilt from the journal whenever its process starts, so that killing it loses nothing."""

    def __init__(self, root: str, budget: BudgetConfig, session: str, max_reject_rate: float) -> None:
        self._max_reject_rate = max_reject_rate
        self._storage = Storage(root)
        self._session = session
        self._config = budget
        self._is_reborn = _is_reborn()
        self._unread = ""
        # rows that were begun in an earlier life and had no call in the journal yet show themselves there later
        self._tail = Tail(self._storage) if self._is_reborn else None
        try:
            totals, self._started = add_up(self._storage)
        except StorageError as err:  # an actor that cannot start could not tell why
            totals, self._started, self._unread = JournalTotals(), set(), str(err)
        self._budget = Budget(budget, spent_usd=totals.usd, spent_tokens=totals.tokens)
        self.lost_usd = 0.0
        self._owners: dict[str, str] = {}
        self._replay: dict[str, dict[str, dict[str, Any]]] = {}
        for key, grant in totals.open_grants.items():
            if grant["session"] == session:  # our own earlier life: the call may still come back
                self._budget.reserve(key, grant["usd"], grant["tokens"])
                self._owners[key] = grant["id"]
            else:
                self._budget.settle(key, grant["usd"], grant["tokens"])
                self.lost_usd += grant["usd"]
        self._journal = Journal(self._storage, f"grants-{uuid.uuid4().hex[:12]}")
        self._changed = asyncio.Condition()
        self._spent: Counter[str] = Counter()
        self._usd_before = totals.usd
        self.stop_kind, self.stop_message = ("storage", self._unread) if self._unread else ("", "")
        self._meter = Meter(root)
        self._tell()

    async def expect(self, row_ids: pa.Array) -> None:
        """Rows that this session will ask for: what earlier sessions journaled for them is read once, now."""
        again = self._started.intersection(row_ids.to_pylist())
        found = await asyncio.to_thread(answers_for, self._storage, again) if again else {}
        self._replay = {row_id: found.get(row_id, {}) for row_id in again}

    async def has_begun(self) -> bool:
        """Whether any row was begun before: else there is nothing to expect."""
        return bool(self._started)

    async def begin(self, row_ids: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """Announce rows; returns what the journal already holds for them.

        Only a row that was begun and begun again in this session (its actor died) costs a look into the journal.
        """
        known = {row_id: self._replay.pop(row_id) for row_id in row_ids if row_id in self._replay}
        if self._tail is not None:
            self._started |= (await asyncio.to_thread(self._tail.row_ids)).intersection(row_ids)
        again = [row_id for row_id in row_ids if row_id in self._started and row_id not in known]
        self._started.update(row_ids)
        if not again:
            return known
        stale = set(again)
        async with self._changed:
            for key in [key for key, owner in self._owners.items() if owner in stale]:
                self._budget.lose(key)
                del self._owners[key]
            self._changed.notify_all()
        return known | await asyncio.to_thread(answers_for, self._storage, again)

    async def reserve(self, key: str, row_id: str, usd: float, tokens: int) -> bool:
        """Set money aside for a call, waiting for others to settle where that may help; False: the budget is reached."""
        async with self._changed:
            while not self.stop_kind:
                verdict = self._budget.reserve(key, usd, tokens)
                if verdict == "granted":
                    self._owners[key] = row_id
                    try:
                        self._journal.append(self._journal.grant(key, row_id, usd, tokens, self._session))
                    except StorageError as err:
                        self.stop_kind, self.stop_message = "storage", str(err)
                        self._changed.notify_all()
                        break
                    return True
                if verdict == "refused":
                    self.stop_kind, self.stop_message = "budget", self._describe(usd, tokens)
                    self._changed.notify_all()
                    break
                await self._changed.wait()
        return False

    def _describe(self, usd: float, tokens: int) -> str:
        budget = self._budget
        parts = []
        if self._config.usd is not None:
            parts.append(f"budget.usd = {self._config.usd:g}, spent {budget.spent_usd:.6f}, the next call may cost {usd:.6f}")
        if self._config.tokens is not None:
            parts.append(f"budget.tokens = {self._config.tokens}, used {budget.spent_tokens}, the next call may take {tokens}")
        return "; ".join(parts)

    async def settle(self, key: str, usd: float, tokens: int) -> None:
        """What a granted call really cost."""
        async with self._changed:
            self._owners.pop(key, None)
            self._budget.settle(key, usd, tokens)
            self._changed.notify_all()

    async def stop(self, kind: str, message: str) -> None:
        """Ask every actor to park its rows; the first reason stays."""
        async with self._changed:
            if not self.stop_kind:
                self.stop_kind, self.stop_message = kind, message
            self._changed.notify_all()

    async def report(self, counts: dict[str, float]) -> str:
        """Add progress; returns the reason to stop, or nothing."""
        for name, value in counts.items():
            self._spent[name] += value  # type: ignore[assignment]
        rejected, done = self._spent["rejected"], self._spent["rejected"] + self._spent["kept"]
        if done >= ENOUGH_TO_JUDGE and rejected > self._max_reject_rate * done:
            await self.stop("rejects", f"max_reject_rate = {self._max_reject_rate:g} is passed: {rejected} of {done} records rejected")
        if time.monotonic() - self._told_at >= FLUSH_EVERY_S:
            self._tell()
        return self.stop_kind

    def _tell(self) -> None:
        """Money into the metrics. Calls without a price reserve nothing, so their tokens show only under a token budget."""
        self._told_at = time.monotonic()
        self._meter.set("alignray_spent_usd", self._usd_before + self._spent.get("usd", 0))
        if self._config.usd is not None:
            self._meter.set("alignray_budget_left_usd", self._config.usd - self._budget.spent_usd)
        if self._config.tokens is not None:
            self._meter.set("alignray_budget_left_tokens", self._config.tokens - self._budget.spent_tokens)

    async def snapshot(self) -> dict[str, Any]:
        """Progress of this session and totals of the run."""
        self._tell()
        return {
            **self._spent, "usd_total": self._usd_before + self._spent.get("usd", 0), "lost_usd": self.lost_usd,
            "budget_usd": self._config.usd, "stop_kind": self.stop_kind, "stop_message": self.stop_message,
        }


def _is_reborn() -> bool:
    """Whether this process takes the place of an actor that died."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    return context is not None and context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)


Ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(LedgerState)


def start_ledger(root: str, budget: BudgetConfig, *, max_reject_rate: float = 1.0) -> Any:
    """The ledger of a run, on the cluster."""
    return Ledger.options(name=f"alignray ledger of {run_label(root)} {uuid.uuid4().hex[:8]}").remote(
        root, budget, uuid.uuid4().hex, max_reject_rate,
    )


def expect_rows(ledger: Any, row_ids: Callable[[], pa.Array]) -> None:
    """Tell the ledger which rows will be asked for, if it may know any."""
    if ray.get(ledger.has_begun.remote()):
        ray.get(ledger.expect.remote(row_ids()))


def snapshot_of(ledger: Any) -> dict[str, Any]:
    """The ledger's progress, totals and reason to stop."""
    snapshot: dict[str, Any] = ray.get(ledger.snapshot.remote(), timeout=SNAPSHOT_TIMEOUT_S)
    return snapshot
