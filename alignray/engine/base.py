"""What every engine is: text in, text out, one request at a time, many at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import pydantic

from alignray.config import Config
from alignray.schema import ChatRequest, Completion


class Sampling(Config):
    """How a role samples; a request may override each part."""

    temperature: float = pydantic.Field(default=0.7, ge=0)
    """0 is greedy. Thesis 4.3.1: 0.7 for GPT-4o-mini, 0.6 for Llama-3."""
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Nucleus mass."""
    max_new_tokens: int = pydantic.Field(default=1024, ge=1)
    """Cap on generated tokens per call; the budget reserves this many."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer."""


Admit = Callable[[], Awaitable[None]]
"""Asks the budget for one more sending of the same request."""


class Engine(Protocol):
    """One model behind one door. Requests come with every sampling field filled in."""

    @property
    def max_records(self) -> int:
        """Records worth having under way at once; each has one request open, or is between two of its steps."""

    async def start(self) -> None:
        """Load or connect. Raises EngineDown, with the command that mends it, when that cannot work."""

    async def generate(self, request: ChatRequest, admit: Admit | None = None) -> Completion:
        """Answer one request.

        ``admit`` is awaited before a request is sent again after an attempt that may have been billed (a timeout, a cut
        connection, an unusable answer); it may raise, and the request is then not sent again.

        Raises:
            CallRefused: this request can never work; ``args`` are (reason, message), reason of bounded cardinality.
            EngineDown: nothing works any more; the run should stop, resumable.
        """

    async def close(self) -> None:
        """Let go of processes, connections and memory."""
