"""Instructions from files as people keep them: Alpaca rows, Self-Instruct seeds, chats, questions; JSON, JSON lines, CSV, Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.config import without_secrets
from alignray.errors import RecordError
from alignray.io.benchmark_files import read_rows
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.rows import values_of
from alignray.schema import LionDraft, Rejected
from alignray.seeding import row_id_of, row_id_of_json
from alignray.untrusted import storable

STEP = "ingest"
REASONS = {
    "bad_row": "a text is none, or is not UTF-8",
    "duplicate_record": "the same instruction stands earlier in the file",
    "empty_prompt": "the instruction is blank",
    "missing_column": "no instruction, prompt, question, problem, text, turns, messages or conversations",
}
_TEXTS = ("instruction", "prompt", "question", "problem", "text")
_CHATS = ("messages", "conversations", "conversation")
_WANTED = f"{', '.join(_TEXTS)}, turns, {', '.join(_CHATS)}"


def read_instructions(uri: str, fetch: FetchConfig, counts: Counter[str]) -> Iterator[LionDraft | Rejected]:
    """Instructions and rejects of a file, in its order; each row is one or the other.

    An ``input`` beside the instruction (of Self-Instruct's seeds that of the first instance) is joined to it by a line break (thesis
    3.2); of a chat the first user turn counts, and a system turn is not taken over. Ids are digests of the text.

    Args:
        counts: grows by "records".

    Raises:
        RecordError: the file cannot be read, or not one of its rows has an instruction.
    """
    seen: set[str] = set()
    names: set[str] = set()
    num_known = 0
    for number, row in enumerate(_rows(uri, fetch)):
        counts["records"] += 1
        names |= row.keys()
        try:
            text = storable(_text_of(row)).strip()
        except _Unfit as err:
            num_known += err.reason != "missing_column"
            yield _rejected(err.reason, row, uri, number, note=err.note)
            continue
        num_known += 1
        row_id = row_id_of_json([text])
        if not text or row_id in seen:
            yield _rejected("duplicate_record" if text else "empty_prompt", row, uri, number)
            continue
        seen.add(row_id)
        category = row.get("category")
        yield LionDraft(row_id, text, "seed", 0, category=storable(category) if isinstance(category, str) else "")
    if not num_known:
        raise RecordError(f"{without_secrets(uri)}: no row has {_WANTED}; there are: {', '.join(sorted(names))[:500] or 'no rows'}")


class _Unfit(Exception):
    def __init__(self, reason: str, note: str) -> None:
        super().__init__(reason)
        self.reason, self.note = reason, note


def _rows(uri: str, fetch: FetchConfig) -> Iterator[dict[str, Any]]:
    if not uri.endswith(".parquet"):
        yield from read_rows(uri, fetch)
        return
    try:
        with open_input(uri, fetch) as raw:
            for batch in pq.ParquetFile(raw).iter_batches(batch_size=8192):
                columns = {name: values_of(pa.chunked_array([batch[name]])) for name in batch.schema.names}
                yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    except (pa.ArrowException, OSError) as err:
        raise RecordError(f"{without_secrets(uri)}: cannot be read as Parquet: {err}") from err


def _text_of(row: Mapping[str, Any]) -> str:
    for name in _CHATS:
        if isinstance(row.get(name), list):
            return _first_user_turn(row[name], name)
    turns = row.get("turns")
    if isinstance(turns, list) and turns:
        return _string(turns[0], "turns")
    for name in _TEXTS:
        if row.get(name) is not None:
            text, more = _string(row[name], name), _input_of(row) if name == "instruction" else ""
            return f"{text.rstrip()}\n{more}" if more.strip() and text.strip() else text
    raise _Unfit("missing_column", f"there are: {', '.join(map(str, row))[:500]}")


def _input_of(row: Mapping[str, Any]) -> str:
    more = row.get("input")
    instances = row.get("instances")
    if more is None and isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        more = instances[0].get("input")
    return "" if more is None else _string(more, "input")


def _first_user_turn(turns: list[Any], name: str) -> str:
    for turn in turns:
        if isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in ("user", "human"):
            return _string(turn.get("content", turn.get("value")), name)
    raise _Unfit("empty_prompt", f"{name} has no turn of the user")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Unfit("bad_row", f"{name} is {type(value).__name__}, not a text")
    return value


def _rejected(reason: str, row: Mapping[str, Any], uri: str, number: int, *, note: str = "") -> Rejected:
    raw = storable(orjson.dumps(row, default=repr).decode())
    where = {"file": storable(without_secrets(uri)), "row": number} | ({"note": storable(note)} if note else {})
    return Rejected(
        row_id_of(uri, str(number), raw), STEP, reason, raw[: Rejected.RAW_LIMIT], orjson.dumps(where).decode(),
    )
