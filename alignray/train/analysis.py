"""What training did to held-out pairs: token by token, by how much of a pair was edited, by place in an edited span.

Figures are pure functions of numbers; the models only give log-probabilities and gradients. Shapes: T tokens of one response.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import torch
import yaml
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.objectives import BatchTotals, SFTConfig, preference_loss, token_weights
from alignray.objectives.losses import Side
from alignray.train.config import TrainConfig
from alignray.train.data import Floats, PairRows, PairTokens, share, split_of
from alignray.train.model import TokenScorer, attention_of, load_model
from alignray.train.pack import pad_pairs
from alignray.train.tokenize import ChatTokenizer, TokenizeConfig, load_tokenizer

TOKENS = "tokens"
"""Stage of the token table."""
WATCHED = "watched.json"
"""Texts of the watched pairs' tokens, for the report."""
SPLITS = ("least edited", "in between", "most edited")
MAX_POSITION = 8
"""Positions of an edited span that are told apart; later ones count as this one."""

Values = npt.NDArray[np.float64]


# ---- figures from numbers


def edit_rate(chosen_ids: Iterable[int], rejected_ids: Iterable[int]) -> float:
    """Levenshtein distance over tokens by the longer length, in [0, 1] (thesis 6.4.2)."""
    return float(Levenshtein.normalized_distance(list(chosen_ids), list(rejected_ids)))


def thirds(rates: Sequence[float] | Values) -> list[list[int]]:
    """Positions of the lowest, the middle and the highest third, each in rising order; sizes differ by one at most, ties go by position."""
    order = np.argsort(np.asarray(rates, np.float64), kind="stable")
    return [part.tolist() for part in np.array_split(order, len(SPLITS))]


def span_positions(edited_T: Iterable[Any]) -> list[int]:
    """Place of each token in its run of edited tokens, from 1; 0 where it is not edited."""
    place, places = 0, []
    for is_edited in edited_T:
        place = place + 1 if is_edited else 0
        places.append(place)
    return places


def span_confidence(
    logprobs: Sequence[Floats | Sequence[float]], edited: Sequence[Iterable[Any]], *, max_position: int = MAX_POSITION,
) -> dict[str, Any]:
    """Mean probability of edited tokens by place in their span, and of the unedited ones (thesis Figure 6.2).

    Args:
        logprobs, edited: of the responses of one side, row by row.
    """
    found: dict[int, list[float]] = {}
    for logprobs_T, edited_T in zip(logprobs, edited, strict=True):
        for logprob, place in zip(logprobs_T, span_positions(edited_T), strict=True):
            found.setdefault(min(place, max_position), []).append(math.exp(logprob))
    unedited = found.pop(0, [])
    return {
        "positions": [{"position": place, **_mean_of(values)} for place, values in sorted(found.items())],
        "unedited": _mean_of(unedited),
    }


def _mean_of(values: Sequence[float]) -> dict[str, float | int | None]:
    """Number, mean, and the mean's standard error (None below two values)."""
    count = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None
    return {"tokens": count, "mean": float(np.mean(values)) if count else None, "error": error}


def split_figures(
    rates: Sequence[float], *, margins: Sequence[float], correct: Sequence[float], norms: Mapping[str, Sequence[Sequence[float]]],
) -> list[dict[str, Any]]:
    """Margin, accuracy and gradient norms by third of the edit rates (thesis 6.4.2 and 6.4.3, Figure 6.5).

    Args:
        rates, margins, correct: one number per pair; ``correct`` is 1 where the chosen response has the higher reward.
        norms: by model, for each third the norms of its batches.
    """
    figures = []
    for number, positions in enumerate(thirds(rates)):
        if not positions:
            continue
        here = np.asarray(rates, np.float64)[positions]
        batches = {name: np.asarray(found[number], np.float64) for name, found in norms.items()}
        figures.append({
            "name": SPLITS[number], "rows": len(positions),
            "edit_rate": {"low": float(here.min()), "mean": float(here.mean()), "high": float(here.max())},
            "margin": float(np.asarray(margins, np.float64)[positions].mean()),
            "accuracy": float(np.asarray(correct, np.float64)[positions].mean()),
            "grad_norm": {
                name: {"mean": float(found.mean()), "low": float(found.min()), "high": float(found.max()), "batches": len(found)}
                for name, found in batches.items() if len(found)
            },
        })
    return figures


