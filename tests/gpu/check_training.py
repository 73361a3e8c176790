# ruff: noqa: T201, E402
"""The training core on a bare CUDA machine: bf16 steps, FlexAttention over shared prefixes, speed and memory.

    pip install torch transformers pydantic orjson pyarrow        # transformers brings numpy and PyYAML; no Ray, no DeepSpeed, no peft
    python tests/gpu/check_training.py [--quick] [--model FOLDER]

It imports alignray.objectives, alignray.train and what those stand on, from the checkout it lies in; a CUDA build of torch brings Triton,
which FlexAttention needs. Without --model, a random Llama of 0.5 billion parameters is made in a temporary folder; nothing is downloaded.
It checks

    flex       FlexAttention over shared prefixes against two padded rows a pair, float32, three steps: losses and gradient norms to 1e-3
    bf16       the same in bf16, first step, to 5 %; and a few steps lower the loss
    step       DPO-BMC over DPO, seconds a step (mark 1.01)
    layouts    shared prefixes over padded rows, seconds a step and peak memory, on bridged-like pairs
    logprobs   chunked log-probabilities against log_softmax at a vocabulary of 128,000: peak memory and difference

and prints a table, then one JSON line. Exit status: 0 all well, 1 a check fails, 2 no CUDA device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow as pa
import torch

from alignray.objectives import token_logprobs
from alignray.train.config import TrainConfig
from alignray.train.data import PairRows
from alignray.train.loop import _layout, _Trainer
from alignray.train.reference import reference_logprobs
from alignray.train.strategies import Ranks, build_strategy

STEP_MARK = 1.01
VOCABULARY = 32_000


def save_model(folder: Path, *, is_small: bool) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    if not is_small:
        sizes = {"hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 22, "num_attention_heads": 20}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, num_key_value_heads=sizes["num_attention_heads"] // 4, tie_word_embeddings=True,
        max_position_embeddings=4096, **sizes,
    )).save_pretrained(folder)
    return folder


def token_table(number: int, length: int, vocabulary: int) -> pa.Table:
    """Bridged-like pairs of about ``length`` tokens a side: from a third of the response on, one token in 12 is replaced."""
    rng = np.random.default_rng(0)
    rows = []
    for place in range(number):
        prompt, rejected = (rng.integers(0, vocabulary, rng.integers(length // 4, length // 2)) for _ in range(2))
        replaced = (rng.random(len(rejected)) < 1 / 12) & (np.arange(len(rejected)) > len(rejected) // 3)
        replaced[-2] = True
        chosen = np.where(replaced, (rejected + 1) % vocabulary, rejected)
        marks = replaced.astype(int).tolist()
        rows.append({
            "row_id": f"{place:06d}", "token_key": f"{place:06d}", "prompt_ids": prompt.tolist(), "chosen_ids": chosen.tolist(),
            "rejected_ids": rejected.tolist(), "chosen_edited": marks, "rejected_edited": marks,
        })
    return pa.Table.from_pylist(rows)


class Bench:
    """Trainers of one model over one set of pairs."""

    def __init__(self, model: Path, table: pa.Table, batch_size: int) -> None:
        self.model, self.batch_size, self.per_epoch = model, batch_size, len(table) // batch_size
        self.ranks = Ranks(0, 1, torch.device("cuda", torch.cuda.current_device()))
        plain = PairRows(table)
        found = reference_logprobs(self.config("float32", "padded", "none"), [plain[place] for place in range(len(plain))])
        # off by a wave, so that the first loss is not log 2 whatever the policy computes
        known = [tuple(values + 0.1 * np.sin(np.arange(len(values)) + place, dtype=np.float32) for values in pair)
                 for place, pair in enumerate(found)]
        self.rows = PairRows(table, dict(zip(table["token_key"].to_pylist(), known, strict=True)))

    def config(self, dtype: str, layout: str, weights: str, *, learning_rate: float = 1e-5) -> TrainConfig:
        return TrainConfig.model_validate({
            "model": {"path": str(self.model), "dtype": dtype}, "objective": {"kind": "dpo", "beta": 0.1, "weights": {"kind": weights}},
            "batch_size": self.batch_size, "layout": layout, "max_tokens_per_device": 16384,
            "optimizer": {"learning_rate": learning_rate, "schedule": "constant", "warmup_rate": 0},
        })

    def trainer(self, config: TrainConfig) -> _Trainer:
        strategy = build_strategy(config, self.ranks)
        layout, why = _layout(config, self.ranks, strategy, True)
        if layout != config.layout:
            raise SystemExit(f"layout {config.layout} is not possible here: {why}")
        return _Trainer(config, self.ranks, strategy, layout, why)

    def steps(self, config: TrainConfig, number: int) -> tuple[list[dict[str, Any]], list[float], float]:
        """(lines of metrics, seconds of each step, peak GiB) of a fresh trainer; the first two steps warm up and are not timed."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        trainer = self.trainer(config)
        lines, seconds = [], []
        for step in range(number + 2):
            lines.append(self.step(trainer, step, seconds))
        return lines, seconds[2:], torch.cuda.max_memory_allocated() / 2**30

    def step(self, trainer: _Trainer, step: int, seconds: list[float]) -> dict[str, Any]:
        first = step % self.per_epoch * self.batch_size
        torch.cuda.synchronize()
        started = time.perf_counter()
        line = trainer.step(self.rows, np.arange(first, first + self.batch_size), step, 10**6)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        return line


