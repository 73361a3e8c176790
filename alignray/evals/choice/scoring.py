"""Multiple choice: prompts, scores and figures for every format in ``questions``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import orjson
import pydantic

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step, reply_of
from alignray.evals.choice.answers import first_capital, plain, read_letters, read_phrase
from alignray.evals.choice.questions import READERS, BadRow, Question, agieval_shots, bbh_shots, rows_of
from alignray.evals.reading import raw_of
from alignray.evals.summary import mean_figure, mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Figure, Message, Rejected, Score, ScoredItem
from alignray.seeding import row_id_of

ANSWER = "choice/answer"
METRICS = ("accuracy", "accuracy_all", "accuracy_thesis")
_ALL_TASKS = "all"


class ChoiceConfig(BenchmarkConfig):
    """Questions with options, from official files of one format."""

    kind: Literal["choice"] = "choice"
    format: Literal["agieval", "bbh", "arc", "mmlu", "ecqa", "qasc", "openbookqa", "strategyqa"]
    """Whose files these are. arc, ecqa, qasc and openbookqa also take the form that BMC's evaluation reads."""
    tasks: dict[str, str] = pydantic.Field(min_length=1)
    """File of each task; the names are the table's columns. BBH's have to be its own (boolean_expressions, ...)."""
    name: str = pydantic.Field("", pattern=r"^[a-z0-9_]*$")
    """What the results are filed under; empty: the format. Two entries of one format need two names."""
    few_shot: dict[str, str] = pydantic.Field(default_factory=dict)
    """Solved examples: BBH's cot-prompts file of each task, or AGIEval's few_shot_prompts.csv under "all". Empty: none, as the thesis."""
    num_shots: int = pydantic.Field(3, ge=1, le=5)
    """Examples shown, where few_shot has as many."""
    reasoning: bool = False
    """Ask for the way to the answer first, and keep it in the examples. The thesis asks for the answer alone."""
    max_new_tokens: int | None = None

    @pydantic.model_validator(mode="after")
    def _examples_fit(self) -> ChoiceConfig:
        allowed = {"agieval": {_ALL_TASKS}, "bbh": set(self.tasks)}.get(self.format, set())
        if unknown := sorted(set(self.few_shot) - allowed):
            fits = ", ".join(sorted(allowed)) or "nothing: this format has no examples of its own"
            raise ValueError(f"few_shot names {', '.join(unknown)}; for format {self.format} it may name {fits}")
        return self

    def files(self) -> dict[str, str]:
        shots = {f"few_shot.{task}": path for task, path in self.few_shot.items()}
        return {f"tasks.{task}": path for task, path in self.tasks.items()} | shots


def benchmark(config: ChoiceConfig, prompts_dir: str | None = None) -> Benchmark:
    """The questions of all tasks as plain functions."""
    templates = {name: load_prompt(f"choice/{name}", prompts_dir) for name in ("question", "free")}
    name = config.name or config.format
    return Benchmark(
        name=name, read=partial(_read, config=config, templates=templates),
        steps=(answer_step(ANSWER, max_new_tokens=config.max_new_tokens),), score=score, summarize=partial(_summarize, config=config),
    )


def _read(files: Files, *, config: ChoiceConfig, templates: Mapping[str, PromptTemplate]) -> Iterator[EvalDraft | Rejected]:
    name = config.name or config.format
    for task in config.tasks:
        rows = list(rows_of(files[f"tasks.{task}"], config.format))
        shots = _shots(files, task, config, templates)
        num_read, first_problem = 0, ""
        rejected: list[Rejected] = []
        known: set[str] = set()
        for number, row in enumerate(rows):
            try:
                if not isinstance(row, Mapping):
                    raise BadRow("not_a_row")
                question = READERS[config.format](row, task)
            except BadRow as error:
                first_problem = first_problem or str(error)
                key = f"{task}/{number}"
                rejected.append(Rejected(row_id_of(name, key), f"{name}/read", str(error), raw_of(row), _json({"key": key})))
                continue
            num_read += 1
            draft = _draft(question, name, task, number, shots, config, templates)
            if draft.key in known:
                row_id, detail = row_id_of(name, draft.key, str(number)), _json({"key": draft.key, "row": number})
                rejected.append(Rejected(row_id, f"{name}/read", "duplicate_item", raw_of(row), detail))
                continue
            known.add(draft.key)
            yield draft
        if not num_read:
            raise RecordError(
                f"{name}: tasks.{task} = {config.tasks[task]!r} holds no question of format {config.format} "
                f"({first_problem or 'it is empty'}); check the format",
            )
        yield from rejected


def _draft(
    question: Question, name: str, task: str, number: int, shots: str | tuple[Message, ...], config: ChoiceConfig,
    templates: Mapping[str, PromptTemplate],
) -> EvalDraft:
    key = f"{task}/{question.key or number}"
    # questions on one passage stand and fall together
    group = f"{task}/{row_id_of(question.passage)[:12]}" if question.passage else key
    as_it_stands = isinstance(shots, str)
    if isinstance(shots, str):
        lead = "A: Let's think step by step." if config.reasoning else "A:"
        prompt: tuple[Message, ...] = (Message("user", f"{shots}\n\nQ: {question.original}\n{lead}"),)
    else:
        prompt = (*shots, Message("user", _ask(question, config, templates)))
    facts = {
        "task": task, "options": list(question.options), "gold": list(question.gold), "many": question.many, "target": question.target,
        # in its official few-shot form a yes-or-no question has no letters, and the thesis' rule nothing to look at
        "lettered": bool(question.options) and (question.lettered or not as_it_stands),
    }
    return EvalDraft(row_id_of(name, key), name, key, group, task, prompt, _json(facts))


