"""The books of a WebR run, kept from its folder's files: identity, funnel, usage, plan."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignray.io.commits import CommitLog
from alignray.io.journal import add_up
from alignray.io.run_folder import RunFolder
from alignray.io.sources import Split
from alignray.pipelines.plan import plan_webr
from alignray.pipelines.webr_config import WebRJobConfig, identity_of
from alignray.prompts import load_prompt, prompt_names
from alignray.schema import WebDocument, records_of

PAGES, DRAFTS, ROWS, RATINGS = "pages", "drafts", "rows", "ratings"
"""Stages of a run, in order."""
CHAIN = ("webr/persona", "webr/instruction", "webr/response", "webr/refine")


@dataclass(frozen=True)
class DraftPart:
    """A part of the drafts, as a unit of work."""

    id: str


@dataclass(frozen=True)
class Fate:
    """What became of a draft that has near-duplicates."""

    keeper: str
    """Its own id where it stays."""
    cluster_size: int
    reason: str
    """Why it goes, exact_duplicate or near_duplicate; empty where it stays."""


@dataclass(frozen=True)
class Unique:
    """Drafts after near-duplicate removal."""

    ids: Sequence[str]
    fate: dict[str, Fate]
    """Of those that have near-duplicates."""
    stats: dict[str, Any]

    def stays(self, row_id: str) -> bool:
        """Whether a draft is the one kept of its cluster."""
        return row_id not in self.fate or self.fate[row_id].keeper == row_id


def run_identity(config: WebRJobConfig, splits: list[Split]) -> dict[str, Any]:
    """Everything that decides the rows: config, prompt texts, input files."""
    prompts = {name: load_prompt(name, config.prompts.dir).digest for name in prompt_names() if name.startswith("webr/")}
    return {"config": identity_of(config), "prompts": prompts, "inputs": {split.shown: split.num_bytes for split in splits}}


def plan_of(config: WebRJobConfig, folder: RunFolder) -> dict[str, Any]:
    """The forecast from pages that were read, to stand beside the bill."""
    return dataclasses.asdict(plan_webr(config, pages=_sampled_pages(config, folder)))


def _sampled_pages(config: WebRJobConfig, folder: RunFolder) -> tuple[list[WebDocument], int]:
    log = CommitLog(folder.storage)
    num_pages = sum(commit.counts["kept"] for commit in log.read(PAGES))
    sample: list[WebDocument] = []
    for _, table in log.tables(PAGES):
        sample += records_of(WebDocument, table.slice(0, config.plan.sample_pages - len(sample)))
        if len(sample) >= config.plan.sample_pages:
            break
    return sample, num_pages


def reject_reasons(folder: RunFolder, stages: Iterable[str]) -> Counter[str]:
    """Rejects of committed stages by step and reason."""
    counts: Counter[str] = Counter()
    for stage in stages:
        for commit in CommitLog(folder.storage).read(stage):
            counts.update({name.removeprefix("rejected/"): count for name, count in commit.counts.items() if name.startswith("rejected/")})
    return counts


def listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))


def page_counts(folder: RunFolder) -> Counter[str]:
    """Everything that reading the input counted."""
    return stage_counts(folder, PAGES)


def stage_counts(folder: RunFolder, stage: str) -> Counter[str]:
    """Everything that the commits of a stage counted."""
    counts = Counter[str]()
    for commit in CommitLog(folder.storage).read(stage):
        counts.update(commit.counts)
    return counts


def funnel_of(
    folder: RunFolder, *, num_pages: int, num_selected: int, unique: Unique, num_rows: int,
) -> list[dict[str, Any]]:
    """Records to rows: at each stage what came in, what stayed, and what was lost by reason."""
    seen, drafts = stage_counts(folder, PAGES), stage_counts(folder, DRAFTS)
    num_unique = sum(map(unique.stays, unique.ids))
    removed = Counter(unique.fate[row_id].reason for row_id in unique.ids if not unique.stays(row_id))
    # a page that stands in two input files is one page: the second is counted here, its text is in stages/pages
    repeated = seen["kept"] - num_pages
    rows = [
        ("ingest", seen["records"] - seen["not_pages"] + seen["damage"], seen["kept"], by_reason(seen)),
        ("select", seen["kept"], num_selected, {"duplicate_page": repeated, "not_needed": num_pages - num_selected}),
        ("synthesize", num_selected, drafts["kept"],
         {**by_reason(drafts), "not_asked_yet": num_selected - drafts["kept"] - drafts["rejected"]}),
        ("dedup", len(unique.ids), num_unique, dict(sorted(removed.items()))),
        ("quota", num_unique, num_rows, {"over_quota": num_unique - num_rows}),
    ]
    return funnel_rows(rows)


def funnel_rows(stages: Iterable[tuple[str, int, int, Mapping[str, int]]]) -> list[dict[str, Any]]:
    """A manifest's funnel of (stage, in, kept, what was lost by reason)."""
    return [
        {"stage": stage, "in": before, "kept": after, "rejected": {reason: count for reason, count in reasons.items() if count}}
        for stage, before, after, reasons in stages
    ]


def by_reason(counts: Mapping[str, int]) -> dict[str, int]:
    """Rejects by step and reason, from the counts of a stage."""
    return {name.removeprefix("rejected/"): count for name, count in counts.items() if name.startswith("rejected/")}


def usage_of(folder: RunFolder, *, lost_usd: float) -> dict[str, Any]:
    """Calls, tokens and dollars by step, added up from the journal."""
    totals, _ = add_up(folder.storage)
    steps = {
        name: {
            "role": usage.role, "calls": usage.calls, "refused": usage.refused, "shared": usage.shared,
            "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "usd": usage.usd,
            "mean_latency_s": usage.latency_s / max(usage.calls, 1), "models": sorted(usage.models),
        }
        for name, usage in totals.steps.items()
    }
    rank = {name: position for position, name in enumerate(CHAIN)}
    steps = {name: steps[name] for name in sorted(steps, key=lambda name: (rank.get(name, len(CHAIN)), name))}
    return {
        "steps": steps, "calls": totals.calls, "tokens": totals.tokens, "usd": totals.usd,
        "lost_in_flight_usd": lost_usd, "repeated_calls": totals.repeated,
    }
