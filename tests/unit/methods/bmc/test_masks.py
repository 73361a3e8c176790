import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.bmc.masks import edited_masks

VECTORS = json.loads((Path(__file__).parents[3] / "golden" / "bmc_masks.json").read_text())


def plain_masks(chosen: list[int], rejected: list[int]) -> tuple[list[int], list[int]]:
    """The whole table, and the walk back as the vectors state it."""
    distance = [[row + column if not row or not column else 0 for column in range(len(rejected) + 1)] for row in range(len(chosen) + 1)]
    for row, token in enumerate(chosen, start=1):
        for column, other in enumerate(rejected, start=1):
            distance[row][column] = min(
                distance[row - 1][column - 1] + (token != other), distance[row - 1][column] + 1, distance[row][column - 1] + 1,
            )
    chosen_mask, rejected_mask = [0] * len(chosen), [0] * len(rejected)
    row, column = len(chosen), len(rejected)
    while row or column:
        differ = row > 0 and column > 0 and chosen[row - 1] != rejected[column - 1]
        if row and column and distance[row][column] == distance[row - 1][column - 1] + differ:
            row, column = row - 1, column - 1
            if differ:
                chosen_mask[row] = rejected_mask[column] = 1
        elif row and distance[row][column] == distance[row - 1][column] + 1:
            row -= 1
            chosen_mask[row] = 1
        else:
            column -= 1
            rejected_mask[column] = 1
    return chosen_mask, rejected_mask


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_masks_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    expected = case["levenshtein"]["mask_w"], case["levenshtein"]["mask_l"]
    assert edited_masks(case["y_w"], case["y_l"]) == expected == plain_masks(case["y_w"], case["y_l"])
    by_difflib = edited_masks(case["y_w"], case["y_l"], diff="difflib", never=frozenset(case["stop_ids"]))
    assert by_difflib == (case["difflib"]["mask_w"], case["difflib"]["mask_l"])


few = st.lists(st.integers(0, 3), max_size=30)
many = st.lists(st.integers(-(2**40), 2**40), max_size=30)


@given(few | many, few | many)
def test_masks_are_those_of_the_whole_table(chosen: list[int], rejected: list[int]) -> None:
    assert edited_masks(chosen, rejected) == plain_masks(chosen, rejected)


@given(few, few, few, few)
def test_common_ends_change_nothing(begin: list[int], chosen: list[int], rejected: list[int], end: list[int]) -> None:
    pair = begin + chosen + end, begin + rejected + end
    assert edited_masks(*pair) == plain_masks(*pair)


@pytest.mark.parametrize("length", [63, 64, 65, 130, 300])
def test_answers_longer_than_a_machine_word(length: int) -> None:
    rng = random.Random(length)
    for num_ids in (2, 20, 5000):
        chosen = [rng.randrange(num_ids) for _ in range(length)]
        rejected = [token if rng.random() > 0.2 else rng.randrange(num_ids) for token in chosen if rng.random() > 0.1]
        assert edited_masks(chosen, rejected) == plain_masks(chosen, rejected)
        assert edited_masks(rejected, chosen) == plain_masks(rejected, chosen)


def test_arrays_are_as_good_as_lists() -> None:
    chosen, rejected = [10, 11, 12, 13, 2], [10, 14, 12, 2]
    assert edited_masks(np.array(chosen, np.int32), np.array(rejected, np.int32)) == edited_masks(chosen, rejected)  # type: ignore[arg-type]


@pytest.mark.parametrize("diff", ["levenshtein", "difflib"])
def test_ids_that_are_never_marked(diff: Any) -> None:
    assert edited_masks([1, 2, 3], [1, 4, 5], diff=diff) == ([0, 1, 1], [0, 1, 1])
    assert edited_masks([1, 2, 3], [1, 4, 5], diff=diff, never=frozenset({3, 4})) == ([0, 1, 0], [0, 0, 1])
