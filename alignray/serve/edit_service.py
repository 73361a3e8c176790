"""What the edit server does: look up, put in, ask; take in, end, list. One memory, one writer, no HTTP in sight."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from alignray.engine.embedders import Embedder, Vectors, build_embedder
from alignray.errors import RecordError
from alignray.memory import EditDraft, EditMemory, EditPage, EditResult, MemoryConfig, MemoryEdit, ScoredEdit, Touch
from alignray.memory.folder import current_generation
from alignray.memory.store import folder_of
from alignray.schema import Completion
from alignray.serve.edit_model import ModelBehind
from alignray.serve.edit_requests import ChatAsk, PageAsk, Unusable
from alignray.serve.edits_config import EditServerConfig

T = TypeVar("T")
HISTORY_EDITS = 100
"""Edits of a fact's history that are shown, the latest."""


class Meter(Protocol):
    """Whoever wants to know how the server does."""

    def request(self, route: str, status: int) -> None:
        """A request was answered."""

    def retrieval(self, stage: str, seconds: float) -> None:
        """A query was embedded ("embed") or compared with the edits ("search")."""

    def live(self, edits: int) -> None:
        """So many edits can be found now."""


class NoMeter:
    """Tells nobody."""

    def request(self, route: str, status: int) -> None: ...

    def retrieval(self, stage: str, seconds: float) -> None: ...

    def live(self, edits: int) -> None: ...


@dataclass(frozen=True)
class Answer:
    """A completion, and the edits that stood in its prompt, best first."""

    completion: Completion
    edits: tuple[ScoredEdit, ...]


@dataclass(frozen=True)
class DryRun:
    """Which recent queries an edit would touch."""

    touches: tuple[tuple[str, Touch], ...]
    """Query and touch, latest query first."""
    num_queries: int


class EditService:
    """All methods belong to one event loop; what takes time goes on in threads."""

    def __init__(self, config: EditServerConfig, *, meter: Meter | None = None) -> None:
        """Opens the memory for writing.

        Raises:
            ConfigError: it was made with another embedder or key.
            EngineDown: the embedder cannot be loaded.
            StorageError: another process writes to it, or it is damaged.
        """
        self.config = config
        self.meter: Meter = meter or NoMeter()
        as_made = as_it_was_made(config.memory)
        self._embedder: Embedder = build_embedder(as_made.embedder, setting="memory.embedder")
        self._memory = EditMemory(as_made, embedder=self._embedder)
        self.model = ModelBehind(config.engine, timeout_s=config.answer_timeout_s, retry_down_s=config.retry_down_s)
        self._recent: deque[tuple[str, Vectors]] = deque(maxlen=config.recent_queries)
        self.meter.live(self.num_live)

    @property
    def num_live(self) -> int:
        """Edits that queries can find."""
        return self._memory.num_live

    async def answer(self, ask: ChatAsk) -> Answer:
        """The model's answer to a chat with the edits that its query finds.

        Raises:
            CallRefused, EngineDown: as the model behind has it.
        """
        found = await self._find(ask.query) if ask.query.strip() else []
        facts = [one.edit.descriptor for one in found]
        request = ask.with_edits(facts, form=self.config.form, prompts_dir=self.config.prompts_dir)
        return Answer(await self.model.answer(request), tuple(found))

    async def _find(self, query: str) -> list[ScoredEdit]:
        vector, seconds = await _timed(lambda: self._embedder.embed([query]))
        self.meter.retrieval("embed", seconds)
        self._recent.append((query, vector[0]))
        found, seconds = await _timed(lambda: self._memory.top_k(vector, self.config.top_k, floor=self.config.floor))
        self.meter.retrieval("search", seconds)
        return found[0]

    async def add(self, draft: EditDraft) -> EditResult:
        """Take an edit in; when this returns it is on the disk and the next query finds it."""
        return await self._written(lambda: self._memory.add(draft))

    async def supersede(self, old: MemoryEdit, draft: EditDraft) -> EditResult:
        """Put an edit in the place of a live one of the same fact."""
        return await self._written(lambda: self._memory.supersede(draft, edit_id=old.edit_id))

    async def delete(self, edit_id: str) -> tuple[MemoryEdit, bool]:
        """End an edit; whether it had not ended before."""
        was_live = self.get(edit_id).is_live
        edit = await asyncio.to_thread(self._memory.delete, edit_id)
        self.meter.live(self.num_live)
        return edit, was_live

    async def _written(self, write: Callable[[], EditResult]) -> EditResult:
        try:
            result = await asyncio.to_thread(write)
        except RecordError as err:  # the draft itself was checked: it is at odds with what is there
            raise Unusable(str(err), status=409, kind="conflict_error") from err
        self.meter.live(self.num_live)
        return result

    def get(self, edit_id: str) -> MemoryEdit:
        """An edit, live or not."""
        edit = self._memory.get(edit_id)
        if edit is None:
            raise Unusable(f"there is no edit {edit_id[:128]!r}; GET /v1/edits lists those there are", "id", status=404,
                           kind="not_found_error")
        return edit

    async def history(self, edit: MemoryEdit) -> list[MemoryEdit]:
        """The edits of the same fact, oldest first, the last HISTORY_EDITS."""
        edits = await asyncio.to_thread(self._memory.history, edit.subject, edit.relation, prompt=edit.prompt)
        return edits[-HISTORY_EDITS:]

    async def page(self, ask: PageAsk) -> EditPage:
        """A page of edits in the order they were taken in."""
        try:
            return await asyncio.to_thread(
                self._memory.list_edits, after=ask.after, limit=ask.limit, include_ended=ask.include_ended, as_of=ask.as_of,
            )
        except RecordError as err:
            raise Unusable(str(err), "as_of") from err

    async def dry_run(self, draft: EditDraft, last: int) -> DryRun:
        """Which of the last queries an edit would reach; nothing is written."""
        recent = list(self._recent)[::-1][:last]
        if not recent:
            return DryRun((), 0)
        vectors = np.stack([vector for _, vector in recent])
        touches = await asyncio.to_thread(
            self._memory.would_touch, draft, vectors, self.config.top_k, floor=self.config.floor,
        )
        return DryRun(tuple((recent[touch.query][0], touch) for touch in touches), len(recent))

    async def close(self) -> None:
        """Let go of the model and of the memory, for the next writer."""
        await self.model.close()
        await asyncio.to_thread(self._memory.close)


def as_it_was_made(config: MemoryConfig) -> MemoryConfig:
    """The config with the embedder and the key that the memory was made with, where it does not name its own."""
    generation = current_generation(folder_of(config.path))
    made = {} if generation is None else {"embedder": generation.meta.embedder, "key": generation.meta.key}
    return config.model_copy(update={name: value for name, value in made.items() if name not in config.model_fields_set})


async def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """The outcome of some work in a thread, and the seconds it took there."""

    def run() -> tuple[T, float]:
        started = time.perf_counter()
        return work(), time.perf_counter() - started

    return await asyncio.to_thread(run)


def shown_edit(edit: MemoryEdit) -> dict[str, Any]:
    """An edit as clients see it."""
    return {
        "id": edit.edit_id, "object": "edit", "version": edit.version, "created": int(edit.time), "subject": edit.subject,
        "relation": edit.relation, "prompt": edit.prompt, "target": edit.target, "fact": edit.descriptor, "metadata": dict(edit.metadata),
        "live": edit.is_live, "deleted": edit.deleted, "superseded_by": edit.superseded_by, "ended_version": edit.ended_version,
    }
