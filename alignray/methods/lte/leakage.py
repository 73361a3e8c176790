"""Training edits that are test edits as well. The thesis says that only training parts are trained on; this is how one sees it.

MQuAKE comes without a training part: the authors train on the files that others evaluate with, so check it against what you test on.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from alignray.schema import Edit

Way = Literal["subject_and_relation", "text", "locality"]
WAYS: tuple[Way, ...] = ("subject_and_relation", "text", "locality")


@dataclass(frozen=True)
class Overlap:
    """A training edit and a test edit that share something."""

    by: Way
    """subject_and_relation: both change the same fact, whatever to. text: a question of the one is a question of the other: its prompt,
    a rephrased one, or an item. locality: the same where it is an item of locality of both, so that neither edit is given away, but
    what must not change was trained."""
    train_id: str
    test_id: str
    shared: str
    """What they share, as the test edit has it."""


def overlaps(train: Sequence[Edit], test: Sequence[Edit]) -> list[Overlap]:
    """One overlap for each pair of edits and way in which they share something, in the order of ``train``; case, blanks, Unicode
    forms and marks at the end make no difference. An edit that is on both sides shares all it has."""
    known: dict[tuple[str, ...], dict[str, tuple[bool, str]]] = defaultdict(dict)
    for edit in test:
        for key, is_locality, shown in _keys(edit):
            known[key].setdefault(edit.row_id, (is_locality, shown))
    found: list[Overlap] = []
    for edit in train:
        shared: dict[tuple[Way, str], str] = {}
        for key, is_locality, _ in _keys(edit):
            for test_id, (is_locality_there, shown) in known.get(key, {}).items():
                way: Way = "subject_and_relation" if len(key) == 2 else "locality" if is_locality and is_locality_there else "text"
                shared.setdefault((way, test_id), shown)
        ordered = sorted(shared.items(), key=lambda entry: WAYS.index(entry[0][0]))
        found += [Overlap(way, edit.row_id, test_id, shown) for (way, test_id), shown in ordered]
    return found


def leaking_ids(train: Sequence[Edit], test: Sequence[Edit], *, by: Sequence[Way] = WAYS) -> set[str]:
    """Ids of the training edits that share something with a test edit."""
    return {overlap.train_id for overlap in overlaps(train, test) if overlap.by in by}


def normalised(text: str) -> str:
    """A text as it is compared: NFKC, no case, single blanks, no marks at its end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" ?.!:")


def _keys(edit: Edit) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """What an edit is found by: (subject, relation) or (text,); whether that is an item of locality; and how it is shown."""
    for rewrite in edit.rewrites:
        yield (normalised(rewrite.subject), normalised(rewrite.relation)), False, f"{rewrite.subject} | {rewrite.relation}"
        for text in (rewrite.prompt, rewrite.question):
            if text:
                yield (normalised(text),), False, text
    for text in (*edit.rephrases, *(probe.prompt for probe in edit.portability)):
        yield (normalised(text),), False, text
    for probe in edit.locality:
        yield (normalised(probe.prompt),), True, probe.prompt
