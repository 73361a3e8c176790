"""A page gets its branch and its draws; an answered draft becomes a row."""

from __future__ import annotations

import re
from collections.abc import Callable

from alignray.methods.webr.config import WebRConfig
from alignray.methods.webr.quota import branch_of
from alignray.schema import InstructionRow, Message, WebDocument, WebRDraft
from alignray.seeding import pick, unit_draw

_HEADING = re.compile(r"^#+")


def leading_sections(text: str, unit: Callable[[str], float]) -> str:
    """With probability 1/2 the first k of n blank-line-separated sections, k uniform in 1..n, else all of them.

    Sections lose leading ``#`` and outer white space; a text of one section is returned untouched.
    P(k) = 1/(2n) for k < n and P(n) = 1/2 + 1/(2n). Source: the authors' ``section`` (spec 1.1, step 2).

    Args:
        text: the page.
        unit: uniform draw in [0, 1) for a purpose.
    """
    sections = text.split("\n\n")
    if len(sections) == 1:
        return text
    sections = [body for section in sections if (body := _HEADING.sub("", section.strip()).strip())]
    if unit("cut") < 0.5:
        sections = sections[: 1 + int(unit("sections") * len(sections))]
    return "\n\n".join(sections)


def assign_branch(document: WebDocument, config: WebRConfig, *, seed: int) -> WebRDraft:
    """The page with everything decided that does not need a model, each by a draw seeded with its row id."""
    row_id = document.row_id
    branch = branch_of(row_id, config, seed=seed)
    words = config.instruction_words if branch == "instruction" else config.query_words
    text = document.text
    if config.section:
        text = leading_sections(text, lambda purpose: unit_draw(seed, row_id, f"webr/{purpose}")) or text
    return WebRDraft(
        row_id=row_id, document=document, branch=branch,
        part=unit_draw(seed, row_id, "webr/part") < config.part_share,
        text=text,
        word=pick(seed, row_id, "webr/word", words),
        max_words=pick(seed, row_id, "webr/max_words", config.max_words),
    )


def layout_of(draft: WebRDraft, config: WebRConfig, *, seed: int) -> str:
    """Order inside the row's user turn."""
    if draft.branch == "response":
        return "request_only"
    if config.layout != "random":
        return config.layout
    return pick(seed, draft.row_id, "webr/layout", ("doc_first", "request_first"))


def user_turn(draft: WebRDraft, layout: str) -> str:
    """User content: request and page in the given order, a blank line between; the request alone for Web-as-Response."""
    if layout == "request_only":
        return draft.instruction
    if layout == "doc_first_wide":
        return f"{draft.text}\n\n\n{draft.instruction}"
    first, second = (draft.text, draft.instruction) if layout == "doc_first" else (draft.instruction, draft.text)
    return f"{first}\n\n{second}"


def to_row_record(draft: WebRDraft, config: WebRConfig, *, seed: int, model: str, cluster_size: int = 1) -> InstructionRow:
    """The finished row of a draft that was kept."""
    document = draft.document
    layout = layout_of(draft, config, seed=seed)
    return InstructionRow(
        row_id=draft.row_id,
        messages=(Message("user", user_turn(draft, layout)), Message("assistant", draft.response)),
        branch=draft.branch, part=draft.part, layout=layout, persona=draft.persona, instruction=draft.instruction,
        source=document.source, url=document.url, file=document.file, offset=document.offset, record_id=document.record_id,
        digest=document.digest, date=document.date, language=document.language, optout=document.optout, model=model,
        prompt_tokens=draft.prompt_tokens, completion_tokens=draft.completion_tokens, cost_usd=draft.cost_usd,
        cluster_size=cluster_size,
    )
