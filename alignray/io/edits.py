"""Edits from the official files: ZsRE (MEND's and KnowEdit's form), KnowEdit, MQuAKE, COUNTERFACT; and chats for what no edit bears on.

The form of a file is named, not guessed: two of them differ in nothing but what their fields mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import orjson

from alignray.config import without_secrets
from alignray.errors import RecordError
from alignray.io.benchmark_files import read_rows
from alignray.io.fetch import FetchConfig
from alignray.io.preferences import example_of, rows_of
from alignray.io.sources import Split
from alignray.io.tables import read_blocks
from alignray.schema import Answer, Edit, PlainQuery, Probe, Rejected, Rewrite
from alignray.seeding import row_id_of, row_id_of_json
from alignray.untrusted import storable

EditFile = Literal[
    "zsre_mend", "zsre_knowedit", "wiki_recent", "wiki_counterfact", "wikibio", "mquake", "counterfact", "counterfact_questions",
]
"""The forms of files that hold edits."""
STEP = "ingest"
REASONS = {
    "bad_row": "a field that must be a text or a list is none",
    "duplicate_record": "the same row stands earlier in the file",
    "empty_prompt": "the edit's prompt, the subject or the query is blank",
    "empty_target": "the edit has no new target",
    "missing_column": "a field that files of this form have is not there",
}
"""Why a row did not become a record."""
_NQ = "nq question: "
_PLAIN_TEXTS = ("instruction", "question", "prompt", "query", "text")
_COLUMNS = {
    "zsre_mend": "subject, src, alt", "zsre_knowedit": "subject, prompt, target_new", "wiki_recent": "subject, prompt, target_new",
    "wiki_counterfact": "subject, prompt, target_new", "wikibio": "concept, text, labels",
    "mquake": "requested_rewrite, questions, new_answer", "counterfact": "subject, prompt, target_new (or requested_rewrite)",
    "counterfact_questions": "subject, question, answer, qna_question",
}
Row = Mapping[str, Any]
RecordT = TypeVar("RecordT", Edit, PlainQuery)


def read_edits(uri: str, form: EditFile, fetch: FetchConfig, counts: Counter[str]) -> Iterator[Edit | Rejected]:
    """Edits and rejects of a file, in its order; each row is one or the other. Ids are digests of the whole row.

    Args:
        counts: grows by "records"; and by "probes_without_answer" for items of portability and locality that have a blank prompt
            or no answer, which are left out of their edit.

    Raises:
        RecordError: the file cannot be read, or not one of its rows has the fields of this form.
    """
    parse = _PARSERS[form]
    return _read(read_rows(uri, fetch), uri, counts, lambda row: parse(row, counts), f"{_COLUMNS[form]}, as files of form {form} have")


def read_plain_queries(uri: str, fetch: FetchConfig, counts: Counter[str]) -> Iterator[PlainQuery | Rejected]:
    """Queries that no edit bears on, with their answers where there are any: Evol-Instruct's chats, Alpaca rows, plain questions.

    Of a chat the first user turn and the reply to it count. JSON lines and Parquet are read a block at a time.

    Raises:
        RecordError: the file cannot be read, or not one of its rows has a query.
    """
    return _read(_plain_rows(uri, fetch), uri, counts, _plain_query, f"a chat, turns, or one of {', '.join(_PLAIN_TEXTS)}")


# ---- rows


class _Unfit(Exception):
    """reason, note"""


def _read(
    rows: Iterable[Row | Rejected], uri: str, counts: Counter[str], parse: Callable[[Row], RecordT], wanted: str,
) -> Iterator[RecordT | Rejected]:
    seen: set[str] = set()
    names: set[str] = set()
    is_known = False
    for number, row in enumerate(rows):
        counts["records"] += 1
        if isinstance(row, Rejected):
            yield row
            continue
        names |= row.keys()
        try:
            record = parse(row)
        except _Unfit as err:
            reason, note = err.args
            is_known |= reason != "missing_column"
            yield _rejected(reason, row, uri, number, note)
            continue
        is_known = True
        if record.row_id in seen:
            yield _rejected("duplicate_record", row, uri, number)
            continue
        seen.add(record.row_id)
        yield record
    if not is_known:
        raise RecordError(f"{without_secrets(uri)}: no row has {wanted}; there are: {', '.join(sorted(names))[:500] or 'no rows'}")


def _rejected(reason: str, row: Row, uri: str, number: int, note: str = "") -> Rejected:
    raw = storable(orjson.dumps(row, default=repr).decode())
    where = {"file": storable(without_secrets(uri)), "row": number} | ({"note": storable(note)} if note else {})
    return Rejected(row_id_of(uri, str(number), raw), STEP, reason, raw[: Rejected.RAW_LIMIT], orjson.dumps(where).decode())


def _plain_rows(uri: str, fetch: FetchConfig) -> Iterator[Row | Rejected]:
    name = uri.removesuffix(".gz")
    if uri.endswith(".parquet") or name.endswith(".jsonl"):
        split = Split("", "", uri, "parquet" if uri.endswith(".parquet") else "jsonl", 0)
        for block in read_blocks(split, fetch):
            for bad in block.bad:
                where = orjson.dumps({"file": split.shown, "row": bad.row, "note": bad.note}).decode()
                yield Rejected(row_id_of(uri, bad.reason, str(bad.row)), STEP, bad.reason, bad.raw[: Rejected.RAW_LIMIT], where)
            yield from rows_of(block)
    else:
        yield from read_rows(uri, fetch)


# ---- fields


def _text(row: Row, name: str, *, may_lack: bool = False) -> str:
    value = row.get(name)
    if value is None:
        if may_lack:
            return ""
        raise _Unfit("missing_column", f"no {name}; there are: {', '.join(map(str, row))[:500]}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _Unfit("bad_row", f"{name} is {type(value).__name__}, not a text")
    return storable(value).strip()


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Unfit("bad_row", f"{name} is {type(value).__name__}, not a list")
    return value


def answers_of(value: Any) -> tuple[Answer, ...]:
    """The answers in any of the shapes that the files have; blank ones and empty lists are left out.

    A text is one answer; a list of texts is one answer and its aliases; a list of lists is several answers, each with its aliases.
    A number is its text.

    Raises:
        TypeError: another shape.
    """
    if value is None:
        return ()
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        value = [str(value)]
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__}, not a text or a list of texts")
    if any(isinstance(inner, list) for inner in value):
        return tuple(answer for inner in value for answer in answers_of(inner))
    return _one_answer(value)


def _one_answer(values: Sequence[Any]) -> tuple[Answer, ...]:
    texts: dict[str, None] = {}
    for value in values:
        if value is None:
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise TypeError(f"a list with {type(value).__name__} in it")
        texts[storable(str(value)).strip()] = None
    forms = [text for text in texts if text]
    return (Answer(forms[0], tuple(forms[1:])),) if forms else ()


def _answers(row: Row, name: str) -> tuple[Answer, ...]:
    try:
        return answers_of(row.get(name))
    except TypeError as err:
        raise _Unfit("bad_row", f"{name} is {err}") from err


def _probes(row: Row, name: str, counts: Counter[str]) -> tuple[Probe, ...]:
    """Items {kind: [{prompt, ground_truth}]} in the file's order."""
    by_kind = row.get(name) or {}
    if not isinstance(by_kind, Mapping):
        raise _Unfit("bad_row", f"{name} is {type(by_kind).__name__}, not an object of kinds")
    probes = []
    for kind in by_kind:
        for item in _list(by_kind, kind):
            if not isinstance(item, Mapping):
                raise _Unfit("bad_row", f"{name}.{kind} holds {type(item).__name__}, not an object")
            prompt, answers = _text(item, "prompt", may_lack=True), _answers(item, "ground_truth")
            if prompt and answers:
                probes.append(Probe(storable(str(kind)), prompt, answers))
            else:
                counts["probes_without_answer"] += 1
    return tuple(probes)


