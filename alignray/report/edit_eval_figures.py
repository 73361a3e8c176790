"""Figures of an evaluation of edited models, from its manifest and its rows. What is missing or misshapen is left out."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from alignray.methods.lte.render import PROMPTS
from alignray.prompts import load_prompt
from alignray.report.eval_charts import Curve, Point, Profile, level_curves, radar
from alignray.report.lte_figures import SOURCES
from alignray.report.page import amount, is_number, mapping
from alignray.report.run_folder import RunFolder, batches, lookup

logger = logging.getLogger(__name__)

ALL = "all"
TITLES = {**SOURCES, "convsent": "ConvSent (sentiment)"}
METRICS = {
    "edit_success": ("Edit success", ("token", "exact", "said")), "portability": ("Portability", ("token", "exact", "said")),
    "locality": ("Locality", ("token", "exact")), "fluency": ("Fluency", ("thesis", "original")),
}
"""Title and measures of every metric."""
MEASURES = {
    "token": "token accuracy", "exact": "exact match", "said": "free-running", "thesis": "continuation", "original": "with its prompt",
}
UNCHANGED = {"token": "same tokens", "exact": "all the same"}
"""The measures of locality, which compares a model with itself."""
FAMILIES = {"token": "token accuracy (authors)", "exact": "exact match (Eq 5.1)"}
"""What one may choose to see drawn; fluency goes along as the authors or as the thesis measure it."""
ASPECTS = {"edit": "the edit's prompt", "rephrase": "the prompt in other words", "portability": "portability", "locality": "locality"}
MODES = ("single", "batch", "sequential")
MAX_METHODS = 24
MAX_SIZES = 40
_COLUMNS = [
    "method", "source", "mode", "size", "when", "edit_id", "aspect", "kind", "query", "target", "token_score", "exact_score",
]
_NEEDED = {*_COLUMNS, "prompt", "retrieved", "said", "said_score", "fluency"}
_ITEM = ["source", "edit_id", "aspect", "kind", "query", "target"]


@dataclass(frozen=True)
class Setting:
    """How many edits there are at once, and when they are scored."""

    mode: str
    size: int
    when: str = ""

    @property
    def order(self) -> tuple[int, int, str]:
        return (MODES.index(self.mode) if self.mode in MODES else len(MODES), self.size, self.when)

    @property
    def label(self) -> str:
        if self.mode == "single":
            return "single editing"
        if self.mode == "batch":
            return f"batches of {self.size:,}"
        moment = {"at_insertion": ", each after its own edit", "final": ", all after the last edit"}.get(self.when, "")
        return f"stream of {self.size:,}{moment}" if self.mode == "sequential" else f"{self.mode} of {self.size:,}"


@dataclass(frozen=True)
class Figure:
    """A mean over records, its standard error (None where there is none) and their number."""

    mean: float
    se: float | None
    records: float | None


@dataclass(frozen=True)
class Results:
    """What manifest["edit_eval"] holds."""

    methods: dict[str, Mapping[str, Any]]
    """In the order of the config."""
    sources: list[str]
    """Of figures, "all" first."""
    figures: dict[tuple[str, str, Setting, str, str], Figure]
    """By method, data set, setting, metric and measure."""

    @property
    def edited(self) -> list[str]:
        """The methods that make an edit known: all but the bare model."""
        return [name for name, told in self.methods.items() if told.get("kind") != "bare"]

    @property
    def settings(self) -> list[Setting]:
        return sorted({setting for _, _, setting, _, _ in self.figures}, key=lambda one: one.order)

    def settings_of(self, mode: str, when: str | None = None) -> list[Setting]:
        return [one for one in self.settings if one.mode == mode and when in (None, one.when)][:MAX_SIZES]


def source_title(source: str) -> str:
    return "All data sets" if source == ALL else TITLES.get(source, source)


def source_order(source: str) -> tuple[int, str]:
    """All of them first, then as the thesis has them."""
    order = [ALL, *TITLES]
    return (order.index(source) if source in order else len(order), source)


def mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def setting_of(told: Mapping[str, Any]) -> Setting | None:
    """Of a record of the manifest; None where it names none."""
    mode, size = told.get("mode"), told.get("size", 1)
    if not isinstance(mode, str) or not is_number(size) or size < 1:
        return None
    return Setting(mode, int(size), str(told.get("when") or ""))


def read_results(run: RunFolder) -> Results:
    """The manifest's figures; a record that is misshapen or holds no finite mean is left out."""
    told = mapping(run.manifest.get("edit_eval"))
    methods = {str(name): mapping(one) for name, one in mapping(told.get("methods")).items()}
    figures: dict[tuple[str, str, Setting, str, str], Figure] = {}
    for one in mappings(told.get("figures")):
        setting, metric, measure = setting_of(one), str(one.get("metric")), str(one.get("measure"))
        if setting is None or metric not in METRICS or measure not in METRICS[metric][1] or not is_number(one.get("mean")):
            continue
        method, source = str(one.get("method")), str(one.get("source") or ALL)
        methods.setdefault(method, {})
        se, records = one.get("se"), one.get("records")
        figures[method, source, setting, metric, measure] = Figure(
            one["mean"], se if is_number(se) else None, records if is_number(records) else None)
    kept = dict(list(methods.items())[:MAX_METHODS])
    sources = sorted({source for _, source, _, _, _ in figures}, key=source_order)
    sources = [source for source in sources if source != ALL] if len(sources) == 2 else sources  # one data set is all of them
    return Results(kept, sources, {key: figure for key, figure in figures.items() if key[0] in kept})


