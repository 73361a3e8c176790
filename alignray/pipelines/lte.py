"""LTE's training data, told once: edits -> queries -> what a model must add -> quotas -> facts beside the exact one -> rows (chapter 5)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from alignray.engine.embedders import Embedder, build_embedder
from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.edits import read_edits, read_plain_queries
from alignray.io.fetch import FetchConfig
from alignray.io.run_folder import RunFolder, now
from alignray.io.storage import Storage
from alignray.methods.lte.leakage import leaking_ids
from alignray.methods.lte.quotas import cell_of, select_pairs, shortfalls, wanted_pairs
from alignray.methods.lte.scopes import build_drafts, examples_of
from alignray.methods.lte.steps import lte_steps
from alignray.methods.lte.threefold import WANTED, Neighbour, show
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.lte_config import LTEJobConfig, identity_of
from alignray.pipelines.open_run import open_run, seconds_of, status_of_run
from alignray.pipelines.walk import pending_of, walk
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import by_reason, funnel_rows, listed, reject_reasons, stage_counts, usage_of
from alignray.prompts import load_prompt, prompt_names
from alignray.runtime.ask import AskConfig, check_roles
from alignray.runtime.index import index_of
from alignray.runtime.ledger import snapshot_of, start_ledger
from alignray.runtime.stages import read_stage, scan
from alignray.schema import Edit, EditDraft, EditExample, PlainQuery, Rejected, records_of, table_of
from alignray.seeding import row_id_of
from alignray.steps import PromptStep

EDITS, PLAIN, PAIRS, ANSWERED, VECTORS, ROWS = "edits", "plain", "pairs", "answered", "vectors", "rows"
"""Stages of a run, in order."""
PART_ROWS = 2000
BLOCK = 1024
"""Facts that are compared with all others at a time."""


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, empty, stopped_at_budget or failed."""
    rows: int
    """Training examples: two for every pair."""
    rejected: dict[str, int]
    data: dict[str, Any]
    """Pairs by cell of Table C.1, shortfalls, what stands beside the exact facts, leakage, what was left out."""
    usage: dict[str, Any]
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """One file, as a unit of reading; form is empty for plain queries."""

    id: str
    uri: str
    form: str


@dataclass
class Run:
    """What every part of the story needs."""

    config: LTEJobConfig
    folder: RunFolder
    watch: Watch
    ledger: Any
    steps: list[PromptStep[EditDraft, EditDraft]]

    @property
    def root(self) -> str:
        return self.folder.root


