"""What the edit memory takes, keeps and returns."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from alignray.errors import RecordError

LIVE = (1 << 63) - 1
"""End of an edit that nothing has ended yet: a version after all others."""

Outcome = Literal["added", "superseded", "unchanged", "deleted"]


@dataclass(frozen=True)
class EditDraft:
    """An edit before the memory has taken it.

    Subject and relation say which fact it is; where there is no relation the prompt stands in for it. The descriptor is the
    fact as one sentence, what is retrieved by and put into the editing prompt; without one, prompt and target make it.
    """

    subject: str
    prompt: str
    target: str
    relation: str = ""
    descriptor: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    edit_id: str = ""
    """The caller's own id; made from the content where it is empty. Giving it makes a repeated add harmless."""


@dataclass(frozen=True)
class MemoryEdit:
    """One edit as the memory keeps it."""

    edit_id: str
    version: int
    """Place among all events of the memory, from 1."""
    time: float
    """When it was taken, seconds since 1970; never before that of an earlier version."""
    subject: str
    relation: str
    prompt: str
    target: str
    descriptor: str
    metadata: Mapping[str, Any]
    ended_version: int | None = None
    """The event that superseded or deleted it; None while it is live."""
    ended_time: float | None = None
    superseded_by: str | None = None
    """Id of the edit that took its place."""
    deleted: bool = False

    @property
    def is_live(self) -> bool:
        """Whether retrieval can find it now."""
        return self.ended_version is None


@dataclass(frozen=True)
class EditResult:
    """What became of an add, supersede or delete."""

    edit: MemoryEdit
    outcome: Outcome
    """unchanged: the very same edit was live already, or its id was used for it before."""
    superseded: MemoryEdit | None = None
    """The edit whose place it took."""
    contradicts: bool = False
    """Whether the superseded one had another target."""
    note: str = ""
    """The same for a person; empty for a plain add."""


@dataclass(frozen=True)
class ScoredEdit:
    """An edit that retrieval found."""

    edit: MemoryEdit
    score: float
    """Cosine of query and key, in [-1, 1]."""


@dataclass(frozen=True)
class EditPage:
    """Some edits in the order they were taken in."""

    edits: tuple[MemoryEdit, ...]
    next_after: int | None
    """What to give as ``after`` for the next page; None where this is the last."""


@dataclass(frozen=True)
class Touch:
    """A query that an edit would reach if it were added."""

    query: int
    """Position in the queries."""
    score: float
    rank: int
    """Its place in that query's retrieval, from 1."""
    displaces: str | None
    """Id of the edit that would fall out of the top k; None where there is room."""


def checked(draft: EditDraft) -> EditDraft:
    """The draft with its descriptor filled in.

    Raises:
        RecordError: an empty prompt or target, text that is not Unicode, metadata that JSON cannot hold.
    """
    for name in ("prompt", "target"):
        if not getattr(draft, name).strip():
            raise RecordError(f"edit of {draft.subject!r}: {name} is empty; an edit needs a prompt and its new target")
    descriptor = draft.descriptor.strip() or f"{draft.prompt.strip()} {draft.target.strip()}"
    try:
        # what JSON makes of it is what a restart will read
        metadata = orjson.loads(orjson.dumps(dict(draft.metadata), option=orjson.OPT_SERIALIZE_NUMPY))
        orjson.dumps([draft.subject, draft.relation, draft.prompt, draft.target, descriptor, draft.edit_id])
    except (TypeError, orjson.JSONEncodeError) as err:
        raise RecordError(f"edit of {draft.subject!r}: not storable ({err}); use UTF-8 text and JSON metadata") from err
    return EditDraft(draft.subject, draft.prompt, draft.target, draft.relation, descriptor, metadata, draft.edit_id)


def key_text(draft: EditDraft | MemoryEdit, key: str) -> str:
    """What is embedded: the descriptor (thesis) or the prompt alone (the authors' code)."""
    return draft.descriptor if key == "descriptor" else draft.prompt


def fact_key(subject: str, relation: str, prompt: str) -> bytes:
    """16 bytes that are the same for every edit of one fact; case, spacing and Unicode form of the texts do not matter."""
    return _digest(_folded(subject), "relation" if relation.strip() else "prompt", _folded(relation if relation.strip() else prompt))


def id_key(edit_id: str) -> bytes:
    """16 bytes for an id."""
    return _digest(edit_id)


def same_content(edit: MemoryEdit, draft: EditDraft) -> bool:
    """Whether an edit says what a checked draft says."""
    return (edit.subject, edit.relation, edit.prompt, edit.target, edit.descriptor, dict(edit.metadata)) == (
        draft.subject, draft.relation, draft.prompt, draft.target, draft.descriptor, dict(draft.metadata))


def id_of(draft: EditDraft, version: int) -> str:
    """32 hex digits of content and version: an edit that comes back after its deletion is another one."""
    return _digest(draft.subject, draft.relation, draft.prompt, draft.target, draft.descriptor, str(version)).hex()


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(*parts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
