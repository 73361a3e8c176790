from collections import Counter

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest

from alignray.errors import RecordError
from alignray.train.config import OptimizerConfig
from alignray.train.data import PairRows, batches, share, steps_of
from alignray.train.loop import learning_rate


@hypothesis.given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), world_size=st.integers(1, 5), max_tokens=st.integers(16, 400),
)
def test_every_row_is_taken_by_one_rank_once(lengths: list[int], world_size: int, max_tokens: int) -> None:
    passes = share(np.arange(len(lengths)), lengths, world_size=world_size, max_tokens=max_tokens)
    assert len(passes) == world_size and len({len(mine) for mine in passes}) == 1
    assert Counter(position for mine in passes for one in mine for position in one) == Counter(range(len(lengths)))
    for mine in passes:
        for one in mine:
            assert len(one) <= 1 or sum(lengths[position] for position in one) <= max_tokens


def test_batches_are_a_permutation_that_the_seed_and_epoch_decide() -> None:
    first, again, next_epoch, other_seed = (batches(10, 4, epoch=epoch, seed=seed) for epoch, seed in ((0, 1), (0, 1), (1, 1), (0, 2)))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert np.concatenate(first).tolist() == np.concatenate(again).tolist() != np.concatenate(next_epoch).tolist()
    assert sorted(np.concatenate(first)) == list(range(10)) and np.concatenate(first).tolist() != np.concatenate(other_seed).tolist()


def test_steps() -> None:
    assert steps_of(10, 4, epochs=2, max_steps=None) == 6
    assert steps_of(10, 4, epochs=2, max_steps=4) == 4


def test_learning_rate_rises_and_falls() -> None:
    cosine = [learning_rate(step, 10, OptimizerConfig(learning_rate=1.0, warmup_rate=0.2)) for step in range(11)]
    assert cosine[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert cosine[6] == pytest.approx(0.5) and cosine[10] == pytest.approx(0.0)
    assert learning_rate(9, 10, OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_rate=0)) == 1.0
    assert learning_rate(5, 10, OptimizerConfig(learning_rate=1.0, schedule="linear", warmup_rate=0)) == pytest.approx(0.5)


def table(num_rows: int) -> pa.Table:
    rows = [
        {"row_id": f"{9 - number}", "token_key": f"k{number}", "prompt_ids": [1] * (number + 1), "chosen_ids": [2, 3], "rejected_ids": [2],
         "chosen_edited": [0, 1], "rejected_edited": [0]} for number in range(num_rows)
    ]
    return pa.Table.from_pylist(rows)


def test_pairs_come_in_the_order_of_their_ids_with_their_reference() -> None:
    references = {f"k{number}": (np.array([-1.0, -number], np.float32), np.array([-3.0], np.float32)) for number in range(3)}
    rows = PairRows(table(3), references)
    assert [rows[position].row_id for position in range(3)] == ["7", "8", "9"]
    assert rows[0].chosen_reference is not None and rows[0].chosen_reference.tolist() == [-1, -2]
    assert rows.lengths.tolist() == [6, 5, 4] and rows.targets.tolist() == [2, 2, 2]
    assert rows[0].chosen_edited.tolist() == [False, True]


def test_a_missing_or_short_reference_is_told() -> None:
    with pytest.raises(RecordError, match="no reference log-probabilities"):
        PairRows(table(1), {})
    with pytest.raises(RecordError, match="1 reference log-probabilities for 2 tokens"):
        PairRows(table(1), {"k0": (np.array([-1.0], np.float32), np.array([-1.0], np.float32))})
