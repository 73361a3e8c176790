"""Lion, told once: seeds -> [teacher -> imitation -> student -> referee -> generator] per round -> a last imitation (thesis chapter 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
from rich.console import Console

from alignray.config import without_secrets
from alignray.evals.benchmark import CANDIDATE
from alignray.io.benchmark_files import read_rows
from alignray.io.commits import CommitLog
from alignray.io.run_folder import RunFolder, now
from alignray.methods.lion.discriminate import gap_of, is_hard
from alignray.methods.lion.steps import generator_steps, judge_steps, teacher_steps
from alignray.pipelines.evaluate import build_benchmarks, evaluate
from alignray.pipelines.evaluate_config import CandidateConfig, EvaluateJobConfig
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.lion_account import BENCHMARKS, RESULT, funnel_of, round_state, samples_of, stages_of
from alignray.pipelines.lion_config import STUDENT, LionJobConfig, StopConfig, identity_of
from alignray.pipelines.lion_plan import plan_lion
from alignray.pipelines.lion_stages import (
    JUDGED,
    TAUGHT,
    Run,
    engines_of,
    generate,
    hard_and_easy,
    imitate,
    judge,
    num_taught,
    pool_of,
    read_seeds,
    stage,
    teach,
)
from alignray.pipelines.open_run import open_run, seconds_of, status_of_run
from alignray.pipelines.webr_account import reject_reasons, usage_of
from alignray.prompts import load_prompt, prompt_names
from alignray.runtime.ask import check_roles
from alignray.runtime.ledger import snapshot_of, start_ledger
from alignray.runtime.stages import write_stage
from alignray.schema import LionDraft, LionRow, Message
from alignray.seeding import row_id_of

ROWS = "rows"


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, empty, stopped_at_budget or failed."""
    rows: int
    """Instructions of the Cache Pool with the teacher's answer."""
    rejected: dict[str, int]
    rounds: list[dict[str, Any]]
    """Pools, shares, scores and costs of each round, as in lion.json."""
    model: str
    """Folder of the last student; empty where none is trained."""
    notes: list[str]
    usage: dict[str, Any]
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Progress:
    """How far the loop has come."""

    rounds: list[dict[str, Any]]
    model: str | None
    note: str = ""
    """Why it ended early by its own rule."""
    unmeasured: list[str] = field(default_factory=list)
    """Why benchmarks of a round are not complete."""


