"""Token rows as tensors for one forward pass, padded or with shared prefixes; either way the model scores a flat list of targets.

Shapes: R rows, L positions of a row, N scored targets, B pairs or examples, T response tokens. A shared-prefix pair lies in its row as
``[prefix | chosen suffix | rejected suffix]``: both suffixes go on at the prefix's positions, and the second does not see the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray.objectives.losses import Side
from alignray.train.data import ExampleTokens, PairTokens

NOBODY = -1
"""Group of padding."""
PREFIX, CHOSEN, REJECTED = 0, 1, 2
"""Branches of a pair."""
LANES = 8
"""Rows are padded to a multiple of this."""


@dataclass(frozen=True)
class Packed:
    """What a model sees, and which of its states predict which targets."""

    input_ids_RL: Tensor
    position_ids_RL: Tensor
    group_RL: Tensor
    """Which pair or example a position belongs to; NOBODY is padding."""
    branch_RL: Tensor
    """PREFIX, CHOSEN or REJECTED."""
    state_N: Tensor
    """Flat position (row * L + column) whose hidden state predicts a target."""
    target_N: Tensor
    is_causal: bool
    """Nothing but padding at the end of rows hides anything: plain causal attention is right without a mask."""
    sides: tuple[SideLayout, ...]
    """Chosen and rejected of pairs; one for examples."""

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return int((self.group_RL != NOBODY).sum())

    def to(self, device: torch.device | str) -> Packed:
        """The same on a device."""
        names = ("input_ids_RL", "position_ids_RL", "group_RL", "branch_RL", "state_N", "target_N")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, sides=tuple(side.to(device) for side in self.sides))


@dataclass(frozen=True)
class SideLayout:
    """Where the responses of one side are among the N scored targets."""

    at_BT: Tensor
    """Index into the targets; 0 where the mask is False."""
    mask_BT: Tensor
    edited_BT: Tensor
    reference_BT: Tensor | None

    def to(self, device: torch.device | str) -> SideLayout:
        """The same on a device."""
        reference_BT = None if self.reference_BT is None else self.reference_BT.to(device)
        return SideLayout(self.at_BT.to(device), self.mask_BT.to(device), self.edited_BT.to(device), reference_BT)

    def side(self, logprobs_N: Tensor) -> Side:
        """The responses with the model's log-probabilities."""
        reference_BT = None if self.reference_BT is None else self.reference_BT.to(logprobs_N.dtype)
        return Side(logprobs_N[self.at_BT], self.mask_BT, self.edited_BT, reference_BT)


def attention_mask(packed: Packed) -> Tensor:
    """bool [R, 1, L, L]: True where a query (third axis) may look at a key (fourth): same group, not later, prefix or own branch."""
    group, branch = packed.group_RL, packed.branch_RL
    length = group.shape[1]
    order = torch.arange(length, device=group.device)
    same = group[:, :, None] == group[:, None, :]
    visible = (branch[:, None, :] == PREFIX) | (branch[:, :, None] == branch[:, None, :])
    return (same & visible & (order[:, None] >= order[None, :]))[:, None]


def pack_pairs(pairs: Sequence[PairTokens], *, row_tokens: int | None = None) -> Packed:
    """Pairs with shared prefixes, several to a row.

    Args:
        row_tokens: capacity of a row; None: all in one row (for kernels that skip what a mask hides). A pair longer than that sets it.
    """
    sizes = [pair.shared + _rest(pair, "chosen") + _rest(pair, "rejected") for pair in pairs]
    builder = _Builder(sizes, row_tokens)
    for number, pair in enumerate(pairs):
        row = builder.row_of[number]
        whole_w, whole_l = (np.concatenate([pair.prompt_ids, ids]) for ids in (pair.chosen_ids, pair.rejected_ids))
        shared, prompt = pair.shared, len(pair.prompt_ids)
        start = builder.put(row, number, PREFIX, whole_w[:shared], 0)
        # a state at prefix position i predicts token i + 1; the last one predicts the first of each suffix
        common = builder.score(row, start + np.arange(prompt - 1, shared - 1), whole_w[prompt:shared])
        for branch, whole in ((CHOSEN, whole_w), (REJECTED, whole_l)):
            begin = builder.put(row, number, branch, whole[shared:], shared)
            states = np.concatenate([[start + shared - 1], begin + np.arange(len(whole) - shared - 1)]).astype(np.int64)
            builder.sides[branch - CHOSEN].append(np.concatenate([common, builder.score(row, states, whole[shared:])]))
    return builder.packed(is_causal=False, sides=_pair_sides(pairs, builder.sides))


def pad_pairs(pairs: Sequence[PairTokens]) -> Packed:
    """Two rows per pair, padded at the end."""
    builder = _Builder([len(pair.prompt_ids) + len(ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)], 0)
    for number, pair in enumerate(pairs):
        for branch, ids in enumerate((pair.chosen_ids, pair.rejected_ids)):
            row = 2 * number + branch
            builder.put(row, row, PREFIX, np.concatenate([pair.prompt_ids, ids]), 0)
            builder.sides[branch].append(builder.score(row, len(pair.prompt_ids) - 1 + np.arange(len(ids)), ids))
    return builder.packed(is_causal=True, sides=_pair_sides(pairs, builder.sides))


