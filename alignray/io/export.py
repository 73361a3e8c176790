"""A run folder's rows in the file formats of trainers, and back to conversations."""

from __future__ import annotations

import difflib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
import pyarrow.parquet as pq

from alignray.errors import ConfigError, RecordError
from alignray.io import openrlhf
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
    roles = [message.role for message in row.messages]
    if len(roles) < 2 or roles[-1] != "assistant":
        raise RecordError(f"row {row.row_id}: OpenRLHF wants a prompt and an assistant's turn, got {', '.join(roles)}; export as openai")
    return _as_openai(row)


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


class _Format(NamedTuple):
    write: Callable[[ExportRow], dict[str, Any]]
    read: Callable[[Mapping[str, Any]], tuple[Message, ...]]


FORMATS: Mapping[str, _Format] = {
    "openai": _Format(_as_openai, _of_openai),
    "sharegpt": _Format(_as_sharegpt, _of_sharegpt),
    "alpaca": _Format(_as_alpaca, _of_alpaca),
    "trl": _Format(_as_openai, _of_openai),
    "trl-prompt-completion": _Format(_as_prompt_completion, _of_prompt_completion),
    "openrlhf": _Format(_as_openrlhf, _of_openai),
    "llamafactory": _Format(_as_sharegpt, _of_sharegpt),
}


def export(run_dir: str | Path, format: str, out_path: str | Path) -> int:
    """Write all rows of ``run_dir``/parts to one file, or for ``openrlhf`` a folder, and return how many rows.

    A file that exists is replaced whole. ``out_path`` ending in .json gets one JSON array, any other name gets JSON lines.
    Parts are read in name order, ``BATCH_ROWS`` at a time.

    - ``openai``, ``trl``: ``{"messages": [...]}``, OpenAI fine-tuning and TRL's SFTTrainer.
    - ``trl-prompt-completion``: ``{"prompt": [...], "completion": [...]}``; SFTTrainer then learns on the last turn only.
    - ``sharegpt``: ``{"conversations": [{"from": "human" | "gpt" | "system", "value"}]}``.
    - ``llamafactory``: sharegpt, and an entry named like the file in ``dataset_info.json`` beside it.
    - ``alpaca``: ``{"instruction", "input", "output"}``; single-turn rows only. Trainers put the instruction first,
      so a row whose document came first changes its order here.
    - ``openrlhf``: a folder with ``train.jsonl``, ``launch.sh`` (its flags) and ``runtime_env.yaml``. Rows are ``{"messages": [...]}``;
      those of a run whose parts have ``chosen`` and ``rejected`` columns are pairs, as `export_preferences` writes them.

    Raises:
        ConfigError: no such format, or a file's name where a folder is wanted.
        RecordError: no rows, or a row the format cannot hold; what stood at ``out_path`` is then left as it was.
    """
    chosen, out_path = _format(format), Path(out_path)
    paths = sorted((Path(run_dir) / "parts").glob("*.parquet"))
    if not paths:
        raise RecordError(f"{run_dir}/parts: no part files to export; give the folder of a run that kept rows")
    if format == "openrlhf":
        return _export_openrlhf(paths, out_path, chosen)
    num_rows = _write_items(map(chosen.write, _rows(paths)), out_path)
    if format == "llamafactory":
        _register(out_path)
    return num_rows


def export_preferences(paths: Iterable[str | Path], out_dir: str | Path) -> int:
    """Preference pairs of Parquet, JSON or JSON lines files as a folder for OpenRLHF's ``train_dpo``, and how many.

    Rows have ``chosen`` and ``rejected`` (a string, an assistant turn or a whole conversation) and, unless these are whole
    conversations, ``prompt`` or ``messages``. Other columns are left out.

    Raises:
        ConfigError: a file's name where a folder is wanted.
        RecordError: no rows, or one that is no pair; what stood in ``out_dir`` is then left as it was.
    """
    out_dir = _openrlhf_folder(out_dir)
    pairs = (openrlhf.preference_row(item, where=where) for path in paths for where, item in _pair_items(Path(path)))
    num_rows = _write_items(pairs, out_dir / openrlhf.TRAIN_FILE)
    _write_launch(out_dir, "dpo", num_rows=num_rows)
    return num_rows


def _export_openrlhf(paths: list[Path], out_dir: Path, chosen: _Format) -> int:
    if set(pq.read_schema(paths[0]).names) >= openrlhf.PAIR_COLUMNS:
        return export_preferences(paths, out_dir)
    out_dir = _openrlhf_folder(out_dir)
    is_multiturn = False

    def items() -> Iterator[dict[str, Any]]:
        nonlocal is_multiturn
        for row in _rows(paths):
            is_multiturn = is_multiturn or sum(message.role == "assistant" for message in row.messages) > 1
            yield chosen.write(row)

    num_rows = _write_items(items(), out_dir / openrlhf.TRAIN_FILE)
    _write_launch(out_dir, "sft", num_rows=num_rows, is_multiturn=is_multiturn)
    return num_rows


def _openrlhf_folder(out_dir: str | Path) -> Path:
    out_dir = Path(out_dir)
    if out_dir.suffix in (".json", ".jsonl") or (out_dir.exists() and not out_dir.is_dir()):
        raise ConfigError(f"openrlhf writes a folder (data, launch.sh, runtime_env.yaml), and {out_dir} names a file; give a folder")
    return out_dir


def _write_launch(out_dir: Path, task: openrlhf.Task, *, num_rows: int, is_multiturn: bool = False) -> None:
    script = openrlhf.launch_script(task, num_rows=num_rows, is_multiturn=is_multiturn)
    for name, text, mode in ((openrlhf.LAUNCH_FILE, script, 0o755), (openrlhf.RUNTIME_ENV_FILE, openrlhf.runtime_env(task), 0o644)):
        with _replacing(out_dir / name, mode) as file:
            file.write(text.encode())


def _write_items(items: Iterable[Mapping[str, Any]], out_path: Path) -> int:
    is_array = out_path.suffix == ".json"
    num_rows = 0
    with _replacing(out_path) as file:
        for item in items:
            if is_array:
                file.write(b",\n" if num_rows else b"[\n")
            file.write(orjson.dumps(item) + (b"" if is_array else b"\n"))
            num_rows += 1
        if not num_rows:
            raise RecordError(f"{out_path}: its input files hold no row; nothing to export")
        if is_array:
            file.write(b"\n]\n")
    return num_rows


@contextmanager
def _replacing(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` once it is whole; after an error ``path`` is as it was."""
    temporary = _made(path.parent) / f".{path.name}.{uuid.uuid4().hex}"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # what the umask takes away stays away
        try:
            yield file
            file.close()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read_export(path: str | Path, format: str) -> Iterator[Conversation]:
    """The conversations of an exported file, or of the folder of an ``openrlhf`` export, in order.

    Raises:
        ConfigError: no such format.
        RecordError: a line is not of that format.
    """
    chosen, path = _format(format), Path(path)
    if path.is_dir():
        path /= openrlhf.TRAIN_FILE
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


def _pair_items(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows with the name they have in errors."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            columns = [name for name in ("prompt", "messages", "chosen", "rejected") if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
            for number, item in enumerate((item for batch in batches for item in batch.to_pylist()), start=1):
                yield f"{path}: record {number}", item
        return
    for number, item in enumerate(_items(path), start=1):
        if not isinstance(item, Mapping):
            raise RecordError(f"{path}: record {number} is a {type(item).__name__}, not an object with chosen and rejected")
        yield f"{path}: record {number}", item


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
