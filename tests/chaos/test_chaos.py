"""The short form of ``make chaos``: a schedule on a disk, one on an object store (slow), and what must hold of the schedules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.schedules import FAULTS, SCENES, Fault, Schedule, draw_schedule

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

from tests.chaos.run import Play, Undisturbed, World, line_of, undisturbed, world_in


def fault(at: float, kind: str, *, measure: str = "calls", is_long: bool = False) -> Fault:
    return Fault(at, measure, kind, is_long, 0.5)


SHORT = (
    Schedule(1, "plain", (fault(0.2, "raylet"), fault(0.4, "ledger"), fault(0.6, "engine"), fault(0.8, "driver"))),
    Schedule(2, "store", (fault(0.1, "store_flaky"), fault(0.3, "engine"), fault(0.6, "store_down", is_long=True))),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("chaos")) as world:
        yield world


@pytest.fixture(scope="module")
def peace(world: World) -> Undisturbed:
    return undisturbed(world, "plain")


@pytest.mark.parametrize("schedule", [
    pytest.param(schedule, id=schedule.scene, marks=pytest.mark.slow if schedule.scene == "store" else ()) for schedule in SHORT
])
def test_whatever_breaks_the_rows_are_those_of_an_undisturbed_run(world: World, peace: Undisturbed, schedule: Schedule) -> None:
    result = Play(world, schedule, peace).play()
    assert result.is_ok, line_of(result)
    assert len(result.struck) == len(schedule.faults), line_of(result)


def test_fifty_schedules_hold_every_fault_in_every_scene_and_repeat_from_their_seed() -> None:
    drawn = [draw_schedule(0, number) for number in range(50)]
    assert drawn == [draw_schedule(0, number) for number in range(50)] != [draw_schedule(1, number) for number in range(50)]
    for scene in SCENES:
        kinds = {fault.kind for schedule in drawn if schedule.scene == scene for fault in schedule.faults}
        assert kinds == set(FAULTS[scene])
