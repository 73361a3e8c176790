"""Filling the reference store: forward passes for those rows of the token table that no run has computed before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from alignray.errors import EngineError
from alignray.io.commits import CommitLog
from alignray.io.reference_store import Logprobs, ReferenceIndex, ReferenceStore
from alignray.io.storage import Storage
from alignray.runtime.metrics import Meter
from alignray.runtime.stages import OnPart, our_errors, scan
from alignray.runtime.tokens import TOKENS

STAGE = "reference"
MAX_LOGPROB = 1e-3
"""Rounding leaves that much above 0."""
COLUMNS = ["row_id", "token_key", "prompt_ids", "chosen_ids", "rejected_ids"]

Forward = Callable[[list[dict[str, Any]]], Sequence[tuple[Logprobs, Logprobs]]]
"""Token rows (the columns above) to float32 log-probabilities of the tokens of chosen and of rejected."""


@dataclass(frozen=True)
class ReferencePool:
    """The actors that hold the reference model."""

    make_forward: Callable[[], Forward]
    """Called once in each actor; loads the model."""
    min_actors: int = 1
    max_actors: int = 1
    cpus_per_actor: float = 1
    gpus_per_actor: float = 0
    block_rows: int = 256
    """Rows handed to an actor at a time, and of one part of the store."""


@dataclass(frozen=True)
class ReferenceFill:
    """What filling took."""

    index: ReferenceIndex
    """Of all rows of the table."""
    distinct: int
    """Rows of the table with different tokens."""
    found: int
    """Of those, the ones that were in the store."""
    computed: int
    """Rows that went through the model; 0 in a second run."""
    passes: int
    """Blocks handed to the model."""
    damaged: int
    """Parts of the store that were left out."""


def fill_store(store: ReferenceStore, pool: ReferencePool, *, root: str, on_block: OnPart) -> ReferenceFill:
    """Compute and store what the store does not have of the token table's rows. No actor starts where nothing is missing.

    A block is stored as soon as it is computed, so a killed run goes on behind it; of two runs at once both may compute a row.

    Raises:
        EngineError: the model gives a number that is none, or too few.
    """
    places = _places(root)
    known = store.index(places)
    missing = known.missing(places)
    num_passes = _compute(store, pool, {key: places[key] for key in missing}, root, on_block) if missing else 0
    index = store.index(places) if missing else known
    if still := index.missing(places):
        raise EngineError(f"{len(still):,} reference rows are missing after they were computed; look into {store.storage.root}")
    return ReferenceFill(index, len(places), len(places) - len(missing), len(missing), num_passes, len(known.damaged))


def _places(root: str) -> dict[str, tuple[str, int, int]]:
    """Part, row number and number of tokens of the first row with each key, in the order of parts."""
    parts = {}
    for table in scan(root, TOKENS, _lengths, columns=["token_key", "prompt_ids", "chosen_ids", "rejected_ids"], name="reference keys"):
        for item in table.to_pylist():
            parts[item["part"]] = (item["keys"], item["lengths"])
    places: dict[str, tuple[str, int, int]] = {}
    for name in sorted(parts):
        for row, (key, length) in enumerate(zip(*parts[name], strict=True)):
            places.setdefault(key, (name, row, length))
    return places


def _lengths(name: str, table: pa.Table, _: Any) -> pa.Table:
    lengths = sum(pc.list_value_length(table[column]).to_numpy() for column in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return pa.table({"part": [name], "keys": [table["token_key"].to_pylist()], "lengths": [lengths]})


def _compute(
    store: ReferenceStore, pool: ReferencePool, missing: dict[str, tuple[str, int, int]], root: str, on_block: OnPart,
) -> int:
    by_part: dict[str, list[tuple[int, int]]] = {}
    for part, row, length in missing.values():
        by_part.setdefault(part, []).append((length, row))
    blocks = []
    for part, rows in sorted(by_part.items()):
        rows.sort(reverse=True)  # of like length together: little padding; the longest first: what does not fit shows at once
        for start in range(0, len(rows), pool.block_rows):
            blocks.append({"part": part, "rows": [row for _, row in rows[start : start + pool.block_rows]]})
    dataset = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        _ReferenceActor, fn_constructor_args=(pool.make_forward, store, root), batch_size=1, batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors), num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor,
    )
    dataset.set_name(STAGE)
    meter = Meter(root)
    with our_errors():
        for row in dataset.iter_rows():
            meter.rows(STAGE, {"kept": row["rows"]})
            on_block(row)
    return len(blocks)


class _ReferenceActor:
    """Holds the model, and stores what it says of a block of rows."""

    def __init__(self, make_forward: Callable[[], Forward], store: ReferenceStore, root: str) -> None:
        self._forward, self._store, self._log = make_forward(), store, CommitLog(Storage(root))

    def __call__(self, batch: pa.Table) -> pa.Table:
        counts = []
        for block in batch.to_pylist():
            table = self._log.table(self._log.one(TOKENS, block["part"]), columns=COLUMNS)
            assert table is not None, "only parts with rows are listed"
            rows = table.take(block["rows"]).to_pylist()
            answers = zip(rows, self._forward(rows), strict=True)
            self._store.append([(row["token_key"], *_checked(row, answer)) for row, answer in answers])
            counts.append(len(rows))
        return pa.table({"rows": counts})


def _checked(row: dict[str, Any], answer: tuple[Logprobs, Logprobs]) -> tuple[Logprobs, Logprobs]:
    for name, logprobs in zip(("chosen", "rejected"), answer, strict=True):
        if logprobs.shape != (wanted := (len(row[f"{name}_ids"]),)):
            raise EngineError(f"row {row['row_id']}: the reference gave {logprobs.shape} numbers for {wanted[0]} tokens of {name}")
        wrong = np.flatnonzero(~(np.isfinite(logprobs) & (logprobs <= MAX_LOGPROB)))
        if len(wrong):
            raise EngineError(
                f"row {row['row_id']}: the reference gives token {wrong[0]} of {name} the log-probability {logprobs[wrong[0]]}; "
                "check the model's weights and model.dtype"
            )
    return answer
