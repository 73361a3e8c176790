"""report.html: one self-contained page about a run folder, from its files alone.

Page texts, model answers and file names are hostile: Jinja escapes every value, charts escape their labels, and the page
forbids itself scripts and the network by its own content security policy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from alignray.errors import RecordError
from alignray.io.export import split_request
from alignray.report import charts
from alignray.report.run_folder import RejectReason, RunFolder, lookup, num_rows, read_run, reject_reasons, sample_rows
from alignray.schema import InstructionRow

NUM_SAMPLES = 12
MAX_TEXT = 6000
"""Characters shown of one message or page; the rest is counted."""
MAX_EXAMPLE = 700
MAX_CONFIG = 100_000
NUM_BINS = 80

STATUS = {
    "done": "done",
    "running": "running",
    "failed": "failed",
    "stopped_at_budget": "stopped at the budget",
    "empty": "finished without rows",
}
BRANCHES = {"instruction": "Web as instruction", "response": "Web as response"}
LENGTH_TITLES = {
    "instruction": ("Instruction", "the request alone"),
    "prompt": ("Prompt", "the request and its document"),
    "response": ("Response", "all assistant turns"),
}

_UNREADABLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127) if code not in (9, 10)}
MISSING = "–"


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into the run folder, replacing an older one whole, and return its path.

    Works on a run that is running, failed or empty; what is not there yet is left out or shown as a dash.

    Raises:
        RecordError: not a run folder.
    """
    run = read_run(run_dir)
    path = run.path / "report.html"
    temporary = path.with_name(".report.html.tmp")
    temporary.write_bytes(render_report(run).encode("utf-8", "replace"))
    temporary.replace(path)
    return path


def render_report(run: RunFolder) -> str:
    """The page as text."""
    rejects = reject_reasons(run)
    return _environment().get_template("report.html").render(
        name=run.name,
        status=_status(run),
        method=run.manifest.get("method"),
        started=run.manifest.get("started"),
        finished=run.manifest.get("finished"),
        tiles=_tiles(run),
        funnel=_funnel(run),
        ingest=_ingest(run),
        dedup=_pairs(lookup(run.manifest, "dedup")),
        usage=_usage(run),
        seconds=_pairs(lookup(run.manifest, "seconds")),
        lengths=_lengths(run),
        diversity=lookup(run.analysis, "diversity"),
        embedder=lookup(run.analysis, "embedder"),
        verb_nouns=_verb_nouns(run),
        ratings=_ratings(run),
        rejects=[_reject(reason) for reason in rejects],
        samples=[_sample(row) for row in sample_rows(run, NUM_SAMPLES)],
        throughput=_throughput(run.metrics),
        config=_cut(run.config_text, MAX_CONFIG),
        versions=_pairs(lookup(run.manifest, "versions")),
        fingerprint=run.manifest.get("fingerprint"),
        alignray=run.manifest.get("alignray"),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        number=number, dollars=dollars, duration=duration, percent=percent, fixed=lambda value: f"{value:.3f}",
        cut=_cut, short=charts.compact,
    )
    return environment


def _finalize(value: Any) -> Any:
    if value is None:
        return MISSING
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_UNREADABLE)
    return value


def number(value: Any) -> str:
    """A count with thousands separators, or a dash."""
    return f"{value:,.0f}" if _is_number(value) else MISSING


def dollars(value: Any) -> str:
    """Money with as many decimals as small amounts need, or a dash."""
    if not _is_number(value):
        return MISSING
    return f"${value:,.2f}" if value == 0 or abs(value) >= 0.1 else f"${value:.2g}" if abs(value) >= 1e-4 else "under $0.0001"


def duration(seconds: Any) -> str:
    """Seconds as "3 h 12 min", "4 min 5 s" or "2.5 s", or a dash."""
    if not _is_number(seconds) or seconds < 0:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def percent(rate: Any) -> str:
    """A rate in [0, 1] as percent, or a dash."""
    if not _is_number(rate):
        return MISSING
    return f"{rate:.1%}" if rate == 0 or rate >= 0.001 else "under 0.1%"