# ---- models


@dataclass(frozen=True)
class ScoredPair:
    """One pair as a model sees it."""

    chosen_logprobs: Floats
    rejected_logprobs: Floats
    margin: float
    """Reward of chosen minus rejected, as in metrics.jsonl."""
    accuracy: float
    """1.0 where it is positive."""


class PairModel:
    """A model that scores pairs and tells the objective's gradient norm on them; nothing is ever updated."""

    def __init__(self, config: TrainConfig, folder: Path | None = None) -> None:
        """
        Args:
            config: of the run.
            folder: a trained model, or adapters of ``config.model``, which are merged; None: ``config.model`` itself.

        Raises:
            ConfigError: it cannot be loaded.
        """
        self._config, self._device = config, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        attention = attention_of(config.model, self._device)
        has_adapters = folder is not None and (folder / "adapter_config.json").is_file()
        settings = {"lora": None} if folder is None or has_adapters else {"lora": None, "path": str(folder), "revision": None}
        dtype: torch.dtype = getattr(torch, config.model.dtype)
        model = load_model(config.model.model_copy(update=settings), dtype=dtype, attention=attention)
        if has_adapters:
            from peft import PeftModel

            # peft freezes what it adapts, and the gradient is that of all weights
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload().requires_grad_(True)
        self._scorer = TokenScorer(model.to(self._device), attention=attention)

    def score(self, pairs: Sequence[PairTokens]) -> list[ScoredPair]:
        """Each pair; margin and accuracy are 0 where the objective needs reference log-probabilities and the pair has none."""
        found: list[ScoredPair | None] = [None] * len(pairs)
        self._scorer.eval()
        for positions in self._passes(pairs):
            with torch.no_grad():
                sides, logprobs = self._sides([pairs[position] for position in positions])
                margin_B = accuracy_B = torch.zeros(len(positions))
                if self._is_scorable(pairs[positions[0]]):
                    assert not isinstance(self._config.objective, SFTConfig)
                    metrics = preference_loss(sides[0], sides[1], self._config.objective, BatchTotals(len(positions), 1)).metrics
                    margin_B, accuracy_B = metrics["margin"], metrics["accuracy"]
            for number, position in enumerate(positions):
                found[position] = ScoredPair(logprobs[number][0], logprobs[number][1], float(margin_B[number]), float(accuracy_B[number]))
        return [one for one in found if one is not None]

    def gradient_norm(self, pairs: Sequence[PairTokens]) -> float:
        """Norm, over all weights, of the gradient of the objective's mean over these pairs; no clipping, no update."""
        objective = self._config.objective
        assert not isinstance(objective, SFTConfig)
        totals = BatchTotals(len(pairs), sum(len(pair.chosen_ids) for pair in pairs))
        self._scorer.zero_grad()
        self._scorer.train()
        torch.manual_seed(self._config.seed)  # dropout, where a model has it
        for positions in self._passes(pairs):
            sides, _ = self._sides([pairs[position] for position in positions])
            preference_loss(sides[0], sides[1], objective, totals).loss.backward()  # type: ignore[no-untyped-call]
        squares = [float(parameter.grad.float().pow(2).sum()) for parameter in self._scorer.parameters() if parameter.grad is not None]
        self._scorer.zero_grad()
        return math.sqrt(sum(squares))

    def _is_scorable(self, pair: PairTokens) -> bool:
        objective = self._config.objective
        return not isinstance(objective, SFTConfig) and (pair.chosen_reference is not None or not objective.needs_reference)

    def _passes(self, pairs: Sequence[PairTokens]) -> list[list[int]]:
        lengths = [2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs]
        (passes,) = share(np.arange(len(pairs)), lengths, world_size=1, max_tokens=self._config.max_tokens_per_device)
        return passes

    def _sides(self, pairs: Sequence[PairTokens]) -> tuple[list[Side], list[tuple[Floats, ...]]]:
        packed = pad_pairs(pairs).to(self._device)
        logprobs_N: Tensor = self._scorer(packed)
        sides = [layout.side(logprobs_N) for layout in packed.sides]
        one_by_one = [
            tuple(side.policy_BT[row][side.mask_BT[row]].detach().float().cpu().numpy() for side in sides) for row in range(len(pairs))
        ]
        return sides, one_by_one


