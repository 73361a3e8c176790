"""What the judged benchmarks share: questions to a judge that are put again until they can be read, and what is said of the judge."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import orjson

from alignray.errors import RecordError
from alignray.evals.benchmark import CANDIDATE, JUDGE, reply_of, with_reply
from alignray.evals.reading import raw_of
from alignray.evals.statistics import bootstrap_interval, cohen_kappa
from alignray.evals.summary import mean_figure
from alignray.prompts import PromptTemplate
from alignray.schema import ChatRequest, Completion, EvalDraft, Figure, Message, Rejected, Score, ScoredItem
from alignray.seeding import row_id_of
from alignray.steps import PromptStep

Verdict = TypeVar("Verdict")
EvalStep = PromptStep[EvalDraft, EvalDraft]
UNREADABLE = "unreadable"
NUM_AGAIN = 2
"""How often an unreadable verdict is asked for again."""
READ_LIMIT = 100_000
"""Characters of a judge's reply that are read; a longer one is unreadable."""
_SHOWN_AGAIN = 4_000
"""Characters of an unreadable reply, from its end, that the judge is shown again."""
SEED = 20_250_609
"""Of the bootstrap in summaries."""

FAILURE, CONSISTENCY = "judge_failure", "position_consistency"


@dataclass(frozen=True)
class Question(Generic[Verdict]):
    """One thing that a judge is asked about an item."""

    name: str
    """Of the step, "mt_bench/judge_turn_1"; asked again it is "mt_bench/judge_turn_1_again_1"."""
    ask: Callable[[EvalDraft], str | None]
    """The judge's prompt; None: there is nothing to ask."""
    read: Callable[[str], Verdict | None]
    """The verdict, or None where the reply cannot be read strictly."""
    again: PromptTemplate
    """Asks for the form alone."""
    schema: str
    """JSON schema of the verdict, for the question put again: there an engine that can guide it leaves no other way."""
    temperature: float = 0.0
    max_new_tokens: int = 2048

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *(f"{self.name}_again_{turn}" for turn in range(1, NUM_AGAIN + 1)))


def facts_of(draft: EvalDraft | ScoredItem) -> dict[str, Any]:
    """What the benchmark's reader wrote down."""
    facts: dict[str, Any] = orjson.loads(draft.facts)
    return facts


def facts_text(facts: Mapping[str, Any]) -> str:
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()


def text_of(draft: EvalDraft, step: str) -> str:
    """The reply to a step; empty where there is none."""
    reply = reply_of(draft, step)
    return reply.text if reply is not None else ""


def answer_after(
    name: str, turns: Callable[[EvalDraft], tuple[Message, ...]], *,
    max_new_tokens: int | None, temperature: Callable[[EvalDraft], float | None],
) -> EvalStep:
    """The candidate answers a chat that may hold its own earlier answers; a reply that is there already is kept."""

    def build(draft: EvalDraft) -> ChatRequest | None:
        if reply_of(draft, name) is not None:
            return None
        return ChatRequest(turns(draft), max_new_tokens=max_new_tokens, temperature=temperature(draft))

    return PromptStep(name=name, role=CANDIDATE, takes=EvalDraft, build=build, parse=partial(_keep, name))


def judge_steps(question: Question[Any]) -> tuple[EvalStep, ...]:
    """The question, and the same up to NUM_AGAIN times more while no reply can be read."""
    return tuple(
        PromptStep(name=name, role=JUDGE, takes=EvalDraft, build=partial(_build, question, turn), parse=partial(_keep, name))
        for turn, name in enumerate(question.names)
    )


def verdict_of(draft: EvalDraft | ScoredItem, question: Question[Verdict]) -> Verdict | None:
    """The first readable verdict, a recorded one before all; None where there is none."""
    recorded = facts_of(draft).get("judged", {}).get(question.name)
    texts = [recorded] if recorded is not None else [reply.text for name in question.names for reply in draft.replies if reply.step == name]
    return next((found for text in texts if len(text) <= READ_LIMIT and (found := question.read(text)) is not None), None)


def verdict_score(metric: str, value: float | None, *, weight: float = 1.0) -> Score:
    """A score, or the statement that the judge's verdict could not be read."""
    return Score(metric, value, weight) if value is not None else Score(metric, 0.0, weight, UNREADABLE)


def failure_scores(verdicts: Iterable[object | None]) -> tuple[Score, ...]:
    """One score for each verdict: 1 where none could be read, however often it was asked."""
    return tuple(Score(FAILURE, float(verdict is None)) for verdict in verdicts)


def agreed(first: str | None, second: str | None) -> str | None:
    """One outcome of the same comparison in both orders: tie where they differ, None where one is missing."""
    if first is None or second is None:
        return None
    return first if first == second else "tie"


