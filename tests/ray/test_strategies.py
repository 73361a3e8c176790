"""Two gloo ranks under torchrun: every strategy walks the same curve, and goes on from its own checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from tests.unit.train.models import random_pair, save_llama

STRATEGIES = {
    "ddp": {"kind": "ddp"}, "zero0": {"kind": "deepspeed", "zero_stage": 0}, "zero1": {"kind": "deepspeed", "zero_stage": 1},
    "zero2": {"kind": "deepspeed", "zero_stage": 2}, "zero3": {"kind": "deepspeed", "zero_stage": 3}, "fsdp2": {"kind": "fsdp2"},
}
STEPS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a token table."""
    folder = tmp_path_factory.mktemp("strategies")
    save_llama(folder / "model")
    rows = [
        {"row_id": pair.row_id, "token_key": pair.row_id, "split": "eval" if number % 6 == 0 else "train",
         **{name: getattr(pair, name).tolist() for name in ("prompt_ids", "chosen_ids", "rejected_ids")},
         "chosen_edited": pair.chosen_edited.astype(int).tolist(), "rejected_edited": pair.rejected_edited.astype(int).tolist()}
        for number, pair in enumerate(map(random_pair, range(28)))
    ]
    table = pa.Table.from_pylist(rows)
    CommitLog(Storage(str(folder / "run"))).write("tokens", "part", {"rows": ("stages/tokens", table)}, Counter())
    return folder


def torchrun(world: Path, out: Path, strategy: dict[str, object], *, ranks: int) -> list[tuple[int, float, float]]:
    """Train; step, loss and gradient norm of each step."""
    config = world / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump({
        "model": {"path": str(world / "model"), "dtype": "float32"}, "objective": {"kind": "dpo", "beta": 0.1, "weights": {"kind": "bmc"}},
        "optimizer": {"learning_rate": 2e-3}, "strategy": strategy, "batch_size": 8, "max_tokens_per_device": 64, "epochs": 2,
        "checkpoint_every_steps": 3, "eval": {"every_steps": 3, "kl_rows": 2},
    }))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "alignray.train",
         str(config), str(world / "run"), str(out)],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "train"]


def flat(curve: list[tuple[int, float, float]]) -> list[float]:
    return [float(number) for line in curve for number in line]


@pytest.fixture(scope="module")
def alone(world: Path) -> list[tuple[int, float, float]]:
    curve = torchrun(world, world / "alone", {"kind": "ddp"}, ranks=1)
    assert [step for step, *_ in curve] == list(range(1, STEPS + 1))
    return curve


SLOW = ("zero0", "zero1", "zero2")
"""`make test` runs ddp, zero3 and fsdp2; these three are in `make test-slow`."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in STRATEGIES])
def test_two_ranks_walk_the_curve_of_one_and_go_on_from_a_checkpoint(world: Path, alone: list[tuple[int, float, float]], name: str) -> None:
    out = world / name
    assert flat(torchrun(world, out, STRATEGIES[name], ranks=2)) == pytest.approx(flat(alone), rel=1e-4)
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(out / "model")
    if name in ("zero0", "zero1"):
        return  # their checkpoints are those of zero2
    shutil.rmtree(out / "checkpoints" / f"step-{STEPS:08d}")
    again = torchrun(world, out, STRATEGIES[name], ranks=2)[STEPS:]
    assert flat(again) == pytest.approx(flat(alone[3:]), rel=1e-4)
