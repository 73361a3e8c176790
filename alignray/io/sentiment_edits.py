"""Sentiment edits from ConvSent's files (SERAC, arXiv:2206.06520): a topic, and replies about it that like and dislike it.

A row is {"ent": topic, "pos": [replies], "neg": [replies]}. The wanted sentiment and the questions are not in it; as in SERAC and
EasyEdit they are drawn, here by (seed, row id), and the topic out of scope is the file's next one, behind the last the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from alignray.config import without_secrets
from alignray.errors import RecordError
from alignray.io.benchmark_files import read_rows
from alignray.io.fetch import FetchConfig
from alignray.schema import Rejected
from alignray.schema.sentiment import Opinion, Sentiment, SentimentEdit
from alignray.seeding import rng_for, row_id_of, row_id_of_json
from alignray.untrusted import storable

STEP = "ingest"
REASONS = {
    "bad_row": "the topic is no text, or the replies are no list",
    "duplicate_record": "the same row stands earlier in the file",
    "empty_prompt": "the topic is blank",
    "missing_column": "no ent, pos or neg",
    "one_sided": "no reply of one of the sentiments",
}
"""Why a row did not become a record."""
QUESTIONS = (
    "What do you think about {}?", "How do you feel about {}?", "What is your opinion on {}?", "Do you like {}?",
    "What would you say about {}?", "What are your thoughts on {}?", "How would you describe your view of {}?",
    "Could you tell me what you make of {}?",
)
"""Our own wording; SERAC has 13 questions of this kind."""
DESCRIPTOR = "When asked about {}, express a {} opinion of it."
_COLUMNS: dict[str, Sentiment] = {"pos": "positive", "neg": "negative"}


class _Topic(NamedTuple):
    row_id: str
    name: str
    replies: tuple[tuple[str, Sentiment], ...]


class _Unfit(Exception):
    """reason, note"""


def read_sentiment_edits(
    uri: str, fetch: FetchConfig, counts: Counter[str], *, seed: int = 0, questions: Sequence[str] = QUESTIONS,
) -> Iterator[SentimentEdit | Rejected]:
    """Edits and rejects of a file, in its order; each row is one or the other. Ids are digests of the whole row.

    Args:
        counts: grows by "records"; by "replies_left_out" for replies that are blank or no text; and by "edits_without_other_topic".
        questions: with {} where the topic stands; each reply gets one.

    Raises:
        RecordError: the file cannot be read, or not one of its rows has these fields.
    """
    found: list[_Topic | Rejected] = []
    seen: set[str] = set()
    is_known = False
    for number, row in enumerate(read_rows(uri, fetch)):
        counts["records"] += 1
        try:
            topic = _topic(row, seen, counts)
        except _Unfit as err:
            is_known |= err.args[0] != "missing_column"
            found.append(_rejected(err, row, uri, number))
            continue
        is_known = True
        seen.add(topic.row_id)
        found.append(topic)
    if not is_known:
        raise RecordError(f"{without_secrets(uri)}: no row has ent, pos and neg, as files of ConvSent have; name another file")
    others = iter(_others([topic for topic in found if isinstance(topic, _Topic)]))
    for item in found:
        if isinstance(item, Rejected):
            yield item
        else:
            other = next(others)
            counts["edits_without_other_topic"] += other is None
            yield _edit(item, other, seed, questions)


def _edit(topic: _Topic, other: _Topic | None, seed: int, questions: Sequence[str]) -> SentimentEdit:
    rng = rng_for(seed, topic.row_id, "sentiment")
    sentiment: Sentiment = rng.choice(("positive", "negative"))

    def asked(about: _Topic) -> str:
        return rng.choice(questions).replace("{}", about.name)

    def opinions(about: _Topic) -> tuple[Opinion, ...]:
        return tuple(Opinion(asked(about), reply, of_reply) for reply, of_reply in about.replies)

    return SentimentEdit(
        row_id=topic.row_id, topic=topic.name, sentiment=sentiment, descriptor=DESCRIPTOR.format(topic.name, sentiment),
        prompt=asked(topic), in_scope=opinions(topic), other_topic=other.name if other else "",
        out_of_scope=opinions(other) if other else (),
    )


def _others(topics: Sequence[_Topic]) -> list[_Topic | None]:
    """For each topic the next one that has another name; files can have several rows of one name."""
    others: list[_Topic | None] = [None] * len(topics)
    for place in range(2 * len(topics) - 2, -1, -1):
        here, after = place % len(topics), (place + 1) % len(topics)
        is_same = topics[here].name.casefold() == topics[after].name.casefold()
        others[here] = others[after] if is_same else topics[after]
    return others


def _topic(row: Mapping[str, Any], seen: set[str], counts: Counter[str]) -> _Topic:
    if missing := [name for name in ("ent", *_COLUMNS) if row.get(name) is None]:
        raise _Unfit("missing_column", f"no {', '.join(missing)}; there are: {', '.join(map(str, row))[:500]}")
    name = row["ent"]
    if not isinstance(name, str):
        raise _Unfit("bad_row", f"ent is {type(name).__name__}, not a text")
    name = storable(name).strip()
    if not name:
        raise _Unfit("empty_prompt", "")
    replies: list[tuple[str, Sentiment]] = []
    for column, sentiment in _COLUMNS.items():
        values = row[column]
        if not isinstance(values, list):
            raise _Unfit("bad_row", f"{column} is {type(values).__name__}, not a list")
        texts = [text for value in values if isinstance(value, str) and (text := storable(value).strip())]
        if not texts:
            raise _Unfit("one_sided", f"no reply in {column}")
        counts["replies_left_out"] += len(values) - len(texts)
        replies += [(text, sentiment) for text in texts]
    row_id = row_id_of_json(row)
    if row_id in seen:
        raise _Unfit("duplicate_record", "")
    return _Topic(row_id, name, tuple(replies))


def _rejected(err: _Unfit, row: Mapping[str, Any], uri: str, number: int) -> Rejected:
    reason, note = err.args
    raw = storable(orjson.dumps(row, default=repr).decode())
    where = {"file": storable(without_secrets(uri)), "row": number} | ({"note": storable(note)} if note else {})
    return Rejected(row_id_of(uri, str(number), raw), STEP, reason, raw[: Rejected.RAW_LIMIT], orjson.dumps(where).decode())
