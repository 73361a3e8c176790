"""A budget that cannot be passed: reserved before a call is sent, settled after."""

from __future__ import annotations

from typing import Literal

import pydantic

from alignray.config import Config
from alignray.engine.prices import Price
from alignray.schema import ChatRequest
from alignray.schema.tokens import bound_tokens

TEMPLATE_TOKENS = 16
"""Tokens that a chat template may add around one message."""


class BudgetConfig(Config):
    """Caps of a run; a run that reaches one parks and exits 3, and goes on when run again with a higher cap."""

    usd: float | None = pydantic.Field(default=None, ge=0)
    """US dollars at the prices of the engines."""
    tokens: int | None = pydantic.Field(default=None, ge=0)
    """Prompt and completion tokens together."""

    @property
    def is_set(self) -> bool:
        """Whether there is anything to hold."""
        return self.usd is not None or self.tokens is not None


def worst_case(request: ChatRequest, price: Price) -> tuple[float, int]:
    """Most that a request can cost: (dollars, tokens). A prompt never has more tokens than UTF-8 bytes plus the template."""
    assert request.max_new_tokens is not None, "sampling is filled in before a call is priced"
    prompt = sum(bound_tokens(message.content) + TEMPLATE_TOKENS for message in request.messages) + TEMPLATE_TOKENS
    return price.usd(prompt, request.max_new_tokens), prompt + request.max_new_tokens


class Budget:
    """Money and tokens spent and reserved. Pure accounting; who waits and who stops is the caller's affair."""

    def __init__(self, config: BudgetConfig, *, spent_usd: float = 0.0, spent_tokens: int = 0) -> None:
        self.config = config
        self.spent_usd, self.spent_tokens = spent_usd, spent_tokens
        self.reserved: dict[str, tuple[float, int]] = {}
        self._reserved_usd, self._reserved_tokens = 0.0, 0

    def reserve(self, key: str, usd: float, tokens: int) -> Literal["granted", "wait", "refused"]:
        """Set money aside. "wait": it may fit once others settle; "refused": nothing is out and it does not fit."""
        if key in self.reserved:
            self.lose(key)
        fits_usd = self.config.usd is None or self.spent_usd + self._reserved_usd + usd <= self.config.usd
        fits_tokens = self.config.tokens is None or self.spent_tokens + self._reserved_tokens + tokens <= self.config.tokens
        if fits_usd and fits_tokens:
            self.reserved[key] = (usd, tokens)
            self._reserved_usd += usd
            self._reserved_tokens += tokens
            return "granted"
        return "wait" if self.reserved else "refused"

    def settle(self, key: str, usd: float, tokens: int) -> None:
        """Replace a reservation with what the call really cost."""
        reserved_usd, reserved_tokens = self.reserved.pop(key, (0.0, 0))
        # nothing out is exactly 0: rounding must not add up to a cap that moves
        self._reserved_usd = self._reserved_usd - reserved_usd if self.reserved else 0.0
        self._reserved_tokens -= reserved_tokens
        self.spent_usd += usd
        self.spent_tokens += tokens

    def lose(self, key: str) -> None:
        """A call that may have been billed and never came back counts at its worst case."""
        if key in self.reserved:
            self.settle(key, *self.reserved[key])
