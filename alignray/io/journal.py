"""The call journal: every completion is written down before it is used, so nothing paid is paid twice.

One JSON line per event in ``calls/``, each process appending to a file of its own:

- a completion: ``key`` (hash of everything asked), ``id`` (row), ``step``, ``role``, ``text``, counts, cost, model; one that
  was found in a shared store, and so cost nothing, says ``shared``
- a call that failed for good: the same with ``refused`` instead of ``text``
- a grant (only with a budget): ``grant`` (call key # asking . sending), ``usd``, ``tokens``, ``session``: reserved before the
  call was sent; a completion names the grant it ``settles``, and one that nothing settles counts as spent
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from alignray.io.storage import Appender, Storage
from alignray.schema import ChatRequest, Completion
from alignray.seeding import row_id_of

logger = logging.getLogger(__name__)

FOLDER = "calls"
_OUTCOME = frozenset({"key", "id", "step", "role", "settles"})
_NEEDED = {
    "grant": frozenset({"id", "usd", "tokens", "session"}),
    "refused": _OUTCOME,
    "text": _OUTCOME | {"finish", "pt", "ct", "usd", "model", "s"},
}


def call_key(row_id: str, step: str, model: str, request: ChatRequest) -> str:
    """Hash of everything that decides an answer: row, step, model, messages, sampling."""
    parts: list[str] = [row_id, step, model]
    for message in request.messages:
        parts += [message.role, message.content]
    parts.append(f"{request.max_new_tokens}|{request.temperature}|{request.top_p}|{request.stop}|{request.json_schema}")
    return row_id_of(*parts)[:24]


@dataclass(frozen=True)
class Refusal:
    """A call that failed for good, as the journal keeps it."""

    reason: str
    message: str


@dataclass
class StepUsage:
    """What one step has cost so far."""

    role: str = ""
    calls: int = 0
    refused: int = 0
    shared: int = 0
    """Answers found in a shared store: not asked, not paid."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    latency_s: float = 0.0
    models: set[str] = field(default_factory=set)


@dataclass
class JournalTotals:
    """What a whole journal adds up to."""

    steps: dict[str, StepUsage] = field(default_factory=dict)
    usd: float = 0.0
    tokens: int = 0
    calls: int = 0
    repeated: int = 0
    """Calls whose key was in the journal already: a call asked twice. Stays 0 unless machinery fails."""
    damaged: int = 0
    """Complete lines that could not be read."""
    open_grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Budget reserved for calls that never came back, by grant."""


class Journal:
    """One process' pen: appends completions, refusals and grants."""

    def __init__(self, storage: Storage, writer: str) -> None:
        self._file = Appender(storage, FOLDER, writer)

    def completion(
        self, key: str, row_id: str, step: str, role: str, answer: Completion, *, grant: str = "", shared: bool = False,
    ) -> bytes:
        """The line of a completion; ``grant`` is the reservation it settles."""
        event = {
            "key": key, "id": row_id, "step": step, "role": role, "text": answer.text, "finish": answer.finish_reason,
            "pt": answer.prompt_tokens, "ct": answer.completion_tokens, "usd": answer.cost_usd, "model": answer.model,
            "s": round(answer.latency_s, 4), "t": round(time.time(), 3), "settles": grant,
        }
        return orjson.dumps({**event, "shared": True} if shared else event, option=orjson.OPT_APPEND_NEWLINE)

    def refusal(self, key: str, row_id: str, step: str, role: str, refusal: Refusal, *, grant: str = "") -> bytes:
        """The line of a call that failed for good; no ``grant`` where it may have been billed all the same."""
        return orjson.dumps({
            "key": key, "id": row_id, "step": step, "role": role, "refused": refusal.reason,
            "message": refusal.message[:500], "t": round(time.time(), 3), "settles": grant,
        }, option=orjson.OPT_APPEND_NEWLINE)

    def grant(self, name: str, row_id: str, usd: float, tokens: int, session: str) -> bytes:
        """The line of a reservation."""
        return orjson.dumps({"grant": name, "id": row_id, "usd": usd, "tokens": tokens, "session": session},
                            option=orjson.OPT_APPEND_NEWLINE)

    def append(self, lines: bytes) -> None:
        """Write lines down; they survive this process from here on."""
        self._file.append(lines)

    def close(self) -> None:
        """Sync and close."""
        self._file.close()


