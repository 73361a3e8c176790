"""In which language a text is, always with the same answer; the models come with lingua-language-detector (extra "eval").

The official evaluator asks langdetect, which draws random numbers and is not seeded there: near a border its verdict changes
from run to run. lingua's answer is fixed. It does not know three of the benchmark's languages: Kannada and Malayalam have
scripts of their own, and Nepali is told from Hindi and Marathi by its commonest words.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from alignray.errors import ConfigError

if TYPE_CHECKING:
    from lingua import LanguageDetector

_ASKED_FOR = "ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi"
LANGUAGES = frozenset(_ASKED_FOR.split())
"""ISO 639-1 codes that an instruction may ask for: the official list."""
MAX_CHARACTERS = 10_000
"""So much of a text is looked at, as in langdetect."""

_CANDIDATES = (
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja ko lt lv mk mr nb nl pa pl pt ro ru sk sl so sq sv sw "
    "ta te th tl tr uk ur vi zh"
)
"""What langdetect knows and lingua too."""
_SHORT_CANDIDATES = "de en es fi fr it nl pl pt sw vi"
"""The benchmark's languages in Latin letters, and Dutch: short texts need models of many times the size, for each language."""
_SHORT = 120
"""Letters from which on lingua's small models are all it uses."""
_LATIN_ONLY = re.compile(r"[A-Za-z\u00aa-\u024f\u1e00-\u1eff\W\d_]*")
_ADDRESSES = re.compile(r"(?:https?://|www\.)\S{1,2000}|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]{1,64}")
_OWN_SCRIPTS = {"kn": re.compile("[\u0c80-\u0cff]+"), "ml": re.compile("[\u0d00-\u0d7f]+")}
_DEVANAGARI = re.compile("[\u0900-\u0963\u0970-\u097f]+")
_WORDS_BY_LANGUAGE = {
    "ne": "छ छन् छैन हुन् हुन्छ हुन्छन् थियो थिए गर्न गर्छ गर्दछ गरेको भएको भने पनि लागि तपाईं हामी हाम्रो मेरो यो म हो र",
    "hi": "है हैं था थे थी हो के की का में और से को पर यह वह ने भी लिए कि एक नहीं आप हम",
    "mr": "आहे आहेत होते होता होती आणि हे ही हा तो ते एक नाही आपण आम्ही करा साठी किंवा या व",
}
_COMMON_WORDS = {code: frozenset(words.split()) for code, words in _WORDS_BY_LANGUAGE.items()}
_COMMON_ENDINGS = {
    "ne": ("बाट", "लाई", "हरू", "हरु", "हरूको", "नुहोस्", "नुभयो", "को", "मा"), "hi": ("ियों", "ाओं"), "mr": ("च्या", "मध्ये", "साठी", "ांना", "ातील"),
}
"""Of Nepali, and of the two languages in the same letters that lingua knows; an ending counts on longer words only."""


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of the text's language; None where nothing in it tells (digits, signs, nothing).

    Raises:
        ConfigError: lingua is not installed.
    """
    return _language_of(text[:MAX_CHARACTERS])


@lru_cache(maxsize=16)  # the strict check and the loose one ask for the same text
def _language_of(text: str) -> str | None:
    text = _ADDRESSES.sub(" ", text)
    num_letters = sum(map(str.isalpha, text))
    if not num_letters:
        return None
    own = None if text.isascii() else _own_script(text, num_letters) or ("ne" if _is_nepali(text, num_letters) else None)
    if own is not None:
        return own
    short = num_letters < _SHORT and _LATIN_ONLY.fullmatch(text) is not None
    language = _detector(short=short).detect_language_of(text)
    return None if language is None else language.iso_code_639_1.name.lower()


def _own_script(text: str, num_letters: int) -> str | None:
    for code, script in _OWN_SCRIPTS.items():
        if 2 * sum(len(found[0]) for found in script.finditer(text)) > num_letters:
            return code
    return None


def _is_nepali(text: str, num_letters: int) -> bool:
    words = _DEVANAGARI.findall(text)
    if 2 * sum(sum(map(str.isalpha, word)) for word in words) <= num_letters:
        return False
    nepali, hindi, marathi = (
        sum(word in _COMMON_WORDS[code] or (len(word) > 3 and word.endswith(_COMMON_ENDINGS[code])) for word in words)
        for code in ("ne", "hi", "mr")
    )
    return nepali > max(hindi, marathi)


def need_language_models() -> None:
    """Nothing, where lingua is installed; no model is loaded yet.

    Raises:
        ConfigError: it is not.
    """
    try:
        import lingua  # noqa: F401
    except ImportError as err:
        raise ConfigError("the language check of IFEval needs lingua-language-detector; pip install 'alignray[eval]'") from err


@cache
def _detector(*, short: bool) -> LanguageDetector:
    need_language_models()
    from lingua import Language, LanguageDetectorBuilder

    codes = (_SHORT_CANDIDATES if short else _CANDIDATES).split()
    known = sorted(Language.all(), key=lambda language: language.name)
    languages = [language for language in known if language.iso_code_639_1.name.lower() in codes]
    builder = LanguageDetectorBuilder.from_languages(*languages)
    return builder.build() if short else builder.with_low_accuracy_mode().build()
