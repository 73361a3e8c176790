"""Preference pairs and supervised examples from rows as people keep them; the form is told row by row.

Pairs: ``chosen`` and ``rejected`` as strings with a ``prompt``, as message lists, as single ShareGPT or OpenAI turns behind a
conversation, or as whole HH transcripts. Examples: ``messages`` or ``conversations``, a prompt with its response, Alpaca's
instruction, input and output, a problem with its solution. Rows of our own run folders are among them and keep their ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import orjson
import pyarrow as pa

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig
from alignray.io.rows import values_of
from alignray.io.sources import Split
from alignray.io.tables import BadRow, RowBlock, read_blocks
from alignray.schema import Message, PreferencePair, Rejected, SftExample
from alignray.seeding import row_id_of, row_id_of_json
from alignray.untrusted import storable

STEP = "ingest"
REASONS = {
    "bad_encoding": "a text is not UTF-8",
    "bad_roles": "a turn is not system, user or assistant, a system turn is not the first, or the turns end with the wrong one",
    "bad_row": "the row is not an object, or a text or a list of turns is none",
    "duplicate_record": "the same row id was seen earlier in the same file, or range of one",
    "empty_prompt": "no user turn before the response, or a blank one",
    "empty_response": "a response is blank",
    "identical_pair": "chosen and rejected are the same text",
    "missing_column": "no columns that make a pair or an example",
    "one_sided": "one of chosen and rejected is missing or null",
    "prompts_differ": "chosen and rejected do not answer the same turns",
}
"""Why a row did not become a record; those of damaged files come from `alignray.io.tables`."""

_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_PROMPTS = ("prompt", "instruction", "problem", "question")
_RESPONSES = {
    "prompt": ("response", "completion", "output", "answer"), "instruction": ("output", "response", "completion"),
    "problem": ("solution", "response"), "question": ("response", "answer"),
}
_CONVERSATIONS = ("messages", "conversations", "conversation")

Turns = tuple[Message, ...]
RecordT = TypeVar("RecordT", PreferencePair, SftExample)


class _Unfit(Exception):
    """reason, note"""


def pair_of(
    row: Mapping[str, Any], *, number: int = 0, where: str = "", source: str = "", originals: bool = False,
) -> PreferencePair | Rejected:
    """The pair of a row, or why it is none (one of ``REASONS``).

    Where ``chosen`` and ``rejected`` are whole chats, the prompt is all but their last turns, which must be the same in both;
    a ``prompt`` beside them is used only where they are answers alone.

    Args:
        number: of the row in its file, for the reject.
        where: the file as rejects name it.
        source: of rows that have no ``source`` themselves.
        originals: rows of ``alignray bridge`` give the pair as it was before it was bridged.
    """
    if originals and "original_chosen" in row:
        row = {**row, "chosen": row["original_chosen"], "rejected": row.get("original_rejected")}
    try:
        (prompt, chosen), (other, rejected) = _sides(row)
        if prompt != other:
            raise _Unfit("prompts_differ", _first_difference(prompt, other))
        _check_prompt(prompt)
        for name, text in (("chosen", chosen), ("rejected", rejected)):
            if not text.strip():
                raise _Unfit("empty_response", f"{name} is blank")
        if chosen.strip() == rejected.strip():
            raise _Unfit("identical_pair", "")
    except _Unfit as err:
        return _rejected(row, err, number, where)
    content = [[[turn.role, turn.content] for turn in prompt], chosen, rejected]
    return PreferencePair(_id_of(row, content), prompt, chosen, rejected, _source_of(row, source))


def example_of(row: Mapping[str, Any], *, number: int = 0, where: str = "", source: str = "") -> SftExample | Rejected:
    """The supervised example of a row, or why it is none. A row that is a preference pair gives its chosen side.

    Args: as ``pair_of``.
    """
    try:
        messages = _chat_of(row)
        if not messages or messages[-1].role != "assistant":
            raise _Unfit("bad_roles", f"the turns end with {messages[-1].role if messages else 'nothing'}, not the assistant")
        _check_prompt(messages[:-1])
        if not messages[-1].content.strip():
            raise _Unfit("empty_response", "")
    except _Unfit as err:
        return _rejected(row, err, number, where)
    return SftExample(_id_of(row, [[turn.role, turn.content] for turn in messages]), messages, _source_of(row, source))


def read_pairs(split: Split, fetch: FetchConfig, counts: Counter[str], *, originals: bool = False) -> Iterator[PreferencePair | Rejected]:
    """Pairs and rejects of a Parquet or JSON lines split, in its order; each row is one or the other.

    Args:
        counts: grows by "records", and "damage" for rejects that stand for a part of the file.
        originals: as for ``pair_of``.

    Raises:
        RecordError: the file cannot be opened, or not one row of its first block has the columns.
    """
    return _read(split, fetch, counts, partial(pair_of, originals=originals), "chosen and rejected, with a prompt or as whole chats")


def read_examples(split: Split, fetch: FetchConfig, counts: Counter[str]) -> Iterator[SftExample | Rejected]:
    """``read_pairs`` for supervised examples."""
    return _read(split, fetch, counts, example_of, "messages, conversations, or a prompt with its response")


def _read(
    split: Split, fetch: FetchConfig, counts: Counter[str], parse: Callable[..., RecordT | Rejected], wanted: str,
) -> Iterator[RecordT | Rejected]:
    seen: set[str] = set()
    is_first = True
    for block in read_blocks(split, fetch):
        for bad in block.bad:
            is_damage = bad.reason.endswith("_file") or bad.reason == "bad_content_encoding"
            counts["damage" if is_damage else "records"] += 1
            yield _unreadable(bad, split)
        records = [
            parse(row, number=number, where=split.shown, source=split.source)
            for number, row in zip(block.rows, rows_of(block), strict=True)
        ]
        if records and is_first and all(isinstance(record, Rejected) and record.reason == "missing_column" for record in records):
            names = sorted({name for row in rows_of(block) for name in row})
            raise RecordError(f"{split.shown}: no row has {wanted}; there are: {', '.join(names)[:500] or 'no columns'}")
        is_first = is_first and not records
        for number, record in zip(block.rows, records, strict=True):
            counts["records"] += 1
            if record.row_id in seen:
                yield Rejected(record.row_id, STEP, "duplicate_record", _raw_of(record), _detail(split.shown, number))
                continue
            seen.add(record.row_id)
            yield record


def rows_of(block: RowBlock) -> list[dict[str, Any]]:
    """The rows of a block as objects; strings that are no UTF-8 stay bytes."""
    if not isinstance(block.content, pa.Table):
        return block.objects
    names = block.content.column_names
    if not names:
        return [{} for _ in block.rows]
    return [dict(zip(names, values, strict=True)) for values in zip(*(values_of(block.content[name]) for name in names), strict=True)]


def _unreadable(bad: BadRow, split: Split) -> Rejected:
    row_id = row_id_of(split.uri, bad.reason, str(split.start), str(bad.row))
    return Rejected(row_id, STEP, bad.reason, bad.raw[: Rejected.RAW_LIMIT], _detail(split.shown, bad.row, bad.note))


# ---- one row


def _rejected(row: Mapping[str, Any], err: _Unfit, number: int, where: str) -> Rejected:
    reason, note = err.args
    try:
        shown = orjson.dumps(row, default=repr).decode()
    except (TypeError, orjson.JSONEncodeError):
        shown = repr(row)
    shown = storable(shown)
    return Rejected(row_id_of(where, str(number), shown), STEP, reason, shown[: Rejected.RAW_LIMIT], _detail(where, number, note))


def _detail(where: str, number: int, note: str = "") -> str:
    evidence = {"file": storable(where), "row": number, "note": storable(note)}
    return orjson.dumps({key: value for key, value in evidence.items() if value != ""}).decode()


def _raw_of(record: PreferencePair | SftExample | Rejected) -> str:
    if isinstance(record, Rejected):
        return record.raw
    turns = record.prompt if isinstance(record, PreferencePair) else record.messages
    return "\n\n".join(turn.content for turn in turns)[: Rejected.RAW_LIMIT]


def _id_of(row: Mapping[str, Any], content: Any) -> str:
    """The id that a row of ours has; the digest of the texts else, so that files in any form give the same id."""
    known = row.get("row_id")
    return known if isinstance(known, str) and re.fullmatch("[0-9a-f]{32}", known) else row_id_of_json(content)


def _source_of(row: Mapping[str, Any], source: str) -> str:
    named = row.get("source")
    return storable(named) if isinstance(named, str) and named else source


def _first_difference(prompt: Turns, other: Turns) -> str:
    for place, (one, two) in enumerate(zip(prompt, other, strict=False)):
        if one != two:
            return f"turn {place + 1} differs"
    return f"{len(prompt)} and {len(other)} turns"


def _check_prompt(prompt: Turns) -> None:
    if not any(turn.role == "user" for turn in prompt) or not prompt[-1].content.strip():
        raise _Unfit("empty_prompt", "")
    if prompt[-1].role != "user":
        raise _Unfit("bad_roles", f"the turn before the response is the {prompt[-1].role}'s, not the user's")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise _Unfit("bad_roles", "a system turn behind the first")


def _sides(row: Mapping[str, Any]) -> tuple[tuple[Turns, str], tuple[Turns, str]]:
    present = [name for name in ("chosen", "rejected") if row.get(name) is not None]
    if not present:
        raise _Unfit("missing_column", f"no chosen and rejected; there are: {', '.join(map(str, row))[:500]}")
    if len(present) == 1:
        raise _Unfit("one_sided", f"only {present[0]}")
    return _side(row, "chosen"), _side(row, "rejected")


def _side(row: Mapping[str, Any], name: str) -> tuple[Turns, str]:
    """Prompt and response of one side."""
    value = row[name]
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list):
        turns = _turns(value, name)
        if not turns or turns[-1].role != "assistant":
            raise _Unfit("bad_roles", f"{name} ends with {turns[-1].role if turns else 'nothing'}, not the assistant")
        *before, last = turns
        if turns[0].role == "assistant":  # the answer alone
            return (*_prompt_of(row), *before), last.content
        given = row.get("prompt")
        if isinstance(given, list) and given and (known := _turns(given, "prompt")) != tuple(before[: len(known)]):
            raise _Unfit("prompts_differ", f"{name} does not begin with the turns of prompt")
        return tuple(before), last.content
    text = _text(value, name)
    if not _has_prompt(row) and text.lstrip().startswith("Human:"):
        return _transcript(text, name)
    return _prompt_of(row), text


def _has_prompt(row: Mapping[str, Any]) -> bool:
    return any(row.get(name) not in (None, "", []) for name in (*_PROMPTS, *_CONVERSATIONS))


def _prompt_of(row: Mapping[str, Any]) -> Turns:
    """The turns before the response, from the columns beside it."""
    for name in (*_CONVERSATIONS, *_PROMPTS):
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, list):
            turns = _turns(value, name)
        else:
            text, more = _text(value, name), row.get("input") if name == "instruction" else None
            turns = (Message("user", f"{text}\n\n{_text(more, 'input')}" if more else text),)
        system = row.get("system")
        if isinstance(system, str) and system.strip() and not any(turn.role == "system" for turn in turns):
            turns = (Message("system", storable(system)), *turns)
        return turns
    raise _Unfit("missing_column", f"no prompt beside the response; there are: {', '.join(map(str, row))[:500]}")


def _chat_of(row: Mapping[str, Any]) -> Turns:
    """The whole chat of a supervised row."""
    for name in _CONVERSATIONS:
        if isinstance(row.get(name), list) and row.get("chosen") is None:
            return _turns(row[name], name)
    for name in _PROMPTS:
        for answer in _RESPONSES[name]:
            value = row.get(answer)
            if row.get(name) is None or value is None:
                continue
            turns = _turns(value, answer) if isinstance(value, list) else (Message("assistant", _text(value, answer)),)
            return (*_prompt_of(row), *turns)
    if row.get("chosen") is not None:
        prompt, response = _side(row, "chosen")
        return (*prompt, Message("assistant", response))
    raise _Unfit("missing_column", f"no chat and no prompt with a response; there are: {', '.join(map(str, row))[:500]}")


def _turns(values: list[Any], name: str) -> Turns:
    turns = []
    for place, value in enumerate(values, start=1):
        if not isinstance(value, Mapping):
            raise _Unfit("bad_row", f"{name}: turn {place} is a {type(value).__name__}, not an object")
        said = value.get("role", value.get("from"))
        role = _ROLES.get(said) if isinstance(said, str) else None
        if role is None:
            raise _Unfit("bad_roles", f"{name}: turn {place} is of {str(said)[:40]!r}")
        turns.append(Message(role, _text(value.get("content", value.get("value")), f"{name}: turn {place}")))
    return tuple(turns)


def _text(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        raise _Unfit("bad_encoding", f"{name} is not UTF-8")
    if not isinstance(value, str):
        raise _Unfit("bad_row", f"{name} is a {type(value).__name__}, not a text")
    return storable(value)


def _transcript(text: str, name: str) -> tuple[Turns, str]:
    """An HH transcript: turns that begin with "Human:" or "Assistant:" behind a blank line, the last one the assistant's."""
    _, *pieces = _HH_TURN.split("\n\n" + text.lstrip())
    turns = tuple(
        Message("user" if who == "Human" else "assistant", said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    )
    if turns[-1].role != "assistant":
        raise _Unfit("bad_roles", f"the transcript {name} ends with the user")
    return turns[:-1], turns[-1].content