def _probe(kind: str, prompt: str, answers: tuple[Answer, ...], counts: Counter[str]) -> tuple[Probe, ...]:
    """One item, or none where it is not complete."""
    if prompt and answers:
        return (Probe(kind, prompt, answers),)
    counts["probes_without_answer"] += bool(prompt or answers)
    return ()


def relation_of(prompt: str, subject: str) -> str:
    """The relation of a fact whose file names none: the prompt with {} where the subject stands."""
    return prompt.replace(subject, "{}", 1) if subject else prompt


def _check(subject: str, prompt: str, target: str) -> None:
    if not subject or not prompt:
        raise _Unfit("empty_prompt", "no subject" if prompt else "no prompt")
    if not target:
        raise _Unfit("empty_target", "")


# ---- forms


def _zsre_mend(row: Row, counts: Counter[str]) -> Edit:
    subject, prompt, target = (_text(row, name) for name in ("subject", "src", "alt"))
    _check(subject, prompt, target)
    rephrase = _text(row, "rephrase", may_lack=True)
    query = _text(row, "loc", may_lack=True).removeprefix(_NQ)
    return Edit(
        row_id=_id_of(row), source="zsre", subject=subject, relation=relation_of(prompt, subject), prompt=prompt, target=target,
        facts=(f"{prompt} {target}",), question=prompt, ground_truth=_answers(row, "answers"),
        rephrases=(rephrase,) if rephrase else (), locality=_probe("nq", query, _answers(row, "loc_ans"), counts),
    )


