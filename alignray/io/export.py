"""A run folder's rows in the file formats of trainers, and back to conversations."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow.parquet as pq

from alignray.errors import ConfigError, RecordError
from alignray.schema import Conversation, InstructionRow, Message, from_row

BATCH_ROWS = 512
"""Rows in memory at a time."""

_COLUMNS = ("row_id", "messages", "branch", "layout", "instruction")
_SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "system": "system"}
_SHAREGPT_NAMES = {name: role for role, name in _SHAREGPT_ROLES.items()}


class ExportRow(NamedTuple):
    """What an export needs of an InstructionRow."""

    row_id: str
    messages: tuple[Message, ...]
    layout: str
    instruction: str


def split_request(row: InstructionRow | ExportRow) -> tuple[str, str]:
    """First user turn taken apart: (request, document text); the text is "" where the turn is the request alone.

    Raises:
        RecordError: the turn is not put together as the row's ``layout`` says.
    """
    turn = next((message.content for message in row.messages if message.role == "user"), "")
    if row.layout == "request_only":
        return turn, ""
    if row.layout == "request_first" and turn.startswith(f"{row.instruction}\n\n"):
        return row.instruction, turn[len(row.instruction) + 2 :]
    if row.layout == "doc_first" and turn.endswith(f"\n\n{row.instruction}"):
        return row.instruction, turn[: len(turn) - len(row.instruction) - 2]
    raise RecordError(f"row {row.row_id}: the user turn is not its instruction and a document in layout {row.layout!r}")


def _as_openai(row: ExportRow) -> dict[str, Any]:
    return {"messages": _chat(row.messages)}


def _as_sharegpt(row: ExportRow) -> dict[str, Any]:
    return {"conversations": [{"from": _SHAREGPT_ROLES[m.role], "value": m.content} for m in row.messages]}


def _as_alpaca(row: ExportRow) -> dict[str, Any]:
    if [message.role for message in row.messages] != ["user", "assistant"]:
        roles = ", ".join(message.role for message in row.messages)
        raise RecordError(f"row {row.row_id}: alpaca holds one request and one response, got {roles}; export as openai")
    request, text = split_request(row)
    return {"instruction": request, "input": text, "output": row.messages[1].content}


def _as_prompt_completion(row: ExportRow) -> dict[str, Any]:
    return {"prompt": _chat(row.messages[:-1]), "completion": _chat(row.messages[-1:])}


def _as_openrlhf(row: ExportRow) -> dict[str, Any]:
    return {"input": _chat(row.messages[:-1]), "output": _chat(row.messages[-1:])}


def _chat(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _messages_of(turns: Iterable[Mapping[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def _of_openai(item: Mapping[str, Any]) -> tuple[Message, ...]:
    return _messages_of(item["messages"])


def _of_sharegpt(item: Mapping[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(_SHAREGPT_NAMES[turn["from"]], turn["value"]) for turn in item["conversations"])


def _of_alpaca(item: Mapping[str, Any]) -> tuple[Message, ...]:
    request = f"{item['instruction']}\n\n{item['input']}" if item["input"] else item["instruction"]
    return Message("user", request), Message("assistant", item["output"])


def _of_prompt_completion(item: Mapping[str, Any]) -> tuple[Message, ...]:
    return _messages_of([*item["prompt"], *item["completion"]])


def _of_openrlhf(item: Mapping[str, Any]) -> tuple[Message, ...]:
    return _messages_of([*item["input"], *item["output"]])


class _Format(NamedTuple):
    write: Callable[[ExportRow], dict[str, Any]]
    read: Callable[[Mapping[str, Any]], tuple[Message, ...]]


FORMATS: Mapping[str, _Format] = {
    "openai": _Format(_as_openai, _of_openai),
    "sharegpt": _Format(_as_sharegpt, _of_sharegpt),
    "alpaca": _Format(_as_alpaca, _of_alpaca),
    "trl": _Format(_as_openai, _of_openai),
    "trl-prompt-completion": _Format(_as_prompt_completion, _of_prompt_completion),
    "openrlhf": _Format(_as_openrlhf, _of_openrlhf),
    "llamafactory": _Format(_as_sharegpt, _of_sharegpt),
}


def export(run_dir: str | Path, format: str, out_path: str | Path) -> int:
    """Write all rows of ``run_dir``/parts to one file and return how many; a file that exists is replaced whole.

    ``out_path`` ending in .json gets one JSON array, any other name gets JSON lines. Parts are read in name order,
    ``BATCH_ROWS`` at a time.

    - ``openai``, ``trl``: ``{"messages": [...]}``, OpenAI fine-tuning and TRL's SFTTrainer.
    - ``trl-prompt-completion``: ``{"prompt": [...], "completion": [...]}``; SFTTrainer then learns on the last turn only.
    - ``sharegpt``: ``{"conversations": [{"from": "human" | "gpt" | "system", "value"}]}``.
    - ``llamafactory``: sharegpt, and an entry named like the file in ``dataset_info.json`` beside it.
    - ``alpaca``: ``{"instruction", "input", "output"}``; single-turn rows only. Trainers put the instruction first,
      so a row whose document came first changes its order here.
    - ``openrlhf``: ``{"input": [...], "output": [...]}``, for ``--data.input_key input --data.output_key output
      --data.apply_chat_template``. Both are message lists: OpenRLHF 0.11 joins them with ``+``, so a list and a string
      would fail. To learn on every turn (``--data.multiturn``) it wants all in one key: export ``openai`` and pass
      ``--data.input_key messages`` without an output key.

    Raises:
        ConfigError: no such format.
        RecordError: no rows, or a row the format cannot hold; ``out_path`` is then left as it was.
    """
    chosen = _format(format)
    parts_dir, out_path = Path(run_dir) / "parts", Path(out_path)
    paths = sorted(parts_dir.glob("*.parquet"))
    if not paths:
        raise RecordError(f"{parts_dir}: no part files to export; give the folder of a run that kept rows")
    with tempfile.NamedTemporaryFile(dir=_made(out_path.parent), prefix=f".{out_path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            is_array = out_path.suffix == ".json"
            num_rows = 0
            for row in _rows(paths):
                if is_array:
                    file.write(b",\n" if num_rows else b"[\n")
                file.write(orjson.dumps(chosen.write(row)) + (b"" if is_array else b"\n"))
                num_rows += 1
            if not num_rows:
                raise RecordError(f"{parts_dir}: its {len(paths)} part files hold no row; nothing to export")
            if is_array:
                file.write(b"\n]\n")
            file.close()
            temporary.chmod(0o644)
            temporary.replace(out_path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if format == "llamafactory":
        _register(out_path)
    return num_rows


def read_export(path: str | Path, format: str) -> Iterator[Conversation]:
    """The conversations of an exported file, in order.

    Raises:
        ConfigError: no such format.
        RecordError: a line is not of that format.
    """
    chosen, path = _format(format), Path(path)
    for number, item in enumerate(_items(path), start=1):
        try:
            yield Conversation(chosen.read(item))
        except (KeyError, TypeError) as err:
            raise RecordError(f"{path}: record {number} is not {format}: {err!r}; name the format it was exported in") from err


def _format(name: str) -> _Format:
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose from {', '.join(FORMATS)}"
        raise ConfigError(f'unknown export format "{name}"; {hint}')
    return FORMATS[name]


def _rows(paths: Iterable[Path]) -> Iterator[ExportRow]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(_COLUMNS)):
                for row in batch.to_pylist():
                    messages = tuple(from_row(Message, message) for message in row["messages"])
                    yield ExportRow(row["row_id"], messages, row["layout"], row["instruction"])


def _items(path: Path) -> Iterator[Any]:
    if path.suffix == ".json":
        yield from orjson.loads(path.read_bytes())
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as err:
                raise RecordError(f"{path}:{number}: not a JSON line ({err}); export the run again") from err


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _register(out_path: Path) -> None:
    """Name the file in the ``dataset_info.json`` beside it, where LLaMA-Factory's ``dataset_dir`` looks; others stay."""
    info_path = out_path.parent / "dataset_info.json"
    try:
        known = orjson.loads(info_path.read_bytes()) if info_path.exists() else {}
    except orjson.JSONDecodeError as err:
        raise RecordError(f"{info_path}: not JSON ({err}); mend or remove it and export again") from err
    if not isinstance(known, dict):
        raise RecordError(f"{info_path}: holds a {type(known).__name__}, not a mapping of datasets; mend or remove it")
    known[re.sub(r"[^\w.-]+", "_", out_path.stem)] = {
        "file_name": out_path.name,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {
            "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system",
        },
    }
    temporary = info_path.with_name(".dataset_info.json.tmp")
    temporary.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2) + b"\n")
    temporary.replace(info_path)
