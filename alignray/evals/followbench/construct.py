"""Growing a benchmark in FollowBench's form: one constraint more at each of five levels, from initial instructions of a user's own.

Source: FollowBench, arXiv:2310.20410, and thesis 7.2 and appendix E.1. Initial instructions too like an earlier one are set aside
(ROUGE-L 0.7); a model adds one constraint at a time; people review what came out. The example category needs no model.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson
import pydantic

from alignray.config import Config
from alignray.dedup.rouge import common_words, first_like, words_of
from alignray.errors import RecordError
from alignray.evals.benchmark import reply_of, with_reply
from alignray.evals.followbench.config import CATEGORIES
from alignray.evals.followbench.construct_examples import UnfitExample, example_levels
from alignray.evals.followbench.items import LEVELS
from alignray.evals.followbench.rules import rule_of
from alignray.evals.reading import raw_of
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import ChatRequest, Completion, ConstructedItem, EvalDraft, Message, Rejected, Reply
from alignray.seeding import rng_for, row_id_of
from alignray.steps import PromptStep
from alignray.untrusted import storable

NAME = "followbench_construct"
READ, NOVELTY = f"{NAME}/read", f"{NAME}/novelty"
GENERATOR = "generator"
"""Role: the model that adds constraints."""
KINDS = ("content", "situation", "style", "format")
"""Kinds of constraints that a model adds, and that mixed mixes."""
NUM_RETRIES = 2
REASONS = {
    "no_row": "the row is no object",
    "no_instruction": "the instruction is missing or blank",
    "bad_category": "the category is none of FollowBench's",
    "bad_kinds": "kinds is no list of five kinds",
    "reserved_source": "items of this source are judged by a rule about one official text",
    "no_answer": "an example row has no answer",
    "answer_has_lines": "the answer in its template is no single line, so the rule could never accept it",
    "too_few_shots": "an example row has fewer than five other shots",
    "too_few_templates": "an example row has fewer than four templates whose answers look unlike those of the fifth",
    "bad_template": 'a template has no "question" with {instruction} once and "answer" with {answer} once',
    "near_duplicate": "an earlier instruction is as like as the limit allows, or more",
}
"""Why a row is no initial instruction."""
PROBLEMS = {
    "unreadable": 'it is no JSON object with the texts "instruction" and "added_constraint"',
    "cut_at_max_tokens": "it was cut off because it is too long",
    "content_filter": "it was withheld",
    "unchanged": "the instruction is the same as before",
    "shortened": "the new instruction has fewer words than the given one",
    "rewritten": "too little of the given instruction is left in the new one",
    "repeated": "this constraint was added before",
}
"""What is wrong with a reply, as the model is told."""
SCHEMA = orjson.dumps({
    "type": "object", "additionalProperties": False, "required": ["instruction", "added_constraint"],
    "properties": {"instruction": {"type": "string"}, "added_constraint": {"type": "string"}},
}).decode()

Review = Literal["unreviewed", "accepted", "rejected"]
Place = tuple[str, int, int]
"""Category, example and level."""
Reviews = Mapping[Place, Review]
Rows = Iterable[tuple[str, int, Any]]
"""File, number in it, row."""

_FENCE = re.compile(r"\A```[A-Za-z]{0,12}[ \t]*\n(.*)\n```\Z", re.DOTALL)
_READ_LIMIT = 100_000
_SHOWN_LIMIT = 8_000


class ConstructConfig(Config):
    """How a benchmark is grown."""

    source: str = pydantic.Field(default="own", min_length=1)
    """``source`` of items whose row names none."""
    max_rouge_l: float = pydantic.Field(default=0.7, gt=0, le=1)
    """An initial instruction whose ROUGE-L to an earlier one is not below this is set aside (thesis: 0.7)."""
    novelty: Literal["all", "category"] = "all"
    """Earlier instructions of all categories count, or of the same category only, for files that give each one to several."""
    min_kept: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Least share of the words of the level before that must still stand, in their order; of the official English steps 1 % have
    less than 0.3."""


@dataclass(frozen=True)
class Facts:
    """What is known of an example besides its initial instruction, the draft's prompt."""

    example_id: int
    source: str
    kinds: tuple[str, ...] = ()
    """Kind of the constraint of each level; empty in the example category."""
    instructions: tuple[str, ...] = ()
    """Levels 1 to 5 of the example category; the three below likewise."""
    added: tuple[str, ...] = ()
    target: str = ""
    gold: str = ""

    def to_json(self) -> str:
        return orjson.dumps(dataclasses.asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str) -> Facts:
        data: dict[str, Any] = orjson.loads(text)
        return cls(**data | {name: tuple(data[name]) for name in ("kinds", "instructions", "added")})


@dataclass(frozen=True)
class Added:
    """A level that was read."""

    instruction: str
    constraint: str


