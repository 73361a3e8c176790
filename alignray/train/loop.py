"""One rank's training loop. Everything a step does follows from the config, the rows and the number of the step."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from alignray.errors import RecordError, TrainingError
from alignray.objectives import BatchTotals, LossOutput, SFTConfig, preference_loss, sft_loss, token_weights
from alignray.seeding import draw
from alignray.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from alignray.train.config import OptimizerConfig, TrainConfig
from alignray.train.data import ExampleRows, Ints, PairRows, batches, share, steps_of
from alignray.train.model import TokenScorer, attention_of, load_model, why_not_shared
from alignray.train.pack import Packed, pack_examples, pack_pairs, pad_pairs
from alignray.train.strategies import Ranks, Strategy, build_strategy

logger = logging.getLogger(__name__)

Rows = PairRows | ExampleRows


class Reporter(Protocol):
    """Where a loop tells how it goes, and finds where it stood."""

    def report(self, line: dict[str, Any], checkpoint: Path | None) -> None:
        """A line of metrics; with a folder, that folder is kept as the newest checkpoint. Every rank calls it."""
        ...

    def newest(self) -> AbstractContextManager[Path | None]:
        """The newest checkpoint of an earlier session."""
        ...

    def wants_checkpoint(self) -> bool:
        """Whether to write one now, because the machine is about to go. Every rank calls it."""
        ...


@dataclass
class Result:
    """How a run ended."""

    steps: int
    metrics: dict[str, Any] = field(default_factory=dict)
    """The last line of training and, prefixed eval_, of evaluation."""
    layout: str = ""
    layout_reason: str | None = None
    """Why prefixes are not shared, where they could have been."""


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """Rate of step 0, 1, ...: linear warm-up from 0 (step 0 gets the first rise), then the schedule down to 0 after the last step."""
    warmup = math.ceil(config.warmup_rate * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.schedule]
    return config.learning_rate * factor


def train_loop(config: TrainConfig, rows: Rows, held_out: Rows | None, ranks: Ranks, reporter: Reporter) -> Result:
    """Train to the end, from the newest checkpoint where there is one.

    Args:
        rows: pairs for a preference objective, examples for sft; all of them on every rank.
        held_out: evaluated now and then; None: never.

    Raises:
        RecordError: there are no rows.
        TrainingError: a loss is no number.
    """
    if not len(rows):
        raise RecordError("0 rows to train on: all are held out or rejected; lower input.eval_rate, or look into the run's rejects/")
    strategy = build_strategy(config, ranks)
    trainer = _Trainer(config, ranks, strategy, *_layout(config, ranks, strategy, isinstance(rows, PairRows)))
    total = steps_of(len(rows), config.batch_size, epochs=config.epochs, max_steps=config.max_steps)
    with reporter.newest() as folder:
        progress = load_checkpoint(folder, strategy, config, ranks) if folder is not None else Progress(0, [])
    if progress.step:
        logger.info("going on after step %d of %d", progress.step, total)
    history = list(progress.history)
    last, evaluated = ({} if line is None else line for line in (_last(history, "train"), _last(history, "eval")))
    per_epoch = -(-len(rows) // config.batch_size)
    if held_out is not None and len(held_out) and progress.step == 0:
        evaluated = trainer.evaluate(held_out, 0)
        _tell(reporter, history, evaluated, None)
    for step in range(progress.step, total):
        epoch, number = divmod(step, per_epoch)
        batch = batches(len(rows), config.batch_size, epoch=epoch, seed=config.seed)[number]
        last = trainer.step(rows, batch, step, total) | {"epoch": round((step + 1) / per_epoch, 4)}
        done = step + 1
        if held_out is not None and len(held_out) and (done % config.eval.every_steps == 0 or done == total):
            evaluated = trainer.evaluate(held_out, done)
            _tell(reporter, history, evaluated, None)
        must_save = reporter.wants_checkpoint()
        if done % config.checkpoint_every_steps == 0 or done == total or must_save:
            with _checkpoint(strategy, config, ranks, Progress(done, [*history, last])) as folder:
                _tell(reporter, history, last, folder)
                ranks.wait()
        elif done % config.log_every_steps == 0:
            _tell(reporter, history, last, None)
    metrics = {**last, **{f"eval_{name}": value for name, value in evaluated.items() if name not in ("kind", "watched")}}
    return Result(total, metrics, trainer.layout, trainer.layout_reason)


def _last(history: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    return next((line for line in reversed(history) if line["kind"] == kind), None)


def _tell(reporter: Reporter, history: list[dict[str, Any]], line: dict[str, Any], checkpoint: Path | None) -> None:
    history.append(line)
    reporter.report(line, checkpoint)


class _checkpoint(AbstractContextManager[Path]):  # noqa: N801  reads as "with _checkpoint"
    """This rank's files of a checkpoint, in a folder that goes away after it was reported."""

    def __init__(self, strategy: Strategy, config: TrainConfig, ranks: Ranks, progress: Progress) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="alignray-checkpoint-"))
        save_checkpoint(self._folder, strategy, config, ranks, progress)

    def __enter__(self) -> Path:
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _layout(config: TrainConfig, ranks: Ranks, strategy: Strategy, is_pairs: bool) -> tuple[str, str | None]:
    """shared_prefix or padded for pairs, packed or padded for examples; and why not the former."""
    if config.layout == "padded":
        return "padded", None
    why = why_not_shared(strategy.scorer, strategy.forward, ranks.device)
    if why is None:
        return "shared_prefix" if is_pairs else "packed", None
    if config.layout == "shared_prefix":
        logger.warning("layout=shared_prefix is not possible: %s", why)
    logger.info("rows are padded: %s", why)
    return "padded", why


