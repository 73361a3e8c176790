"""A model core that may die: its death is noticed, it is replaced, and what it was asked is asked again of the next one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from alignray.errors import CallRefused, EngineDown

logger = logging.getLogger(__name__)

SUSPECT_AFTER = 2
"""A call that was open at so many deaths is asked again alone: dies the core once more, the call is what kills it."""
RELAUNCH_WAIT_S = 5.0

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT", covariant=True)


class CoreDied(Exception):
    """The core will not answer any more; another one may."""


class Core(Protocol[RequestT, AnswerT]):  # type: ignore[misc]  # the names of a protocol's variables say more than their variance
    """One life of a model: from its launch to its death."""

    @property
    def steps(self) -> int:
        """Grows whenever the core gets anything done."""

    def fault(self) -> str:
        """Why the core is dead, or nothing."""

    async def answer(self, request: RequestT) -> AnswerT:
        """Raises CoreDied, or CallRefused when it is the request that cannot work."""

    async def kill(self) -> None:
        """Ends every process of the core, whatever state they are in."""


@dataclass(frozen=True)
class _Life:
    core: Core[Any, Any]
    died: asyncio.Future[str]


class Supervisor(Generic[RequestT, AnswerT]):
    """Keeps one core alive.

    A core dies when it says so, when an answer fails with CoreDied, or when it has calls open and makes no step for
    ``timeout_s``. The next one is launched, and every open call goes to it. ``max_restarts`` deaths without an answer
    in between are borne; then every call ends with EngineDown, so the run stops and can be resumed.
    """

    def __init__(
        self, launch: Callable[[], Awaitable[Core[RequestT, AnswerT]]], probe: RequestT, *,
        name: str, timeout_s: float, health_every_s: float, max_restarts: int,
    ) -> None:
        self._launch, self._probe, self._name = launch, probe, name
        self._timeout_s, self._health_every_s, self._max_restarts = timeout_s, health_every_s, max_restarts
        self._turns = _Turns()
        self._life: _Life | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._down = ""
        self._open = 0
        self._in_a_row = 0
        self._moved_at = 0.0
        self.deaths = 0
        """Cores lost so far."""

    @property
    def core(self) -> Core[RequestT, AnswerT] | None:
        """The core of the moment."""
        return self._life.core if self._life else None

    async def start(self) -> None:
        """Launch the first core. Raises what the launch raises: a core that never worked is not launched again."""
        self._life = _Life(await self._launch(), asyncio.get_running_loop().create_future())
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Kill the core; open calls end with EngineDown."""
        self._down = self._down or f"{self._name} was closed"
        for task in (self._watching, self._replacing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._life is not None:
            if not self._life.died.done():
                self._life.died.set_result(self._down)
            await self._life.core.kill()
            self._life = None

    async def ask(self, request: RequestT) -> AnswerT:
        """The answer, over as many cores as it takes.

        Raises:
            CallRefused: this request cannot work, or is what kills the core (reason "engine_died").
            EngineDown: cores die again and again.
        """
        deaths = 0
        while True:
            alone = deaths >= SUSPECT_AFTER
            async with self._turns.alone() if alone else self._turns.shared():
                try:
                    answer = await self._answer(request)
                except CoreDied as err:
                    deaths += 1
                    if alone:
                        raise await self._verdict(err) from err
                else:
                    self._in_a_row = 0
                    return answer

    async def _verdict(self, err: CoreDied) -> Exception:
        """Whose fault it was that the core died over a call that it had all to itself."""
        try:
            await self._answer(self._probe)
        except CoreDied:
            return self._stop(f"{self._name} dies even over a trivial call ({err}); see the log of its actor, then resume")
        return CallRefused("engine_died", f"{self._name} died {SUSPECT_AFTER + 1} times over this call, the last time alone with it: {err}")

    async def _answer(self, request: RequestT) -> AnswerT:
        """One try with the core of the moment."""
        life = await self._living()
        if not self._open:
            self._moved_at = time.monotonic()
        self._open += 1
        call = asyncio.ensure_future(life.core.answer(request))
        call.add_done_callback(_look)
        try:
            await asyncio.wait((call, life.died), return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise CoreDied(life.died.result())
            return await call
        except CoreDied as err:
            self._bury(life, str(err))
            raise
        finally:
            self._open -= 1
            if not call.done():
                call.cancel()

    async def _living(self) -> _Life:
        while not self._down:
            if self._life is not None and not self._life.died.done():
                return self._life
            assert self._replacing is not None, "start() comes before ask()"
            await asyncio.shield(self._replacing)
        raise EngineDown(self._down)

    def _stop(self, message: str) -> EngineDown:
        self._down = self._down or message
        return EngineDown(self._down)

    def _bury(self, life: _Life, why: str) -> None:
        """Declare a core dead, once, and have it replaced."""
        if life.died.done():
            return
        life.died.set_result(why)
        self.deaths += 1
        self._in_a_row += 1
        logger.warning("%s died (%s), %d calls open; death %d in a row", self._name, why, self._open, self._in_a_row)
        self._replacing = asyncio.create_task(self._replace(life, why))

    async def _replace(self, life: _Life, why: str) -> None:
        await life.core.kill()
        while self._in_a_row <= self._max_restarts:
            try:
                core = await self._launch()
            except EngineDown as err:
                why = str(err)
                self._in_a_row += 1
                await asyncio.sleep(RELAUNCH_WAIT_S)
                continue
            self._moved_at = time.monotonic()
            self._life = _Life(core, asyncio.get_running_loop().create_future())
            return
        self._stop(f"{self._name} died {self._in_a_row} times in a row without an answer ({why}); see the log of its actor, then resume")

    async def _watch(self) -> None:
        steps = -1
        while True:
            await asyncio.sleep(self._health_every_s)
            life, now = self._life, time.monotonic()
            if life is None or life.died.done():
                continue
            if fault := life.core.fault():
                self._bury(life, fault)
            elif not self._open or life.core.steps != steps:
                steps, self._moved_at = life.core.steps, now
            elif now - self._moved_at > self._timeout_s:
                self._bury(life, f"no step for {now - self._moved_at:.0f} s with {self._open} calls open, timeout_s = {self._timeout_s:g}")


def _look(call: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is not worth a traceback in the log."""
    if not call.cancelled():
        call.exception()


class _Turns:
    """Many at once, or one alone; who wants to be alone goes first."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._sharing = 0
        self._wanting = 0
        self._taken = False

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._taken and not self._wanting)
            self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            if self._wanting:
                async with self._changed:
                    self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self._wanting += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._taken and not self._sharing)
                self._taken = True
        finally:
            self._wanting -= 1
        try:
            yield
        finally:
            self._taken = False
            async with self._changed:
                self._changed.notify_all()
