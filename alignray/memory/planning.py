"""What a group of requests does to the memory: decided before anything is embedded or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import orjson

from alignray.errors import RecordError
from alignray.memory.records import EditDraft, EditResult, MemoryEdit, fact_key, id_of, same_content


@dataclass
class Request:
    """What one caller wants in one step; ``failed`` or ``results`` tell what became of it."""

    kind: Literal["add", "supersede", "delete"]
    drafts: Sequence[EditDraft] = ()
    edit_id: str | None = None
    results: list[EditResult] = field(default_factory=list)
    failed: Exception | None = None
    is_done: bool = False


class State(Protocol):
    """What planning looks up."""

    @property
    def version(self) -> int:
        """Of the last event."""

    @property
    def num_rows(self) -> int:
        """Edits, live or not."""

    def find(self, edit_id: str) -> MemoryEdit | None:
        """An edit by its id."""

    def live(self, fact: bytes) -> MemoryEdit | None:
        """The live edit of a fact."""


class Plan:
    """Events of a group, over a state that stays as it is until they are written."""

    def __init__(self, state: State, time: float) -> None:
        self._state, self._time = state, time
        self._edits: dict[str, MemoryEdit] = {}
        self._live: dict[bytes, MemoryEdit | None] = {}
        self.events: list[dict[str, Any]] = []
        self.added: list[MemoryEdit] = []

    def take(self, request: Request) -> None:
        """Plan a request; one that is refused leaves nothing behind."""
        before = (dict(self._edits), dict(self._live), len(self.events), len(self.added)) if len(request.drafts) > 1 else None
        try:
            if request.kind == "delete":
                request.results.append(self._delete(request.edit_id or ""))
            else:
                request.results += [self._add(draft, request) for draft in request.drafts]
        except RecordError as err:
            request.failed = err
            if before is not None:
                self._edits, self._live, num_events, num_added = before
                del self.events[num_events:], self.added[num_added:]

    def _find(self, edit_id: str) -> MemoryEdit | None:
        return self._edits.get(edit_id) or self._state.find(edit_id)

    def _live_of(self, fact: bytes) -> MemoryEdit | None:
        return self._live[fact] if fact in self._live else self._state.live(fact)

    def _next(self) -> int:
        return self._state.version + len(self.events) + 1

    def _add(self, draft: EditDraft, request: Request) -> EditResult:
        known = self._find(draft.edit_id) if draft.edit_id else None
        if known is not None:
            if same_content(known, draft):
                return EditResult(known, "unchanged", note=f"edit {known.edit_id} was taken before")
            raise RecordError(f"edit id {draft.edit_id!r} is that of another edit ({known.target!r}); leave it out to supersede that one")
        fact = fact_key(draft.subject, draft.relation, draft.prompt)
        live = self._live_of(fact)
        if request.kind == "supersede" and (live is None or request.edit_id not in (None, live.edit_id)):
            raise RecordError(_nothing_to_supersede(draft, request.edit_id, live))
        if live is not None and same_content(live, draft) and draft.edit_id in ("", live.edit_id):
            return EditResult(live, "unchanged", note=f"edit {live.edit_id} says the same already")
        version = self._next()
        edit = MemoryEdit(draft.edit_id or id_of(draft, version), version, self._time, draft.subject, draft.relation, draft.prompt,
                          draft.target, draft.descriptor, draft.metadata)
        self.events.append({
            "v": version, "t": self._time, "kind": "add", "id": edit.edit_id, "subject": edit.subject, "relation": edit.relation,
            "prompt": edit.prompt, "target": edit.target, "descriptor": edit.descriptor, "metadata": edit.metadata,
            "row": self._state.num_rows + len(self.added), "ends": live.edit_id if live else None,
        })
        self.added.append(edit)
        self._edits[edit.edit_id] = self._live[fact] = edit
        if live is None:
            return EditResult(edit, "added")
        ended = replace(live, ended_version=version, ended_time=self._time, superseded_by=edit.edit_id)
        self._edits[ended.edit_id] = ended
        contradicts = live.target != edit.target
        said = f"target {live.target!r} gave way to {edit.target!r}" if contradicts else "the target stayed the same"
        return EditResult(edit, "superseded", ended, contradicts, f"supersedes edit {live.edit_id} of the same fact: {said}")

    def _delete(self, edit_id: str) -> EditResult:
        edit = self._find(edit_id)
        if edit is None:
            raise RecordError(f"no edit has the id {edit_id!r}; list_edits shows those there are")
        if not edit.is_live:
            return EditResult(edit, "unchanged", note=f"edit {edit_id} had ended at version {edit.ended_version}")
        version = self._next()
        ended = replace(edit, ended_version=version, ended_time=self._time, deleted=True)
        self.events.append({"v": version, "t": self._time, "kind": "delete", "id": edit_id})
        self._edits[edit_id] = ended
        self._live[fact_key(edit.subject, edit.relation, edit.prompt)] = None
        return EditResult(ended, "deleted")


def line_of(event: dict[str, Any], crc: int | None) -> bytes:
    """An event as JSON; adds carry the checksum of their vector."""
    return orjson.dumps(event if crc is None else {**event, "crc": crc})


def _nothing_to_supersede(draft: EditDraft, edit_id: str | None, live: MemoryEdit | None) -> str:
    fact = f"subject {draft.subject!r}, " + (f"relation {draft.relation!r}" if draft.relation.strip() else f"prompt {draft.prompt!r}")
    if edit_id is None or live is None:
        return f"no live edit of {fact} to supersede; use add"
    return f"edit {edit_id!r} is not the live one of {fact}, {live.edit_id!r} is; supersede that one"
