"""Training without Ray: checkpoints and metrics in a local folder, one process or as many as torchrun started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from alignray.errors import ConfigError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.objectives import SFTConfig
from alignray.train.config import TrainConfig
from alignray.train.data import ExampleRows, PairRows, split_of
from alignray.train.loop import Result, train_loop
from alignray.train.reference import reference_logprobs
from alignray.train.strategies.base import Ranks, find_ranks

KEPT = 2
"""Checkpoints that stay."""


class LocalReporter:
    """Metrics into metrics.jsonl, checkpoints into checkpoints/step-N; a checkpoint appears whole or not at all."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)

    def report(self, line: dict[str, Any], checkpoint: Path | None) -> None:
        """See Reporter."""
        if self._ranks.rank == 0:
            with (self._folder / "metrics.jsonl").open("ab") as file:
                file.write(orjson.dumps(line) + b"\n")
        if checkpoint is None:
            return
        final = self._folder / "checkpoints" / f"step-{line['step']:08d}"
        aside = final.with_suffix(".tmp")
        if self._ranks.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        self._ranks.wait()
        shutil.copytree(checkpoint, aside, dirs_exist_ok=True)
        self._ranks.wait()
        if self._ranks.rank == 0:
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            for old in self._all()[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """See Reporter."""
        yield next(reversed(self._all()), None)

    def wants_checkpoint(self) -> bool:
        """See Reporter; nobody announces anything here."""
        return False

    def _all(self) -> list[Path]:
        return sorted(path for path in (self._folder / "checkpoints").iterdir() if path.suffix != ".tmp")


def train_locally(config: TrainConfig, run: str, out: Path) -> Result:
    """Train on the token table of a run folder; reference log-probabilities are computed first where they are needed.

    Raises:
        ConfigError: there is no token table in the folder.
    """
    tables = [table for _, table in CommitLog(Storage(run)).tables("tokens")]
    if not tables:
        raise ConfigError(f"{run} holds no token table; alignray train CONFIG --tokens-only makes one")
    table = pa.concat_tables(tables)
    ranks = find_ranks()
    rows, held_out = (_rows(config, split_of(table, split), ranks) for split in ("train", "eval"))
    result = train_loop(config, rows, held_out, ranks, LocalReporter(out, ranks))
    newest = sorted((out / "checkpoints").glob("step-*"))
    if ranks.rank == 0 and newest:
        shutil.rmtree(out / "model", ignore_errors=True)
        shutil.copytree(newest[-1] / "model", out / "model")
    ranks.wait()
    return result


def _rows(config: TrainConfig, table: pa.Table, ranks: Ranks) -> PairRows | ExampleRows:
    if isinstance(config.objective, SFTConfig):
        return ExampleRows(table)
    if not config.objective.needs_reference:
        return PairRows(table)
    plain, keys = PairRows(table), table.sort_by("row_id")["token_key"].to_pylist()
    mine = range(ranks.rank, len(plain), ranks.world_size)
    scored = reference_logprobs(config, [plain[position] for position in mine])
    shares = ranks.gather({keys[position]: found for position, found in zip(mine, scored, strict=True)})
    return PairRows(table, {key: found for share in shares for key, found in share.items()})
