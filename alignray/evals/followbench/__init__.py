"""FollowBench: does a model still follow when one constraint after another is added? (arXiv:2310.20410, thesis chapter 7)

Six kinds of constraints, five levels each. What a program can check is checked by rule, the rest put to a judge along the path of
instructions; then rates by level, and the number of levels satisfied without a gap.
"""

from __future__ import annotations

from functools import partial

from alignray.evals.benchmark import Benchmark, answer_step
from alignray.evals.followbench.config import FollowBenchConfig, JudgeConfig
from alignray.evals.followbench.figures import score_item, summarize
from alignray.evals.followbench.items import NAME, read_items
from alignray.evals.followbench.judge import ANSWER, judge_steps
from alignray.evals.followbench.rules import check_rule

__all__ = ["FollowBenchConfig", "JudgeConfig", "benchmark", "check_rule"]


def benchmark(config: FollowBenchConfig, prompts_dir: str | None = None) -> Benchmark:
    """FollowBench as plain functions.

    Code tasks are judged like the others (the thesis runs them, the published program does not).
    """
    answer = answer_step(ANSWER, max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    return Benchmark(
        name=NAME, read=partial(read_items, config=config), steps=(answer, *judge_steps(config.judge, prompts_dir)),
        score=partial(score_item, config=config), summarize=partial(summarize, config=config),
    )
