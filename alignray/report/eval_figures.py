"""analysis.json of an evaluation as the report and the card tell it: tables, charts, and which candidates can be told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from alignray.report.eval_charts import Bar, Curve, Point, Profile, figure, interval_bars, level_curves, radar, text_of, tone
from alignray.report.page import MISSING, is_number, labelled, mapping, number, percent
from alignray.report.run_folder import RunFolder
from alignray.schema import Figure

MAX_FIGURES = 400
"""Rows of one benchmark's table of figures; the rest is counted."""
MAX_DETAILS = 200
"""Rows of one table of details; the rest is counted."""
MAX_SENTENCES = 12
"""Pairs of candidates that are told in words under one benchmark; all are in the table of comparisons."""
MAX_BARS = 60
_DRAWN = ("levels", "curves", "radar", "judge_failures", "notes", "headline")
"""Details that have a place of their own on the page."""
_UNREADABLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127) if code not in (9, 10)}


@dataclass(frozen=True)
class Comparison:
    """Two candidates on the same items."""

    benchmark: str
    metric: str
    first: str
    second: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    num: int
    verdict: str
    """In the words of the run."""

    @property
    def is_separable(self) -> bool:
        """Whether the interval of the difference leaves out 0 and the run does not say otherwise (after a correction, say)."""
        if self.low is None or self.high is None or "not separable" in self.verdict.lower().replace("_", " "):
            return False
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Pair:
    """What is known of two candidates' order on a benchmark."""

    first: str
    second: str
    comparison: Comparison | None
    """None: they were not compared on the same items."""
    is_overlapping: bool
    """Whether their own intervals overlap, or one has none."""

    @property
    def is_separable(self) -> bool:
        return self.comparison.is_separable if self.comparison is not None else False


