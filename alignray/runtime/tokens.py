"""The token table: files of pairs or examples, rendered, tokenized, marked and committed once; every rank then reads it.

Stage "tokens-read" holds what each split gives, stage "tokens" the same without rows whose id an earlier one has: of a part in
which none is dropped, its marker names the same file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from alignray.errors import RecordError, ResumeError
from alignray.io.commits import CommitLog
from alignray.io.fetch import FetchConfig
from alignray.io.preferences import read_examples, read_pairs
from alignray.io.sources import Split
from alignray.io.storage import Storage
from alignray.runtime.stages import OnPart, each, scan
from alignray.schema import PreferencePair, Rejected, SftExample, table_of
from alignray.seeding import unit_draw
from alignray.train.tokenize import ChatTokenizer, Masks, TokenExample, TokenizeConfig, TokenPair, load_tokenizer

TOKENS, READ = "tokens", "tokens-read"
"""Stage of the table, and of what becomes it."""
FOLDER, FACTS = "stages/tokens", "stages/tokens.json"
PART_ROWS, PART_TOKENS = 2000, 1 << 22
"""Of one part: what a task holds at a time."""

Kind = Literal["preference", "sft"]

_IDS, _MARKS = pa.list_(pa.int32()), pa.list_(pa.int8())
_KEYS: list[tuple[str, pa.DataType]] = [("row_id", pa.string()), ("token_key", pa.string())]
_ENDS: list[tuple[str, pa.DataType]] = [("flags", pa.list_(pa.string())), ("split", pa.string())]
SCHEMAS = {
    "preference": pa.schema([
        *_KEYS, ("prompt_ids", _IDS), ("chosen_ids", _IDS), ("rejected_ids", _IDS), ("chosen_edited", _MARKS), ("rejected_edited", _MARKS),
        *_ENDS,
    ]),
    "sft": pa.schema([*_KEYS, ("input_ids", _IDS), ("loss_mask", _MARKS), *_ENDS]),
}
"""Columns of a token row: row_id, token_key, ids and marks as in ``TokenPair`` and ``TokenExample``; split is train or eval."""


@dataclass(frozen=True)
class TokenWork:
    """What every task of the stage knows."""

    kind: Kind
    tokenizer_path: str
    """Folder or hub name that every node reaches."""
    config: TokenizeConfig
    fetch: FetchConfig = field(default_factory=FetchConfig)
    masks: Masks | None = None
    """Picklable; preference only."""
    eval_rate: float = 0.0
    """Share of the rows that are held out."""
    seed: int = 0
    revision: str | None = None


@dataclass
class TokenStats:
    """What the stage did, summed over its parts."""

    read: int
    kept: int
    rejected: dict[str, int] = field(default_factory=dict)
    """By step/reason."""
    flags: dict[str, int] = field(default_factory=dict)
    """Kept rows by what is to be told of them (``train.tokenize.FLAGS``)."""
    eval: int = 0
    """Kept rows that are held out."""
    tokens: int = 0
    """Of the kept rows; a pair's prompt once."""
    targets: int = 0
    """Response tokens of both sides, or targets of examples."""
    edited: int = 0


def tokenize_stage(splits: Sequence[Split], work: TokenWork, *, root: str, on_part: OnPart) -> TokenStats:
    """Make the token table, or what is missing of it; which rows it holds does not depend on how the input is split.

    Args:
        on_part: called with {"read": rows} for every split that is done.

    Raises:
        RecordError: no row is left.
        ConfigError: the tokenizer cannot be used.
        ResumeError: tokenizer or template are not those that the table was begun with.
    """
    _check_same(work, Storage(root))
    by_id = {split.id: split for split in splits}
    each(root, f"{READ}-done", list(by_id), partial(_tokenize_split, by_id, work, root), on_item=on_part)
    _drop_duplicates(list(by_id), root)
    stats = token_stats(root)
    if not stats.kept:
        why = ", ".join(f"{reason} {count:,}" for reason, count in stats.rejected.items()) or "the input is empty"
        raise RecordError(f"none of {stats.read:,} rows can be trained on ({why}); look into {root}/rejects")
    return stats


