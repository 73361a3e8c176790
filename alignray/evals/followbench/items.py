"""The official files as items: one per instruction with a constraint added, with its path from the initial instruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import orjson

from alignray.errors import RecordError
from alignray.evals.benchmark import Files
from alignray.evals.followbench.config import CATEGORIES, FollowBenchConfig
from alignray.evals.followbench.rules import EXAMPLE, Language, rule_of, target_problem
from alignray.evals.reading import raw_of
from alignray.schema import EvalDraft, Message, Rejected
from alignray.seeding import row_id_of
from alignray.untrusted import storable

NAME = "followbench"
READ = f"{NAME}/read"
LEVELS = (1, 2, 3, 4, 5)
REASONS = {
    "no_row": "the row is no object",
    "bad_id": "example_id is no whole number",
    "bad_level": "level is no whole number from 0 to 5",
    "duplicate": "the same example and level came before",
    "bad_category": "the category is no text, and no list of the kinds of constraints",
    "no_instruction": "the instruction is missing, or empty above level 0",
    "bad_target": "the rule that checks the item cannot use its target",
    "no_path": "a level below is missing, so the judge could not be shown the path",
}
"""Why a row is no item."""

Labels = Mapping[tuple[str, int, int], tuple[bool, ...]]
"""Verdicts of humans by category, example and level."""


@dataclass(frozen=True)
class Facts:
    """What the judge's prompt and the scorer know of an item."""

    language: Language
    category: str
    kinds: str
    """Kinds of the constraints so far, where they are mixed: "content, format"."""
    source: str
    example_id: int
    level: int
    rule: str
    """Empty where a judge is needed."""
    target: str
    gold: str
    """The true answer in its template, where the file has one."""
    path: tuple[str, ...]
    """Instructions of level 0 to the item's; empty where a rule checks."""
    human: tuple[bool, ...] | None

    def to_json(self) -> str:
        return orjson.dumps(dataclasses.asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str) -> Facts:
        data = orjson.loads(text)
        human = data["human"]
        return cls(**{**data, "path": tuple(data["path"]), "human": None if human is None else tuple(human)})


@dataclass(frozen=True)
class _File:
    """One category's rows, by example and level."""

    category: str
    rows: Sequence[Mapping[str, Any]]

    @cached_property
    def instructions(self) -> dict[tuple[int, int], str]:
        found: dict[tuple[int, int], str] = {}
        for row in self.rows:
            if isinstance(row, Mapping) and not _row_problem(row):
                found.setdefault((row["example_id"], row["level"]), storable(row["instruction"]))
        return found


def read_items(files: Files, *, config: FollowBenchConfig) -> Iterator[EvalDraft | Rejected]:
    """Items of all files in the thesis' order of categories, each in file order; level 0 is on the path and no item.

    Raises:
        RecordError: a file is empty, is not FollowBench's, or holds another category; labels that fit no item.
    """
    given = [_File(category, _checked(category, files[category])) for category in CATEGORIES if category in files]
    labels = _labels(files.get("human_labels", ()), given)
    return chain.from_iterable(_items(file, labels, config.language) for file in given)


