"""Records of Lion: an instruction on its way through a round, and a new one on its way into the pools (thesis chapter 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignray.schema.chat import Message

Origin = Literal["seed", "hard", "easy"]
"""seed: of the input; hard, easy: written after an instruction that was so for the student."""


@dataclass(frozen=True)
class Review:
    """One reply of the referee to the two answers in one order."""

    step: str
    """Of the prompt step that asked; it tells the order and the try."""
    teacher: float | None
    """Score in [1, 10]; None where the reply cannot be read."""
    student: float | None
    text: str


@dataclass(frozen=True)
class LionDraft:
    """One instruction of the pools with its answers and reviews so far."""

    row_id: str
    instruction: str
    """Instruction and input, joined by a line break."""
    origin: Origin
    round: int
    """Whose generator wrote it, from 1 on; 0 for a seed."""
    parent_id: str = ""
    """Id of the instruction that it was written after."""
    category: str = ""
    """Kind of task, where the input says; a new instruction has its parent's."""
    teacher: str = ""
    """The teacher's answer."""
    student: str = ""
    """The student's answer of this round."""
    reviews: tuple[Review, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """One drawing of a round: an instruction of the Cache Pool, and what the generator wrote after it."""

    row_id: str
    """Of the parent, the round and the number."""
    number: int
    """Place in the order in which a round's candidates are decided on, from 0."""
    round: int
    origin: Literal["hard", "easy"]
    parent_id: str
    parent: str
    """The parent's text."""
    category: str = ""
    instruction: str = ""
    """The new one."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class LionRow:
    """One instruction of the Cache Pool as a run leaves it."""

    row_id: str
    instruction: str
    response: str
    """The teacher's answer."""
    messages: tuple[Message, ...]
    """Instruction and response as a chat, what the student is trained on."""
    origin: Origin
    round: int
    """Whose generator wrote it; 0 for a seed."""
    parent_id: str
    category: str
    student: str
    """The student's answer of the last round that judged it; empty where none did."""
    gap: float | None
    """Teacher's score minus student's in that round, mean of the readable orders; None where there is no review."""
    is_hard: bool | None
    judged_in: int
    """That round; 0 where none did."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
