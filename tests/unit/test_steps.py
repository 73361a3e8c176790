"""A chain of steps walks a record to its end, or to the Rejected that ends it; waiting changes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from alignray.schema import ChatRequest, Completion, Message, Rejected
from alignray.steps import PromptStep, run_chain, run_chain_async, run_step


@dataclass(frozen=True)
class Note:
    row_id: str
    said: tuple[str, ...] = ()


def step(name: str, *, asks: bool = True, rejects: bool = False) -> PromptStep[Note, Note]:
    def build(note: Note) -> ChatRequest | None:
        return ChatRequest((Message("user", f"{name} after {','.join(note.said)}"),)) if asks else None

    def parse(note: Note, completion: Completion | None) -> Note | Rejected:
        if rejects:
            return Rejected(note.row_id, name, "no")
        return replace(note, said=(*note.said, completion.text if completion else f"{name} asked nothing"))

    return PromptStep(name=name, role="author", takes=Note, build=build, parse=parse)


def echo(_step: Any, _record: Any, request: ChatRequest) -> Completion:
    return Completion(request.messages[0].content.upper())


def test_each_step_sees_what_the_one_before_made() -> None:
    assert run_chain(Note("r"), [step("a"), step("b")], echo) == Note("r", ("A AFTER ", "B AFTER A AFTER "))


def test_a_step_that_asks_nothing_costs_no_call_and_still_parses() -> None:
    calls: list[str] = []

    def count(one: Any, record: Any, request: ChatRequest) -> Completion:
        calls.append(one.name)
        return echo(one, record, request)

    assert run_chain(Note("r"), [step("a", asks=False), step("b")], count).said == ("a asked nothing", "B AFTER A ASKED NOTHING")
    assert calls == ["b"]


def test_a_rejected_record_asks_no_further() -> None:
    calls: list[str] = []

    def count(one: Any, record: Any, request: ChatRequest) -> Completion:
        calls.append(one.name)
        return echo(one, record, request)

    assert run_chain(Note("r"), [step("a"), step("b", rejects=True), step("c")], count) == Rejected("r", "b", "no")
    assert calls == ["a", "b"]


def test_no_steps_leave_the_record_as_it_is() -> None:
    assert run_chain(Note("r"), [], echo) == Note("r")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4).map(lambda n: n == 0)), max_size=6))
def test_waiting_for_the_model_changes_nothing(kinds: list[tuple[bool, bool]]) -> None:
    steps = [step(f"s{n}", asks=asks, rejects=rejects) for n, (asks, rejects) in enumerate(kinds)]

    async def slow(one: Any, record: Any, request: ChatRequest) -> Completion:
        await asyncio.sleep(0)
        return echo(one, record, request)

    assert asyncio.run(run_chain_async(Note("r"), steps, slow)) == run_chain(Note("r"), steps, echo)


def test_run_step_keeps_the_order_of_its_records() -> None:
    found = run_step(step("a"), [Note("1"), Note("2", ("x",))], lambda request: Completion(request.messages[0].content))
    assert found == [Note("1", ("a after ",)), Note("2", ("x", "a after x"))]
