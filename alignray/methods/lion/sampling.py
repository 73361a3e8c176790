"""Which instructions of the Cache Pool the generator starts from."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from alignray.errors import RecordError
from alignray.methods.lion.config import LionConfig
from alignray.schema import Candidate, LionDraft
from alignray.seeding import draw, row_id_of

Kind = Literal["hard", "easy"]


def drawings(
    hard: Sequence[LionDraft], easy: Sequence[LionDraft], *, round: int, start: int, num: int, config: LionConfig, seed: int,
) -> list[Candidate]:
    """The drawings numbered ``start`` to ``start + num - 1`` of a round, whatever the order of the input.

    Of the first n drawings ceil(n * hard_rate) are from the hard instructions; where there are none of a kind, all are from the
    other. Each kind is gone through in a shuffled order, and in another one when all of it was used.

    Args:
        hard, easy: the judged Cache Pool; only row_id, instruction and category are looked at.

    Raises:
        RecordError: there is neither a hard nor an easy instruction.
    """
    if not hard and not easy:
        raise RecordError(f"round {round}: no hard and no easy instruction to draw from; see why none was judged")
    sides: dict[Kind, _Side] = {"hard": _Side(hard, f"{round}/hard", seed), "easy": _Side(easy, f"{round}/easy", seed)}
    rate = Fraction(str(config.hard_rate)) if hard and easy else Fraction(int(bool(hard)))
    candidates = []
    for number in range(start, start + num):
        before = _hard_of(number, rate)
        is_hard = _hard_of(number + 1, rate) > before
        kind: Kind = "hard" if is_hard else "easy"
        parent = sides[kind].at(before if is_hard else number - before)
        candidates.append(Candidate(
            row_id=row_id_of("lion/candidate", parent.row_id, str(round), str(number)), number=number, round=round, origin=kind,
            parent_id=parent.row_id, parent=parent.instruction, category=parent.category,
        ))
    return candidates


def _hard_of(num: int, rate: Fraction) -> int:
    """How many of the first ``num`` drawings are hard."""
    return -(-num * rate.numerator // rate.denominator)


class _Side:
    """One kind's instructions, each pass over them shuffled by draws of their ids."""

    def __init__(self, drafts: Sequence[LionDraft], name: str, seed: int) -> None:
        self._drafts, self._name, self._seed = drafts, name, seed
        self._passes: dict[int, list[LionDraft]] = {}

    def at(self, place: int) -> LionDraft:
        turn, position = divmod(place, len(self._drafts))
        if turn not in self._passes:
            purpose = f"lion/draw/{self._name}/{turn}"
            self._passes[turn] = sorted(self._drafts, key=lambda draft: (draw(self._seed, draft.row_id, purpose), draft.row_id))
        return self._passes[turn][position]
