"""WebR's switches. ``preset`` sets them together; each can be set on its own as well."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from alignray.config import Config

# what the authors' code does where the thesis says something else (spec: discrepancy table of WebR)
ORIGINAL: dict[str, Any] = {
    "refusals": "prefix",
    "preamble": "original",
    "generation_layout": "doc_first_wide",
    "rounding": "floor",
    "on_length": "keep",
}


class WebRConfig(Config):
    """How pages become instruction data. Source: thesis 4.2; the authors' code where a switch says "original"."""

    preset: Literal["thesis", "original"] = "thesis"
    """thesis: equations and text; original: compatible with the authors' code. Any other key overrides its preset value."""
    instruction_share: float = pydantic.Field(default=2 / 3, ge=0, le=1)
    """Share of Web-as-Instruction rows; the rest is Web-as-Response. 2:1 in the thesis; 1 and 0 are ablations of Table 4.3."""
    part_share: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of rows whose request is about one part of the page; 0 is the ablation without it."""
    persona: bool = True
    """Ask for the author's persona first; False is an ablation."""
    refine: bool = True
    """Refine Web-as-Response rollouts with the page as reference; False is an ablation."""
    section: bool = True
    """With probability 1/2, show the prompts only the first k sections of the page (the authors' truncation)."""
    instruction_words: tuple[str, ...] = ("request", "instruction")
    """How Web-as-Instruction prompts call the thing to write, drawn per row."""
    query_words: tuple[str, ...] = ("request", "question", "instruction")
    """The same for Web-as-Response."""
    max_words: tuple[int, ...] = (50, 100, 150, 200)
    """Length limits of the request, drawn per row."""
    layout: Literal["random", "doc_first", "request_first"] = "random"
    """Order of page and request in the user turn of Web-as-Instruction rows."""
    generation_layout: Literal["same", "doc_first_wide"] = "same"
    """same: the model answers exactly the user turn of the row; doc_first_wide (original): page, two blank lines, request."""
    refusals: Literal["normalized", "prefix"] = "normalized"
    """normalized: refusals found in requests and responses whatever the apostrophe, case or preamble; prefix (original):
    responses that start with one of two exact strings."""
    preamble: Literal["normalized", "original"] = "normalized"
    """How "Here is the request:" and "Improved answer:" lines are taken off. original can leave an empty text."""
    on_length: Literal["reject", "keep"] = "reject"
    """What becomes of an answer that was cut at max_new_tokens."""
    rounding: Literal["nearest", "floor"] = "nearest"
    """Quota of num_rows: largest remainder (66,667 : 33,333 of 100,000) or floor (66,666 : 33,333, as published)."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        return {**ORIGINAL, **data} if isinstance(data, dict) and data.get("preset") == "original" else data

    @pydantic.model_validator(mode="after")
    def _choices_are_there(self) -> WebRConfig:
        for name in ("instruction_words", "query_words", "max_words"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one choice")
        return self