def _knowedit(row: Row, counts: Counter[str], *, source: Literal["zsre", "wiki_recent", "wiki_counterfact"]) -> Edit:
    subject, prompt, target = (_text(row, name) for name in ("subject", "prompt", "target_new"))
    _check(subject, prompt, target)
    rephrase = _text(row, "rephrase_prompt", may_lack=True) or _text(row, "rephrase", may_lack=True)
    return Edit(
        row_id=_id_of(row), source=source, subject=subject, relation=relation_of(prompt, subject), prompt=prompt, target=target,
        facts=(f"{prompt} {target}",), question=prompt if prompt.endswith("?") else "", ground_truth=_answers(row, "ground_truth"),
        rephrases=(rephrase,) if rephrase else (), portability=_probes(row, "portability", counts),
        locality=_probes(row, "locality", counts),
    )


def _wikibio(row: Row, counts: Counter[str]) -> Edit:
    subject, prompt, target = (_text(row, name) for name in ("concept", "text", "labels"))
    _check(subject, prompt, target)
    return Edit(
        row_id=_id_of(row), source="wikibio", subject=subject, relation=prompt, prompt=prompt, target=target,
        facts=(f"{prompt} {target}",), portability=_probes(row, "portability", counts), locality=_probes(row, "locality", counts),
    )


def _rewrite(row: Any) -> Rewrite:
    """A rewrite in the form that ROME's and MQuAKE's files have: a template, and targets as objects."""
    if not isinstance(row, Mapping):
        raise _Unfit("bad_row", f"requested_rewrite holds {type(row).__name__}, not an object")
    subject, template = _text(row, "subject"), _text(row, "prompt")
    targets = {name: value for name in ("target_new", "target_true") if isinstance(value := row.get(name), Mapping)}
    target = _text(targets.get("target_new", {}), "str", may_lack=True)
    _check(subject, template, target)
    prompt = template.replace("{}", subject, 1)
    truth = _answers(targets["target_true"], "str") if "target_true" in targets else ()
    return Rewrite(
        subject, _text(row, "relation_id", may_lack=True) or relation_of(prompt, subject), prompt, target,
        _text(row, "question", may_lack=True), truth,
    )


def _mquake(row: Row, counts: Counter[str]) -> Edit:
    """A case: its questions need all its rewrites, over several hops."""
    if row.get("requested_rewrite") is None or row.get("questions") is None:
        raise _Unfit("missing_column", f"no requested_rewrite and questions; there are: {', '.join(map(str, row))[:500]}")
    rewrites = [_rewrite(value) for value in _list(row, "requested_rewrite")]
    if not rewrites:
        raise _Unfit("empty_prompt", "requested_rewrite is empty")
    after = _with_aliases(row, "new_answer")
    if not after:
        raise _Unfit("empty_target", "no new_answer")
    questions = [storable(value).strip() for value in _list(row, "questions") if isinstance(value, str)]
    probes = [probe for query in questions for probe in _probe("Multi_Hop", query, after, counts)]
    if not probes:
        raise _Unfit("empty_prompt", "no question")
    first = rewrites[0]
    return Edit(
        row_id=_id_of(row), source="mquake", subject=first.subject, relation=first.relation, prompt=first.prompt, target=first.target,
        facts=tuple(rewrite.fact for rewrite in rewrites), question=first.question, ground_truth=first.ground_truth,
        further=tuple(rewrites[1:]), portability=tuple(probes), chain=_chain(row, "new_single_hops"),
        original_chain=_chain(row, "single_hops"), original_answers=_with_aliases(row, "answer"),
        case_id=_text(row, "case_id", may_lack=True),
    )


def _with_aliases(row: Row, name: str) -> tuple[Answer, ...]:
    """One answer, and what stands under ``name``_alias."""
    try:
        return _one_answer([_text(row, name, may_lack=True), *_list(row, f"{name}_alias")])
    except TypeError as err:
        raise _Unfit("bad_row", f"{name}_alias is {err}") from err


def _chain(row: Row, name: str) -> str:
    hops = [hop for hop in _list(row, name) if isinstance(hop, Mapping)]
    return " ".join(f"{_text(hop, 'cloze')} {_text(hop, 'answer')}." for hop in hops)


