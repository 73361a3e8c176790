"""Evaluation, told once: official files -> items -> answers and verdicts -> scores -> figures, comparisons and report (thesis 7)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from alignray.errors import ConfigError, RecordError
from alignray.evals.benchmark import CANDIDATE, JUDGE, Benchmark, BenchmarkConfig
from alignray.evals.compare import Comparison, Ranking, compare_runs, rank
from alignray.evals.kinds import PROMPT_FOLDERS, build_benchmark
from alignray.evals.recorded import RecordedAnswers
from alignray.io.benchmark_files import read_rows
from alignray.io.commits import CommitLog
from alignray.io.run_folder import RunFolder, now
from alignray.io.storage import Storage
from alignray.pipelines.evaluate_config import EvaluateJobConfig, identity_of
from alignray.pipelines.evaluate_plan import plan_evaluation
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.open_run import open_run, seconds_of, status_of_run
from alignray.pipelines.walk import pending_of, walk
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import by_reason, funnel_rows, listed, reject_reasons, stage_counts, usage_of
from alignray.prompts import load_prompt, prompt_names
from alignray.runtime.ask import AskConfig, SharedAnswersConfig, check_roles
from alignray.runtime.index import Index, index_of
from alignray.runtime.ledger import snapshot_of, start_ledger
from alignray.runtime.stages import read_stage, write_stage
from alignray.schema import ChatRequest, Completion, EvalDraft, Figure, Rejected, ScoredItem, records_of
from alignray.seeding import row_id_of, row_id_of_json
from alignray.steps import PromptStep

ITEMS, ANSWERED, ROWS = "items", "answered", "rows"
"""Stages of a run, in order."""
_UNBOUNDED, _SHARES = ("kappa", "relative_score"), ("failure_consistency", "judge_failure")
"""Metrics that may leave 0 to 1, and those that cannot though no item has a score of their name."""
Steps = list[PromptStep[EvalDraft, EvalDraft]]


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done, empty, stopped_at_budget or failed."""
    rows: int
    rejected: dict[str, int]
    figures: dict[str, dict[str, list[dict[str, Any]]]]
    """By candidate and benchmark: every figure with its interval."""
    comparisons: list[dict[str, Any]]
    notes: list[str]
    usage: dict[str, Any]
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ItemSource:
    """One benchmark for one candidate, as a unit of reading."""

    id: str
    benchmark: BenchmarkConfig
    candidate: str


@dataclass
class Run:
    """What every part of the story needs."""

    config: EvaluateJobConfig
    folder: RunFolder
    watch: Watch
    ledger: Any
    benchmarks: dict[str, Benchmark]

    @property
    def root(self) -> str:
        return self.folder.root


def evaluate(config: EvaluateJobConfig, *, method: str = "evaluate", new_run: bool = False, console: Console | None = None) -> Outcome:
    """Candidates on benchmarks, every score with its answer and verdict. Running it again goes on where it stopped.

    Raises:
        ConfigError, RecordError, ResumeError: before anything is spent.
    """
    console = console or Console(stderr=True)
    benchmarks = build_benchmarks(config)
    for name, candidate in config.measured().items():
        roles = config.roles | ({CANDIDATE: candidate.role()} if candidate.engine else {})
        check_roles(_steps_of(benchmarks, asks=bool(candidate.engine)), config.engines, roles)
        if candidate.answers is not None:
            RecordedAnswers(read_rows(candidate.answers, config.fetch), f"candidates.{name}.answers")
    identity = _identity(config)
    title = "FollowBench" if method == "followbench" else "Evaluate"
    with open_run(method, config, identity, title=title, new_run=new_run, console=console) as (folder, manifest, watch):
        ledger = start_ledger(folder.root, config.budget, max_reject_rate=config.max_reject_rate)
        run = Run(config, folder, watch, ledger, benchmarks)
        read(run)
        items = item_index(run)
        manifest["plan"] = dataclasses.asdict(plan_evaluation(config))
        for name in config.measured():
            if not snapshot_of(ledger)["stop_kind"]:
                answer(run, items, name)
        num_rows = score(run)
        snapshot = snapshot_of(ledger)
    return _finish(run, manifest, items, num_rows, snapshot)


