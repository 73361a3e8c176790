"""WebR's records: a page, a page on its way through the prompt steps, a finished row."""

from __future__ import annotations

from dataclasses import dataclass

from alignray.schema.chat import Message


@dataclass(frozen=True)
class WebDocument:
    """Readable text of one web page and where it came from."""

    row_id: str
    text: str
    source: str = ""
    """Name of the source in the config, for mixing and for counts."""
    url: str = ""
    file: str = ""
    """Input file as the user named it (path or URL)."""
    offset: int = -1
    """Byte offset of the WARC record in the file as stored (of the gzip member when compressed); line or row number
    for JSONL and Parquet."""
    record_id: str = ""
    digest: str = ""
    date: str = ""
    language: str = ""
    num_tokens: int = 0
    """Estimated tokens of ``text`` (``io.estimate_tokens``)."""
    truncated: bool = False
    """True where ``text`` was cut to the token budget at a paragraph border."""
    extractor: str = ""
    optout: str = ""
    """Opt-out signals seen, as JSON; empty when there were none."""


@dataclass(frozen=True)
class WebRDraft:
    """A page with its branch and what the model has said so far."""

    row_id: str
    document: WebDocument
    branch: str
    """"instruction" (Web-as-Instruction, WI) or "response" (Web-as-Response, WR)."""
    part: bool
    """True where the request is about a specific part of the page, False for the whole page."""
    text: str
    """The text the prompts see: the document, or its leading sections."""
    word: str
    """How the prompt calls the thing to write: request, question or instruction."""
    max_words: int
    persona: str = ""
    instruction: str = ""
    rollout: str = ""
    response: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class InstructionRow:
    """One row of the finished dataset, with its provenance."""

    row_id: str
    messages: tuple[Message, ...]
    branch: str
    part: bool
    layout: str
    """Order inside the user turn: "doc_first", "request_first", or "request_only" (WR)."""
    persona: str
    instruction: str
    source: str
    url: str
    file: str
    offset: int
    record_id: str
    digest: str
    date: str
    language: str
    optout: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    cluster_size: int = 1
    """Near-duplicates that this row stands for, itself included."""
