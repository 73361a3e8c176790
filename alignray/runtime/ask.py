"""One door to the model: a record walks all its prompt steps inside one actor, many records at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from alignray.config import Config
from alignray.engine import EngineConfig, build_engine, price_of, without_transport
from alignray.engine.base import Engine, Sampling
from alignray.engine.budget import BudgetConfig, worst_case
from alignray.errors import CallRefused, ConfigError, EngineDown, EngineError, StorageError
from alignray.io.journal import Journal, Refusal, SharedAnswers, answer_of, call_key
from alignray.io.storage import Storage
from alignray.runtime.devices import actor_resources
from alignray.runtime.metrics import Meter
from alignray.runtime.session import RuntimeConfig
from alignray.schema import ChatRequest, Completion, Rejected, arrow_schema, from_row, to_row
from alignray.seeding import draw
from alignray.steps import PromptStep, run_chain_async
from alignray.untrusted import storable

REPORT_EVERY_S = 0.25
SWITCH_INTERVAL_S = 0.0005
"""Python lets a thread run for 5 ms; answers that wait that long for the event loop leave an endpoint idle."""
UNBILLED = frozenset({"context_too_long", "bad_request", "http_4xx", "scripted"})
"""Reasons of refused calls that no endpoint charges for."""


class RoleConfig(Sampling):
    """Which engine answers for a role, and how it samples."""

    engine: str
    """Name under ``engines``."""


class SharedAnswersConfig(Config):
    """Where answers are kept by content, for several runs."""

    root: str
    """Folder or URL."""
    roles: tuple[str, ...]
    """Whose answers."""


class AskConfig(Config):
    """What the chain runner needs besides the steps."""

    engines: dict[str, EngineConfig]
    roles: dict[str, RoleConfig]
    budget: BudgetConfig = BudgetConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: int = 0
    shared: SharedAnswersConfig | None = None


def role_of(roles: Mapping[str, RoleConfig], name: str) -> RoleConfig:
    """The role's binding, or that of "default".

    Raises:
        ConfigError: neither is there.
    """
    role = roles.get(name) or roles.get("default")
    if role is None:
        raise ConfigError(f'roles has no "{name}" and no "default"; it has: {", ".join(sorted(roles)) or "nothing"}')
    return role


def check_roles(steps: Sequence[PromptStep[Any, Any]], engines: Mapping[str, Any], roles: Mapping[str, RoleConfig]) -> None:
    """Every step's role is bound to an engine that exists, before anything starts."""
    for step in steps:
        role = role_of(roles, step.role)
        if role.engine not in engines:
            raise ConfigError(f'roles.{step.role}.engine = {role.engine!r} is not under engines; it has: {", ".join(sorted(engines))}')


class _Parked(Exception):
    """The run is stopping; the row stays as it is for the next time."""


