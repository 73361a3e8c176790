"""The report of a dedup run: what was removed, how surely near-duplicates were found, the largest clusters, benchmark hits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from alignray.report.dedup_figures import CHECKED, collision_chart, guarantee, measured_chart, unit_of, wanted_recall
from alignray.report.dedup_folder import Cluster, cluster_sizes, largest_clusters, place_of, worst_hits
from alignray.report.page import MISSING, amount, cut, frame, is_number, labelled, mapping, number, percent
from alignray.report.run_folder import RunFolder, lookup, num_rows, reject_reasons
from alignray.schema import Rejected

NUM_CLUSTERS = 6
NUM_TEXTS = 3
"""Removed texts shown of a cluster."""
NUM_HITS = 3
"""Rows shown of a benchmark."""
MAX_TEXT = 300
MAX_PATHS = 20
REASONS = {"exact_duplicate": "copy", "near_duplicate": "near-duplicate"}


def dedup_page(run: RunFolder) -> dict[str, Any]:
    """What dedup.html shows."""
    stats = mapping(run.manifest.get("dedup"))
    facts = [
        ("Rows", _rows(run)), ("Settings", labelled(lookup(run.config, "minhash"))),
        ("Seconds by stage", labelled(run.manifest.get("seconds"))), ("Versions", labelled(run.manifest.get("versions"))),
    ]
    return {
        **frame(run, tiles=_tiles(run), facts=facts, rejects=reject_reasons(run)),
        "message": str(run.manifest.get("message") or ""),
        "guarantee": guarantee(run),
        "stats": {name: stats.get(name) for name in (
            "threshold", "candidates", "verified", "capped", "max_bucket", "exact_copies", "largest_cluster", "clusters", "clustered")},
        "unit": unit_of(run),
        "checked": CHECKED.get(str(stats.get("verify")), MISSING),
        "planted": {name: lookup(stats, "quality", name) for name in (
            "num_at", "found_at", "num_above", "found_above", "num_below", "found_below")},
        "collision_chart": collision_chart(stats),
        "measured_chart": measured_chart(stats, wanted_recall(run)),
        "sizes": _sizes(cluster_sizes(run)),
        "clusters": [_cluster(cluster) for cluster in largest_clusters(run, NUM_CLUSTERS, examples=NUM_TEXTS)],
        "earlier": _earlier(run),
        "benchmarks": _benchmarks(run),
        "decontamination": mapping(run.manifest.get("decontamination")),
        "is_dropped": lookup(run.config, "decontamination", "action") == "drop",
    }


def _kept(run: RunFolder) -> int | float:
    rows = lookup(run.manifest, "result", "rows")
    return rows if is_number(rows) else num_rows([*run.part_paths(), *run.json_part_paths()])


def _taken(run: RunFolder) -> Any:
    stages = run.manifest.get("funnel")
    return lookup(stages[0], "in") if isinstance(stages, list) and stages else None


def _tiles(run: RunFolder) -> list[dict[str, str]]:
    stats, taken, kept = mapping(run.manifest.get("dedup")), _taken(run), _kept(run)
    removed, clusters = stats.get("removed"), stats.get("clusters")
    return [
        {"label": "Rows in", "value": number(taken), "note": _unusable(run)},
        {"label": "Kept", "value": number(kept),
         "note": f"{percent(kept / taken)} of the rows in" if is_number(taken) and taken else "in the part files"},
        {"label": "Removed as duplicates", "value": number(removed),
         "note": f"{number(stats.get('exact_duplicate'))} copies, {number(stats.get('near_duplicate'))} near-duplicates"},
        {"label": "Clusters", "value": number(clusters),
         "note": f"the largest of {number(stats.get('largest_cluster'))} rows" if amount(clusters) else "of rows that are alike"},
    ]


def _unusable(run: RunFolder) -> str:
    stages = run.manifest.get("funnel")
    lost = mapping(lookup(stages[0], "rejected")) if isinstance(stages, list) and stages else {}
    count = sum(amount(value) for value in lost.values())
    return f"{number(count)} of them not compared" if count else "all of them compared" if stages else "as far as is known"


def _rows(run: RunFolder) -> list[tuple[str, str]]:
    known = [
        ("read", _taken(run)), ("kept", _kept(run)), ("removed", lookup(run.manifest, "dedup", "removed")),
        ("in clusters, keepers too", lookup(run.manifest, "dedup", "clustered")),
        ("of earlier runs, compared with", lookup(run.manifest, "dedup", "rows_earlier")),
        ("of earlier runs, retracted", run.manifest.get("retracted")),
    ]
    return [(label, number(value)) for label, value in known]


def _sizes(sizes: Counter[int]) -> dict[str, Any]:
    """Bars of cluster sizes: 2, 3 and 4, then ranges that double."""
    bars: dict[int, list[int]] = {}
    for size, count in sizes.items():
        last = size if size <= 4 else 1 << (size - 1).bit_length()
        bars.setdefault(last, []).append(count)
    counts = {last: sum(found) for last, found in sorted(bars.items())}
    widest = max(counts.values(), default=1)
    return {
        "counted": sum(counts.values()),
        "bars": [
            {"label": f"{last}" if last <= 4 else f"{last // 2 + 1:,} to {last:,}", "count": count,
             "percent": round(100 * count / widest, 1)}
            for last, count in counts.items()
        ],
    }


def _cluster(cluster: Cluster) -> dict[str, Any]:
    return {"keeper": cluster.keeper, "size": cluster.size, "removed": [_removed(reject) for reject in cluster.removed]}


def _removed(reject: Rejected) -> dict[str, Any]:
    place = place_of(reject)
    return {
        "reason": REASONS.get(reject.reason, reject.reason), "row_id": reject.row_id, "text": cut(reject.raw, MAX_TEXT),
        "file": PurePath(str(place.get("file", ""))).name, "row": place.get("row"),
        "from_byte": place.get("from_byte"),
    }


def _earlier(run: RunFolder) -> dict[str, Any] | None:
    against, retracted = lookup(run.manifest, "dedup", "against"), run.manifest.get("retracted")
    paths = [str(path) for path in against] if isinstance(against, list) else []
    if not paths and not retracted:
        return None
    return {
        "paths": paths[:MAX_PATHS], "more": max(len(paths) - MAX_PATHS, 0), "rows": lookup(run.manifest, "dedup", "rows_earlier"),
        "retracted": retracted, "is_earlier_kept": run.config.get("prefer") == "earlier",
    }


def _benchmarks(run: RunFolder) -> list[dict[str, Any]]:
    """By benchmark, the contaminated rows; benchmarks that were looked for in vain too."""
    hits = worst_hits(run, NUM_HITS)
    counts = dict.fromkeys(_names(run), 0) | dict(mapping(run.manifest.get("contaminated")))
    is_counted = run.manifest.get("contaminated") is not None
    return [
        {"name": name, "rows": counts.get(name) if is_counted else None,
         "hits": [
             {"row": hit.row_id or f"row {number(hit.row)}", "item": hit.item, "matched": cut(hit.matched, MAX_TEXT), "share": hit.share}
             for hit in hits.get(name, ())
         ]}
        for name in sorted({*counts, *hits}, key=lambda name: (-amount(counts.get(name)), name))
    ]


def _names(run: RunFolder) -> list[str]:
    found = lookup(run.config, "decontamination", "benchmarks")
    return [str(item["name"]) for item in found if isinstance(item, Mapping) and "name" in item] if isinstance(found, list) else []
