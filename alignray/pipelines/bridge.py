"""BMC's bridging, told once: rows -> pairs -> edited pairs -> rows to train on -> report (thesis 6.2.1, arXiv:2408.07471)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console

from alignray.engine import model_name
from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.run_folder import RunFolder, now
from alignray.io.sources import Split
from alignray.methods.bmc.steps import ALREADY_GOOD, EDIT, bridge_steps, prompt_name, to_bridged
from alignray.pipelines.bridge_config import BridgeJobConfig, identity_of
from alignray.pipelines.bridge_plan import plan_bridge
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.open_run import open_run, seconds_of, status_of_run
from alignray.pipelines.walk import pending_of, walk
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import by_reason, funnel_rows, listed, reject_reasons, stage_counts, usage_of
from alignray.prompts import load_prompt
from alignray.report.bridge_figures import analyze_pairs
from alignray.runtime.ask import AskConfig, check_roles, role_of
from alignray.runtime.index import Index, Positions, index_of
from alignray.runtime.ledger import snapshot_of, start_ledger
from alignray.runtime.stages import committed_ids, read_stage, write_stage
from alignray.schema import BridgedPair, BridgeDraft, records_of
from alignray.steps import PromptStep

PAIRS, DRAFTS, ROWS = "pairs", "drafts", "rows"
"""Stages of a run, in order."""
Steps = list[PromptStep[BridgeDraft, BridgeDraft]]


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, empty, stopped_at_budget or failed."""
    rows: int
    rejected: dict[str, int]
    bridging: dict[str, Any]
    """What the edits are like: GOOD verdicts, copies of the reference, mean edit rates."""
    usage: dict[str, Any]
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Run:
    """What every part of the story needs."""

    config: BridgeJobConfig
    folder: RunFolder
    watch: Watch
    ledger: Any
    steps: Steps

    @property
    def root(self) -> str:
        return self.folder.root


