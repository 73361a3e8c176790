"""A forecast before anything is spent: rows, calls, tokens and dollars, with an interval."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from alignray.engine import price_of
from alignray.io.fetch import open_input
from alignray.io.frames import Damage, decoded
from alignray.io.records import read_split
from alignray.io.rows import Columns, Row, iter_json
from alignray.io.sources import Split, list_splits
from alignray.methods import webr
from alignray.methods.webr.plan import StepForecast, completion_mean, step_forecast, total
from alignray.methods.webr.quota import branch_shares, quotas
from alignray.pipelines.webr_config import WebRJobConfig
from alignray.runtime.ask import RoleConfig, role_of
from alignray.schema import ChatRequest, WebDocument, WebRDraft
from alignray.schema.tokens import estimate_tokens
from alignray.seeding import rng_for

BOOTSTRAP = 400
COMPLETION_SPREAD = 0.25
"""Half-width of what completion lengths may differ from the figures assumed, relative."""
TEMPLATE_TOKENS = 12
UNPACKED = 16 << 20
"""Bytes unpacked beyond the sample, so that what a decoder reads ahead does not matter."""


@dataclass(frozen=True)
class Plan:
    """A forecast. The interval is 90 %: pages resampled, completion lengths 25 % off either way."""

    pages: int
    pages_low: int
    pages_high: int
    drafts: int
    rows: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    low_usd: float
    high_usd: float
    steps: dict[str, StepForecast]
    sampled_pages: int
    notes: tuple[str, ...] = ()
    unit: str = "pages"
    """What the counts called pages count: pages or pairs."""


def plan_webr(config: WebRJobConfig, *, pages: tuple[list[WebDocument], int] | None = None) -> Plan:
    """Forecast of a run from a sample of its real input; no model is called.

    Args:
        pages: (sample, number of all pages) where the input has been read already; else some of it is read here.
    """
    sample, (num_pages, low, high), notes = (pages[0], (pages[1],) * 3, ()) if pages else sample_input(config)
    drafts = num_pages
    if config.num_rows is not None:
        wanted = quotas(config.num_rows, branch_shares(config.webr))
        drafts = min(num_pages, sum(math.ceil(count * config.oversample) for count in wanted.values()))
    per_page = [_tokens_of(document, config) for document in sample]
    spread = (low / num_pages, high / num_pages) if num_pages and config.num_rows is None else (1.0, 1.0)

    def price(step: str) -> tuple[float, float]:
        return price_of_role(config.engines, config.roles, name_to_role(step, config))

    return forecast(
        per_page, price, (num_pages, low, high), drafts=drafts, rows=min(config.num_rows or drafts, drafts), seed=config.seed,
        spread=spread, notes=notes,
    )


def price_of_role(engines: Mapping[str, Any], roles: Mapping[str, RoleConfig], role: str) -> tuple[float, float]:
    """Dollars per million prompt and completion tokens of the engine behind a role."""
    price = price_of(engines[role_of(roles, role).engine])
    return price.prompt, price.completion


def forecast(
    per_item: Sequence[dict[str, tuple[float, float]]], price: Callable[[str], tuple[float, float]], items: tuple[int, int, int], *,
    drafts: int, rows: int, seed: int, spread: tuple[float, float] = (1.0, 1.0), notes: tuple[str, ...] = (), unit: str = "pages",
) -> Plan:
    """The plan of a run whose records are like the sampled ones.

    Args:
        per_item: of each sampled record, (prompt, completion) tokens by step.
        price: of a step, in dollars per million prompt and completion tokens.
        items: how many records there are, and the bounds of that.
        drafts: how many of them walk the chain.
        spread: what the bounds of ``items`` do to the cost.
    """
    calls, prompts, completions = _means(per_item)
    prices = {name: price(name) for name in calls}
    steps = {
        name: step_forecast(name, round(drafts * share), (prompts[name] / share, completions[name] / share), prices[name])
        for name, share in calls.items()
    }
    spent = [
        sum(item[name][0] * inp + item[name][1] * out for name, (inp, out) in prices.items() if name in item) / 1e6 for item in per_item
    ]
    below, above = _interval(spent, drafts, seed)
    return Plan(
        pages=items[0], pages_low=items[1], pages_high=items[2], drafts=drafts, rows=rows,
        calls=sum(step.calls for step in steps.values()),
        prompt_tokens=sum(step.prompt_tokens for step in steps.values()),
        completion_tokens=sum(step.completion_tokens for step in steps.values()),
        usd=total(list(steps.values())), low_usd=below * (1 - COMPLETION_SPREAD) * spread[0],
        high_usd=above * (1 + COMPLETION_SPREAD) * spread[1], steps=steps, sampled_pages=len(per_item), notes=notes, unit=unit,
    )


def name_to_role(step: str, config: WebRJobConfig) -> str:
    """Role that a step of the chain asks."""
    return next(one.role for one in webr.webr_steps(config.webr, seed=config.seed, prompts_dir=config.prompts.dir) if one.name == step)


def _tokens_of(document: WebDocument, config: WebRJobConfig) -> dict[str, tuple[float, float]]:
    """(prompt, completion) tokens of each step that this page would take."""
    draft = webr.assign_branch(document, config.webr, seed=config.seed)
    tokens: dict[str, tuple[float, float]] = {}
    for step in webr.webr_steps(config.webr, seed=config.seed, prompts_dir=config.prompts.dir):
        request = step.build(draft)
        if request is None:
            continue
        role = role_of(config.roles, step.role)
        completion = completion_mean(step.name, config.plan.completion_tokens, request.max_new_tokens or role.max_new_tokens)
        tokens[step.name] = prompt_tokens_of(request), completion
        draft = _assumed(draft, step.name, completion)
    return tokens


def prompt_tokens_of(request: ChatRequest) -> float:
    """Estimated tokens of a request, the chat template's included."""
    return sum(estimate_tokens(message.content) + TEMPLATE_TOKENS for message in request.messages)


