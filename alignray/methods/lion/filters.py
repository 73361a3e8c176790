"""Why a text of the generator is no usable instruction.

Source: the authors' rules for a new instruction; the thesis names none but novelty, which is checked elsewhere.
"""

from __future__ import annotations

import re
import string

from alignray.methods.lion.config import LionConfig

CUT, FILTERED, TOO_SHORT, MARKER_WORD, BAD_START = "cut_at_max_tokens", "content_filter", "too_short", "marker_word", "bad_start"
MIN_WORDS = 4

_ECHO = re.compile(r"\A[\s*_#]{0,8}created instruction[\s*_#]{0,8}:[\s*_]{0,8}", re.IGNORECASE)
# Thai, Lao, Burmese, Khmer, kana and Han are written without blanks between words
_NO_BLANKS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
)
_OPENING = "\u00a1\u00bf"
"""Spanish puts these before the first letter of a sentence."""


def instruction_in(text: str, config: LionConfig) -> str:
    """The generator's text without blanks around it and, where the config says so, without the label that it was to follow."""
    return (_ECHO.sub("", text, count=1) if config.on_echo == "strip" else text).strip()


def why_unusable(text: str, finish_reason: str, config: LionConfig) -> str:
    """The reason, or nothing for a text that is a usable instruction.

    The rules are the authors': not cut off, more than three words, no "instruction" anywhere and in any case, a first character
    that is ASCII and no punctuation. The last one drops every instruction of another script, so the thesis preset takes letters and
    digits of any script instead (``first_character``), and does not need blanks to see words where a script has none.
    """
    if finish_reason == "length":
        return CUT
    if finish_reason == "content_filter":
        return FILTERED
    if num_words(text, config) < MIN_WORDS:
        return TOO_SHORT
    if "instruction" in text.lower():
        return MARKER_WORD
    return "" if _begins_well(text, config) else BAD_START


def num_words(text: str, config: LionConfig) -> int:
    """Words between blanks; with ``first_character: letter`` each character of a script without blanks is one."""
    if config.first_character == "ascii":
        return len(text.split())
    spaced, num_characters = _NO_BLANKS.subn(" ", text)
    return num_characters + sum(any(map(str.isalnum, word)) for word in spaced.split())


def _begins_well(text: str, config: LionConfig) -> bool:
    if config.first_character == "ascii":
        return text[0].isascii() and text[0] not in string.punctuation
    return text.strip().lstrip(_OPENING)[:1].isalnum()
