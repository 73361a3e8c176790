"""Switches of the bridging step."""

from __future__ import annotations

from typing import Literal

import pydantic

from alignray.config import Config


class BridgeConfig(Config):
    """How a pair's answers are brought close to each other. Source: thesis 6.2.1; the authors published no code for it."""

    task: Literal["qa", "math", "instruction"]
    """qa, math: answers are right or wrong, and the editor says [[GOOD]] to a losing one that is right, which filters the pair;
    instruction: answers are better or worse."""
    variant: Literal["bridge", "no_reference", "degrade", "plain"] = "bridge"
    """Rows of Table 6.3. bridge: the losing answer edited with the winning one as reference; no_reference: without it; degrade: the
    winning answer edited towards the losing one, which it replaces; plain: the pairs as they are, nothing is asked of the editor."""
    on_length: Literal["reject", "keep"] = "reject"
    """What becomes of an answer that was cut at max_new_tokens."""
    on_copy: Literal["keep", "reject"] = "keep"
    """What becomes of an edit that is the reference itself; kept ones are flagged in copies_reference."""
    max_edit_rate: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Edits that change more than this share of the answer are rejected as rewritten; 1: none is."""
    unit: Literal["word", "character"] = "word"
    """What edit rates count; character for languages that are written without spaces."""
