"""``alignray train CONFIG --check``: what training would see and need, from a sample of rows and the model's config; no weights, no GPU."""

from __future__ import annotations

import hashlib
import itertools
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig
from alignray.io.preferences import read_examples, read_pairs
from alignray.io.reference_store import ReferenceStore, model_key
from alignray.io.sources import Split
from alignray.io.storage import Storage
from alignray.objectives.config import SFTConfig, TokenWeightsConfig
from alignray.pipelines.train import token_work
from alignray.pipelines.train_config import TrainJobConfig
from alignray.runtime.tokens import tokens_of
from alignray.schema import Message, PreferencePair, Rejected, SftExample
from alignray.train.config import StrategyConfig, TrainConfig
from alignray.train.memory import GIB, MemoryEstimate, ModelShape, estimate_memory, shape_of
from alignray.train.tokenize import FLAGS, ChatTokenizer, Masks, TokenExample, TokenizeConfig, TokenPair, load_tokenizer
from alignray.untrusted import printable

SAMPLE_ROWS = 2000
SHOWN_TOKENS = 400
"""The pair that is shown has responses no longer than that, if there is one."""
PERCENTILES = (5, 50, 95, 99, 100)
CONFIGURED = "as configured"
MANY_CUT, LONGER_RATE = 0.05, 0.65
"""Shares from which on a warning is due: rows that are cut; pairs whose chosen response is the longer one (or the shorter one)."""


@dataclass(frozen=True)
class ShownToken:
    """One token as the report prints it."""

    text: str
    is_marked: bool
    """Edited (pairs), or a target (examples)."""
    weight: tuple[float, float] | None = None
    """Least and greatest weight in the loss; both the same where the reference's log-probability is known. None: no loss."""


@dataclass(frozen=True)
class ShownRow:
    """One row, rendered."""

    row_id: str
    prompt: str
    sides: dict[str, list[ShownToken]]
    """chosen and rejected, or chat."""


@dataclass
class CheckReport:
    """What a look at the data found; plain values, ready for JSON."""

    read: int
    rows: int
    """Of those, the ones that can be trained on."""
    is_sample: bool
    """Rows were left unread."""
    rejected: dict[str, int]
    """By step/reason."""
    flags: dict[str, int]
    """Kept rows by what is to be told of them."""
    tokenizer: dict[str, str]
    lengths: dict[str, dict[str, float]]
    """Percentiles of tokens, after truncation."""
    truncated_rate: float
    """Share of the kept rows that lost tokens."""
    length_bias: dict[str, float]
    """Pairs: mean and median of chosen minus rejected tokens, and the share whose chosen is longer."""
    duplicate_prompts: int
    """Rows whose prompt another row has, too."""
    passes_per_step: float
    """Forward passes per device and optimizer step, roughly."""
    model: ModelShape
    memory: dict[str, MemoryEstimate]
    """By way of training; the first one is as configured."""
    shown: ShownRow
    warnings: list[str] = field(default_factory=list)


def check(
    config: TrainConfig, tokens: TokenizeConfig, splits: Sequence[Split], *, masks: Masks | None, world_size: int,
    fetch: FetchConfig | None = None, sample_rows: int = SAMPLE_ROWS, device_bytes: float | None = None,
    store: ReferenceStore | None = None,
) -> CheckReport:
    """Look at the first rows of every split, and count up the memory of a training step.

    Args:
        masks: for pairs.
        world_size: ranks, one device each.
        device_bytes: memory of a device, if known.
        store: where reference log-probabilities may be; the pair shown then has the weights of the first step.

    Raises:
        ConfigError: tokenizer, chat template or model cannot be used.
        RecordError: no row of the sample can be trained on.
    """
    chat = ChatTokenizer(load_tokenizer(config.model.path, revision=config.model.revision), tokens)
    sample = _Sample.read(splits, chat, masks, fetch or FetchConfig(), sample_rows)
    shape = shape_of(config.model)
    if not sample.rows:
        why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(sample.rejected.items())) or "the input is empty"
        raise RecordError(f"none of the {sample.num_read:,} rows looked at can be trained on ({why})")
    lengths = _lengths(sample.rows)
    mean_tokens = float(np.mean(lengths["row"]))
    passes = max(1.0, config.batch_size / world_size * mean_tokens / config.max_tokens_per_device)
    memory = _memory(config, shape, world_size, accumulates=passes > 1)
    report = CheckReport(
        read=sample.num_read, rows=len(sample.rows), is_sample=sample.is_cut, rejected=dict(sorted(sample.rejected.items())),
        flags=dict(sorted(Counter(flag for row in sample.rows for flag in row.flags).items())), tokenizer=chat.facts(),
        lengths={name: _percentiles(values) for name, values in lengths.items()},
        truncated_rate=sum(bool({"prompt_cut", "response_cut"} & set(row.flags)) for row in sample.rows) / len(sample.rows),
        length_bias=_length_bias(sample.rows), duplicate_prompts=sum(count for count in sample.prompts.values() if count > 1),
        passes_per_step=passes, model=shape, memory=memory, shown=_shown(sample.rows, chat, config, store),
    )
    report.warnings = _warnings(report, chat, device_bytes)
    return report