# ---- tables


def metric_table(results: Results, source: str, settings: Sequence[Setting]) -> dict[str, Any] | None:
    """Settings and methods against metrics and measures, the best method of each setting and column marked; None without figures.

    The bare model is no candidate for the best, as it keeps everything and learns nothing; nor is there a best among one.
    """
    there = {(metric, measure) for _, of, setting, metric, measure in results.figures if of == source and setting in settings}
    columns = [(metric, measure) for metric, (_, measures) in METRICS.items() for measure in measures if (metric, measure) in there]
    if not columns:
        return None
    rows = []
    for setting in settings:
        best = {column: _best(results, source, setting, column) for column in columns}
        for method, told in results.methods.items():
            found = {column: results.figures.get((method, source, setting, *column)) for column in columns}
            counts = {figure.records for figure in found.values() if figure is not None}
            if counts:
                rows.append({
                    "records": counts.pop() if len(counts) == 1 else None,
                    "method": method, "kind": str(told.get("kind") or ""), "setting": setting.label, "size": setting.size,
                    "cells": [_cell(figure, column[0], is_best=method in best[column]) for column, figure in found.items()],
                })
    heads = [
        {"title": METRICS[metric][0], "measures": [measure_title(of, measure) for of, measure in columns if of == metric]}
        for metric in dict.fromkeys(metric for metric, _ in columns)
    ]
    return {"source": source_title(source), "heads": heads, "rows": rows}


def _best(results: Results, source: str, setting: Setting, column: tuple[str, str]) -> set[str]:
    shown = {
        method: round(_scaled(figure.mean, column[0]), 1) for method in results.edited
        if (figure := results.figures.get((method, source, setting, *column))) is not None
    }
    return {method for method, value in shown.items() if value == max(shown.values())} if len(shown) > 1 else set()


def _scaled(value: float, metric: str) -> float:
    """As shown: rates in percent, fluency as it is (times 100 already)."""
    return value if metric == "fluency" else 100 * value


def _cell(figure: Figure | None, metric: str, *, is_best: bool) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {
        "value": f"{_scaled(figure.mean, metric):.1f}", "se": "" if figure.se is None else f"{_scaled(figure.se, metric):.1f}",
        "records": figure.records, "is_best": is_best,
    }


# ---- charts


def curve_views(results: Results) -> list[dict[str, Any]]:
    """Metrics over the number of edits at once: of batches, and of streams at insertion and after the whole stream."""
    parts = (
        ("batch", "batch", "", "Batch editing", "All edits of a batch are made before any of its records is scored."),
        ("at-insertion", "sequential", "at_insertion", "Sequential editing, at insertion",
         "The edits of a stream are made one after the other, and each record is scored right after its own."),
        ("final", "sequential", "final", "Sequential editing, after the whole stream",
         "The edits of a stream are made one after the other, and all records are scored after the last one."),
    )
    views = []
    for name, mode, when, title, meaning in parts:
        own = results.settings_of(mode, when)
        if own:
            single = [one for one in results.settings_of("single")[:1] if 1 not in {other.size for other in own}]
            views.append({"id": name, "title": title, "meaning": meaning, "has_single": bool(single),
                          **_curve_view(results, own, [*single, *own], title)})
    return views


