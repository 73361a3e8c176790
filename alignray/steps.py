"""The one shape of a question to a model: build a request from a record, read the answer into the next record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from alignray.schema import ChatRequest, Completion, Rejected

Before = TypeVar("Before")
After = TypeVar("After")


@dataclass(frozen=True)
class PromptStep(Generic[Before, After]):
    """One question to a model: how it is put, and how the answer is read."""

    name: str
    """Slashed name, "webr/persona": its prompt, metrics and reject reasons too."""
    role: str
    """Who answers; the config binds the role to an engine and its sampling."""
    takes: type[Before]
    build: Callable[[Before], ChatRequest | None]
    """None: nothing to ask, and ``parse`` then gets None."""
    parse: Callable[[Before, Completion | None], After | Rejected]


def run_chain(
    record: Any, steps: Sequence[PromptStep[Any, Any]], generate: Callable[[PromptStep[Any, Any], Any, ChatRequest], Completion],
) -> Any:
    """Walk one record through all steps in plain Python; the last record, or the Rejected that ended the walk."""
    for step in steps:
        request = step.build(record)
        record = step.parse(record, generate(step, record, request) if request is not None else None)
        if isinstance(record, Rejected):
            return record
    return record


async def run_chain_async(
    record: Any, steps: Sequence[PromptStep[Any, Any]],
    generate: Callable[[PromptStep[Any, Any], Any, ChatRequest], Awaitable[Completion]],
) -> Any:
    """``run_chain`` for an engine that answers many records at once."""
    for step in steps:
        request = step.build(record)
        record = step.parse(record, await generate(step, record, request) if request is not None else None)
        if isinstance(record, Rejected):
            return record
    return record


def run_step(
    step: PromptStep[Before, After], records: Iterable[Before], generate: Callable[[ChatRequest], Completion],
) -> list[After | Rejected]:
    """One step over records in plain Python, for tests and small jobs."""
    return [run_chain(record, [step], lambda _step, _record, request: generate(request)) for record in records]