def score_pair(config: TrainConfig, pair: PairTokens, *, folder: Path, reference: PairModel | None = None) -> dict[str, Any]:
    """One pair under a trained model and its reference, as an entry of ``watched`` in metrics.jsonl.

    Args:
        folder: the trained model, or its adapters.
        reference: the model of the config, if it is loaded already.
    """
    (before,) = (reference or PairModel(config)).score([pair])
    (after,) = PairModel(config, folder).score([pair])
    return watched_entry(config, pair, after, before)


def watched_entry(config: TrainConfig, pair: PairTokens, scored: ScoredPair, reference: ScoredPair) -> dict[str, Any]:
    """A pair with two models' log-probabilities, as an entry of ``watched`` in metrics.jsonl; an SFT run's tokens weigh 1."""
    entry: dict[str, Any] = {"row_id": pair.row_id, "prompt_ids": pair.prompt_ids.tolist()}
    for name in ("chosen", "rejected"):
        logprobs_T, edited_T = getattr(scored, f"{name}_logprobs"), getattr(pair, f"{name}_edited")
        weights_T = np.ones(len(logprobs_T))
        if not isinstance(config.objective, SFTConfig):
            weights_T = token_weights(torch.tensor(logprobs_T), torch.tensor(edited_T), config.objective.weights).numpy()
        entry[name] = {
            "ids": getattr(pair, f"{name}_ids").tolist(), "edited": edited_T.tolist(), "logprobs": _rounded(logprobs_T),
            "weights": _rounded(weights_T), "reference": _rounded(getattr(reference, f"{name}_logprobs")),
        }
    return entry


def _rounded(values_T: Iterable[Any]) -> list[float]:
    return [round(float(value), 4) for value in values_T]


