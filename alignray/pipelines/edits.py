"""The edit memory from the command line: opened as it was made, filled from flags or from files of edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignray.errors import RecordError
from alignray.io.edits import EditFile, read_edits, relation_of
from alignray.io.fetch import FetchConfig
from alignray.memory import EditDraft, EditMemory, EditResult, MemoryConfig, MemoryEdit
from alignray.memory.folder import current_generation
from alignray.schema import Edit, Rejected

ADD_ROWS = 1024
"""Edits of a file that are embedded and written together."""


def open_memory(path: str, *, embedder: str | None = None, writable: bool = False) -> EditMemory:
    """A memory as it was made; a new one with the embedder named, or the default.

    Raises:
        ConfigError: there is none to read, or it was made with another embedder.
        StorageError: another process writes to it.
    """
    generation = current_generation(Path(path).expanduser())
    made: dict[str, Any] = {} if generation is None else {"embedder": generation.meta.embedder, "key": generation.meta.key}
    asked = {} if embedder is None else {"embedder": embedder}
    return EditMemory(MemoryConfig(path=path, **{**made, **asked}), writable=writable)


def add_file(memory: EditMemory, uri: str, form: EditFile) -> Counter[str]:
    """Every fact of a file of edits taken in, in the order of the file; how many were added, superseded, unchanged, rejected."""
    found: Counter[str] = Counter()
    batch: list[EditDraft] = []
    for draft in _drafts(uri, form, found):
        batch.append(draft)
        if len(batch) >= ADD_ROWS:
            found.update(result.outcome for result in memory.add_many(batch))
            batch = []
    found.update(result.outcome for result in memory.add_many(batch))
    return found


def _drafts(uri: str, form: EditFile, found: Counter[str]) -> Iterator[EditDraft]:
    for row in read_edits(uri, form, FetchConfig(), Counter()):
        if isinstance(row, Rejected):
            found[f"rejected {row.reason}"] += 1
        elif isinstance(row, Edit):
            for rewrite in row.rewrites:
                origin = {"source": row.source, "row_id": row.row_id}
                yield EditDraft(rewrite.subject, rewrite.prompt, rewrite.target, rewrite.relation, rewrite.fact, origin)


def add_one(memory: EditMemory, *, subject: str, prompt: str, target: str, relation: str = "", fact: str = "") -> EditResult:
    """One edit taken in; without a relation the prompt around the subject is it, as in files."""
    return memory.add(EditDraft(subject, prompt, target, relation or relation_of(prompt, subject), fact))


def remove(memory: EditMemory, edit_id: str) -> MemoryEdit:
    """End an edit.

    Raises:
        RecordError: there is none of that id.
    """
    if memory.get(edit_id) is None:
        raise RecordError(f"no edit {edit_id!r} in this memory; alignray edits list shows the ids")
    return memory.delete(edit_id)


def listed_edits(memory: EditMemory, *, include_ended: bool, limit: int) -> Sequence[MemoryEdit]:
    """The first edits in the order they were taken in."""
    return memory.list_edits(limit=limit, include_ended=include_ended).edits
