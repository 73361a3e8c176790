"""Quality and difficulty of finished instructions in five levels (thesis 4.4.1, after Magpie)."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

from alignray.prompts import load_prompt
from alignray.schema import ChatRequest, Completion, Message, Rejected
from alignray.steps import PromptStep

QUALITY = ("very poor", "poor", "average", "good", "excellent")
DIFFICULTY = ("very easy", "easy", "medium", "hard", "very hard")


@dataclasses.dataclass(frozen=True)
class Rated:
    """An instruction and its two levels; empty until asked."""

    row_id: str
    instruction: str
    quality: str = ""
    difficulty: str = ""


def read_level(text: str, levels: tuple[str, ...]) -> str | None:
    """The level a verdict names: the only one in the text, the longer of two that overlap ("very poor" over "poor")."""
    lowered = " ".join(text.lower().split())
    found: list[str] = []
    for level in sorted(levels, key=len, reverse=True):
        lowered, count = re.subn(rf"\b{level}\b", " ", lowered)
        if count:
            found.append(level)
    return found[0] if len(found) == 1 else None


def rating_steps(prompts_dir: str | None = None) -> list[PromptStep[Rated, Rated]]:
    """The two questions to the judge. An unreadable verdict rejects the rating, never the row."""
    scales = {"quality": QUALITY, "difficulty": DIFFICULTY}
    return [_rating_step(scale, levels, prompts_dir) for scale, levels in scales.items()]


def _rating_step(scale: str, levels: tuple[str, ...], prompts_dir: str | None) -> PromptStep[Rated, Rated]:
    template = load_prompt(f"webr/rate_{scale}", prompts_dir)
    name = f"webr/rate_{scale}"

    def ask(rated: Rated) -> ChatRequest:
        return ChatRequest((Message("user", template.render(instruction=rated.instruction)),), max_new_tokens=16, temperature=0.0)

    return PromptStep(name=name, role="judge", takes=Rated, build=ask, parse=partial(_read_rating, name=name, scale=scale, levels=levels))


def _read_rating(rated: Rated, completion: Completion | None, *, name: str, scale: str, levels: tuple[str, ...]) -> Rated | Rejected:
    assert completion is not None
    level = read_level(completion.text, levels)
    if level is None:
        return Rejected(rated.row_id, name, "no_verdict", completion.text[: Rejected.RAW_LIMIT])
    return dataclasses.replace(rated, **{scale: level})