def _assumed(draft: WebRDraft, step: str, completion: float) -> WebRDraft:
    """The draft as if the step had been answered with as many tokens as assumed."""
    text = "word " * int(completion * 0.86)
    if step == "webr/response" and draft.branch == "response":
        return dataclasses.replace(draft, rollout=text)
    fields: dict[str, Any] = {step.partition("/")[2].replace("refine", "response"): text}
    return dataclasses.replace(draft, **fields)


def _means(per_page: Sequence[dict[str, tuple[float, float]]]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Per page and step: mean calls, prompt tokens, completion tokens."""
    calls: Counter[str] = Counter()
    prompts: dict[str, float] = {}
    completions: dict[str, float] = {}
    for page in per_page:
        for name, (prompt, completion) in page.items():
            calls[name] += 1
            prompts[name] = prompts.get(name, 0.0) + prompt
            completions[name] = completions.get(name, 0.0) + completion
    number = max(len(per_page), 1)
    return (
        {name: count / number for name, count in calls.items()},
        {name: tokens / number for name, tokens in prompts.items()},
        {name: tokens / number for name, tokens in completions.items()},
    )


def _interval(spent: Sequence[float], drafts: int, seed: int) -> tuple[float, float]:
    """90 % interval of the run's cost when pages are drawn like the sampled ones."""
    if not spent:
        return 0.0, 0.0
    rng = rng_for(seed, "plan", "bootstrap")
    means = sorted(statistics.fmean(rng.choices(spent, k=len(spent))) for _ in range(BOOTSTRAP))
    return means[int(BOOTSTRAP * 0.05)] * drafts, means[int(BOOTSTRAP * 0.95) - 1] * drafts


def sample_input(config: WebRJobConfig) -> tuple[list[WebDocument], tuple[int, int, int], tuple[str, ...]]:
    """Pages from the heads of some input files, spread over the sources; and how many pages there are, low, high."""
    splits = list_splits(config.ingest)
    rng = rng_for(config.seed, "plan", "splits")
    order = rng.sample(splits, len(splits))
    sample: list[WebDocument] = []
    densities: list[tuple[int, int]] = []
    num_read = 0
    rejected: Counter[str] = Counter()
    for split in order:
        if len(sample) >= config.plan.sample_pages:
            break
        pages, read_bytes, is_whole = _head(split, config, config.plan.sample_pages - len(sample), rejected)
        sample += pages
        num_read += is_whole
        densities.append((len(pages), max(read_bytes, 1)))
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejected.most_common())
    notes = (f"rejected in the sample: {reasons}",) if reasons else ()
    found, read = sum(pages for pages, _ in densities), sum(size for _, size in densities)
    size = sum(split.size for split in splits)
    if num_read == len(splits):
        return sample, (found, found, found), notes
    if not size or not read:
        return sample, (found, found, found), ("the size of the input is not known; the plan covers the sampled pages only", *notes)
    estimate = found * size / read
    margin = estimate * 1.645 / math.sqrt(max(found, 1))
    notes = (f"{found} pages found in {read:,} of {size:,} bytes", *notes)
    return sample, (round(estimate), max(round(estimate - margin), found), round(estimate + margin)), notes


def _head(split: Split, config: WebRJobConfig, limit: int, rejected: Counter[str]) -> tuple[list[WebDocument], int, bool]:
    """First pages of a file, the bytes they took, and whether that was all of it."""
    pages: list[WebDocument] = []
    for item in read_split(split, config.ingest, Counter()):
        if isinstance(item, WebDocument):
            pages.append(item)
            if len(pages) >= limit:
                return pages, _bytes_until(item.offset, split, config), False
        else:
            rejected[item.reason] += 1
    return pages, split.size, True


def _bytes_until(offset: int, split: Split, config: WebRJobConfig) -> int:
    """Stored bytes of the split up to a page's ``offset``: a byte in WARC and WET, a line or row number of the file else."""
    if split.format in ("warc", "wet"):
        return offset - split.start if offset > split.start else split.size
    if split.format == "index":
        lengths = itertools.accumulate(span.length for span in split.spans)
        return next((read for span, read in zip(split.spans, lengths, strict=True) if span.offset == offset), split.size)
    with open_input(split.uri, config.ingest.fetch) as raw:
        if split.format == "parquet":
            return max(int(split.num_bytes * offset / max(pq.ParquetFile(raw).metadata.num_rows, offset)) - split.start, 1)
        if split.format == "json":
            num_rows = sum(1 for row in iter_json(raw, Columns("", None, None), max_bytes=split.num_bytes) if isinstance(row, Row))
            return int(split.num_bytes * offset / max(num_rows, offset))
        return _bytes_until_line(raw, offset - split.rows_before, split.start)


def _bytes_until_line(raw: BinaryIO, number: int, start: int) -> int:
    """Stored bytes of the first lines from ``start``; those of a compressed file by their share of what a longer stretch unpacks to."""
    lines = seen = used = 0
    for item in decoded(raw, start=start):
        if isinstance(item, Damage) or (used and seen > used + UNPACKED):
            break
        if not used:
            ends = [found.end() for found in re.finditer(b"\n", item.data)]
            if lines + len(ends) >= number:
                used = seen + ends[number - lines - 1]
            lines += len(ends)
        seen += len(item.data)
    return round((raw.tell() - start) * (used or seen) / max(seen, 1))
