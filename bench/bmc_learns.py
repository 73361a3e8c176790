"""Does it learn: DPO, DPO-BC, DPO-MC and DPO-BMC from one SFT model, with the same prompts, losers and steps, on sums of two numbers.

A small Llama with random weights is trained on 800 of the 8,100 sums of two two-digit numbers ("the sum of 4 7 and 8 5 is 1 3 2 ."), by the
same core and for too short to know them. Losers are its own wrong answers to other sums. A winner is right and worded by somebody
else; a bridged winner is the loser with its sum put right, so that a pair shares its beginning and only digits of the sum differ. Then:

    DPO      original pairs, all tokens weigh 1           DPO-BC    bridged pairs, all tokens weigh 1
    DPO-MC   original pairs, BMC's token weights          DPO-BMC   bridged pairs, BMC's token weights
    control  bridged pairs, all tokens weigh 1, beta as much larger as BMC's weights are on deciding digits: in bridged pairs the
             other tokens nearly cancel, so part of what weights do there is what a larger beta does

Each with every learning rate. Reported over seeds: the share of sums that neither stage has seen and that are answered rightly (greedy
decoding, the number the answer ends in), the reward accuracy on pairs of such sums (right against wrong sum in the SFT model's own words;
and original pairs), and the mean weight of the digits that decide and of all other tokens. The bridge is a
rule here, as it can be on a made-up task; nothing follows for texts. There is no mark; ``ratio`` is the accuracy of DPO-BMC over DPO's,
each at its better learning rate, and ``ok`` says that in DPO-BMC the weights above 1 stand on deciding digits and nowhere else.

    python bench/bmc_learns.py [--quick] [--seeds N] [--chart FILE.svg]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import torch

from alignray.methods.bmc.masks import edited_masks
from alignray.objectives import TokenWeightsConfig, token_weights
from alignray.train.config import TrainConfig
from alignray.train.data import ExampleRows, PairRows, PairTokens
from alignray.train.loop import train_loop
from alignray.train.reference import reference_logprobs
from alignray.train.strategies.base import Ranks

OWN_WORDS = "the sum of {a} and {b} is {c} ."
OTHER_WORDS = (
    "when you add {b} to {a} you get {c} .", "{a} and {b} together make {c} .", "i find that {b} more than {a} is {c} .",
    "all in all that makes {c} .", "put {b} on top of {a} and get {c} .",
)
PROMPT = "{a} + {b} ?"
PAD, END = "<pad>", "<end>"
VOCABULARY = [PAD, END, *"0123456789+?.", *sorted({word for text in (OWN_WORDS, *OTHER_WORDS) for word in text.split() if word.isalpha()})]
ID_OF = {word: number for number, word in enumerate(VOCABULARY)}
BETA, DELTA = 0.1, 3.0
CONTROL_BETA = 0.34
"""BETA times the mean weight of deciding digits in bridged pairs."""
RANKS = Ranks(0, 1, torch.device("cpu"))

Sum = tuple[int, int]


@dataclass(frozen=True)
class Budget:
    """What a run may use."""

    seeds: int
    sft_sums: int = 800
    sft_steps: tuple[int, ...] = (200, 260, 320, 400)
    """Tried in turn, until ``enough`` of the sums set aside for that are right: how soon a seed gets there differs a lot."""
    enough: float = 0.3
    dev_sums: int = 200
    pair_sums: int = 2000
    pair_steps: int = 100
    test_sums: int = 600
    learning_rates: tuple[float, ...] = (2e-5, 1e-4)
    """Of the preference stage; every variant runs with each."""


@dataclass(frozen=True)
class Pair:
    """Texts of one pair."""

    sum: Sum
    chosen: str
    rejected: str


def spelled(number: int, width: int) -> str:
    return " ".join(str(number).zfill(width))


def render(template: str, sum_: Sum, result: int | None = None) -> str:
    a, b = sum_
    return template.format(a=spelled(a, 2), b=spelled(b, 2), c=spelled(a + b if result is None else result, 3))


def ids_of(text: str) -> list[int]:
    return [ID_OF[word] for word in text.split()]


def make_model(folder: Path, seed: int) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True,
        eos_token_id=ID_OF[END], pad_token_id=ID_OF[PAD], bos_token_id=None,
    )).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(ID_OF, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=PAD).save_pretrained(folder)
    return folder


class Keeper:
    """Keeps the model of the last checkpoint, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def report(self, line: dict[str, Any], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            (checkpoint / "model").rename(self.folder)

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        yield None

    def wants_checkpoint(self) -> bool:
        return False


def config_of(model: Path, seed: int, steps: int, learning_rate: float, objective: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate({
        "model": {"path": str(model), "dtype": "float32", "gradient_checkpointing": False}, "objective": objective, "batch_size": 64,
        "epochs": 1000, "max_steps": steps, "optimizer": {"learning_rate": learning_rate}, "seed": seed, "checkpoint_every_steps": 10**9,
    })


def pair_config(
    model: Path, seed: int, steps: int, weights: str, *, learning_rate: float = 1e-4, beta: float = BETA,
) -> TrainConfig:
    return config_of(model, seed, steps, learning_rate, {"kind": "dpo", "beta": beta, "weights": {"kind": weights, "delta": DELTA}})


def example_table(sums: Sequence[Sum]) -> pa.Table:
    rows = []
    for sum_ in sums:
        prompt, answer = ids_of(render(PROMPT, sum_)), [*ids_of(render(OWN_WORDS, sum_)), ID_OF[END]]
        rows.append({"row_id": str(sum_), "input_ids": prompt + answer, "loss_mask": [0] * len(prompt) + [1] * len(answer)})
    return pa.Table.from_pylist(rows)


def pair_table(pairs: Sequence[Pair]) -> pa.Table:
    rows = []
    for pair in pairs:
        chosen, rejected = ([*ids_of(text), ID_OF[END]] for text in (pair.chosen, pair.rejected))
        edited = edited_masks(chosen, rejected)
        rows.append({
            "row_id": str(pair.sum), "token_key": str(pair.sum), "prompt_ids": ids_of(render(PROMPT, pair.sum)), "chosen_ids": chosen,
            "rejected_ids": rejected, "chosen_edited": edited[0], "rejected_edited": edited[1],
        })
    return pa.Table.from_pylist(rows)


def with_reference(pairs: Sequence[Pair], sft: Path) -> PairRows:
    """Token rows with what the SFT model gives them."""
    table = pair_table(pairs)
    plain = PairRows(table)
    known = reference_logprobs(pair_config(sft, 0, 1, "none"), [plain[position] for position in range(len(plain))])
    return PairRows(table, dict(zip(table.sort_by("row_id")["token_key"].to_pylist(), known, strict=True)))


def answers(folder: Path, sums: Sequence[Sum], *, sample: int | None = None) -> list[str]:
    """What a model says, greedily or sampled with a seed."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    torch.manual_seed(0 if sample is None else sample)
    for start in range(0, len(sums), 500):
        prompts = torch.tensor([ids_of(render(PROMPT, sum_)) for sum_ in sums[start : start + 500]])
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=24, do_sample=sample is not None, pad_token_id=ID_OF[PAD],
            **({} if sample is None else {"top_k": 0}),
        )
        for row in out[:, prompts.shape[1] :].tolist():
            words = [VOCABULARY[id_] for id_ in row]
            found.append(" ".join(words[: words.index(END)] if END in words else words))
    return found


def is_right(sum_: Sum, answer: str) -> bool:
    digits = re.findall(r"\d(?: \d)*", answer)
    return bool(digits) and digits[-1] == spelled(sum(sum_), 3)


def share_right(folder: Path, sums: Sequence[Sum]) -> float:
    return statistics.mean(is_right(sum_, said) for sum_, said in zip(sums, answers(folder, sums), strict=True))


def wrong_answers(folder: Path, sums: Sequence[Sum], seed: int) -> list[tuple[Sum, str]]:
    """Up to four samples for each sum, the first that is wrong in nothing but the sum."""
    found: dict[Sum, str] = {}
    for attempt in range(4):
        left = [sum_ for sum_ in sums if sum_ not in found]
        for sum_, answer in zip(left, answers(folder, left, sample=1000 * seed + attempt), strict=True):
            before = render(OWN_WORDS, sum_)[: -len("d d d .")]
            if answer.startswith(before) and re.fullmatch(r"\d \d \d \.", answer[len(before) :]) and not is_right(sum_, answer):
                found[sum_] = answer
    return sorted(found.items())


def pairs_of(losers: Sequence[tuple[Sum, str]], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Original and bridged pairs of the same losers."""
    rng = np.random.default_rng(seed)
    original = [Pair(sum_, render(OTHER_WORDS[rng.integers(len(OTHER_WORDS))], sum_), loser) for sum_, loser in losers]
    bridged = [Pair(sum_, render(OWN_WORDS, sum_), loser) for sum_, loser in losers]
    return original, bridged


def reward_accuracy(model: Path, rows: Sequence[PairTokens]) -> float:
    """Share of pairs (with reference log-probabilities) whose winner gained more than its loser."""
    margins = []
    for row, (chosen, rejected) in zip(rows, reference_logprobs(pair_config(model, 0, 1, "none"), rows), strict=True):
        assert row.chosen_reference is not None and row.rejected_reference is not None
        margins.append((chosen - row.chosen_reference).sum() - (rejected - row.rejected_reference).sum())
    return float(np.mean([margin > 0 for margin in margins]))


def weights_on(rows: Sequence[PairTokens]) -> dict[str, float]:
    """Mean BMC weight, at the start, on digits of the sum that differ, on other tokens that differ (wording), and on the rest."""
    config = TokenWeightsConfig(kind="bmc", delta=DELTA)
    groups: dict[str, list[float]] = {"deciding": [], "wording": [], "shared": []}
    for row in rows:
        for ids, edited, values in (
            (row.chosen_ids, row.chosen_edited, row.chosen_reference), (row.rejected_ids, row.rejected_edited, row.rejected_reference),
        ):
            weights = token_weights(torch.from_numpy(values), torch.from_numpy(edited), config)
            at_sum = len(ids) - 5  # every wording ends in the three digits, a full stop and the end token
            for place, weight in enumerate(weights.tolist()):
                in_sum = at_sum <= place < at_sum + 3
                groups["shared" if not edited[place] else "deciding" if in_sum else "wording"].append(weight)
    return {name: float(np.mean(values)) if values else float("nan") for name, values in groups.items()}


VARIANTS = {
    "DPO": ("original", "none", BETA), "DPO-BC": ("bridged", "none", BETA), "DPO-MC": ("original", "bmc", BETA),
    "DPO-BMC": ("bridged", "bmc", BETA), "control": ("bridged", "none", CONTROL_BETA),
}


def run_seed(seed: int, budget: Budget, folder: Path) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    everything = [(int(number // 90 + 10), int(number % 90 + 10)) for number in rng.permutation(90 * 90)]
    cuts = np.cumsum([0, budget.sft_sums, budget.pair_sums, budget.test_sums, budget.dev_sums])
    sft_sums, pair_sums, test_sums, dev_sums = (everything[start:stop] for start, stop in itertools.pairwise(cuts))
    start = make_model(folder / "start", seed)
    for steps in budget.sft_steps:
        sft = folder / f"sft-{steps}"
        config = config_of(start, seed, steps, 2e-3, {"kind": "sft"})
        trained = train_loop(config, ExampleRows(example_table(sft_sums)), None, RANKS, Keeper(sft))
        if share_right(sft, dev_sums) >= budget.enough:
            break
    losers, test_losers = (wrong_answers(sft, sums, seed) for sums in (pair_sums, test_sums))
    train, test = (
        {kind: with_reference(pairs, sft) for kind, pairs in zip(("original", "bridged"), pairs_of(wrong, seed), strict=True)}
        for wrong in (losers, test_losers)
    )
    tests = {kind: [rows[position] for position in range(len(rows))] for kind, rows in test.items()}
    weights_of = {kind: weights_on([rows[position] for position in range(len(rows))]) for kind, rows in train.items()}
    accuracy = share_right(sft, test_sums)
    found: dict[str, dict[str, float]] = {"SFT": {"accuracy": accuracy, "loss": trained.metrics["loss"], "pairs": len(losers)}}
    print(f"seed {seed}: SFT for {steps} steps {accuracy:.3f} right, {len(losers)} pairs from {len(pair_sums)} sums, "
          f"{len(test_losers)} held out", flush=True)
    for rate, (name, (kind, weights, beta)) in itertools.product(budget.learning_rates, VARIANTS.items()):
        model = folder / f"{name}-{rate:g}"
        config = pair_config(sft, seed, budget.pair_steps, weights, learning_rate=rate, beta=beta)
        result = train_loop(config, train[kind], None, RANKS, Keeper(model))
        said = answers(model, test_sums)
        run = found[f"{name}, {rate:g}"] = {
            "accuracy": statistics.mean(is_right(sum_, answer) for sum_, answer in zip(test_sums, said, strict=True)),
            "reward_own_words": reward_accuracy(model, tests["bridged"]), "reward_original": reward_accuracy(model, tests["original"]),
            "own_words": statistics.mean(answer.startswith("the sum of") for answer in said), "loss": result.metrics["loss"],
            **({f"weight_{group}": value for group, value in weights_of[kind].items()} if weights == "bmc" else {}),
        }
        print(f"seed {seed}: {name:7} at {rate:g}: " + ", ".join(f"{key} {value:.3f}" for key, value in run.items()), flush=True)
    return found


def spread(runs: Sequence[dict[str, dict[str, float]]], name: str, key: str) -> str:
    values = [run[name][key] for run in runs if key in run[name]]
    if not values:
        return ""
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def table_of(runs: Sequence[dict[str, dict[str, float]]]) -> str:
    lines = [
        "| variant, learning rate | sums right | reward accuracy, own words | reward accuracy, original pairs "
        "| weight of deciding digits / differing words / the rest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in runs[0]:
        groups = [spread(runs, name, f"weight_{group}") for group in ("deciding", "wording", "shared")]
        weights = [group.split(" ")[0].replace("nan", "none there") for group in groups]
        shown = [spread(runs, name, key) for key in ("accuracy", "reward_own_words", "reward_original")]
        lines.append(f"| {name} | {' | '.join(shown)} | {' / '.join(weights) if all(weights) else '' if name == 'SFT' else 'all 1'} |")
    return "\n".join(lines)


def chart_of(runs: Sequence[dict[str, dict[str, float]]]) -> str:
    """A dot per seed and a bar at the mean, as SVG."""
    names = list(runs[0])
    width, height, left = 130 * len(names) + 60, 300, 50

    def y(value: float) -> float:
        return 20 + (1 - value) * 230

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{left}" x2="{width - 10}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#444">{tick:g}</text>')
    for number, name in enumerate(names):
        x = left + 65 + 130 * number
        values = [run[name]["accuracy"] for run in runs]
        mean = statistics.mean(values)
        parts.append(f'<rect x="{x - 28}" width="56" y="{y(mean):.1f}" height="{y(0) - y(mean):.1f}" fill="#9ecae1"/>')
        parts += [f'<circle cx="{x}" cy="{y(value):.1f}" r="4" fill="#08519c"/>' for value in values]
        parts.append(f'<text x="{x}" y="{height - 28}" text-anchor="middle">{name}</text>')
    legend = "share of unseen sums answered rightly, by variant and learning rate; a dot per seed, the bar is their mean"
    parts.append(f'<text x="{left}" y="{height - 8}" fill="#444">{legend}</text></svg>')
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and little training: no accuracy to speak of")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chart", type=Path)
    given = parser.parse_args()
    logging.getLogger("alignray").setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):
        from transformers.utils import logging as theirs

        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
    torch.set_num_threads(1)
    budget = Budget(given.seeds)
    if given.quick:
        budget = Budget(1, sft_steps=(100,), pair_sums=300, pair_steps=10, test_sums=200, learning_rates=(1e-4,))
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}; {budget}")
    runs = []
    for seed in range(budget.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run_seed(seed, budget, Path(folder)))
    print(table_of(runs))
    if given.chart:
        given.chart.write_text(chart_of(runs) + "\n", encoding="utf-8")
    means = {name: statistics.mean(run[name]["accuracy"] for run in runs) for name in runs[0]}
    best = {variant: max(value for name, value in means.items() if name.split(",")[0] == variant) for variant in ("SFT", *VARIANTS)}
    weighted = [line for run in runs for name, line in run.items() if name.startswith("DPO-BMC")]
    on_deciding = all(line["weight_deciding"] > 2 and line["weight_shared"] == 1 and np.isnan(line["weight_wording"]) for line in weighted)
    print(json.dumps({
        "bench": "bmc_learns", "ratio": round(best["DPO-BMC"] / max(best["DPO"], 1 / budget.test_sums), 3), "mark": None, "ok": on_deciding,
        "seeds": len(runs), "accuracy": {name: round(value, 4) for name, value in means.items()}, "cpu_s": round(time.process_time(), 1),
    }))


if __name__ == "__main__":
    sys.exit(main())
