"""A core that dies, hangs, or is killed by one bad call: every call is answered, refused with proof, or the run stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from alignray.engine import supervisor as module
from alignray.engine.supervisor import CoreDied, Supervisor
from alignray.errors import CallRefused, EngineDown


@dataclass
class FakeCore:
    """Answers "1" with "1!" after ``latency_s``; a death ends every call that is open."""

    world: World
    number: int
    steps: int = 0
    dead: str = ""
    killed: bool = False
    open: set[str] = field(default_factory=set)

    def fault(self) -> str:
        return self.dead

    async def answer(self, request: str) -> str:
        self.world.asked.append((self.number, request, frozenset(self.open)))
        self.open.add(request)
        try:
            if request == "refused":
                raise CallRefused("bad_request", "no")
            if request in self.world.poison:
                self.dead = f"poisoned by {request}"
            while not self.world.hangs(self):
                await asyncio.sleep(self.world.latency_s)
                if self.dead:
                    raise CoreDied(self.dead)
                if self.number not in self.world.mute:
                    self.steps += 1
                    return f"{request}!"
            await asyncio.sleep(3600)
            raise AssertionError("nobody waits for an hour")
        finally:
            self.open.discard(request)

    async def kill(self) -> None:
        self.killed = True


@dataclass
class World:
    latency_s: float = 0.01
    poison: set[str] = field(default_factory=set)
    mute: set[int] = field(default_factory=set)
    hanging: set[int] = field(default_factory=set)
    fails_to_load: set[int] = field(default_factory=set)
    loads: int = 0
    cores: list[FakeCore] = field(default_factory=list)
    asked: list[tuple[int, str, frozenset[str]]] = field(default_factory=list)

    def hangs(self, core: FakeCore) -> bool:
        return core.number in self.hanging

    async def launch(self) -> FakeCore:
        self.loads += 1
        if self.loads in self.fails_to_load:
            raise EngineDown("no memory")
        core = FakeCore(self, self.loads)
        self.cores.append(core)
        return core

    def supervisor(self, *, timeout_s: float = 30.0, max_restarts: int = 3) -> Supervisor[str, str]:
        return Supervisor(
            self.launch, "probe", name="engine fake", timeout_s=timeout_s, health_every_s=0.01, max_restarts=max_restarts,
        )


def run(world: World, story: Callable[[Supervisor[str, str]], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        supervisor = world.supervisor(**options)
        await supervisor.start()
        await asyncio.wait_for(story(supervisor), 20)
        await supervisor.close()

    asyncio.run(main())


async def ask_all(supervisor: Supervisor[str, str], requests: list[str]) -> list[Any]:
    return await asyncio.gather(*(supervisor.ask(request) for request in requests), return_exceptions=True)


NUMBERS = [str(number) for number in range(40)]
ANSWERS = [f"{number}!" for number in NUMBERS]


def test_calls_open_at_a_death_are_answered_by_the_next_core() -> None:
    world = World(latency_s=0.05)

    async def story(supervisor: Supervisor[str, str]) -> None:
        calls = asyncio.create_task(ask_all(supervisor, NUMBERS))
        await asyncio.sleep(0.02)
        world.cores[0].dead = "killed"
        assert await calls == ANSWERS
        assert supervisor.deaths == 1 and world.cores[0].killed and len(world.cores) == 2

    run(world, story)


def test_a_death_is_noticed_without_any_call() -> None:
    world = World()

    async def story(supervisor: Supervisor[str, str]) -> None:
        world.cores[0].dead = "gone"
        await asyncio.sleep(0.1)
        assert supervisor.deaths == 1 and await supervisor.ask("1") == "1!"
        assert [core for core, _, _ in world.asked] == [2]

    run(world, story)


def test_a_core_that_makes_no_step_with_calls_open_is_replaced() -> None:
    world = World(hanging={1})

    async def story(supervisor: Supervisor[str, str]) -> None:
        assert await ask_all(supervisor, NUMBERS) == ANSWERS
        assert supervisor.deaths == 1

    run(world, story, timeout_s=0.1)


def test_an_idle_core_and_a_slow_one_that_moves_are_left_alone() -> None:
    world = World()

    async def story(supervisor: Supervisor[str, str]) -> None:
        await asyncio.sleep(0.3)
        world.mute = {1}
        call = asyncio.create_task(supervisor.ask("slow"))
        for _ in range(12):
            await asyncio.sleep(0.03)
            world.cores[0].steps += 1
        world.mute = set()
        assert await call == "slow!" and supervisor.deaths == 0

    run(world, story, timeout_s=0.15)


def test_deaths_in_a_row_stop_the_run_and_say_how_many() -> None:
    world = World(poison=set(NUMBERS) | {"probe"})

    async def story(supervisor: Supervisor[str, str]) -> None:
        outcomes = await ask_all(supervisor, NUMBERS[:3])
        assert all(isinstance(outcome, EngineDown) for outcome in outcomes)  # not one row is turned down for the engine's fault
        assert "engine fake" in str(outcomes[0]) and "resume" in str(outcomes[0])
        with pytest.raises(EngineDown):
            await supervisor.ask("later")

    run(world, story)
    assert world.loads <= 4


def test_a_core_that_cannot_be_loaded_again_is_tried_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RELAUNCH_WAIT_S", 0.01)
    world = World(fails_to_load={2})

    async def story(supervisor: Supervisor[str, str]) -> None:
        world.cores[0].dead = "gone"
        assert await supervisor.ask("1") == "1!" and world.loads == 3
        world.fails_to_load = set(range(4, 99))
        world.cores[1].dead = "gone again"
        with pytest.raises(EngineDown, match=r"died 4 times in a row without an answer \(no memory\)"):
            await supervisor.ask("2")

    run(world, story)


def test_a_core_that_never_loads_raises_what_loading_raised() -> None:
    async def main() -> None:
        await World(fails_to_load={1}).supervisor().start()

    with pytest.raises(EngineDown, match="no memory"):
        asyncio.run(main())


def test_the_one_call_that_kills_every_core_is_found_and_all_others_are_answered() -> None:
    world = World(poison={"7"})

    async def story(supervisor: Supervisor[str, str]) -> None:
        outcomes = dict(zip(NUMBERS, await ask_all(supervisor, NUMBERS), strict=True))
        culprit = outcomes.pop("7")
        assert isinstance(culprit, CallRefused) and culprit.args[0] == "engine_died" and "alone" in culprit.args[1]
        assert outcomes == {number: f"{number}!" for number in outcomes}
        assert supervisor.deaths == 3
        assert all(not others for core, request, others in world.asked if request == "7" and core == 3), "its last time it was alone"
        assert await supervisor.ask("after") == "after!"

    run(world, story)


def test_progress_between_deaths_forgives_them() -> None:
    world = World()

    async def story(supervisor: Supervisor[str, str]) -> None:
        for number in range(10):
            world.cores[-1].dead = "again"
            assert await supervisor.ask(str(number)) == f"{number}!"
        assert supervisor.deaths == 10

    run(world, story)


def test_a_refused_call_is_the_calls_fault_alone() -> None:
    world = World()

    async def story(supervisor: Supervisor[str, str]) -> None:
        outcomes = await ask_all(supervisor, ["1", "refused", "2"])
        assert outcomes[0] == "1!" and outcomes[2] == "2!" and isinstance(outcomes[1], CallRefused)
        assert supervisor.deaths == 0

    run(world, story)


def test_closing_ends_open_calls_and_kills_the_core() -> None:
    world = World(hanging={1})

    async def story(supervisor: Supervisor[str, str]) -> None:
        calls = asyncio.create_task(ask_all(supervisor, ["1", "2"]))
        await asyncio.sleep(0.05)
        await supervisor.close()
        assert all(isinstance(outcome, EngineDown) and "was closed" in str(outcome) for outcome in await calls)
        assert world.cores[0].killed and world.loads == 1

    run(world, story)


def test_a_cancelled_call_leaves_the_core_alone() -> None:
    world = World(latency_s=0.05)

    async def story(supervisor: Supervisor[str, str]) -> None:
        call = asyncio.create_task(supervisor.ask("1"))
        await asyncio.sleep(0.02)
        call.cancel()
        assert await supervisor.ask("2") == "2!"
        assert not world.cores[0].open and supervisor.deaths == 0

    run(world, story)
