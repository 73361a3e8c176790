"""Token rows of a run: opened once per rank, ordered by the seed, cut into batches that do not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alignray.errors import RecordError
from alignray.seeding import draw

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PairTokens:
    """One preference pair: lengths P (prompt), W (chosen), L (rejected)."""

    row_id: str
    prompt_ids: Ints
    chosen_ids: Ints
    rejected_ids: Ints
    chosen_edited: npt.NDArray[np.bool_]
    rejected_edited: npt.NDArray[np.bool_]
    chosen_reference: Floats | None = None
    """Log-probabilities under the reference model, [W]."""
    rejected_reference: Floats | None = None
    """[L]."""

    @property
    def shared(self) -> int:
        """Length of the prefix that both whole sequences have in common; each side keeps one response token of its own at least."""
        limit = max(min(len(self.chosen_ids), len(self.rejected_ids)) - 1, 0)
        differ = np.flatnonzero(self.chosen_ids[:limit] != self.rejected_ids[:limit])
        return len(self.prompt_ids) + (int(differ[0]) if len(differ) else limit)


@dataclass(frozen=True)
class ExampleTokens:
    """One example for supervised training: T tokens."""

    row_id: str
    input_ids: Ints
    loss_mask: npt.NDArray[np.bool_]
    """True where the token is a target."""


class Rows(Protocol):
    """Token rows by position."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> Any: ...
    @property
    def lengths(self) -> Ints: ...


class PairRows:
    """Pairs in the order of their row ids."""

    def __init__(self, table: pa.Table, references: Mapping[str, tuple[Floats, Floats]] | None = None) -> None:
        """Args:
            table: token rows (see ``runtime/tokens.py``).
            references: log-probabilities of chosen and rejected by token_key; None where the objective needs none.

        Raises:
            RecordError: a row has no reference, or one of another length.
        """
        self._table = table.sort_by("row_id").combine_chunks()
        self._keys = self._table["token_key"].to_pylist() if references is not None else []
        self._references = references
        self._columns = {name: _Ragged(self._table[name]) for name in (
            "prompt_ids", "chosen_ids", "rejected_ids", "chosen_edited", "rejected_edited",
        )}
        for position, key in enumerate(self._keys):
            found = references.get(key) if references is not None else None
            if found is None:
                row_id = self._table["row_id"][position]
                raise RecordError(
                    f"row {row_id} has no reference log-probabilities (token_key {key}); run alignray train again to fill the store"
                )
            for values, name in zip(found, ("chosen_ids", "rejected_ids"), strict=True):
                if len(values) != (wanted := self._columns[name].length(position)):
                    row_id = self._table["row_id"][position]
                    raise RecordError(
                        f"row {row_id}: {len(values)} reference log-probabilities for {wanted} tokens of {name}; "
                        "the store's part is damaged, take another reference.store"
                    )

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, position: int, /) -> PairTokens:
        get = {name: column[position] for name, column in self._columns.items()}
        chosen, rejected = (None, None) if self._references is None else self._references[self._keys[position]]
        prompt_ids, chosen_ids, rejected_ids = (get[name].astype(np.int64) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
        return PairTokens(
            self._table["row_id"][position].as_py(), prompt_ids, chosen_ids, rejected_ids, get["chosen_edited"].astype(bool),
            get["rejected_edited"].astype(bool), chosen, rejected,
        )

    @property
    def lengths(self) -> Ints:
        """Tokens of each pair, both sides with their prompt once: what cutting into forward passes goes by."""
        return sum((self._columns[name].lengths for name in ("prompt_ids", "chosen_ids", "rejected_ids")), np.zeros(len(self), np.int64))

    @property
    def targets(self) -> Ints:
        """Tokens of each chosen response."""
        return self._columns["chosen_ids"].lengths


class ExampleRows:
    """Examples in the order of their row ids."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.sort_by("row_id").combine_chunks()
        self._ids, self._mask = _Ragged(self._table["input_ids"]), _Ragged(self._table["loss_mask"])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, position: int, /) -> ExampleTokens:
        row_id = self._table["row_id"][position].as_py()
        return ExampleTokens(row_id, self._ids[position].astype(np.int64), self._mask[position].astype(bool))

    @property
    def lengths(self) -> Ints:
        """Tokens of each example."""
        return self._ids.lengths

    @property
    def targets(self) -> Ints:
        """Target tokens of each example; the first token of a sequence is predicted by nothing and never one."""
        return np.array([int(self._mask[position][1:].sum()) for position in range(len(self))], np.int64)


class _Ragged:
    """A list column as one flat array and offsets."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(lists, pa.ChunkedArray):  # no rows
            lists = pa.array([], lists.type)
        self._offsets = np.asarray(lists.offsets)
        self._values = np.asarray(lists.values)

    def __getitem__(self, position: int) -> npt.NDArray[Any]:
        return self._values[self._offsets[position] : self._offsets[position + 1]]

    def length(self, position: int) -> int:
        return int(self._offsets[position + 1] - self._offsets[position])

    @property
    def lengths(self) -> Ints:
        return np.diff(self._offsets).astype(np.int64)


def split_of(table: pa.Table, split: str) -> pa.Table:
    """The rows of one split."""
    return table.filter(pc.equal(table["split"], split))


def batches(num_rows: int, batch_size: int, *, epoch: int, seed: int) -> list[Ints]:
    """Positions of each global batch of an epoch, the same whatever the number of ranks; the last one may be smaller."""
    order = np.random.default_rng(draw(seed, "train", f"epoch {epoch}")).permutation(num_rows)
    return [order[start : start + batch_size] for start in range(0, num_rows, batch_size)]


def steps_of(num_rows: int, batch_size: int, *, epochs: int, max_steps: int | None) -> int:
    """Optimizer steps of a run."""
    steps = epochs * -(-num_rows // batch_size)
    return steps if max_steps is None else min(steps, max_steps)


def share(batch: Ints, lengths: Sequence[int] | Ints, *, world_size: int, max_tokens: int) -> list[list[list[int]]]:
    """Which rows each rank takes in each of its forward passes: ``[rank][pass] -> positions``.

    Longest first, each to the rank with the least work, then packed into passes of at most ``max_tokens`` (a row longer than that goes
    alone). All ranks get the same number of passes, as collectives need; those without work get an empty one.
    """
    by_length = sorted((int(position) for position in batch), key=lambda position: (-int(lengths[position]), position))
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for position in by_length:
        rank = min(range(world_size), key=lambda r: (load[r], r))
        ranks[rank].append(position)
        load[rank] += int(lengths[position])
    passes = [_packed(rows, lengths, max_tokens) for rows in ranks]
    most = max(map(len, passes))
    return [[*mine, *[[] for _ in range(most - len(mine))]] for mine in passes]


def _packed(rows: Iterable[int], lengths: Sequence[int] | Ints, max_tokens: int) -> list[list[int]]:
    """First fit, in the order given."""
    bins: list[list[int]] = []
    room: list[int] = []
    for position in rows:
        size = int(lengths[position])
        for number, left in enumerate(room):
            if size <= left:
                bins[number].append(position)
                room[number] -= size
                break
        else:
            bins.append([position])
            room.append(max_tokens - size)
    return bins
