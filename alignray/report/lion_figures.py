"""Figures of a Lion run from its lion.json: rounds, charts and wheels. What is missing or misshapen is left out."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
from markupsafe import Markup

from alignray.report import charts
from alignray.report.eval_charts import Point, Profile, radar, text_of
from alignray.report.eval_figures import readable
from alignray.report.lion_charts import Histogram, gap_histogram, round_bars, round_curve, score_rows
from alignray.report.page import amount, is_number, mapping
from alignray.report.run_folder import RunFolder, lookup

logger = logging.getLogger(__name__)

ROLES = ("teacher", "student", "referee", "generator")
POOLS = (("cache", "Cache Pool", "all that has been answered by the teacher"), ("hard", "Hard", "where the student is behind"),
         ("generated", "Generated", "what was written after hard and easy ones"))
MAX_SPOKES = 12
"""Categories that a radar can still show."""
MAX_CATEGORIES = 30
"""Categories in bars and table, the most frequent ones; the rest is counted."""
MAX_COMPARED = 14
"""Root verbs in the comparison of the three pools."""
MAX_ROUNDS = 200


@dataclass(frozen=True)
class Round:
    """One entry of lion.json."""

    number: int
    raw: Mapping[str, Any]
    is_closing: bool = False
    """Whether it is the imitation after the last round, which nothing was judged in."""

    def figure(self, *keys: str) -> float | None:
        """A finite number under nested keys, else None."""
        value = lookup(self.raw, *keys)
        return value if is_number(value) else None

    def part(self, *keys: str) -> Mapping[str, Any]:
        """A mapping under nested keys, empty where there is none."""
        return mapping(lookup(self.raw, *keys))

    @property
    def is_judged(self) -> bool:
        return bool(self.figure("judged"))

    @property
    def name(self) -> str:
        return str(self.number)

    @property
    def stopped(self) -> str:
        value = self.raw.get("stopped")
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class LionResults:
    """What lion.json holds, rounds by rising number."""

    rounds: tuple[Round, ...]
    samples: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    num_left_out: int = 0
    """Rounds beyond MAX_ROUNDS."""

    @property
    def judged(self) -> list[Round]:
        """The rounds in which the referee judged something."""
        return [one for one in self.rounds if one.is_judged]


def read_lion(run: RunFolder) -> LionResults:
    """The run's lion.json with control characters made visible; empty where the run wrote none yet."""
    try:
        found = mapping(_readable(orjson.loads((run.path / "lion.json").read_bytes())))
    except FileNotFoundError:
        found = {}
    except orjson.JSONDecodeError as err:
        logger.warning("%s: lion.json is not JSON (%s); the report goes without it", run.path, err)
        found = {}
    by_number = {one["round"]: one for one in _mappings(found.get("rounds")) if _is_round(one.get("round"))}
    rounds = [Round(number, by_number[number]) for number in sorted(by_number)]
    if len(rounds) > 1 and _is_closing(run, rounds[-1]):
        rounds[-1] = Round(rounds[-1].number, rounds[-1].raw, is_closing=True)
    notes = found.get("notes")
    return LionResults(
        tuple(rounds[-MAX_ROUNDS:]), tuple(_mappings(found.get("samples"))),
        tuple(str(note) for note in notes) if isinstance(notes, list) else (), max(len(rounds) - MAX_ROUNDS, 0),
    )


def _is_closing(run: RunFolder, last: Round) -> bool:
    """Whether the last entry is the imitation after the last round, which a run that stops by a rule does before ``rounds``."""
    wanted: Any = run.config.get("rounds")
    is_past = is_number(wanted) and last.number > wanted
    return not last.is_judged and (is_past or run.manifest.get("status") == "done")