def apart(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """The largest relative difference of losses and gradient norms."""
    pairs = [(one[name], other[name]) for one, other in zip(ours, theirs, strict=True) for name in ("loss", "grad_norm")]
    return max(abs(one - other) / max(abs(other), 1e-9) for one, other in pairs)


def step_ratio(bench: Bench, rounds: int) -> float:
    """DPO-BMC over DPO: one model, in turn, the order turned round; median of the ratios."""
    trainers = [bench.trainer(bench.config("bfloat16", "shared_prefix", weights, learning_rate=1e-7)) for weights in ("none", "bmc")]
    ratios = []
    for number in range(rounds + 2):
        took = [0.0, 0.0]
        for which in (0, 1, 1, 0) if number % 2 else (1, 0, 0, 1):
            seconds: list[float] = []
            bench.step(trainers[which], number, seconds)
            took[which] += seconds[0]
        ratios.append(took[1] / took[0])
    return statistics.median(ratios[2:])


def logprobs_peak(kind: str, positions: int, vocabulary: int) -> tuple[float, torch.Tensor]:
    """(peak GiB above inputs, values) of forward and backward in bf16."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden_ND = torch.randn(positions, 2048, generator=generator, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight_VD = (torch.randn(vocabulary, 2048, generator=generator, device="cuda") / 45).to(torch.bfloat16).requires_grad_()
    targets_N = torch.randint(vocabulary, (positions,), generator=generator, device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    if kind == "chunked":
        logprobs_N = token_logprobs(hidden_ND, weight_VD, targets_N)
    else:
        logprobs_N = (hidden_ND @ weight_VD.T).float().log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]
    logprobs_N.sum().backward()
    return (torch.cuda.max_memory_allocated() - before) / 2**30, logprobs_N.detach()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller model, shorter pairs, fewer steps")
    parser.add_argument("--model", type=Path, help="a model in Hugging Face format")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no CUDA device here (torch {torch.__version__}); nothing was checked", file=sys.stderr)
        print(json.dumps({"bench": "gpu_training", "ok": None, "reason": "no CUDA device"}))
        return 2
    import transformers

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}")
    length, number, steps = (512, 64, 8) if given.quick else (2048, 128, 20)
    figures: dict[str, float] = {}
    checks: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or save_model(Path(folder), is_small=given.quick)
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        bench = Bench(model, token_table(number, length, vocabulary), 8)

        def run(dtype: str, layout: str, count: int) -> tuple[list[dict[str, Any]], list[float], float]:
            return bench.steps(bench.config(dtype, layout, "bmc"), count)

        shared, padded = (run("float32", layout, 1) for layout in ("shared_prefix", "padded"))
        figures["float32_apart"] = apart(shared[0], padded[0])
        checks["flex"] = figures["float32_apart"] < 1e-3
        shared, padded = (run("bfloat16", layout, steps) for layout in ("shared_prefix", "padded"))
        figures["bf16_apart"] = apart(shared[0][:1], padded[0][:1])
        # the same batch, one epoch later
        figures["first_loss"], figures["later_loss"] = shared[0][0]["loss"], shared[0][bench.per_epoch]["loss"]
        checks["bf16"] = figures["bf16_apart"] < 0.05 and figures["later_loss"] < figures["first_loss"]
        figures["shared_step_s"], figures["padded_step_s"] = statistics.median(shared[1]), statistics.median(padded[1])
        figures["speedup"] = figures["padded_step_s"] / figures["shared_step_s"]
        figures["tokens_fewer"] = sum(line["tokens"] for line in padded[0]) / sum(line["tokens"] for line in shared[0])
        figures["shared_peak_gib"], figures["padded_peak_gib"] = shared[2], padded[2]
        figures["bmc_over_dpo"] = step_ratio(bench, steps)
        checks["step"] = figures["bmc_over_dpo"] <= STEP_MARK
    chunked, naive = (logprobs_peak(kind, 4096, 128_000) for kind in ("chunked", "naive"))
    figures["chunked_peak_gib"], figures["naive_peak_gib"] = chunked[0], naive[0]
    figures["logprobs_apart"] = float((chunked[1] - naive[1]).abs().max())
    checks["logprobs"] = figures["logprobs_apart"] < 0.05 and chunked[0] < naive[0]
    for name, value in figures.items():
        print(f"{name:18} {value:.5g}")
    print(json.dumps({
        "bench": "gpu_training", "ratio": round(figures["bmc_over_dpo"], 4), "mark": STEP_MARK, "ok": all(checks.values()),
        "checks": checks, **{name: float(f"{value:.4g}") for name, value in figures.items()},
    }))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