def read_events(storage: Storage) -> Iterator[dict[str, Any] | None]:
    """Every event of every writer; None for a complete line that cannot be read."""
    for name in storage.list(FOLDER, ".jsonl"):
        for line in storage.lines(f"{FOLDER}/{name}"):
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                event = None
            yield event if isinstance(event, dict) and _is_whole(event) else None


class Tail:
    """Rows that the journal has had something to say of since this was made."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._read = {name: storage.size(f"{FOLDER}/{name}") for name in storage.list(FOLDER, ".jsonl")}
        self._row_ids: set[str] = set()

    def row_ids(self) -> set[str]:
        """Their ids; reads what was added since the last call."""
        for name in self._storage.list(FOLDER, ".jsonl"):
            path, start = f"{FOLDER}/{name}", self._read.get(name, 0)
            if (size := self._storage.size(path)) <= start:
                continue
            with self._storage.open(path) as file:
                file.seek(start)
                whole, newline, _ = file.read(size - start).rpartition(b"\n")  # half a line is read when it is whole
            self._read[name] = start + len(whole) + len(newline)
            for line in whole.splitlines():
                with contextlib.suppress(orjson.JSONDecodeError):
                    event = orjson.loads(line)
                    if isinstance(event, dict) and _is_whole(event):
                        self._row_ids.add(event["id"])
        return self._row_ids


def _is_whole(event: dict[str, Any]) -> bool:
    return any(kind in event and event.keys() >= needed for kind, needed in _NEEDED.items())


def answer_of(event: dict[str, Any]) -> Completion | Refusal:
    """The outcome that an event records."""
    if "refused" in event:
        return Refusal(event["refused"], event.get("message", ""))
    return completion_of(event)


def completion_of(event: dict[str, Any]) -> Completion:
    """The answer that a completion's event records."""
    return Completion(
        text=event["text"], finish_reason=event["finish"], prompt_tokens=event["pt"], completion_tokens=event["ct"],
        model=event["model"], latency_s=event["s"], cost_usd=event["usd"],
    )


def answers_for(storage: Storage, row_ids: Collection[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Journaled outcomes of the given rows: {row id: {call key: event}}; the first of a key wins."""
    wanted = set(row_ids)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for event in read_events(storage):
        if event is not None and "key" in event and event["id"] in wanted:
            found.setdefault(event["id"], {}).setdefault(event["key"], event)
    return found


class SharedAnswers:
    """Answers by content, in a folder that runs share: a journal whose keys name no row.

    An actor reads it once, as it starts. Two that ask the same at the same time both pay; the first line of a key wins.
    """

    def __init__(self, root: str, writer: str) -> None:
        storage = Storage(root)
        self._journal = Journal(storage, writer)
        self._found: dict[str, Completion] = {}
        for event in read_events(storage):
            if event is not None and "text" in event:
                self._found.setdefault(event["key"], completion_of(event))

    def find(self, key: str) -> Completion | None:
        """An answer as it was given, at no cost now."""
        found = self._found.get(key)
        return None if found is None else dataclasses.replace(found, prompt_tokens=0, completion_tokens=0, cost_usd=0.0, latency_s=0.0)

    def add(self, key: str, step: str, role: str, answer: Completion) -> None:
        """Keep an answer for others."""
        self._found.setdefault(key, answer)
        self._journal.append(self._journal.completion(key, "", step, role, answer))


def add_up(storage: Storage) -> tuple[JournalTotals, set[str]]:
    """Totals of the journal, and the ids of all rows that appear in it."""
    totals, rows, keys, settled = JournalTotals(), set(), set(), set()
    for event in read_events(storage):
        if event is None:
            totals.damaged += 1
            continue
        rows.add(event["id"])
        if "grant" in event:
            totals.open_grants.setdefault(event["grant"], event)
            continue
        usage = totals.steps.setdefault(event["step"], StepUsage(role=event["role"]))
        if event["key"] in keys:
            totals.repeated += 1
        keys.add(event["key"])
        settled.add(event["settles"])
        if "refused" in event:
            usage.refused += 1
            continue
        if event.get("shared"):
            usage.shared += 1
            continue
        usage.calls += 1
        usage.prompt_tokens += event["pt"]
        usage.completion_tokens += event["ct"]
        usage.usd += event["usd"]
        usage.latency_s += event["s"]
        usage.models.add(event["model"])
        totals.calls += 1
        totals.usd += event["usd"]
        totals.tokens += event["pt"] + event["ct"]
    for grant in settled & totals.open_grants.keys():
        del totals.open_grants[grant]
    if totals.damaged:
        logger.warning("the call journal has %d damaged line(s); those calls will be asked again", totals.damaged)
    return totals, rows
