"""Training, told once: rows -> token table -> reference log-probabilities -> ranks -> model and report (thesis chapter 6)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from alignray.errors import RecordError
from alignray.io.reference_store import ReferenceStore, model_key
from alignray.io.run_folder import RunFolder, now
from alignray.methods.bmc.masks import edited_masks
from alignray.objectives import RDPOConfig, SFTConfig
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.open_run import open_run, seconds_of
from alignray.pipelines.train_config import TrainJobConfig, identity_of
from alignray.pipelines.watch import Watch
from alignray.runtime.reference_store import ReferenceFill, ReferencePool, fill_store
from alignray.runtime.tokens import TokenStats, TokenWork, tokenize_stage
from alignray.runtime.training import TrainingOutcome, launch_training, reference_forward
from alignray.train.analysis import write_watched_texts
from alignray.train.data import steps_of
from alignray.train.model import model_folder
from alignray.train.tokenize import keep_template, load_tokenizer, never_ids


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, or tokens where no more was asked for."""
    rows: int
    eval_rows: int
    rejected: dict[str, int]
    steps: int
    metrics: dict[str, Any]
    layout: str
    layout_reason: str | None
    reference: dict[str, int] | None
    """Rows whose reference log-probabilities were found, and computed; None where the objective needs none."""
    model: str
    report: str
    run_dir: str
    warnings: list[str] = field(default_factory=list)


def train(config: TrainJobConfig, *, new_run: bool = False, tokens_only: bool = False, console: Console | None = None) -> Outcome:
    """Rows in, a trained model out. Run again on the same folder, it goes on from the newest checkpoint.

    Args:
        tokens_only: stop when the token table is there.

    Raises:
        ConfigError, RecordError, ResumeError: before any training.
        TrainingError: a loss is no number, or ranks died too often.
    """
    console = console or Console(stderr=True)
    splits = config.input.splits()
    reference_folder = model_folder(config.model)
    config = config.with_model_at(reference_folder)
    warnings = warnings_of(config)
    identity = {"config": identity_of(config), "inputs": {split.shown: split.num_bytes for split in splits}}
    title = f"Train {config.objective.kind}"
    with open_run("train", config, identity, title=title, new_run=new_run, console=console) as (folder, manifest, watch):
        for warning in warnings:
            console.print(f"[yellow]warning[/]: {escape(warning)}", highlight=False, soft_wrap=True)
        with watch.stage("tokens", None) as advance:
            stats = tokenize_stage(splits, token_work(config), root=folder.root, on_part=lambda item: advance(item["read"]))
        _check_rejects(config, stats, folder.root)
        write_watched_texts(folder.root, config.training(), config.tokens)
        if tokens_only:
            return _finish(config, folder, manifest, watch, stats, None, TrainingOutcome(0, {}, "", None, ""), warnings)
        fill = _fill(config, reference_folder, folder, watch) if config.needs_reference else None
        console.print(f"  {_division(config, stats)}", highlight=False, soft_wrap=True)
        store = None if fill is None else _store(config, reference_folder)
        with watch.stage("train", _num_steps(config, stats)) as advance:
            trained = launch_training(config.training(), config.workers, root=folder.root, store=store, on_step=advance)
        if trained.model and Path(trained.model).is_dir():
            keep_template(trained.model, config.tokens)
    return _finish(config, folder, manifest, watch, stats, fill, trained, warnings)


def token_work(config: TrainJobConfig) -> TokenWork:
    """What the tokenizing tasks are told."""
    never = never_ids(load_tokenizer(config.model.path, revision=config.model.revision), config.tokens.never_edited)
    return TokenWork(
        kind="sft" if config.is_sft else "preference", tokenizer_path=config.model.path, revision=config.model.revision,
        config=config.tokens,
        fetch=config.input.fetch, masks=partial(edited_masks, diff=config.tokens.diff, never=never), eval_rate=config.input.eval_rate,
        seed=config.seed,
    )