def _curve_view(results: Results, own: Sequence[Setting], settings: Sequence[Setting], title: str) -> dict[str, Any]:
    groups, tables = [], []
    for place, source in enumerate(results.sources):
        table = metric_table(results, source, own)
        if table:
            tables.append({"place": place, **table})
        for family in FAMILIES if len(settings) > 1 else ():
            drawn = {metric: _curve_chart(results, source, settings, metric, family, title) for metric in METRICS}
            charts = [{"title": METRICS[metric][0], "chart": chart} for metric, chart in drawn.items() if chart]
            if charts and table:
                groups.append({"place": place, "source": source_title(source), "family": family, "charts": charts})
    return {"groups": groups, "tables": tables}


def measure_title(metric: str, measure: str) -> str:
    return (UNCHANGED if metric == "locality" else MEASURES)[measure]


def measure_of(metric: str, family: str) -> str:
    """The measure of a metric that goes with a family."""
    return {"token": "original", "exact": "thesis"}[family] if metric == "fluency" else family


def _curve_chart(results: Results, source: str, settings: Sequence[Setting], metric: str, family: str, title: str) -> Markup:
    measure, curves = measure_of(metric, family), []
    for number, method in enumerate(results.methods):
        points = [_point(setting.size, results.figures.get((method, source, setting, metric, measure))) for setting in settings]
        if any(point.value is not None for point in points):
            curves.append(Curve(method, points, number))
    sizes = [setting.size for setting in settings]
    name = f"{METRICS[metric][0]} ({measure_title(metric, measure)}), {source_title(source)}, {title}"
    unit = f"edits in the {'batch' if settings[-1].mode == 'batch' else 'stream'}"
    return level_curves(curves, title=name, x_unit=unit, is_log=max(sizes) >= 10 * min(sizes))


def _point(size: int, figure: Figure | None) -> Point:
    if figure is None:
        return Point(size, None)
    if figure.se is None:
        return Point(size, figure.mean)
    return Point(size, figure.mean, max(figure.mean - figure.se, 0), figure.mean + figure.se)


def radars(results: Results) -> list[dict[str, Any]]:
    """The four metrics of single editing as one shape a method, by data set and family; fluency in parts of the best method's."""
    shown = []
    for setting in results.settings_of("single")[:1]:
        for family in FAMILIES:
            for source in results.sources:
                fluencies = [figure.mean for method in results.methods
                             if (figure := results.figures.get((method, source, setting, "fluency", measure_of("fluency", family))))]
                best = max(fluencies, default=0)
                profiles = []
                for number, method in enumerate(results.methods):
                    values: dict[str, float | None] = {}
                    for metric, (title, _) in METRICS.items():
                        figure = results.figures.get((method, source, setting, metric, measure_of(metric, family)))
                        if metric != "fluency" or best > 0:
                            values[title] = None if figure is None else figure.mean / (best if metric == "fluency" else 1)
                    if any(value is not None for value in values.values()):
                        profiles.append(Profile(method, _known_somewhere(values, results, source, setting, family), number))
                chart = radar(profiles, title=f"{source_title(source)}, {FAMILIES[family]}")
                if chart:
                    shown.append({"source": source_title(source), "family": family, "chart": chart})
    return shown


def _known_somewhere(
    values: Mapping[str, float | None], results: Results, source: str, setting: Setting, family: str,
) -> dict[str, float | None]:
    """Without the spokes that no method has a figure on."""
    known = {METRICS[metric][0] for _, of, at, metric, measure in results.figures
             if of == source and at == setting and measure == measure_of(metric, family)}
    return {title: value for title, value in values.items() if title in known}