class _Trainer:
    """Steps and evaluations of one rank."""

    def __init__(self, config: TrainConfig, ranks: Ranks, strategy: Strategy, layout: str, layout_reason: str | None) -> None:
        self._config, self._ranks, self._strategy = config, ranks, strategy
        self.layout, self.layout_reason = layout, layout_reason
        # kernels that skip hidden blocks take one long row; a dense mask is cheaper over rows as short as the longest item
        self._row_tokens = None if attention_of(config.model, ranks.device) == "flex_attention" else 1
        self._reference: TokenScorer | None = None
        if config.eval.kl_rows:
            attention = attention_of(config.model, ranks.device)
            plain = config.model.model_copy(update={"lora": None, "gradient_checkpointing": False})
            dtype: torch.dtype = getattr(torch, config.model.dtype)
            model = load_model(plain, dtype=dtype, attention=attention).to(ranks.device).eval().requires_grad_(False)
            self._reference = TokenScorer(model, attention=attention)

    def step(self, rows: Rows, batch: Ints, step: int, total: int) -> dict[str, Any]:
        """One optimizer step over a global batch; its line of metrics."""
        started = time.perf_counter()
        torch.manual_seed(draw(self._config.seed, "dropout", f"{step} {self._ranks.rank}") >> 1)
        totals = BatchTotals(len(batch), int(rows.targets[batch].sum()))
        passes = self._passes(rows, batch)
        sums = _Sums()
        bad: list[str] = []
        self._strategy.scorer.train()
        for number, positions in enumerate(passes):
            self._strategy.begin(is_last=number == len(passes) - 1)
            out, num_tokens = self._forward(rows, positions, totals)
            bad += _not_finite(rows, positions, out)
            sums.add(out, num_tokens)
            self._strategy.backward(out.loss)
        found = sums.total(self._ranks, also=[float(len(bad))])
        if found.also[0]:
            self._stop(bad, step)
        rate = learning_rate(step, total, self._config.optimizer)
        norm = self._strategy.step(rate)
        if not math.isfinite(norm):
            raise TrainingError(f"step {step + 1}: the gradient norm is {norm}; rows of the batch: {', '.join(_ids(rows, batch)[:8])} ... "
                                "Lower optimizer.learning_rate, or train in float32")
        took = time.perf_counter() - started
        speed = {"tokens_per_s": round(found.tokens / took, 1), "rows_per_s": round(len(batch) / took, 3), "step_s": round(took, 4)}
        return {
            "kind": "train", "step": step + 1, "loss": found.loss, "learning_rate": rate, "grad_norm": norm, "rows": len(batch),
            "tokens": found.tokens, "passes": len(passes), **speed, **found.means,
        }

    def evaluate(self, rows: Rows, step: int) -> dict[str, Any]:
        """The objective on held-out rows."""
        everything = torch.arange(len(rows)).numpy()
        totals = BatchTotals(len(rows), max(int(rows.targets.sum()), 1))
        sums = _Sums()
        self._strategy.scorer.eval()
        with torch.no_grad():
            for positions in self._passes(rows, everything):
                out, num_tokens = self._forward(rows, positions, totals)
                sums.add(out, num_tokens)
            found = sums.total(self._ranks)
            line = {"kind": "eval", "step": step, "loss": found.loss, "rows": len(rows), "tokens": found.tokens, **found.means}
            if self._reference is not None:
                line["kl"] = self._kl(rows)
            if isinstance(rows, PairRows) and self._config.eval.watch_rows:
                line["watched"] = self._watched(rows)
        return line

    def _passes(self, rows: Rows, batch: Ints) -> list[list[int]]:
        ranks = self._ranks
        return share(batch, rows.lengths, world_size=ranks.world_size, max_tokens=self._config.max_tokens_per_device)[ranks.rank]

    def _forward(self, rows: Rows, positions: Sequence[int], totals: BatchTotals) -> tuple[LossOutput, int]:
        """Loss of some rows; without any, a pass for the collectives' sake whose loss is 0."""
        packed = self._pack(rows, positions or [0]).to(self._ranks.device)
        logprobs_N = self._strategy.forward(packed)
        sides = [side.side(logprobs_N) for side in packed.sides]
        objective = self._config.objective
        if isinstance(objective, SFTConfig):
            out = sft_loss(sides[0].policy_BT, sides[0].mask_BT, totals)
        else:
            out = preference_loss(sides[0], sides[1], objective, totals)
        if positions:
            return out, packed.num_tokens
        return LossOutput(out.loss * 0, {name: values[:0] for name, values in out.metrics.items()}), 0

    def _pack(self, rows: Rows, positions: Iterable[int]) -> Packed:
        if isinstance(rows, PairRows):
            pairs = [rows[position] for position in positions]
            return pad_pairs(pairs) if self.layout == "padded" else pack_pairs(pairs, row_tokens=self._row_tokens)
        examples = [rows[position] for position in positions]
        if self.layout == "padded":
            return pack_examples(examples, alone=True)
        return pack_examples(examples, row_tokens=self._row_tokens)

    def _kl(self, rows: Rows) -> float:
        """Mean KL(policy || reference) over the response positions of the first held-out rows, nats per token."""
        number = min(self._config.eval.kl_rows, len(rows))
        total = count = 0.0
        for positions in self._passes(rows, torch.arange(number).numpy()):
            packed = self._pack(rows, positions or [0]).to(self._ranks.device)
            kl_N = self._strategy.forward(packed, self._reference)[1]
            for side in packed.sides if positions else ():
                total += float(kl_N[side.at_BT][side.mask_BT].sum())
                count += int(side.mask_BT.sum())
        summed = self._ranks.sum(torch.tensor([total, count], dtype=torch.float64))
        return float(summed[0] / summed[1])

    def _watched(self, rows: PairRows) -> list[dict[str, Any]]:
        """Token by token, for a few pairs; every rank computes them, as sharded weights need."""
        shown = []
        for position in range(min(self._config.eval.watch_rows, len(rows))):
            pair = rows[position]
            packed = self._pack(rows, [position]).to(self._ranks.device)
            logprobs_N = self._strategy.forward(packed)
            entry: dict[str, Any] = {"row_id": pair.row_id, "prompt_ids": pair.prompt_ids.tolist()}
            for name, layout in zip(("chosen", "rejected"), packed.sides, strict=True):
                side = layout.side(logprobs_N)
                assert not isinstance(self._config.objective, SFTConfig)
                weights_BT = token_weights(side.policy_BT, side.edited_BT, self._config.objective.weights)
                entry[name] = {
                    "ids": getattr(pair, f"{name}_ids").tolist(), "edited": getattr(pair, f"{name}_edited").tolist(),
                    "logprobs": _rounded(side.policy_BT[0]), "weights": _rounded(weights_BT[0]),
                    "reference": None if side.reference_BT is None else _rounded(side.reference_BT[0]),
                }
            shown.append(entry)
        return shown

    def _stop(self, bad: list[str], step: int) -> None:
        everywhere = [row_id for ids in self._ranks.gather(bad[:8]) for row_id in ids]
        raise TrainingError(f"step {step + 1}: the loss of row {', '.join(everywhere[:8])} is not a number; look at these rows, lower "
                            "optimizer.learning_rate, or train in float32")