def build_examples(config: LTEJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Edits in, training examples out. Running it again goes on where it stopped.

    Raises:
        ConfigError, RecordError, ResumeError: before anything is spent.
        EngineDown: the run stopped because an engine or the embedder cannot be used; run again to go on.
    """
    console = console or Console(stderr=True)
    steps = lte_steps(config.lte, config.prompts.dir)
    if config.engines:
        check_roles(steps, config.engines, config.roles)
    prompts = {name: load_prompt(name, config.prompts.dir).digest for name in prompt_names() if name.startswith("lte/")}
    identity = {"config": identity_of(config), "prompts": prompts}
    with open_run("lte", config, identity, title="LTE", new_run=new_run, console=console) as (folder, manifest, watch):
        ledger = start_ledger(folder.root, config.budget, max_reject_rate=config.max_reject_rate)
        run = Run(config, folder, watch, ledger, steps)
        read(run)
        notes, leakage, leaking = choose(run)
        ask_for_the_rest(run)
        finished = selected(run)
        shown = write(run, finished, leaking) if not snapshot_of(ledger)["stop_kind"] else Counter[str]()
        snapshot = snapshot_of(ledger)
    return _finish(run, manifest, finished, {"notes": dict(+notes), "leakage": leakage, "shown": dict(shown)}, snapshot)


# ---- reading


def read(run: Run) -> None:
    """Every file into committed parts: edits, and plain queries.

    Raises:
        RecordError: no edit is left.
    """
    config = run.config.input
    edits = [Source(row_id_of(uri, form)[:16], uri, form) for uri, form in config.files().items()]
    with run.watch.stage(EDITS, None) as advance:
        read_stage(
            edits, partial(edits_in, fetch=config.fetch), Edit, root=run.root, stage=EDITS, on_part=lambda part: advance(part["kept"]),
        )
    plain = [Source(row_id_of(uri)[:16], uri, "") for uri in dict.fromkeys(config.plain)]
    if plain:
        with run.watch.stage(PLAIN, None) as advance:
            read_stage(
                plain, partial(_plain, config=run.config), PlainQuery, root=run.root, stage=PLAIN,
                on_part=lambda part: advance(part["kept"]),
            )
    if not stage_counts(run.folder, EDITS)["kept"]:
        reasons = listed(reject_reasons(run.folder, [EDITS]))
        raise RecordError(f"no edit is left to learn from; rejected: {reasons or 'nothing was read'}; look into {run.root}/rejects")


def edits_in(source: Source, counts: Counter[str], *, fetch: FetchConfig) -> Iterator[Edit | Rejected]:
    """Edits and rejects of a file of edits, as ``read_stage`` reads it."""
    return read_edits(source.uri, source.form, fetch, counts)  # type: ignore[arg-type]  # the config has checked it


def _plain(source: Source, counts: Counter[str], *, config: LTEJobConfig) -> Iterator[PlainQuery | Rejected]:
    return read_plain_queries(source.uri, config.input.fetch, counts)


def _all(run: Run, stage: str, record: Any) -> list[Any]:
    """The distinct rows of a stage, by id."""
    rows = {row.row_id: row for _, table in CommitLog(run.folder.storage).tables(stage) for row in records_of(record, table)}
    return [rows[row_id] for row_id in sorted(rows)]


def _in_file_order(run: Run) -> list[Edit]:
    """The edits as the config names their files and as they stand there, which is what the authors' stop goes by."""
    parts: dict[str, list[Edit]] = defaultdict(list)
    log = CommitLog(run.folder.storage)
    for commit in log.read(EDITS):  # by name, so the parts of a file in order
        if (table := log.table(commit)) is not None:
            parts[commit.extra["split"]] += records_of(Edit, table)
    return [edit for uri, form in run.config.input.files().items() for edit in parts[row_id_of(uri, form)[:16]]]


# ---- which pairs


def choose(run: Run) -> tuple[Counter[str], dict[str, Any], set[str]]:
    """The pairs to work on, committed once; what was left out, what training and test edits share, and ids of edits dropped for it.

    Raises:
        RecordError: training edits are test edits too, and ``on_leakage`` refuses that; or no pair is left.
    """
    config = run.config
    edits: list[Edit] = _all(run, EDITS, Edit)
    leaking, leakage = _leakage(config, edits)
    notes: Counter[str] = Counter()
    drafts = build_drafts(
        [edit for edit in edits if edit.row_id not in leaking], _all(run, PLAIN, PlainQuery), config.lte, seed=config.seed, notes=notes,
    )
    if not config.engines:  # nobody can be asked: only pairs that the files have in full
        notes["needs_a_model"] += sum(bool(draft.asks) for draft in drafts)
        drafts = [draft for draft in drafts if not draft.asks]
    log = CommitLog(run.folder.storage)
    if not log.names(PAIRS):
        pairs = select_pairs(
            drafts, config.lte.quotas, seed=config.seed, edits=_in_file_order(run), drop_rate=config.drop_rate,
        )
        if not pairs:
            raise RecordError(f"no pair of query and answers can be made of {len(edits):,} edits ({listed(notes) or 'none is wanted'})")
        counts = {"kept": len(pairs), "rejected": 0, "drafts": len(drafts)}
        log.write(PAIRS, "chosen", {"rows": (f"stages/{PAIRS}", table_of(EditDraft, pairs))}, counts)
    return notes, leakage, leaking


def _leakage(config: LTEJobConfig, edits: Sequence[Edit]) -> tuple[set[str], dict[str, Any]]:
    rows = [
        row for group in config.input.test for path in group.paths
        for row in read_edits(path, group.form, config.input.fetch, Counter())
    ]
    test = [row for row in rows if isinstance(row, Edit)]
    unread = Counter(row.reason for row in rows if isinstance(row, Rejected))
    leaking = leaking_ids(edits, test) if test else set()
    if leaking and config.lte.on_leakage == "refuse":
        raise RecordError(
            f"{len(leaking):,} of {len(edits):,} training edits share a fact or a question with the {len(test):,} test edits; take them "
            "out of input.edits, or set lte.on_leakage to drop"
        )
    found = {"test_edits": len(test), "shared": len(leaking), "handling": config.lte.on_leakage, "unreadable": dict(unread)}
    return leaking if config.lte.on_leakage == "drop" else set(), found


def ask_for_the_rest(run: Run) -> None:
    """Every chosen pair that has no committed outcome walks the steps that it still needs."""
    config = run.config
    pairs = index_of(run.root, PAIRS, {}, read=[])
    ask_config = AskConfig(engines=config.engines, roles=config.roles, budget=config.budget, runtime=config.runtime, seed=config.seed)
    walk(
        pairs, pending_of(run.root, ANSWERED, pairs), run.steps if config.engines else [], ask_config, EditDraft,
        root=run.root, source=PAIRS, into=ANSWERED, title="answers", ledger=run.ledger, watch=run.watch,
    )


def selected(run: Run) -> list[EditDraft]:
    """The finished pairs, exactly as many as the quotas want or as there are."""
    return select_pairs(_all(run, ANSWERED, EditDraft), run.config.lte.quotas, seed=run.config.seed, edits=_in_file_order(run))


# ---- what stands beside an edit


@cache
def _embedder(name: str) -> Embedder:
    return build_embedder(name, setting="embedder")


def embed_edits(run: Run) -> None:
    """The vector of every edit's facts, in committed parts beside those of the edits; what was embedded stays."""
    name, root = run.config.embedder, run.root
    done = set(CommitLog(run.folder.storage).names(VECTORS))

    def embed(part: str, table: pa.Table, _facts: None) -> pa.Table:
        if part not in done:
            edits = list(records_of(Edit, table))
            columns = {column: [getattr(edit, column) for edit in edits] for column in ("row_id", "source", "subject", "relation")}
            facts = ["\n".join(edit.facts) for edit in edits]
            vectors = pa.array(list(_embedder(name).embed(facts)), pa.list_(pa.float32()))
            rows = pa.table({**columns, "fact": facts, "vector": vectors})
            CommitLog(Storage(root)).write(VECTORS, part, {"rows": (f"stages/{VECTORS}", rows)}, {"kept": len(edits), "rejected": 0})
        return pa.table({"edits": [len(table)]})

    with run.watch.stage("embed", None) as advance:
        for table in scan(root, EDITS, embed, name="embed edits"):
            advance(sum(table["edits"].to_pylist()))


def neighbours_of(run: Run, edit_ids: set[str], leaking: set[str]) -> dict[str, list[Neighbour]]:
    """Of each edit the facts of the same data set that are most similar to its own; edits of the test part stand beside none."""
    by_source: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for _, table in CommitLog(run.folder.storage).tables(VECTORS):
        for row in table.to_pylist():
            if row["row_id"] not in leaking:
                by_source[row["source"]][row["row_id"]] = row
    found: dict[str, list[Neighbour]] = {}
    for rows in by_source.values():
        found |= _nearest([rows[row_id] for row_id in sorted(rows)], edit_ids, max(WANTED, run.config.lte.threefold.pool))
    return found


def _nearest(rows: Sequence[Mapping[str, Any]], edit_ids: set[str], num: int) -> dict[str, list[Neighbour]]:
    """Each wanted row's nearest others, ties by id."""
    vectors = np.asarray([row["vector"] for row in rows], np.float32)
    wanted = [place for place, row in enumerate(rows) if row["row_id"] in edit_ids]
    found: dict[str, list[Neighbour]] = {}
    for start in range(0, len(wanted), BLOCK):
        block = wanted[start : start + BLOCK]
        scores = vectors[block] @ vectors.T
        scores[np.arange(len(block)), block] = -np.inf
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :num]
        for at, place in enumerate(block):
            found[rows[place]["row_id"]] = [
                Neighbour(other["row_id"], other["fact"], float(score), other["subject"], other["relation"])
                for other, score in ((rows[column], scores[at, column]) for column in nearest[at].tolist()) if np.isfinite(score)
            ]
    return found