def retrieval_tables(run: RunFolder, results: Results) -> list[dict[str, Any]]:
    """By data set: settings and aspects against precision and hit at every k."""
    found: dict[str, dict[tuple[Setting, str], dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for one in mappings(lookup(run.manifest, "edit_eval", "retrieval")):
        setting, k = setting_of(one), one.get("k")
        if setting is not None and is_number(k):
            found[str(one.get("source") or ALL)][setting, str(one.get("aspect"))][int(amount(k))] = one
    aspects = list(ASPECTS)
    tables = []
    for source in sorted(found, key=source_order):
        ks = sorted({k for cells in found[source].values() for k in cells})
        rows = []
        for (setting, aspect), cells in sorted(found[source].items(), key=lambda item: (
                item[0][0].order, aspects.index(item[0][1]) if item[0][1] in aspects else len(aspects), item[0][1])):
            queries = next((one.get("queries") for one in cells.values() if is_number(one.get("queries"))), None)
            rows.append({
                "setting": setting.label, "aspect": ASPECTS.get(aspect, aspect), "queries": queries,
                "cells": [tuple(mapping(cells.get(k)).get(name) for name in ("hit", "precision")) for k in ks],
            })
        tables.append({"source": source_title(source), "ks": ks, "rows": rows})
    return tables


def time_rows(run: RunFolder, results: Results) -> list[dict[str, Any]]:
    """Seconds per edit and per answer by setting and method."""
    order, keys = list(results.methods), ("edit_seconds", "answer_seconds", "edits", "queries")
    known = [
        (setting, str(one.get("method")), one) for one in mappings(lookup(run.manifest, "edit_eval", "times"))
        if (setting := setting_of(one)) is not None
    ]
    known.sort(key=lambda item: (item[0].order, order.index(item[1]) if item[1] in order else len(order), item[1]))
    return [{"method": method, "setting": setting.label, **{key: one.get(key) for key in keys}} for setting, method, one in known]


# ---- cases


@dataclass(frozen=True)
class Case:
    """One edit in one setting with all that was asked of it."""

    source: str
    setting: Setting
    edit_id: str
    num_compared: int
    """Queries that two methods or more were scored on."""
    num_apart: int
    """Those of them on which they disagree."""
    rows: tuple[Mapping[str, Any], ...]


def part_paths(run: RunFolder) -> list[Path]:
    """The part files that hold scores; one of another build is left out."""
    known = []
    for path in run.part_paths():
        missing = _NEEDED - set(pq.read_schema(path).names)
        if missing:
            logger.warning("%s: no column(s) %s; the report goes without it", path, ", ".join(sorted(missing)))
        else:
            known.append(path)
    return known


def read_cases(run: RunFolder, results: Results, count: int) -> tuple[list[Case], int]:
    """Up to ``count`` edits of each data set, of the first setting and of that with the most edits; and how many edits these have in all.

    Those come first in which methods disagree on most aspects, then on the largest share of queries, then by the largest part of
    the tokens; the bare model has no say where two others have. The same ones whatever the parts are called.
    """
    paths, cases, total = part_paths(run), [], 0
    for setting in _told_settings(paths):
        judges = results.edited if len(results.edited) > 1 else None
        ranked = _ranked(paths, setting, judges)
        chosen: dict[tuple[str, str], tuple[int, int]] = {}
        taken: Counter[str] = Counter()
        for source, edit_id, compared, apart in ranked:
            taken[source] += 1
            if taken[source] <= count:
                chosen[source, edit_id] = compared, apart
        total += len(ranked)
        rows: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        wanted = pa.array([edit_id for _, edit_id in chosen], pa.string())
        for table in _of_setting(paths, None, setting):
            for row in table.filter(pc.is_in(table.column("edit_id"), value_set=wanted)).to_pylist():
                rows[row["source"], row["edit_id"]].append(row)
        cases += [Case(source, setting, edit_id, *counts, tuple(rows[source, edit_id])) for (source, edit_id), counts in chosen.items()]
    return cases, total


def _told_settings(paths: Sequence[Path]) -> list[Setting]:
    """The first setting of the rows (single editing, if there is any) and the one with the most edits at once."""
    seen = set()
    for batch in batches(paths, ["mode", "size", "when"]):
        for one in pa.Table.from_batches([batch]).group_by(["mode", "size", "when"]).aggregate([]).to_pylist():
            seen.add(Setting(one["mode"], one["size"], one["when"]))
    known = sorted(seen, key=lambda one: one.order)
    largest = max(known, key=lambda one: (one.size, one.when == "final", one.order), default=None)
    return list(dict.fromkeys(one for one in (*known[:1], largest) if one is not None))


def _of_setting(paths: Iterable[Path], columns: list[str] | None, setting: Setting) -> Iterator[pa.RecordBatch]:
    for batch in batches(paths, columns):
        is_mode, is_size = pc.equal(batch.column("mode"), setting.mode), pc.equal(batch.column("size"), setting.size)
        yield batch.filter(pc.and_(pc.and_(is_mode, is_size), pc.equal(batch.column("when"), setting.when)))


def _ranked(paths: Sequence[Path], setting: Setting, judges: Sequence[str] | None) -> list[tuple[str, str, int, int]]:
    """(data set, edit, queries compared, queries apart) of every edit, the most disputed first."""
    parts = [batch for batch in _of_setting(paths, _COLUMNS, setting) if batch.num_rows]
    if not parts:
        return []
    table = pa.Table.from_batches(parts)
    if judges is not None:
        # a score of a method that has no say counts neither as the highest nor as the lowest
        has_say = pc.is_in(table.column("method"), value_set=pa.array(judges, pa.string()))
        for name in ("token_score", "exact_score"):
            column = table.column(name)
            table = table.set_column(
                table.schema.get_field_index(name), name, pc.if_else(has_say, column, pa.scalar(None, column.type)))
    grouped = table.group_by(_ITEM).aggregate(
        [(name, how) for name in ("exact_score", "token_score") for how in ("min", "max")] + [("exact_score", "count")])
    gaps: dict[tuple[str, str], list[tuple[str, float, float]]] = defaultdict(list)
    for one in grouped.to_pylist():
        known = gaps[one["source"], one["edit_id"]]
        if one["exact_score_count"] > 1:
            exact, token = (_gap(one[f"{name}_min"], one[f"{name}_max"]) for name in ("exact_score", "token_score"))
            known.append((one["aspect"], exact, token))
    ranked = []
    for (source, edit_id), found in gaps.items():
        num = len(found) or 1
        aspects = {aspect for aspect, exact, _ in found if exact}
        apart = sum(exact > 0 for _, exact, _ in found)
        by_token = math.fsum(sorted(token for _, _, token in found)) / num
        ranked.append(((-len(aspects), -apart / num, -by_token, edit_id, source), (source, edit_id, len(found), apart)))
    return [case for _, case in sorted(ranked)]


def _gap(low: Any, high: Any) -> float:
    return high - low if is_number(low) and is_number(high) else 0.0


def facts_by_edit(run: RunFolder, edit_ids: Iterable[str]) -> dict[str, list[str]]:
    """The facts of edits as their own prompts and targets say them; of an id that no row is of, none."""
    found: dict[str, list[str]] = defaultdict(list)
    wanted = pa.array(sorted(set(edit_ids)), pa.string())
    for batch in batches(part_paths(run), ["edit_id", "aspect", "query", "target"]) if len(wanted) else ():
        is_edit = pc.and_(pc.equal(batch.column("aspect"), "edit"), pc.is_in(batch.column("edit_id"), value_set=wanted))
        for row in batch.filter(is_edit).to_pylist():
            fact = f"{row['query']} {row['target']}"
            if fact not in found[row["edit_id"]]:
                found[row["edit_id"]].append(fact)
    return found


@cache
def _frames() -> tuple[tuple[str, str], ...]:
    """What stands before the facts and between them and the query in each form of the prompt, the longest first."""
    field = re.compile(r"\{\{\s*\w+\s*\}\}")
    pieces = [field.split(load_prompt(name).text) for name in dict.fromkeys(PROMPTS.values())]
    return tuple(sorted(((one[0], one[1]) for one in pieces if len(one) >= 2), key=lambda one: -len(one[0])))


def facts_in(prompt: str, query: str) -> list[str]:
    """The facts as they stand in a prompt; of a prompt in another form than the package's, all that stands before its query."""
    end = prompt.rfind(query)
    before = prompt[:end] if end >= 0 else prompt
    for start, between in _frames():
        if before.startswith(start) and between in before[len(start):]:
            before = before[len(start):].rpartition(between)[0]
            break
    return _numbered(before.strip())


def _numbered(text: str) -> list[str]:
    """The lines of a list that counts from 1, each with what follows it; the whole where it is none."""
    if not text.startswith("1. ") or "\n2. " not in text:
        return [text] if text else []
    facts, rest, number = [], text[3:], 2
    while f"\n{number}. " in rest:
        fact, _, rest = rest.partition(f"\n{number}. ")
        facts.append(fact)
        number += 1
    return [*facts, rest]
