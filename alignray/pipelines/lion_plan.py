"""A forecast of a Lion run before anything is spent: calls of every role over all rounds, tokens, dollars (thesis Table A.4)."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from alignray.io.instructions import read_instructions
from alignray.methods.lion.pools import calls_of
from alignray.methods.lion.steps import (
    GENERATOR_STEP,
    REFEREE_STEP,
    STUDENT_STEP,
    TEACHER_STEP,
    generator_steps,
    judge_steps,
    teacher_steps,
)
from alignray.methods.webr.plan import StepForecast, step_forecast
from alignray.pipelines.lion_config import LionJobConfig
from alignray.pipelines.plan import COMPLETION_SPREAD, Plan, price_of_role, prompt_tokens_of
from alignray.schema import Candidate, LionDraft
from alignray.seeding import rng_for
from alignray.steps import PromptStep

TYPICAL_COMPLETION = {TEACHER_STEP: 120.0, STUDENT_STEP: 120.0, REFEREE_STEP: 130.0, GENERATOR_STEP: 30.0}
"""Completion tokens of a call: round guesses from the length of Alpaca's answers and instructions. Better: ``plan.completion_tokens``."""
THESIS = (52_000, 6_000, 3)
"""Seeds, new instructions per round and rounds of the thesis (3.3; Table A.4)."""
_WORDS_PER_TOKEN = 0.86


def plan_lion(config: LionJobConfig, *, thesis: bool = False) -> Plan:
    """Forecast of a run from its seeds; no model is called and nothing is trained.

    Not in it: replies that must be asked for again, drawings that are turned down, benchmarks, and the GPU hours of training.

    Args:
        thesis: the thesis' counts in place of the run's own, at this config's prices.

    Raises:
        ConfigError, RecordError: as the run itself would, before it spends anything.
    """
    seeds = _seeds(config)
    sample = rng_for(config.seed, "lion", "plan/seeds").sample(seeds, min(config.plan.sample_seeds, len(seeds)))
    num_seeds = min(len(seeds), config.input.max_seeds or len(seeds))
    counts = calls_of(*THESIS) if thesis else calls_of(num_seeds, config.lion.per_round, config.rounds)
    tokens = _tokens(config, sample)
    roles, engines = config.roles_of_round(), config.engines_with(None)
    steps: dict[str, StepForecast] = {}
    for name, (prompt, completion) in tokens.items():
        role = name.removeprefix("lion/")
        steps[name] = step_forecast(name, counts[role], (prompt, completion), price_of_role(engines, roles, role))
    usd = sum(step.usd for step in steps.values())
    rows = (THESIS[0] + THESIS[1] * THESIS[2]) if thesis else num_seeds + config.lion.per_round * config.rounds
    notes = (
        "unreadable replies asked for again, drawings turned down, benchmarks and training are not counted",
        f"{counts['teacher'] + counts['referee'] + counts['generator']:,} calls of teacher, referee and generator",
    )
    return Plan(
        pages=num_seeds, pages_low=num_seeds, pages_high=num_seeds, drafts=num_seeds, rows=rows,
        calls=sum(step.calls for step in steps.values()), prompt_tokens=sum(step.prompt_tokens for step in steps.values()),
        completion_tokens=sum(step.completion_tokens for step in steps.values()), usd=usd, low_usd=usd * (1 - COMPLETION_SPREAD),
        high_usd=usd * (1 + COMPLETION_SPREAD), steps=steps, sampled_pages=len(sample), notes=notes, unit="seeds",
    )


def _seeds(config: LionJobConfig) -> list[LionDraft]:
    found: dict[str, LionDraft] = {}
    for uri in config.input.files():
        for draft in read_instructions(uri, config.input.fetch, Counter()):
            if isinstance(draft, LionDraft):
                found.setdefault(draft.row_id, draft)
    return list(found.values())


def _tokens(config: LionJobConfig, sample: Sequence[LionDraft]) -> dict[str, tuple[float, float]]:
    """Mean (prompt, completion) tokens of a call by step."""
    means = TYPICAL_COMPLETION | dict(config.plan.completion_tokens)
    prompts_dir = config.prompts.dir
    answered = [dataclasses.replace(draft, teacher=_text(means, TEACHER_STEP), student=_text(means, STUDENT_STEP)) for draft in sample]
    drawn = [Candidate(draft.row_id, 0, 1, "hard", draft.row_id, draft.instruction) for draft in sample]
    student, referee, *_ = judge_steps(config.lion, prompts_dir)
    asked: list[tuple[str, PromptStep[object, object], Sequence[object]]] = [
        (TEACHER_STEP, teacher_steps(config.lion, prompts_dir)[0], sample), (STUDENT_STEP, student, sample),
        (REFEREE_STEP, referee, answered), (GENERATOR_STEP, generator_steps(config.lion, prompts_dir)[0], drawn),
    ]
    found: dict[str, tuple[float, float]] = {}
    for name, step, records in asked:
        requests = [request for record in records if (request := step.build(record)) is not None]
        found[name] = statistics.fmean(map(prompt_tokens_of, requests)) if requests else 0.0, means[name]
    return found


def _text(means: Mapping[str, float], step: str) -> str:
    return "word " * int(means[step] * _WORDS_PER_TOKEN)