# ---- initial instructions


def read_initial(rows: Rows, counts: Counter[str], *, config: ConstructConfig, seed: int) -> Iterator[EvalDraft | Rejected]:
    """Initial instructions in the rows' order as drafts with ids from 1 on within their category, and rejects.

    Ids that have a rule of their own in the official files (format 22 and 30) are skipped.

    Args:
        counts: grows by "records".
    """
    pools: dict[str, list[tuple[list[str], str]]] = {}
    seen: set[str] = set()
    next_id = dict.fromkeys(CATEGORIES, 1)
    for file, number, row in rows:
        counts["records"] += 1
        problem = _row_problem(row)
        if problem:
            yield _rejected(READ, problem, file, number, row)
            continue
        category, text = row["category"], storable(row["instruction"])
        row_id = row_id_of(NAME, category, text)
        pool = pools.setdefault(category if config.novelty == "category" else "", [])
        words = words_of(text)
        like = first_like(words, (known for known, _ in pool), threshold=config.max_rouge_l)
        if like is not None or row_id in seen:  # a text without words is like itself alone
            place, score = like or (None, 1.0)
            yield _rejected(NOVELTY, "near_duplicate", file, number, row, like="" if place is None else pool[place][1], rouge_l=score)
            continue
        try:
            facts = _facts(row, row_id, next_id[category], config, seed=seed)
        except UnfitExample as err:
            yield _rejected(READ, str(err), file, number, row)
            continue
        pool.append((words, row_id))
        seen.add(row_id)
        next_id[category] = facts.example_id + 1
        key = f"{category}/{facts.example_id}"
        yield EvalDraft(
            row_id=row_id, benchmark=NAME, key=key, group=key, category=category, prompt=(Message("user", text),), facts=facts.to_json(),
        )


def _row_problem(row: Any) -> str:
    if not isinstance(row, Mapping):
        return "no_row"
    if not isinstance(row.get("instruction"), str) or not row["instruction"].strip():
        return "no_instruction"
    if row.get("category") not in CATEGORIES:
        return "bad_category"
    kinds = row.get("kinds")
    if kinds is not None and not (isinstance(kinds, list) and len(kinds) == len(LEVELS) and all(kind in KINDS for kind in kinds)):
        return "bad_kinds"
    return "reserved_source" if _has_rule(row["category"], str(row.get("source") or ""), 0) else ""


def _has_rule(category: str, source: str, example_id: int) -> bool:
    return category != "example" and any(rule_of(language, category, source, example_id) for language in ("en", "zh"))


def _facts(row: Mapping[str, Any], row_id: str, example_id: int, config: ConstructConfig, *, seed: int) -> Facts:
    category, source = row["category"], storable(str(row.get("source") or config.source))
    while _has_rule(category, source, example_id):
        example_id += 1
    if category == "example":
        made = example_levels(row, row_id, seed=seed)
        return Facts(example_id, source, (), made.instructions, made.added, made.target, made.gold)
    kinds = tuple(row.get("kinds") or _drawn_kinds(row_id, seed)) if category == "mixed" else (category,) * len(LEVELS)
    return Facts(example_id, source, kinds)


def _drawn_kinds(row_id: str, seed: int) -> tuple[str, ...]:
    """A kind for each level of a mixed example, at least two different ones."""
    rng = rng_for(seed, row_id, f"{NAME}/kinds")
    kinds = rng.choices(KINDS, k=len(LEVELS))
    while len(set(kinds)) < 2:
        kinds = rng.choices(KINDS, k=len(LEVELS))
    return tuple(kinds)


def _rejected(step: str, reason: str, file: str, number: int, row: Any, **evidence: Any) -> Rejected:
    detail = orjson.dumps({"file": file, "row": number, **evidence}, option=orjson.OPT_SORT_KEYS).decode()
    return Rejected(row_id_of(NAME, "row", file, str(number)), step, reason, raw_of(row), detail)


# ---- the chain


def construct_steps(config: ConstructConfig, prompts_dir: str | None = None) -> list[PromptStep[EvalDraft, EvalDraft]]:
    """For each level the question, and twice the same with what was wrong where the reply cannot be used; then the draft is rejected."""
    templates = {name: load_prompt(f"{NAME}/{name}", prompts_dir) for name in (*KINDS, "mixed", "retry")}
    return [
        PromptStep(
            name=step, role=GENERATOR, takes=EvalDraft,
            build=partial(_ask, step=step, level=level, config=config, templates=templates),
            parse=partial(_read, step=step, level=level, config=config),
        ) for level in LEVELS for step in step_names(level)
    ]


def step_names(level: int) -> tuple[str, ...]:
    """The question of a level, and its repetitions."""
    return (f"{NAME}/level_{level}", *(f"{NAME}/level_{level}_retry_{number}" for number in range(1, NUM_RETRIES + 1)))


