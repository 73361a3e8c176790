"""20 steps of a tiny model: the curve is in the repository, and a change to the code must not move it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from alignray.train.config import TrainConfig
from alignray.train.data import ExampleRows, PairRows
from alignray.train.loop import train_loop
from alignray.train.strategies import Ranks
from tests.unit.train.models import random_pair, save_llama

GOLDEN = Path(__file__).parents[2] / "golden" / "train_curves.json"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"kind": "dpo", "beta": 0.1},
    "dpo_bmc": {"kind": "dpo", "beta": 0.1, "weights": {"kind": "bmc"}},
    "simpo_bmc": {"kind": "simpo", "weights": {"kind": "bmc", "delta": 2.0}},
    "sft": {"kind": "sft"},
}


class Lines:
    """A reporter that keeps lines and no checkpoints."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def report(self, line: dict[str, Any], checkpoint: Path | None) -> None:
        self.lines.append(line)

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        yield None

    def wants_checkpoint(self) -> bool:
        return False


def pair_rows(number: int = 40) -> PairRows:
    pairs = [random_pair(seed) for seed in range(number)]
    table = pa.Table.from_pylist([
        {"row_id": pair.row_id, "token_key": pair.row_id,
         **{name: getattr(pair, name).tolist() for name in ("prompt_ids", "chosen_ids", "rejected_ids")},
         "chosen_edited": pair.chosen_edited.astype(int).tolist(), "rejected_edited": pair.rejected_edited.astype(int).tolist()}
        for pair in pairs
    ])
    return PairRows(table, {pair.row_id: (pair.chosen_reference, pair.rejected_reference) for pair in pairs})  # type: ignore[misc]


def example_rows(number: int = 40) -> ExampleRows:
    rows = []
    for seed in range(number):
        pair = random_pair(seed)
        rows.append({
            "row_id": pair.row_id, "input_ids": [*pair.prompt_ids.tolist(), *pair.chosen_ids.tolist()],
            "loss_mask": [0] * len(pair.prompt_ids) + [1] * len(pair.chosen_ids),
        })
    return ExampleRows(pa.Table.from_pylist(rows))


def curve_of(model: Path, objective: dict[str, Any], **changes: Any) -> list[float]:
    config = TrainConfig.model_validate({
        "model": {"path": str(model), "dtype": "float32"}, "objective": objective, "optimizer": {"learning_rate": 5e-3}, "batch_size": 8,
        "max_tokens_per_device": 128, "epochs": 4, "checkpoint_every_steps": 1000, **changes,
    })
    reporter = Lines()
    rows = example_rows() if objective["kind"] == "sft" else pair_rows()
    train_loop(config, rows, None, Ranks(0, 1, torch.device("cpu")), reporter)
    return [line["loss"] for line in reporter.lines]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_curves_stay_where_they_are(name: str, llama: Path) -> None:
    found = curve_of(llama, OBJECTIVES[name])
    assert len(found) == 20
    assert found == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("changes", [{"layout": "padded"}, {"max_tokens_per_device": 1000}, {"max_tokens_per_device": 16}], ids=str)
def test_layout_and_number_of_passes_do_not_move_the_curve(llama: Path, changes: dict[str, Any]) -> None:
    name = "dpo_bmc"
    assert curve_of(llama, OBJECTIVES[name], **changes) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-3, abs=1e-4)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        curves = {name: [round(loss, 6) for loss in curve_of(save_llama(Path(folder)), one)] for name, one in OBJECTIVES.items()}
    GOLDEN.write_text(json.dumps(curves) + "\n")
