"""Reading what the model wrote: preambles taken off, refusals told from answers."""

from __future__ import annotations

import re

_PREFIXES = ("I'm sorry", "I apologize")

# refusals after normalising apostrophes, case and white space; matched at the start of a text, a short preamble allowed
_REFUSAL = re.compile(
    r"^(?:(?:oh|well|hello|hi|unfortunately|regrettably|sorry)[,.!:;]? )*"
    r"(?:"
    r"(?:i'm|i am|im) (?:(?:really|very|so|truly) )?sorry"
    r"|i apologi[sz]e|(?:my )?apologies|please accept my apolog"
    r"|sorry,? (?:but )?(?:i|we|as an ai|that)\b"
    r"|(?:but )?i (?:cannot|can't|can not|won't|will not|am unable to|'m unable to|am not able to|must decline|refuse to)"
    r" (?:help|assist|comply|fulfil+|provide|create|generate|write|answer|do|produce|complete|engage|support|continue|process|access|respond|rewrite)"
    r"|i'm (?:unable|not able) to|i must decline|i have to decline"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b.{0,80}?\b(?:cannot|can't|unable|not able|don't have|do not have)"
    r")"
)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely|great)[,.!:]*\s+)?"
    r"(?:here(?:'s| is| are)\b[^\n:]{0,120}:|(?:the |my |your )?(?:improved|better|refined|revised) (?:answer|response)\s*:|"
    r"(?:request|instruction|question|answer|response|persona|profile|description)\s*:|sure[,.!]*\s*\n)\s*",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "\u201c": "\u201d", "'": "'"}
_RULE = re.compile(r"^\s*(?:[-*_]\s*){3,}\n")


def _normalized(text: str) -> str:
    text = text[:400].replace("\u2019", "'").replace("\u2018", "'").replace("\u02bc", "'")
    return " ".join(text.lower().strip(" \t\n\"'*#>-").split())


def is_refusal(text: str) -> bool:
    """Whether a text turns the task down, however it is spelled. Looks at its beginning only."""
    return _REFUSAL.match(_normalized(text)) is not None


def is_refusal_original(text: str) -> bool:
    """The authors' check: two exact prefixes, case and apostrophe as typed."""
    return text.startswith(_PREFIXES)


def strip_preamble(text: str) -> str:
    """The text without "Here is ...:" and its kind, outer quotes and outer rules; never empties a text that has content."""
    stripped = text.strip()
    body = _PREAMBLE.sub("", stripped.replace("\u2019", "'", 1) if stripped[:10].find("\u2019") >= 0 else stripped, count=1).strip()
    body = _RULE.sub("", body + "\n").strip()
    closing = _QUOTES.get(body[:1])
    if closing and len(body) > 2 and body.endswith(closing) and closing not in body[1:-1] and body[0] not in body[1:-1]:
        body = body[1:-1].strip()
    return body or stripped


def strip_preamble_original(text: str) -> str:
    """The authors' rule: "Here is"/"Here's" loses all up to the first blank line, then outer double quotes go."""
    if text.startswith(("Here is", "Here's")):
        text = text.partition("\n\n")[2]
    return text.strip('"')


def strip_improved_original(text: str) -> str:
    """The authors' rule for refined answers: "improved answer" anywhere drops the first paragraph."""
    if "improved answer" in text.lower():
        text = text.partition("\n\n")[2].strip("-").strip("\n").strip()
        text = text.strip("-").strip("\n").strip()
    return text
