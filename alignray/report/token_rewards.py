"""Pairs token by token: reward and weight of every token as colour, at each evaluation of a training run (thesis Figure 6.6).

The page has no script: which evaluation and which figure is shown are radio buttons that the style sheet reads.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alignray.report import charts
from alignray.report.page import MISSING, cut, environment, is_number
from alignray.report.run_folder import write_whole

MAX_EVALUATIONS = 8
"""Evaluations that can be chosen: the first, the last and some between."""
MAX_TOKENS = 800
"""Tokens shown of one response; the rest is counted."""
MAX_SPAN_ROWS = 14
"""Edited tokens whose weights are listed over training."""
MAX_PROMPT = 3000
FULL_COLOUR_RATE = 0.98
"""Share of the tokens whose colour is within the scale; the others have the full one."""
SIDES = ("chosen", "rejected")
MEANINGS = {
    "reward": "β (log π − log π_ref) of each token",
    "change": "β (log π − log π before training) of each token; this objective has no reference model",
    "logprob": "β log π of each token; nothing is known of a reference model",
}
_NAMED = {"\t": "⇥", "\n": "↵\n", "\r": "␍", " ": "␣"}
History = Sequence[tuple[int, Mapping[str, Any]]]
"""Step and entry of ``watched`` at each evaluation, in order."""


@dataclass(frozen=True)
class PairHistory:
    """A pair at some evaluations."""

    row_id: str
    evaluations: History
    texts: Mapping[str, Any]
    """Texts of the tokens of prompt, chosen and rejected; ids stand in where there are none."""


def watched_pairs(lines: Iterable[Mapping[str, Any]], texts: Mapping[str, Any]) -> list[PairHistory]:
    """The watched pairs of metrics.jsonl with their evaluations; of a step that is there twice, the last."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        step: Any = line.get("step")
        watched = line.get("watched")
        for entry in watched if isinstance(watched, list) and is_number(step) else ():
            if _is_whole(entry):
                found.setdefault(str(entry["row_id"]), {})[step] = entry
    histories = []
    for row_id, by_step in found.items():
        known = texts.get(row_id)
        histories.append(PairHistory(row_id, sorted(by_step.items()), known if isinstance(known, Mapping) else {}))
    return histories


def _is_whole(entry: Any) -> bool:
    """Whether all numbers of an entry are there, one per token."""
    if not isinstance(entry, Mapping) or "row_id" not in entry:
        return False
    for name in SIDES:
        side = entry.get(name)
        if not isinstance(side, Mapping) or not isinstance(side.get("ids"), list):
            return False
        for key in ("edited", "logprobs", "weights", "reference"):
            values = side.get(key)
            if key == "reference" and values is None:
                continue
            if not isinstance(values, list) or len(values) != len(side["ids"]):
                return False
            if not all(isinstance(value, bool) or is_number(value) for value in values):
                return False
    return True


def pair_view(pair: PairHistory, *, beta: float, number: int) -> dict[str, Any]:
    """What token_rewards.html shows of a pair.

    Args:
        beta: factor on log-ratios, that of the objective.
        number: tells the pairs of a page apart.
    """
    evaluations = _chosen_evaluations(pair.evaluations)
    last = evaluations[-1][1]
    kind = "reward" if last["chosen"]["reference"] is not None else "change" if evaluations[0][0] == 0 < evaluations[-1][0] else "logprob"
    rewards = {name: [_rewards(entry[name], evaluations[0][1][name], kind, beta) for _, entry in evaluations] for name in SIDES}
    weights = {name: [entry[name]["weights"] for _, entry in evaluations] for name in SIDES}
    reward_scale = _scale([abs(value) for name in SIDES for row in rewards[name] for value in row])
    weight_scale = max((value - 1 for name in SIDES for row in weights[name] for value in row), default=0.0)
    sides = [
        _side(name, evaluations, pair.texts.get(name), rewards[name], weights[name], reward_scale, weight_scale) for name in SIDES
    ]
    return {
        "number": number, "row_id": pair.row_id, "steps": [step for step, _ in evaluations], "meaning": MEANINGS[kind],
        "prompt": _prompt(pair, last), "sides": sides, "reward_scale": f"{reward_scale:.2g}", "weight_scale": f"{1 + weight_scale:.3g}",
        "has_weights": weight_scale > 0, "chart": _reward_chart(evaluations, rewards),
        "margin": f"{sum(rewards['chosen'][-1]) - sum(rewards['rejected'][-1]):+.3g}",
    }


def _chosen_evaluations(history: History) -> History:
    if len(history) <= MAX_EVALUATIONS:
        return history
    return [history[round(place * (len(history) - 1) / (MAX_EVALUATIONS - 1))] for place in range(MAX_EVALUATIONS)]


def _rewards(side: Mapping[str, Any], first: Mapping[str, Any], kind: str, beta: float) -> list[float]:
    base = {"reward": side["reference"], "change": first["logprobs"]}.get(kind) or [0.0] * len(side["logprobs"])
    return [beta * (logprob - other) for logprob, other in zip(side["logprobs"], base, strict=True)]


