"""A forecast of an evaluation before anything is spent: items, calls, tokens and dollars of every candidate and its judge."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignray.evals.benchmark import CANDIDATE, Benchmark, BenchmarkConfig, Files, with_reply
from alignray.evals.kinds import build_benchmark
from alignray.evals.recorded import RecordedAnswers
from alignray.io.benchmark_files import read_rows
from alignray.methods.webr.plan import StepForecast, step_forecast
from alignray.pipelines.evaluate_config import CandidateConfig, EvaluateJobConfig
from alignray.pipelines.plan import BOOTSTRAP, COMPLETION_SPREAD, Plan, price_of_role, prompt_tokens_of
from alignray.runtime.ask import RoleConfig, check_roles, role_of
from alignray.schema import Completion, EvalDraft, Rejected
from alignray.seeding import rng_for

TYPICAL_COMPLETION = {
    "followbench/answer": 550.0, "followbench/judge": 185.0, "ifeval/answer": 300.0, "mt_bench/answer": 310.0, "mt_bench/judge": 190.0,
    "alpaca_eval/answer": 480.0, "alpaca_eval/judge": 2.0, "arena_hard/answer": 430.0, "arena_hard/judge": 500.0, "vicuna/answer": 250.0,
    "vicuna/judge": 180.0, "choice/answer": 12.0, "math/answer": 150.0, "code/answer": 150.0,
}
"""Completion tokens of a call by the beginning of its step's name, estimated from published answers and judgements: Llama-3-8B's on
FollowBench (the median: some ran on to their cap), GPT-4's on IFEval, AlpacaEval and Arena-Hard, five models' and GPT-4's verdicts on
MT-Bench. Choice, math, code, Vicuna and Arena-Hard's judge are round guesses. Better: ``plan.completion_tokens``, from a run."""
_AGAIN = re.compile(r"_again_\d+\Z")
Tokens = dict[str, tuple[float, float]]
"""(prompt, completion) tokens of one item, by step."""


@dataclass(frozen=True)
class _Part:
    """One candidate on one benchmark."""

    benchmark: str
    num_items: int
    sample: tuple[Tokens, ...]
    prices: Mapping[str, tuple[float, float]]
    """Dollars per million prompt and completion tokens, by step."""

    def usd_of(self, tokens: Tokens) -> float:
        """Dollars of one item."""
        return sum(
            prompt * self.prices[step][0] + completion * self.prices[step][1] for step, (prompt, completion) in tokens.items()
        ) / 1e6


def plan_evaluation(config: EvaluateJobConfig) -> Plan:
    """Forecast of a run from its official files; no model is called, and no program of an answer is run.

    Every item is counted; requests are built for a sample of them, with answers of a plausible length filled in so that the
    judge's can be built too. Verdicts that have to be asked for again are not in it; nor is what a shared store of verdicts saves.

    Raises:
        ConfigError, RecordError: as the run itself would, before it spends anything.
    """
    parts: list[_Part] = []
    notes: list[str] = []
    for benchmark_config in config.benchmarks:
        benchmark = build_benchmark(benchmark_config, config.prompts.dir)
        items, rejected = _items(benchmark, benchmark_config, config)
        notes.append(f"{benchmark.name}: {len(items):,} items" + (f"; rejected: {_listed(rejected)}" if rejected else ""))
        for name, candidate in config.measured().items():
            part, missing = _part(benchmark, items, candidate, config)
            parts.append(part)
            if missing:
                notes.append(f"{benchmark.name}: {candidate.answers} lacks answers to {missing:,} items ({name})")
    return _merged(parts, config.seed, (*notes, "verdicts that must be asked for again are not counted"))


def _items(benchmark: Benchmark, benchmark_config: BenchmarkConfig, config: EvaluateJobConfig) -> tuple[list[EvalDraft], Counter[str]]:
    """Items that a run would work on, and why others are none."""
    files: Files = {name: read_rows(uri, config.fetch) for name, uri in benchmark_config.files().items()}
    items: list[EvalDraft] = []
    rejected: Counter[str] = Counter()
    for item in benchmark.read(files):
        if benchmark_config.max_items is not None and len(items) >= benchmark_config.max_items:
            break
        if isinstance(item, Rejected):
            rejected[item.reason] += 1
        else:
            items.append(item)
    return items, rejected


