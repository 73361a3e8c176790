"""The edit memory: what a model is to know anew, found by likeness, kept through crashes. Source: LTE, thesis 5.1.2."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import numpy as np

from alignray.engine.embedders import Embedder, Vectors, build_embedder
from alignray.errors import ConfigError, EngineError, RecordError, StorageError
from alignray.memory.config import MemoryConfig
from alignray.memory.folder import check_config, check_embedder, current_generation, make_current, new_generation
from alignray.memory.index import VectorIndex
from alignray.memory.ledger import View
from alignray.memory.log import Damaged, Writer, WriterLock, vector_crc
from alignray.memory.planning import Plan, Request, line_of
from alignray.memory.records import EditDraft, EditPage, EditResult, MemoryEdit, ScoredEdit, Touch, checked, fact_key, key_text
from alignray.memory.snapshots import clear_aside, write_snapshot
from alignray.memory.store import Recovery, Store, folder_of

logger = logging.getLogger(__name__)

AsOf = int | datetime | None
"""A version, a time with its zone, or now."""


class EditMemory:
    """Edits in a folder. One process writes; any number of others open it with ``writable=False`` and ``refresh``.

    Of one fact (subject and relation) the latest edit is live; what it supersedes stays in the history. An add is acknowledged
    (returns) when it is on the disk, and is found by the next query. All methods may be called from many threads at once: those that
    write meanwhile share one embedding call and one sync.
    """

    def __init__(self, config: MemoryConfig, *, embedder: Embedder | None = None, writable: bool = True) -> None:
        """Opens the memory; a writer makes it where it is not.

        Args:
            embedder: the one that ``config.embedder`` names, where it is loaded already.

        Raises:
            ConfigError: no memory there (readers), or made with another embedder or key.
            StorageError: another process writes to it, or its files are damaged.
        """
        self._config, self._embedder, self._is_checked = config, embedder, False
        self._root = folder_of(config.path)
        self._state, self._commits, self._arrivals = threading.RLock(), threading.Lock(), threading.Lock()
        self._embedding, self._saving = threading.Lock(), threading.Lock()
        self._waiting: list[Request] = []
        self._jobs: dict[str, threading.Thread] = {}
        self._writer: Writer | None = None
        self._lock: WriterLock | None = None
        if writable:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = WriterLock(self._root)
        try:
            self._open()
        except BaseException:
            if self._lock:
                self._lock.release()
            raise

    def _open(self) -> None:
        generation = current_generation(self._root)
        if generation is None and self._lock is None:
            raise ConfigError(f"edit memory {self._root}: there is none; open it for writing once, or name another folder")
        if generation is None:
            generation = new_generation(self._root, self._config, self._model(check=False))
            make_current(self._root, generation)
        check_config(self._root, generation.meta, self._config)
        if self._lock is not None:
            clear_aside(generation.snapshots)
        store = Store(generation, writable=self._lock is not None, on_damage=self._config.on_damage)
        index = VectorIndex(self._config.index)
        index.load(store.index_arrays)
        store.index_arrays = {}
        if self._lock is not None:
            self._writer = Writer(generation.log, generation.vectors, store.place, store.num_rows, generation.meta.dimensions,
                                  fsync=self._config.fsync)
        with self._state:
            self._store, self._index, self._saved = store, index, store.recovery.snapshot_version
        self._merge_if_due()

    # -- writing

    def add(self, draft: EditDraft) -> EditResult:
        """Take an edit. One of the same fact that is live is superseded, and the result says so.

        Raises:
            RecordError: the draft cannot be kept, or its id is that of another edit.
            StorageError: it could not be written down, and is not there.
        """
        return self._commit(Request("add", (checked(draft),)))[0]

    def add_many(self, drafts: Sequence[EditDraft]) -> list[EditResult]:
        """Take edits in their order, all or none; later ones of a fact supersede earlier ones."""
        return self._commit(Request("add", tuple(map(checked, drafts)))) if drafts else []

    def supersede(self, draft: EditDraft, *, edit_id: str | None = None) -> EditResult:
        """Like add, but there must be a live edit of the same fact.

        Args:
            edit_id: the one that it must be.

        Raises:
            RecordError: there is none, or it is another.
        """
        return self._commit(Request("supersede", (checked(draft),), edit_id))[0]

    def delete(self, edit_id: str) -> MemoryEdit:
        """End an edit; what it superseded does not come back. One that has ended stays as it is.

        Raises:
            RecordError: there is no such edit.
        """
        return self._commit(Request("delete", edit_id=edit_id))[0].edit

    def _commit(self, request: Request) -> list[EditResult]:
        """Have a request written, by this thread or by one that came before: whoever gets the lock writes for all who wait."""
        with self._arrivals:
            self._waiting.append(request)
        with self._commits:
            if not request.is_done:
                with self._arrivals:
                    group, self._waiting = self._waiting, []
                self._write(group)
        self._merge_if_due()
        self._save_if_due()
        if request.failed is not None:
            raise request.failed
        return request.results

    def _write(self, group: Sequence[Request]) -> None:
        try:
            if self._writer is None:
                raise StorageError(f"edit memory {self._root}: open for reading only (or closed); open it with writable=True")
            plan = Plan(self._store, max(time.time(), self._store.ledger.time_of(self._store.version)))
            for request in group:
                plan.take(request)
            if plan.events:
                self._put_down(self._writer, plan)
        except BaseException as err:
            interrupted = StorageError(f"edit memory {self._root}: interrupted while writing; open it anew")
            failed = err if isinstance(err, Exception) else interrupted
            for request in group:
                request.failed = request.failed or failed
            if failed is not err:
                raise
        finally:
            for request in group:
                request.is_done = True

    def _put_down(self, writer: Writer, plan: Plan) -> None:
        vectors = self._embed([key_text(edit, self._config.key) for edit in plan.added])
        crcs = iter([vector_crc(vector) for vector in vectors])
        payloads = [line_of(event, next(crcs) if event["kind"] == "add" else None) for event in plan.events]
        places = writer.commit(payloads, vectors)
        try:
            with self._state:
                self._store.written(plan.events, places, writer.place)
        except BaseException as err:
            writer.stop(f"{type(err).__name__} came between disk and memory")
            raise

    # -- reading

    @property
    def version(self) -> int:
        """Of the last event; 0 in an empty memory."""
        return self._store.version

    @property
    def num_live(self) -> int:
        """Edits that retrieval can find."""
        return self._store.ledger.num_live

    @property
    def num_edits(self) -> int:
        """Edits ever taken."""
        return self._store.num_rows

    @property
    def recovery(self) -> Recovery:
        """How it came up."""
        return self._store.recovery

    def get(self, edit_id: str) -> MemoryEdit | None:
        """An edit, live or not; None where there is no such id."""
        with self._state:
            return self._store.find(edit_id)

    def history(self, subject: str, relation: str = "", *, prompt: str = "") -> list[MemoryEdit]:
        """All edits of a fact, oldest first, each saying what ended it.

        Args:
            prompt: stands in for the relation where edits have none.
        """
        if not (relation.strip() or prompt.strip()):
            raise RecordError(f"history of {subject!r}: name the relation, or the prompt where the edits have none")
        with self._state:
            return [self._store.edit(row) for row in self._store.ledger.rows_of(fact_key(subject, relation, prompt))]

    def list_edits(self, *, after: int = 0, limit: int = 100, include_ended: bool = False, as_of: AsOf = None) -> EditPage:
        """Edits in the order they were taken in.

        Args:
            after: ``next_after`` of the page before.
            include_ended: superseded and deleted ones too.
        """
        if limit < 1:
            raise RecordError(f"limit = {limit} is no page; ask for 1 or more")
        with self._state:
            view = self._view(as_of)
            start = int(np.searchsorted(self._store.ledger.column("versions")[: view.rows], after, side="right"))
            rows = start + (np.arange(view.rows - start) if include_ended else np.flatnonzero(view.live(start, view.rows)))
            edits = tuple(self._store.edit(int(row), view.version) for row in rows[:limit])
        return EditPage(edits, edits[-1].version if len(rows) > limit else None)

    def top_k(
        self, queries: Sequence[str] | Vectors, k: int = 3, *, floor: float | None = None, as_of: AsOf = None,
    ) -> list[list[ScoredEdit]]:
        """The k live edits nearest to each query, best first; of equal ones the newer. Source: thesis 5.1.2, k = 3.

        Args:
            queries: texts, or their unit vectors [N, D].
            floor: edits below this cosine are left out; None keeps all, as the authors do.
        """
        vectors = self._query_vectors(queries)
        if k < 1:
            raise RecordError(f"k = {k} retrieves nothing; ask for 1 or more")
        with self._state:
            view, store, index = self._view(as_of), self._store, self._index
            stored = store.vectors
        found = index.search(vectors, stored, view, k)
        with self._state:
            return [[ScoredEdit(store.edit(int(row), view.version), float(score)) for row, score in zip(*near, strict=True)
                     if floor is None or score >= floor] for near in found]

    def would_touch(self, draft: EditDraft, queries: Sequence[str] | Vectors, k: int = 3, *, floor: float | None = None) -> list[Touch]:
        """Which of some queries an edit would reach, were it added; nothing is written."""
        draft, vectors = checked(draft), self._query_vectors(queries)
        key = self._embed([key_text(draft, self._config.key)])[0].astype(np.float64)
        with self._state:
            view, store, stored, index = self._view(None), self._store, self._store.vectors, self._index
            live = store.ledger.live_row(fact_key(draft.subject, draft.relation, draft.prompt))
        touches = []
        for at, near in enumerate(index.search(vectors, stored, view, k + 1)):
            score = float((vectors[at].astype(np.float64) * key).sum())
            now = [(int(row), value) for row, value in zip(*near, strict=True) if floor is None or value >= floor]
            others = [(row, value) for row, value in now if row != live]
            rank = 1 + sum(bool(value > score) for _, value in others[:k])
            if rank > k or (floor is not None and score < floor):
                continue
            # the edit it supersedes makes room, else the last of the k
            falls = next((row for row, _ in now[:k] if row == live), others[k - 1][0] if len(others) >= k else None)
            with self._state:
                touches.append(Touch(at, score, rank, None if falls is None else store.edit(falls).edit_id))
        return touches

    def version_at(self, moment: datetime) -> int:
        """The last version up to a time; 0 before the first."""
        if moment.tzinfo is None:
            raise RecordError(f"as of {moment}: a time without its zone is no point in time; add tzinfo")
        with self._state:
            return self._store.ledger.version_at(moment.timestamp())

    def _view(self, as_of: AsOf) -> View:
        if as_of is None:
            return self._store.ledger.view()
        version = self.version_at(as_of) if isinstance(as_of, datetime) else as_of
        if not 0 <= version <= self._store.version:
            raise RecordError(f"as of version {version}: this memory has 0 to {self._store.version}")
        return self._store.ledger.view(version)

    def refresh(self) -> int:
        """Follow the writer; returns how many events were new. In the writer's own process there is nothing to follow.

        Raises:
            ConfigError: the memory was rebuilt with another embedder or key.
        """
        if self._lock is not None:
            return 0
        with self._state:
            before = self._store.version
            generation = current_generation(self._root)
            is_same = generation is not None and generation.folder == self._store.generation.folder and not self._store.is_stale()
            try:
                if is_same:
                    self._store.follow()
            except Damaged:
                # a writer that failed to sync took lines back after they were seen here
                is_same = False
            if not is_same:
                self._open()  # a query under way goes on with the store it has
            num_new = self._store.version - before
        self._merge_if_due()
        return num_new

    # -- keeping

    def merge(self) -> None:
        """Take all edits into the trained index now."""
        with self._state:
            index, vectors = self._index, self._store.vectors
        index.merge(vectors)

    def snapshot(self) -> None:
        """Write a snapshot now; a restart reads the log from there on."""
        if self._lock is None:
            raise StorageError(f"edit memory {self._root}: open for reading only; its writer makes the snapshots")
        with self._saving:
            index = self._index.dump()  # first: it must not know of rows that the ledger does not
            with self._state:
                store, version, place = self._store, self._store.version, self._store.place
                columns = store.ledger.dump()
            write_snapshot(store.generation.snapshots, version, place, columns, index, fsync=self._config.fsync)
            self._saved = version

    def verify(self) -> int:
        """Check every event and every vector on the disk; returns the number of events. A restart checks what is behind its snapshot.

        Raises:
            StorageError: naming the first that is damaged.
        """
        return self._store.verify()

    def close(self) -> None:
        """Finish what is under way, write a snapshot where there is something new, and let the next writer in."""
        for job in list(self._jobs.values()):
            job.join()
        with self._commits:
            if self._writer is not None:
                if self._store.version > self._saved:
                    with contextlib.suppress(OSError):  # the log has it all
                        self.snapshot()
                self._writer.close()
                self._writer = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _merge_if_due(self) -> None:
        if not self._index.needs_merge(self._store.num_rows):
            return
        if self._config.index.background:
            self._start("merge", self.merge)
        else:
            self.merge()

    def _save_if_due(self) -> None:
        # as the memory grows snapshots grow too, so they get rarer
        if self._lock is not None and self._store.version - self._saved >= max(self._config.snapshot_every, self._saved // 4):
            self._start("snapshot", self.snapshot)

    def _start(self, name: str, job: object) -> None:
        with self._arrivals:
            running = self._jobs.get(name)
            if running is not None and running.is_alive():
                return
            self._jobs[name] = threading.Thread(target=self._run, args=(name, job), name=f"edit-memory-{name}", daemon=True)
            self._jobs[name].start()

    def _run(self, name: str, job: object) -> None:
        try:
            job()  # type: ignore[operator]
        except Exception:
            # the log holds every edit and all rows are compared meanwhile: slower, not wrong
            logger.exception("edit memory %s: its %s failed", self._root, name)

    # -- embedding

    def _model(self, *, check: bool = True) -> Embedder:
        with self._embedding:
            if self._embedder is None:
                self._embedder = build_embedder(self._config.embedder, setting="memory.embedder")
            if self._embedder.name != self._config.embedder:
                raise ConfigError(f"memory.embedder = {self._config.embedder!r}, and {self._embedder.name!r} was handed in; name the same")
            if check and not self._is_checked:
                check_embedder(self._root, self._store.generation.meta, self._embedder)
                self._is_checked = True
            return self._embedder

    def _embed(self, texts: Sequence[str]) -> Vectors:
        dimensions = self._store.generation.meta.dimensions
        if not texts:
            return np.zeros((0, dimensions), dtype=np.float32)
        vectors = np.ascontiguousarray(self._model().embed(texts), dtype=np.float32)
        if vectors.shape != (len(texts), dimensions) or not np.isfinite(vectors).all():
            raise EngineError(f"embedder {self._config.embedder!r} gave {vectors.shape} for {len(texts)} text(s), or not numbers; "
                              f"wanted finite ({len(texts)}, {dimensions})")
        return vectors

    def _query_vectors(self, queries: Sequence[str] | Vectors) -> Vectors:
        if not isinstance(queries, np.ndarray):
            return self._embed(queries)
        dimensions = self._store.generation.meta.dimensions
        if queries.ndim != 2 or queries.shape[1] != dimensions or not np.isfinite(queries).all():
            raise RecordError(f"query vectors of shape {queries.shape}; this memory compares finite ones of shape (N, {dimensions})")
        return np.ascontiguousarray(queries, dtype=np.float32)
