"""What goes to a model and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Message:
    """One turn of a chat; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """A finished chat, user and assistant turns in order."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model. Sampling that is not set here comes from the role's config."""

    messages: tuple[Message, ...]
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json_schema: str | None = None
    """JSON schema text that the answer must follow, where the engine can guide it."""


@dataclass(frozen=True)
class Completion:
    """One answer of a model."""

    text: str
    finish_reason: Literal["stop", "length", "content_filter", "unknown"] = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    latency_s: float = 0.0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Rejected:
    """A record that left the run, and why. ``step`` and ``reason`` come from the slashed vocabulary of metrics."""

    row_id: str
    step: str
    """Where: "ingest", "webr/persona", "webr/dedup" ..."""
    reason: str
    """Why, bounded cardinality: "not_html", "refusal", "near_duplicate" ..."""
    raw: str = ""
    """The text that was turned down, cut at RAW_LIMIT characters."""
    detail: str = ""
    """Evidence as JSON: file, offset, header, the id it duplicates ..."""

    RAW_LIMIT = 4000