class Asker:
    """One actor's share of the work. Its event loop runs in a thread of its own, so Ray's back-pressure never stops it."""

    def __init__(
        self, steps: Sequence[PromptStep[Any, Any]], config: AskConfig, root: str, ledger: Any,
    ) -> None:
        self._steps, self._config, self._ledger = list(steps), config, ledger
        writer = f"calls-{uuid.uuid4().hex[:12]}"
        self._journal = Journal(Storage(root), writer)
        self._shared = SharedAnswers(config.shared.root, writer) if config.shared else None
        names = {role_of(config.roles, step.role).engine for step in steps}
        self._engines: dict[str, Engine] = {name: build_engine(config.engines[name]) for name in sorted(names)}
        self._prices = {name: price_of(config.engines[name]) for name in names}
        self._identities = {name: _content_of(config.engines[name]) for name in names}
        self._counts: Counter[str] = Counter()
        self._meter = Meter(root)
        self._stop_kind = ""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()  # what the imports left stays for good; walking it again and again would hold up the event loop
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="asker", daemon=True).start()
        self._slots = asyncio.Semaphore(max((engine.max_records for engine in self._engines.values()), default=1))
        self._started: asyncio.Task[None] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of the first step's record in; rows of ``outcome_schema`` out, parked ones left out."""
        return asyncio.run_coroutine_threadsafe(self._ask_all(batch.to_pylist()), self._loop).result()

    async def _ask_all(self, rows: list[dict[str, Any]]) -> pa.Table:
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        await asyncio.shield(self._started)
        replay = await self._ledger.begin.remote([row["row_id"] for row in rows])
        walks = [self._walk(from_row(self._steps[0].takes, row), replay.get(row["row_id"], {})) for row in rows]
        outcomes = [outcome for outcome in await asyncio.gather(*walks) if outcome is not None]
        await self._report()
        if not self._meter.in_flight.total():  # perhaps the last batch: nothing is kept back
            self._meter.flush()
        return pa.Table.from_pylist(
            [
                {"row_id": outcome.row_id, "kept": None, "rejected": to_row(outcome)} if isinstance(outcome, Rejected)
                else {"row_id": outcome.row_id, "kept": to_row(outcome), "rejected": None}
                for outcome in outcomes
            ],
            schema=outcome_schema(self._steps[-1].takes),
        )

    async def _start(self) -> None:
        try:
            for engine in self._engines.values():
                await engine.start()
        except EngineDown as err:
            await self._park("down", str(err))
            return
        self._ticker = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            with contextlib.suppress(ray.exceptions.RayError):
                await self._report()

    async def _report(self) -> None:
        counts, self._counts = dict(self._counts), Counter()
        self._meter.flush_if_due()
        self._stop_kind = await self._ledger.report.remote(counts) or self._stop_kind

    async def _park(self, kind: str, message: str) -> None:
        self._stop_kind = kind
        await self._ledger.stop.remote(kind, message)

    async def _walk(self, record: Any, replay: Mapping[str, dict[str, Any]]) -> Any | None:
        """The last record, a Rejected, or None for a row that was parked."""

        async def generate(step: PromptStep[Any, Any], before: Any, request: ChatRequest) -> Completion:
            return await self._generate(step, before.row_id, request, replay)

        async with self._slots:
            if self._stop_kind:
                return None
            self._counts["in_flight"] += 1
            try:
                outcome = await run_chain_async(record, self._steps, generate)
            except _Parked:
                return None
            except _Refused as refused:
                outcome = refused.rejected
            finally:
                self._counts["in_flight"] -= 1
        self._counts["rejected" if isinstance(outcome, Rejected) else "kept"] += 1
        return outcome

    async def _generate(
        self, step: PromptStep[Any, Any], row_id: str, request: ChatRequest, replay: Mapping[str, dict[str, Any]],
    ) -> Completion:
        role = role_of(self._config.roles, step.role)
        resolved = _resolve(request, role, seed=self._config.seed, row_id=row_id, step=step.name)
        key = call_key(row_id, step.name, role.engine, resolved)
        if key in replay:
            self._counts["replayed"] += 1
            self._meter.add("alignray_replayed_calls_total", 1, step.role, role.engine)
            answer = answer_of(replay[key])
        else:
            answer = await self._find_or_ask(key, step, row_id, role, resolved)
        if isinstance(answer, Refusal):
            raise _Refused(Rejected(row_id, step.name, answer.reason, raw=answer.message))
        return answer

    async def _find_or_ask(
        self, key: str, step: PromptStep[Any, Any], row_id: str, role: RoleConfig, request: ChatRequest,
    ) -> Completion | Refusal:
        if self._shared is None or self._config.shared is None or step.role not in self._config.shared.roles:
            return await self._pay_and_ask(key, step, row_id, role, request)
        content = call_key("", step.name, self._identities[role.engine], request)
        found = self._shared.find(content)
        if found is None:
            answer = await self._pay_and_ask(key, step, row_id, role, request)
            if isinstance(answer, Completion):
                await self._write_down(partial(self._shared.add, content, step.name, step.role, answer))
            return answer
        self._counts["shared"] += 1
        line = self._journal.completion(key, row_id, step.name, step.role, found, shared=True)
        await self._write_down(partial(self._journal.append, line))
        return found

    async def _write_down(self, append: Callable[[], None]) -> None:
        try:
            append()
        except StorageError as err:  # what cannot be written down must not be bought
            await self._park("storage", str(err))
            raise _Parked from err

    async def _pay_and_ask(
        self, key: str, step: PromptStep[Any, Any], row_id: str, role: RoleConfig, request: ChatRequest,
    ) -> Completion | Refusal:
        if self._stop_kind:
            raise _Parked
        purse = _Purse(self._ledger, key, row_id, worst_case(request, self._prices[role.engine]) if self._is_capped(role) else None)
        if not await purse.reserve():
            self._stop_kind = "budget"
            raise _Parked

        async def admit() -> None:
            self._meter.add("alignray_resent_calls_total", 1, step.role, role.engine)
            await purse.admit()

        self._meter.in_flight[role.engine] += 1
        try:
            answer: Completion | Refusal = _storable(await self._engines[role.engine].generate(request, admit))
        except CallRefused as err:
            reason, message = (*err.args, "")[:2]
            answer = Refusal(str(reason), storable(str(message)))
        except EngineDown as err:
            await self._park("down", str(err))
            raise _Parked from err
        except EngineError as err:
            raise EngineDown(f"{step.name}: {err}") from err
        finally:
            self._meter.in_flight[role.engine] -= 1
        if isinstance(answer, Refusal):
            self._meter.add("alignray_refused_calls_total", 1, step.role, role.engine, answer.reason)
            line = self._journal.refusal(key, row_id, step.name, step.role, answer, grant=purse.settles(answer))
        else:
            self._meter.answered(step.role, role.engine, answer)
            line = self._journal.completion(key, row_id, step.name, step.role, answer, grant=purse.settles(answer))
            self._counts.update({
                "calls": 1, "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens,
                "usd": answer.cost_usd, "latency_s": answer.latency_s,
            })
        await self._write_down(partial(self._journal.append, line))
        await purse.settle(answer)
        return answer

    def _is_capped(self, role: RoleConfig) -> bool:
        budget, price = self._config.budget, self._prices[role.engine]
        return budget.tokens is not None or (budget.usd is not None and (price.prompt > 0 or price.completion > 0))