def _ask(
    draft: EvalDraft, *, step: str, level: int, config: ConstructConfig, templates: Mapping[str, PromptTemplate],
) -> ChatRequest | None:
    facts = Facts.from_json(draft.facts)
    if draft.category == "example" or reply_of(draft, step) is not None:
        return None
    path = path_of(draft, config)
    if len(path) >= level:
        return None
    given = path[-1].instruction if path else draft.prompt[0].content
    kind, fields = facts.kinds[level - 1], {"instruction": given}
    template = templates[draft.category]
    question = template.render(**(fields | {"kind": kind} if draft.category == "mixed" else fields))
    messages: tuple[Message, ...] = (Message("user", question),)
    last = next((reply for reply in reversed(draft.replies) if reply.step in step_names(level)), None)
    if last is not None:
        problem = PROBLEMS[_problem_of(last, path, given, config)]
        shown = last.text[:_SHOWN_LIMIT] or "(empty)"
        messages += (Message("assistant", shown), Message("user", templates["retry"].render(problem=problem)))
    return ChatRequest(messages, json_schema=SCHEMA)


def _read(
    draft: EvalDraft, completion: Completion | None, *, step: str, level: int, config: ConstructConfig,
) -> EvalDraft | Rejected:
    draft = with_reply(draft, step, completion)
    if completion is None or step != step_names(level)[-1]:
        return draft
    path = path_of(draft, config)
    if len(path) >= level:
        return draft
    given = path[-1].instruction if path else draft.prompt[0].content
    last = draft.replies[-1]
    reason = _problem_of(last, path, given, config)
    return Rejected(draft.row_id, step_names(level)[0], reason, last.text[: Rejected.RAW_LIMIT], _detail(draft, path))


def _detail(draft: EvalDraft, path: Sequence[Added]) -> str:
    return orjson.dumps({"category": draft.category, "initial": draft.prompt[0].content[:300], "levels": len(path)}).decode()


def path_of(draft: EvalDraft, config: ConstructConfig) -> tuple[Added, ...]:
    """The levels that were read so far, from level 1 on; of each the first reply that can be used."""
    path: list[Added] = []
    given = draft.prompt[0].content
    for level in LEVELS:
        replies = (reply for reply in draft.replies if reply.step in step_names(level))
        read = next((added for reply in replies if isinstance(added := read_reply(reply, path, given, config), Added)), None)
        if read is None:
            break
        path.append(read)
        given = read.instruction
    return tuple(path)


def _problem_of(reply: Reply, path: Sequence[Added], given: str, config: ConstructConfig) -> str:
    problem = read_reply(reply, path, given, config)
    assert isinstance(problem, str), "only a reply that could not be used is asked about"
    return problem


def read_reply(reply: Reply, path: Sequence[Added], given: str, config: ConstructConfig) -> Added | str:
    """What a reply adds to the instruction ``given``, or why it cannot be used (one of ``PROBLEMS``).

    Args:
        path: the levels before.
    """
    if reply.finish_reason == "length":
        return "cut_at_max_tokens"
    if reply.finish_reason == "content_filter":
        return "content_filter"
    added = _read_json(reply.text)
    if added is None:
        return "unreadable"
    before, after = words_of(given), words_of(added.instruction)
    if before == after:
        return "unchanged"
    if len(after) < len(before):
        return "shortened"
    if before and common_words(before, after) < config.min_kept * len(before):
        return "rewritten"
    return "repeated" if words_of(added.constraint) in [words_of(earlier.constraint) for earlier in path] else added


