"""WebR, told once: pages -> drafts -> unique drafts -> rows -> report (thesis 4.2, arXiv:2504.15573)."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from alignray.engine import model_name
from alignray.engine.embedders import build_embedder
from alignray.errors import EngineDown, RecordError
from alignray.io.commits import CommitLog, name_of
from alignray.io.records import read_split
from alignray.io.run_folder import RunFolder, now
from alignray.io.sources import Split, list_splits
from alignray.io.storage import Storage
from alignray.methods import webr
from alignray.methods.webr.quota import branch_shares, over_quota, quotas, select_pages
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.open_run import open_run, seconds_of, status_of_run
from alignray.pipelines.walk import pending_of, walk
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import (
    DRAFTS,
    PAGES,
    RATINGS,
    ROWS,
    DraftPart,
    Fate,
    Unique,
    funnel_of,
    listed,
    page_counts,
    plan_of,
    reject_reasons,
    run_identity,
    usage_of,
)
from alignray.pipelines.webr_config import WebRJobConfig
from alignray.report.analysis import analyze
from alignray.runtime.ask import AskConfig, check_roles, role_of
from alignray.runtime.dedup import check_comparable, find_clusters
from alignray.runtime.index import Index, Positions, index_of
from alignray.runtime.ledger import snapshot_of, start_ledger
from alignray.runtime.signatures import TextBatch, sign_stage
from alignray.runtime.stages import over, read_stage, write_stage
from alignray.schema import InstructionRow, Rejected, WebDocument, WebRDraft, from_row
from alignray.seeding import draw

MAX_ROUNDS = 12


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, empty, stopped_at_budget or failed."""
    rows: int
    branches: dict[str, int]
    rejected: dict[str, int]
    usage: dict[str, Any]
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Run:
    """What every part of the story needs."""

    config: WebRJobConfig
    folder: RunFolder
    watch: Watch
    ledger: Any
    ask: AskConfig

    @property
    def root(self) -> str:
        return self.folder.root