def bridge(config: BridgeJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Preference pairs in, pairs out whose answers differ where it matters. Running it again goes on where it stopped.

    Raises:
        ConfigError, RecordError, ResumeError: before anything is spent.
        EngineDown: the run stopped because an engine cannot be used; run again to go on.
    """
    console = console or Console(stderr=True)
    steps = bridge_steps(config.bridge, answers_first=config.input.kind == "questions", prompts_dir=config.prompts.dir)
    check_roles(steps, config.engines, config.roles)
    splits = config.input.splits()
    identity = _identity(config, splits)
    with open_run("bridge", config, identity, title="Bridge", new_run=new_run, console=console) as (folder, manifest, watch):
        ledger = start_ledger(folder.root, config.budget, max_reject_rate=config.max_reject_rate)
        run = Run(config, folder, watch, ledger, steps)
        read(run, splits)
        pairs = pair_index(run)
        manifest["plan"] = _plan(run, pairs)
        selected = select(run, pairs)
        edit(run, pairs, selected)
        num_rows = write(run, pairs, selected)
        snapshot = snapshot_of(ledger)
    return _finish(run, manifest, pairs, selected, num_rows, snapshot)


def _identity(config: BridgeJobConfig, splits: list[Split]) -> dict[str, Any]:
    names = [] if config.bridge.variant == "plain" else [prompt_name(config.bridge)]
    prompts = {name: load_prompt(name, config.prompts.dir).digest for name in names}
    return {"config": identity_of(config), "prompts": prompts, "inputs": {split.shown: split.num_bytes for split in splits}}


def read(run: Run, splits: list[Split]) -> None:
    """Every input file read once: pairs, or questions with their true answers, and rejects into committed parts."""
    with run.watch.stage(PAIRS, None) as advance:
        read_stage(
            splits, run.config.input.drafts, BridgeDraft, root=run.root, stage=PAIRS,
            on_part=lambda part: advance(part["kept"]),
        )


def pair_index(run: Run) -> Index:
    """All distinct pairs, by id.

    Raises:
        RecordError: no pair is left; the message lists why.
    """
    pairs = index_of(run.root, PAIRS, {}, read=[])
    if not len(pairs):
        reasons = listed(reject_reasons(run.folder, [PAIRS]))
        raise RecordError(f"no pair is left to work on; rejected: {reasons or 'nothing was read'}; look into {run.root}/rejects")
    return pairs


def select(run: Run, pairs: Index) -> Positions:
    """Positions of the pairs to work on: those of the least seeded draw, so that a larger max_pairs only adds some."""
    config = run.config
    if config.max_pairs is None:
        return pairs.everywhere()
    num_asked = len(committed_ids(run.root, DRAFTS))  # what was worked on stays in, should max_pairs have been lowered
    return pairs.least(max(config.max_pairs, num_asked), config.seed, "bmc/select")


def edit(run: Run, pairs: Index, selected: Positions) -> None:
    """Every selected pair that has no committed outcome walks the prompt steps."""
    if not run.steps:
        return
    config = run.config
    ask_config = AskConfig(engines=config.engines, roles=config.roles, budget=config.budget, runtime=config.runtime, seed=config.seed)
    walk(
        pairs, pending_of(run.root, DRAFTS, pairs, selected), run.steps, ask_config, BridgeDraft, root=run.root, source=PAIRS, into=DRAFTS,
        title="edits", ledger=run.ledger, watch=run.watch,
    )


def write(run: Run, pairs: Index, selected: Positions) -> int:
    """The finished rows, part by part, and how many."""
    config = run.config
    stage, index, positions = PAIRS, pairs, selected
    if run.steps:
        stage, index = DRAFTS, index_of(run.root, DRAFTS, {}, read=[])
        positions = index.everywhere()
    rows = index.by_part(positions)
    model = "" if config.bridge.variant == "plain" else model_name(config.engines[role_of(config.roles, "editor").engine])
    finish = partial(_finished, config=config, model=model)
    facts = {part: [None] * len(numbers) for part, numbers in rows.items()}
    write_stage(run.root, stage, ROWS, finish, BridgeDraft, BridgedPair, folder="parts", rows=rows, facts=facts)
    return len(positions)


def _finished(draft: BridgeDraft, _fact: None, *, config: BridgeJobConfig, model: str) -> BridgedPair:
    return to_bridged(draft, config.bridge, model=model)


def _plan(run: Run, pairs: Index) -> dict[str, Any]:
    """The forecast from pairs that were read, to stand beside the bill."""
    limit = run.config.plan.sample_pairs
    sample: list[BridgeDraft] = []
    for _, table in CommitLog(run.folder.storage).tables(PAIRS):
        sample += records_of(BridgeDraft, table.slice(0, limit - len(sample)))
        if len(sample) >= limit:
            break
    return dataclasses.asdict(plan_bridge(run.config, pairs=(sample, len(pairs))))


def _funnel(run: Run, num_pairs: int, num_selected: int, num_rows: int) -> list[dict[str, Any]]:
    """Rows read to pairs to train on: at each stage what came in, what stayed, and what was lost by reason."""
    seen, drafts = stage_counts(run.folder, PAIRS), stage_counts(run.folder, DRAFTS)
    stages = [
        ("read", seen["records"] + seen["damage"], seen["kept"], by_reason(seen)),
        ("select", seen["kept"], num_selected, {"duplicate_pair": seen["kept"] - num_pairs, "not_needed": num_pairs - num_selected}),
    ]
    if run.steps:
        not_asked = num_selected - drafts["kept"] - drafts["rejected"]
        stages.append(("bridge", num_selected, num_rows, {**by_reason(drafts), "not_asked_yet": not_asked}))
    return funnel_rows(stages)


def _finish(
    run: Run, manifest: dict[str, Any], pairs: Index, selected: Positions, num_rows: int, snapshot: Mapping[str, Any],
) -> Outcome:
    """Manifest, analysis, report and card; all from the run folder's files."""
    config, folder = run.config, run.folder
    status = status_of_run(snapshot, num_rows)
    usage = usage_of(folder, lost_usd=snapshot["lost_usd"])
    log = CommitLog(folder.storage)
    log.sweep(("parts", "rejects"))
    columns = ["edit_rate", "original_edit_rate", "copies_reference", "original_chosen", "original_rejected"]
    analysis = analyze_pairs(row for _, table in log.tables(ROWS, columns=columns) for row in table.to_pylist())
    verdicts = stage_counts(folder, DRAFTS)
    good = verdicts[f"rejected/{EDIT}/{ALREADY_GOOD}"]
    edited = verdicts["kept"] + sum(count for name, count in verdicts.items() if name.startswith(f"rejected/{EDIT}/"))
    bridging = {
        "task": config.bridge.task, "variant": config.bridge.variant, "edited": edited, "already_good": good,
        "good_rate": good / edited if edited else None, "copies": analysis["copies"],
        "mean_edit_rate": analysis["edit_rate"]["mean"], "mean_original_edit_rate": analysis["original_edit_rate"]["mean"],
        "same_result": analysis["same_result"], "with_results": analysis["with_results"],
    }
    funnel = _funnel(run, len(pairs), len(selected), num_rows)
    manifest.update({
        "status": status, "finished": now(), "message": snapshot["stop_message"], "funnel": funnel, "usage": usage,
        "seconds": seconds_of(manifest, run.watch),
        "bridging": bridging, "result": {"rows": num_rows},
    })
    folder.write_json("analysis.json", analysis)
    folder.write_manifest(manifest)
    return Outcome(
        status=status, rows=num_rows, rejected=dict(reject_reasons(folder, [PAIRS, DRAFTS])), bridging=bridging, usage=usage,
        report=rewrite_report(folder.root), run_dir=folder.root, message=snapshot["stop_message"], funnel=funnel,
    )
