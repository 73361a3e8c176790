"""What is asked of an edited model, and when: the items of a record, and which edits are in the memory while which records are scored.

Source: thesis 5.2 and 5.4 (single, batch and sequential editing) and the authors' evaluation where a switch says "original".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from alignray.methods.lte.config import EvaluationConfig
from alignray.schema import Answer, Edit, Probe

Aspect = Literal["edit", "rephrase", "portability", "locality"]


@dataclass(frozen=True)
class Item:
    """One question to an edited model."""

    aspect: Aspect
    """edit and rephrase are edit success."""
    kind: str
    """Of portability and locality, as the file names it; else the aspect."""
    prompt: str
    answers: tuple[Answer, ...]
    """What is right; the first text is what teacher forcing is done with."""


@dataclass(frozen=True)
class Event:
    """One moment of an evaluation; positions count records from 0."""

    memory: range
    """Records whose edits are in the memory."""
    scored: range
    """Records that are scored then."""


def items_of(edit: Edit, config: EvaluationConfig) -> list[Item]:
    """The questions of a record. ``first_only`` (original): of each kind its first item and that one's first answer, and no rephrased
    prompt. All rewrites of an MQuAKE case are edits."""
    first_only = config.items == "first_only"
    rewrites = edit.rewrites[:1] if first_only else edit.rewrites
    items = [Item("edit", "edit", rewrite.prompt, (Answer(rewrite.target),)) for rewrite in rewrites]
    if not first_only:
        items += [Item("rephrase", "rephrase", text, (Answer(edit.target),)) for text in edit.rephrases]
    items += _probes("portability", edit.portability, first_only)
    items += _probes("locality", edit.locality, first_only)
    return items


def _probes(aspect: Aspect, probes: tuple[Probe, ...], first_only: bool) -> Iterator[Item]:
    seen: set[str] = set()
    for probe in probes:
        if first_only and probe.kind in seen:
            continue
        seen.add(probe.kind)
        answers = (Answer(probe.answers[0].text),) if first_only else probe.answers
        yield Item(aspect, probe.kind, probe.prompt, answers)


def stream_events(num: int, when: Literal["final", "at_insertion"]) -> list[Event]:
    """Sequential editing of ``num`` records: each scored right after its own edit (original), or all after the last one."""
    if when == "final":
        return [Event(range(num), range(num))] if num else []
    return [Event(range(step + 1), range(step, step + 1)) for step in range(num)]


def batch_events(num: int, size: int) -> list[Event]:
    """Batch editing: the memory is loaded with ``size`` records, these are scored, and the next batch begins with an empty one.

    Size 1 is single editing. The last batch may be smaller.

    Raises:
        ValueError: size is less than 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be 1 or more")
    batches = [range(start, min(start + size, num)) for start in range(0, num, size)]
    return [Event(batch, batch) for batch in batches]
