"""What dataset cards are made of: front matter, defused text, tables. YAML front matter, then Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from alignray.report.page import STATUS, number
from alignray.report.run_folder import RunFolder

_SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"),
)


def front_matter(run: RunFolder, **fields: Any) -> str:
    """The YAML block that the Hub and ``datasets`` read, in the order given."""
    front = {"pretty_name": " ".join(run.name.split())[:200], **fields}
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def size_category(rows: float) -> str:
    """The Hub's name for so many rows."""
    return next((name for limit, name in _SIZES if rows < limit), "n>1B")


def status_note(run: RunFolder) -> str:
    """A warning where the run is not done, else nothing."""
    status = str(run.manifest.get("status", "unknown"))
    if status == "done":
        return ""
    return f"**The run's status is: {escape_markdown(STATUS.get(status, status))}.** The counts below may still change."


def escape_markdown(text: str, limit: int = 300) -> str:
    """``text`` on one line with nothing left that Markdown or HTML would act on."""
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if len(flat) > limit:
        flat = f"{flat[:limit]}..."
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # a backslash stops the punctuation; breaking "://" keeps bare addresses from becoming links
    flat = re.sub(r"([\\`*_{}\[\]()#!|~$^])", r"\\\1", flat)
    return flat.replace("://", ":&#8203;//").replace("www.", "www&#8203;.").replace("@", "&#64;")


def funnel_table(run: RunFolder) -> str:
    """What each stage took, kept and lost; empty without a funnel."""
    stages = [stage for stage in run.manifest.get("funnel") or () if isinstance(stage, Mapping)]
    if not stages:
        return ""
    return table("## From records to rows", ("stage", "in", "kept", "lost, by reason"), [
        (escape_markdown(str(stage.get("stage"))), number(stage.get("in")), number(stage.get("kept")),
         listed(stage.get("rejected") or {}) or "none")
        for stage in stages
    ])


def listed(counts: Mapping[str, int]) -> str:
    """Names with their counts, most first."""
    return ", ".join(f"{escape_markdown(str(name))} {number(count)}" for name, count in by_count(counts))


def by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, most first, then by name."""
    return sorted(counts.items(), key=lambda item: (-(item[1] or 0), item[0]))


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table under an optional heading; cells are Markdown already."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(([title, ""] if title else []) + lines)
