"""What a run folder holds, read for its report and its card. Anything that is missing or torn reads as not available."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from alignray.errors import RecordError
from alignray.schema import InstructionRow, Rejected, records_of
from alignray.seeding import draw

logger = logging.getLogger(__name__)

Record = TypeVar("Record")

MAX_REASONS = 200


@dataclass(frozen=True)
class RejectReason:
    """How often a step turned records down for one reason, with one of them."""

    step: str
    reason: str
    count: int
    example: Rejected | None


@dataclass(frozen=True)
class RunFolder:
    """A run folder as its files stand now."""

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    analysis: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return str(self.manifest.get("name") or self.path.resolve().name)

    @property
    def seed(self) -> int:
        seed = self.config.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    def tables(self, folder: str) -> list[Path]:
        """The whole parquet files of a folder, in name order."""
        return _readable((self.path / folder).glob("*.parquet"))

    def part_paths(self) -> list[Path]:
        return self.tables("parts")

    def json_part_paths(self) -> list[Path]:
        """Part files of JSON lines; dedup writes them where its input was such."""
        return sorted((self.path / "parts").glob("*.jsonl"))

    def reject_paths(self) -> list[Path]:
        return self.tables("rejects")


def read_run(run_dir: str | Path) -> RunFolder:
    """The small files of a run folder.

    Raises:
        RecordError: the folder has neither a config nor a manifest.
    """
    path = Path(run_dir)
    if not (path / "config.yaml").exists() and not (path / "manifest.json").exists():
        raise RecordError(f"{path}: no config.yaml and no manifest.json, so this is no run folder; name the folder of a run")
    config_text = _text(path / "config.yaml")
    try:
        config = yaml.safe_load(config_text)
    except yaml.YAMLError as err:
        logger.warning("%s: config.yaml is not YAML (%s); the report goes without it", path, err)
        config = None
    return RunFolder(
        path=path,
        manifest=_json(path / "manifest.json"),
        config=config if isinstance(config, dict) else {},
        config_text=config_text,
        analysis=_json(path / "analysis.json"),
        metrics=tuple(_json_lines(path / "metrics.jsonl")),
    )


def write_whole(path: Path, text: str) -> Path:
    """Replace a file by ``text``, so that a reader sees the old one or the new one, and return its path."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(text.encode("utf-8", "replace"))
    temporary.replace(path)
    return path


def lookup(data: Any, *keys: str) -> Any:
    """Value under nested keys, or None when any of them is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def count_column(paths: Iterable[Path], column: str) -> Counter[str]:
    """How often each value of a text column occurs, read batch by batch."""
    counts: Counter[str] = Counter()
    for batch in batches(paths, [column]):
        for item in pc.value_counts(batch.column(column)).to_pylist():
            counts[item["values"]] += item["counts"]
    return counts


def num_rows(paths: Iterable[Path]) -> int:
    """Rows in part files: from the footers of parquet files, the lines of others."""
    return sum(pq.read_metadata(path).num_rows if path.suffix == ".parquet" else _num_lines(path) for path in paths)


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(partial(file.read, 1 << 20), b""))


def sample_rows(run: RunFolder, count: int) -> list[InstructionRow]:
    """Seeded choice of ``count`` rows, shared evenly among the branches; the same rows whatever the parts are called."""
    best: dict[str, list[tuple[int, str, Path]]] = {}
    for path, branch, row_id in _ids(run.part_paths()):
        heap = best.setdefault(branch, [])
        item = (-draw(run.seed, row_id, "report/sample"), row_id, path)
        if len(heap) < count:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)
    queues = [sorted(heap) for _, heap in sorted(best.items())]  # the least draw is last
    chosen: list[tuple[str, Path]] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop()[1:])
    rows = {row.row_id: row for row in _fetch(InstructionRow, chosen)}
    return [rows[row_id] for row_id, _ in chosen]


def reject_reasons(run: RunFolder) -> list[RejectReason]:
    """Reasons by falling count, each with its record of least id; the ``MAX_REASONS`` most frequent ones."""
    counts: Counter[tuple[str, str]] = Counter()
    least: dict[tuple[str, str], tuple[str, Path]] = {}
    for path in run.reject_paths():
        for batch in batches([path], ["step", "reason", "row_id"]):
            grouped = pa.Table.from_batches([batch]).group_by(["step", "reason"])
            for item in grouped.aggregate([("row_id", "count"), ("row_id", "min")]).to_pylist():
                key, found = (item["step"], item["reason"]), (item["row_id_min"], path)
                counts[key] += item["row_id_count"]
                least[key] = min(least.get(key, found), found)
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_REASONS]
    records = _fetch(Rejected, [least[key] for key, _ in top])
    examples = {(record.step, record.reason, record.row_id): record for record in records}
    return [
        RejectReason(step, reason, count, examples.get((step, reason, least[step, reason][0])))
        for (step, reason), count in top
    ]


def _readable(paths: Iterable[Path]) -> list[Path]:
    """The files whose footer is there, in name order; a file that is being written or was torn by a kill is left out."""
    found = []
    for path in sorted(paths):
        try:
            pq.read_metadata(path)
            found.append(path)
        except (pa.ArrowInvalid, OSError) as err:
            logger.warning("%s: not a whole parquet file (%s); the report goes without it", path, err)
    return found


def _ids(paths: Iterable[Path]) -> Iterator[tuple[Path, str, str]]:
    for path in paths:
        for batch in batches([path], ["branch", "row_id"]):
            for branch, row_id in zip(batch.column("branch").to_pylist(), batch.column("row_id").to_pylist(), strict=True):
                yield path, branch, row_id


def _fetch(cls: type[Record], places: Iterable[tuple[str, Path]]) -> Iterator[Record]:
    """Whole records by (row id, file); only these files are read."""
    by_path: dict[Path, list[str]] = {}
    for row_id, path in places:
        by_path.setdefault(path, []).append(row_id)
    for path, row_ids in by_path.items():
        wanted = pa.array(row_ids, type=pa.string())
        for batch in batches([path], None):
            found = batch.filter(pc.is_in(batch.column("row_id"), value_set=wanted))
            if found.num_rows:
                yield from records_of(cls, pa.Table.from_batches([found]))


def batches(paths: Iterable[Path], columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """The content of parquet files, little by little; ``columns`` None: all of them."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=4096 if columns else 512, columns=columns)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as err:
        logger.warning("%s: not JSON (%s); the report goes without it", path, err)
        return {}
    return value if isinstance(value, dict) else {}


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:  # the last line of a run that is being written or was killed
                continue
            if isinstance(value, dict):
                yield value