def consistency_score(first: str | None, second: str | None) -> Score:
    """1 where both orders came to the same outcome."""
    return verdict_score(CONSISTENCY, None if first is None or second is None else float(first == second))


WIN, TIE, LOSS = "win", "tie", "loss"
CREDIT = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}
"""What an outcome of the candidate counts in a win rate."""
MIRRORED = {WIN: LOSS, TIE: TIE, LOSS: WIN}


def json_object(text: str) -> dict[str, Any] | None:
    """A reply that is one JSON object and nothing else, a code fence around it apart."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) > 6:
        body = body[3:-3].removeprefix("json").strip()
    if not body.startswith("{"):
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


_RATING = re.compile(r"\[\[\s{0,4}(\d{1,3}(?:\.\d{1,4})?)\s{0,4}\]\]")


def read_rating(text: str, *, key: str = "rating", low: float = 1.0, high: float = 10.0) -> float | None:
    """A rating as [[n]] or as a JSON object with ``key``; None unless there is exactly one, in range.

    The authors' code (FastChat) takes the first of several, and a number in single brackets where there is none in double ones:
    a judge that quotes a rating out of an answer then gives it.
    """
    found = json_object(text)
    if found is not None:
        value = found.get(key)
        values = {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()
    else:
        values = {float(number) for number in _RATING.findall(text)}
    return values.pop() if len(values) == 1 and low <= min(values) <= high else None


def read_label(text: str, labels: Sequence[str], *, key: str = "verdict") -> str | None:
    """A label as [[label]] or as a JSON object with ``key``; None unless exactly one of the labels is named."""
    found = json_object(text)
    if found is not None:
        value = found.get(key)
        return value if isinstance(value, str) and value in labels else None
    named = {label for label in labels if f"[[{label}]]" in text}
    return named.pop() if len(named) == 1 else None


def number_schema(*keys: str, low: float = 1, high: float = 10) -> str:
    """JSON schema of an object with numbers."""
    number = {"type": "number", "minimum": low, "maximum": high}
    return _schema(dict.fromkeys(keys, number))


def label_schema(labels: Sequence[str], *, key: str = "verdict") -> str:
    """JSON schema of an object with one of some labels."""
    return _schema({key: {"type": "string", "enum": list(labels)}})


def judge_figures(items: Sequence[ScoredItem]) -> tuple[Figure, ...]:
    """Share of verdicts that could not be read, and of comparisons on which both orders agree."""
    metrics = {score.metric for item in items for score in item.scores}
    return tuple(mean_figure(items, metric) for metric in (FAILURE, CONSISTENCY) if metric in metrics)


def kappa_figure(
    pairs: Iterable[tuple[str, Any, Any]], kappa: Callable[[Sequence[Any], Sequence[Any]], float | None] = cohen_kappa,
) -> tuple[Figure, ...]:
    """Kappa of judge and recorded labels with a bootstrap interval by group; nothing where no label was given.

    Args:
        pairs: (group, judge's verdict, recorded label).
    """
    groups: dict[Hashable, list[tuple[Any, Any]]] = defaultdict(list)
    for group, judge, label in pairs:
        groups[group].append((judge, label))
    if not groups:
        return ()
    found = bootstrap_interval(partial(_kappa_of_rows, kappa), [groups[group] for group in sorted(groups, key=str)], seed=SEED)
    return (Figure("kappa", "", found.value, found.low, found.high, found.num, 0),)


def num_again(items: Sequence[ScoredItem]) -> int:
    """How many questions to the judge had to be put again."""
    return sum("_again_" in reply.step for item in items for reply in item.replies)


def judge_details(items: Sequence[ScoredItem]) -> dict[str, Any]:
    """Counts behind the judge's figures."""
    failures = [score.value for item in items for score in item.scores if score.metric == FAILURE]
    return {"verdicts": len(failures), "unreadable": int(sum(failures)), "asked_again": num_again(items)}


def answers_by_id(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, tuple[str, ...]]:
    """Answers of a model by question, one text a turn: FastChat's ``choices``, or ``messages`` as arena-hard-auto writes them.

    Raises:
        RecordError: a row is in neither form.
    """
    answers: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows):
        key, texts = question_id(row), tuple(_turns(row))
        if not key or not texts:
            raise RecordError(
                f"{name}: row {number} is no recorded answer (keys {', '.join(sorted(row))}); it needs question_id or uid, and "
                "choices[0].turns or messages"
            )
        answers[key] = texts
    return answers


