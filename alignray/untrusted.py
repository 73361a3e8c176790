"""Texts of others (pages, model answers, error bodies, file names) made fit to be stored and to be shown; nothing is dropped."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
# C0 but tab and newline, DEL, C1, the marks that turn the direction of writing, halves of surrogate pairs
_ACTS_ON_A_TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def storable(text: str) -> str:
    """The text as UTF-8, Arrow and JSON can hold it: a surrogate without its other half becomes U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(text: str) -> str:
    """The text with everything that a terminal would act on written as ``\\u001b`` and the like; tabs and newlines stay.

    What JSON holds of such characters outside of escapes stands in strings, so JSON stays JSON of the same value.
    """
    return _ACTS_ON_A_TERMINAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
