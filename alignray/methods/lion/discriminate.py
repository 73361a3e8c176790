"""How far the student is behind the teacher on an instruction, and whether that makes it hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignray.methods.lion.config import LionConfig
from alignray.methods.lion.referee import STUDENT_FIRST, TEACHER_FIRST
from alignray.schema import LionDraft, Review

ORDERS = (TEACHER_FIRST, STUDENT_FIRST)
_DECIMALS = 6
"""Scores have few decimals: 2.3 - 1.3 is 1, which in floating point it is not."""


@dataclass(frozen=True)
class Gap:
    """Scores of one instruction, means over the orders that could be read."""

    teacher: float
    student: float
    gap: float
    """Teacher minus student, in [-9, 9]."""
    readings: int
    """Orders that could be read, 1 or 2."""


def reading_of(reviews: Sequence[Review], order: str) -> Review | None:
    """The first readable reply in an order (``TEACHER_FIRST`` or ``STUDENT_FIRST``), whichever try it was."""
    return next((review for review in reviews if review.step.startswith(order) and review.teacher is not None
                 and review.student is not None), None)


def gap_of(draft: LionDraft) -> Gap | None:
    """The gap by the first readable reply of each order; None where no reply can be read.

    Source: thesis chapter 3, the mean over both orders. The authors' code takes -1 and -1 for a reply that it cannot read and
    averages them in, which halves the gap or makes it 0; here such a reply counts for nothing.
    """
    pairs = [(found.teacher, found.student) for order in ORDERS if (found := reading_of(draft.reviews, order)) is not None]
    scores = [(teacher, student) for teacher, student in pairs if teacher is not None and student is not None]
    if not scores:
        return None
    teacher, student = (sum(values) / len(scores) for values in zip(*scores, strict=True))
    return Gap(teacher, student, round(teacher - student, _DECIMALS), len(scores))


def is_hard(gap: Gap, config: LionConfig) -> bool:
    """Whether the student is behind by the threshold or more (thesis chapter 3: d >= tau)."""
    return gap.gap >= config.threshold