@dataclass(frozen=True)
class Results:
    """The analysis of a run, read with care: what is missing or misshapen is left out."""

    analysis: Mapping[str, Any]

    @cached_property
    def candidates(self) -> list[str]:
        """In the order of the file, which is the config's and no ranking."""
        return [str(name) for name in mapping(self.analysis.get("candidates"))]

    @cached_property
    def benchmarks(self) -> list[str]:
        of_candidates = [name for candidate in mapping(self.analysis.get("candidates")).values() for name in mapping(candidate)]
        return list(dict.fromkeys(map(str, [*mapping(self.analysis.get("benchmarks")), *of_candidates])))

    @cached_property
    def notes(self) -> list[str]:
        return _strings(self.analysis.get("notes"))

    @cached_property
    def comparisons(self) -> list[Comparison]:
        listed = self.analysis.get("comparisons")
        return [_comparison(one) for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []

    def about(self, benchmark: str) -> Mapping[str, Any]:
        """Number of items and kind of a benchmark."""
        return mapping(mapping(self.analysis.get("benchmarks")).get(benchmark))

    def figures(self, candidate: str, benchmark: str) -> list[Figure]:
        listed = self._of(candidate, benchmark).get("figures")
        return [_figure(one) for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []

    def details(self, candidate: str, benchmark: str) -> Mapping[str, Any]:
        return mapping(self._of(candidate, benchmark).get("details"))

    def _of(self, candidate: str, benchmark: str) -> Mapping[str, Any]:
        return mapping(mapping(mapping(self.analysis.get("candidates")).get(candidate)).get(benchmark))

    def headline(self, benchmark: str) -> str | None:
        """The metric a benchmark is known by: named in its details, else the first one over all items."""
        for candidate in self.candidates:
            named = self.details(candidate, benchmark).get("headline")
            if isinstance(named, str):
                return named
        figures = [one for candidate in self.candidates for one in self.figures(candidate, benchmark)]
        return next((one.metric for one in figures if not one.category), figures[0].metric if figures else None)

    def headline_figure(self, candidate: str, benchmark: str) -> Figure | None:
        """Over all items."""
        metric = self.headline(benchmark)
        return next((one for one in self.figures(candidate, benchmark) if one.metric == metric and not one.category), None)

    def pairs(self, benchmark: str) -> list[Pair]:
        """Every two candidates that have the headline metric."""
        metric = self.headline(benchmark)
        compared = {frozenset((one.first, one.second)): one for one in self.comparisons
                    if one.benchmark == benchmark and one.metric == metric}
        known = {name: found for name in self.candidates if (found := self.headline_figure(name, benchmark)) and found.value is not None}
        return [Pair(first, second, compared.get(frozenset((first, second))), _overlap(known[first], known[second]))
                for first, second in combinations(known, 2)]


def read_results(run: RunFolder) -> Results:
    """The run's results; control characters in names and texts are made visible, since charts show names too."""
    return Results(_readable(run.analysis))


def readable(text: str) -> str:
    """The text with control characters replaced."""
    return text.translate(_UNREADABLE)


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {readable(str(key)): _readable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return readable(value) if isinstance(value, str) else value


def _strings(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [value] if isinstance(value, str) and value else []


def _or_none(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _count(value: Any) -> int:
    return int(value) if is_number(value) else 0


def _figure(value: Mapping[str, Any]) -> Figure:
    return Figure(
        str(value.get("metric", "")), str(value.get("category") or ""), _or_none(value.get("value")), _or_none(value.get("low")),
        _or_none(value.get("high")), _count(value.get("num")), _count(value.get("num_unscored")),
    )


def _comparison(value: Mapping[str, Any]) -> Comparison:
    benchmark, metric, first, second, verdict = (
        str(value.get(name) or "") for name in ("benchmark", "metric", "first", "second", "verdict"))
    difference, low, high, p = (_or_none(value.get(name)) for name in ("difference", "low", "high", "p"))
    return Comparison(benchmark, metric, first, second, difference, low, high, p, _count(value.get("num")), verdict)


def _overlap(one: Figure, two: Figure) -> bool:
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return True
    return one.low <= two.high and two.low <= one.high


def main_table(results: Results) -> dict[str, Any]:
    """Candidates by benchmarks: the headline metric, and from which others a candidate cannot be told apart."""
    columns = [
        {"name": name, "metric": results.headline(name), "kind": str(results.about(name).get("kind") or ""),
         "items": results.about(name).get("items")}
        for name in results.benchmarks
    ]
    apart = {name: results.pairs(name) for name in results.benchmarks}
    rows = [
        {"candidate": candidate, "cells": [
            _main_cell(results.headline_figure(candidate, name), inseparable(candidate, apart[name])) for name in results.benchmarks]}
        for candidate in results.candidates
    ]
    told = [_order_told(name, results.headline(name), apart[name]) for name in results.benchmarks if apart[name]]
    return {"columns": columns, "rows": rows, "told": told}


def inseparable(candidate: str, pairs: Iterable[Pair]) -> list[str]:
    """The others that a candidate is not to be ranked against: the difference is not clear, or was not tested and intervals overlap."""
    found = []
    for pair in pairs:
        if candidate in (pair.first, pair.second) and not pair.is_separable and (pair.comparison is not None or pair.is_overlapping):
            found.append(pair.second if candidate == pair.first else pair.first)
    return found


def cell(figure_of: Figure | None) -> dict[str, Any] | None:
    """One figure as a table shows it."""
    if figure_of is None:
        return None
    has_interval = figure_of.value is not None and figure_of.low is not None and figure_of.high is not None
    interval = f"{figure(figure_of.low or 0)} to {figure(figure_of.high or 0)}"
    return {
        "value": MISSING if figure_of.value is None else figure(figure_of.value),
        "interval": interval if has_interval else "no score" if figure_of.value is None else "no interval",
        "num": figure_of.num, "unscored": figure_of.num_unscored,
    }


def _main_cell(figure_of: Figure | None, others: Sequence[str]) -> dict[str, Any] | None:
    shown = cell(figure_of)
    return {**shown, "inseparable": list(others)} if shown else None


def _order_told(benchmark: str, metric: str | None, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What may be said of the candidates' order on a benchmark."""
    clear = [pair for pair in pairs if pair.is_separable]
    unclear = [pair for pair in pairs if pair not in clear]
    count = f"{number(len(unclear) or len(pairs))} of {number(len(pairs))} pairs of candidates" if len(pairs) > 1 else "The two candidates"
    untested = all(pair.comparison is None for pair in unclear)
    why = "were not compared item by item" if untested else "are not separable by these items"
    summary = f"{count} {why}, so no ranking is given." if unclear else f"{count} are separable."
    sentences = [_pair_told(pair) for pair in (*unclear, *clear)]
    return {
        "benchmark": benchmark, "metric": metric, "summary": summary, "is_clear": not unclear, "sentences": sentences[:MAX_SENTENCES],
        "more": max(len(sentences) - MAX_SENTENCES, 0),
    }


def _pair_told(pair: Pair) -> str:
    one = pair.comparison
    if one is None:
        overlap = "their intervals overlap" if pair.is_overlapping else "their intervals do not overlap, which is no paired test"
        return f"{pair.first} and {pair.second} were not compared item by item; {overlap}."
    by = text_of(one.difference, one.low, one.high)
    if not pair.is_separable or one.difference is None:
        return f"{one.first} and {one.second}: not separable, the difference is {by} over {number(one.num)} items."
    over, under = (one.first, one.second) if one.difference > 0 else (one.second, one.first)
    low, high = sorted((abs(one.low or 0), abs(one.high or 0)))
    return f"{over} is above {under} by {text_of(abs(one.difference), low, high)} over {number(one.num)} items."


def comparison_rows(results: Results) -> list[dict[str, Any]]:
    """Every comparison, as the run lists them."""
    return [
        {
            "benchmark": one.benchmark, "metric": one.metric, "first": one.first, "second": one.second,
            "difference": text_of(one.difference, one.low, one.high) if one.difference is not None else MISSING,
            "p": MISSING if one.p is None else "under 0.001" if one.p < 0.001 else f"{one.p:.3f}",
            "num": one.num, "verdict": one.verdict.replace("_", " ") or MISSING, "is_separable": one.is_separable,
        }
        for one in results.comparisons
    ]


def benchmark_section(results: Results, benchmark: str) -> dict[str, Any]:
    """All that is shown of one benchmark."""
    about = results.about(benchmark)
    curves = _level_charts(results, benchmark)
    notes = [note for candidate in results.candidates for note in _strings(results.details(candidate, benchmark).get("notes"))]
    return {
        "name": benchmark, "kind": str(about.get("kind") or ""), "items": about.get("items"), "notes": list(dict.fromkeys(notes)),
        "figures": _figure_table(results, benchmark), "bars": _bar_chart(results, benchmark), "radars": _radars(results, benchmark),
        "curves": [one for one in curves if not one["category"]], "category_curves": [one for one in curves if one["category"]],
        "judge": judge_failures(results, benchmark), "details": _details_table(results, benchmark),
        "tables": _listed_details(results, benchmark),
    }


def legend(candidates: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and name of every candidate."""
    return [(f"s{tone(place)}", name) for place, name in enumerate(candidates)]


def _figure_table(results: Results, benchmark: str) -> dict[str, Any]:
    by_candidate = {
        candidate: {(one.metric, one.category): one for one in results.figures(candidate, benchmark)} for candidate in results.candidates
    }
    keys = list(dict.fromkeys(key for figures in by_candidate.values() for key in figures))
    rows = [
        {"metric": metric, "category": category, "cells": [cell(figures.get((metric, category))) for figures in by_candidate.values()]}
        for metric, category in keys[:MAX_FIGURES]
    ]
    return {"rows": rows, "more": max(len(keys) - MAX_FIGURES, 0)}


def _bar_chart(results: Results, benchmark: str) -> dict[str, Any] | None:
    """The headline metric by category, with intervals; None where there is too little or too much for a chart."""
    metric = results.headline(benchmark)
    groups: dict[str, list[Bar]] = {}
    for place, candidate in enumerate(results.candidates):
        for one in results.figures(candidate, benchmark):
            if one.metric == metric and not re.fullmatch("level_[0-9]+", one.category):  # levels have curves
                groups.setdefault(one.category or "all items", []).append(Bar(candidate, one.value, one.low, one.high, place))
    if not groups or sum(map(len, groups.values())) > MAX_BARS:
        return None
    chart = interval_bars(list(groups.items()), title=f"{benchmark}: {metric}", unit=str(metric))
    return {"title": metric, "meaning": "with 95 % intervals", "chart": chart} if chart else None


def _level_charts(results: Results, benchmark: str) -> list[dict[str, Any]]:
    """A chart per metric and category of ``details.levels`` (or ``curves``), all candidates in it."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for place, candidate in enumerate(results.candidates):
        details = results.details(candidate, benchmark)
        for metric, by_category in mapping(details.get("levels") or details.get("curves")).items():
            for category, points in mapping(by_category).items():
                name = "" if category == "all" else str(category)
                found.setdefault((str(metric), name), []).append(Curve(candidate, _points(points), place))
    shown = []
    for (metric, category), curves in found.items():
        chart = level_curves(curves, title=f"{benchmark}: {metric} {category} by level", x_unit="level")
        if chart:
            shown.append({"title": metric, "category": category, "meaning": category or "over all categories", "chart": chart})
    return shown


def _points(listed: Any) -> list[Point]:
    """[level, value, low, high] each, or a mapping with these keys; what is not a number is a gap."""
    points = []
    for entry in listed if isinstance(listed, list) else ():
        one = [entry.get(name) for name in ("level", "value", "low", "high")] if isinstance(entry, Mapping) else entry
        if isinstance(one, list) and one and is_number(one[0]):
            value, low, high = ([_or_none(number_of) for number_of in one[1:4]] + [None] * 3)[:3]
            points.append(Point(float(one[0]), value, low, high))
    return sorted(points, key=lambda point: point.x)


def _radars(results: Results, benchmark: str) -> list[dict[str, Any]]:
    found: dict[str, list[Profile]] = {}
    for place, candidate in enumerate(results.candidates):
        for metric, values in mapping(results.details(candidate, benchmark).get("radar")).items():
            known = {str(category): _or_none(value) for category, value in mapping(values).items()}
            found.setdefault(str(metric), []).append(Profile(candidate, known, place))
    drawn = [(metric, radar(profiles, title=f"{benchmark}: {metric} by category")) for metric, profiles in found.items()]
    return [{"title": metric, "meaning": "by category", "chart": chart} for metric, chart in drawn if chart]


def judge_failures(results: Results, benchmark: str) -> list[dict[str, Any]]:
    """How often no verdict could be read from the judge, for each candidate that was judged."""
    rows = []
    for candidate in results.candidates:
        num, of, rate = _failures(results.details(candidate, benchmark))
        if is_number(of) or is_number(rate):
            if not is_number(rate) and is_number(num) and of:
                rate = num / of
            rows.append({"candidate": candidate, "rate": percent(rate), "num": num, "of": of})
    return rows


def _failures(details: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """How many judgements failed, of how many, and the rate, as the benchmarks name them."""
    for key, names in (
        ("judge_failures", ("num", "of", "rate")), ("judge", ("num_unreadable", "num_judged", "failure_rate")),
        ("judge", ("unreadable", "verdicts", "failure_rate")),
    ):
        counts = mapping(details.get(key))
        if names[1] in counts:
            return counts.get(names[0]), counts.get(names[1]), counts.get(names[2])
    return None, None, None


def judge_total(results: Results) -> tuple[float, float]:
    """Failed judgements and all of them, over candidates and benchmarks."""
    rows = [row for name in results.benchmarks for row in judge_failures(results, name) if is_number(row["num"]) and is_number(row["of"])]
    return sum(row["num"] for row in rows), sum(row["of"] for row in rows)


def num_unscored(results: Results) -> int | None:
    """Items without the headline's score, over candidates and benchmarks; None before any figure is there."""
    figures = [results.headline_figure(candidate, name) for candidate in results.candidates for name in results.benchmarks]
    known = [one.num_unscored for one in figures if one is not None]
    return sum(known) if known else None


def _details_table(results: Results, benchmark: str) -> dict[str, Any]:
    """The other figures of a benchmark's details, label by label over the candidates."""
    columns = []
    for candidate in results.candidates:
        plain = {key: value for key, value in results.details(candidate, benchmark).items() if key not in _DRAWN and not _is_listing(value)}
        columns.append(dict(labelled(_without_listings(plain))))
    labels = list(dict.fromkeys(label for column in columns for label in column))
    rows = [{"label": label, "values": [column.get(label, MISSING) for column in columns]} for label in labels[:MAX_DETAILS]]
    return {"rows": rows, "more": max(len(labels) - MAX_DETAILS, 0)}


def _is_listing(value: Any) -> bool:
    """Whether a detail is a list of records, which becomes a table of its own."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _without_listings(value: Any) -> Any:
    """Lists as text, since a table's cell holds one line."""
    if isinstance(value, Mapping):
        return {key: _without_listings(inner) for key, inner in value.items()}
    return ", ".join(map(_plain, value)) if isinstance(value, list) else value


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, float) and is_number(value):
        return figure(value)
    return MISSING if value is None else number(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _listed_details(results: Results, benchmark: str) -> list[dict[str, Any]]:
    """Tables of the details that are lists of records, one per candidate."""
    tables = []
    for candidate in results.candidates:
        for key, value in results.details(candidate, benchmark).items():
            if key in _DRAWN or not _is_listing(value):
                continue
            header = list(dict.fromkeys(str(name) for one in value[:MAX_DETAILS] for name in one))[:12]
            rows = [[_plain(one.get(name)) if not isinstance(one.get(name), Mapping) else ", ".join(
                f"{label} {text}" for label, text in labelled(one[name])) for name in header] for one in value[:MAX_DETAILS]]
            tables.append({"title": key.replace("_", " "), "candidate": candidate, "header": header, "rows": rows,
                           "more": max(len(value) - MAX_DETAILS, 0)})
    return tables