def pack_examples(examples: Sequence[ExampleTokens], *, row_tokens: int | None = None, alone: bool = False) -> Packed:
    """Examples for supervised training, several to a row; ``alone``: one to a row, which needs no mask."""
    builder = _Builder([len(example.input_ids) for example in examples], 0 if alone else row_tokens)
    for number, example in enumerate(examples):
        row = builder.row_of[number]
        start = builder.put(row, number, PREFIX, example.input_ids, 0)
        targets = np.flatnonzero(example.loss_mask[1:]) + 1
        builder.sides[0].append(builder.score(row, start + targets - 1, example.input_ids[targets]))
    masks = [np.zeros(len(at), bool) for at in builder.sides[0]]
    return builder.packed(is_causal=alone, sides=(_side(builder.sides[0], masks, None),))


def _rest(pair: PairTokens, side: str) -> int:
    return len(pair.prompt_ids) + len(getattr(pair, f"{side}_ids")) - pair.shared


class _Builder:
    """Rows being filled, in numpy."""

    def __init__(self, sizes: Sequence[int], row_tokens: int | None) -> None:
        self.row_of, length = _assign(sizes, row_tokens)
        length = -(-max(length, 1) // LANES) * LANES
        shape = (max(self.row_of, default=0) + 1, length)
        self._ids, self._positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._group, self._branch = np.full(shape, NOBODY, np.int64), np.zeros(shape, np.int64)
        self._used = [0] * shape[0]
        self._states: list[npt.NDArray[np.int64]] = []
        self._targets: list[npt.NDArray[np.int64]] = []
        self._scored = 0
        self.sides: tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]] = ([], [])

    def put(self, row: int, group: int, branch: int, ids: npt.NDArray[np.int64], position: int) -> int:
        """Add tokens to a row; the column they begin at."""
        start = self._used[row]
        here = slice(start, start + len(ids))
        self._ids[row, here], self._positions[row, here] = ids, position + np.arange(len(ids))
        self._group[row, here], self._branch[row, here] = group, branch
        self._used[row] += len(ids)
        return start

    def score(self, row: int, columns: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Have the states at these columns predict these targets; their numbers among all targets."""
        self._states.append(row * self._ids.shape[1] + columns.astype(np.int64))
        self._targets.append(targets)
        numbers = self._scored + np.arange(len(targets))
        self._scored += len(targets)
        return numbers

    def packed(self, *, is_causal: bool, sides: tuple[SideLayout, ...]) -> Packed:
        states, targets = (np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in (self._states, self._targets))
        ids, positions, group, branch, state, target = map(
            torch.from_numpy, (self._ids, self._positions, self._group, self._branch, states, targets),
        )
        return Packed(ids, positions, group, branch, state, target, is_causal, sides)


def _assign(sizes: Sequence[int], row_tokens: int | None) -> tuple[list[int], int]:
    """Row of each item, and the length of rows. Capacity None: one row; 0: a row each; else first fit, longest first."""
    if row_tokens == 0:
        return list(range(len(sizes))), max(sizes, default=0)
    if row_tokens is None:
        return [0] * len(sizes), sum(sizes)
    capacity = max(row_tokens, *sizes) if sizes else row_tokens
    rows: list[int] = [0] * len(sizes)
    used: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        row = next((row for row, taken in enumerate(used) if taken + sizes[number] <= capacity), len(used))
        if row == len(used):
            used.append(0)
        rows[number] = row
        used[row] += sizes[number]
    return rows, max(used, default=0)


def _pair_sides(pairs: Sequence[PairTokens], at: tuple[list[npt.NDArray[np.int64]], ...]) -> tuple[SideLayout, ...]:
    has_reference = all(pair.chosen_reference is not None for pair in pairs)
    return (
        _side(at[0], [pair.chosen_edited for pair in pairs], [pair.chosen_reference for pair in pairs] if has_reference else None),
        _side(at[1], [pair.rejected_edited for pair in pairs], [pair.rejected_reference for pair in pairs] if has_reference else None),
    )


def _side(at: Sequence[npt.NDArray[np.int64]], edited: Sequence[npt.NDArray[np.bool_]], reference: Sequence[Any] | None) -> SideLayout:
    lengths = np.array([len(row) for row in at], np.int64)
    shape = (len(at), max(int(lengths.max(initial=0)), 1))
    mask = np.arange(shape[1]) < lengths[:, None]

    def filled(rows: Sequence[Any], dtype: Any) -> Tensor:
        out = np.zeros(shape, dtype)
        if len(rows):
            out[mask] = np.concatenate([np.asarray(row, dtype) for row in rows])
        return torch.from_numpy(out)

    return SideLayout(
        filled(at, np.int64), torch.from_numpy(mask), filled(edited, np.bool_),
        None if reference is None else filled(reference, np.float32),
    )