@dataclass(frozen=True)
class _Found:
    loss: float
    tokens: int
    means: dict[str, float]
    also: list[float]


class _Sums:
    """Metrics of this rank's passes, to be summed over ranks in one go."""

    def __init__(self) -> None:
        self._loss, self._tokens, self._rows = 0.0, 0, 0
        self._metrics: dict[str, float] = {}

    def add(self, out: LossOutput, num_tokens: int) -> None:
        self._loss += float(out.loss.detach())
        self._tokens += num_tokens
        self._rows += len(out.metrics["loss"])
        for name, values in out.metrics.items():
            if name != "loss":
                self._metrics[name] = self._metrics.get(name, 0.0) + float(values.double().sum())

    def total(self, ranks: Ranks, also: Sequence[float] = ()) -> _Found:
        names = sorted(self._metrics)
        numbers = [self._loss, float(self._tokens), float(self._rows), *(self._metrics[name] for name in names), *also]
        summed: list[float] = ranks.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()
        loss, tokens, rows = summed[:3]
        means = {name: value / max(rows, 1) for name, value in zip(names, summed[3 : 3 + len(names)], strict=True)}
        return _Found(loss, int(tokens), means, summed[3 + len(names) :])


def _not_finite(rows: Rows, positions: Sequence[int], out: LossOutput) -> list[str]:
    if torch.isfinite(out.metrics["loss"]).all() or not positions:
        return []
    is_fine = torch.isfinite(out.metrics["loss"]).tolist()
    return [rows[position].row_id for position, fine in zip(positions, is_fine, strict=True) if not fine]


def _ids(rows: Rows, positions: Iterable[int]) -> list[str]:
    return [rows[int(position)].row_id for position in positions]


def _rounded(values_T: Tensor) -> list[float]:
    return [round(value, 4) for value in values_T.float().tolist()]