def token_stats(root: str) -> TokenStats:
    """The stage's account, from its commits."""
    log = CommitLog(Storage(root))
    read, kept = Counter[str](), Counter[str]()
    for stage, counts in ((READ, read), (TOKENS, kept)):
        for commit in log.read(stage):
            counts.update(commit.counts)
    reasons = Counter({name: count for name, count in (read + kept).items() if name.startswith("rejected/")})
    return TokenStats(
        read["kept"] + read["rejected"], kept["kept"], {name.removeprefix("rejected/"): count for name, count in sorted(reasons.items())},
        {name.removeprefix("flag/"): count for name, count in sorted(kept.items()) if name.startswith("flag/")},
        kept["eval"], kept["tokens"], kept["targets"], kept["edited"],
    )


def _check_same(work: TokenWork, storage: Storage) -> None:
    """A path in a config does not say what is behind it: a table is made with one vocabulary and one template."""
    chat = ChatTokenizer(load_tokenizer(work.tokenizer_path, revision=work.revision), work.config)
    facts = orjson.dumps({"tokenizer": chat.digest})
    if not storage.write(FACTS, facts, exclusive=True) and storage.read(FACTS) != facts:
        raise ResumeError(
            f"{storage.root}: its token table was begun with another tokenizer or chat template than {work.tokenizer_path} has now; "
            "undo the change or start over with --new-run"
        )


# ---- splits


def _tokenize_split(by_id: dict[str, Split], work: TokenWork, root: str, split_id: str) -> dict[str, int]:
    chat = ChatTokenizer(load_tokenizer(work.tokenizer_path, revision=work.revision), work.config)
    writer = _Writer(CommitLog(Storage(root)), split_id, work)
    read = read_pairs if work.kind == "preference" else read_examples
    for record in read(by_id[split_id], work.fetch, Counter()):
        writer.add(tokens_of(record, chat, work.masks))
    return writer.finish()


def tokens_of(
    record: PreferencePair | SftExample | Rejected, chat: ChatTokenizer, masks: Masks | None,
) -> TokenPair | TokenExample | Rejected:
    """The token row of a record; a reject stays one."""
    if isinstance(record, Rejected):
        return record
    if isinstance(record, SftExample):
        return chat.example(record)
    assert masks is not None, "pairs need masks"
    return chat.pair(record, masks)


class _Writer:
    """Collects token rows of one split and commits them when they are many."""

    def __init__(self, log: CommitLog, split_id: str, work: TokenWork) -> None:
        self._log, self._split_id, self._work = log, split_id, work
        self._rows: list[dict[str, Any]] = []
        self._rejected: list[Rejected] = []
        self._number = self._num_tokens = 0
        self._told = Counter({"read": 0, "kept": 0, "rejected": 0})

    def add(self, row: TokenPair | TokenExample | Rejected) -> None:
        self._told["read"] += 1
        if isinstance(row, Rejected):
            self._rejected.append(row)
        else:
            is_held_out = unit_draw(self._work.seed, row.row_id, "eval") < self._work.eval_rate
            values = vars(row) | {"split": "eval" if is_held_out else "train"}
            self._rows.append(values)
            self._num_tokens += sum(len(value) for name, value in values.items() if name.endswith("_ids"))
        if len(self._rows) + len(self._rejected) >= PART_ROWS or self._num_tokens >= PART_TOKENS:
            self._commit()

    def finish(self) -> dict[str, int]:
        self._commit()
        self._log.write(f"{READ}-done", self._split_id, {}, self._told)
        return self._told

    def _commit(self) -> None:
        if not self._rows and not self._rejected:
            return
        table = pa.Table.from_pylist(self._rows, schema=SCHEMAS[self._work.kind])
        counts = _counts(table, self._rejected)
        self._log.write(
            READ, f"{self._split_id}-{self._number:05d}",
            {"rows": (FOLDER, table), "rejects": ("rejects", table_of(Rejected, self._rejected))}, counts, {"split": self._split_id},
        )
        self._told.update({name: count for name, count in counts.items() if name.split("/")[0] in ("kept", "rejected")})
        self._rows, self._rejected = [], []
        self._number, self._num_tokens = self._number + 1, 0