def _scale(values: Sequence[float]) -> float:
    """What has the full colour; never 0."""
    ordered = sorted(value for value in values if value > 0)
    return ordered[min(int(FULL_COLOUR_RATE * len(ordered)), len(ordered) - 1)] if ordered else 1.0


def _side(
    name: str, evaluations: History, texts: Any, rewards: Sequence[Sequence[float]], weights: Sequence[Sequence[float]],
    reward_scale: float, weight_scale: float,
) -> dict[str, Any]:
    last = evaluations[-1][1][name]
    ids, edited = last["ids"], last["edited"]
    shown = visible_texts(ids, texts)
    tokens = []
    for place in range(min(len(ids), MAX_TOKENS)):
        colours = {f"r{k}": row[place] / reward_scale for k, row in enumerate(rewards)}
        colours |= {f"w{k}": (row[place] - 1) / (weight_scale or 1) for k, row in enumerate(weights)}
        bounded = {key: round(max(-1.0, min(1.0, value)), 2) for key, value in colours.items()}
        reference = last["reference"][place] if last["reference"] is not None else None
        tokens.append({
            "text": shown[place], "is_edited": bool(edited[place]),
            # numbers only, so it is safe as a style
            "style": Markup("".join(f"--{key}:{value:g};" for key, value in bounded.items() if value)),
            "tip": _tip(ids[place], last["logprobs"][place], reference, rewards[-1][place], weights[-1][place]),
        })
    places = [place for place, is_edited in enumerate(edited) if is_edited]
    return {
        "name": name, "tokens": tokens, "rest": max(len(ids) - MAX_TOKENS, 0), "num_edited": len(places), "num_tokens": len(ids),
        "reward": f"{sum(rewards[-1]):+.3g}",
        "spans": [
            {"text": shown[place].strip("\n"), "place": place + 1,
             "cells": [{"value": f"{row[place]:.2f}", "share": round((row[place] - 1) / (weight_scale or 1), 2)} for row in weights]}
            for place in places[:MAX_SPAN_ROWS]
        ],
        "more_spans": max(len(places) - MAX_SPAN_ROWS, 0),
    }


def _tip(token_id: int, logprob: float, reference: float | None, reward: float, weight: float) -> str:
    known = f", reference {reference:.3g}" if reference is not None else ""
    return f"token {token_id}: log-probability {logprob:.3g}{known}, reward {reward:+.3g}, weight {weight:.3g}"


def visible_texts(ids: Sequence[int], texts: Any) -> list[str]:
    """What to show for each token: its text with whitespace and control characters made visible; its id where it has no text known."""
    if not isinstance(texts, list) or len(texts) != len(ids):
        return [f"⟨{token_id}⟩" for token_id in ids]
    return [visible(str(text)) for text in texts]


def visible(text: str) -> str:
    """A token's text with what one would not see shown: ends of line, tabs, lone blanks, control and format characters, bytes."""
    if not text:
        return "·"  # a part of a character, or nothing
    if text.strip(" ") == "":
        return "␣" * len(text)
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in _NAMED and character != " ":
        return _NAMED[character]
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    # zero-width joiners shape scripts and emoji, so they stay
    if character != "\u200d" and unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}:
        return f"⟨U+{code:04X}⟩"
    return character


def _prompt(pair: PairHistory, entry: Mapping[str, Any]) -> str:
    texts, ids = pair.texts.get("prompt"), entry.get("prompt_ids")
    if isinstance(texts, list):
        return cut("".join(map(str, texts)), MAX_PROMPT)
    return f"{len(ids):,} tokens, texts not known" if isinstance(ids, list) else MISSING


def _reward_chart(evaluations: History, rewards: Mapping[str, Sequence[Sequence[float]]]) -> Markup | None:
    if len(evaluations) < 2:
        return None
    series = [
        charts.Series(name, [(step, sum(row)) for (step, _), row in zip(evaluations, rewards[name], strict=True)]) for name in SIDES
    ]
    return charts.lines(series, title="Rewards of this pair", x_unit="step", from_zero=False)


def write_token_rewards(
    path: Path, pairs: Sequence[PairHistory], *, beta: float, title: str, facts: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a page about some pairs alone, replacing an older one whole, and return its path.

    Args:
        facts: what to say of the models, as (label, value).
    """
    views = [pair_view(pair, beta=beta, number=number) for number, pair in enumerate(pairs)]
    text = environment().get_template("token_rewards_page.html").render(
        name=title, method="token rewards", status={"css": "done", "text": f"{len(views)} pair{'s' if len(views) != 1 else ''}"},
        started=None, finished=None, tiles=[], facts=[("Models", list(facts))], config="", fingerprint=None, alignray=None,
        pairs=views, num_evaluations=MAX_EVALUATIONS,
    )
    return write_whole(path, text)
