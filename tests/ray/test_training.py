"""Training end to end on a local Ray, with a tiny random model."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rich.console import Console

from alignray.errors import ConfigError, RecordError, TrainingError
from alignray.pipelines.train import Outcome, train
from alignray.pipelines.train_config import TrainJobConfig
from alignray.train.tiny import write_tiny_model
from tests.ray.processes import finish, kill_tree, start, wait_for

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "samples" / "questions.jsonl"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", hidden_size=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def settings(run_dir: Path, tiny: Path, store: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_dir": str(run_dir), "model": {"path": str(tiny), "dtype": "float32"},
        "objective": {"kind": "dpo", "beta": 0.1, "weights": {"kind": "bmc"}},
        "input": {"paths": [str(QUESTIONS)], "eval_rate": 0.2}, "reference": {"store": str(store)},
        "optimizer": {"learning_rate": 1e-3}, "batch_size": 8, "epochs": 2, "checkpoint_every_steps": 4,
        "eval": {"every_steps": 4, "kl_rows": 4, "watch_rows": 1}, "workers": {"cpus_per_worker": 0.5}, **changes,
    }


Run = Callable[..., Outcome]


@pytest.fixture
def run_train(local_ray: None, tiny: Path, store: Path) -> Run:
    def run(run_dir: Path, **changes: Any) -> Outcome:
        return train(TrainJobConfig.model_validate(settings(run_dir, tiny, store, **changes)), console=Console(quiet=True))

    return run


def curve(run_dir: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Loss and gradient norm (or margin) by kind and step; of a step that was done twice the last."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        (line["kind"], line["step"]): (line["loss"], line.get("grad_norm", line.get("margin", 0.0)))
        for line in lines if line.get("stage") == "train" and "kind" in line
    }


def assert_same_curve(found: Path, expected: Path) -> None:
    one, other = curve(found), curve(expected)
    assert one.keys() == other.keys() and one
    for key, values in other.items():
        assert one[key] == pytest.approx(values, rel=1e-4, abs=1e-6), key


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, local_ray: None, tiny: Path, store: Path) -> tuple[Path, Outcome]:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    return run_dir, train(TrainJobConfig.model_validate(settings(run_dir, tiny, store)), console=Console(quiet=True))


def test_a_run_writes_model_metrics_and_report(finished: tuple[Path, Outcome]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir, outcome = finished
    assert outcome.status == "done"
    assert outcome.rows + outcome.eval_rows + sum(outcome.rejected.values()) == len(QUESTIONS.read_text().splitlines())
    assert outcome.layout == "shared_prefix" and outcome.reference is not None
    assert outcome.reference["computed"] == outcome.rows + outcome.eval_rows
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "model")
    hello = [{"role": "user", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(hello, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert model.generate(**ids, max_new_tokens=3).shape[1] == ids["input_ids"].shape[1] + 3
    found = curve(run_dir)
    assert ("eval", 0) in found and found["train", 1][0] == pytest.approx(0.6931, abs=1e-3)  # equal policies: log 2
    assert (run_dir / "report.html").stat().st_size > 1000 and (run_dir / "README.md").exists()
    (first,) = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines() if '"watched"' in line][:1]
    watched = first["watched"][0]["chosen"]
    assert len(watched["ids"]) == len(watched["weights"]) == len(watched["reference"])
    for side in (first["watched"][0]["chosen"], first["watched"][0]["rejected"]):
        assert [weight > 1 for weight in side["weights"]] == side["edited"]
    assert any(first["watched"][0]["rejected"]["edited"])


def test_a_second_run_asks_the_reference_model_nothing(finished: tuple[Path, Outcome], run_train: Run, tmp_path: Path) -> None:
    run_dir, first = finished
    outcome = run_train(tmp_path / "run")
    assert outcome.reference is not None and outcome.reference["computed"] == 0 and outcome.reference["passes"] == 0
    assert_same_curve(tmp_path / "run", run_dir)
    again = run_train(tmp_path / "run")  # finished: nothing is trained again
    assert again.metrics == outcome.metrics and again.steps == first.steps


def test_ranks_and_strategies_give_the_same_curve(finished: tuple[Path, Outcome], run_train: Run, tmp_path: Path) -> None:
    run_train(tmp_path / "run", workers={"num_workers": 2, "cpus_per_worker": 0.5}, max_tokens_per_device=600)
    assert_same_curve(tmp_path / "run", finished[0])


def test_a_killed_rank_costs_nothing(run_train: Run, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"workers": {"num_workers": 2, "cpus_per_worker": 0.5}, "epochs": 6, "checkpoint_every_steps": 4}
    run_train(tmp_path / "calm", **changes)
    killed: list[int] = []
    hunter = threading.Thread(target=_kill_a_rank_after, args=(tmp_path / "struck", 6, killed), daemon=True)
    hunter.start()
    outcome = run_train(tmp_path / "struck", **changes)
    hunter.join(timeout=5)
    assert killed and outcome.status == "done"
    assert_same_curve(tmp_path / "struck", tmp_path / "calm")


def _kill_a_rank_after(run_dir: Path, step: int, killed: list[int]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists() and ("train", step) in curve(run_dir):
            ranks = [process for process in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])]
            if ranks:
                os.kill(ranks[0].pid, signal.SIGKILL)
                killed.append(ranks[0].pid)
                return
        time.sleep(0.02)


@pytest.mark.slow  # a killed rank goes on from its checkpoint in make test
def test_a_killed_driver_goes_on_from_its_checkpoint(run_train: Run, tiny: Path, store: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path, tiny, store, epochs=6) | {"runtime": {"num_cpus": 2}}))
    run_train(tmp_path / "calm", epochs=6)
    process = start(config, tmp_path / "struck", method="train")
    wait_for(lambda: _has_checkpoint(tmp_path / "struck"), process)
    kill_tree(process)
    assert not _has_step(tmp_path / "struck", 12), "the run ended before it was struck"
    before = len((tmp_path / "struck" / "metrics.jsonl").read_text().splitlines())
    finish(start(config, tmp_path / "struck", method="train"))
    again = (tmp_path / "struck" / "metrics.jsonl").read_text().splitlines()[before:]
    assert min(json.loads(line)["step"] for line in again if '"kind":"train"' in line) > 1  # not from the start
    assert json.loads((tmp_path / "struck" / "manifest.json").read_text())["status"] == "done"
    assert_same_curve(tmp_path / "struck", tmp_path / "calm")


def _has_checkpoint(run_dir: Path) -> bool:
    """Ray writes down a checkpoint some two seconds after it was told of it."""
    snapshot = run_dir / "training" / "checkpoint_manager_snapshot.json"
    return snapshot.exists() and "step-0" in snapshot.read_text()


def _has_step(run_dir: Path, step: int) -> bool:
    return (run_dir / "metrics.jsonl").exists() and ("train", step) in curve(run_dir)


def test_sft_with_adapters(run_train: Run, tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {word}", "response": word} for word in ("sea", "tide", "moon", "sand", "gull", "salt")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run_train(
        tmp_path / "run", objective={"kind": "sft"}, input={"paths": [str(tmp_path / "rows.jsonl")], "eval_rate": 0.0},
        batch_size=3, epochs=6,
        model={"path": str(tiny), "dtype": "float32", "lora": {"rank": 4, "alpha": 8}}, optimizer={"learning_rate": 1e-2},
    )
    assert outcome.reference is None and outcome.layout == "packed"
    losses = [values[0] for (kind, _), values in sorted(curve(tmp_path / "run").items()) if kind == "train"]
    assert losses[-1] < losses[0] - 0.1
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny)


def test_a_loss_that_is_no_number_stops_the_run_with_its_rows(run_train: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: the (loss of row [0-9a-f]{32}|gradient norm is)"):
        run_train(tmp_path / "run", optimizer={"learning_rate": 1e30, "warmup_rate": 0.0, "max_grad_norm": None})
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"


def test_what_is_wrong_is_said_before_training(run_train: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        run_train(tmp_path / "a", model={"path": str(tmp_path / "nothing")})
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 3)
    with pytest.raises(RecordError, match="chosen"):
        run_train(tmp_path / "b", input={"paths": [str(tmp_path / "rows.jsonl")]})
    (tmp_path / "same.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "b"}) + "\n")
    with pytest.raises(RecordError, match="identical_pair"):
        run_train(tmp_path / "c", input={"paths": [str(tmp_path / "same.jsonl")]})
