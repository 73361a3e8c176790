"""Edited models under test: what is asked with which edits in the prompt, how answers are scored, what they come to (thesis 5.2, 5.4).

A ``Unit`` is work for one model, done in one go: for methods that put edits into the prompt a bag of questions, for those that change
weights a sequence of edits and questions after each. Legend: Q queries, E entries of the memory, D dimensions.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from alignray.methods.lte.config import EvaluationConfig
from alignray.methods.lte.metrics import exact_match, fluency, hit_at_k, is_answered, measured_text, precision_at_k, token_accuracy
from alignray.methods.lte.protocol import batch_events, items_of, stream_events
from alignray.methods.lte.sentiment import OpinionEdit, RatedReply, sentiment_success
from alignray.schema import Answer, Edit, EditScore
from alignray.seeding import draw, row_id_of

Vectors = npt.NDArray[np.float32]
Mode = Literal["single", "batch", "sequential"]
When = Literal["", "at_insertion", "final"]
Pair = tuple[str, str]
"""Prompt and target."""
Found = TypeVar("Found")
ORIGINAL_TOKENS, ORIGINAL_TOP_K = 100, 5
"""Of the authors' fluency: tokens of prompt and continuation together, and most likely tokens to draw from."""


class Model(Protocol):
    """What is asked of a model under test; ``alignray.train.edited_model.EditedModel`` is one."""

    def argmax(self, prompts: Sequence[str], targets: Sequence[str]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Of each pair the target's token ids, and the most likely ids there when all before is given."""
        ...

    def logprobs(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
        """Of each pair the natural logs of the target's tokens when all before is given."""
        ...

    def write(
        self, prompts: Sequence[str], *, max_new_tokens: int, top_k: int = 1, seeds: Sequence[int] | None = None,
        max_length: int | None = None,
    ) -> list[str]:
        """Continuations: the likeliest, or drawn among the ``top_k`` likeliest tokens."""
        ...


@dataclass(frozen=True)
class Setting:
    """One way to edit."""

    mode: Mode
    size: int
    """Edits that there are at once, or in the stream."""
    when: When = ""


@dataclass(frozen=True)
class Moment:
    """A setting's memory and what is asked then; positions count records from 0."""

    setting: Setting
    memory: range
    scored: range


@dataclass(frozen=True)
class Question:
    """A row that is still to be scored, and all that is right."""

    row: EditScore
    answers: tuple[Answer, ...]
    writes: bool
    """Whether a free-running answer is wanted."""
    replies: tuple[RatedReply, ...] = ()
    """Of a sentiment edit: what its success is measured on, instead of the target."""

    @property
    def queries(self) -> list[str]:
        """What is to be shown with edits: the row's own query, and those of the replies."""
        return list(dict.fromkeys((self.row.query, *(reply.query for reply in self.replies))))

    @property
    def pairs(self) -> list[Pair]:
        """Prompts and targets that a model is asked for it, before the edit and after."""
        pairs = [(self.row.query, self.row.target), (self.row.prompt, self.row.target)]
        return pairs + [(prompt, reply.text) for reply in self.replies for prompt in (reply.query, reply.prompt)]


@dataclass(frozen=True)
class Step:
    """Edits that go into the weights, if any, and what is asked then."""

    facts: tuple[tuple[str, str], ...]
    """Prompt and target of each."""
    questions: tuple[Question, ...]
    is_fresh: bool = False
    """Whether the edits begin from the unedited weights; else they come on top of those of the steps before."""


@dataclass(frozen=True)
class Unit:
    """Work for one model in one go."""

    id: str
    method: str
    steps: tuple[Step, ...]
    is_original: bool = False
    """Whether the authors' fluency is wanted as well."""


# ---- when what is asked


def moments(num: int, *, single: bool, batch: Sequence[int], stream: Sequence[int], when: EvaluationConfig) -> list[Moment]:
    """Every memory with its questions, for ``num`` records. A size above ``num`` becomes ``num``, and each is done once."""
    found: list[Moment] = []
    sizes: list[tuple[Mode, int]] = [("single", 1)] if single and num else []
    sizes += [("batch", size) for size in dict.fromkeys(min(size, num) for size in batch) if size]
    for mode, size in sizes:
        found += [Moment(Setting(mode, size), event.memory, event.scored) for event in batch_events(num, size)]
    for size in dict.fromkeys(min(size, num) for size in stream):
        for at in ("at_insertion", "final"):
            if when.sequential in ("both", at):
                setting = Setting("sequential", size, at)
                found += [Moment(setting, event.memory, event.scored) for event in stream_events(size, at)]
    return found


# ---- the memory


class Entries:
    """The facts of a list of records in the order of their insertion, and which of them a query finds.

    What a memory that holds records i to j would return for it: of facts with the same subject and relation the latest stands for all.
    """

    def __init__(self, edits: Sequence[Edit], *, key: Literal["descriptor", "prompt"]) -> None:
        self.facts = [fact for edit in edits for fact in edit.facts]
        self.keys = self.facts if key == "descriptor" else [rewrite.prompt for edit in edits for rewrite in edit.rewrites]
        self.owners = [edit.row_id for edit in edits for _ in edit.rewrites]
        self._starts = np.cumsum([0, *(len(edit.rewrites) for edit in edits)])
        next_E = np.full(len(self.facts), len(self.facts), np.int64)
        last: dict[tuple[str, str], int] = {}
        for place, rewrite in enumerate(rewrite for edit in edits for rewrite in edit.rewrites):
            fact = (rewrite.subject.casefold(), rewrite.relation.casefold())
            if fact in last:
                next_E[last[fact]] = place
            last[fact] = place
        self._next_E = next_E

    @property
    def num_superseded(self) -> int:
        """Facts that a later one of the same subject and relation takes the place of, once both are in the memory."""
        return int((self._next_E < len(self.facts)).sum())

    def of(self, record: int) -> range:
        """Places of a record's own facts."""
        return range(int(self._starts[record]), int(self._starts[record + 1]))

    def find(self, cosines_E: Vectors, memory: range, *, top_k: int, floor: float | None) -> list[int]:
        """Places of the facts a query gets, the most similar first and of equals the earlier one.

        Args:
            cosines_E: of the query with every fact's key.
            memory: the records that are in the memory, one after the other.
        """
        low, high = int(self._starts[memory.start]), int(self._starts[memory.stop])
        cosines = np.where(self._next_E[low:high] >= high, cosines_E[low:high], -np.inf)
        order = np.argsort(-cosines, kind="stable")[:top_k]
        least = -math.inf if floor is None else floor
        return [low + int(place) for place in order if np.isfinite(cosines[place]) and cosines[place] >= least]


# ---- questions


def questions_of(
    edit: Edit, setting: Setting, method: str, config: EvaluationConfig, *, writes: Literal["none", "edits", "all"],
) -> list[Question]:
    """What a record is asked in a setting, each with the bare query as its prompt; ``shown`` puts edits before it."""
    found = []
    for number, item in enumerate(items_of(edit, config)):
        row_id = row_id_of(method, setting.mode, str(setting.size), setting.when, edit.row_id, str(number))
        row = EditScore(
            row_id, method, edit.source, setting.mode, setting.size, setting.when, edit.row_id, item.aspect, item.kind, item.prompt,
            item.answers[0].text, item.prompt,
        )
        replies = edit.replies if isinstance(edit, OpinionEdit) and item.aspect == "edit" else ()
        found.append(Question(row, item.answers, writes == "all" or (writes == "edits" and item.aspect == "edit"), replies))
    return found


def shown(question: Question, prompts: Mapping[str, str], retrieved: Sequence[str], edit_seconds: float = 0.0) -> Question:
    """A question as it is put with edits in its prompt.

    Args:
        prompts: for each of its ``queries``.
        retrieved: ids of the edits in the prompt of the row's own query.
    """
    row = dataclasses.replace(
        question.row, prompt=prompts[question.row.query], retrieved=tuple(dict.fromkeys(retrieved)), edit_seconds=edit_seconds,
    )
    replies = tuple(dataclasses.replace(reply, prompt=prompts[reply.query]) for reply in question.replies)
    return dataclasses.replace(question, row=row, replies=replies)


def grouped(questions: Iterable[Question], size: int) -> Iterator[tuple[Question, ...]]:
    """Questions in bags of at most ``size`` different ones; those that are the same but for the setting stay together, to be asked once."""
    same: dict[tuple[str, str, str], list[Question]] = defaultdict(list)
    for question in questions:
        same[question.row.query, question.row.target, question.row.prompt].append(question)
    groups = [same[key] for key in sorted(same)]
    for start in range(0, len(groups), size):
        yield tuple(question for group in groups[start : start + size] for question in group)


# ---- answers


@dataclass(frozen=True)
class Before:
    """What a model says to bare queries before any edit."""

    argmax: Mapping[Pair, tuple[int, ...]]
    """The most likely ids, of questions of locality and their targets."""
    logprobs: Mapping[Pair, list[float]]
    """Of replies of the wanted sentiment."""


def answered(
    model: Model, questions: Sequence[Question], before: Before, *, max_new_tokens: int, is_original: bool, seed: int,
    edit_seconds: float | None = None,
) -> Iterator[EditScore]:
    """Every question scored; those that are the same are asked once.

    Args:
        is_original: whether the authors' fluency is measured as well, for what is written.
        edit_seconds: of an edit of weights, for each edit; None leaves what the rows say.
    """
    began = time.perf_counter()
    found = _each(model.argmax, ((question.row.prompt, question.row.target) for question in questions if not question.replies))
    likely = _each(model.logprobs, ((reply.prompt, reply.text) for question in questions for reply in question.replies))
    seconds = (time.perf_counter() - began) / max(len(found) + len(likely), 1)
    prompts = list(dict.fromkeys(question.row.prompt for question in questions if question.writes))
    written = dict(zip(prompts, model.write(prompts, max_new_tokens=max_new_tokens), strict=True)) if prompts else {}
    queries = list(dict.fromkeys(question.row.query for question in questions if question.writes)) if is_original else []
    drawn = dict(zip(queries, model.write(
        queries, max_new_tokens=ORIGINAL_TOKENS, max_length=ORIGINAL_TOKENS, top_k=ORIGINAL_TOP_K,
        seeds=[draw(seed, query, "fluency") for query in queries],
    ), strict=True)) if queries else {}
    for question in questions:
        row = question.row
        if question.replies:
            token_score, exact_score = _opinion_scores(question.replies, before, likely)
        else:
            target_ids, argmax_ids = found[row.prompt, row.target]
            right_ids = before.argmax[row.query, row.target] if row.aspect == "locality" else target_ids
            token_score, exact_score = token_accuracy(argmax_ids, right_ids), exact_match(argmax_ids, right_ids)
        said = written.get(row.prompt) if question.writes else None
        again = drawn.get(row.query) if question.writes else None
        has_answer = said is not None and row.aspect != "locality" and not question.replies
        yield dataclasses.replace(
            row, token_score=token_score, exact_score=exact_score, said=said or "",
            said_score=float(is_answered(said or "", question.answers, how="starts")) if has_answer else None,
            fluency=None if said is None else fluency(measured_text(row.query, said)).value,
            fluency_original=None if again is None else fluency(measured_text(row.query + " ", again, "original")).value,
            edit_seconds=row.edit_seconds if edit_seconds is None else edit_seconds, answer_seconds=seconds,
        )


def unedited(model: Model, unit: Unit) -> Before:
    """What the model says to the unit's questions before any edit, as far as scores hang on it."""
    questions = [question for step in unit.steps for question in step.questions]
    found = _each(model.argmax, ((one.row.query, one.row.target) for one in questions if one.row.aspect == "locality"))
    likely = _each(model.logprobs, ((reply.query, reply.text) for one in questions for reply in one.replies if reply.is_wanted))
    return Before({pair: argmax_ids for pair, (_, argmax_ids) in found.items()}, likely)


def _each(ask: Callable[[list[str], list[str]], list[Found]], pairs: Iterable[Pair]) -> dict[Pair, Found]:
    """Each different pair asked once."""
    asked = list(dict.fromkeys(pairs))
    return dict(zip(asked, ask([prompt for prompt, _ in asked], [target for _, target in asked]), strict=True)) if asked else {}


def _opinion_scores(replies: Sequence[RatedReply], before: Before, after: Mapping[Pair, list[float]]) -> tuple[float, float]:
    """Edit success of a sentiment edit, and whether the wanted replies are likelier than the others."""
    wanted = [reply for reply in replies if reply.is_wanted]
    success = sentiment_success(
        [before.logprobs[reply.query, reply.text] for reply in wanted], [after[reply.prompt, reply.text] for reply in wanted],
        [after[reply.prompt, reply.text] for reply in replies if not reply.is_wanted],
    )
    return success.value, float(success.sentiment > 0.5)


# ---- figures

METRICS: dict[str, tuple[str, ...]] = {
    "edit_success": ("edit", "rephrase"), "portability": ("portability",), "locality": ("locality",), "fluency": ("edit",),
}
"""The aspects that each of the four metrics is of."""
MEASURES: dict[str, dict[str, str]] = {
    "edit_success": {"token": "token_score", "exact": "exact_score", "said": "said_score"},
    "portability": {"token": "token_score", "exact": "exact_score", "said": "said_score"},
    "locality": {"token": "token_score", "exact": "exact_score"},
    "fluency": {"thesis": "fluency", "original": "fluency_original"},
}
"""The definitions that each is reported under, and their columns; fluency is given times 100, as papers do."""


@dataclass
class Mean:
    """Mean over records of each record's mean over its items, and its standard error."""

    mean: float
    se: float
    records: int


def mean_of(values: Mapping[str, Sequence[float]]) -> Mean:
    """Of each record's values.

    Raises:
        ValueError: there are none.
    """
    means = [math.fsum(one) / len(one) for one in values.values()]
    mean = math.fsum(means) / len(means) if means else math.nan
    if not means:
        raise ValueError("values holds no record; leave out what was not measured")
    spread = math.fsum((one - mean) ** 2 for one in means) / (len(means) - 1) if len(means) > 1 else 0.0
    return Mean(mean, math.sqrt(spread / len(means)), len(means))


class Tally:
    """Figures of scored rows, taken in any order and in one pass."""

    def __init__(self) -> None:
        self._scores: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._found: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        self._times: dict[tuple[str, str, int], list[tuple[str, float, float]]] = defaultdict(list)
        self.num_rows = 0

    def add(self, row: EditScore, *, top_k: int) -> None:
        """A scored row; with edits in its prompt that were looked for, what was found too."""
        self.num_rows += 1
        setting = (row.mode, str(row.size), row.when)
        for metric, aspects in METRICS.items():
            if row.aspect not in aspects:
                continue
            for measure, column in MEASURES[metric].items():
                value: float | None = getattr(row, column)
                if value is not None:
                    for source in _data_sets(row):
                        key = (row.method, source, *setting, metric, measure)
                        self._scores[key][row.edit_id].append(value * (100 if metric == "fluency" else 1))
        self._times[row.method, row.mode, row.size].append((row.edit_id, row.edit_seconds, row.answer_seconds))
        if row.retrieved and row.mode != "single":
            for source in _data_sets(row):
                for k in sorted({1, top_k}):
                    key = (row.method, source, *setting, row.aspect, str(k))
                    found = precision_at_k(row.retrieved, [row.edit_id], k), hit_at_k(row.retrieved, [row.edit_id], k)
                    self._found[key].append(found)

    def figures(self) -> list[dict[str, object]]:
        """Mean, standard error and number of records by method, source, setting, metric and measure."""
        names = ("method", "source", "mode", "size", "when", "metric", "measure")
        return [
            {**_named(names, key), **dataclasses.asdict(mean_of(values))} for key, values in sorted(self._scores.items())
        ]

    def retrieval(self) -> list[dict[str, object]]:
        """Precision and hit rate at 1 and at top_k, of methods that look edits up."""
        names = ("method", "source", "mode", "size", "when", "aspect", "k")
        return [
            {**_named(names, key), "precision": math.fsum(one for one, _ in found) / len(found),
             "hit": math.fsum(hit for _, hit in found) / len(found), "queries": len(found)}
            for key, found in sorted(self._found.items())
        ]

    def times(self) -> list[dict[str, object]]:
        """Seconds per edit and per answer."""
        return [
            {"method": method, "mode": mode, "size": size, "edit_seconds": math.fsum(edit for _, edit, _ in rows) / len(rows),
             "answer_seconds": math.fsum(answer for _, _, answer in rows) / len(rows), "edits": len({edit for edit, _, _ in rows}),
             "queries": len(rows)}
            for (method, mode, size), rows in sorted(self._times.items())
        ]


def _data_sets(row: EditScore) -> tuple[str, ...]:
    """Where a row counts: "all" are the data sets of facts, as sentiment is measured otherwise."""
    return (row.source,) if row.source == "convsent" else (row.source, "all")


def _named(names: Sequence[str], key: Sequence[str]) -> dict[str, object]:
    return {name: int(value) if name in ("size", "k") else value for name, value in zip(names, key, strict=True)}