def _is_round(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {readable(str(key)): _readable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return readable(value) if isinstance(value, str) else value


def threshold_of(run: RunFolder) -> float | None:
    """The gap from which on an instruction is hard, as the config says."""
    sections = (lookup(run.config, "lion"), run.config)
    found = [lookup(section, name) for section in sections for name in ("tau", "threshold")]
    return next((float(value) for value in found if is_number(value)), None)


# ---- charts over rounds


def pool_chart(rounds: Sequence[Round]) -> Markup:
    """Sizes of the Train Pool and the Cache Pool by round."""
    series = [(label, [one.figure(key) for one in rounds]) for key, label in (("train_pool", "Train Pool"), ("cache_pool", "Cache Pool"))]
    return round_bars([one.name for one in rounds], series, title="Sizes of the pools by round")


def gap_charts(rounds: Sequence[Round], threshold: float | None) -> list[dict[str, Any]]:
    """The distribution of gaps in each judged round, all on the same axes."""
    found = [(one, histogram_of(one)) for one in rounds]
    known = [(one, histogram) for one, histogram in found if histogram is not None]
    if not known:
        return []
    used = [end for _, histogram in known for end in histogram.used]
    span = (min(*used, threshold or 0), max(*used, threshold or 0))
    highest = max(histogram.highest for _, histogram in known)
    return [
        {"round": one.number, "num": histogram.total, "mean": one.figure("gap", "mean"), "chart": gap_histogram(
            histogram, span=span, highest=highest, threshold=threshold, mean=one.figure("gap", "mean"),
            title=f"Gaps in round {one.number}")}
        for one, histogram in known
    ]


def histogram_of(one: Round) -> Histogram | None:
    """The gaps of a round; None where there are none, or edges and counts do not fit each other."""
    edges, counts = lookup(one.raw, "gap", "edges"), lookup(one.raw, "gap", "counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return None
    if not all(map(is_number, [*edges, *counts])) or not all(low < high for low, high in pairwise(edges)):
        return None
    whole = [max(int(count), 0) for count in counts]
    return Histogram(edges, whole) if sum(whole) else None


def learning_curves(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Relative quality and every benchmark over the rounds (thesis Figure 3.5)."""
    shown = []
    relative = [Point(one.number, one.figure("relative_quality")) for one in rounds if not one.is_closing]
    chart = round_curve(relative, title="Relative quality by round")
    if chart:
        shown.append({"title": "Relative quality", "meaning": "student's scores in percent of the teacher's, on the Cache Pool",
                      "chart": chart})
    names = dict.fromkeys(str(name) for one in rounds for name in one.part("benchmarks"))
    for name in names:
        points = [
            Point(one.number, *(one.figure("benchmarks", name, key) for key in ("value", "low", "high"))) for one in rounds
        ]
        chart = round_curve(points, title=f"{name} by round")
        metric = next((value for one in rounds if isinstance(value := lookup(one.raw, "benchmarks", name, "metric"), str)), "")
        if chart:
            shown.append({"title": name, "meaning": metric, "chart": chart})
    return shown


def benchmark_table(rounds: Sequence[Round]) -> dict[str, Any] | None:
    """Rounds by benchmarks with their intervals in words; None without a benchmark."""
    names = list(dict.fromkeys(str(name) for one in rounds for name in one.part("benchmarks")))
    if not names:
        return None
    rows = [
        {"round": one.number, "is_closing": one.is_closing, "cells": [
            text_of(*(one.figure("benchmarks", name, key) for key in ("value", "low", "high")))
            if one.part("benchmarks", name) else None for name in names]}
        for one in rounds
    ]
    return {"names": names, "rows": rows}


# ---- wheels


def wheels(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Root verbs and object nouns of the three pools for each round that has any (thesis Figure 3.3)."""
    shown = []
    for one in rounds:
        trees = [(key, title, meaning, tree_of(one, key)) for key, title, meaning in POOLS]
        if not any(tree["slices"] for *_, tree in trees):
            continue
        drawn = [
            {"title": title, "meaning": meaning, **tree,
             "chart": charts.wheel(tree["slices"], title=f"Root verbs and object nouns, {title.lower()}, round {one.number}")}
            for _, title, meaning, tree in trees
        ]
        shown.append({"round": one.number, "pools": drawn, "compared": compared_verbs([tree for *_, tree in trees])})
    return shown


def tree_of(one: Round, pool: str) -> dict[str, Any]:
    """One wheel's slices and how many instructions it stands for."""
    tree = one.part("verb_nouns", pool)
    slices = []
    for verb in _mappings(tree.get("verbs")):
        if amount(verb.get("count")) <= 0:
            continue
        nouns = [(str(noun.get("noun")), int(noun["count"])) for noun in _mappings(verb.get("nouns")) if amount(noun.get("count")) >= 1]
        slices.append(charts.Slice(str(verb.get("verb")), int(verb["count"]), nouns))
    return {"slices": slices, **{key: tree.get(key) for key in ("total", "recognised", "pairs")}}


def compared_verbs(trees: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shares of the most frequent root verbs in each pool; those of the pool where a verb is most frequent decide the order."""
    shares: dict[str, list[float | None]] = {}
    for place, tree in enumerate(trees):
        of = amount(tree["recognised"]) or sum(piece.count for piece in tree["slices"])
        for piece in tree["slices"]:
            shares.setdefault(piece.label, [None] * len(trees))[place] = piece.count / of
    order = sorted(shares, key=lambda verb: (-max(share or 0 for share in shares[verb]), verb))[:MAX_COMPARED]
    widest = max((share or 0 for verb in order for share in shares[verb]), default=0) or 1
    return [
        {"verb": verb, "shares": [{"rate": share, "percent": round(100 * (share or 0) / widest, 1)} for share in shares[verb]]}
        for verb in order
    ]


# ---- categories


def category_view(judged: Sequence[Round]) -> dict[str, Any] | None:
    """Student against teacher by task category: the last judged round with categories beside the first (thesis Figure 3.4)."""
    named = [one for one in judged if _categories(one)]
    if not named:
        return None
    first, last = named[0], named[-1]
    before, after = _categories(first), _categories(last)
    order = sorted(after, key=lambda name: (-amount(after[name].get("num")), name))
    has_first = first.number != last.number
    sides = [("teacher", after, "teacher", 0), (f"student, round {last.number}", after, "student", 1)]
    if has_first:
        sides.append((f"student, round {first.number}", before, "student", 2))
    shown = order[:MAX_CATEGORIES]
    profiles = [Profile(label, {name: _score(values, name, key) for name in shown}, number) for label, values, key, number in sides]
    scores = [(name, [(label, _score(values, name, key)) for label, values, key, _ in sides]) for name in shown]
    rows = [
        {"category": name, "num": after[name].get("num"), "teacher": _score(after, name, "teacher"),
         "student": _score(after, name, "student"), "first": _score(before, name, "student"), "relative": _relative(after, name),
         "first_relative": _relative(before, name)}
        for name in shown
    ]
    title = f"Mean scores by category, round {last.number}"
    return {
        "first": first.number, "last": last.number, "has_first": has_first, "rows": rows, "rest": len(order) - len(shown),
        "radar": radar(profiles, title=f"{title}, as a radar") if len(shown) <= MAX_SPOKES else Markup(""),
        "bars": score_rows(scores, title=title, unit="mean score of the referee, 1 to 10"),
        "legend": [(f"f{number}", label) for label, _, _, number in sides],
    }


def _categories(one: Round) -> dict[str, Mapping[str, Any]]:
    """By name; one that is named "" only says that the input names none."""
    named = {str(found.get("category") or ""): found for found in _mappings(one.raw.get("categories"))}
    return {name or "(none)": found for name, found in named.items()} if any(named) else {}


def _score(values: Mapping[str, Mapping[str, Any]], name: str, key: str) -> float | None:
    value = lookup(values, name, key)
    return value if is_number(value) else None


def _relative(values: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    teacher, student = _score(values, name, "teacher"), _score(values, name, "student")
    return None if not teacher or student is None or not math.isfinite(student / teacher) else 100 * student / teacher


# ---- cost


def cost_table(run: RunFolder, rounds: Sequence[Round]) -> dict[str, Any] | None:
    """Calls, tokens and dollars by round and role, all rounds beside the plan; None where nothing was asked or planned."""
    planned = planned_by_role(run)
    named = dict.fromkeys([*ROLES, *(str(role) for one in rounds for role in one.part("usage")), *planned])
    roles = [role for role in named if role in planned or any(one.part("usage", role) for one in rounds)]
    if not roles:
        return None
    rows = [
        {"round": one.number, "is_closing": one.is_closing, "cells": [one.part("usage", role) for role in roles],
         "total": _added([one.part("usage", role) for role in roles])}
        for one in rounds
    ]
    totals = [_added([one.part("usage", role) for one in rounds]) for role in roles]
    return {
        "roles": roles, "rows": rows, "totals": totals, "total": _added(totals),
        "planned": [planned.get(role, {}) for role in roles] if planned else [], "planned_total": _added(list(planned.values())),
    }


def planned_by_role(run: RunFolder) -> dict[str, dict[str, float]]:
    """The plan's steps added up by role: that of the plan, else that of the journal, else the last part of the step's name."""
    spent = merged_steps(lookup(run.manifest, "usage", "steps"))
    by_role: dict[str, list[Mapping[str, Any]]] = {}
    for name, step in merged_steps(lookup(run.manifest, "plan", "steps")).items():
        role = step["role"] or lookup(spent, name, "role") or _role_in(name)
        by_role.setdefault(role, []).append(step)
    return {role: _added(steps) for role, steps in by_role.items()}


def merged_steps(steps: Any) -> dict[str, dict[str, Any]]:
    """Usage by step, the rounds of one step ("lion/teacher/round_2") added up under its name; with its role, None where not said."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for name, step in mapping(steps).items():
        by_name.setdefault(re.sub(r"/round_[0-9]+$", "", str(name)), []).append(mapping(step))
    roles = {name: next((role for one in found if isinstance(role := one.get("role"), str)), None) for name, found in by_name.items()}
    return {name: {"role": roles[name], **_added(found)} for name, found in by_name.items()}


def _role_in(step: str) -> str:
    parts = step.split("/")
    return next((role for role in ROLES if role in parts), parts[-1])


def _added(usages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {key: sum(amount(usage.get(key)) for usage in usages) for key in ("calls", "prompt_tokens", "completion_tokens", "usd")}