def write(run: Run, finished: Sequence[EditDraft], leaking: set[str]) -> Counter[str]:
    """The training examples in committed parts; how many neighbours stand beside exact facts, and how many were missing."""
    log = CommitLog(run.folder.storage)
    for commit in log.read(ROWS):
        log.remove(commit)
    embed_edits(run)
    near = neighbours_of(run, {draft.edit_id for draft in finished}, leaking)
    edits = {edit.row_id: edit for edit in _all(run, EDITS, Edit)}
    shown: Counter[str] = Counter()
    for start in range(0, len(finished), PART_ROWS):
        examples: list[EditExample] = []
        for draft in finished[start : start + PART_ROWS]:
            facts = show(
                draft, near.get(draft.edit_id, []), run.config.lte.threefold, rewrites=edits[draft.edit_id].rewrites, seed=run.config.seed,
            )
            shown.update({facts.style: 1, "short": facts.num_short})
            examples += examples_of(draft, facts, form=run.config.lte.form_for("train"), prompts_dir=run.config.prompts.dir)
        counts = {"kept": len(examples), "rejected": 0}
        log.write(ROWS, f"part-{start // PART_ROWS:05d}", {"rows": ("parts", table_of(EditExample, examples))}, counts)
    return shown


# ---- the end


def _data(run: Run, finished: Sequence[EditDraft], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the report and the card say of the data."""
    quotas = run.config.lte.quotas
    found = Counter(map(cell_of, finished))
    short = {(one.group, one.scope) for one in shortfalls(finished, quotas)}
    cells = [
        {"group": group, "scope": scope, "wanted": wanted, "found": found[group, scope], "short": (group, scope) in short}
        for (group, scope), wanted in wanted_pairs(quotas).items()
    ]
    aspects = Counter(f"{draft.source}/{draft.kind}/{draft.aspect}" for draft in finished)
    form = run.config.lte.form_for("train")
    return {"cells": cells, "aspects": dict(sorted(aspects.items())), "pairs": len(finished), "form": form, **facts}


def _finish(
    run: Run, manifest: dict[str, Any], finished: Sequence[EditDraft], facts: Mapping[str, Any], snapshot: Mapping[str, Any],
) -> Outcome:
    """Manifest, report and card; all from the run folder's files."""
    folder = run.folder
    num_rows = stage_counts(folder, ROWS)["kept"]
    status = status_of_run(snapshot, num_rows)
    usage = usage_of(folder, lost_usd=snapshot["lost_usd"])
    CommitLog(Storage(run.root)).sweep(("parts", "rejects"))
    data = _data(run, finished, facts)
    seen, chosen, answered = (stage_counts(folder, stage) for stage in (EDITS, PAIRS, ANSWERED))
    funnel = funnel_rows([
        ("read", seen["records"], seen["kept"], by_reason(seen)),
        ("pairs", chosen["drafts"], chosen["kept"], {"not_needed": chosen["drafts"] - chosen["kept"]}),
        ("answer", chosen["kept"], answered["kept"],
         {**by_reason(answered), "not_asked_yet": chosen["kept"] - answered["kept"] - answered["rejected"]}),
        ("quota", answered["kept"], len(finished), {"over_quota": answered["kept"] - len(finished)}),
    ])
    manifest.update({
        "status": status, "finished": now(), "message": snapshot["stop_message"], "funnel": funnel, "usage": usage, "lte": data,
        "seconds": seconds_of(manifest, run.watch),
        "result": {"rows": num_rows},
    })
    folder.write_manifest(manifest)
    return Outcome(
        status=status, rows=num_rows, rejected=dict(reject_reasons(folder, [EDITS, PLAIN, ANSWERED])), data=data, usage=usage,
        report=rewrite_report(folder.root), run_dir=folder.root, message=snapshot["stop_message"], funnel=funnel,
    )


def summary_of(data: Mapping[str, Any]) -> list[str]:
    """One line for each cell of Table C.1."""
    return [
        f"{cell['group']} {cell['scope']}: {cell['found']:,} of {cell['wanted']:,} pairs" + ("  (short)" if cell["short"] else "")
        for cell in data["cells"]
    ]
