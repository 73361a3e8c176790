"""A DPO step of ours against TRL's DPOTrainer: same model, same token ids, same batches in the same order, same optimizer, float32.

Contenders, each in a process of its own, in both orders:

    shared    ours: common prefixes once, rows packed, reference log-probabilities computed before the first step
    padded    ours: two padded rows a pair, reference before the first step (what sharing and packing bring)
    trl       DPOTrainer as it comes: padding, the reference model beside the policy
    trl-pre   DPOTrainer with precompute_ref_log_probs
    trl-free  the same with padding_free, where TRL still has it; else what TRL says

Two sets of pairs: ``natural``, as they are in ultrafeedback_sample and dpo_en_demo (ALIGNRAY_DATA, default ../shared/data), with their
spread of lengths; and ``bridged``-like, where a few words of the rejected answer are replaced, as after BMC's bridging, so that long
prefixes are shared. ``--kinds run --run FOLDER`` takes the pairs that a run of ``alignray bridge`` made. Tokens come
from SmolLM2's tokenizer; tokenising and loading are not timed, the reference pass is, on both sides
(each pair is seen once, the least favourable case for a pass that serves all epochs). Gradient checkpointing is on, as by default on both.

Speed is pairs per CPU second of one thread (the machine is shared), the better of both orders. Memory is the high-water mark of the
process; ``above`` is what it rises above the process with its libraries and data, before a model is loaded. Quality: the largest
difference of the loss and the largest relative difference of the gradient norm over all steps.

    python bench/preference_step.py [--quick] [--model FOLDER] [--kinds natural bridged run] [--run FOLDER]

FOLDER is a SmolLM2 in Hugging Face format (``python scripts/smollm2_hf.py FOLDER``); without it, and with --quick always, a random
Llama of 10 million parameters is used with the tokenizer of the embedded model's weights.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"})

MARK = 1.5
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3
CONTENDERS = ("shared", "padded", "trl", "trl-pre", "trl-free")
BENCH = Path(__file__).resolve().parent
DATA = Path(os.environ.get("ALIGNRAY_DATA", BENCH.parent.parent / "shared/data")) / "pref"
LEARNING_RATE, BETA = 1e-5, 0.1


# ---- pairs


def texts_of(path: Path) -> list[tuple[list[dict[str, str]], str, str]]:
    """(prompt turns, chosen, rejected) of a file."""
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            chosen, rejected = row["chosen"], row["rejected"]
            turns = [{"role": "user", "content": row["prompt"]}] if "prompt" in row else [
                {"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]
            ]
            sides = [side["value"] if isinstance(side, dict) else side[-1]["content"] if isinstance(side, list) else side
                     for side in (chosen, rejected)]
            found.append((turns, *sides))
    return found


def bridged(answer: str, rng: random.Random) -> str:
    """The answer with about one word in 15 replaced by another of its own, none in its first tenth."""
    words = answer.split(" ")
    places = range(len(words) // 10, len(words))
    for place in rng.sample(places, max(1, len(words) // 15)) if len(places) else ():
        words[place] = rng.choice(words) + "s"
    return " ".join(words)


def texts_of_run(run: Path) -> list[tuple[list[dict[str, str]], str, str]]:
    """(prompt turns, chosen, rejected) of the finished rows of a run of ``alignray bridge``."""
    import pyarrow.parquet as pq

    rows = [row for path in sorted((run / "parts").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in sorted(rows, key=lambda row: row["row_id"])]


def token_pairs(tokenizer: Any, kind: str, number: int, max_length: int, run: Path | None) -> list[dict[str, list[int]]]:
    """Token rows, prompts of at most half of ``max_length``, cut where they are longer than it."""
    rng = random.Random(0)
    if kind == "run":
        assert run is not None
        texts = texts_of_run(run)
    else:
        texts = [row for name in ("ultrafeedback_sample", "dpo_en_demo") for row in texts_of(DATA / f"{name}.jsonl.gz")]
    rng.shuffle(texts)
    pairs: list[dict[str, list[int]]] = []
    for turns, chosen, rejected in texts:
        if kind == "bridged":
            chosen = bridged(rejected, rng)  # noqa: PLW2901
        prompt = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
        sides = [tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)[: max_length - len(prompt)] for text in (chosen, rejected)]
        if len(prompt) <= max_length // 2 and min(map(len, sides)) > 1 and sides[0] != sides[1]:
            pairs.append({"prompt_ids": list(prompt), "chosen_ids": sides[0], "rejected_ids": sides[1]})
        if len(pairs) == number:
            break
    return pairs


# ---- contenders, each in its own process


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_ours(layout: str, model: str, pairs: Sequence[dict[str, list[int]]], batch_size: int) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa
    import torch

    from alignray.train.config import TrainConfig
    from alignray.train.data import PairRows
    from alignray.train.loop import _layout, _Trainer
    from alignray.train.reference import ReferenceScorer
    from alignray.train.strategies import Ranks, build_strategy

    torch.set_num_threads(1)
    config = TrainConfig.model_validate({
        "model": {"path": model, "dtype": "float32"}, "objective": {"kind": "dpo", "beta": BETA}, "batch_size": batch_size,
        "optimizer": {"learning_rate": LEARNING_RATE, "schedule": "constant", "warmup_rate": 0},
        "layout": {"shared": "shared_prefix"}.get(layout, layout),
    })
    table = pa.Table.from_pylist([
        {"row_id": f"{number:06d}", "token_key": str(number), **pair, **{f"{side}_edited": [0] * len(pair[f"{side}_ids"])
                                                                        for side in ("chosen", "rejected")}}
        for number, pair in enumerate(pairs)
    ])
    base = peak_mib()
    plain = PairRows(table)
    scorer = ReferenceScorer(config)
    started = time.process_time()
    known = scorer.score([plain[position] for position in range(len(plain))])
    reference_s = time.process_time() - started
    del scorer
    rows = PairRows(table, {str(number): values for number, values in enumerate(known)})
    ranks = Ranks(0, 1, torch.device("cpu"))
    strategy = build_strategy(config, ranks)
    trainer = _Trainer(config, ranks, strategy, *_layout(config, ranks, strategy, True))
    steps = len(pairs) // batch_size
    lines, seconds = [], []
    for step in range(steps):
        started = time.process_time()
        batch = np.arange(step * batch_size, (step + 1) * batch_size)
        lines.append(trainer.step(rows, batch, step, steps))
        seconds.append(time.process_time() - started)
    return {
        "loss": [line["loss"] for line in lines], "norm": [line["grad_norm"] for line in lines], "step_s": seconds,
        "reference_s": reference_s, "base_mib": base, "peak_mib": peak_mib(),
        "tokens": sum(line["tokens"] for line in lines), "note": trainer.layout_reason,
    }


def run_trl(kind: str, model: str, pairs: Sequence[dict[str, list[int]]], batch_size: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(1)
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trl.trainer.dpo_trainer").addHandler(listener)

    class OurRows(DPOTrainer):
        """Only what goes in and what is timed is ours: token rows as they are, in their order."""

        def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            found = super()._precompute_ref_logps(*args, **kwargs)
            reference_s.append(time.process_time() - started)
            return found

    seconds: list[float] = []
    reference_s: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.started = time.process_time()

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            seconds.append(time.process_time() - self.started)

    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder, per_device_train_batch_size=batch_size, num_train_epochs=1, learning_rate=LEARNING_RATE, beta=BETA,
            lr_scheduler_type="constant", train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to=[],
            bf16=False, use_cpu=True, max_length=None, seed=0, disable_tqdm=True, model_init_kwargs={"dtype": "float32"},
            precompute_ref_log_probs=kind != "trl", padding_free=kind == "trl-free",
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
        data = Dataset.from_list([dict(pair) for pair in pairs])
        base = peak_mib()
        trainer = OurRows(model, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()])
        note = "; ".join(text for text in said if "padding_free" in text)
        if kind == "trl-free" and not trainer.padding_free:
            return {"note": note or "padding_free was switched off"}
        trainer.train()
        lines = [line for line in trainer.state.log_history if "grad_norm" in line]
    return {
        "loss": [line["loss"] for line in lines], "norm": [line["grad_norm"] for line in lines], "step_s": seconds,
        "reference_s": sum(reference_s), "base_mib": base, "peak_mib": peak_mib(), "note": note,
        "tokens": sum(2 * batch_size * max(len(pair["prompt_ids"]) + len(pair[side]) for pair in pairs[start : start + batch_size]
                                           for side in ("chosen_ids", "rejected_ids")) for start in range(0, len(pairs), batch_size)),
    }


# ---- the comparison


def random_model(folder: Path) -> Path:
    """10 million parameters, most of them embeddings, and the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from alignray.engine.llama import find_weights

    weights = find_weights(None)
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=160, intermediate_size=432, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=2048,
    )).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def compare(kind: str, names: Sequence[str], model: Path, pairs_path: Path, batch_size: int, orders: int) -> dict[str, dict[str, Any]]:
    """Every contender, in both orders; its quicker run counts."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for order in (names, names[::-1])[:orders]:
        for name in order:
            if runs[name] and "loss" not in runs[name][0]:
                continue
            options = {"contend": name, "model": model, "pairs": pairs_path, "batch-size": batch_size}
            flags = [text for option, value in options.items() for text in (f"--{option}", str(value))]
            done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            runs[name].append(found)
            if "loss" not in found:
                print(f"{kind:8} {name:9} does not run here: {found['note']}", flush=True)
    results = {}
    for name, several in runs.items():
        if "loss" in several[0]:
            best = min(several, key=lambda run: run["reference_s"] + sum(run["step_s"]))
            pairs = len(best["loss"]) * batch_size
            results[name] = best | {
                "pairs_per_s": pairs / (best["reference_s"] + sum(best["step_s"])), "steps_only": pairs / sum(best["step_s"]),
                "above_mib": min(run["peak_mib"] - run["base_mib"] for run in several), "peak_mib": min(run["peak_mib"] for run in several),
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model, 8 pairs of up to 192 tokens, ours and TRL as it comes")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=("natural", "bridged", "run"), default=["natural", "bridged"])
    parser.add_argument("--run", type=Path, help="run folder of alignray bridge, for --kinds run")
    parser.add_argument("--num-pairs", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--orders", type=int, choices=(1, 2), default=2)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contend:
        pairs = json.loads(given.pairs.read_text())
        run = run_trl if given.contend.startswith("trl") else run_ours
        print(json.dumps(run(given.contend, str(given.model), pairs, given.batch_size)))
        return
    if "run" in given.kinds and given.run is None:
        parser.error("--kinds run needs --run FOLDER, a run of alignray bridge")
    number, batch_size, max_length, orders, names = given.num_pairs, given.batch_size, given.max_length, given.orders, given.contenders
    if given.quick:
        number, batch_size, max_length, orders, names = 8, 4, 192, 1, ["shared", "trl"]
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl")))
    summary: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = given.model if given.model and not given.quick else random_model(Path(folder) / "model")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        for kind in given.kinds:
            pairs = token_pairs(tokenizer, kind, number, max_length, given.run)
            lengths = [len(pair["prompt_ids"]) + len(pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")]
            print(f"{kind}: {len(pairs)} pairs in batches of {batch_size}, {statistics.mean(lengths):.0f} tokens a side "
                  f"({min(lengths)} to {max(lengths)})", flush=True)
            path = Path(folder) / f"{kind}.json"
            path.write_text(json.dumps(pairs))
            found = compare(kind, names, model, path, batch_size, orders)
            ours, peer = found["shared"], found["trl"]
            for name, run in found.items():
                loss = max(abs(one - other) for one, other in zip(run["loss"], peer["loss"], strict=True))
                norm = max(abs(one / other - 1) for one, other in zip(run["norm"], peer["norm"], strict=True))
                run.update(loss_difference=loss, norm_difference=norm)
                print(f"{kind:8} {name:9} {run['pairs_per_s']:7.3f} pairs/s ({run['steps_only']:.3f} without the reference pass), "
                      f"{run['tokens']} tokens, peak {run['peak_mib']:.0f} MiB ({run['above_mib']:.0f} above), loss {run['loss'][-1]:.6f}, "
                      f"differs by {loss:.1e}, gradient norm by {norm:.1e}", flush=True)
            summary[kind] = {
                "ratio": ours["pairs_per_s"] / peer["pairs_per_s"], "steps_only": ours["steps_only"] / peer["steps_only"],
                "over_precomputed": ours["pairs_per_s"] / found["trl-pre"]["pairs_per_s"] if "trl-pre" in found else None,
                "memory": ours["above_mib"] / peer["above_mib"],
                "loss_difference": max(run["loss_difference"] for run in found.values()),
                "norm_difference": max(run["norm_difference"] for run in found.values()),
            }
    ratio = min(part["ratio"] for part in summary.values())
    same = all(part["loss_difference"] <= LOSS_TOLERANCE and part["norm_difference"] <= NORM_TOLERANCE for part in summary.values())
    ok = ratio >= MARK and same and all(part["memory"] < 1 for part in summary.values())
    shown = {
        kind: {name: None if value is None else float(f"{value:.3g}") for name, value in part.items()} for kind, part in summary.items()
    }
    print(json.dumps({"bench": "preference_step", "ratio": round(ratio, 3), "mark": MARK, "ok": ok, "same_loss": same, **shown}))


if __name__ == "__main__":
    main()