def safe_url(url: str) -> str | None:
    """The URL where it may become a link: http or https with a host, no blanks or control characters."""
    if any(character.isspace() or ord(character) < 33 for character in url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _amount(value: Any) -> float:
    return value if _is_number(value) else 0


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[... {len(text) - limit:,} more characters]"


def _status(run: RunFolder) -> dict[str, str]:
    status = str(run.manifest.get("status", "unknown"))
    return {"css": status if status in STATUS else "unknown", "text": STATUS.get(status, status)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sum(steps: Mapping[str, Any], key: str) -> float:
    return sum(_amount(lookup(step, key)) for step in steps.values())


def _total_seconds(run: RunFolder) -> float | None:
    seconds = _mapping(run.manifest.get("seconds"))
    return sum(_amount(value) for value in seconds.values()) if seconds else None


def _tiles(run: RunFolder) -> list[dict[str, str]]:
    rows = lookup(run.manifest, "result", "rows")
    committed = num_rows(run.part_paths())
    branches = _mapping(lookup(run.manifest, "result", "branches"))
    steps = _mapping(lookup(run.manifest, "usage", "steps"))
    usd, plan = lookup(run.manifest, "usage", "usd"), _mapping(run.manifest.get("plan"))
    prompt, completion = _sum(steps, "prompt_tokens"), _sum(steps, "completion_tokens")
    seconds = _total_seconds(run)
    shown_rows = rows if _is_number(rows) else committed
    per_hour = shown_rows / seconds * 3600 if seconds and shown_rows else None
    planned = f"plan {dollars(plan['usd'])}" if _is_number(plan.get("usd")) else "no plan"
    if _is_number(plan.get("low_usd")) and _is_number(plan.get("high_usd")):
        planned += f" ({dollars(plan['low_usd'])} to {dollars(plan['high_usd'])})"
    return [
        {
            "label": "Rows",
            "value": number(shown_rows),
            "note": ", ".join(f"{number(count)} {branch}" for branch, count in branches.items()) or "in the part files",
        },
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


def _funnel(run: RunFolder) -> list[dict[str, Any]]:
    stages = [stage for stage in run.manifest.get("funnel") or () if isinstance(stage, Mapping)]
    widest = max((_amount(stage.get("in")) for stage in stages), default=0) or 1
    shown = []
    for stage in stages:
        taken, kept = stage.get("in"), stage.get("kept")
        rejected = _mapping(stage.get("rejected"))
        lost = sum(_amount(count) for count in rejected.values())
        shown.append({
            "name": stage.get("stage"), "in": taken, "kept": kept, "lost": lost,
            "kept_percent": round(100 * _amount(kept) / widest, 2), "lost_percent": round(100 * lost / widest, 2),
            "rate": _amount(kept) / taken if _is_number(taken) and taken else None,
            "losses": sorted(rejected.items(), key=lambda item: (-_amount(item[1]), item[0])),
            "unaccounted": _amount(taken) - _amount(kept) - lost if _is_number(taken) and _is_number(kept) else 0,
        })
    return shown


def _ingest(run: RunFolder) -> list[tuple[str, str]]:
    """Counts of the reader, flat: ("records / response", "1,204")."""
    return _pairs(run.manifest.get("ingest"))


def _pairs(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, inner in _mapping(value).items():
        name = f"{prefix}{key}".replace("_", " ") if not prefix else f"{prefix}{key}"
        if isinstance(inner, Mapping):
            pairs += _pairs(inner, f"{name} / ")
        elif isinstance(inner, int) and not isinstance(inner, bool):
            pairs.append((name, number(inner)))
        elif isinstance(inner, float):
            pairs.append((name, f"{inner:,.4g}" if abs(inner) < 100 else number(inner)))
        elif isinstance(inner, bool):
            pairs.append((name, "yes" if inner else "no"))
        elif inner is not None:
            pairs.append((name, str(inner)))
    return pairs


def _usage(run: RunFolder) -> dict[str, Any] | None:
    spent = _mapping(lookup(run.manifest, "usage", "steps"))
    planned = _mapping(lookup(run.manifest, "plan", "steps"))
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
        summary = _mapping(lookup(run.analysis, "token_lengths", key))
        bins = _mapping(summary.get("histogram"))
        if not bins:
            continue
        marks = [("median", summary["p50"])]
        chart = charts.histogram(
            bins["edges"], bins["counts"], over=bins["over"], marks=marks, title=f"{title} lengths", unit="tokens")
        shown.append({"title": title, "meaning": meaning, "chart": chart, "summary": summary})
    return shown


def _verb_nouns(run: RunFolder) -> dict[str, Any] | None:
    structure = _mapping(lookup(run.analysis, "verb_nouns"))
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
        counts = _mapping(lookup(run.analysis, "ratings", key))
        levels = _mapping(counts.get("levels"))
        if levels:
            widest = max(levels.values()) or 1
            bars = [
                {"level": level, "count": count, "percent": round(100 * count / widest, 1),
                 "rate": count / counts["scored"] if counts["scored"] else None}
                for level, count in levels.items()
            ]
            shown.append({"title": title, "bars": bars, **counts})
    return shown


def _reject(reason: RejectReason) -> dict[str, Any]:
    example = reason.example
    return {
        "step": reason.step, "reason": reason.reason, "count": reason.count,
        "row_id": example.row_id if example else None,
        "raw": _cut(example.raw, MAX_EXAMPLE) if example else "",
        "detail": _cut(example.detail, MAX_EXAMPLE) if example else "",
    }


def _sample(row: InstructionRow) -> dict[str, Any]:
    turns = [{"role": message.role, "text": _cut(message.content, MAX_TEXT)} for message in row.messages]
    document = ""
    try:
        request, document = split_request(row)
    except RecordError:
        pass  # a turn of another build is shown as it stands
    if document:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["text"] = _cut(request, MAX_TEXT)
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
        "persona": row.persona, "turns": turns, "document": _cut(document, MAX_TEXT), "document_length": len(document),
        "doc_first": row.layout == "doc_first", "url": row.url, "link": safe_url(row.url),
        "provenance": [(label, value) for label, value in provenance if value],
    }


def _throughput(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts over active time: pauses between a stop and its resume are cut out."""
    samples = sorted((m for m in metrics if _is_number(m.get("t"))), key=lambda m: m["t"])
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
            gained[min(int(now / width), num_bins - 1)] += max(_amount(after.get(key)) - _amount(before.get(key)), 0)
        return [((index + 0.5) * width / scale, value / width) for index, value in enumerate(gained)]

    stages = list(dict.fromkeys(str(sample.get("stage", "")) for sample in samples))
    progress = [
        charts.Series(stage, _thin([
            (now / scale, 100 * min(_amount(sample.get("done")) / sample["total"], 1))
            for sample, now in zip(samples, clocks, strict=True)
            if str(sample.get("stage", "")) == stage and _amount(sample.get("total")) > 0
        ]))
        for stage in stages[:6]
    ]
    in_flight = _thin([(now / scale, _amount(sample.get("in_flight"))) for sample, now in zip(samples, clocks, strict=True)])
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
