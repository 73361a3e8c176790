"""Lion's switches. ``preset`` sets them together; each can be set on its own as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from alignray.config import Config

# what the authors' code does where the thesis says something else or leaves it open
ORIGINAL: dict[str, Any] = {
    "novelty": {"on_equal": "keep", "tokenizer": "original", "pool": "own_kind"},
    "generator_max_tokens": "auto",
    "first_character": "ascii",
    "on_echo": "reject",
    "referee_parser": "original",
    "on_length": "keep",
}


class NoveltyConfig(Config):
    """Which new instructions are too much like one that is there. Source: thesis chapter 3, ROUGE-L against the Cache Pool."""

    max_similarity: float = pydantic.Field(default=0.7, gt=0, le=1)
    """ROUGE-L F-measure from which a new instruction is no longer new."""
    on_equal: Literal["reject", "keep"] = "reject"
    """What becomes of one at exactly max_similarity: the thesis wants it below, the authors' code keeps it."""
    tokenizer: Literal["unicode", "original"] = "unicode"
    """unicode: words of every script; original: a-z and 0-9 alone, so that text of other scripts has no tokens and is always new."""
    pool: Literal["shared", "own_kind"] = "shared"
    """What is compared with besides the Cache Pool. shared: everything kept this round; own_kind (original): what was kept this
    round after a hard instruction where the new one was written after a hard one, and the same for easy."""


class LionConfig(Config):
    """How hard instructions are found and new ones made. Source: thesis chapter 3; the authors' code where it says "original"."""

    preset: Literal["thesis", "original"] = "thesis"
    """thesis: equations and text; original: compatible with the authors' code. Any other key overrides its preset value."""
    threshold: float = pydantic.Field(default=1.0, ge=-9, le=9)
    """The thesis' tau: an instruction is hard where the teacher's score is ahead of the student's by at least so much."""
    hard_rate: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of a round's new instructions that are written after hard ones; 0.5 is the thesis' r = 1:1, 1 hard only, 0 easy only."""
    per_round: int = pydantic.Field(default=6000, ge=1)
    """New instructions of a round."""
    max_drawings: float = pydantic.Field(default=5.0, ge=1)
    """After so many times per_round drawings a round goes on with what it has, however few that are."""
    novelty: NoveltyConfig = NoveltyConfig()
    """Which new instructions are too much like one that is there."""
    generator_max_tokens: Annotated[int, pydantic.Field(ge=1)] | Literal["auto"] = 512
    """Longest answer of the generator; auto (original): four times the words of the instruction that it starts from."""
    first_character: Literal["letter", "ascii"] = "letter"
    """How a new instruction must begin. letter: with a letter or digit of any script, and where a script is written without blanks
    each character counts as a word; ascii (original): with an ASCII character that is no punctuation, words being between blanks."""
    on_echo: Literal["strip", "reject"] = "strip"
    """What becomes of the label "#Created Instruction#:" where the generator repeats it before the new instruction."""
    referee_form: Literal["text", "json"] = "text"
    """How the referee gives its scores. text: two lines, as in the thesis; json: a JSON object that the engine's grammar holds it to
    (vllm, llama, many endpoints), with evidence first and whole scores."""
    referee_parser: Literal["strict", "original"] = "strict"
    """strict: both scores wherever they stand, if there is no doubt; original: the last two lines, to the letter. What cannot be
    read is asked for again in both, and never enters a mean."""
    retries: int = pydantic.Field(default=2, ge=0, le=9)
    """How often the referee is asked again, in each order, where its scores cannot be read."""
    on_length: Literal["reject", "keep"] = "reject"
    """What becomes of a teacher's answer that was cut at max_new_tokens."""
    student_start: Literal["continue", "restart"] = "continue"
    """Where imitation starts. continue: from the last round's checkpoint; restart: from the student as it was at first."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("preset") != "original":
            return data
        filled = {**ORIGINAL, **data}
        novelty = data.get("novelty", {})
        if isinstance(novelty, NoveltyConfig):
            novelty = novelty.model_dump(exclude_unset=True)
        if isinstance(novelty, Mapping):
            filled["novelty"] = {**ORIGINAL["novelty"], **novelty}
        return filled