def _counts(table: pa.Table, rejected: Sequence[Rejected]) -> Counter[str]:
    """The account of a part."""
    def total(names: Sequence[str]) -> int:
        return sum(pc.sum(pc.list_value_length(table[name])).as_py() or 0 for name in names)

    def marked(names: Sequence[str]) -> int:
        return sum(pc.sum(pc.list_flatten(table[name])).as_py() or 0 for name in names)

    counts = Counter({"kept": len(table), "rejected": len(rejected), "eval": pc.sum(pc.equal(table["split"], "eval")).as_py() or 0})
    counts["tokens"] = total([name for name in table.column_names if name.endswith("_ids")])
    if "loss_mask" in table.column_names:
        counts["targets"] = marked(["loss_mask"])
    else:
        counts["targets"], counts["edited"] = total(["chosen_ids", "rejected_ids"]), marked(["chosen_edited", "rejected_edited"])
    counts.update(f"flag/{flag}" for flag in pc.list_flatten(table["flags"]).to_pylist())
    counts.update(f"rejected/{reject.step}/{reject.reason}" for reject in rejected)
    return counts


# ---- duplicates


def _drop_duplicates(split_ids: Sequence[str], root: str) -> None:
    """Of rows with the same id the first of the input stays, whatever the parts they stand in."""
    log = CommitLog(Storage(root))
    order = {split_id: place for place, split_id in enumerate(split_ids)}
    parts = sorted((commit for commit in log.read(READ)), key=lambda commit: (order[commit.extra["split"]], commit.name))
    names = [part.name for part in parts]
    if set(names) == set(log.names(TOKENS)):
        return
    ids = _ids_by_part(root, names)
    places = np.concatenate([np.full(len(found), number) for number, found in enumerate(ids)]) if ids else np.empty(0, np.int64)
    rows = np.concatenate([np.arange(len(found)) for found in ids]) if ids else places
    _, first, inverse = np.unique(np.concatenate(ids) if ids else places, return_index=True, return_inverse=True)
    keepers = first[inverse]
    dropped: dict[str, dict[int, str]] = {}
    for at in np.flatnonzero(keepers != np.arange(len(keepers))):
        dropped.setdefault(names[places[at]], {})[int(rows[at])] = names[places[keepers[at]]]
    each(root, TOKENS, names, partial(_finish_part, dropped, root))


def _ids_by_part(root: str, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Digests of the row ids of each part, 16 bytes each; one driver holds them all."""
    dtype = np.dtype([("high", "<u8"), ("low", "<u8")])
    found = {name: np.empty(0, dtype) for name in names}
    for table in scan(root, READ, _digests, columns=["row_id"], name="row ids"):
        for name, data in zip(table["part"].to_pylist(), table["ids"].to_pylist(), strict=True):
            found[name] = np.frombuffer(data, dtype)
    return [found[name] for name in names]


def _digests(name: str, table: pa.Table, _: Any) -> pa.Table:
    ids = b"".join(hashlib.blake2b(row_id.encode(), digest_size=16).digest() for row_id in table["row_id"].to_pylist())
    return pa.table({"part": [name], "ids": pa.array([ids], pa.binary())})


def _finish_part(dropped: dict[str, dict[int, str]], root: str, name: str) -> dict[str, int]:
    """Commit a part of the table; one that loses rows as a file of its own."""
    log = CommitLog(Storage(root))
    part = log.one(READ, name)
    gone = dropped.get(name, {})
    if not gone:
        counts = {key: count for key, count in part.counts.items() if key.partition("/")[0] != "rejected"}
        marker = {
            "files": {role: path for role, path in part.files.items() if role == "rows"},
            "bytes": part.bytes, "footers": part.footers, "counts": counts, "extra": part.extra,
        }
        log.storage.write(f"commits/{TOKENS}/{name}.json", orjson.dumps(marker), exclusive=True)
        return {"kept": part.counts["kept"], "rejected": 0}
    table = log.table(part)
    assert table is not None, "a part without rows has no duplicates"
    stays = np.setdiff1d(np.arange(len(table)), list(gone))
    row_ids = table["row_id"].to_pylist()
    rejected = [
        Rejected(row_ids[row], "ingest", "duplicate_record", detail=orjson.dumps({"part": name, "first": first}).decode())
        for row, first in sorted(gone.items())
    ]
    kept = table.take(stays)
    counts = _counts(kept, rejected)
    log.write(
        TOKENS, name, {"rows": (FOLDER, kept), "rejects": ("rejects", table_of(Rejected, rejected))}, counts, dict(part.extra),
    )
    return dict(counts)