def analyze_pairs(
    config: TrainConfig, pairs: Sequence[PairTokens], folder: Path, *, batch_size: int = 8, max_batches: int = 8,
) -> dict[str, Any]:
    """The analyses of thesis 6.4.2, 6.4.3 and Figure 6.2 on some pairs, for the model before and after training.

    Args:
        folder: the trained model, or its adapters.
        batch_size: pairs of one gradient.
        max_batches: gradients per third of the edit rates; pairs that do not fill a batch are left out of them.
    """
    rates = [edit_rate(pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    splits = thirds(rates)
    norms: dict[str, list[list[float]]] = {}
    confidence: dict[str, Any] = {}
    scored: list[ScoredPair] = []
    known = list(pairs)
    for name in ("untrained", "trained"):
        model = PairModel(config, None if name == "untrained" else folder)
        scored = model.score(known)
        if name == "untrained":
            known = [
                replace(pair, chosen_reference=one.chosen_logprobs, rejected_reference=one.rejected_logprobs)
                for pair, one in zip(pairs, scored, strict=True)
            ]
        confidence[name] = {
            side: span_confidence([getattr(one, f"{side}_logprobs") for one in scored], [getattr(pair, f"{side}_edited") for pair in known])
            for side in ("chosen", "rejected")
        }
        norms[name] = [
            [model.gradient_norm([known[position] for position in batch]) for batch in _whole_batches(positions, batch_size)[:max_batches]]
            for positions in splits
        ]
        del model  # the two are never in memory together
    return {
        "rows": len(pairs), "batch_size": batch_size, "max_position": MAX_POSITION, "confidence": confidence,
        "edit_splits": split_figures(rates, margins=[one.margin for one in scored], correct=[one.accuracy for one in scored], norms=norms),
    }


def _whole_batches(positions: Sequence[int], size: int) -> list[Sequence[int]]:
    """Batches of ``size``; the only one may be smaller."""
    batches = [positions[start : start + size] for start in range(0, len(positions), size)]
    return [batch for number, batch in enumerate(batches) if number == 0 or len(batch) == size]


# ---- run folders


def run_config(run: str) -> tuple[TrainConfig, TokenizeConfig]:
    """What a run folder of ``alignray train`` was trained with.

    Raises:
        RecordError: it is no such folder.
    """
    storage = Storage(run)
    if not storage.exists("config.yaml"):
        raise RecordError(f"{run}: no config.yaml, so this is no run folder of alignray train")
    data = yaml.safe_load(storage.read("config.yaml"))
    if not isinstance(data, dict) or "model" not in data:
        raise RecordError(f"{run}: config.yaml names no model, so this is no run folder of alignray train")
    training = {name: value for name, value in data.items() if name in TrainConfig.model_fields}
    return TrainConfig.model_validate(training), TokenizeConfig.model_validate(data.get("tokens") or {})


def trained_folder(run: str) -> Path:
    """Folder of a run's trained model.

    Raises:
        RecordError: there is none.
    """
    folder = Path(run) / "model"
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise RecordError(f"{folder} holds no model; the run is not finished, or its folder is not on this machine")
    return folder


def held_out_pairs(run: str, limit: int | None = None) -> tuple[str, list[PairTokens]]:
    """The split ("eval", or "train" where nothing was held out) and its first pairs by row id.

    Raises:
        RecordError: the run has no pairs.
    """
    tables = [table for _, table in CommitLog(Storage(run)).tables(TOKENS)]
    if not tables or "chosen_ids" not in tables[0].column_names:
        raise RecordError(f"{run}: no pairs in stages/tokens; these analyses are for runs on preference pairs")
    table = pa.concat_tables(tables)
    split = "eval" if split_of(table, "eval").num_rows else "train"
    rows = PairRows(split_of(table, split).sort_by("row_id").slice(0, limit))
    return split, [rows[position] for position in range(len(rows))]


def pair_by_id(run: str, row_id: str) -> PairTokens:
    """One pair of a run's token table.

    Raises:
        RecordError: there is no such row.
    """
    for _, table in CommitLog(Storage(run)).tables(TOKENS):
        found = table.filter(pc.equal(table["row_id"], row_id))
        if found.num_rows and "chosen_ids" in found.column_names:
            return PairRows(found)[0]
    raise RecordError(f"{run}: no pair {row_id!r} in stages/tokens; ids stand in its row_id column")


def chat_of(config: TrainConfig, tokens: TokenizeConfig) -> ChatTokenizer:
    """The tokenizer of a run."""
    return ChatTokenizer(load_tokenizer(config.model.path, revision=config.model.revision), tokens)


def pair_texts(pair: PairTokens, chat: ChatTokenizer) -> dict[str, list[str]]:
    """Text of each token of a pair."""
    return {name: chat.texts(getattr(pair, f"{name}_ids").tolist()) for name in ("prompt", "chosen", "rejected")}


def write_watched_texts(run: str, config: TrainConfig, tokens: TokenizeConfig) -> None:
    """Write watched.json, which tells the report the texts of the pairs that every evaluation watches; nothing without such pairs."""
    storage = Storage(run)
    log = CommitLog(storage)
    held_out = [
        row_id for _, table in log.tables(TOKENS, columns=("row_id", "split")) for row_id in split_of(table, "eval")["row_id"].to_pylist()
    ]
    wanted = sorted(held_out)[: config.eval.watch_rows]
    if isinstance(config.objective, SFTConfig) or not wanted:
        return
    chat = chat_of(config, tokens)
    texts = {row_id: pair_texts(pair_by_id(run, row_id), chat) for row_id in wanted}
    storage.write(WATCHED, orjson.dumps(texts))