def synthesize(config: WebRJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Raw pages in, deduplicated conversations out. Running it again on the same folder goes on where it stopped.

    Raises:
        ConfigError, RecordError, ResumeError: before anything is spent.
        EngineDown: the run stopped because an engine cannot be used; run again to go on.
    """
    console = console or Console(stderr=True)
    steps = webr.webr_steps(config.webr, seed=config.seed, prompts_dir=config.prompts.dir)
    check_roles([*steps, *(webr.rating_steps(config.prompts.dir) if config.analysis.num_rated else [])], config.engines, config.roles)
    check_comparable(config.dedup.against, config.dedup)
    splits = list_splits(config.ingest)
    identity = run_identity(config, splits)
    with open_run("webr", config, identity, title="WebR", new_run=new_run, console=console) as (folder, manifest, watch):
        run = start_run(config, folder, watch)
        ingest(run, splits)
        pages = page_index(run)
        manifest["plan"] = plan_of(config, folder)
        selected, kept, unique = draft_until_enough(run, pages)
        wanted = _wanted(config, kept, unique)
        write_rows(run, kept, unique, wanted)
        ratings = rate(run)
        snapshot = snapshot_of(run.ledger)
    return _finish(run, manifest, pages, selected, unique, wanted, ratings, snapshot)


def start_run(config: WebRJobConfig, folder: RunFolder, watch: Watch) -> Run:
    """A run with its ledger on the cluster that is connected."""
    ask_config = AskConfig(
        engines=config.engines, roles=config.roles, budget=config.budget, runtime=config.runtime, seed=config.seed,
    )
    ledger = start_ledger(folder.root, config.budget, max_reject_rate=config.max_reject_rate)
    return Run(config, folder, watch, ledger, ask_config)


def ingest(run: Run, splits: list[Split]) -> None:
    """Every input file read once: pages and rejects into committed parts."""
    with run.watch.stage("pages", None) as advance:
        read_stage(
            splits, partial(_read, config=run.config.ingest), WebDocument, root=run.root, stage=PAGES,
            on_part=lambda part: advance(part["kept"]),
        )


def _read(split: Split, counts: Counter[str], *, config: Any) -> Any:
    return read_split(split, config, counts)


def page_index(run: Run) -> Index:
    """All distinct pages, by id.

    Raises:
        RecordError: no page is left after the gates; the message lists why.
    """
    pages = index_of(run.root, PAGES, {"source": lambda table: table["source"]}, read=["source"])
    if not len(pages):
        reasons = reject_reasons(run.folder, [PAGES])
        raise RecordError(f"no page is left to work on; rejected: {listed(reasons) or 'nothing was read'}; look into {run.root}/rejects")
    return pages


def draft_until_enough(run: Run, pages: Index) -> tuple[Positions, Index, Unique]:
    """Pages through the prompt steps, round after round, until the quota of each branch is met or no page is left."""
    config = run.config
    shares = branch_shares(config.webr)
    targets: dict[str, int] | None = None
    if config.num_rows is not None:
        targets = {name: math.ceil(count * config.oversample) for name, count in quotas(config.num_rows, shares).items()}
    weights = {source.name: source.weight for source in config.ingest.sources if "weight" in source.model_fields_set} or None
    selected = np.empty(0, np.int64)
    for _ in range(MAX_ROUNDS):
        known = len(selected)
        selected = select_pages(pages.ids, pages.columns["source"], weights, targets, config.webr, seed=config.seed)
        draft(run, pages, selected)
        kept = index_of(run.root, DRAFTS, {"branch": lambda table: table["branch"]}, read=["branch"])
        unique = deduplicate(run, kept)
        missing = _missing(config, kept, unique)
        if targets is None or not missing or len(selected) == known or snapshot_of(run.ledger)["stop_kind"]:
            break
        for branch, rows in missing.items():
            have = quotas(config.num_rows or 0, shares)[branch] - rows
            per_row = min(max(targets[branch] / max(have, 1), 1.1), 10.0)
            targets[branch] += int(rows * per_row) + 1
    return selected, kept, unique


def draft(run: Run, pages: Index, selected: Positions) -> None:
    """Every selected page that has no committed outcome walks the prompt steps."""
    config = run.config
    steps = webr.webr_steps(config.webr, seed=config.seed, prompts_dir=config.prompts.dir)
    walk(
        pages, pending_of(run.root, DRAFTS, pages, selected), steps, run.ask, WebRDraft, root=run.root, source=PAGES, into=DRAFTS,
        title="drafts", ledger=run.ledger, watch=run.watch,
        start=over(WebDocument, partial(webr.assign_branch, config=config.webr, seed=config.seed), WebRDraft),
    )


def deduplicate(run: Run, kept: Index) -> Unique:
    """One keeper per cluster of near-duplicate drafts; every draft its own keeper where dedup is off."""
    config = run.config.dedup
    if not config.enabled or not len(kept):
        return Unique(kept.ids, {}, {})
    columns = ("instruction", "response") if config.field == "both" else (config.field,)
    parts = kept.by_part()
    with run.watch.stage("dedup", len(kept)) as advance:
        splits = [DraftPart(part) for part in sorted(parts)]
        sign_stage(splits, partial(_texts, root=run.root, columns=columns), config, root=run.root, on_part=lambda _: None, keep_empty=True)
        clusters = find_clusters(
            run.root, config, work=f"dedup-{name_of(parts)}", against=config.against, prefer="earlier",
            num_planted=config.num_planted, seed=run.config.seed,
            only=parts,
        )
        fate = {
            row["row_id"]: Fate(row["keeper"], row["cluster_size"], row["reason"])
            for _, table in CommitLog(run.folder.storage).tables(clusters.stage) for row in table.to_pylist()
        }
        advance(len(kept))
    return Unique(kept.ids, fate, clusters.stats)


def _texts(part: DraftPart, *, root: str, columns: tuple[str, ...]) -> Iterator[TextBatch]:
    log = CommitLog(Storage(root))
    table = log.table(log.one(DRAFTS, part.id), columns=["row_id", *columns])
    assert table is not None, "only parts with drafts are listed"
    texts = ["\n".join(values) for values in zip(*(table[name].to_pylist() for name in columns), strict=True)]
    yield TextBatch(np.arange(len(table)), texts, table["row_id"].to_pylist())


def _kept_by_branch(kept: Index, unique: Unique) -> Counter[str]:
    return Counter(branch for row_id, branch in zip(kept.ids, kept.columns["branch"], strict=True) if unique.stays(row_id))


def _missing(config: WebRJobConfig, kept: Index, unique: Unique) -> dict[str, int]:
    if config.num_rows is None:
        return {}
    have = _kept_by_branch(kept, unique)
    wanted = quotas(config.num_rows, branch_shares(config.webr))
    return {branch: count - have[branch] for branch, count in wanted.items() if have[branch] < count}


def _wanted(config: WebRJobConfig, kept: Index, unique: Unique) -> dict[str, int]:
    """Rows of each branch: the exact split of num_rows, or of the most rows that keep the ratio."""
    shares = branch_shares(config.webr)
    most = webr.largest_balanced(_kept_by_branch(kept, unique), shares)
    return quotas(min(config.num_rows or most, most), shares, rounding=config.webr.rounding)


def write_rows(run: Run, kept: Index, unique: Unique, wanted: Mapping[str, int]) -> None:
    """The finished rows and the last rejects (near-duplicates, beyond the quota), part by part."""
    config = run.config
    stay = np.flatnonzero(np.fromiter(map(unique.stays, kept.ids), np.bool_, len(kept)))
    is_surplus = np.zeros(len(kept), np.bool_)
    is_surplus[stay] = over_quota(kept.ids.take(stay), kept.columns["branch"].take(stay), wanted, seed=config.seed)
    facts: dict[str, list[Any]] = {}
    for row_id, part, surplus in zip(kept.ids, kept.parts, is_surplus, strict=True):
        fate = unique.fate.get(row_id)
        facts.setdefault(part, []).append("over_quota" if surplus else fate and (fate.keeper, fate.cluster_size, fate.reason))
    finish = partial(_finish_row, config=config, model=_models(config))
    write_stage(run.root, DRAFTS, ROWS, finish, WebRDraft, InstructionRow, folder="parts", rows=kept.by_part(), facts=facts)


def _finish_row(
    draft: WebRDraft, fate: str | tuple[str, int, str] | None, *, config: WebRJobConfig, model: str,
) -> InstructionRow | Rejected:
    """The row, or why it is none. ``fate`` is None for most: no near-duplicates, and within the quota."""
    raw = f"{draft.instruction}\n\n{draft.response}"[: Rejected.RAW_LIMIT]
    if isinstance(fate, str):
        return Rejected(draft.row_id, "webr/quota", fate, raw)
    keeper, cluster_size, reason = fate or (draft.row_id, 1, "")
    if keeper != draft.row_id:
        return Rejected(draft.row_id, "webr/dedup", reason, raw, detail=f'{{"keeper":"{keeper}"}}')
    return webr.to_row_record(draft, config.webr, seed=config.seed, model=model, cluster_size=cluster_size)


def _models(config: WebRJobConfig) -> str:
    """The models behind the roles that write rows, for every row's provenance."""
    used = [role_of(config.roles, role).engine for role in ("author", "teacher", "rewriter")]
    return ", ".join(dict.fromkeys(model_name(config.engines[name]) for name in used))


def rate(run: Run) -> list[dict[str, str | None]] | None:
    """Quality and difficulty of a sample of rows by the judge; None where none are asked for."""
    num_rated = run.config.analysis.num_rated
    if not num_rated or snapshot_of(run.ledger)["stop_kind"]:
        return None
    rows = index_of(run.root, ROWS, {}, read=[])
    walk(
        rows, pending_of(run.root, RATINGS, rows, rows.least(num_rated, run.config.seed, "webr/rate")),
        webr.rating_steps(run.config.prompts.dir), run.ask, webr.Rated, root=run.root, source=ROWS, into=RATINGS, title="ratings",
        ledger=run.ledger, watch=run.watch, start=over(InstructionRow, _to_rate, webr.Rated),
    )
    log = CommitLog(run.folder.storage)
    rated: list[dict[str, str | None]] = [row for _, table in log.tables(RATINGS) for row in table.to_pylist()]
    unread = sum(commit.counts["rejected"] for commit in log.read(RATINGS))
    return rated + [{"quality": None, "difficulty": None}] * unread


def _to_rate(row: InstructionRow) -> webr.Rated:
    return webr.Rated(row.row_id, row.instruction)


def _rows(run: Run, columns: list[str] | None = None) -> Iterable[dict[str, Any]]:
    for _, table in CommitLog(run.folder.storage).tables(ROWS, columns=columns):
        yield from table.to_pylist()


def measure(run: Run, ratings: list[dict[str, str | None]] | None) -> dict[str, Any]:
    """What analysis.json holds. A diversity that cannot be measured says why."""
    analysis = run.config.analysis
    vectors, note = None, "analysis.embedder is null"
    if analysis.embedder is not None:
        rows = heapq.nsmallest(
            analysis.max_embedded, _rows(run, ["row_id", "instruction"]),
            key=lambda row: draw(run.config.seed, row["row_id"], "webr/embed"),
        )
        try:
            embedder = build_embedder(analysis.embedder)
            vectors, note = embedder.embed([row["instruction"] for row in rows]), embedder.name
        except EngineDown as err:
            note = str(err)
    records = (from_row(InstructionRow, row) for row in _rows(run))
    return {**analyze(records, vectors if vectors is not None and len(vectors) > 1 else None, ratings, seed=run.config.seed),
            "embedder": note}


def _finish(
    run: Run, manifest: dict[str, Any], pages: Index, selected: Positions, unique: Unique, wanted: Mapping[str, int],
    ratings: list[dict[str, str | None]] | None, snapshot: Mapping[str, Any],
) -> Outcome:
    """Manifest, analysis, report and card; all from the run folder's files."""
    config, folder = run.config, run.folder
    funnel = funnel_of(
        folder, num_pages=len(pages), num_selected=len(selected), unique=unique, num_rows=sum(wanted.values()),
    )
    num_rows = sum(wanted.values())
    status = status_of_run(snapshot, num_rows)
    seen = page_counts(folder)
    usage = usage_of(folder, lost_usd=snapshot["lost_usd"])
    manifest.update({
        "status": status, "finished": now(), "message": snapshot["stop_message"], "funnel": funnel, "usage": usage,
        "seconds": seconds_of(manifest, run.watch),
        "ingest": {
            "records": {name.removeprefix("records/"): count for name, count in sorted(seen.items()) if name.startswith("records/")},
            "not_pages": seen["not_pages"], "damage": seen["damage"],
            "optout": {"rejected": seen["rejected/ingest/optout"]},
        },
        "dedup": unique.stats or None,
        "result": {
            "rows": num_rows, "wanted": config.num_rows, "branches": dict(wanted),
            "part": sum(row["part"] for row in _rows(run, ["part"])),
        },
    })
    CommitLog(folder.storage).sweep(("parts", "rejects"))
    folder.write_json("analysis.json", measure(run, ratings))
    folder.write_manifest(manifest)
    report = rewrite_report(folder.root)
    reasons = {**reject_reasons(folder, [PAGES, DRAFTS]), **{
        f"webr/{stage['stage']}/{reason}": count for stage in funnel[3:] for reason, count in stage["rejected"].items()
    }}
    return Outcome(
        status=status, rows=num_rows, branches=dict(wanted), rejected=reasons, usage=usage, report=report,
        run_dir=folder.root, message=snapshot["stop_message"] or _shortfall(config, num_rows), funnel=funnel,
    )


def _shortfall(config: WebRJobConfig, num_rows: int) -> str:
    if config.num_rows is None or num_rows >= config.num_rows:
        return ""
    return f"num_rows = {config.num_rows:,} wanted, and the pages gave {num_rows:,} at this ratio; add input, or look at the rejects"
