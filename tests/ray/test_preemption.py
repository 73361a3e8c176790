"""A node that is about to be taken away: training writes a checkpoint when Ray announces it, once, and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignray.train.tiny import write_tiny_model
from tests.ray.conftest import ROOT
from tests.ray.test_training import curve, settings

STEPS = 60
ANNOUNCED = """
import json, subprocess, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from rich.console import Console

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
node = cluster.add_node(num_cpus=3)
cluster.wait_for_nodes()

from alignray.pipelines.train import train
from alignray.pipelines.train_config import TrainJobConfig

config = TrainJobConfig.model_validate(json.loads(sys.argv[1]) | {"runtime": {"address": cluster.address}})
metrics = Path(config.run_dir) / "metrics.jsonl"

def announce():
    while not metrics.exists() or '"kind":"train"' not in metrics.read_text():
        time.sleep(0.1)
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address, "--node-id", node.node_id,
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot reclaim", "--deadline-remaining-seconds", "600"],
        check=True, capture_output=True,
    )

threading.Thread(target=announce, daemon=True).start()
outcome = train(config, console=Console(quiet=True))
print("ENDED", outcome.status)
"""


@pytest.mark.slow  # a cluster of its own, and a node drained
def test_an_announced_preemption_brings_one_checkpoint(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny", hidden_size=32)
    config = settings(
        tmp_path / "run", tiny, tmp_path / "store", epochs=100, max_steps=STEPS, checkpoint_every_steps=10 * STEPS, log_every_steps=1,
        eval={"every_steps": 10 * STEPS, "kl_rows": 0, "watch_rows": 0},
    )
    done = subprocess.run(
        [sys.executable, "-c", ANNOUNCED, json.dumps(config)], capture_output=True, text=True, cwd=ROOT, timeout=400, check=False,
        env={**os.environ, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"},
    )
    assert "ENDED done" in done.stdout, done.stdout + done.stderr[-3000:]
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("*/step-*"))
    assert len(checkpoints) == 2 and checkpoints[-1] == f"step-{STEPS:08d}", checkpoints
    assert max(step for _, step in curve(tmp_path / "run")) == STEPS
