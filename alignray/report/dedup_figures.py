"""What near-duplicate removal promised, did and was measured to do: figures, sentences and charts, from a manifest alone."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from alignray.dedup.banding import collision_probability
from alignray.report import charts
from alignray.report.page import MISSING, is_number, mapping, number
from alignray.report.run_folder import RunFolder, lookup

NUM_POINTS = 100
LABELS = {"recall": "recall near the threshold", "recall_above": "recall well above it", "precision": "precision"}
CHECKED = {
    "exact": "by the Jaccard similarity of their shingles",
    "estimate": "by their signatures, which err by chance at close calls",
    "none": "not at all: every pair that shared a band counts",
}


def rate(value: Any) -> str:
    """A rate in [0, 1] as percent that never rounds up to 100 %, or a dash."""
    if not is_number(value):
        return MISSING
    shown = f"{100 * value:.4g}"
    return "over 99.99%" if shown == "100" and value < 1 else f"{shown}%"


def with_interval(quality: Any, name: str) -> str:
    """A measured rate with its 95 % interval, or a dash."""
    value, low, high = (lookup(quality, name + end) for end in ("", "_low", "_high"))
    if not is_number(value):
        return MISSING
    return f"{rate(value)} ({100 * low:.4g} to {100 * high:.4g})" if is_number(low) and is_number(high) else rate(value)


def facts_of(stats: Any) -> list[tuple[str, str]]:
    """The figures of a pass as (label, value); empty without a pass."""
    known = mapping(stats)
    if not known:
        return []
    quality = known.get("quality")
    measured = [(label, with_interval(quality, name)) for name, label in LABELS.items()] if quality else [("recall", "not measured")]
    counted = [
        ("pairs that shared a band", "candidates"), ("pairs that passed the check", "verified"), ("buckets capped", "capped"),
        ("rows compared", "rows"), ("rows of earlier runs", "rows_earlier"), ("rows in clusters", "clustered"), ("clusters", "clusters"),
        ("largest cluster", "largest_cluster"), ("removed", "removed"), ("exact duplicates", "exact_duplicate"),
        ("near-duplicates", "near_duplicate"),
    ]
    return [
        ("threshold", f"{known['threshold']:g}" if is_number(known.get("threshold")) else MISSING),
        ("bands x rows", f"{number(known.get('bands'))} x {number(known.get('rows_per_band'))}"),
        ("check", str(known.get("verify") or MISSING)), *measured,
        *((label, number(known.get(name))) for label, name in counted if name in known),
    ]


def split_of(stats: Any) -> tuple[float, int, int] | None:
    """(threshold, bands, rows per band) where all three make sense."""
    threshold, bands, rows = (lookup(stats, name) for name in ("threshold", "bands", "rows_per_band"))
    if not all(map(is_number, (threshold, bands, rows))) or not (0 < threshold <= 1 and bands >= 1 and rows >= 1):
        return None
    return float(threshold), int(bands), int(rows)


def unit_of(run: RunFolder) -> str:
    """What is compared, such as "word 5-grams"."""
    unit, n = (lookup(run.config, "minhash", name) for name in ("unit", "n"))
    return f"{str(unit).replace('_', ' ')} {n}-grams" if unit and is_number(n) else "shingles"


def wanted_recall(run: RunFolder) -> float | None:
    """The recall that was wished for; None where the bands were set by hand."""
    measured, wished = lookup(run.manifest, "dedup", "quality", "wanted_recall"), lookup(run.config, "minhash", "recall")
    if is_number(measured):
        return float(measured)
    return float(wished) if is_number(wished) and lookup(run.config, "minhash", "bands") is None else None


def guarantee(run: RunFolder) -> str:
    """In one sentence: which pairs are found how surely, by design and as measured."""
    stats = mapping(run.manifest.get("dedup"))
    split = split_of(stats)
    if split is None:
        return "No pass over the rows has finished, so nothing can be said of what it finds."
    threshold, bands, rows = split
    wished = wanted_recall(run)
    designed = (
        f"Two rows whose {unit_of(run)} have a Jaccard similarity of {threshold:g} share one of {bands:,} bands of {rows:,} "
        f"signature values, and so become candidates, with probability {rate(collision_probability(threshold, bands, rows))}"
        + (f" ({rate(wished)} was wished for)" if wished is not None else "") + "; more alike ones more surely"
    )
    quality = mapping(stats.get("quality"))
    if not is_number(quality.get("recall")):
        return f"{designed}; recall was not measured in this run."
    return (
        f"{designed}; of {number(quality.get('num_at'))} pairs planted close above that similarity "
        f"{number(quality.get('found_at'))} were found, {rate(quality['recall'])} "
        f"(95\N{NO-BREAK SPACE}% interval {rate(quality.get('recall_low'))} to {rate(quality.get('recall_high'))})."
    )


def collision_chart(stats: Any) -> Markup | None:
    """Probability of becoming a candidate against Jaccard similarity, with the measured recall on it."""
    split = split_of(stats)
    if split is None:
        return None
    threshold, bands, rows = split
    points = [(step / NUM_POINTS, collision_probability(step / NUM_POINTS, bands, rows)) for step in range(NUM_POINTS + 1)]
    places = {"recall": threshold, "recall_above": (threshold + 1) / 2}
    measured = [_interval(lookup(stats, "quality"), name, label, places[name]) for name, label in LABELS.items() if name in places]
    return charts.rates(
        points, mark=(f"threshold {threshold:g}", threshold), measured=measured, title="Probability of sharing a band",
        x_unit="Jaccard similarity",
    )


def measured_chart(stats: Any, wished: float | None) -> Markup | None:
    """Measured recall and precision with their intervals, from close by; None where nothing was measured."""
    quality = lookup(stats, "quality")
    measured = [_interval(quality, name, f"{label}: {with_interval(quality, name)}") for name, label in LABELS.items()]
    mark = None if wished is None else (f"recall wished for ({rate(wished)})", wished)
    return charts.intervals(measured, mark=mark, title="Measured recall and precision with 95 % intervals") or None


def _interval(quality: Any, name: str, label: str, x: float | None = None) -> charts.Interval:
    value, low, high = (float(found) if is_number(found := lookup(quality, name + end)) else None for end in ("", "_low", "_high"))
    return charts.Interval(label, value, low, high, x)
