"""What a round comes to: hand-worked figures of four rows, and which of them are shown."""

from __future__ import annotations

import json

import pytest

from alignray.errors import RecordError
from alignray.methods.lion import LionConfig, round_figures, samples
from alignray.methods.lion.referee import STUDENT_FIRST, TEACHER_FIRST
from alignray.schema import LionDraft, Review

CONFIG = LionConfig()
Pair = tuple[float, float] | None


def row(row_id: str, first: Pair, second: Pair, category: str = "") -> LionDraft:
    """Reviews as (teacher, student) of teacher-first and student-first; None is an unreadable reply."""
    reviews = [Review(step, *(pair or (None, None)), "said") for step, pair in ((TEACHER_FIRST, first), (STUDENT_FIRST, second))]
    return LionDraft(row_id, f"do {row_id}", "seed", 0, category=category, teacher="t", student="s", reviews=tuple(reviews))


ROWS = [
    row("a", (9, 5), (9, 5), "math"),  # gap 4, the teacher in both
    row("b", (8, 6), (6, 8), "math"),  # gap 0, whoever stands first: a flip
    row("c", (5, 5), (5, 7), "code"),  # gap -1; a tie, then the student: a flip
    row("d", None, (7, 6)),  # gap 1 by one reading
]


def test_the_figures_of_four_rows_by_hand() -> None:
    found = round_figures(ROWS, CONFIG, quarantined=1)
    assert {key: found[key] for key in ("judged", "hard", "easy", "quarantined", "one_reading", "hard_share")} == {
        "judged": 4, "hard": 2, "easy": 2, "quarantined": 1, "one_reading": 1, "hard_share": 0.5,
    }
    assert (found["teacher_mean"], found["student_mean"]) == (7.0, 6.0)  # 9 7 5 7 and 5 7 6 6
    assert found["relative_quality"] == pytest.approx(100 * 24 / 28)
    assert found["categories"] == [
        {"category": "code", "num": 1, "teacher": 5.0, "student": 6.0}, {"category": "math", "num": 2, "teacher": 8.0, "student": 6.0},
    ]
    # first shown is ahead: a 1 0, b 1 1, c half 1, d 0; of a, b and c two change their winner
    assert found["referee"] == {
        "readings": 8 + 6, "unreadable": 1 + 6, "first_wins": pytest.approx(4.5 / 7), "order_flips": pytest.approx(2 / 3),
    }
    json.dumps(found)


def test_the_share_of_the_answer_shown_first_by_hand() -> None:
    """The first one wins both times where it is favoured, and once in two where the better one wins."""
    favoured, better = row("b", (8, 6), (6, 8)), row("a", (9, 5), (9, 5))
    shares = [round_figures(rows, CONFIG, quarantined=0)["referee"]["first_wins"] for rows in ([favoured], [better], [favoured, better])]
    assert shares == [1.0, 0.5, 0.75]


def test_rows_of_which_a_call_failed_had_no_unreadable_replies() -> None:
    found = round_figures(ROWS, CONFIG, quarantined=3, refused=2)
    assert found["quarantined"] == 3 and found["referee"]["unreadable"] == 7


def test_the_histogram_has_fixed_edges_and_holds_every_row() -> None:
    gap = round_figures([*ROWS, row("e", (10, 1), (10, 1)), row("f", (1, 10), (1, 10))], CONFIG, quarantined=0)["gap"]
    assert gap["edges"] == [n / 2 for n in range(-18, 19)] and len(gap["counts"]) == 36
    assert {gap["edges"][place]: count for place, count in enumerate(gap["counts"]) if count} == {
        -9.0: 1, -1.0: 1, 0.0: 1, 1.0: 1, 4.0: 1, 8.5: 1,
    }
    assert gap["mean"] == pytest.approx(4 / 6)


def test_a_round_that_judged_nothing_has_no_means() -> None:
    found = round_figures([], CONFIG, quarantined=0)
    assert found == {
        "judged": 0, "hard": 0, "easy": 0, "quarantined": 0, "one_reading": 0, "hard_share": None, "gap": None, "teacher_mean": None,
        "student_mean": None, "relative_quality": None, "categories": [],
        "referee": {"readings": 0, "unreadable": 0, "first_wins": None, "order_flips": None},
    }


def test_a_row_without_a_readable_review_is_never_summed_up() -> None:
    unread = [row("x", None, None)]
    for summarize in (lambda: round_figures(unread, CONFIG, quarantined=0), lambda: samples(unread, CONFIG, 1, 0)):
        with pytest.raises(RecordError, match="row x has no readable review; count it as quarantined instead"):
            summarize()


def test_the_hardest_are_shown_and_easy_ones_by_lot_whatever_the_order() -> None:
    rows = [*ROWS, row("g", (8, 4), (8, 4)), *(row(f"easy {n}", (5, 5), (5, 5)) for n in range(20))]
    found = samples(rows, CONFIG, 2, seed=0)
    assert [(one["kind"], one["row_id"], one["gap"]) for one in found[:2]] == [("hard", "a", 4.0), ("hard", "g", 4.0)]
    assert [one["kind"] for one in found] == ["hard", "hard", "easy", "easy"]
    assert samples(rows[::-1], CONFIG, 2, seed=0) == found
    assert len({tuple(one["row_id"] for one in samples(rows, CONFIG, 2, seed)[2:]) for seed in range(9)}) > 1
    assert set(found[0]) == {"kind", "row_id", "instruction", "origin", "category", "teacher", "student", "gap", "reviews"}
    assert found[0]["reviews"][0] == {"step": TEACHER_FIRST, "teacher": 9, "student": 5, "text": "said"}
    json.dumps(found)