def warnings_of(config: TrainJobConfig) -> list[str]:
    """What a user should know of the objective before the first step."""
    objective = config.objective
    found = []
    if isinstance(objective, RDPOConfig) and objective.length_sign == "minus":
        found.append("r_dpo with length_sign=minus (as printed in the thesis) rewards the longer chosen response less the longer it is; "
                     "penalising length in the reward gives plus")
    if not isinstance(objective, SFTConfig) and objective.weights.kind != "none" and objective.weights.delta < 1:
        found.append(f"weights.delta={objective.weights.delta:g} is below 1, so all edited tokens weigh the same, whatever the confidence")
    return found


def _check_rejects(config: TrainJobConfig, stats: TokenStats, root: str) -> None:
    rejected = sum(stats.rejected.values())
    if rejected > config.max_reject_rate * max(stats.read, 1):
        why = ", ".join(f"{reason} {count:,}" for reason, count in stats.rejected.items())
        raise RecordError(f"{rejected:,} of {stats.read:,} rows cannot be used ({why}); look into {root}/rejects, or raise max_reject_rate")


def _store(config: TrainJobConfig, reference_folder: Path) -> ReferenceStore:
    return ReferenceStore(config.reference.store, model_key(reference_folder, config.model.dtype))


def _fill(config: TrainJobConfig, reference_folder: Path, folder: RunFolder, watch: Watch) -> ReferenceFill:
    store = _store(config, reference_folder)
    store.describe({"model": config.model.path, "revision": config.model.revision or "", "dtype": config.model.dtype})
    workers = config.workers
    pool = ReferencePool(
        make_forward=partial(reference_forward, config.training()), min_actors=1, max_actors=workers.num_workers,
        cpus_per_actor=workers.cpus_per_worker, gpus_per_actor=1 if workers.has_gpus() else 0, block_rows=config.reference.block_rows,
    )
    with watch.stage("reference", None) as advance:
        return fill_store(store, pool, root=folder.root, on_block=lambda block: advance(block["rows"]))


def _num_steps(config: TrainJobConfig, stats: TokenStats) -> int:
    return steps_of(stats.kept - stats.eval, config.batch_size, epochs=config.epochs, max_steps=config.max_steps)


def _division(config: TrainJobConfig, stats: TokenStats) -> str:
    """How a global batch falls on the ranks."""
    ranks = config.workers.num_workers
    mean = stats.tokens / max(stats.kept, 1)
    return (f"{config.batch_size} rows per step over {ranks} rank(s): about {config.batch_size / ranks:g} each, {mean:,.0f} tokens a row, "
            f"at most {config.max_tokens_per_device:,} tokens a pass")


def _finish(
    config: TrainJobConfig, folder: RunFolder, manifest: dict[str, Any], watch: Watch, stats: TokenStats, fill: ReferenceFill | None,
    trained: TrainingOutcome, warnings: list[str],
) -> Outcome:
    reference = None
    if fill is not None:
        reference = {"distinct": fill.distinct, "found": fill.found, "computed": fill.computed, "passes": fill.passes}
    rows = stats.kept - stats.eval
    manifest.update({
        "status": "done" if trained.steps else "tokens", "finished": now(), "message": "; ".join(warnings), "warnings": warnings,
        "seconds": seconds_of(manifest, watch),
        "funnel": [{"stage": "read", "in": stats.read, "kept": stats.kept, "rejected": stats.rejected}],
        "objective": config.objective.model_dump(mode="json"), "tokens": dataclasses.asdict(stats),
        "reference": reference or manifest.get("reference"),
        "result": {
            "rows": rows, "eval_rows": stats.eval, "steps": trained.steps, "model": trained.model, "layout": trained.layout,
            "layout_reason": trained.layout_reason, "metrics": trained.metrics,
        },
    })
    folder.write_manifest(manifest)
    return Outcome(
        manifest["status"], rows, stats.eval, stats.rejected, trained.steps, trained.metrics, trained.layout, trained.layout_reason,
        reference, trained.model, rewrite_report(folder.root), folder.root, warnings,
    )