def build_benchmarks(config: EvaluateJobConfig) -> dict[str, Benchmark]:
    """The benchmarks by name.

    Raises:
        ConfigError: two have the same name.
    """
    built = [build_benchmark(benchmark, config.prompts.dir) for benchmark in config.benchmarks]
    twice = [name for name, number in Counter(benchmark.name for benchmark in built).items() if number > 1]
    if twice:
        raise ConfigError(f"benchmarks holds {twice[0]!r} twice; a run measures each once, use another run for other switches")
    return {benchmark.name: benchmark for benchmark in built}


def _identity(config: EvaluateJobConfig) -> dict[str, Any]:
    folders = {PROMPT_FOLDERS.get(benchmark.kind, benchmark.kind) for benchmark in config.benchmarks}
    prompts = {name: load_prompt(name, config.prompts.dir).digest for name in prompt_names() if name.partition("/")[0] in folders}
    inputs = {uri: row_id_of_json(read_rows(uri, config.fetch)) for uri in sorted(set(config.input_files().values()))}
    return {"config": identity_of(config), "prompts": prompts, "inputs": inputs}


def read(run: Run) -> None:
    """Every benchmark's items, for every candidate, into committed parts."""
    with run.watch.stage(ITEMS, None) as advance:
        read_stage(
            _sources(run.config), partial(_items, config=run.config), EvalDraft, root=run.root, stage=ITEMS,
            on_part=lambda part: advance(part["kept"]),
        )


def _sources(config: EvaluateJobConfig) -> list[ItemSource]:
    return [
        ItemSource(row_id_of(name, benchmark.model_dump_json())[:16], benchmark, name)
        for name in config.measured() for benchmark in config.benchmarks
    ]


def _items(source: ItemSource, counts: Counter[str], *, config: EvaluateJobConfig) -> Iterator[EvalDraft | Rejected]:
    candidate = config.measured()[source.candidate]
    benchmark = build_benchmark(source.benchmark, config.prompts.dir)
    benchmark.check()
    files = {name: read_rows(uri, config.fetch) for name, uri in source.benchmark.files().items()}
    recorded = None if candidate.answers is None else RecordedAnswers(read_rows(candidate.answers, config.fetch), candidate.answers)
    num_items = 0
    for item in benchmark.read(files):
        if source.benchmark.max_items is not None and num_items >= source.benchmark.max_items:
            return
        counts["records"] += 1
        own = dataclasses.replace(item, row_id=row_id_of(item.row_id, source.candidate))
        num_items += isinstance(own, EvalDraft)
        yield recorded.fill(own, benchmark) if recorded is not None and isinstance(own, EvalDraft) else own


def item_index(run: Run) -> Index:
    """All items by id, with the candidate whose they are.

    Raises:
        RecordError: no item is left; the message lists why.
    """
    items = index_of(run.root, ITEMS, {}, read=[])
    if not len(items):
        reasons = listed(reject_reasons(run.folder, [ITEMS]))
        raise RecordError(f"no item is left to evaluate; rejected: {reasons or 'nothing was read'}; look into {run.root}/rejects")
    return items


def candidate_of_part(run: Run) -> dict[str, str]:
    """Candidate of each part of the items."""
    names = {source.id: source.candidate for source in _sources(run.config)}
    return {commit.name: names[commit.extra["split"]] for commit in CommitLog(run.folder.storage).read(ITEMS)}


def answer(run: Run, items: Index, name: str) -> None:
    """Every item of a candidate that has no committed outcome walks the steps: the candidate's answers, then the judge's."""
    config = run.config
    candidate = config.measured()[name]
    owners = candidate_of_part(run)
    own = np.flatnonzero([owners[part] == name for part in items.parts])
    ask_config = AskConfig(
        engines=config.engines, roles=config.roles | ({CANDIDATE: candidate.role()} if candidate.engine else {}), budget=config.budget,
        runtime=config.runtime, seed=config.seed,
        shared=SharedAnswersConfig(root=Storage(config.verdicts).root, roles=(JUDGE,)) if config.verdicts else None,
    )
    walk(
        items, pending_of(run.root, ANSWERED, items, own), _steps_of(run.benchmarks, asks=bool(candidate.engine)), ask_config, EvalDraft,
        root=run.root, source=ITEMS, into=ANSWERED, title=f"answers of {name}", ledger=run.ledger, watch=run.watch,
    )


