"""Reading a run folder in tests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def rows_of(run_dir: Path | str, folder: str = "parts") -> list[dict[str, Any]]:
    """All rows of a folder, sorted by id, whatever parts they stand in."""
    rows = [row for path in sorted(Path(run_dir, folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def journal_of(run_dir: Path | str) -> list[dict[str, Any]]:
    """Complete events of the call journal."""
    events = []
    for path in sorted(Path(run_dir, "calls").glob("*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                events.append(json.loads(line))
    return events


def assert_nothing_is_lost(run_dir: Path | str) -> dict[str, Any]:
    """in = kept + rejected at every stage, and the rejects are written down; returns the manifest."""
    manifest = json.loads(Path(run_dir, "manifest.json").read_text())
    for stage in manifest["funnel"]:
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage
    for before, after in zip(manifest["funnel"], manifest["funnel"][1:], strict=False):
        assert after["in"] == before["kept"], (before, after)
    written = Counter(f"{row['step']}/{row['reason']}" for row in rows_of(run_dir, "rejects"))
    ingest, _, drafts, dedup, quota = (stage["rejected"] for stage in manifest["funnel"])
    assert sum(written[name] for name in ingest) == sum(ingest.values())
    assert sum(written[name] for name in drafts) == sum(drafts.values()) - drafts.get("not_asked_yet", 0)
    for reason in ("near_duplicate", "exact_duplicate"):
        assert written[f"webr/dedup/{reason}"] == dedup.get(reason, 0)
    assert written["webr/quota/over_quota"] == quota.get("over_quota", 0)
    keys = Counter(event["key"] for event in journal_of(run_dir) if "key" in event)
    assert not [key for key, times in keys.items() if times > 1], "a call was asked twice"
    return manifest
