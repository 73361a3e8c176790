"""Figures of an LTE run from its manifest, its config and its rows. What is missing or misshapen is left out."""

from __future__ import annotations

import heapq
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from alignray.errors import ResumeError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.methods.lte.scopes import NOTES
from alignray.report import charts
from alignray.report.charts import HEIGHT, WIDTH, Plot, label_at, svg, ticks
from alignray.report.page import amount, is_number, mapping, number, percent
from alignray.report.run_folder import RunFolder, batches, lookup
from alignray.seeding import draw, row_id_of

logger = logging.getLogger(__name__)

SOURCES = {
    "zsre": "ZsRE", "wiki_recent": "wiki_recent (RippleEdits)", "wiki_counterfact": "wiki_counterfact (RippleEdits)",
    "wikibio": "WikiBio", "mquake": "MQuAKE", "counterfact": "COUNTERFACT",
}
GROUPS = {"zsre": "ZsRE", "ripple_edits": "RippleEdits", "wikibio": "WikiBio", "mquake": "MQuAKE", "counterfact": "COUNTERFACT"}
SCOPES = {"in_scope": "in-scope", "out_of_scope": "out-of-scope", "free_text": "free text"}
STYLES = {
    "exact_only": "the exact fact alone", "exact_and_1": "the exact fact and one neighbour",
    "exact_and_2": "the exact fact and two neighbours",
}
"""By number of neighbours drawn."""
ASPECTS = {
    "edit": "the edit's own prompt", "rephrase": "the edit's prompt in other words", "plain": "a plain query that no edit bears on",
    "nq": "a question of Natural Questions", "earlier": "borrowed from another data set",
    "model": "written by a model", "file": "the file's question and bare target",
}
"""Where a query comes from; other names are kinds of portability or locality, as the file has them."""
LEFT_OUT = {**NOTES, "needs_a_model": "pairs left out: the files do not have all of their answers, and no engine is configured"}
NUM_BINS = 24
MAX_ASPECTS = 80
MAX_SIZE = 6
"""Facts in a prompt, at most, of which the places are drawn."""
MIN_PROMPTS = 30
"""Prompts from which on their places are judged."""
CHANCE = 4.0
"""Standard deviations from an even share that are put down to chance."""
_COLUMNS = ["edit_id", "source", "kind", "aspect", "with_prompt", "places", "retrieved", "style", "messages"]
_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th")


@dataclass
class Rows:
    """What the part files hold, counted in one pass."""

    num: int = 0
    cells: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """By data set, scope and whether the edit prompt is there."""
    aspects: Counter[str] = field(default_factory=Counter)
    """Of rows with the edit prompt, "source/kind/aspect"."""
    styles: Counter[str] = field(default_factory=Counter)
    """As drawn, of rows with the edit prompt."""
    neighbours: Counter[int] = field(default_factory=Counter)
    """Neighbours that stand in a prompt."""
    places: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """By number of facts shown, how often the exact one stands at each place from 0 on; prompts of one exact fact and neighbours."""
    num_several: int = 0
    """Prompts with several exact facts among neighbours."""
    num_without_exact: int = 0
    """Prompts that do not show the fact of their edit: none should."""
    words: dict[str, list[int]] = field(default_factory=lambda: {"with": [], "without": [], "answer": []})

    @property
    def num_short(self) -> int:
        """Neighbours drawn but not there."""
        drawn = sum(list(STYLES).index(style) * count for style, count in self.styles.items() if style in STYLES)
        return max(drawn - sum(num * count for num, count in self.neighbours.items()), 0)


def part_paths(run: RunFolder) -> list[Path]:
    """The part files that hold examples; one of another build is left out."""
    known = []
    for path in run.part_paths():
        missing = {*_COLUMNS, "row_id", "pair_id", "query"} - set(pq.read_schema(path).names)
        if missing:
            logger.warning("%s: no column(s) %s; the report goes without it", path, ", ".join(sorted(missing)))
        else:
            known.append(path)
    return known


def read_rows(run: RunFolder) -> Rows:
    """All examples of a run, counted."""
    found = Rows()
    for batch in batches(part_paths(run), _COLUMNS):
        for row in batch.to_pylist():
            _count(found, row)
    return found


def _count(found: Rows, row: Mapping[str, Any]) -> None:
    found.num += 1
    found.cells[row["source"], row["kind"], row["with_prompt"]] += 1
    turns = row["messages"] or [{"content": ""}]
    found.words["with" if row["with_prompt"] else "without"].append(_num_words(turns[0]["content"]))
    found.words["answer"].append(_num_words(turns[-1]["content"]))
    if not row["with_prompt"]:
        return
    found.aspects[f"{row['source']}/{row['kind']}/{row['aspect']}"] += 1
    found.styles[row["style"]] += 1
    found.neighbours[len(row["retrieved"])] += 1
    exact = [place for place, edit_id in enumerate(row["places"]) if edit_id == row["edit_id"]]
    found.num_without_exact += not exact
    if 0 < len(exact) < len(row["places"]):
        if len(exact) == 1:
            found.places[len(row["places"])][exact[0]] += 1
        else:
            found.num_several += 1


