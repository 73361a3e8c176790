"""Figures and curves of a training run, from its manifest, its metrics, its token table and its analyses alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from alignray.errors import AlignrayError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.report import charts
from alignray.report.page import is_number, mapping, number, percent
from alignray.report.run_folder import RunFolder, lookup

logger = logging.getLogger(__name__)

MAX_POINTS = 160
"""Points of a curve; training lines beyond are averaged."""
OBJECTIVES = {
    "sft": "supervised fine-tuning", "dpo": "DPO", "ipo": "IPO", "orpo": "ORPO", "r_dpo": "R-DPO", "simpo": "SimPO", "figa": "FIGA",
}
WEIGHTINGS = {"bmc": "-BMC", "constant": " (CW)", "every": " (EW)"}
ENDS = ("train", "eval")
Points = list[tuple[float, float]]


def objective_of(run: RunFolder) -> Mapping[str, Any]:
    """The objective as the manifest says it, or as the config did before there was a manifest."""
    return mapping(run.manifest.get("objective")) or mapping(lookup(run.config, "objective"))


def objective_name(run: RunFolder) -> str:
    """Such as DPO-BMC."""
    objective = objective_of(run)
    kind = str(objective.get("kind", "dpo"))
    return OBJECTIVES.get(kind, kind) + WEIGHTINGS.get(str(lookup(objective, "weights", "kind")), "")


def is_sft(run: RunFolder) -> bool:
    """Whether the run learnt from examples, not from pairs."""
    return objective_of(run).get("kind") == "sft"


def beta_of(run: RunFolder) -> float:
    """Factor on log-ratios in rewards; 1 for objectives without one."""
    objective = objective_of(run)
    beta: Any = objective.get("beta")
    return float(beta) if is_number(beta) and objective.get("kind") in {"dpo", "r_dpo", "simpo"} else 1.0


def lines_of(metrics: Iterable[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """Lines of metrics.jsonl of one kind by rising step; a step that was done again after a restart counts as it went last."""
    by_step = {line["step"]: line for line in metrics if line.get("kind") == kind and is_number(line.get("step"))}
    return [by_step[step] for step in sorted(by_step)]


def points(lines: Iterable[Mapping[str, Any]], name: str, factor: float = 1.0) -> Points:
    """(step, value) where the lines have a number. Of a model that is its own reference there is no accuracy: all rewards are 0."""
    return [
        (line["step"], factor * line[name]) for line in lines
        if is_number(line.get(name)) and not (name == "accuracy" and line.get("margin") == line.get("chosen_reward") == 0)
    ]


def smooth(values: Points, limit: int = MAX_POINTS) -> Points:
    """At most ``limit`` points: means over as many neighbours each."""
    if len(values) <= limit:
        return values
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in np.array_split(np.asarray(values, float), limit)]


def speed(run: RunFolder) -> float | None:
    """Tokens per second over all training steps that were logged, the time between steps left out."""
    lines = [line for line in lines_of(run.metrics, "train") if is_number(line.get("tokens")) and is_number(line.get("step_s"))]
    seconds = sum(line["step_s"] for line in lines)
    return sum(line["tokens"] for line in lines) / seconds if seconds else None


def curves(run: RunFolder) -> list[dict[str, Any]]:
    """The charts over steps: title, meaning, chart, legend; those without a number are left out."""
    train, held_out = lines_of(run.metrics, "train"), lines_of(run.metrics, "eval")

    def both(name: str, factor: float = 1.0) -> list[charts.Series]:
        return _series([("training", points(train, name, factor)), ("held out", points(held_out, name, factor))])

    def sides(name: str) -> list[charts.Series]:
        lines = held_out if len(points(held_out, f"chosen_{name}")) > 1 else train
        return _series([("chosen", points(lines, f"chosen_{name}")), ("rejected", points(lines, f"rejected_{name}"))])

    where = "held-out pairs" if len(held_out) > 1 else "training pairs"
    weighted = lookup(objective_of(run), "weights", "kind") not in (None, "none")
    wanted: list[tuple[str, str, list[charts.Series], bool]] = [
        ("Loss", "of the objective", both("loss"), False),
        ("Reward margin", "chosen minus rejected", both("margin"), False),
        ("Accuracy", "percent of pairs whose chosen reward is higher", both("accuracy", 100), False),
        ("Rewards", f"mean, {where}", sides("reward"), False),
        ("Log-probability", f"mean per token, {where}", sides("logprob"), False),
        *([("Token weight", f"mean λ of edited tokens, {where}", sides("weight"), False)] if weighted else []),
        ("KL from the reference", "nats per token on held-out responses", _series([("held out", points(held_out, "kl"))]), True),
        ("Gradient norm", "before clipping", _series([("training", points(train, "grad_norm"))]), True),
        ("Learning rate", "of each step", _series([("training", points(train, "learning_rate"))]), True),
        ("Tokens per second", "over all devices", _series([("training", points(train, "tokens_per_s"))]), True),
    ]
    shown = []
    for title, meaning, series, from_zero in wanted:
        chart = charts.lines(series, title=title, x_unit="step", from_zero=from_zero)
        if chart:
            legend = [(f"s{place}", one.label) for place, one in enumerate(series)] if len(series) > 1 else []
            shown.append({"title": title, "meaning": meaning, "chart": chart, "legend": legend, "unedited": ""})
    return shown


def _series(named: Sequence[tuple[str, Points]]) -> list[charts.Series]:
    """Series with points, thinned out; a lone point is drawn as a dot."""
    return [charts.Series(name, smooth(found) if len(found) > 1 else found * 2) for name, found in named if found]


# ---- lengths


@dataclass(frozen=True)
class LengthBias:
    """How the lengths of chosen and rejected compare."""

    pairs: int
    longer: int
    """Pairs whose chosen response is the longer one."""
    shorter: int
    mean_chosen: float
    mean_rejected: float

    @property
    def rate(self) -> float:
        return self.longer / self.pairs


def length_bias(run: RunFolder) -> LengthBias | None:
    """From the token table; None where it is not there, as in the copy of a run on an object store, or holds no pairs."""
    if is_sft(run):
        return None
    lengths: list[tuple[Any, ...]] = []
    try:
        for _, table in CommitLog(Storage(str(run.path))).tables("tokens", columns=("chosen_ids", "rejected_ids")):
            lengths.append(tuple(pc.list_value_length(table[f"{side}_ids"]).to_numpy() for side in ("chosen", "rejected")))
    except (AlignrayError, OSError, KeyError, ValueError) as err:
        logger.info("%s: no lengths of pairs (%s)", run.path, err)
        return None
    if not lengths:
        return None
    chosen, rejected = (np.concatenate([pair[side] for pair in lengths]) for side in (0, 1))
    return LengthBias(
        len(chosen), int((chosen > rejected).sum()), int((chosen < rejected).sum()), float(chosen.mean()), float(rejected.mean()),
    )


# ---- sentences


def strategy_of(run: RunFolder) -> dict[str, Any]:
    """How the work was spread, without settings that only DeepSpeed heeds."""
    strategy = mapping(lookup(run.config, "strategy"))
    return {name: value for name, value in strategy.items() if name == "kind" or strategy.get("kind") == "deepspeed"}


def layout_sentence(run: RunFolder) -> str:
    """How rows were laid out, and why."""
    layout, reason = (lookup(run.manifest, "result", name) for name in ("layout", "layout_reason"))
    told = {
        "shared_prefix": "What chosen and rejected have in common was computed once, and rows were packed.",
        "packed": "Examples were packed into rows; none sees another.",
        "padded": "Rows were padded, each response in a row of its own.",
    }.get(str(layout), "")
    return f"{told} The reason: {reason}." if told and reason else told


def reference_sentence(run: RunFolder) -> str:
    """How much of the reference log-probabilities was there already."""
    facts = mapping(run.manifest.get("reference"))
    distinct, found, computed = (facts.get(name) for name in ("distinct", "found", "computed"))
    if not is_number(distinct):
        return ""
    passes = facts.get("passes")
    worked = f"{number(computed)} computed"
    if is_number(passes) and passes:
        worked += f" in {number(passes)} forward pass{'es' * (passes != 1)}"
    reused = f"{number(found)} ({percent(found / distinct)})" if is_number(found) and distinct else number(found)
    return f"Reference log-probabilities of {number(distinct)} distinct pairs: {reused} were in the store already, {worked}."


def before_and_after(run: RunFolder, name: str, shown: Callable[[float], str]) -> tuple[str, str] | None:
    """A held-out figure after training, and a note of what it was before; None where it was not measured."""
    values = points(lines_of(run.metrics, "eval"), name)
    if not values:
        return None
    (first, before), (last, after) = values[0], values[-1]
    return shown(after), f"{shown(before)} before training" if first == 0 < last else f"after step {number(last)}"


# ---- analysis.json


def confidence_charts(run: RunFolder) -> list[dict[str, Any]]:
    """Mean probability of edited tokens by place in their span, before and after training (thesis Figure 6.2)."""
    shown = []
    last = run.analysis.get("max_position")
    x_unit = f"place in the span, {last} and later in one" if is_number(last) else "place in the span"
    for side in ("chosen", "rejected"):
        series: list[charts.Series] = []
        unedited: list[str] = []
        for name, label in (("untrained", "before training"), ("trained", "after")):
            found = mapping(lookup(run.analysis, "confidence", name, side))
            values = [
                (place["position"], place["mean"]) for place in found.get("positions") or ()
                if is_number(lookup(place, "position")) and is_number(lookup(place, "mean"))
            ]
            series += _series([(label, values)])
            if is_number(mean := lookup(found, "unedited", "mean")):
                unedited.append(f"{mean:.3f} {label}")
        if series:
            shown.append({
                "title": f"Edited tokens of {side}", "meaning": "mean probability, by place in the edited span",
                "chart": charts.lines(series, title=f"Confidence in edited tokens of {side}", x_unit=x_unit),
                "legend": [(f"s{place}", one.label) for place, one in enumerate(series)], "unedited": ", ".join(unedited),
            })
    return shown


def edit_splits(run: RunFolder) -> list[Mapping[str, Any]]:
    """The thirds of the edit rates, as analysis.json holds them."""
    splits = run.analysis.get("edit_splits")
    return [split for split in splits if isinstance(split, Mapping)] if isinstance(splits, list) else []