def _read_json(text: str) -> Added | None:
    """The object of ``SCHEMA`` and nothing besides; a code fence around the whole of it is taken off."""
    body = text.strip()
    if len(body) > _READ_LIMIT:
        return None
    fenced = _FENCE.match(body)
    try:
        data = orjson.loads(fenced[1] if fenced else body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or data.keys() != {"instruction", "added_constraint"}:
        return None
    instruction, constraint = data["instruction"], data["added_constraint"]
    if not isinstance(instruction, str) or not isinstance(constraint, str) or not instruction.strip() or not words_of(constraint):
        return None
    return Added(storable(instruction).strip(), storable(constraint).strip())


# ---- items and review


def constructed_items(draft: EvalDraft, reviews: Reviews, config: ConstructConfig) -> tuple[ConstructedItem, ...]:
    """All levels of a draft that came through: 0 to 5, in the example category 1 to 5 as in the official files."""
    facts = Facts.from_json(draft.facts)
    if draft.category == "example":
        levels = [(level, *pair) for level, pair in enumerate(zip(facts.instructions, facts.added, strict=True), 1)]
    else:
        path = path_of(draft, config)
        levels = [(0, draft.prompt[0].content, ""), *((level, step.instruction, step.constraint) for level, step in enumerate(path, 1))]
    return tuple(
        ConstructedItem(
            row_id=row_id_of(draft.row_id, str(level)), example_id=facts.example_id, category=draft.category,
            kinds=", ".join(facts.kinds[:level]) if draft.category == "mixed" else "", source=facts.source, level=level,
            instruction=instruction, target=facts.target, answer=facts.gold, added_constraint=added,
            review=reviews.get((draft.category, facts.example_id, level), "unreviewed"),
        ) for level, instruction, added in levels
    )


def read_reviews(rows: Sequence[Mapping[str, Any]], where: str) -> dict[Place, Review]:
    """What people decided, by place; "unreviewed" counts as no decision.

    Raises:
        RecordError: a row names no place or no decision, or says another thing than an earlier one.
    """
    reviews: dict[Place, Review] = {}
    for number, row in enumerate(rows):
        category, example_id, level, review = (row.get(name) for name in ("category", "example_id", "level", "review"))
        is_place = category in CATEGORIES and type(example_id) is int and type(level) is int and level in (0, *LEVELS)
        if not is_place or review not in ("unreviewed", "accepted", "rejected"):
            seen = json.dumps({"category": category, "example_id": example_id, "level": level, "review": review}, default=str)
            raise RecordError(
                f"{where}: row {number} is {seen[:200]}; give category, example_id, level (0 to 5) and review (accepted, rejected or "
                "unreviewed)"
            )
        place = (str(category), int(example_id), int(level))  # type: ignore[arg-type]
        if review != "unreviewed" and reviews.setdefault(place, review) != review:
            named = "/".join(map(str, place))
            raise RecordError(f"{where}: row {number} says {review} of {named}, an earlier row {reviews[place]}; keep one of them")
    return reviews


def chosen_items(items: Iterable[ConstructedItem], *, by_review: bool) -> list[ConstructedItem]:
    """The items that make the benchmark, by category, example and level.

    Args:
        by_review: accepted ones alone, and of them not those above a level that is not accepted, since what that level added is part
            of them too (in the example category levels stand by themselves). An initial instruction goes with its level 1 unless it
            was rejected, and then nothing of its example does.
    """
    ordered = sorted(items, key=lambda item: (CATEGORIES.index(item.category), item.example_id, item.level))
    if not by_review:
        return ordered
    chosen: list[ConstructedItem] = []
    groups: dict[tuple[str, int], list[ConstructedItem]] = {}
    for item in ordered:
        groups.setdefault((item.category, item.example_id), []).append(item)
    for (category, _), levels in groups.items():
        if category == "example":
            chosen += [item for item in levels if item.review == "accepted"]
            continue
        good: list[ConstructedItem] = []
        for item in levels:
            if item.review == "rejected" or (item.level > 0 and item.review != "accepted"):
                break
            good.append(item)
        chosen += good if len(good) > 1 else []
    return chosen


def official_rows(items: Iterable[ConstructedItem]) -> list[dict[str, Any]]:
    """Items of one category as rows of an official file, with the constraint and its review beside."""
    rows = []
    for item in items:
        row: dict[str, Any] = {
            "example_id": item.example_id, "category": item.kinds or item.category, "source": item.source, "level": item.level,
            "instruction": item.instruction, "target": item.target,
        }
        if item.category == "example":
            row["answer"] = item.answer
        rows.append(row | {"added_constraint": item.added_constraint, "review": item.review})
    return rows


def summary_of(items: Sequence[ConstructedItem], *, by_review: bool) -> dict[str, dict[str, Any]]:
    """By category: examples, those with all five levels in the benchmark, items above level 0 by review, mean words by level."""
    chosen = {item.row_id for item in chosen_items(items, by_review=by_review)}
    found: dict[str, dict[str, Any]] = {}
    for category in CATEGORIES:
        own = [item for item in items if item.category == category]
        asked = [item for item in own if item.level > 0]
        if not own:
            continue
        written = Counter(item.example_id for item in asked if item.row_id in chosen)
        levels = sorted({item.level for item in own})
        found[category] = {
            "examples": len({item.example_id for item in own}), "complete": sum(number == len(LEVELS) for number in written.values()),
            "items": len(asked), "written": written.total(), **_by_review(asked),
            "words": {str(level): _mean_words([item for item in own if item.level == level]) for level in levels},
        }
    return found


def _by_review(items: Sequence[ConstructedItem]) -> dict[str, int]:
    counts = Counter(item.review for item in items)
    return {review: counts[review] for review in ("accepted", "rejected", "unreviewed")}


def _mean_words(items: Sequence[ConstructedItem]) -> float:
    return sum(len(words_of(item.instruction)) for item in items) / len(items)
