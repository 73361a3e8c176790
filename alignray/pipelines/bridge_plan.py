"""A forecast of bridging before anything is spent, and the arithmetic of thesis Table 6.5."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow.parquet as pq

from alignray.io.fetch import open_input
from alignray.io.rows import iter_lines
from alignray.io.sources import Split
from alignray.io.tables import MAX_LINE_BYTES
from alignray.methods.bmc.plan import TABLE_6_5
from alignray.methods.bmc.steps import ANSWER, bridge_steps
from alignray.methods.webr.plan import StepForecast, step_forecast
from alignray.pipelines.bridge_config import BridgeJobConfig
from alignray.pipelines.plan import Plan, forecast, price_of_role, prompt_tokens_of
from alignray.runtime.ask import role_of
from alignray.schema import BridgeDraft, Rejected
from alignray.schema.tokens import estimate_tokens
from alignray.steps import PromptStep


def table_6_5(price: tuple[float, float]) -> list[StepForecast]:
    """The thesis' table at the given dollars per million tokens; at (10, 30) it says 44.21, 228.00 and 876.06 USD."""
    return [
        replace(step, usd=round(step.usd, 2))
        for step in (step_forecast(task, pairs, (prompt, completion), price) for task, (pairs, prompt, completion) in TABLE_6_5.items())
    ]


def plan_bridge(config: BridgeJobConfig, *, pairs: tuple[Sequence[BridgeDraft], int] | None = None) -> Plan:
    """Forecast of a run from a sample of its real input; no model is called.

    An edit is taken to be as long as the answer it edits. Pairs that the editor finds good cost less, and a pair that is
    filtered gives no row, so both figures are upper ones.

    Args:
        pairs: (sample, number of all pairs) where the input has been read already; else some of it is read here.
    """
    sample, (number, low, high), notes = (pairs[0], (pairs[1],) * 3, ()) if pairs else _sample(config)
    chosen = min(config.max_pairs or number, number)
    spread = (low / number, high / number) if number and config.max_pairs is None else (1.0, 1.0)
    roles = {step.name: step.role for step in _steps(config)}

    def price(step: str) -> tuple[float, float]:
        return price_of_role(config.engines, config.roles, roles[step])

    return forecast(
        [_tokens_of(draft, config) for draft in sample], price, (number, low, high), drafts=chosen, rows=chosen, seed=config.seed,
        spread=spread, notes=notes, unit="pairs",
    )


def _steps(config: BridgeJobConfig) -> list[PromptStep[BridgeDraft, BridgeDraft]]:
    return bridge_steps(config.bridge, answers_first=config.input.kind == "questions", prompts_dir=config.prompts.dir)


def _tokens_of(draft: BridgeDraft, config: BridgeJobConfig) -> dict[str, tuple[float, float]]:
    """(prompt, completion) tokens of each step that this pair would take."""
    tokens: dict[str, tuple[float, float]] = {}
    for step in _steps(config):
        request = step.build(draft)
        if request is None:
            continue
        edited = draft.chosen if step.name == ANSWER or config.bridge.variant == "degrade" else draft.rejected
        length = config.plan.completion_tokens.get(step.name, float(estimate_tokens(edited)))
        tokens[step.name] = prompt_tokens_of(request), min(length, role_of(config.roles, step.role).max_new_tokens)
        if step.name == ANSWER:
            draft = replace(draft, rejected="word " * int(tokens[step.name][1] * 0.86))
    return tokens


def _sample(config: BridgeJobConfig) -> tuple[list[BridgeDraft], tuple[int, int, int], tuple[str, ...]]:
    """The first pairs of the files, and how many there are in all, low, high."""
    sample: list[BridgeDraft] = []
    rejected: Counter[str] = Counter()
    num_read, splits = 0, config.input.splits()
    unread: list[Split] = []
    for split in splits:
        if len(sample) >= config.plan.sample_pairs:
            unread.append(split)
            continue
        for item in config.input.drafts(split, Counter()):
            num_read += 1
            if isinstance(item, Rejected):
                rejected[item.reason] += 1
            else:
                sample.append(item)
            if len(sample) >= config.plan.sample_pairs:
                break
        else:
            continue
        unread.append(split)
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejected.most_common())
    notes = (f"rejected in the sample: {reasons}",) if reasons else ()
    if not unread:
        return sample, (len(sample),) * 3, notes
    num_rows = _count_rows(splits, config)
    share = len(sample) / num_read
    margin = 1.645 * math.sqrt(share * (1 - share) / num_read) * num_rows
    estimate = round(num_rows * share)
    return sample, (estimate, max(round(estimate - margin), len(sample)), min(round(estimate + margin), num_rows)), notes


def _count_rows(splits: Sequence[Split], config: BridgeJobConfig) -> int:
    """Rows of all files: of Parquet from the footers, else by counting lines."""
    total, seen = 0, set[str]()
    for split in splits:
        if split.uri in seen:
            continue
        seen.add(split.uri)
        with open_input(split.uri, config.input.fetch) as raw:
            if split.format == "parquet":
                total += pq.ParquetFile(raw).metadata.num_rows
            else:
                total += sum(1 for line in iter_lines(raw, MAX_LINE_BYTES) if not isinstance(line, bytes) or line.strip())
    return total
