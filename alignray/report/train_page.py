"""The report of a training run: curves, how it was computed, what the rows are like, pairs token by token, analyses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson

from alignray.report.page import MISSING, duration, frame, is_number, labelled, mapping, number, percent, total_seconds
from alignray.report.run_folder import RunFolder, lookup, reject_reasons
from alignray.report.token_rewards import MAX_EVALUATIONS, pair_view, watched_pairs
from alignray.report.train_figures import (
    LengthBias,
    before_and_after,
    beta_of,
    confidence_charts,
    curves,
    edit_splits,
    is_sft,
    layout_sentence,
    length_bias,
    objective_name,
    objective_of,
    reference_sentence,
    speed,
    strategy_of,
)

logger = logging.getLogger(__name__)

MAX_PAIRS = 6
SETTINGS = ("batch_size", "epochs", "max_steps", "max_tokens_per_device", "layout", "seed")
FLAGS = {
    "border_merged": "prompt and response kept apart where the tokenizer would have joined them", "edits_cut": "some edited tokens cut off",
    "end_token_in_text": "the response spelled its end token", "prompt_cut": "the prompt's beginning cut off",
    "response_cut": "the response's end cut off", "template_breaks_prefix": "the template renders the prompt anew behind an answer",
}


def train_page(run: RunFolder) -> dict[str, Any]:
    """What train.html shows."""
    facts = [
        ("Model", labelled(lookup(run.config, "model"))), ("Objective", labelled(objective_of(run))),
        ("Optimizer", labelled(lookup(run.config, "optimizer"))), ("Steps", _settings(run)),
        ("Tokens", labelled(lookup(run.config, "tokens"))), ("Seconds by stage", labelled(run.manifest.get("seconds"))),
        ("Versions", labelled(run.manifest.get("versions"))),
    ]
    texts = watched_texts(run)
    pairs = watched_pairs(run.metrics, texts)[:MAX_PAIRS]
    return {
        **frame(run, tiles=_tiles(run), facts=facts, rejects=reject_reasons(run)),
        "messages": _messages(run), "curves": curves(run), "computed": _computed(run), "data": _data(run),
        "pairs": [pair_view(pair, beta=beta_of(run), number=place) for place, pair in enumerate(pairs)],
        "has_texts": bool(texts), "num_evaluations": MAX_EVALUATIONS,
        "splits": [_split(split) for split in edit_splits(run)], "confidence": confidence_charts(run),
        "analyzed": {name: run.analysis.get(name) for name in ("rows", "split", "batch_size")},
    }


def watched_texts(run: RunFolder) -> Mapping[str, Any]:
    """Token texts of the watched pairs by row id; empty where the run wrote none."""
    try:
        return mapping(orjson.loads((run.path / "watched.json").read_bytes()))
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as err:
        logger.warning("%s: watched.json is not JSON (%s); tokens are shown as ids", run.path, err)
        return {}


def _tiles(run: RunFolder) -> list[dict[str, str]]:
    result = mapping(run.manifest.get("result"))
    rows, held_out = result.get("rows"), result.get("eval_rows")
    steps = result.get("steps")
    if not is_number(steps):
        steps = max((line["step"] for line in run.metrics if is_number(line.get("step"))), default=None)
    name, label = ("loss", "Held-out loss") if is_sft(run) else ("accuracy", "Held-out accuracy")
    measured = before_and_after(run, name, (lambda value: f"{value:.4g}") if is_sft(run) else percent)
    seconds, tokens = total_seconds(run), speed(run)
    return [
        {"label": "Examples" if is_sft(run) else "Pairs", "value": number(rows), "note": f"and {number(held_out)} held out"},
        {"label": "Steps", "value": number(steps), "note": objective_name(run)},
        {"label": label, "value": measured[0] if measured else MISSING, "note": measured[1] if measured else "not measured"},
        {"label": "Time", "value": duration(seconds), "note": f"{number(tokens)} tokens a second in training" if tokens else "all stages"},
    ]


def _settings(run: RunFolder) -> list[tuple[str, str]]:
    chosen = {name: run.config.get(name) for name in SETTINGS}
    return [*labelled(chosen), *labelled({"strategy": strategy_of(run), "workers": lookup(run.config, "workers")})]


def _messages(run: RunFolder) -> list[str]:
    """Warnings, and why the run failed."""
    warnings = run.manifest.get("warnings")
    listed = [str(warning) for warning in warnings] if isinstance(warnings, list) else []
    message = str(run.manifest.get("message") or "")
    return listed if message in ("", "; ".join(listed)) else [message, *listed]


def _computed(run: RunFolder) -> list[str]:
    sessions: Any = run.manifest.get("sessions")
    resumed = "The run was stopped and taken up again; steps that were done twice are shown as they went last."
    told = [layout_sentence(run), reference_sentence(run), resumed if is_number(sessions) and sessions > 1 else ""]
    return [sentence for sentence in told if sentence]


def _data(run: RunFolder) -> dict[str, Any] | None:
    stats, bias = mapping(run.manifest.get("tokens")), length_bias(run)
    if not stats and bias is None:
        return None
    kept = stats.get("kept")
    flags = [
        {"meaning": FLAGS.get(str(name), str(name)), "count": count, "rate": count / kept if is_number(kept) and kept else None}
        for name, count in sorted(mapping(stats.get("flags")).items()) if is_number(count)
    ]
    return {"told": _tokens_told(stats, is_sft(run)), "flags": flags, "bias": None if bias is None else _bias(bias)}


def _tokens_told(stats: Mapping[str, Any], is_examples: bool) -> str:
    tokens, targets, edited = (stats.get(name) for name in ("tokens", "targets", "edited"))
    if not is_number(tokens) or not is_number(targets):
        return ""
    if is_examples:
        return f"{number(tokens)} tokens, of which {number(targets)} are targets."
    share = f", {percent(edited / targets)} of them edited" if is_number(edited) and targets else ""
    return f"{number(tokens)} tokens, prompts counted once; {number(targets)} are of responses{share}."


def _bias(bias: LengthBias) -> dict[str, Any]:
    same = bias.pairs - bias.longer - bias.shorter
    bars = [("chosen is longer", bias.longer), ("the same length", same), ("rejected is longer", bias.shorter)]
    return {
        "bars": [{"label": label, "count": count, "percent": round(100 * count / bias.pairs, 1)} for label, count in bars],
        "mean_chosen": f"{bias.mean_chosen:,.1f}", "mean_rejected": f"{bias.mean_rejected:,.1f}",
    }


def _split(split: Mapping[str, Any]) -> dict[str, Any]:
    norms = mapping(split.get("grad_norm"))
    return {
        "name": str(split.get("name")), "rows": split.get("rows"),
        "rates": " to ".join(percent(lookup(split, "edit_rate", end)) for end in ("low", "high")),
        "margin": _figure(split.get("margin")), "accuracy": split.get("accuracy"),
        "norms": [_figure(lookup(norms, name, "mean")) for name in ("untrained", "trained")],
    }


def _figure(value: Any) -> str:
    return f"{value:.3g}" if is_number(value) else MISSING