def _checked(category: str, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    where = f"followbench.{category}"
    if not rows:
        raise RecordError(f"{where}: the file holds no rows; name the official {category}_constraints.json")
    columns = ("example_id", "level", "instruction", "category")
    first = rows[0]
    missing = [name for name in columns if not isinstance(first, Mapping) or name not in first]
    if missing:
        seen = ", ".join(sorted(map(str, first))) if isinstance(first, Mapping) else type(first).__name__
        raise RecordError(f"{where}: rows need {', '.join(columns)}; row 0 has {seen}; name the official {category}_constraints.json")
    others = {row["category"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("category"), str)} & set(CATEGORIES)
    # a mixed item carries the kinds of its constraints, so only its level 0 tells the file
    if others and others != {category} and not (category == "mixed" and "mixed" in others):
        raise RecordError(f"{where}: the file is about {', '.join(sorted(others))} constraints; name the one about {category} constraints")
    return rows


def _row_problem(row: Mapping[str, Any]) -> str:
    example_id, level, instruction = row.get("example_id"), row.get("level"), row.get("instruction")
    if not isinstance(example_id, int) or isinstance(example_id, bool):
        return "bad_id"
    if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level <= LEVELS[-1]:
        return "bad_level"
    kinds = row.get("category")
    if kinds is not None and not isinstance(kinds, str) and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        return "bad_category"
    return "" if isinstance(instruction, str) and (level == 0 or instruction.strip()) else "no_instruction"


def _items(file: _File, labels: Labels, language: Language) -> Iterator[EvalDraft | Rejected]:
    seen: set[tuple[int, int]] = set()
    for number, row in enumerate(file.rows):
        problem = _row_problem(row) if isinstance(row, Mapping) else "no_row"
        place = (row["example_id"], row["level"]) if not problem else (0, 0)
        if not problem and place in seen:
            problem = "duplicate"
        if not problem:
            seen.add(place)
            if place[1] == 0:
                continue
            facts = _facts(file, row, labels, language)
            problem = _item_problem(facts)
        if problem:
            yield _rejected(file.category, language, number, row, problem)
        else:
            yield _draft(facts, storable(row["instruction"]))


def _facts(file: _File, row: Mapping[str, Any], labels: Labels, language: Language) -> Facts:
    example_id, level, source = row["example_id"], row["level"], storable(str(row.get("source") or ""))
    rule = rule_of(language, file.category, source, example_id)
    path = [file.instructions.get((example_id, step)) for step in range(level + 1)] if not rule else []
    kinds = row["category"] if isinstance(row.get("category"), str) else ", ".join(row.get("category") or ())
    return Facts(
        language=language, category=file.category, kinds=storable(kinds) if file.category == "mixed" else "", source=source,
        example_id=example_id, level=level, rule=rule, target=storable(str(row.get("target") or "")) if rule else "",
        gold=storable(str(row.get("answer") or "")) if rule == EXAMPLE else "",
        path=tuple(step for step in path if step is not None), human=labels.get((file.category, example_id, level)),
    )


def _item_problem(facts: Facts) -> str:
    if facts.rule:
        return "bad_target" if target_problem(facts.rule, facts.target) else ""
    return "" if len(facts.path) == facts.level + 1 else "no_path"


def _draft(facts: Facts, instruction: str) -> EvalDraft:
    group = f"{facts.language}/{facts.category}/{facts.example_id}"
    key = f"{group}/{facts.level}"
    return EvalDraft(
        row_id=row_id_of(NAME, key), benchmark=NAME, key=key, group=group, category=facts.category,
        prompt=(Message("user", instruction),), facts=facts.to_json(),
    )


def _rejected(category: str, language: str, number: int, row: Any, reason: str) -> Rejected:
    detail = orjson.dumps({"file": category, "row": number}, option=orjson.OPT_SORT_KEYS).decode()
    return Rejected(row_id_of(NAME, f"{language}/{category}/row/{number}"), READ, reason, raw_of(row), detail)


def _labels(rows: Sequence[Mapping[str, Any]], given: Sequence[_File]) -> Labels:
    known = {(file.category, *place) for file in given for place in file.instructions}
    labels: dict[tuple[str, int, int], tuple[bool, ...]] = {}
    for number, row in enumerate(rows):
        where = f"followbench.human_labels: row {number}"
        place = tuple(row.get(name) for name in ("category", "example_id", "level")) if isinstance(row, Mapping) else (None,) * 3
        if not isinstance(place[0], str) or not all(isinstance(part, int) for part in place[1:]) or place not in known:
            named = "/".join(raw_of(part)[:80] for part in place)
            raise RecordError(f"{where} labels {named}, which no file has; give category, example_id and level of an item")
        verdicts = row.get("verdicts")
        if not isinstance(verdicts, list) or len(verdicts) != place[2] or not all(verdict in (0, 1) for verdict in verdicts):
            raise RecordError(
                f"{where} has verdicts {raw_of(verdicts)[:80]}; give a list of {place[2]} times true or false, one per constraint"
            )
        labels[place[0], int(row["example_id"]), int(row["level"])] = tuple(map(bool, verdicts))
    return labels
