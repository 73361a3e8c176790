"""Walks a judged benchmark in plain Python: real steps and scores around answers that a test writes down."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from alignray.evals.benchmark import Benchmark, Summary
from alignray.schema import ChatRequest, Completion, EvalDraft, Figure, Rejected, Reply, ScoredItem
from alignray.steps import run_chain

Says = Callable[[str, EvalDraft, ChatRequest], str]
"""What a model says to a step's request."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    if not path.is_file():
        pytest.skip(f"{path} is not in the test data")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().split("\n") if line.strip()]


def drafts_of(benchmark: Benchmark, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[EvalDraft]:
    return [found for found in benchmark.read(files) if isinstance(found, EvalDraft)]


def rejects_of(benchmark: Benchmark, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Rejected]:
    return [found for found in benchmark.read(files) if isinstance(found, Rejected)]


def answered(draft: EvalDraft, answers: Mapping[str, str]) -> EvalDraft:
    """The draft with replies that are there already."""
    return dataclasses.replace(draft, replies=tuple(Reply(step, text) for step, text in answers.items()))


def walked(benchmark: Benchmark, draft: EvalDraft, says: Says) -> tuple[ScoredItem, list[tuple[str, ChatRequest]]]:
    """The scored item and everything that was asked."""
    asked: list[tuple[str, ChatRequest]] = []

    def generate(step: Any, record: EvalDraft, request: ChatRequest) -> Completion:
        asked.append((step.name, request))
        return Completion(says(step.name, record, request), prompt_tokens=7, completion_tokens=3, cost_usd=0.5)

    return scored(benchmark, run_chain(draft, benchmark.steps, generate)), asked


def scored(benchmark: Benchmark, draft: EvalDraft) -> ScoredItem:
    return ScoredItem(
        draft.row_id, "model", draft.benchmark, draft.key, draft.group, draft.category, draft.prompt, draft.facts, draft.replies,
        benchmark.score(draft), draft.prompt_tokens, draft.completion_tokens, draft.cost_usd,
    )


def silent(step: str, _draft: EvalDraft, _request: ChatRequest) -> str:
    """A model that must not be asked."""
    raise AssertionError(f"{step} was asked, though the answer is there")


def summary_of(benchmark: Benchmark, drafts: Iterable[EvalDraft], says: Says = silent) -> Summary:
    found = benchmark.summarize([walked(benchmark, draft, says)[0] for draft in drafts])
    orjson.dumps(found.details)  # plain JSON, as the report needs it
    return found


def figure(summary: Summary, metric: str, category: str = "") -> Figure:
    return next(found for found in summary.figures if (found.metric, found.category) == (metric, category))


def score_of(item: ScoredItem, metric: str) -> tuple[float, str]:
    """Value and problem of the first score of a metric."""
    return next((score.value, score.problem) for score in item.scores if score.metric == metric)
