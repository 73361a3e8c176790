"""The example category without a model: shots of a task, of which more and more come in other templates than the question's own.

Source: thesis 7.2 and appendix E.1: five shots, and n - 1 noise templates at level n. In the official files the shots of the own
template stand anywhere; here they stand after all others, next to the question.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignray.evals.followbench.items import LEVELS
from alignray.evals.followbench.rules import EXAMPLE, target_problem
from alignray.evals.followbench.templates import fills_template
from alignray.seeding import rng_for
from alignray.untrusted import storable

NUM_SHOTS = 5
_INSTRUCTION, _ANSWER = "{instruction}", "{answer}"


@dataclass(frozen=True)
class Template:
    """How a task is put and answered."""

    question: str
    """Holds {instruction} once."""
    answer: str
    """Holds {answer} once; every other character is meant as it stands."""

    def shot(self, instruction: str, answer: str) -> str:
        """Question and answer."""
        return f"{self.asked(instruction)}\n{self.answered(answer)}"

    def asked(self, instruction: str) -> str:
        return instruction.join(self.question.split(_INSTRUCTION))

    def answered(self, answer: str) -> str:
        return answer.join(self.answer.split(_ANSWER))

    @property
    def target(self) -> str:
        """The template as the official files write it: braces that are meant as such are doubled."""
        before, _, after = self.answer.partition(_ANSWER)
        escaped = (text.replace("{", "{{").replace("}", "}}") for text in (before, after))
        return f"{_INSTRUCTION}\n" + _ANSWER.join(escaped)


@dataclass(frozen=True)
class ExampleLevels:
    """What the levels of one question are made of."""

    instructions: tuple[str, ...]
    """Of levels 1 to 5."""
    added: tuple[str, ...]
    """Form of answers that each level brings in: the own one at level 1, then noise."""
    target: str
    gold: str


class UnfitExample(Exception):
    """A row cannot become an example item; carries the reason."""


def example_levels(row: Mapping[str, Any], row_id: str, *, seed: int) -> ExampleLevels:
    """All levels of a row with ``instruction``, ``answer``, ``templates`` and ``shots``, fixed by (seed, row id).

    Shots and their order are the same at all levels, and a level has the noise templates of the level before and one more.

    Raises:
        UnfitExample: with one of the reasons of ``construct.REASONS``.
    """
    question, gold = storable(row["instruction"]), row.get("answer")
    if not isinstance(gold, str) or not gold.strip():
        raise UnfitExample("no_answer")
    rng = rng_for(seed, row_id, "followbench_construct/example")
    shots = _shots(row.get("shots"), question, rng)
    own, noise = _templates(row.get("templates"), rng)
    answer = own.answered(storable(gold))
    if target_problem(EXAMPLE, own.target) or not fills_template(answer, own.target):
        raise UnfitExample("answer_has_lines")
    instructions = []
    for level in LEVELS:
        templates = _assigned([*noise[: level - 1], own], rng)
        put = [template.shot(*shot) for template, shot in zip(templates, shots, strict=True)]
        instructions.append("\n\n".join([*put, own.asked(question)]))
    forms = (own.answer, *(template.answer for template in noise))
    return ExampleLevels(tuple(instructions), forms[: len(LEVELS)], own.target, answer)


def _shots(value: Any, question: str, rng: random.Random) -> list[tuple[str, str]]:
    rows = value if isinstance(value, list) else []
    known = {
        (storable(row["instruction"]), storable(row["answer"])): None for row in rows
        if isinstance(row, Mapping) and all(isinstance(row.get(name), str) and row[name].strip() for name in ("instruction", "answer"))
    }
    usable = [shot for shot in known if shot[0].strip() != question.strip()]  # the question itself would give its answer away
    if len(usable) < NUM_SHOTS:
        raise UnfitExample("too_few_shots")
    return rng.sample(usable, NUM_SHOTS)


def _templates(value: Any, rng: random.Random) -> tuple[Template, list[Template]]:
    """The question's own template and those of the noise, whose answers look otherwise."""
    rows: Sequence[Any] = value if isinstance(value, list) else []
    known = [*dict.fromkeys(_template(row) for row in rows)]
    others = {own: [template for template in known if template.answer != own.answer] for own in known}
    candidates = [own for own in known if len(others[own]) >= len(LEVELS) - 1]
    if not candidates:
        raise UnfitExample("too_few_templates")
    own = rng.choice(candidates)
    return own, rng.sample(others[own], len(LEVELS) - 1)


def _template(row: Any) -> Template:
    question, answer = (row.get("question"), row.get("answer")) if isinstance(row, Mapping) else (None, None)
    if not isinstance(question, str) or not isinstance(answer, str) or question.count(_INSTRUCTION) != 1 or answer.count(_ANSWER) != 1:
        raise UnfitExample("bad_template")
    return Template(storable(question), storable(answer))


def _assigned(templates: Sequence[Template], rng: random.Random) -> list[Template]:
    """A template for each shot: every one has at least one, how many is drawn."""
    cuts = [0, *sorted(rng.sample(range(1, NUM_SHOTS), len(templates) - 1)), NUM_SHOTS]
    return [template for template, start, end in zip(templates, cuts, cuts[1:], strict=False) for _ in range(start, end)]