def _ask(question: Question, config: ChoiceConfig, templates: Mapping[str, PromptTemplate]) -> str:
    if not question.options:
        return templates["free"].render(question=question.stem, reasoning=config.reasoning).strip()
    options = "\n".join(f"({chr(ord('A') + number)}) {option}" for number, option in enumerate(question.options))
    return templates["question"].render(
        passage=question.passage, question=question.stem, options=options, many=question.many, reasoning=config.reasoning,
    ).strip()


def _shots(files: Files, task: str, config: ChoiceConfig, templates: Mapping[str, PromptTemplate]) -> str | tuple[Message, ...]:
    """BBH: the official prompt's text. AGIEval: earlier turns of the chat. Nothing without few_shot."""
    try:
        if config.format == "bbh" and task in config.few_shot:
            rows = files[f"few_shot.{task}"]
            return bbh_shots(str(rows[0].get("text", "")) if rows else "", config.num_shots, reasoning=config.reasoning)
        if config.format == "agieval" and config.few_shot:
            turns: list[Message] = []
            for question, explanation in agieval_shots(files[f"few_shot.{_ALL_TASKS}"], task, config.num_shots):
                stated = f"The answer is {', '.join(f'({letter})' for letter in question.gold)}."
                turns.append(Message("user", _ask(question, config, templates)))
                turns.append(Message("assistant", f"{explanation.strip()}\n{stated}" if config.reasoning else stated))
            if not turns:
                raise BadRow("no_examples")
            return tuple(turns)
    except BadRow as error:
        name = config.name or config.format
        raise RecordError(f"{name}: few_shot for {task} cannot be used ({error}); give the official file, or none") from None
    return ()


def score(draft: EvalDraft) -> tuple[Score, ...]:
    """Three metrics of one reply, each 0 or 1.

    ``accuracy``: the strict reader; a reply it cannot read is a problem ("unreadable", "cut_at_max_tokens") and in no mean.
    ``accuracy_all``: the same, with those counted as wrong, as published numbers do. ``accuracy_thesis``: the first capital
    letter (section 2.6 of the contract); only where the options have letters. A free answer is right when it is the target but
    for case, markup and a full stop.
    """
    facts: Mapping[str, Any] = orjson.loads(draft.facts)
    metrics = METRICS if facts["lettered"] else METRICS[:2]
    reply = reply_of(draft, ANSWER)
    if reply is None:
        return tuple(Score(metric, 0.0, problem="no_answer") for metric in metrics)
    is_right = _is_right(reply.text, facts)
    problem = "" if is_right is not None else "cut_at_max_tokens" if reply.finish_reason == "length" else "unreadable"
    scores = [Score("accuracy", float(bool(is_right)), problem=problem), Score("accuracy_all", float(bool(is_right)))]
    if facts["lettered"]:
        capital = first_capital(reply.text)
        right = facts["gold"] == [capital] if facts["many"] else capital in facts["gold"]
        scores.append(Score("accuracy_thesis", float(right)))
    return tuple(scores)


def _is_right(text: str, facts: Mapping[str, Any]) -> bool | None:
    """Whether the reply is right; None where it cannot be read."""
    if not facts["options"]:
        stated = read_phrase(text)
        return None if stated is None else stated == plain(facts["target"])
    letters = read_letters(text, facts["options"], many=facts["many"])
    if letters is None:
        return None
    return list(letters) == facts["gold"] if facts["many"] else letters[0] in facts["gold"]


def _summarize(items: Sequence[ScoredItem], *, config: ChoiceConfig) -> Summary:
    """Means over questions, by task, and the unweighted mean of the tasks (``..._task_mean``), which the thesis reports."""
    figures = list(mean_figures(items, METRICS))
    if len({item.category for item in items}) > 1:
        figures += [_task_mean(items, metric) for metric in METRICS]
    problems = Counter(score.problem for item in items for score in item.scores if score.metric == "accuracy" and score.problem)
    details = {
        "format": config.format, "shots": config.num_shots if config.few_shot else 0, "reasoning": config.reasoning,
        "max_items": config.max_items, "problems": dict(sorted(problems.items())),
        "note": "accuracy leaves unreadable replies out, accuracy_all counts them as wrong, accuracy_thesis takes the first capital letter",
    }
    return Summary(tuple(figures), details)


def _task_mean(items: Sequence[ScoredItem], metric: str) -> Figure:
    """Mean of the tasks' means: a question weighs one over the scored questions of its task."""
    per_task = Counter(item.category for item in items for score in item.scores if score.metric == metric and not score.problem)
    weighed = []
    for item in items:
        scores = (score for score in item.scores if score.metric == metric and not score.problem)
        weighed.append(dataclasses.replace(item, scores=tuple(
            dataclasses.replace(score, weight=1.0 / per_task[item.category]) for score in scores
        )))
    figure = mean_figure(weighed, metric)
    unscored = sum(bool(score.problem) for item in items for score in item.scores if score.metric == metric)
    return dataclasses.replace(figure, metric=f"{metric}_task_mean", num_unscored=unscored)


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
