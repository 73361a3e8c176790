"""The signature table: what near-duplicate removal knows of every text, kept so that a later run need not read it again."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from alignray.dedup.config import MinHashConfig
from alignray.dedup.hashing import HASH_VERSION
from alignray.dedup.shingles import shingle_hashes
from alignray.dedup.signatures import signatures
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.runtime.stages import OnPart, each
from alignray.schema import Rejected, table_of

SIGNATURES = "signatures"
"""Stage of the table."""
STEP = "dedup"
MAX_ROWS, MAX_CHARACTERS = 50_000, 1 << 25
"""Of one part of the table: what one task holds at a time."""
NUM_SAMPLES, SAMPLE_CHARACTERS = 500, 20_000
"""Texts of a part, the first in order, kept for planting pairs; longer ones are no sample."""


@dataclass(frozen=True)
class TextBatch:
    """Some rows of a split, as many as may be held at once."""

    rows: npt.NDArray[np.int64]
    """Row numbers in the split, ascending."""
    texts: list[Any]
    """Strings, or lists of token ids."""
    ids: list[str] | None = None
    """Row ids; None: the digest of the text is the id."""
    scores: npt.NDArray[np.float64] | None = None
    """NaN where a row has none."""
    rejected: list[Rejected] = field(default_factory=list)
    """Rows of the split that have no text to compare."""
    num_read: int = 0


Read = Callable[[Any], Iterator[TextBatch]]
Inspect = Callable[[TextBatch], tuple[npt.NDArray[np.bool_], pa.Table, list[Rejected]]]
"""Looks at a batch before it is signed: which rows stay, a table to commit, and rejects for the rest."""


def facts_of(config: MinHashConfig) -> dict[str, Any]:
    """What must agree for two signatures to compare."""
    return {"hash_version": HASH_VERSION, "unit": config.unit, "n": config.n, "num_perm": config.num_perm, "seed": config.seed}


def sign_stage(
    splits: Sequence[Any], read: Read, config: MinHashConfig, *, root: str, on_part: OnPart, inspect: Inspect | None = None,
    keep_empty: bool = False, run_each: Any = each,
) -> None:
    """Sign the texts of every split in a task of its own and commit them in bounded parts, SPLIT-NUMBER.

    Args:
        splits: picklable, each with an ``id``; one whose last part is committed is skipped.
        keep_empty: rows without a single unit are no rejects; they just are not in the table.
    """
    by_id = {split.id: split for split in splits}

    def work(split_id: str) -> dict[str, int]:
        signer = _Signer(split_id, config, CommitLog(Storage(root)), inspect, keep_empty)
        for batch in read(by_id[split_id]):
            signer.add(batch)
        return signer.finish()

    run_each(root, f"{SIGNATURES}-done", list(by_id), work, on_item=on_part)


class _Signer:
    """Collects batches of one split and commits them when they are many."""

    def __init__(self, split_id: str, config: MinHashConfig, log: CommitLog, inspect: Inspect | None, keep_empty: bool) -> None:
        self._split_id, self._config, self._log, self._inspect, self._keep_empty = split_id, config, log, inspect, keep_empty
        self._batches: list[TextBatch] = []
        self._hits: list[pa.Table] = []
        self._rejected: list[Rejected] = []
        self._number = self._num_rows = self._num_characters = 0
        self._told = Counter({"read": 0, "kept": 0, "rejected": 0})

    def add(self, batch: TextBatch) -> None:
        self._told["read"] += batch.num_read or len(batch.texts) + len(batch.rejected)
        self._rejected += batch.rejected
        if self._inspect is not None:
            stays, hits, turned_down = self._inspect(batch)
            self._rejected += turned_down
            self._hits.append(hits)
            batch = _only(batch, stays)
        self._batches.append(batch)
        self._num_rows += len(batch.texts)
        self._num_characters += sum(map(len, batch.texts))
        if self._num_rows >= MAX_ROWS or self._num_characters >= MAX_CHARACTERS:
            self._commit()

    def finish(self) -> dict[str, int]:
        if self._num_rows or self._rejected or self._hits:
            self._commit()
        self._log.write(f"{SIGNATURES}-done", self._split_id, {}, self._told)
        return self._told

    def _commit(self) -> None:
        table, samples, empty = signed(self._batches, self._config)
        if not self._keep_empty:
            self._rejected += empty
        hits = pa.concat_tables(self._hits) if self._hits else pa.table({})
        counts = Counter({"kept": len(table), "rejected": len(self._rejected), "hits": len(hits)})
        counts.update(f"rejected/{reject.step}/{reject.reason}" for reject in self._rejected)
        counts["shingles"] = len(table["shingles"].combine_chunks().flatten())
        contents = {
            "rows": (SIGNATURES, table), "samples": (f"{SIGNATURES}/samples", samples), "hits": ("hits", hits),
            "rejects": ("rejects", table_of(Rejected, self._rejected)),
        }
        name = f"{self._split_id}-{self._number:05d}"
        self._log.write(SIGNATURES, name, contents, counts, {"split": self._split_id, "minhash": facts_of(self._config)}, run_rows=MAX_ROWS)
        self._told["kept"] += len(table)
        self._told.update({name: count for name, count in counts.items() if name.startswith("rejected/")})
        self._told["rejected"] += len(self._rejected)
        self._batches, self._hits, self._rejected = [], [], []
        self._number, self._num_rows, self._num_characters = self._number + 1, 0, 0


def _only(batch: TextBatch, stays: npt.NDArray[np.bool_]) -> TextBatch:
    if stays.all():
        return batch
    places = np.flatnonzero(stays)
    return TextBatch(
        batch.rows[stays], [batch.texts[place] for place in places],
        None if batch.ids is None else [batch.ids[place] for place in places],
        None if batch.scores is None else batch.scores[stays], num_read=batch.num_read,
    )


def signed(batches: Sequence[TextBatch], config: MinHashConfig) -> tuple[pa.Table, pa.Table, list[Rejected]]:
    """Rows of the signature table, samples for planting, and a reject for each text without a single unit."""
    texts = [text for batch in batches for text in batch.texts]
    digests = [hashlib.blake2b(_bytes_of(text), digest_size=16).digest() for text in texts]
    hashes = np.frombuffer(b"".join(digests), np.uint64).reshape(len(texts), 2)
    ids = [
        row_id for batch, start in zip(batches, _starts(batches), strict=True)
        for row_id in (batch.ids or [digest.hex() for digest in digests[start : start + len(batch.texts)]])
    ]
    scores = [np.full(len(batch.texts), np.nan) if batch.scores is None else batch.scores for batch in batches]
    flat, offsets = shingle_hashes(texts, config)
    table = pa.table({
        "row_id": pa.array(ids, pa.string()),
        "row": np.concatenate([np.empty(0, np.int64), *(batch.rows for batch in batches)]),
        "score": np.concatenate([np.empty(0), *scores]),
        "hash_high": hashes[:, 0], "hash_low": hashes[:, 1],
        # fixed order of rows that does not follow the spelling of ids
        "order": np.fromiter((xxhash.xxh3_64_intdigest(row_id.encode("utf-8", "surrogatepass")) for row_id in ids), np.uint64, len(ids)),
        "signature": binary_column(signatures(flat, offsets, config.num_perm, config.seed)),
        # the upper half of a shingle's hash tells shingles of two documents apart well enough for their Jaccard similarity
        "shingles": pa.LargeListArray.from_arrays(offsets, (flat >> np.uint64(32)).astype(np.uint32)),
    })
    is_empty = np.diff(offsets) == 0
    empty = [
        Rejected(ids[place], STEP, "empty_text", str(texts[place])[: Rejected.RAW_LIMIT]) for place in np.flatnonzero(is_empty)
    ]
    if is_empty.any():
        table = table.filter(pa.array(~is_empty))
    return table, _samples(table, [texts[place] for place in np.flatnonzero(~is_empty)]), empty


def _bytes_of(text: str | Sequence[int]) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else np.asarray(text, np.int64).tobytes()


def _starts(batches: Sequence[TextBatch]) -> list[int]:
    return list(itertools.accumulate((len(batch.texts) for batch in batches), initial=0))[:-1]


def _samples(table: pa.Table, texts: list[Any]) -> pa.Table:
    orders = table["order"].to_numpy()
    places = [place for place in np.argsort(orders)[: 2 * NUM_SAMPLES] if len(texts[place]) <= SAMPLE_CHARACTERS][:NUM_SAMPLES]
    return pa.table({
        "place": pa.array(places, pa.int64()), "order": orders[places].astype(np.uint64),
        "text": pa.array([texts[place] for place in places]),
    })


def binary_column(matrix: npt.NDArray[Any]) -> pa.Array:
    """A matrix [N, M] as a column of N byte strings."""
    width = matrix.shape[1] * matrix.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(matrix), [None, pa.py_buffer(np.ascontiguousarray(matrix))])


def matrix_of(column: pa.ChunkedArray, dtype: type, width: int) -> npt.NDArray[Any]:
    """The matrix [N, width] behind a column that ``binary_column`` made."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        return np.empty((0, width), dtype)
    size = np.dtype(dtype).itemsize * width
    data = np.frombuffer(array.buffers()[1], np.uint8) if len(array) else np.empty(0, np.uint8)
    return data[array.offset * size : (array.offset + len(array)) * size].view(dtype).reshape(len(array), width)
