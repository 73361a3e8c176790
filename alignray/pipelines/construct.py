"""Growing a benchmark, told once: initial instructions -> those unlike each other -> levels -> items -> official files -> report (E.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
from rich.console import Console

from alignray.errors import RecordError
from alignray.evals.followbench.config import CATEGORIES
from alignray.evals.followbench.construct import (
    NAME,
    Reviews,
    chosen_items,
    construct_steps,
    constructed_items,
    official_rows,
    read_initial,
    read_reviews,
    summary_of,
)
from alignray.io.benchmark_files import read_rows
from alignray.io.commits import CommitLog
from alignray.io.run_folder import RunFolder, now
from alignray.io.storage import Storage
from alignray.pipelines.construct_config import ConstructJobConfig, identity_of
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.open_run import open_run, seconds_of, status_of_run
from alignray.pipelines.walk import pending_of, walk
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import by_reason, funnel_rows, listed, reject_reasons, stage_counts, usage_of
from alignray.prompts import load_prompt, prompt_names
from alignray.runtime.ask import AskConfig, check_roles
from alignray.runtime.index import Index, index_of
from alignray.runtime.ledger import snapshot_of, start_ledger
from alignray.runtime.stages import read_stage, scan
from alignray.schema import ConstructedItem, EvalDraft, Rejected, records_of, table_of
from alignray.seeding import row_id_of
from alignray.steps import PromptStep

ITEMS, ANSWERED, ROWS = "items", "answered", "rows"
"""Stages of a run, in order: initial instructions, those that went through all levels, their items."""
TO_REVIEW = "to_review.jsonl"
Steps = list[PromptStep[EvalDraft, EvalDraft]]


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, empty, stopped_at_budget or failed."""
    rows: int
    """Items, all levels."""
    rejected: dict[str, int]
    construction: dict[str, Any]
    """By category: examples, complete ones, items by review, mean words by level."""
    benchmarks: dict[str, str]
    """By category: the file that ``alignray followbench`` reads."""
    notes: list[str]
    usage: dict[str, Any]
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class InputSource:
    """The whole input as one unit of reading: whether an instruction is new depends on all before it."""

    id: str


@dataclass
class Run:
    """What every part of the story needs."""

    config: ConstructJobConfig
    folder: RunFolder
    watch: Watch
    ledger: Any
    steps: Steps
    reviews: Reviews

    @property
    def root(self) -> str:
        return self.folder.root