def _counterfact(row: Row, counts: Counter[str]) -> Edit:
    """EasyEdit's form; where there is a requested_rewrite, ROME's."""
    if "requested_rewrite" in row:
        return _counterfact_rome(row, counts)
    subject, prompt, target = (_text(row, name) for name in ("subject", "prompt", "target_new"))
    _check(subject, prompt, target)
    rephrase = _text(row, "rephrase_prompt", may_lack=True)
    return Edit(
        row_id=_id_of(row), source="counterfact", subject=subject, relation=relation_of(prompt, subject), prompt=prompt, target=target,
        facts=(f"{prompt} {target}",), ground_truth=_answers(row, "ground_truth"), rephrases=(rephrase,) if rephrase else (),
        locality=_probe("Neighborhood", _text(row, "locality_prompt", may_lack=True), _answers(row, "locality_ground_truth"), counts),
        case_id=_text(row, "case_id", may_lack=True),
    )


def _counterfact_rome(row: Row, counts: Counter[str]) -> Edit:
    rewrite = _rewrite(row["requested_rewrite"])
    rephrases = tuple(storable(text).strip() for text in _list(row, "paraphrase_prompts") if isinstance(text, str) and text.strip())
    # what is true of the neighbours is what was true of the subject
    neighbours = [storable(text).strip() for text in _list(row, "neighborhood_prompts") if isinstance(text, str)]
    return Edit(
        row_id=_id_of(row), source="counterfact", subject=rewrite.subject, relation=rewrite.relation, prompt=rewrite.prompt,
        target=rewrite.target, facts=(rewrite.fact,), ground_truth=rewrite.ground_truth, rephrases=rephrases,
        locality=tuple(probe for text in neighbours for probe in _probe("Neighborhood", text, rewrite.ground_truth, counts)),
        case_id=_text(row, "case_id", may_lack=True),
    )


def _counterfact_questions(row: Row, counts: Counter[str]) -> Edit:
    """COUNTERFACT's prompts put as questions, with the new target; what held before is not in the file."""
    subject, prompt, target, question = (_text(row, name) for name in ("subject", "question", "answer", "qna_question"))
    _check(subject, prompt, target)
    return Edit(
        row_id=_id_of(row), source="counterfact", subject=subject, relation=relation_of(prompt, subject), prompt=prompt, target=target,
        facts=(f"{prompt} {target}",), question=question, rephrases=(question,) if question else (),
        case_id=_text(row, "case_index", may_lack=True),
    )


def _id_of(row: Row) -> str:
    return row_id_of_json(row)


_PARSERS: dict[str, Callable[[Row, Counter[str]], Edit]] = {
    "zsre_mend": _zsre_mend,
    "zsre_knowedit": lambda row, counts: _knowedit(row, counts, source="zsre"),
    "wiki_recent": lambda row, counts: _knowedit(row, counts, source="wiki_recent"),
    "wiki_counterfact": lambda row, counts: _knowedit(row, counts, source="wiki_counterfact"),
    "wikibio": _wikibio,
    "mquake": _mquake,
    "counterfact": _counterfact,
    "counterfact_questions": _counterfact_questions,
}


# ---- what no edit bears on


def _plain_query(row: Row) -> PlainQuery:
    example = example_of(row)
    if not isinstance(example, Rejected):
        query, answer = _first_exchange([(turn.role, turn.content) for turn in example.messages])
    elif any(isinstance(row.get(name), str) for name in _PLAIN_TEXTS):
        name = next(name for name in _PLAIN_TEXTS if isinstance(row.get(name), str))
        more = _text(row, "input", may_lack=True) if name == "instruction" else ""
        query, answer = "\n\n".join(text for text in (_text(row, name), more) if text), ""
    elif isinstance(turns := row.get("turns"), list) and turns and isinstance(turns[0], str):
        query, answer = storable(turns[0]).strip(), ""
    elif example.reason == "missing_column":
        raise _Unfit("missing_column", f"there are: {', '.join(map(str, row))[:500]}")
    else:
        raise _Unfit("empty_prompt" if example.reason == "empty_prompt" else "bad_row", f"{example.reason}: {example.detail}"[:500])
    if not query:
        raise _Unfit("empty_prompt", "")
    source = row.get("source")
    return PlainQuery(row_id_of_json([query]), query, answer, storable(source) if isinstance(source, str) else "")


def _first_exchange(turns: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The first user turn and, where the assistant's follows, that."""
    place = next(place for place, (role, _) in enumerate(turns) if role == "user")
    reply = turns[place + 1] if place + 1 < len(turns) else ("", "")
    return turns[place][1].strip(), reply[1].strip() if reply[0] == "assistant" else ""
