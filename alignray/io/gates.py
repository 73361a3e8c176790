"""The cheap gates: language, length, and the cut to a token budget."""

from __future__ import annotations

import re
from typing import NamedTuple

import pydantic
from resiliparse.parse.lang import detect_fast, supported_langs

from alignray.config import Config
from alignray.io.reasons import PageError
from alignray.schema.tokens import CHARACTERS_PER_TOKEN, estimate_tokens

LANGUAGE_SAMPLE = 6000
"""Characters from the beginning of a text that the language is told by."""
SENTENCE_END = re.compile(r"[.!?]['\")\]]?(?=\s)|[。！？]")
ISO_639_3 = {
    "afr": "af", "ara": "ar", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs", "cym": "cy", "dan": "da", "deu": "de",
    "ell": "el", "eng": "en", "epo": "eo", "est": "et", "eus": "eu", "fas": "fa", "fin": "fi", "fra": "fr", "gle": "ga",
    "glg": "gl", "guj": "gu", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ind": "id", "isl": "is",
    "ita": "it", "jpn": "ja", "kan": "kn", "kat": "ka", "kaz": "kk", "khm": "km", "kor": "ko", "lat": "la", "lav": "lv",
    "lit": "lt", "mal": "ml", "mar": "mr", "mkd": "mk", "mlt": "mt", "mon": "mn", "mya": "my", "nep": "ne", "nld": "nl",
    "nno": "no", "nor": "no", "pan": "pa", "pol": "pl", "por": "pt", "pus": "ps", "ron": "ro", "rus": "ru", "sin": "si",
    "slk": "sk", "slv": "sl", "som": "so", "spa": "es", "sqi": "sq", "srp": "sr", "swa": "sw", "swe": "sv", "tam": "ta",
    "tat": "tt", "tel": "te", "tgk": "tg", "tgl": "tl", "tha": "th", "tur": "tr", "uig": "ug", "ukr": "uk", "urd": "ur",
    "uzb": "uz", "vie": "vi", "yid": "yi", "zho": "zh",
}
"""Codes as WET files give them, to codes as we do."""


class GatesConfig(Config):
    """Which texts come in."""

    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes that pass; empty: any."""
    max_language_rank: int = pydantic.Field(1200, ge=1, le=4000)
    """The detector's distance to the nearest language, at most. Lower is surer: prose has 150 to 400, lists, code and
    formulas up to 900; beyond 1200 it is noise. Not a probability."""
    language_margin: int = pydantic.Field(25, ge=0)
    """A listed language also passes when its distance is at most this much beyond the nearest one's. Pages of names,
    menus or formulas have no clear language: the detector calls English ones Latin, Finnish ..."""
    min_chars: int = pydantic.Field(200, ge=1)
    """Shorter texts are rejected. Under about 150 characters the language is a guess."""
    max_chars: int = pydantic.Field(1_000_000, ge=1)
    """Longer texts are rejected."""
    max_tokens: int | None = pydantic.Field(3072, ge=1)
    """Texts are cut to this many estimated tokens, at a paragraph border where one is near; None keeps them whole."""

    @pydantic.field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(languages) - set(supported_langs())):
            raise ValueError(f"unknown language(s) {', '.join(unknown)}; known are {' '.join(supported_langs())}")
        return languages


class Gated(NamedTuple):
    """A text that came through."""

    text: str
    language: str
    num_tokens: int
    truncated: bool


def gate(text: str, config: GatesConfig, *, declared_languages: str = "") -> Gated:
    """The text with its language, cut to the budget.

    Args:
        declared_languages: ISO 639-3 codes, main one first, where the archive tells them (WET); else they are detected.

    Raises:
        PageError: no_text, too_short, too_long, language.
    """
    text = text.replace("\0", "").strip()
    if not text:
        raise PageError("no_text")
    if len(text) < config.min_chars:
        raise PageError("too_short", f"{len(text)} characters")
    if len(text) > config.max_chars:
        raise PageError("too_long", f"{len(text)} characters")
    if declared_languages:
        code = declared_languages.split(",")[0].strip().lower()
        language = ISO_639_3.get(code, code)
        if config.languages and language not in config.languages:
            raise PageError("language", language)
    else:
        language = _language(text[:LANGUAGE_SAMPLE], config)
    num_tokens = estimate_tokens(text)
    if config.max_tokens is None or num_tokens <= config.max_tokens:
        return Gated(text, language, num_tokens, False)
    text = truncate(text, config.max_tokens)
    return Gated(text, language, estimate_tokens(text), True)


def _language(sample: str, config: GatesConfig) -> str:
    language, rank = detect_fast(sample, cutoff=config.max_language_rank)
    if not config.languages or language in config.languages:
        return language
    if language != "unknown":
        listed, listed_rank = detect_fast(sample, cutoff=config.max_language_rank, langs=config.languages)
        if listed != "unknown" and listed_rank <= rank + config.language_margin:
            return listed
    raise PageError("language", f"{language} ({rank})")


def truncate(text: str, max_tokens: int) -> str:
    """The longest beginning of at most ``max_tokens`` estimated tokens that ends at a border.

    A paragraph border if at least half of the budget stays, else a line, a sentence, a word border; else anywhere.
    """
    low, high = 0, min(len(text), int(max_tokens * CHARACTERS_PER_TOKEN) + 1)
    if high == len(text) and estimate_tokens(text) <= max_tokens:
        return text
    while low < high:  # estimates never fall as a text grows
        middle = (low + high + 1) // 2
        low, high = (middle, high) if estimate_tokens(text[:middle]) <= max_tokens else (low, middle - 1)
    window, following = text[:low], text[low : low + 2]
    for border in ("\n\n", "\n"):
        end = low if following.startswith(border) else window.rfind(border)
        if end * 2 >= low and window[:end].strip():
            return window[:end].rstrip()
    ends = [found.end() for found in SENTENCE_END.finditer(text, low // 2, low + 1) if found.end() <= low]
    if ends:
        return window[: ends[-1]].rstrip()
    end = low if following[:1].isspace() else max(window.rfind(" "), window.rfind("\t"))
    return (window[:end].rstrip() if end * 2 >= low else "") or window