def _steps_of(benchmarks: Mapping[str, Benchmark], *, asks: bool) -> Steps:
    """The steps of all benchmarks as one chain, so that a model is loaded once; each lets the items of others pass.

    Args:
        asks: False leaves the candidate's steps out, for recorded answers.
    """
    return [
        _only_of(benchmark.name, step) for benchmark in benchmarks.values() for step in benchmark.steps
        if asks or step.role != CANDIDATE
    ]


def _only_of(benchmark: str, step: PromptStep[EvalDraft, EvalDraft]) -> PromptStep[EvalDraft, EvalDraft]:
    def build(draft: EvalDraft) -> ChatRequest | None:
        return step.build(draft) if draft.benchmark == benchmark else None

    def parse(draft: EvalDraft, completion: Completion | None) -> EvalDraft | Rejected:
        return step.parse(draft, completion) if draft.benchmark == benchmark else draft

    return dataclasses.replace(step, build=build, parse=parse)


def score(run: Run) -> int:
    """Every answered item scored, part by part, and how many."""
    answered = index_of(run.root, ANSWERED, {}, read=[])
    items = index_of(run.root, ITEMS, {}, read=[])
    owners = candidate_of_part(run)
    owner = {row_id: owners[part] for row_id, part in zip(items.ids, items.parts, strict=True)}
    rows = answered.by_part()
    ids = {(part, row): row_id for row_id, part, row in zip(answered.ids, answered.parts, answered.rows, strict=True)}
    facts = {part: [owner[ids[part, number]] for number in numbers] for part, numbers in rows.items()}
    finish = partial(_scored, benchmarks=run.benchmarks)
    with run.watch.stage("scores", None) as advance:
        write_stage(run.root, ANSWERED, ROWS, finish, EvalDraft, ScoredItem, folder="parts", rows=rows, facts=facts)
        advance(len(answered))
    return len(answered)


def _scored(draft: EvalDraft, candidate: str, *, benchmarks: Mapping[str, Benchmark]) -> ScoredItem:
    benchmark = benchmarks[draft.benchmark]
    known = {column.name: getattr(draft, column.name) for column in dataclasses.fields(draft)}
    return ScoredItem(candidate=candidate, scores=benchmark.score(draft), **known)


def scored_items(folder: RunFolder) -> dict[str, dict[str, list[ScoredItem]]]:
    """All finished rows by candidate and benchmark, each in the order of its ids."""
    found: dict[str, dict[str, list[ScoredItem]]] = {}
    for _, table in CommitLog(folder.storage).tables(ROWS):
        for item in records_of(ScoredItem, table):
            found.setdefault(item.candidate, {}).setdefault(item.benchmark, []).append(item)
    for benchmarks in found.values():
        for items in benchmarks.values():
            items.sort(key=lambda item: item.row_id)
    return found


def _analysis(run: Run) -> dict[str, Any]:
    """Figures of every candidate on every benchmark, and every two candidates compared on the items that both have."""
    scored = scored_items(run.folder)
    order = [name for name in run.config.measured() if name in scored]
    candidates: dict[str, dict[str, Any]] = {}
    for name in order:
        for benchmark, made in run.benchmarks.items():
            if items := scored[name].get(benchmark):
                summary = made.summarize(items)
                figures = tuple(_bounded(figure, items) for figure in summary.figures)
                candidates.setdefault(name, {})[benchmark] = {
                    "figures": [dataclasses.asdict(figure) for figure in figures], "details": summary.details,
                }
    everything = {name: [item for items in scored[name].values() for item in items] for name in order}
    comparisons = [
        row for place, first in enumerate(order) for second in order[place + 1 :]
        for row in comparison_rows(everything[first], everything[second], seed=run.config.seed)
    ]
    rankings = [
        f"{benchmark} by {found.metric}: {found.statement}, over {found.num_items:,} common items"
        for benchmark in run.benchmarks if (found := _ranking(run, benchmark, scored, candidates)) is not None
    ]
    kinds = {made.name: config.kind for made, config in zip(run.benchmarks.values(), run.config.benchmarks, strict=True)}
    sizes = {name: len({item.key for owner in scored.values() for item in owner.get(name, [])}) for name in kinds}
    return {
        "candidates": candidates, "comparisons": comparisons, "notes": [*rankings, *_notes(run)],
        "benchmarks": {name: {"items": sizes[name], "kind": kind} for name, kind in kinds.items()},
    }


