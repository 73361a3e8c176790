"""Which tokens of two answers differ: the masks that BMC's token weights stand on (thesis 6.2.2, Eq. 6.5 and 6.6)."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alignray.dedup.hashing import compiled

Diff = Literal["levenshtein", "difflib"]
"""levenshtein: a shortest edit script; difflib (the authors' code): longest blocks first, popular tokens no anchors."""


def edited_masks(
    chosen_ids: Sequence[int], rejected_ids: Sequence[int], *, diff: Diff = "levenshtein", never: frozenset[int] = frozenset(),
) -> tuple[list[int], list[int]]:
    """1 for every token of either answer that the other has not got in its place, 0 elsewhere.

    Of several shortest edit scripts that one counts which a walk back from the ends of both finds when it prefers a match or
    a replacement, then a token that only ``chosen`` has, then one that only ``rejected`` has.

    Source: BMC, arXiv:2408.07471, Levenshtein over the response. The authors' code takes ``difflib`` over prompt, response and
    padding, so that its masks depend on the batch; here ``difflib`` sees the responses alone.

    Args:
        chosen_ids, rejected_ids: token ids below 2**63; sequences or integer arrays.
        never: ids that are not marked; the authors leave out the stop words that are one token.
    """
    if diff == "difflib":
        chosen_mask, rejected_mask = _difflib_masks(chosen_ids, rejected_ids)
    else:
        masks = _levenshtein_masks(_as_array(chosen_ids), _as_array(rejected_ids))
        chosen_mask, rejected_mask = (list(mask.tobytes()) for mask in masks)
    if never:
        chosen_mask = [mark if token not in never else 0 for mark, token in zip(chosen_mask, chosen_ids, strict=True)]
        rejected_mask = [mark if token not in never else 0 for mark, token in zip(rejected_mask, rejected_ids, strict=True)]
    return chosen_mask, rejected_mask


def _as_array(ids: Sequence[int]) -> npt.NDArray[np.int64]:
    if isinstance(ids, np.ndarray):
        return ids.astype(np.int64)
    return np.frombuffer(array("q", ids), np.int64)  # three times as fast as np.array for a list


def _difflib_masks(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[list[int], list[int]]:
    chosen_mask, rejected_mask = [0] * len(chosen), [0] * len(rejected)
    matcher = difflib.SequenceMatcher(None, rejected, chosen)
    for _, start, stop, other_start, other_stop in (code for code in matcher.get_opcodes() if code[0] != "equal"):
        rejected_mask[start:stop] = [1] * (stop - start)
        chosen_mask[other_start:other_stop] = [1] * (other_stop - other_start)
    return chosen_mask, rejected_mask


@compiled
def _levenshtein_masks(chosen: Any, rejected: Any) -> Any:
    """Both masks as uint8. D is the table of edit distances between beginnings: rows are chosen's tokens, columns rejected's.

    What both answers begin and end with is not computed: the walk back crosses the common end along the diagonal, and
    beside the common beginning D[i, j] is the difference of i and j.
    """
    num_rows, num_columns = len(chosen), len(rejected)
    row_mask, column_mask = np.zeros(num_rows, np.uint8), np.zeros(num_columns, np.uint8)
    start = 0
    while start < min(num_rows, num_columns) and chosen[start] == rejected[start]:
        start += 1
    row, column = num_rows, num_columns
    while row > start and column > start and chosen[row - 1] == rejected[column - 1]:
        row -= 1
        column -= 1
    if row > start and column > start:
        up, down, right, left = _deltas(chosen[start:row], rejected[start:column])
        while row > start and column > start:
            word, bit = (row - start - 1) >> 6, np.uint64((row - start - 1) & 63)
            place = column - start - 1
            if chosen[row - 1] == rejected[column - 1]:
                row -= 1
                column -= 1
                continue
            # D[row, column] - D[row - 1, column], and D[row - 1, column] - D[row - 1, column - 1]
            vertical = int((up[place, word] >> bit) & 1) - int((down[place, word] >> bit) & 1)
            horizontal = 1
            if row - start > 1:
                above, above_bit = (row - start - 2) >> 6, np.uint64((row - start - 2) & 63)
                horizontal = int((right[place, above] >> above_bit) & 1) - int((left[place, above] >> above_bit) & 1)
            if vertical + horizontal == 1:
                row -= 1
                column -= 1
                row_mask[row] = column_mask[column] = 1
            elif vertical == 1:
                row -= 1
                row_mask[row] = 1
            else:
                column -= 1
                column_mask[column] = 1
    while row != column:
        if row > 0 and column > 0 and chosen[row - 1] == rejected[column - 1]:
            row -= 1
            column -= 1
        elif row > column:
            row -= 1
            row_mask[row] = 1
        else:
            column -= 1
            column_mask[column] = 1
    return row_mask, column_mask


@compiled
def _deltas(rows: Any, columns: Any) -> Any:
    """Steps of the distance table, 64 rows to a word, each [columns, words]: down a column +1 and -1, along a row +1 and -1.

    Source: Hyyro, A bit-vector algorithm for computing Levenshtein and Damerau edit distances (2003), in blocks.
    """
    num_rows, num_columns = len(rows), len(columns)
    num_words = (num_rows + 63) >> 6
    one, all_ones = np.uint64(1), ~np.uint64(0)
    # open addressing, at most half full: every distinct id of the rows gets a number, and a row of bits where it stands
    size = 2
    while size < 2 * num_rows:
        size *= 2
    table = np.full(size, -1, np.int64)
    keys = np.empty(num_rows, np.int64)
    equal = np.zeros((num_rows + 1, num_words), np.uint64)  # the last: of ids that no row has
    num_keys = 0
    for row in range(num_rows):
        slot = _slot(rows[row], table, keys)
        if table[slot] < 0:
            table[slot], keys[num_keys] = num_keys, rows[row]
            num_keys += 1
        equal[table[slot], row >> 6] |= one << np.uint64(row & 63)
    up, down = np.empty((num_columns, num_words), np.uint64), np.empty((num_columns, num_words), np.uint64)
    right, left = np.empty((num_columns, num_words), np.uint64), np.empty((num_columns, num_words), np.uint64)
    for place in range(num_columns):
        number = table[_slot(columns[place], table, keys)]
        carry_right, carry_left = one, np.uint64(0)  # the row above the first grows by one a column
        for word in range(num_words):
            before_up = up[place - 1, word] if place else all_ones
            before_down = down[place - 1, word] if place else np.uint64(0)
            match = equal[number, word] | carry_left
            zero = (((match & before_up) + before_up) ^ before_up) | match | before_down
            along = before_down | ~(zero | before_up)
            back = zero & before_up
            right[place, word], left[place, word] = along, back
            shifted, shifted_back = (along << one) | carry_right, (back << one) | carry_left
            carry_right, carry_left = along >> np.uint64(63), back >> np.uint64(63)
            up[place, word] = shifted_back | ~(zero | shifted)
            down[place, word] = zero & shifted
    return up, down, right, left


@compiled
def _slot(token: int, table: Any, keys: Any) -> int:
    """Where the token stands in the table, or the free place for it."""
    slot = (token * 0x9E3779B1 >> 15) & (len(table) - 1)
    while table[slot] >= 0 and keys[table[slot]] != token:
        slot = (slot + 1) & (len(table) - 1)
    return slot
