"""A DPO-BMC step over a DPO step of our own trainer: the token weights are to cost no time.

One small Llama (the smaller, the more a loss shows), one trainer step after the other on the same batches of bridged-like pairs (long
common prefix, a few replaced tokens), plain and weighted in turn, the order turned round at every batch. Packing, forward, backward,
clipping and the optimizer are in the step; the masks are data and are not. CPU seconds of one thread, the best of three for either on
each batch; the ratio is the median over the batches, its spread the middle half. As that spread is wider than what is measured, the
loss alone (forward and backward, from log-probabilities) is timed too: what it costs more, over a whole step, is ``loss_alone``.
Quality: with delta 0 the weighted step gives the plain loss and gradient norm.

    python bench/bmc_overhead.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import torch
from transformers.utils.logging import disable_progress_bar

from alignray.methods.bmc.masks import edited_masks
from alignray.objectives import BatchTotals, DPOConfig, TokenWeightsConfig, preference_loss
from alignray.train.config import TrainConfig
from alignray.train.data import PairRows
from alignray.train.loop import _Trainer
from alignray.train.pack import pack_pairs
from alignray.train.strategies import Ranks, build_strategy

MARK = 1.01
VOCABULARY = 4096
RANKS = Ranks(0, 1, torch.device("cpu"))


def save_model(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True, max_position_embeddings=512,
    )).save_pretrained(folder)
    return folder


def pairs(number: int) -> PairRows:
    """Prompts of 20 to 60 tokens, losers of 60 to 160, winners with every twelfth token or so replaced."""
    rng = np.random.default_rng(0)
    rows, references = [], {}
    for place in range(number):
        prompt, rejected = (rng.integers(0, VOCABULARY, rng.integers(*bounds)) for bounds in ((20, 60), (60, 160)))
        is_replaced = (rng.random(len(rejected)) < 0.08) & (np.arange(len(rejected)) > 10)
        chosen = np.where(is_replaced, rng.integers(0, VOCABULARY, len(rejected)), rejected)
        chosen[-1] = (rejected[-1] + 1) % VOCABULARY
        marks = edited_masks(chosen.tolist(), rejected.tolist())
        rows.append({
            "row_id": f"{place:06d}", "token_key": str(place), "prompt_ids": prompt.tolist(), "chosen_ids": chosen.tolist(),
            "rejected_ids": rejected.tolist(), "chosen_edited": marks[0], "rejected_edited": marks[1],
        })
        chosen_reference, rejected_reference = (np.full(len(ids), -8.0, np.float32) for ids in (chosen, rejected))
        references[str(place)] = chosen_reference, rejected_reference
    return PairRows(pa.Table.from_pylist(rows), references)


def trainer_of(model: Path, strategy: Any, weights: dict[str, Any], batch_size: int) -> _Trainer:
    return _Trainer(config_of(model, weights, batch_size), RANKS, strategy, "shared_prefix", None)


def config_of(model: Path, weights: dict[str, Any], batch_size: int) -> TrainConfig:
    return TrainConfig.model_validate({
        "model": {"path": str(model), "dtype": "float32"}, "objective": {"kind": "dpo", "beta": 0.05, "weights": weights},
        "batch_size": batch_size, "optimizer": {"learning_rate": 1e-7},
    })


def loss_seconds(rows: PairRows, weights: dict[str, Any], batch_size: int) -> float:
    """CPU seconds of the loss of one batch, forward and backward, best of many."""
    packed = pack_pairs([rows[place] for place in range(batch_size)], row_tokens=1)
    config = DPOConfig(weights=TokenWeightsConfig.model_validate(weights))
    logprobs_N = (-torch.rand(len(packed.target_N), generator=torch.Generator().manual_seed(0)) * 9).requires_grad_()
    best = float("inf")
    for _ in range(300):
        started = time.process_time()
        chosen, rejected = (layout.side(logprobs_N) for layout in packed.sides)
        preference_loss(chosen, rejected, config, BatchTotals(batch_size, 1)).loss.backward()
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 batches in place of 60")
    given = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    num_batches, batch_size = (8 if given.quick else 60), 4
    print(f"Python {platform.python_version()}, torch {version('torch')}; {num_batches} batches of {batch_size} pairs, plain and weighted")
    rows = pairs(batch_size * num_batches)
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder))
        first = np.arange(batch_size)
        same = []
        for weights in ({"kind": "none"}, {"kind": "bmc", "delta": 0}):
            fresh = build_strategy(config_of(model, weights, batch_size), RANKS)
            line = trainer_of(model, fresh, weights, batch_size).step(rows, first, 0, 1)
            same.append((line["loss"], line["grad_norm"]))
        # one model and optimizer for both: the same memory, the same state
        strategy = build_strategy(config_of(model, {"kind": "none"}, batch_size), RANKS)
        kinds = ({"kind": "none"}, {"kind": "bmc", "delta": 3.0})
        plain, weighted = (trainer_of(model, strategy, weights, batch_size) for weights in kinds)
        for trainer in (plain, weighted):
            trainer.step(rows, first, 0, num_batches)
        ratios, seconds = [], []
        for number in range(num_batches):
            batch = np.arange(number * batch_size, (number + 1) * batch_size)
            took: dict[Any, float] = {}
            order = (plain, weighted, weighted, plain, plain, weighted)
            for trainer in order if number % 2 else order[::-1]:
                started = time.process_time()
                trainer.step(rows, batch, number, num_batches)
                took[trainer] = min(took.get(trainer, float("inf")), time.process_time() - started)
            ratios.append(took[weighted] / took[plain])
            seconds.append(took[plain])
    low, ratio, high = statistics.quantiles(ratios, n=4)
    extra = loss_seconds(rows, {"kind": "bmc", "delta": 3.0}, batch_size) - loss_seconds(rows, {"kind": "none"}, batch_size)
    alone = 1 + extra / statistics.median(seconds)
    print(f"the loss alone costs {extra * 1e6:.0f} CPU microseconds more, {alone:.5f} of a step")
    print(f"plain step {statistics.median(seconds) * 1e3:.1f} CPU ms; weighted over plain {ratio:.4f}, middle half {low:.4f} to {high:.4f}")
    ok = ratio <= MARK and same[0] == same[1]
    print(json.dumps({
        "bench": "bmc_overhead", "ratio": round(ratio, 4), "mark": MARK, "ok": ok, "batches": num_batches,
        "loss_alone": round(alone, 5),
        "middle_half": [round(low, 4), round(high, 4)], "same_at_delta_0": same[0] == same[1],
    }))


if __name__ == "__main__":
    main()
