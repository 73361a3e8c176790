"""How good the student is beside its teacher, in percent."""

from __future__ import annotations

from collections.abc import Iterable


def relative_quality(scores: Iterable[tuple[float, float]]) -> float | None:
    """100 * sum of the student's scores / sum of the teacher's (thesis chapter 3, the measure of Vicuna); it can pass 100.

    Args:
        scores: (teacher, student) of each instruction.

    Returns:
        None where there are no scores.
    """
    pairs = list(scores)
    return 100 * sum(student for _, student in pairs) / sum(teacher for teacher, _ in pairs) if pairs else None
