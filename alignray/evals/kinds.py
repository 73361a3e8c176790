"""Every kind of benchmark: its config, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pydantic

from alignray.evals import alpaca_eval, arena_hard, choice, code, followbench, ifeval, math, mt_bench, vicuna
from alignray.evals.benchmark import Benchmark, BenchmarkConfig

AnyBenchmark = Annotated[
    followbench.FollowBenchConfig | ifeval.IFEvalConfig | mt_bench.MTBenchConfig | alpaca_eval.AlpacaEvalConfig
    | arena_hard.ArenaHardConfig | vicuna.VicunaConfig | choice.ChoiceConfig | math.MathConfig | code.HumanEvalConfig,
    pydantic.Field(discriminator="kind"),
]
_MAKERS: dict[type[BenchmarkConfig], Callable[[Any, str | None], Benchmark]] = {
    followbench.FollowBenchConfig: followbench.benchmark, ifeval.IFEvalConfig: ifeval.benchmark,
    mt_bench.MTBenchConfig: mt_bench.benchmark, alpaca_eval.AlpacaEvalConfig: alpaca_eval.benchmark,
    arena_hard.ArenaHardConfig: arena_hard.benchmark, vicuna.VicunaConfig: vicuna.benchmark,
    choice.ChoiceConfig: choice.benchmark, math.MathConfig: math.benchmark, code.HumanEvalConfig: code.benchmark,
}
PROMPT_FOLDERS = {"humaneval": "code"}
"""Folder of a kind's prompts, where it is not named like the kind."""


def build_benchmark(config: BenchmarkConfig, prompts_dir: str | None = None) -> Benchmark:
    """The benchmark that a config describes; ``prompts_dir`` shadows the judges' prompts."""
    return _MAKERS[type(config)](config, prompts_dir)
