"""Switches of FollowBench."""

from __future__ import annotations

from typing import Literal, Self

import pydantic

from alignray.config import Config
from alignray.evals.benchmark import BenchmarkConfig

CATEGORIES = ("content", "situation", "style", "format", "example", "mixed")
"""Kinds of constraints, one official file each, in the thesis' order."""
Unreadable = Literal["excluded", "unsatisfied"]


class JudgeConfig(Config):
    """How answers are put to the judge that no program can check. Source: thesis 7.2 and 7.4.1."""

    prompt: Literal["multi_level", "endpoints", "final_only"] = "multi_level"
    """multi_level: the initial instruction and that of every level up to the item's; endpoints: without the levels between (no
    evolution path); final_only: the item's own instruction alone, so that the judge has to find its constraints by itself."""
    form: Literal["json", "list"] = "json"
    """What the verdicts are asked for in: json, guided by a schema where the engine can; list: the authors' list of YES and NO in the
    last line. Either form is read, whichever is asked for."""
    parser: Literal["strict", "original"] = "strict"
    """original: read as the authors' program reads, such as YES for "not YES" at level 1; what that cannot read stays unreadable."""
    max_new_tokens: int | None = pydantic.Field(default=1024, gt=0)
    temperature: float | None = pydantic.Field(default=0.0, ge=0)


class FollowBenchConfig(BenchmarkConfig):
    """FollowBench, English or Chinese, of the official files or of files in their form. Source: thesis chapter 7."""

    kind: Literal["followbench"] = "followbench"
    content: str | None = None
    """Official content_constraints.json; the fields below likewise. At least one is named."""
    situation: str | None = None
    style: str | None = None
    format: str | None = None
    example: str | None = None
    mixed: str | None = None
    human_labels: str | None = None
    """Rows of category, example_id, level and ``verdicts`` (one 0/1 or true/false per constraint) by humans, to set the judge's
    beside; they are about this candidate's answers."""
    language: Literal["en", "zh"] = "en"
    max_new_tokens: int | None = pydantic.Field(default=None, gt=0)
    """Of an answer; none: what the candidate's config says, 2048 by default."""
    temperature: float | None = pydantic.Field(default=None, ge=0)
    """Of an answer; none: what the candidate's config says, 0 by default."""
    ssr_rules: Literal["original", "per_constraint"] = "original"
    """What a rule-checked item adds to SSR. original: all or nothing, as published figures have it; per_constraint: the share of its
    constraints, where the rule can tell them apart."""
    aggregation: Literal["plain", "level_weighted"] = "plain"
    """Over levels: plain means as in the thesis' tables, or level n with weight n/15 as in the authors' aggregation script."""
    unreadable: Unreadable = "excluded"
    """An item whose verdict stays unreadable: left out and counted, or unsatisfied and counted. A group without all five levels has
    no CSL and no failure consistency; it is left out and counted too."""
    judge: JudgeConfig = JudgeConfig()

    def files(self) -> dict[str, str]:
        named = {name: getattr(self, name) for name in (*CATEGORIES, "human_labels")}
        return {name: path for name, path in named.items() if path is not None}

    @pydantic.model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if not any(getattr(self, name) is not None for name in CATEGORIES):
            raise ValueError(f"FollowBench needs a file; name at least one of {', '.join(CATEGORIES)}")
        return self
