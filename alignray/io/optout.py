"""Opt-out signals of a page: X-Robots-Tag, robots meta elements, TDM reservation (TDMRep).

Whom a directive binds. One without an agent, or for ``*``, binds everybody. One for an agent that collects training
data (``AI_AGENTS``) binds us too, as the same use is meant. One for another agent ("googlebot: noindex") does not,
except ``noai`` and ``noimageai``, which speak of the use whoever collects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from alignray.config import Config

Signal = Literal["noai", "noimageai", "noindex", "tdm"]

AI_AGENTS = frozenset({
    "ai2bot", "amazonbot", "anthropic-ai", "applebot-extended", "bytespider", "ccbot", "claudebot", "cohere-ai", "diffbot",
    "google-extended", "gptbot", "meta-externalagent", "omgilibot", "perplexitybot",
})
META_WORDS = frozenset({"robots", "tdm-", "noai", "noimageai", *AI_AGENTS})
"""Where none of these is in a meta element there is no opt-out in it."""
AGENT_PREFIX = re.compile(r"\s*([\w*-]{1,64})\s*:(.*)", re.DOTALL)
VALUED_DIRECTIVES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
DIRECTIVES: dict[str, Signal] = {"noai": "noai", "noimageai": "noimageai", "noindex": "noindex", "none": "noindex"}
VALUE_LIMIT = 512


class OptOutConfig(Config):
    """What to do with pages that opt out."""

    policy: Literal["respect", "label", "ignore"] = "respect"
    """respect: reject them; label: keep them with the evidence in ``WebDocument.optout``; ignore: do not look."""
    signals: tuple[Signal, ...] = ("noai", "tdm")
    """Which signals reject a page under "respect". Others that are seen are still recorded as evidence."""


@dataclass(frozen=True)
class OptOut:
    """The signals of a page that bind us, and where they stood."""

    signals: frozenset[Signal] = frozenset()
    evidence: str = ""
    """JSON of the headers and meta elements with a signal, and of a ``tdm-policy``; empty when there are none."""


def find_optout(headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> OptOut:
    """Opt-out signals in HTTP headers and meta elements, given as (name, value) pairs."""
    seen: dict[str, list[str]] = {}
    signals: set[Signal] = set()
    for place, pairs in (("x-robots-tag", headers), ("meta-robots", metas)):
        for raw_name, raw_value in pairs:
            name, value = raw_name.strip().lower(), raw_value.strip()[:VALUE_LIMIT]
            if name == "tdm-reservation":
                if value == "1":
                    signals.add("tdm")
                    seen.setdefault(name, []).append(value)
            elif name == "tdm-policy":
                if value:
                    seen.setdefault(name, []).append(value)
            elif place == "x-robots-tag":
                if name == place and (found := _directives(value, agent="")):
                    signals |= found
                    seen.setdefault(place, []).append(value)
            elif found := _directives(value, agent="" if name == "robots" else name):
                signals |= found
                seen.setdefault(place, []).append(value if name == "robots" else f"{name}: {value}")
    if not seen:
        return OptOut()
    evidence = {name: "; ".join(dict.fromkeys(values)) for name, values in seen.items()}
    return OptOut(frozenset(signals), orjson.dumps(evidence, option=orjson.OPT_SORT_KEYS).decode())


def is_turned_away(optout: OptOut, config: OptOutConfig) -> bool:
    """True where the policy is to reject a page with these signals."""
    return config.policy == "respect" and not optout.signals.isdisjoint(config.signals)


def relevant_headers(headers: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """The headers that can hold an opt-out, as pairs."""
    return [(name, value) for name in ("x-robots-tag", "tdm-reservation", "tdm-policy") for value in headers.get(name, ())]


def _directives(value: str, *, agent: str) -> set[Signal]:
    """Signals of a comma-separated list that bind us; an "agent:" in it holds for what follows."""
    found: set[Signal] = set()
    for part in value.split(","):
        prefixed = AGENT_PREFIX.match(part)
        directive = part
        if prefixed and prefixed[1].lower() not in VALUED_DIRECTIVES:
            agent, directive = prefixed[1].lower(), prefixed[2]
        signal = DIRECTIVES.get(directive.strip().lower())
        if signal and (agent in ("", "*") or agent in AI_AGENTS or signal in ("noai", "noimageai")):
            found.add(signal)
    return found