def _part(
    benchmark: Benchmark, items: Sequence[EvalDraft], candidate: CandidateConfig, config: EvaluateJobConfig,
) -> tuple[_Part, int]:
    """What a candidate's items would take, and how many of them its recorded answers leave out."""
    own = list(items)
    if candidate.answers is not None:
        recorded = RecordedAnswers(read_rows(candidate.answers, config.fetch), candidate.answers)
        own = [filled for item in items if isinstance(filled := recorded.fill(item, benchmark), EvalDraft)]
    steps = [step for step in benchmark.steps if not _AGAIN.search(step.name) and (candidate.engine or step.role != CANDIDATE)]
    roles = config.roles | ({CANDIDATE: candidate.role()} if candidate.engine else {})
    check_roles(steps, config.engines, roles)
    chosen = rng_for(config.seed, benchmark.name, "plan/items").sample(own, min(config.plan.sample_items, len(own)))
    asked = dataclasses.replace(benchmark, steps=tuple(steps))
    sample = tuple(_tokens_of(item, asked, roles, config.plan.completion_tokens) for item in chosen)
    prices = {step.name: price_of_role(config.engines, roles, step.role) for step in steps}
    return _Part(benchmark.name, len(own), sample, prices), len(items) - len(own)


def _tokens_of(draft: EvalDraft, benchmark: Benchmark, roles: Mapping[str, RoleConfig], measured: Mapping[str, float]) -> Tokens:
    """Tokens of each step that this item would take; a step that asks nothing is not in it."""
    tokens: Tokens = {}
    for step in benchmark.steps:
        request = step.build(draft)
        if request is None:
            continue
        cap = request.max_new_tokens or role_of(roles, step.role).max_new_tokens
        completion = completion_mean(step.name, measured, cap)
        tokens[step.name] = prompt_tokens_of(request), completion
        draft = with_reply(draft, step.name, Completion("word " * int(completion * 0.86)))
    return tokens


def completion_mean(step: str, measured: Mapping[str, float], cap: int) -> float:
    """Completion tokens to expect of a call: measured where there is a figure, typical else; never above the cap."""
    for known in (measured, TYPICAL_COMPLETION):
        fitting = [name for name in known if step.startswith(name)]
        if fitting:
            return min(known[max(fitting, key=len)], cap)
    return cap / 2


def _merged(parts: Sequence[_Part], seed: int, notes: tuple[str, ...]) -> Plan:
    """The plan of all parts."""
    steps = _steps(parts)
    low, high = _interval(parts, seed)
    num_items = sum(part.num_items for part in parts)
    return Plan(
        pages=num_items, pages_low=num_items, pages_high=num_items, drafts=num_items, rows=num_items,
        calls=sum(step.calls for step in steps.values()), prompt_tokens=sum(step.prompt_tokens for step in steps.values()),
        completion_tokens=sum(step.completion_tokens for step in steps.values()), usd=sum(step.usd for step in steps.values()),
        low_usd=low * (1 - COMPLETION_SPREAD), high_usd=high * (1 + COMPLETION_SPREAD), steps=steps,
        sampled_pages=sum(len(part.sample) for part in parts), notes=notes, unit="items",
    )


def _steps(parts: Sequence[_Part]) -> dict[str, StepForecast]:
    """Totals by step, over candidates and over benchmarks that share a step's name."""
    totals: dict[str, StepForecast] = {}
    for part in parts:
        for name in dict.fromkeys(step for tokens in part.sample for step in tokens):
            asked = [tokens[name] for tokens in part.sample if name in tokens]
            means = statistics.fmean(prompt for prompt, _ in asked), statistics.fmean(completion for _, completion in asked)
            own = step_forecast(name, round(part.num_items * len(asked) / len(part.sample)), means, part.prices[name])
            sum_of = totals.get(name, StepForecast(name, 0, 0, 0, 0.0))
            totals[name] = StepForecast(
                name, sum_of.calls + own.calls, sum_of.prompt_tokens + own.prompt_tokens,
                sum_of.completion_tokens + own.completion_tokens, sum_of.usd + own.usd,
            )
    return totals


def _interval(parts: Sequence[_Part], seed: int) -> tuple[float, float]:
    """90 % interval of the cost when items are drawn like the sampled ones; candidates meet the same items, so they share the draws."""
    totals = sorted(map(sum, zip(*(_drawn(part, seed) for part in parts), strict=True)))
    return totals[int(BOOTSTRAP * 0.05)], totals[int(BOOTSTRAP * 0.95) - 1]


def _drawn(part: _Part, seed: int) -> list[float]:
    """Dollars of a part in each resample; always the same where all items were sampled."""
    costs = [part.usd_of(tokens) for tokens in part.sample] or [0.0]
    if len(part.sample) == part.num_items:
        return [sum(costs)] * BOOTSTRAP
    rng = rng_for(seed, part.benchmark, "plan/bootstrap")
    return [part.num_items * statistics.fmean(rng.choices(costs, k=len(costs))) for _ in range(BOOTSTRAP)]


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common())
