"""Dollars per token, from the one dated table that ships in the package."""

from __future__ import annotations

from functools import cache
from importlib import resources

import pydantic
import yaml

from alignray.config import Config


class Price(Config):
    """Price of a model in US dollars per million tokens."""

    prompt: float = pydantic.Field(ge=0)
    """Tokens sent."""
    completion: float = pydantic.Field(ge=0)
    """Tokens generated."""

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars of a call."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Price(prompt=0.0, completion=0.0)


@cache
def price_table() -> tuple[str, dict[str, Price]]:
    """The table's date and its prices by model name."""
    data = yaml.safe_load(resources.files("alignray.engine").joinpath("prices.yaml").read_text())
    return str(data["date"]), {name: Price(**price) for name, price in data["models"].items()}