def _num_words(text: str | None) -> int:
    return len((text or "").split())


# ---- Table C.1


def cell_table(run: RunFolder) -> dict[str, Any] | None:
    """Pairs wanted and found by cell of Table C.1 with their sum; None where the run has not come so far."""
    cells = _mappings(lookup(run.manifest, "lte", "cells"))
    if not cells:
        return None
    rows = [
        {
            "group": GROUPS.get(str(cell.get("group")), str(cell.get("group"))),
            "scope": SCOPES.get(str(cell.get("scope")), str(cell.get("scope"))),
            "wanted": cell.get("wanted"), "found": cell.get("found"), "is_short": bool(cell.get("short")), "missing": missing_of(cell),
            "percent": _percent(amount(cell.get("found")), cell), "missing_percent": _percent(missing_of(cell), cell),
        }
        for cell in cells
    ]
    total = {name: sum(amount(cell.get(name)) for cell in cells) for name in ("wanted", "found")}
    short = [row for row in rows if row["is_short"]]
    return {"rows": rows, "total": {**total, "missing": sum(row["missing"] for row in rows)}, "num_short": len(short)}


def missing_of(cell: Mapping[str, Any]) -> float:
    """Pairs that a cell lacks."""
    return max(amount(cell.get("wanted")) - amount(cell.get("found")), 0)


def _percent(num: float, cell: Mapping[str, Any]) -> float:
    """Of what the cell wants, or has where that is more."""
    return round(100 * num / (max(amount(cell.get("wanted")), amount(cell.get("found"))) or 1), 2)


# ---- where queries come from


def aspects_of(run: RunFolder, rows: Rows) -> list[tuple[str, str, str, float]]:
    """Data set, scope, aspect and pairs, by data set and most first: as the manifest says, else as the rows do."""
    counted = mapping(lookup(run.manifest, "lte", "aspects")) or rows.aspects
    known: list[tuple[str, str, str, float]] = []
    for name, count in counted.items():
        parts = str(name).split("/", 2)
        if len(parts) == 3:
            known.append((parts[0], parts[1], parts[2], amount(count)))
    order = {source: place for place, source in enumerate(SOURCES)}
    return sorted(known, key=lambda one: (order.get(one[0], len(order)), one[0], -one[3], one[1], one[2]))


def aspect_view(run: RunFolder, rows: Rows) -> dict[str, Any] | None:
    """The same as bars under their data sets."""
    known = aspects_of(run, rows)
    if not known:
        return None
    widest = max(count for *_, count in known) or 1
    shown: dict[str, dict[str, Any]] = {}
    for source, kind, aspect, count in known[:MAX_ASPECTS]:
        part = shown.setdefault(source, {"source": SOURCES.get(source, source), "num": 0.0, "rows": []})
        part["num"] += count
        part["rows"].append({
            "scope": SCOPES.get(kind, kind), "css": kind if kind in SCOPES else "other", "aspect": aspect,
            "meaning": ASPECTS.get(aspect, ""), "count": count, "percent": round(100 * count / widest, 2),
        })
    return {"parts": list(shown.values()), "rest": max(len(known) - MAX_ASPECTS, 0)}


# ---- files


@dataclass(frozen=True)
class SourceFile:
    """A file of the input; counts are None where the run folder does not have them."""

    path: str
    form: str
    use: str
    """edits, plain queries or test edits."""
    kept: float | None
    rejected: float | None


def source_files(run: RunFolder) -> list[SourceFile]:
    """The files that the config names, with the records that were read from each (an object store's copy has no such counts)."""
    read, plain = _counts_by_split(run, "edits"), _counts_by_split(run, "plain")
    counted = {(path, form, "edits"): read.get(row_id_of(path, form)[:16]) for path, form in _paths(run, "edits")}
    counted |= {(path, "", "plain queries"): plain.get(row_id_of(path)[:16]) for path in _texts(lookup(run.config, "input", "plain"))}
    counted |= {(path, form, "test edits, not trained on"): None for path, form in _paths(run, "test")}
    return [
        SourceFile(path, form, use, *((counts["kept"], counts["rejected"]) if counts else (None, None)))
        for (path, form, use), counts in counted.items()
    ]


def _paths(run: RunFolder, part: str) -> Iterator[tuple[str, str]]:
    for group in _mappings(lookup(run.config, "input", part)):
        for path in _texts(lookup(group, "paths")):
            yield path, str(lookup(group, "form") or "")


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []


def _counts_by_split(run: RunFolder, stage: str) -> dict[str, Counter[str]]:
    """Counts of a reading stage by the id of the file they belong to."""
    by_split: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        for commit in CommitLog(Storage(str(run.path))).read(stage):
            by_split[str(commit.extra.get("split"))].update({name: int(amount(commit.counts.get(name))) for name in ("kept", "rejected")})
    except (ResumeError, AttributeError) as err:
        logger.warning("%s: commits of %s cannot be read (%s); the report goes without its counts", run.path, stage, err)
    return by_split


# ---- beside the exact fact


def threefold_view(run: RunFolder, rows: Rows) -> dict[str, Any] | None:
    """What was drawn to stand beside the exact fact against the configured shares, and what stands there; None before any was drawn."""
    told = mapping(lookup(run.manifest, "lte", "shown"))
    drawn: Mapping[str, Any] = told or rows.styles
    total = sum(amount(drawn.get(style)) for style in STYLES)
    if not total:
        return None
    shares = lookup(run.config, "lte", "threefold", "shares")
    wanted = list(shares) if isinstance(shares, list | tuple) and len(shares) == len(STYLES) else [None] * len(STYLES)
    lines = [
        {"style": meaning, "wanted": wanted[place] if is_number(wanted[place]) else None, "count": amount(drawn.get(style)),
         "rate": amount(drawn.get(style)) / total, "shown": rows.neighbours[place] if rows.num else None}
        for place, (style, meaning) in enumerate(STYLES.items())
    ]
    skipped = [SOURCES.get(name, name) for name in _texts(lookup(run.config, "lte", "threefold", "skip"))]
    return {"rows": lines, "total": total, "short": told.get("short", 0) if told else rows.num_short, "skipped": skipped}


def places_view(run: RunFolder, rows: Rows) -> dict[str, Any] | None:
    """Where the exact fact stands among those shown, drawn and in words; None where it never has company."""
    sizes = [size for size in sorted(rows.places) if size <= MAX_SIZE]
    if not sizes:
        return None
    is_first = lookup(run.config, "lte", "threefold", "exact_first") is True
    lines = [_said_of_places(size, rows.places[size], is_first=is_first) for size in sizes]
    return {"chart": places_chart(rows.places), "told": lines, "num_several": rows.num_several}


def _said_of_places(size: int, counts: Counter[int], *, is_first: bool) -> dict[str, Any]:
    total = counts.total()
    shares = ", ".join(f"{_ORDINALS[place]} {percent(counts[place] / total)}" for place in range(size))
    start = f"Of {number(total)} prompts with {size} facts the exact one is {shares}"
    if is_first:
        is_fine = counts[0] == total
        return {"text": f"{start}: " + ("always the first, as configured (exact_first)." if is_fine else
                                        "not always the first, though exact_first is set."), "is_fine": is_fine}
    if total < MIN_PROMPTS:
        return {"text": f"{start}: too few to tell.", "is_fine": True}
    deviation = math.sqrt(total * (1 / size) * (1 - 1 / size))
    worst = max(abs(counts[place] - total / size) for place in range(size)) / deviation
    is_fine = worst <= CHANCE
    return {"text": f"{start}: " + ("about even." if is_fine else
                                    f"not even ({worst:.1f} standard deviations off); a model can learn the place."), "is_fine": is_fine}