def distill(config: LionJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Seeds in, a student and its growing instruction set out. Run again on the same folder, it goes on where it stopped.

    Raises:
        ConfigError, RecordError, ResumeError: before anything is spent.
        EngineDown: the run stopped because an engine cannot be used; run again to go on.
        TrainingError: a round's training failed for good.
    """
    console = console or Console(stderr=True)
    check(config)
    identity = _identity(config)
    with open_run("lion", config, identity, title="Lion", new_run=new_run, console=console) as (folder, manifest, watch):
        ledger = start_ledger(folder.root, config.budget, max_reject_rate=config.max_reject_rate)
        run = Run(config, folder, watch, ledger, console)
        read_seeds(run)
        if not manifest.get("plan"):  # the plan of the first session stays beside the bill
            manifest["plan"] = dataclasses.asdict(plan_lion(config))
        progress = loop(run)
        num_rows = write_rows(run, len(progress.rounds))
        snapshot = snapshot_of(ledger)
    return _finish(run, manifest, progress, num_rows, snapshot)


def check(config: LionJobConfig) -> None:
    """Every role is bound, and the benchmarks can be built, before anything starts.

    Raises:
        ConfigError, RecordError: a role is not bound, a benchmark is named twice, or its file is not there.
    """
    for make in (teacher_steps, judge_steps, generator_steps):
        check_roles(make(config.lion, config.prompts.dir), config.engines_with(None), config.roles_of_round())
    if config.benchmarks.benchmarks:
        measured = benchmark_run(config, config.run_dir, None)
        check_roles(
            [step for benchmark in build_benchmarks(measured).values() for step in benchmark.steps], measured.engines,
            measured.roles | {CANDIDATE: measured.candidates[STUDENT].role()},
        )
        for uri in sorted(set(measured.input_files().values())):
            read_rows(uri, measured.fetch)


def _identity(config: LionJobConfig) -> dict[str, Any]:
    prompts = {name: load_prompt(name, config.prompts.dir).digest for name in prompt_names() if name.startswith("lion/")}
    inputs = sorted(row_id_of(without_secrets(uri)) for uri in config.input.files())
    return {"config": identity_of(config), "prompts": prompts, "inputs": inputs}


def loop(run: Run) -> Progress:
    """Rounds one after the other, as far as engines, budget and stop rule let them; what was done before is found done."""
    progress = Progress([], None)
    for number in range(1, run.config.rounds + 2):
        is_last = number == run.config.rounds + 1
        finished = _round(run, number, progress, is_last=is_last)
        progress.rounds.append(round_state(run, number))
        if finished and not progress.note and not is_last:
            progress.note = stop_rule(run.config.stop, progress.rounds)
        if not finished or progress.note or is_last:
            break
        goes_on = generate(run, number)
        progress.rounds[-1] = round_state(run, number)
        if not goes_on:
            break
    return progress


def _round(run: Run, number: int, progress: Progress, *, is_last: bool) -> bool:
    """Teacher, imitation, benchmarks and judgement of a round; False where asking had to stop."""
    if not teach(run, number) or run.stopped():
        return False
    if not num_taught(run, number):
        progress.note = f"round {number}: there is no instruction with a teacher's answer to learn from; see the rejects"
        return True
    progress.model = imitate(run, number, progress.model)
    progress.unmeasured += measure(run, number, progress.model)
    return is_last or (judge(run, number, progress.model) and not run.stopped())


def measure(run: Run, number: int, checkpoint: str | None) -> list[str]:
    """The round's student on the configured benchmarks, as a run of its own inside this one; why that is not complete, if it is not."""
    if not run.config.benchmarks.benchmarks:
        return []
    root = run.folder.storage.path(f"{BENCHMARKS}/{stage('round', number)}")
    done = RunFolder(root).manifest()
    if done is not None and done["status"] == "done":
        return []
    outcome = evaluate(benchmark_run(run.config, root, checkpoint), console=run.console)
    return [] if outcome.status == "done" else [f"benchmarks of round {number}: {outcome.status} ({outcome.message or 'see its report'})"]


def benchmark_run(config: LionJobConfig, run_dir: str, checkpoint: str | None) -> EvaluateJobConfig:
    """The evaluation of one round's student."""
    sampling = {name: getattr(config.benchmarks.sampling, name) for name in ("temperature", "top_p", "max_new_tokens", "stop")}
    return EvaluateJobConfig(
        run_dir=run_dir, seed=config.seed, benchmarks=config.benchmarks.benchmarks,
        candidates={STUDENT: CandidateConfig(engine=STUDENT, **sampling)}, engines=engines_of(config, checkpoint),
        roles={name: role for name, role in config.roles.items() if name in ("judge", "default")}, prompts=config.prompts,
        budget=config.benchmarks.budget, runtime=config.runtime,
    )


def stop_rule(stop: StopConfig, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Why the loop ends after the last of these rounds by its own rule, or nothing."""
    now_, before = rounds[-1], rounds[-2] if len(rounds) > 1 else None
    if now_["judged"] == 0:
        return "no instruction of the Cache Pool has a readable review"
    if now_["hard_share"] < stop.hard_share:
        return f"{now_['hard_share']:.1%} of the Cache Pool is hard for the student, below stop.hard_share = {stop.hard_share:g}"
    if stop.min_gain is not None and before is not None and now_["relative_quality"] is not None:
        gain = now_["relative_quality"] - (before["relative_quality"] or 0.0)
        if gain < stop.min_gain:
            return f"relative quality rose by {gain:.2f} points in round {now_['round']}, below stop.min_gain = {stop.min_gain:g}"
    return ""


# ---- rows


def write_rows(run: Run, num_rounds: int) -> int:
    """The Cache Pool as it stands, with the last judgement of each instruction; and how many rows that is."""
    log = CommitLog(run.folder.storage)
    for commit in log.read(ROWS):
        log.remove(commit)
    seen = pa.array([], pa.large_string())
    for number in range(num_rounds, 0, -1):
        for name in (stage(JUDGED, number), stage(TAUGHT, number)):
            index = pool_of(run, [name]).index
            rows = index.by_part(index.without(seen))
            facts = {part: [None] * len(numbers) for part, numbers in rows.items()}
            finish = partial(_row, judged_in=number if name.startswith(JUDGED) else 0, config=run.config)
            write_stage(run.root, name, ROWS, finish, LionDraft, LionRow, folder="parts", rows=rows, facts=facts, clear=False)
            seen = pa.concat_arrays([seen, index.ids.array]).unique()
    return len(seen)


def _row(draft: LionDraft, _fact: None, *, judged_in: int, config: LionJobConfig) -> LionRow:
    gap = gap_of(draft) if judged_in else None
    return LionRow(
        row_id=draft.row_id, instruction=draft.instruction, response=draft.teacher,
        messages=(Message("user", draft.instruction), Message("assistant", draft.teacher)), origin=draft.origin, round=draft.round,
        parent_id=draft.parent_id, category=draft.category, student=draft.student, gap=None if gap is None else gap.gap,
        is_hard=None if gap is None else is_hard(gap, config.lion), judged_in=judged_in, prompt_tokens=draft.prompt_tokens,
        completion_tokens=draft.completion_tokens, cost_usd=draft.cost_usd,
    )


def _finish(run: Run, manifest: dict[str, Any], progress: Progress, num_rows: int, snapshot: Mapping[str, Any]) -> Outcome:
    """lion.json, manifest, report and card; all from the run folder's files."""
    folder: RunFolder = run.folder
    status = status_of_run(snapshot, num_rows)
    usage = usage_of(folder, lost_usd=snapshot["lost_usd"])
    CommitLog(folder.storage).sweep(("parts", "rejects"))
    message = snapshot["stop_message"] or progress.note
    if progress.rounds:
        progress.rounds[-1]["stopped"] = message
    notes = _notes(run, progress, is_stopped=bool(snapshot["stop_kind"]))
    funnel = funnel_of(run, progress.rounds)
    folder.write_json(RESULT, {"rounds": progress.rounds, "samples": samples_of(run, progress.rounds), "notes": notes})
    manifest.update({
        "status": status, "finished": now(), "message": message, "funnel": funnel, "usage": usage, "notes": notes,
        "seconds": seconds_of(manifest, run.watch),
        "result": {"rows": num_rows, "rounds": len(progress.rounds), "model": progress.model or ""},
    })
    folder.write_manifest(manifest)
    return Outcome(
        status=status, rows=num_rows, rejected=dict(reject_reasons(folder, stages_of(run))), rounds=progress.rounds,
        model=progress.model or "", notes=notes, usage=usage, report=rewrite_report(folder.root), run_dir=folder.root, message=message,
        funnel=funnel,
    )


def _notes(run: Run, progress: Progress, *, is_stopped: bool) -> list[str]:
    """What a reader has to know of the numbers."""
    notes = [*([progress.note] if progress.note else []), *progress.unmeasured]
    if run.config.student is None:
        notes.append("no student is trained (student: null); the same model answers in every round")
    for state in progress.rounds:
        made = state["generated"]
        if made is not None and made["hard"] + made["easy"] < run.config.lion.per_round and not is_stopped:
            short = run.config.lion.per_round - made["hard"] - made["easy"]
            notes.append(f"round {state['round']}: {short:,} new instructions short of per_round, after {made['drawn']:,} drawings")
        if state["judged"] and not all(map(len, hard_and_easy(run, state["round"]))):
            notes.append(f"round {state['round']}: all judged instructions are on one side of the threshold, so all parents are")
    return notes
