"""The report of a WebR run: cost, lengths, diversity, what the instructions ask for, sample rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from alignray.errors import RecordError
from alignray.io.export import split_request
from alignray.report import charts
from alignray.report.dedup_figures import facts_of
from alignray.report.page import MISSING, amount, cut, dollars, duration, frame, is_number, labelled, mapping, number, total_seconds
from alignray.report.run_folder import RunFolder, lookup, num_rows, reject_reasons, sample_rows
from alignray.schema import InstructionRow

NUM_SAMPLES = 12
MAX_TEXT = 6000
"""Characters shown of one message or page; the rest is counted."""
NUM_BINS = 80

BRANCHES = {"instruction": "Web as instruction", "response": "Web as response"}
LENGTH_TITLES = {
    "instruction": ("Instruction", "the request alone"),
    "prompt": ("Prompt", "the request and its document"),
    "response": ("Response", "all assistant turns"),
}


def webr_page(run: RunFolder) -> dict[str, Any]:
    """What webr.html shows."""
    facts = [
        ("Reading", _ingest(run)), ("Near-duplicates", facts_of(run.manifest.get("dedup"))),
        ("Seconds by stage", labelled(lookup(run.manifest, "seconds"))), ("Versions", labelled(lookup(run.manifest, "versions"))),
    ]
    return {
        **frame(run, tiles=_tiles(run), facts=facts, rejects=reject_reasons(run)),
        "usage": usage(run),
        "lengths": _lengths(run),
        "diversity": lookup(run.analysis, "diversity"),
        "embedder": lookup(run.analysis, "embedder"),
        "verb_nouns": _verb_nouns(run),
        "ratings": _ratings(run),
        "samples": [_sample(row) for row in sample_rows(run, NUM_SAMPLES)],
        "throughput": throughput(run.metrics),
    }


def safe_url(url: str) -> str | None:
    """The URL where it may become a link: http or https with a host, no blanks or control characters."""
    if any(character.isspace() or ord(character) < 33 for character in url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def _sum(steps: Mapping[str, Any], key: str) -> float:
    return sum(amount(lookup(step, key)) for step in steps.values())


def _tiles(run: RunFolder) -> list[dict[str, str]]:
    branches = mapping(lookup(run.manifest, "result", "branches"))
    note = ", ".join(f"{number(count)} {branch}" for branch, count in branches.items()) or "in the part files"
    return rows_and_cost(run, "Rows", note)


def rows_and_cost(run: RunFolder, label: str, note: str) -> list[dict[str, str]]:
    """Tiles that every run of prompt steps has: rows (under a label, with a note), tokens, cost beside the plan, time."""
    rows = lookup(run.manifest, "result", "rows")
    committed = num_rows(run.part_paths())
    steps = mapping(lookup(run.manifest, "usage", "steps"))
    usd, plan = lookup(run.manifest, "usage", "usd"), mapping(run.manifest.get("plan"))
    prompt, completion = _sum(steps, "prompt_tokens"), _sum(steps, "completion_tokens")
    seconds = total_seconds(run)
    shown_rows = rows if is_number(rows) else committed
    per_hour = shown_rows / seconds * 3600 if seconds and shown_rows else None
    planned = f"plan {dollars(plan['usd'])}" if is_number(plan.get("usd")) else "no plan"
    if is_number(plan.get("low_usd")) and is_number(plan.get("high_usd")):
        planned += f" ({dollars(plan['low_usd'])} to {dollars(plan['high_usd'])})"
    return [
        {"label": label, "value": number(shown_rows), "note": note},
        {
            "label": "Tokens",
            "value": number(prompt + completion) if steps else MISSING,
            "note": f"{number(prompt)} in, {number(completion)} out" if steps else "no model calls recorded",
        },
        {"label": "Cost", "value": dollars(usd), "note": planned},
        {
            "label": "Time",
            "value": duration(seconds),
            "note": f"{number(per_hour)} rows per hour" if per_hour else "all stages",
        },
    ]


def _ingest(run: RunFolder) -> list[tuple[str, str]]:
    """Counts of the reader, flat: ("records / response", "1,204")."""
    return labelled(run.manifest.get("ingest"))


def usage(run: RunFolder) -> dict[str, Any] | None:
    """What cost.html shows: calls, tokens and dollars by step, beside the plan; None without any."""
    spent = mapping(lookup(run.manifest, "usage", "steps"))
    planned = mapping(lookup(run.manifest, "plan", "steps"))
    names = [*spent, *(name for name in planned if name not in spent)]
    if not names:
        return None
    keys = ("calls", "prompt_tokens", "completion_tokens", "usd")
    steps = [
        {
            "name": name,
            "role": lookup(spent, name, "role"),
            "spent": {key: lookup(spent, name, key) for key in keys},
            "planned": {key: lookup(planned, name, key) for key in keys},
        }
        for name in names
    ]
    return {
        "steps": steps,
        "has_plan": bool(planned),
        "total": {key: _sum(spent, key) for key in keys},
        "planned_total": {key: _sum(planned, key) for key in keys} if planned else dict.fromkeys(keys),
        "lost_usd": lookup(run.manifest, "usage", "lost_in_flight_usd"),
    }


def _lengths(run: RunFolder) -> list[dict[str, Any]]:
    shown = []
    for key, (title, meaning) in LENGTH_TITLES.items():
        summary = mapping(lookup(run.analysis, "token_lengths", key))
        bins = mapping(summary.get("histogram"))
        if not bins:
            continue
        marks = [("median", summary["p50"])]
        chart = charts.histogram(
            bins["edges"], bins["counts"], over=bins["over"], marks=marks, title=f"{title} lengths", unit="tokens")
        shown.append({"title": title, "meaning": meaning, "chart": chart, "summary": summary})
    return shown


def _verb_nouns(run: RunFolder) -> dict[str, Any] | None:
    structure = mapping(lookup(run.analysis, "verb_nouns"))
    verbs = structure.get("verbs")
    if not verbs:
        return None
    slices = [charts.Slice(v["verb"], v["count"], [(n["noun"], n["count"]) for n in v["nouns"]]) for v in verbs]
    return {
        "chart": charts.wheel(slices, title="Root verbs and their object nouns"),
        "verbs": verbs, "total": structure["total"], "recognised": structure["recognised"], "pairs": structure["pairs"],
        "widest": max(v["count"] for v in verbs),
    }


def _ratings(run: RunFolder) -> list[dict[str, Any]]:
    shown = []
    for key, title in (("quality", "Quality"), ("difficulty", "Difficulty")):
        counts = mapping(lookup(run.analysis, "ratings", key))
        levels = mapping(counts.get("levels"))
        if levels:
            widest = max(levels.values()) or 1
            bars = [
                {"level": level, "count": count, "percent": round(100 * count / widest, 1),
                 "rate": count / counts["scored"] if counts["scored"] else None}
                for level, count in levels.items()
            ]
            shown.append({"title": title, "bars": bars, **counts})
    return shown


def _sample(row: InstructionRow) -> dict[str, Any]:
    turns = [{"role": message.role, "text": cut(message.content, MAX_TEXT)} for message in row.messages]
    document = ""
    try:
        request, document = split_request(row)
    except RecordError:
        pass  # a turn of another build is shown as it stands
    if document:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["text"] = cut(request, MAX_TEXT)
    provenance = [
        ("file", row.file), ("offset", str(row.offset) if row.offset >= 0 else ""), ("digest", row.digest),
        ("record", row.record_id), ("date", row.date), ("language", row.language), ("source", row.source),
        ("opt-out signals", row.optout), ("model", row.model),
        ("tokens", f"{number(row.prompt_tokens)} in, {number(row.completion_tokens)} out"), ("cost", dollars(row.cost_usd)),
        ("stands for", f"{number(row.cluster_size)} near-duplicates" if row.cluster_size > 1 else ""), ("row", row.row_id),
    ]
    return {
        "branch": BRANCHES.get(row.branch, row.branch), "css": row.branch if row.branch in BRANCHES else "other",
        "scope": "a part of the page" if row.part else "the whole page",
        "persona": row.persona, "turns": turns, "document": cut(document, MAX_TEXT), "document_length": len(document),
        "doc_first": row.layout == "doc_first", "url": row.url, "link": safe_url(row.url),
        "provenance": [(label, value) for label, value in provenance if value],
    }


def throughput(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts over active time: pauses between a stop and its resume are cut out."""
    samples = sorted((m for m in metrics if is_number(m.get("t"))), key=lambda m: m["t"])
    if len(samples) < 3:
        return []
    steps = [after["t"] - before["t"] for before, after in pairwise(samples)]
    usual = statistics.median(steps)
    longest = max(60.0, 20 * usual)
    clock, clocks, breaks = 0.0, [0.0], []
    for step in steps:
        if step > longest:
            breaks.append(clock)
        clock += step if step <= longest else usual
        clocks.append(clock)
    unit, scale = ("minutes", 60.0) if clock >= 180 else ("seconds", 1.0)
    num_bins = max(1, min(NUM_BINS, len(steps) // 2))
    width = max(clock / num_bins, 1e-9)

    def chart(title: str, meaning: str, series: list[charts.Series], *, legend: bool = False) -> dict[str, Any] | None:
        if not any(point and point[1] for one in series for point in one.points):
            return None
        drawn = charts.lines(series, title=title, x_unit=f"{unit} of work", breaks=[place / scale for place in breaks])
        labels = [(f"s{index % 6}", one.label) for index, one in enumerate(series)] if legend else []
        return {"title": title, "meaning": meaning, "chart": drawn, "legend": labels, "resumed": bool(breaks)}

    def rate_of(key: str) -> list[tuple[float, float] | None]:
        gained = [0.0] * num_bins
        for (before, after), now in zip(pairwise(samples), clocks[1:], strict=True):
            # counters start again after a resume: a fall is a new start, not work undone
            gained[min(int(now / width), num_bins - 1)] += max(amount(after.get(key)) - amount(before.get(key)), 0)
        return [((index + 0.5) * width / scale, value / width) for index, value in enumerate(gained)]

    stages = list(dict.fromkeys(str(sample.get("stage", "")) for sample in samples))
    progress = [
        charts.Series(stage, _thin([
            (now / scale, 100 * min(amount(sample.get("done")) / sample["total"], 1))
            for sample, now in zip(samples, clocks, strict=True)
            if str(sample.get("stage", "")) == stage and amount(sample.get("total")) > 0
        ]))
        for stage in stages[:6]
    ]
    in_flight = _thin([(now / scale, amount(sample.get("in_flight"))) for sample, now in zip(samples, clocks, strict=True)])
    made = [
        chart("Tokens per second", "written by the models", [charts.Series("completion tokens", rate_of("completion_tokens"))]),
        chart("Calls in flight", "open requests", [charts.Series("in flight", in_flight)]),
        chart("Progress", "percent of each stage", progress, legend=True),
    ]
    return [one for one in made if one]


def _thin(points: Sequence[tuple[float, float]], limit: int = 200) -> list[tuple[float, float]]:
    """At most about ``limit`` points, first and last kept."""
    stride = max(1, math.ceil(len(points) / limit))
    kept: Iterable[tuple[float, float]] = points[::stride]
    return [*kept, points[-1]] if points and (len(points) - 1) % stride else list(kept)