def check_training(config: TrainJobConfig, *, sample_rows: int = SAMPLE_ROWS) -> CheckReport:
    """``check`` for a job's config."""
    work = token_work(config)
    return check(
        config.training(), config.tokens, config.input.splits(), masks=None if config.is_sft else work.masks,
        world_size=config.workers.num_workers, fetch=config.input.fetch, sample_rows=sample_rows, device_bytes=_device_bytes(),
        store=_store_of(config),
    )


def _device_bytes() -> float | None:
    """Memory of this machine's smallest GPU, as its driver tells without anything being put on it; None where there is none."""
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return min((float(line) * (1 << 20) for line in lines if line.isdecimal()), default=None)


def _store_of(config: TrainJobConfig) -> ReferenceStore | None:
    """The reference store, where there is one already and the model's weights are here to find it by."""
    has_weights = any(Path(config.model.path).glob("*.safetensors"))
    if config.is_sft or not has_weights or not Storage(config.reference.store).folders(""):
        return None
    return ReferenceStore(config.reference.store, model_key(config.model.path, config.model.dtype))


# ---- the sample


@dataclass
class _Sample:
    rows: list[TokenPair | TokenExample] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    prompts: Counter[bytes] = field(default_factory=Counter)
    num_read: int = 0
    is_cut: bool = False

    @classmethod
    def read(cls, splits: Sequence[Split], chat: ChatTokenizer, masks: Masks | None, fetch: FetchConfig, limit: int) -> _Sample:
        """The first rows of every split, as many of each."""
        sample, seen = cls(), set[str]()
        per_split = -(-limit // max(len(splits), 1))
        for split in splits:
            read: Iterator[Any] = (read_examples if masks is None else read_pairs)(split, fetch, Counter())
            for number, record in enumerate(read):
                if number == per_split:
                    sample.is_cut = True
                    break
                sample._add(record, chat, masks, seen)
        return sample

    def _add(self, record: PreferencePair | SftExample | Rejected, chat: ChatTokenizer, masks: Masks | None, seen: set[str]) -> None:
        self.num_read += 1
        row = tokens_of(record, chat, masks)
        if isinstance(row, Rejected) or isinstance(record, Rejected):
            assert isinstance(row, Rejected), "a reject stays one"
            self.rejected[f"{row.step}/{row.reason}"] += 1
        elif row.row_id in seen:
            self.rejected["ingest/duplicate_record"] += 1
        else:
            seen.add(row.row_id)
            self.rows.append(row)
            self.prompts[_digest(record.prompt if isinstance(record, PreferencePair) else record.messages[:-1])] += 1


def _digest(turns: Iterable[Message]) -> bytes:
    return hashlib.blake2b(orjson.dumps([[turn.role, turn.content] for turn in turns]), digest_size=16).digest()


def _lengths(rows: Sequence[TokenPair | TokenExample]) -> dict[str, list[int]]:
    pairs = [row for row in rows if isinstance(row, TokenPair)]
    if not pairs:
        examples = [row for row in rows if isinstance(row, TokenExample)]
        return {"row": [len(row.input_ids) for row in examples], "targets": [sum(row.loss_mask) for row in examples]}
    return {
        "row": [len(row.prompt_ids) + len(row.chosen_ids) + len(row.rejected_ids) for row in pairs],
        "prompt": [len(row.prompt_ids) for row in pairs], "chosen": [len(row.chosen_ids) for row in pairs],
        "rejected": [len(row.rejected_ids) for row in pairs],
        "edited of chosen": [sum(row.chosen_edited) for row in pairs], "edited of rejected": [sum(row.rejected_edited) for row in pairs],
    }


def _percentiles(values: Sequence[int]) -> dict[str, float]:
    found = {f"p{rank}" if rank < 100 else "max": float(np.percentile(values, rank)) for rank in PERCENTILES}
    return {"mean": float(np.mean(values)), **found}


def _length_bias(rows: Sequence[TokenPair | TokenExample]) -> dict[str, float]:
    differences = [len(row.chosen_ids) - len(row.rejected_ids) for row in rows if isinstance(row, TokenPair)]
    if not differences:
        return {}
    return {
        "mean": statistics.fmean(differences), "median": float(statistics.median(differences)),
        "longer_rate": sum(difference > 0 for difference in differences) / len(differences),
        "shorter_rate": sum(difference < 0 for difference in differences) / len(differences),
    }


# ---- memory


def _memory(config: TrainConfig, shape: ModelShape, world_size: int, *, accumulates: bool) -> dict[str, MemoryEstimate]:
    """The configured way first, then what else one could do on the same devices."""
    def of(strategy: StrategyConfig, *, checkpointing: bool = config.model.gradient_checkpointing) -> MemoryEstimate:
        return estimate_memory(
            shape, strategy, dtype=config.model.dtype, world_size=world_size, max_tokens=config.max_tokens_per_device,
            gradient_checkpointing=checkpointing, attention=config.model.attention, accumulates=accumulates,
        )

    now = config.model.gradient_checkpointing
    ways = {
        CONFIGURED: of(config.strategy), f"{'no' if now else 'with'} checkpointing": of(config.strategy, checkpointing=not now),
        "ddp": of(StrategyConfig(kind="ddp")), "fsdp2": of(StrategyConfig(kind="fsdp2")),
    }
    for stage, offload, name in ((1, "none", "ZeRO 1"), (2, "none", "ZeRO 2"), (2, "optimizer", "ZeRO 2, offload"), (3, "none", "ZeRO 3"),
                                 (3, "all", "ZeRO 3, offload")):
        ways[name] = of(StrategyConfig.model_validate({"kind": "deepspeed", "zero_stage": stage, "offload": offload}))
    return ways


# ---- one row, shown


def _shown(
    rows: Sequence[TokenPair | TokenExample], chat: ChatTokenizer, config: TrainConfig, store: ReferenceStore | None,
) -> ShownRow:
    """The first row whose responses are short enough to read, else the shortest."""
    def size(row: TokenPair | TokenExample) -> int:
        return max(len(row.chosen_ids), len(row.rejected_ids)) if isinstance(row, TokenPair) else len(row.input_ids)

    row = next((row for row in rows if size(row) <= SHOWN_TOKENS), min(rows, key=size))
    if isinstance(row, TokenExample):
        num_prompt = row.loss_mask.index(1)
        tokens = [
            ShownToken(text, bool(mark), (1.0, 1.0) if mark else None)
            for text, mark in zip(chat.texts(row.input_ids[num_prompt:]), row.loss_mask[num_prompt:], strict=True)
        ]
        return ShownRow(row.row_id, chat.text(row.input_ids[:num_prompt]), {"chat": tokens})
    known = store.read(store.index([row.token_key]), [row.token_key]).get(row.token_key) if store is not None else None
    weighting = TokenWeightsConfig() if isinstance(config.objective, SFTConfig) else config.objective.weights
    sides = {}
    for place, (name, ids, edited) in enumerate((
        ("chosen", row.chosen_ids, row.chosen_edited), ("rejected", row.rejected_ids, row.rejected_edited),
    )):
        weights = _weights(edited, weighting, None if known is None else known[place])
        sides[name] = [
            ShownToken(text, bool(mark), weight) for text, mark, weight in zip(chat.texts(ids), edited, weights, strict=True)
        ]
    return ShownRow(row.row_id, chat.text(row.prompt_ids), sides)


def _weights(edited: Sequence[int], config: TokenWeightsConfig, logprobs: Any) -> list[tuple[float, float]]:
    """Least and greatest weight of each token at the first step; one number where its log-probability is known."""
    import torch

    from alignray.objectives.weights import token_weights

    marks = torch.tensor(edited, dtype=torch.bool)
    if logprobs is not None:
        exact = token_weights(torch.tensor(np.asarray(logprobs, np.float64)), marks, config).tolist()
        return list(zip(exact, exact, strict=True))
    bounds = [token_weights(torch.full((len(edited),), logprob, dtype=torch.float64), marks, config).tolist() for logprob in (0.0, -700.0)]
    return list(zip(*bounds, strict=True))


# ---- warnings


def _warnings(report: CheckReport, chat: ChatTokenizer, device_bytes: float | None) -> list[str]:
    found = list(chat.notes())
    if count := report.flags.get("template_breaks_prefix"):
        found.append(f"{count / report.rows:.0%} of the rows: {FLAGS['template_breaks_prefix']}")
    if report.truncated_rate > MANY_CUT:
        found.append(f"{report.truncated_rate:.0%} of the rows are cut; raise tokens.max_length, or set tokens.too_long: reject")
    if lost := sum(report.rejected.get(f"tokens/{reason}", 0) for reason in ("edits_truncated", "identical_after_truncation")):
        found.append(f"{lost:,} pairs are left out because what differs is behind the cut; raise tokens.max_length")
    for name, word in (("longer_rate", "longer"), ("shorter_rate", "shorter")):
        if report.length_bias.get(name, 0) > LONGER_RATE:
            found.append(
                f"chosen is {word} in {report.length_bias[name]:.0%} of the pairs: a model can learn length instead; see r_dpo and simpo"
            )
    if report.duplicate_prompts > MANY_CUT * report.rows:
        found.append(f"{report.duplicate_prompts:,} rows share their prompt with another; held-out rows may have been seen")
    if device_bytes is not None and (needed := report.memory[CONFIGURED].total) > device_bytes:
        fitting = [way for way, estimate in report.memory.items() if estimate.total <= device_bytes]
        way_out = f"these would fit: {'; '.join(fitting)}" if fitting else "lower max_tokens_per_device or train adapters"
        found.append(f"a step needs some {needed / GIB:.1f} GiB per device, there are {device_bytes / GIB:.1f}; {way_out}")
    return found


# ---- printing


def print_check(report: CheckReport, console: Console | None = None) -> None:
    """The report for people. Without colour, marked tokens stand in [[brackets]]; what they weigh, if not 1, stands behind them."""
    console = console or Console()
    out = console.print
    out(f"[bold]{report.read:,}[/] rows read{', the first of each file' if report.is_sample else ''}; {report.rows:,} can be trained on")
    for reason, count in report.rejected.items():
        out(f"  rejected  {count:>7,}  {reason}", highlight=False)
    for flag, count in report.flags.items():
        out(f"  kept, but {count:>7,}  {flag}: {FLAGS[flag]}", highlight=False)
    out(Text("  ".join(f"{name}: {printable(value)}" for name, value in report.tokenizer.items())), highlight=False)
    _print_lengths(report, console)
    _print_row(report.shown, console)
    _print_memory(report, console)
    for warning in report.warnings:
        out(Text("! ", style="yellow") + Text(printable(warning)))


def _print_lengths(report: CheckReport, console: Console) -> None:
    table = Table("tokens", *next(iter(report.lengths.values())), box=None, pad_edge=False)
    for name, values in report.lengths.items():
        table.add_row(name, *(f"{value:,.0f}" for value in values.values()))
    console.print(table)
    console.print(f"cut {report.truncated_rate:.1%}, prompts shared with another row {report.duplicate_prompts:,}", highlight=False)
    if report.length_bias:
        bias = report.length_bias
        console.print(
            f"chosen minus rejected: mean {bias['mean']:+.1f} tokens, median {bias['median']:+.0f}; chosen is longer in "
            f"{bias['longer_rate']:.0%}, shorter in {bias['shorter_rate']:.0%} of the pairs", highlight=False,
        )


def _print_row(row: ShownRow, console: Console) -> None:
    console.rule(f"row {row.row_id}", align="left")
    console.print(Text(printable(row.prompt), style="dim"), highlight=False)
    is_plain = console.no_color or not console.is_terminal
    for name, tokens in row.sides.items():
        console.print(f"[bold]{name}[/]", highlight=False)
        style = {"chosen": "bold green", "rejected": "bold red"}.get(name, "bold cyan")
        text = Text()
        for (is_marked, weight), run in itertools.groupby(tokens, key=lambda token: (token.is_marked, _shown_weight(token.weight))):
            shown = printable("".join(token.text for token in run))
            if is_plain:
                text.append(f"[[{shown}]]{weight}" if is_marked or weight else shown)
            else:
                text.append(shown, style=style if is_marked else "")
                text.append(weight, style="dim")
        console.print(text, highlight=False, soft_wrap=True)


def _shown_weight(weight: tuple[float, float] | None) -> str:
    """{2.5} or {2 to 4}; nothing for 1."""
    if weight is None or weight == (1.0, 1.0):
        return ""
    return f"{{{weight[0]:.3g}}}" if weight[0] == weight[1] else f"{{{weight[0]:.3g} to {weight[1]:.3g}}}"


def _print_memory(report: CheckReport, console: Console) -> None:
    console.rule("memory per device", align="left")
    shape = report.model
    console.print(
        f"{shape.num_parameters / 1e9:.3g} B parameters, {shape.num_trained / 1e9:.3g} B trained; about {report.passes_per_step:.1f} "
        "forward passes per device and step", highlight=False,
    )
    columns = {
        "weights": "weights", "grads": "gradients", "adam": "optimizer", "buffers": "buffers", "activ.": "activations", "logits": "logits",
        "other": "overhead", "total": "total", "host": "host",
    }
    table = Table(Column("GiB", no_wrap=True), *columns, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for way, estimate in report.memory.items():
        table.add_row(way, *(f"{getattr(estimate, name) / GIB:.1f}" for name in columns.values()))
    console.print(table)
