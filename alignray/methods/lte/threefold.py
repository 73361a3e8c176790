"""Which facts stand in a training prompt: the exact one alone, or among neighbours that retrieval might bring along.

Source: thesis chapter 5 (50/25/25: exact; exact and the most similar one; exact and the two most similar ones) and the authors'
notebook where ``ThreefoldConfig`` says "original".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignray.methods.lte.config import ThreefoldConfig
from alignray.schema import EditDraft, Rewrite
from alignray.seeding import rng_for, unit_draw

STYLES = ("exact_only", "exact_and_1", "exact_and_2")
"""By number of neighbours drawn."""
WANTED = 10
"""Neighbours that a caller should look up per draft: two, and some to replace those that are excluded."""


@dataclass(frozen=True)
class Neighbour:
    """A fact of the same data set that is similar to an edit's own."""

    row_id: str
    """Of its edit."""
    fact: str
    score: float
    """Cosine similarity of the two descriptors."""
    subject: str = ""
    relation: str = ""


@dataclass(frozen=True)
class Shown:
    """Facts of one prompt, in the order in which they stand there."""

    facts: tuple[str, ...]
    places: tuple[str, ...]
    """For every fact, the id of its edit."""
    retrieved: tuple[str, ...]
    """Ids of the neighbours, the most similar first."""
    style: str
    """Of ``STYLES``, as drawn."""
    num_short: int = 0
    """Neighbours drawn but not shown, as there were too few."""


def num_neighbours(u: float, config: ThreefoldConfig) -> int:
    """0, 1 or 2 for a uniform draw in [0, 1)."""
    exact, one, _ = config.shares
    return 0 if u < exact else 1 if u < exact + one else 2


def style_draw(draft: EditDraft, config: ThreefoldConfig, *, seed: int) -> float:
    """The draw that decides how many neighbours a prompt gets."""
    row_id = draft.edit_id if config.draw_per == "edit" else draft.row_id
    return unit_draw(seed, row_id, "lte/threefold")


def select_neighbours(
    candidates: Sequence[Neighbour], num: int, *, edit_id: str, facts: Sequence[str], rewrites: Sequence[Rewrite],
    config: ThreefoldConfig, seed: int, row_id: str,
) -> list[Neighbour]:
    """At most ``num`` neighbours, the most similar first; fewer where there are not enough.

    Args:
        candidates: by falling similarity; ties are the caller's (by id).
        facts: descriptors of the edit itself; these are no neighbours whatever their id.
        rewrites: the edit's subjects and relations.
        row_id: of the draft, for the draws of random_of_top.
    """
    looked_at = candidates[: config.pool] if config.neighbours == "random_of_top" else candidates
    left: list[Neighbour] = []
    for candidate in looked_at:
        is_known = candidate.row_id == edit_id or candidate.fact in facts or any(candidate.fact == known.fact for known in left)
        if not is_known and not _clashes(candidate, rewrites, config):
            left.append(candidate)
    if config.neighbours == "top":
        return left[:num]
    if len(left) <= num:
        return left
    drawn = rng_for(seed, row_id, "lte/neighbours").sample(range(len(left)), num)
    return [left[place] for place in sorted(drawn)]


def show(
    draft: EditDraft, candidates: Sequence[Neighbour], config: ThreefoldConfig, *, rewrites: Sequence[Rewrite], seed: int,
) -> Shown:
    """The facts of a draft's prompt. The same draft gives the same ones, whoever asks."""
    num = num_neighbours(style_draw(draft, config, seed=seed), config)
    if draft.source in config.skip:
        num = 0
    found = select_neighbours(
        candidates, num, edit_id=draft.edit_id, facts=draft.facts, rewrites=rewrites, config=config, seed=seed, row_id=draft.row_id,
    ) if num else []
    if len(found) < num and config.when_short == "exact_only":
        found = []
    shown = [(fact, draft.edit_id) for fact in draft.facts] + [(neighbour.fact, neighbour.row_id) for neighbour in found]
    if not config.exact_first:
        rng_for(seed, draft.row_id, "lte/position").shuffle(shown)
    return Shown(
        facts=tuple(fact for fact, _ in shown), places=tuple(row_id for _, row_id in shown),
        retrieved=tuple(neighbour.row_id for neighbour in found), style=STYLES[num], num_short=num - len(found),
    )


def _clashes(candidate: Neighbour, rewrites: Sequence[Rewrite], config: ThreefoldConfig) -> bool:
    if config.exclude == "same_fact":
        return False
    subject = candidate.subject.casefold()
    of_subject = [rewrite for rewrite in rewrites if subject and rewrite.subject.casefold() == subject]
    if config.exclude == "same_subject":
        return bool(of_subject)
    return any(rewrite.relation and rewrite.relation == candidate.relation for rewrite in of_subject)