def places_chart(places: Mapping[int, Counter[int]]) -> Markup:
    """A group of bars for each number of facts shown, one bar per place; dashed, an even share."""
    sizes = [size for size in sorted(places) if 2 <= size <= MAX_SIZE and places[size].total()]
    if not sizes:
        return Markup("")
    rates = {size: [100 * places[size][place] / places[size].total() for place in range(size)] for size in sizes}
    y_ticks = ticks(max(max(values) for values in rates.values()), 3)
    plot = Plot(x_limit=sum(sizes) + len(sizes), y_limit=y_ticks[-1])
    drawn, left = [plot.y_axis(y_ticks)], 0.5
    for size in sizes:
        even = Markup('<line class="mark" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
        bars = []
        for place, rate in enumerate(rates[size]):
            tip = f"{_ORDINALS[place]} of {size} facts: {places[size][place]:,} ({rate:.1f} %)"
            wide = plot.x(1) - plot.x(0)
            bars.append(plot.bar(plot.x(left + place) + wide * 0.1, wide * 0.8, rate, tip, css=f"bar f{0 if size == 2 else 2}"))
            bars.append(label_at(plot.x(left + place + 0.5), HEIGHT - 19, _ORDINALS[place], "tick middle"))
        drawn += [*bars, even.format(plot.x(left), plot.x(left + size), plot.y(100 / size), plot.y(100 / size))]
        drawn.append(label_at(plot.x(left + size / 2), HEIGHT - 4, f"of {size} facts", "unit middle"))
        left += size + 1
    return svg(WIDTH, HEIGHT, drawn, "Place of the exact fact among those shown")


# ---- lengths


def word_charts(rows: Rows) -> list[dict[str, Any]]:
    """Lengths in words, split at blanks."""
    titles = (("with", "Prompts with the edit prompt", "facts and query"), ("without", "Prompts without it", "the query alone"),
              ("answer", "Answers", "of both"))
    shown = []
    for key, title, meaning in titles:
        lengths = rows.words[key]
        if lengths:
            shown.append({"title": title, "meaning": meaning, "chart": word_histogram(lengths, title=title), "figures": [
                ("median", number(float(np.median(lengths)))), ("99 % have up to", number(float(np.percentile(lengths, 99)))),
                ("longest", number(max(lengths)))]})
    return shown


def word_histogram(lengths: Sequence[int], *, title: str) -> Markup:
    """Bars of whole words; the longest hundredth is one bar where it would stretch the axis."""
    width = max(1, math.ceil((float(np.percentile(lengths, 99)) + 1) / NUM_BINS))
    num_bins = min(NUM_BINS, max(lengths) // width + 1)
    limit = width * num_bins
    counts, edges = np.histogram([length for length in lengths if length < limit], num_bins, (0, limit))
    over = sum(length >= limit for length in lengths)
    marks = [("median", float(np.median(lengths)))]
    return charts.histogram(edges.tolist(), counts.tolist(), over=over, marks=marks, title=f"{title}, in words", unit="words")


# ---- in words


@dataclass(frozen=True)
class Told:
    """A sentence, and whether it is a warning."""

    text: str
    is_warning: bool = False


def leakage_told(run: RunFolder) -> list[Told]:
    """What the check against test edits found; that nothing was checked where none were named."""
    found = mapping(lookup(run.manifest, "lte", "leakage"))
    num_test, shared = found.get("test_edits"), amount(found.get("shared"))
    if not found:
        return []
    if not num_test:
        told = [Told("No test edits were named (input.test), so nobody looked whether the rows give away what you will test on.", True)]
        if _has_mquake(run):
            told.append(Told("MQuAKE comes without a training part: its files are those that others evaluate with.", True))
        return told
    what = f"a fact (subject and relation) or a question with one of the {number(num_test)} test edits"
    if not shared:
        return [Told(f"No training edit shares {what}.")]
    handling = {"drop": "they were left out", "report": "they are in the rows, as on_leakage: report asks for"}
    kept = handling.get(str(found.get("handling")), str(found.get("handling")))
    return [Told(f"{number(shared)} training edits share {what}; {kept}.", found.get("handling") != "drop")]


def _has_mquake(run: RunFolder) -> bool:
    return any(form == "mquake" for _, form in _paths(run, "edits"))


def left_out(run: RunFolder) -> list[tuple[str, float]]:
    """What was left out before anybody was asked, in words, most first."""
    notes = mapping(lookup(run.manifest, "lte", "notes"))
    counted = [(LEFT_OUT.get(str(name), str(name)), amount(count)) for name, count in notes.items() if amount(count)]
    return sorted(counted, key=lambda item: (-item[1], item[0]))


# ---- pairs to look at


def sample_pairs(run: RunFolder, count: int) -> tuple[list[dict[str, Any]], int]:
    """Of each data set and scope a seeded choice of ``count`` pairs as {with_prompt: row}; and how many pairs there are in all.

    The same pairs whatever the parts are called.
    """
    best: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    total = 0
    paths = part_paths(run)
    for batch in batches(paths, ["pair_id", "source", "kind", "with_prompt"]):
        for row in batch.to_pylist():
            total += row["with_prompt"]
            if row["with_prompt"] and row["source"] in SOURCES and row["kind"] in SCOPES:
                heap, item = best[row["source"], row["kind"]], (-draw(run.seed, row["pair_id"], "report/sample"), row["pair_id"])
                if len(heap) < count:
                    heapq.heappush(heap, item)
                elif item > heap[0]:
                    heapq.heapreplace(heap, item)
    order = [pair_id for source in SOURCES for kind in SCOPES for _, pair_id in sorted(best.get((source, kind), ()), reverse=True)]
    wanted = pa.array(order, pa.string())
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for batch in batches(paths, None) if order else ():
        for row in batch.filter(pc.is_in(batch.column("pair_id"), value_set=wanted)).to_pylist():
            found[row["pair_id"]]["with" if row["with_prompt"] else "without"] = row
    return [found[pair_id] for pair_id in order if "with" in found[pair_id]], total