class _Refused(Exception):
    """A call failed for good; carries the row's reject past the step's parser."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.reason)
        self.rejected = rejected


class _Purse:
    """The money of one call: one grant per sending, so that an attempt that may have been billed is never free."""

    def __init__(self, ledger: Any, key: str, row_id: str, worst: tuple[float, int] | None) -> None:
        self._ledger, self._key, self._row_id, self._worst = ledger, key, row_id, worst
        # a call lost with its actor or driver is asked again under the same key, and must not settle what was lost
        self._asking, self._sendings = uuid.uuid4().hex[:8], 0

    def _grant(self) -> str:
        return f"{self._key}#{self._asking}.{self._sendings}"

    def settles(self, answer: Completion | Refusal) -> str:
        """The grant that an answer closes; a refusal that may have been billed closes none."""
        may_be_billed = isinstance(answer, Refusal) and answer.reason not in UNBILLED
        return "" if self._worst is None or may_be_billed else self._grant()

    async def reserve(self) -> bool:
        if self._worst is None:
            return True
        self._sendings += 1
        return bool(await self._ledger.reserve.remote(self._grant(), self._row_id, *self._worst))

    async def admit(self) -> None:
        """Before a re-sending: the last one counts as spent, and there must be money for one more."""
        if self._worst is None:
            return
        await self._ledger.settle.remote(self._grant(), *self._worst)
        if not await self.reserve():
            raise _Parked

    async def settle(self, answer: Completion | Refusal) -> None:
        if self._worst is None:
            return
        if isinstance(answer, Completion):
            spent = (answer.cost_usd, answer.prompt_tokens + answer.completion_tokens)
        else:
            spent = (0.0, 0) if self.settles(answer) else self._worst
        await self._ledger.settle.remote(self._grant(), *spent)


def _storable(answer: Completion) -> Completion:
    """The answer as journal and Parquet can hold it."""
    text = storable(answer.text)
    return answer if text == answer.text else dataclasses.replace(answer, text=text)


def _resolve(request: ChatRequest, role: RoleConfig, *, seed: int, row_id: str, step: str) -> ChatRequest:
    """The request with every sampling field filled in from the role."""
    return ChatRequest(
        request.messages,
        max_new_tokens=request.max_new_tokens or role.max_new_tokens,
        temperature=role.temperature if request.temperature is None else request.temperature,
        top_p=role.top_p if request.top_p is None else request.top_p,
        stop=request.stop or role.stop,
        seed=draw(seed, row_id, step) >> 33,
        json_schema=request.json_schema,
    )


def _content_of(engine: EngineConfig) -> str:
    """What stands for an engine among runs that share answers; the address too, as any model may be served under a name."""
    dumped = engine.model_dump(mode="json")
    kept = without_transport({"": dumped})[""] | {"base_url": dumped.get("base_url", "")}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode()


def outcome_schema(record: type) -> pa.Schema:
    """Columns of ``ask``'s output: the row's id, and either the last record or the reject."""
    return pa.schema([
        pa.field("row_id", pa.string()),
        pa.field("kept", pa.struct(list(arrow_schema(record)))),
        pa.field("rejected", pa.struct(list(arrow_schema(Rejected)))),
    ])


def ask(dataset: Dataset, steps: Sequence[PromptStep[Any, Any]], config: AskConfig, *, root: str, ledger: Any) -> Dataset:
    """Every record through all steps; rows of ``outcome_schema``. Parked rows (budget, engine down) come out as nothing.

    Args:
        dataset: rows of ``steps[0].takes``.
        root: run folder, for the journal.
        ledger: the run's ledger actor.
    """
    runtime = config.runtime
    engines = [config.engines[name] for name in sorted({role_of(config.roles, step.role).engine for step in steps})]
    slots = max((build_engine(engine).max_records for engine in engines), default=1)
    calls_per_actor = max(2, -(-2 * slots // runtime.block_rows) + 1)
    return dataset.map_batches(
        _named(steps),
        fn_constructor_args=(list(steps), config, root, ledger),
        batch_size=runtime.block_rows, batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=runtime.min_actors, max_size=runtime.max_actors, max_concurrent_calls_per_actor=calls_per_actor,
            max_tasks_in_flight_per_actor=calls_per_actor + 2, enable_true_multi_threading=True,
        ),
        **actor_resources(runtime, engines),
    )


def _named(steps: Sequence[PromptStep[Any, Any]]) -> type[Asker]:
    """Asker under the name that Ray's dashboard shows for the operator and its actors: "ask webr: persona, instruction"."""
    method = steps[0].name.partition("/")[0]
    return type(f"ask {method}: {', '.join(step.name.removeprefix(f'{method}/') for step in steps)}", (Asker,), {})