def construct(config: ConstructJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Initial instructions in, a benchmark of five levels out. Running it again goes on where it stopped, or takes in a review.

    Raises:
        ConfigError, RecordError, ResumeError: before anything is spent.
        EngineDown: the run stopped because an engine cannot be used; run again to go on.
    """
    console = console or Console(stderr=True)
    rows = list(_rows(config))
    steps = construct_steps(config.grow, config.prompts.dir) if any(_asks_a_model(row) for _, _, row in rows) else []
    check_roles(steps, config.engines, config.roles)
    reviews = read_reviews(read_rows(config.review, config.input.fetch), config.review) if config.review else {}
    identity = _identity(config, rows)
    with open_run("construct", config, identity, title="Construct", new_run=new_run, console=console) as (folder, manifest, watch):
        ledger = start_ledger(folder.root, config.budget, max_reject_rate=config.max_reject_rate)
        run = Run(config, folder, watch, ledger, steps, reviews)
        read(run)
        initial = initial_index(run)
        grow(run, initial)
        items = write(run)
        snapshot = snapshot_of(ledger)
    return _finish(run, manifest, initial, items, snapshot)


def _rows(config: ConstructJobConfig) -> Iterator[tuple[str, int, Any]]:
    for path in config.input.paths:
        for number, row in enumerate(read_rows(path, config.input.fetch)):
            yield path, number, row


def _asks_a_model(row: Mapping[str, Any]) -> bool:
    return row.get("category") in CATEGORIES and row["category"] != "example"


def _identity(config: ConstructJobConfig, rows: Sequence[tuple[str, int, Any]]) -> dict[str, Any]:
    prompts = {name: load_prompt(name, config.prompts.dir).digest for name in prompt_names() if name.startswith(f"{NAME}/")}
    inputs = {path: row_id_of(repr([row for origin, _, row in rows if origin == path])) for path in config.input.paths}
    return {"config": identity_of(config), "prompts": prompts, "inputs": inputs}


def read(run: Run) -> None:
    """Every row an initial instruction or a reject, in committed parts."""
    source = InputSource(row_id_of(*run.config.input.paths)[:16])
    with run.watch.stage(ITEMS, None) as advance:
        read_stage(
            [source], partial(_initial, config=run.config), EvalDraft, root=run.root, stage=ITEMS,
            on_part=lambda part: advance(part["kept"]),
        )


def _initial(_source: InputSource, counts: Counter[str], *, config: ConstructJobConfig) -> Iterator[EvalDraft | Rejected]:
    return read_initial(_rows(config), counts, config=config.grow, seed=config.seed)


def initial_index(run: Run) -> Index:
    """All initial instructions, by id.

    Raises:
        RecordError: none is left; the message lists why.
    """
    initial = index_of(run.root, ITEMS, {}, read=[])
    if not len(initial):
        reasons = listed(reject_reasons(run.folder, [ITEMS]))
        raise RecordError(f"no instruction is left to grow; rejected: {reasons or 'nothing was read'}; look into {run.root}/rejects")
    return initial


def grow(run: Run, initial: Index) -> None:
    """Every initial instruction that has no committed outcome walks the levels; examples are finished as they are read."""
    config = run.config
    ask_config = AskConfig(engines=config.engines, roles=config.roles, budget=config.budget, runtime=config.runtime, seed=config.seed)
    walk(
        initial, pending_of(run.root, ANSWERED, initial), run.steps, ask_config, EvalDraft, root=run.root,
        source=ITEMS, into=ANSWERED, title="levels", ledger=run.ledger, watch=run.watch,
    )


def write(run: Run) -> list[ConstructedItem]:
    """The items of all levels, part by part with their review, and all of them in the order of their ids."""
    log = CommitLog(run.folder.storage)
    for commit in log.read(ROWS):
        log.remove(commit)
    expand = partial(_write_part, root=run.root, reviews=run.reviews, config=run.config)
    grown = index_of(run.root, ANSWERED, {}, read=[])
    for _ in scan(run.root, ANSWERED, expand, rows=grown.by_part(), name="write items"):
        pass
    items = [item for _, table in log.tables(ROWS) for item in records_of(ConstructedItem, table)]
    return sorted(items, key=lambda item: item.row_id)


def _write_part(part: str, table: pa.Table, _fact: Any, *, root: str, reviews: Reviews, config: ConstructJobConfig) -> pa.Table:
    items = [item for draft in records_of(EvalDraft, table) for item in constructed_items(draft, reviews, config.grow)]
    CommitLog(Storage(root)).write(ROWS, part, {"rows": ("parts", table_of(ConstructedItem, items))}, {"kept": len(items), "rejected": 0})
    return pa.table({"items": [len(items)]})


def write_benchmark(run: Run, items: Sequence[ConstructedItem]) -> dict[str, str]:
    """The official files by category, and the list to review; a file of an earlier session that would be empty now is removed."""
    storage, written = run.folder.storage, {}
    chosen = chosen_items(items, by_review=run.config.review is not None)
    for category in CATEGORIES:
        name, own = f"benchmark_{category}.json", [item for item in chosen if item.category == category]
        if own:
            run.folder.write_json(name, official_rows(own))
            written[category] = storage.path(name)
        else:
            storage.remove(name)
    lines = [
        orjson.dumps({
            "category": item.category, "example_id": item.example_id, "level": item.level, "review": item.review,
            "added_constraint": item.added_constraint, "instruction": item.instruction,
        }, option=orjson.OPT_APPEND_NEWLINE) for item in chosen_items(items, by_review=False) if item.level > 0
    ]
    storage.write(TO_REVIEW, b"".join(lines))
    return written


def _notes(run: Run, items: Sequence[ConstructedItem], written: Mapping[str, str]) -> list[str]:
    """What a reader has to know of the files."""
    unknown = run.reviews.keys() - {(item.category, item.example_id, item.level) for item in items}
    notes = [f"{len(unknown):,} rows of the review are about no item of this run"] if unknown else []
    if run.config.review is None and written:
        notes.append(f"no item was reviewed; fill in {TO_REVIEW} and name it as review, and the files will hold accepted items alone")
    lost = sum(item.level > 0 for item in items) - sum(
        item.level > 0 for item in chosen_items(items, by_review=run.config.review is not None))
    return notes + ([f"{lost:,} items are not in the files: not accepted, or above a level that is not"] if lost else [])


def _funnel(run: Run, num_initial: int) -> list[dict[str, Any]]:
    seen, grown = stage_counts(run.folder, ITEMS), stage_counts(run.folder, ANSWERED)
    stages: Sequence[tuple[str, int, int, dict[str, int]]] = [
        ("read", seen["records"], seen["kept"], by_reason(seen)),
        ("grow", num_initial, grown["kept"], {**by_reason(grown), "not_asked_yet": num_initial - grown["kept"] - grown["rejected"]}),
    ]
    return funnel_rows(stages)


def _finish(
    run: Run, manifest: dict[str, Any], initial: Index, items: Sequence[ConstructedItem], snapshot: Mapping[str, Any],
) -> Outcome:
    """Benchmark files, manifest, report and card; all from the run folder's files."""
    folder = run.folder
    status = status_of_run(snapshot, len(items))
    usage = usage_of(folder, lost_usd=snapshot["lost_usd"])
    CommitLog(folder.storage).sweep(("parts", "rejects"))
    written = write_benchmark(run, items)
    construction = summary_of(items, by_review=run.config.review is not None)
    funnel, notes = _funnel(run, len(initial)), _notes(run, items, written)
    manifest.update({
        "status": status, "finished": now(), "message": snapshot["stop_message"], "funnel": funnel, "usage": usage,
        "seconds": seconds_of(manifest, run.watch),
        "construction": construction, "notes": notes, "reviewed": run.config.review is not None, "result": {"rows": len(items)},
    })
    folder.write_manifest(manifest)
    return Outcome(
        status=status, rows=len(items), rejected=dict(reject_reasons(folder, [ITEMS, ANSWERED])), construction=construction,
        benchmarks=written, notes=notes, usage=usage, report=rewrite_report(folder.root), run_dir=folder.root,
        message=snapshot["stop_message"], funnel=funnel,
    )