def question_id(row: Mapping[str, Any]) -> str:
    """The name of a question in an official row; empty where it has none."""
    found = row.get("question_id", row.get("uid"))
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def read_questions(
    rows: Sequence[Mapping[str, Any]], read_one: Callable[[Mapping[str, Any], str, str], EvalDraft | str], *,
    benchmark: str, source: str, needs: str, key_of: Callable[[Mapping[str, Any]], str] = question_id,
) -> Iterator[EvalDraft | Rejected]:
    """Items of an official file, in its order; malformed and repeated ones as Rejected.

    Args:
        read_one: row, key and row id to the item, or the reason why it is none.
        source: field of the config that names the file.
        needs: what a row must have, for the message.

    Raises:
        RecordError: not one row has a key.
    """
    if not any(map(key_of, rows)):
        seen = f"keys {', '.join(sorted(map(str, rows[0])))}" if rows else "no rows"
        raise RecordError(
            f"{benchmark}.{source}: no row is an item of the benchmark ({seen}); name the official file, whose rows hold {needs}"
        )
    known: set[str] = set()
    for number, row in enumerate(rows):
        key = key_of(row)
        row_id = row_id_of(benchmark, key) if key and key not in known else row_id_of(benchmark, key, str(number))
        found = "no_key" if not key else "duplicate_key" if key in known else read_one(row, key, row_id)
        known.add(key)
        if isinstance(found, EvalDraft):
            yield found
        else:
            yield rejected(benchmark, row_id, found, row, {"file": source, "row": number, "key": key})


def rejected(benchmark: str, row_id: str, reason: str, raw: object, detail: Mapping[str, Any]) -> Rejected:
    """An item of an official file that cannot be used."""
    return Rejected(row_id, f"{benchmark}/read", reason, raw_of(raw), facts_text(detail))


def numbered_labels(rows: Sequence[Mapping[str, Any]], name: str, kind: Callable[[Any], Any | None]) -> dict[str, Any]:
    """Recorded labels as "question/turn": rows of ``question_id``, ``turn`` (1 where it is left out) and ``label``.

    Raises:
        RecordError: a row is in another form.
    """
    labels = {}
    for number, row in enumerate(rows):
        key, turn, label = question_id(row), row.get("turn", 1), kind(row.get("label"))
        if not key or str(turn) not in ("1", "2") or label is None:
            raise RecordError(f"{name}: row {number} is no label: {raw_of(row)[:200]}; it needs question_id, turn (1 or 2) and label")
        labels[f"{key}/{turn}"] = label
    return labels


def as_outcome(label: Any) -> str | None:
    """A human's outcome for the candidate: win, tie or loss."""
    return label if isinstance(label, str) and label in CREDIT else None


def as_rating(label: Any) -> float | None:
    """A human's rating of 1 to 10, as a number or (CSV) as its text."""
    try:
        value = float(label)
    except (TypeError, ValueError):
        return None
    return value if 1 <= value <= 10 else None


def _build(question: Question[Any], turn: int, draft: EvalDraft) -> ChatRequest | None:
    if question.name in facts_of(draft).get("judged", {}) or verdict_of(draft, question) is not None:
        return None
    prompt = question.ask(draft)
    if prompt is None:
        return None
    limits = {"max_new_tokens": question.max_new_tokens, "temperature": question.temperature}
    if turn == 0:
        return ChatRequest((Message("user", prompt),), **limits)  # type: ignore[arg-type]
    said, again = text_of(draft, question.names[turn - 1])[-_SHOWN_AGAIN:], question.again.render()
    if said.strip():
        messages: tuple[Message, ...] = (Message("user", prompt), Message("assistant", said), Message("user", again))
    else:
        messages = (Message("user", f"{prompt}\n\n{again}"),)  # endpoints refuse an empty turn
    return ChatRequest(messages, json_schema=question.schema, **limits)  # type: ignore[arg-type]


def _keep(name: str, draft: EvalDraft, completion: Completion | None) -> EvalDraft | Rejected:
    return with_reply(draft, name, completion)


def _schema(properties: Mapping[str, Any]) -> str:
    return facts_text({
        "type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False,
    })


def _kappa_of_rows(kappa: Callable[[Sequence[Any], Sequence[Any]], float | None], rows: Sequence[tuple[Any, Any]]) -> float | None:
    return kappa([row[0] for row in rows], [row[1] for row in rows])


def _turns(row: Mapping[str, Any]) -> Iterator[str]:
    choices, messages = row.get("choices"), row.get("messages")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) and isinstance(choices[0].get("turns"), list):
        for turn in choices[0]["turns"]:
            yield str(turn.get("content", "")) if isinstance(turn, Mapping) else str(turn)
    elif isinstance(messages, list):
        for message in messages:
            if isinstance(message, Mapping) and message.get("role") == "assistant":
                content = message.get("content")
                yield str(content.get("answer", "")) if isinstance(content, Mapping) else str(content)
