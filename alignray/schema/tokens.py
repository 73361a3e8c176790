"""Token counts that need no tokenizer: an estimate for planning and truncation, a bound for budgets; never billing."""

from __future__ import annotations

CHARACTERS_PER_TOKEN = 4.3
"""English prose under the byte-pair vocabularies of 50k to 200k entries in use."""


def estimate_tokens(text: str) -> int:
    """Estimated subword tokens: 4.3 ASCII characters each, one per wide (CJK) character; English prose within 15 %."""
    if text.isascii():
        return -(-len(text) * 10 // 43)
    num_wide = min(len(text), int((len(text.encode("utf-8", "surrogatepass")) - len(text)) / 1.8) + 1)
    return int((len(text) - num_wide) / CHARACTERS_PER_TOKEN + num_wide) + 1


def bound_tokens(text: str) -> int:
    """Upper bound: a byte-level vocabulary never makes more tokens than there are UTF-8 bytes."""
    return len(text.encode("utf-8", "surrogatepass"))