def _ranking(
    run: Run, benchmark: str, scored: Mapping[str, Mapping[str, list[ScoredItem]]], analysis: Mapping[str, Any],
) -> Ranking | None:
    """All candidates in tiers by the benchmark's first metric; None where there is one candidate only."""
    items = {name: own[benchmark] for name, own in scored.items() if own.get(benchmark)}
    if len(items) < 2:
        return None
    metric = next(figure["metric"] for figure in analysis[next(iter(items))][benchmark]["figures"] if not figure["category"])
    return rank(items, metric, seed=run.config.seed)


def _bounded(figure: Figure, items: Sequence[ScoredItem]) -> Figure:
    """The figure with its interval cut where its metric cannot be: a score is not negative, and a mean of shares is at most 1."""
    if figure.low is None or figure.high is None or figure.metric.startswith(_UNBOUNDED):
        return figure
    values = [score.value for item in items for score in item.scores if score.metric == figure.metric and not score.problem]
    if min(values, default=0.0) < 0:
        return figure
    is_share = max(values) <= 1 if values else figure.metric.startswith(_SHARES) or figure.metric.endswith("_task_mean")
    return dataclasses.replace(figure, low=max(figure.low, 0.0), high=min(figure.high, 1.0) if is_share else figure.high)


def comparison_rows(first: Sequence[ScoredItem], second: Sequence[ScoredItem], *, seed: int) -> list[dict[str, Any]]:
    """Paired differences of two candidates in every metric of every benchmark that both have; not of its parts ("strict/...")."""
    return [_comparison_row(found) for found in compare_runs(first, second, seed=seed) if "/" not in found.metric]


def _comparison_row(found: Comparison) -> dict[str, Any]:
    difference = found.test.difference
    return {
        "benchmark": found.benchmark, "metric": found.metric, "first": found.first, "second": found.second,
        "difference": difference.value, "low": difference.low, "high": difference.high, "num": difference.num,
        "p": found.test.bootstrap_p, "mcnemar_p": found.test.mcnemar_p, "left_out": found.num_left_out, "verdict": found.verdict,
    }


def _notes(run: Run) -> list[str]:
    """What a reader of the figures has to know: trials, and items that were never answered."""
    notes = [
        f"{made.name}: only the first {config.max_items:,} items (max_items)"
        for made, config in zip(run.benchmarks.values(), run.config.benchmarks, strict=True) if config.max_items is not None
    ]
    lost = reject_reasons(run.folder, [ITEMS, ANSWERED])
    return notes + ([f"not in the figures, because they were rejected: {listed(lost)}"] if lost else [])


def _funnel(run: Run, num_items: int, num_rows: int) -> list[dict[str, Any]]:
    seen, answered = stage_counts(run.folder, ITEMS), stage_counts(run.folder, ANSWERED)
    not_asked = num_items - answered["kept"] - answered["rejected"]
    stages: Sequence[tuple[str, int, int, dict[str, int]]] = [
        ("read", seen["records"], seen["kept"], by_reason(seen)),
        ("answer", num_items, num_rows, {**by_reason(answered), "not_asked_yet": not_asked}),
    ]
    return funnel_rows(stages)


def _finish(run: Run, manifest: dict[str, Any], items: Index, num_rows: int, snapshot: Mapping[str, Any]) -> Outcome:
    """Manifest, analysis, report and card; all from the run folder's files."""
    folder = run.folder
    status = status_of_run(snapshot, num_rows)
    usage = usage_of(folder, lost_usd=snapshot["lost_usd"])
    CommitLog(folder.storage).sweep(("parts", "rejects"))
    analysis = _analysis(run)
    funnel = _funnel(run, len(items), num_rows)
    manifest.update({
        "status": status, "finished": now(), "message": snapshot["stop_message"], "funnel": funnel, "usage": usage,
        "seconds": seconds_of(manifest, run.watch),
        "result": {"rows": num_rows},
    })
    folder.write_json("analysis.json", analysis)
    folder.write_manifest(manifest)
    figures = {
        name: {benchmark: summary["figures"] for benchmark, summary in benchmarks.items()}
        for name, benchmarks in analysis["candidates"].items()
    }
    return Outcome(
        status=status, rows=num_rows, rejected=dict(reject_reasons(folder, [ITEMS, ANSWERED])), figures=figures,
        comparisons=analysis["comparisons"], notes=analysis["notes"], usage=usage, report=rewrite_report(folder.root),
        run_dir=folder.root, message=snapshot["stop_message"], funnel=funnel,
    )
