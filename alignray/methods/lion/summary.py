"""What a round's reviews come to, and which rows are worth reading, as plain JSON."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from alignray.errors import RecordError
from alignray.methods.lion.config import LionConfig
from alignray.methods.lion.discriminate import Gap, gap_of, is_hard, reading_of
from alignray.methods.lion.quality import relative_quality
from alignray.methods.lion.referee import STUDENT_FIRST, TEACHER_FIRST
from alignray.methods.lion.steps import names_of
from alignray.schema import LionDraft, Review
from alignray.seeding import draw

EDGES = tuple(step / 2 for step in range(-18, 19))
"""Of the histogram of gaps: -9 to 9 in halves, each bin with its left edge, the last one with both."""


def round_figures(drafts: Sequence[LionDraft], config: LionConfig, *, quarantined: int, refused: int = 0) -> dict[str, Any]:
    """The keys of a round that its reviews decide; null where there is nothing to take a mean of.

    Args:
        drafts: the judged rows.
        quarantined: how many more came to no gap.
        refused: how many of these because a call failed for good; each of the others had all its replies, and none of them readable.

    Raises:
        RecordError: a draft has no readable review.
    """
    gaps = [_gap(draft) for draft in drafts]
    hard = sum(is_hard(gap, config) for gap in gaps)
    return {
        "judged": len(gaps), "hard": hard, "easy": len(gaps) - hard, "quarantined": quarantined,
        "one_reading": sum(gap.readings == 1 for gap in gaps), "hard_share": hard / len(gaps) if gaps else None,
        "gap": _histogram(gaps), "teacher_mean": _mean([gap.teacher for gap in gaps]), "student_mean": _mean([gap.student for gap in gaps]),
        "relative_quality": relative_quality((gap.teacher, gap.student) for gap in gaps),
        "referee": _referee(drafts, config, quarantined - refused), "categories": _categories(drafts, gaps),
    }


def samples(drafts: Sequence[LionDraft], config: LionConfig, num: int, seed: int) -> list[dict[str, Any]]:
    """Up to ``num`` of the hardest rows, the teacher's better answers first where gaps are alike, and as many easy ones by lot.

    The round that judged them is the caller's to add.
    """
    judged = [(draft, _gap(draft)) for draft in drafts]
    hard = sorted((one for one in judged if is_hard(one[1], config)), key=lambda one: (-one[1].gap, -one[1].teacher, one[0].row_id))
    easy = sorted(
        (one for one in judged if not is_hard(one[1], config)), key=lambda one: (draw(seed, one[0].row_id, "lion/sample"), one[0].row_id),
    )
    return [
        {
            "kind": kind, "row_id": draft.row_id, "instruction": draft.instruction, "origin": draft.origin, "category": draft.category,
            "teacher": draft.teacher, "student": draft.student, "gap": gap.gap,
            "reviews": [
                {"step": review.step, "teacher": review.teacher, "student": review.student, "text": review.text} for review in draft.reviews
            ],
        }
        for kind, chosen in (("hard", hard[:num]), ("easy", easy[:num])) for draft, gap in chosen
    ]


def _gap(draft: LionDraft) -> Gap:
    gap = gap_of(draft)
    if gap is None:
        raise RecordError(f"row {draft.row_id} has no readable review; count it as quarantined instead")
    return gap


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _histogram(gaps: Sequence[Gap]) -> dict[str, Any] | None:
    if not gaps:
        return None
    counts = [0] * (len(EDGES) - 1)
    for gap in gaps:
        counts[min(bisect_right(EDGES, gap.gap), len(counts)) - 1] += 1
    return {"mean": _mean([gap.gap for gap in gaps]), "edges": list(EDGES), "counts": counts}


def _referee(drafts: Sequence[LionDraft], config: LionConfig, unreadable: int) -> dict[str, Any]:
    """How often the referee could not be read, and how much the order sways it."""
    lost = unreadable * sum(len(names_of(order, config)) for order in (TEACHER_FIRST, STUDENT_FIRST))
    orders = [[reading_of(draft.reviews, order) for order in (TEACHER_FIRST, STUDENT_FIRST)] for draft in drafts]
    wins = [_first_wins(review) for pair in orders for review in pair if review is not None]
    both = [(_winner(first), _winner(second)) for first, second in orders if first is not None and second is not None]
    return {
        "readings": sum(len(draft.reviews) for draft in drafts) + lost,
        "unreadable": sum(review.teacher is None for draft in drafts for review in draft.reviews) + lost,
        "first_wins": _mean(wins), "order_flips": _mean([float(first != second) for first, second in both]),
    }


def _winner(review: Review) -> int:
    """1 for the teacher, -1 for the student, 0 for a tie; a tie in one order only is a change of winner too."""
    assert review.teacher is not None and review.student is not None
    return (review.teacher > review.student) - (review.teacher < review.student)


def _first_wins(review: Review) -> float:
    """1 where the answer shown first scored higher, 0 where the other did, a half for a tie."""
    winner = _winner(review) if review.step.startswith(TEACHER_FIRST) else -_winner(review)
    return (winner + 1) / 2


def _categories(drafts: Sequence[LionDraft], gaps: Sequence[Gap]) -> list[dict[str, Any]]:
    """Mean scores by category (thesis Figure 3.4), rows without one left out."""
    by_category: dict[str, list[Gap]] = defaultdict(list)
    for draft, gap in zip(drafts, gaps, strict=True):
        if draft.category:
            by_category[draft.category].append(gap)
    return [
        {
            "category": category, "num": len(own), "teacher": _mean([gap.teacher for gap in own]),
            "student": _mean([gap.student for gap in own]),
        }
        for category, own in sorted(by_category.items())
    ]
