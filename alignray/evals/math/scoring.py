"""Mathematics: readers of the official files, prompts, scores and figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson
import pydantic

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step, reply_of
from alignray.evals.math.answers import final_expression, final_number, last_boxed, official_gsm8k
from alignray.evals.math.equality import same_answer, same_number
from alignray.evals.reading import raw_of
from alignray.evals.summary import mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Message, Rejected, Score, ScoredItem
from alignray.seeding import row_id_of

ANSWER = "math/answer"
METRICS = ("accuracy", "accuracy_all", "accuracy_official")
Row = Mapping[str, Any]


class MathConfig(BenchmarkConfig):
    """Problems with one right answer, from an official file."""

    kind: Literal["math"] = "math"
    format: Literal["gsm8k", "math", "mawps", "svamp", "agieval"]
    """Whose file it is; agieval reads its questions without options (math, gaokao-mathcloze)."""
    path: str
    name: str = pydantic.Field("", pattern=r"^[a-z0-9_]*$")
    """What the results are filed under; empty: the format, and for agieval agieval_math."""
    by: Literal["subject", "level"] = "subject"
    """MATH's table columns."""
    max_new_tokens: int | None = None

    def files(self) -> dict[str, str]:
        return {"path": self.path}

    @property
    def result_name(self) -> str:
        return self.name or ("agieval_math" if self.format == "agieval" else self.format)


@dataclass(frozen=True)
class Problem:
    """One item of any format."""

    key: str
    """The file's own id; empty where it has none."""
    text: str
    gold: str
    category: str = ""


class BadRow(ValueError):
    """Why a row is no problem; the message is a reject reason."""


def read_gsm8k(row: Row, _by: str) -> Problem:
    """GSM8K: question, answer that ends in "#### 18"; also problem and answer as BMC's evaluation has them."""
    answer = _field(row, "answer")
    gold = official_gsm8k(answer) or (answer if re.fullmatch(r"-?[\d,.]{1,60}", answer) else None)
    if gold is None:
        raise BadRow("no_gold_number")
    return Problem("", _field(row, "question" if "question" in row else "problem"), gold.replace(",", ""))


def read_math(row: Row, by: str) -> Problem:
    """MATH: problem, solution with its last box, level, type; MATH-500: also answer, subject, unique_id."""
    gold = row.get("answer")
    if not isinstance(gold, str) or not gold.strip():
        gold = last_boxed(_field(row, "solution"))
    if not gold:
        raise BadRow("no_gold_box")
    column = str(row.get("level", "")) if by == "level" else str(row.get("subject", row.get("type", "")))
    category = f"Level {column}" if by == "level" and column.isdecimal() else column
    return Problem(str(row.get("unique_id") or ""), _field(row, "problem"), gold, category)


def read_mawps(row: Row, _by: str) -> Problem:
    """MAWPS as BMC's evaluation has it: input, target, type."""
    return Problem("", _field(row, "input"), _number(row, "target"), str(row.get("type", "")))


def read_svamp(row: Row, _by: str) -> Problem:
    """SVAMP: Body, Question, Answer, Type (one "Common-Divison" in the file is a slip of the pen), ID."""
    body = _field(row, "Body")
    text = f"{body if body.endswith(('.', '!', '?', ',')) else body + '.'} {_field(row, 'Question')}"
    return Problem(str(row.get("ID") or ""), text, _number(row, "Answer"), str(row.get("Type", "")).replace("Divison", "Division"))


def read_agieval(row: Row, by: str) -> Problem:
    """AGIEval without options: question, answer; its MATH questions have level and type under other."""
    if row.get("options"):
        raise BadRow("has_options")
    other = row.get("other")
    facts: Row = other if isinstance(other, Mapping) else {}
    return Problem("", _field(row, "question"), _field(row, "answer"), str(facts.get("level" if by == "level" else "type", "")))


_READERS: Mapping[str, Callable[[Row, str], Problem]] = {
    "gsm8k": read_gsm8k, "math": read_math, "mawps": read_mawps, "svamp": read_svamp, "agieval": read_agieval,
}
_PLAIN_NUMBERS = ("gsm8k", "mawps", "svamp")


def benchmark(config: MathConfig, prompts_dir: str | None = None) -> Benchmark:
    """The problems of one file as plain functions."""
    template = load_prompt("math/number" if config.format in _PLAIN_NUMBERS else "math/expression", prompts_dir)
    return Benchmark(
        name=config.result_name, read=partial(_read, config=config, template=template),
        steps=(answer_step(ANSWER, max_new_tokens=config.max_new_tokens),), score=partial(score, form=config.format),
        summarize=partial(_summarize, config=config),
    )


def _read(files: Files, *, config: MathConfig, template: PromptTemplate) -> Iterator[EvalDraft | Rejected]:
    name, rows = config.result_name, files["path"]
    num_read, first_problem = 0, ""
    rejected: list[Rejected] = []
    known: set[str] = set()
    for number, row in enumerate(rows):
        try:
            if not isinstance(row, Mapping):
                raise BadRow("not_a_row")
            problem = _READERS[config.format](row, config.by)
        except BadRow as error:
            first_problem = first_problem or str(error)
            rejected.append(Rejected(row_id_of(name, str(number)), f"{name}/read", str(error), raw_of(row), _json({"row": number})))
            continue
        num_read += 1
        key = problem.key or str(number)
        if key in known:
            row_id, detail = row_id_of(name, key, str(number)), _json({"row": number, "key": key})
            rejected.append(Rejected(row_id, f"{name}/read", "duplicate_item", raw_of(row), detail))
            continue
        known.add(key)
        several = {"several": ";" in problem.gold} if config.format not in _PLAIN_NUMBERS else {}
        prompt = template.render(problem=problem.text, **several).strip()
        facts = _json({"gold": problem.gold})
        yield EvalDraft(row_id_of(name, key), name, key, key, problem.category, (Message("user", prompt),), facts)
    if not num_read:
        raise RecordError(
            f"{name}: path = {config.path!r} holds no problem of format {config.format} "
            f"({first_problem or 'it is empty'}); check the format",
        )
    yield from rejected


def score(draft: EvalDraft, *, form: str) -> tuple[Score, ...]:
    """Metrics of one reply, each 0 or 1.

    ``accuracy``: a reply without a final answer is a problem ("unreadable", "cut_at_max_tokens") and in no mean;
    ``accuracy_all``: it counts as wrong, as in published numbers; ``accuracy_official``, GSM8K only: the number after "####"
    is the gold one as text, which takes 18.0 for wrong where 18 is right.
    """
    reply = reply_of(draft, ANSWER)
    metrics = METRICS if form == "gsm8k" else METRICS[:2]
    if reply is None:
        return tuple(Score(metric, 0.0, problem="no_answer") for metric in metrics)
    gold = str(orjson.loads(draft.facts)["gold"])
    given = final_number(reply.text) if form in _PLAIN_NUMBERS else final_expression(reply.text)
    is_right = given is not None and (same_number(given, gold) if form in _PLAIN_NUMBERS else same_answer(given, gold))
    problem = "" if given is not None else "cut_at_max_tokens" if reply.finish_reason == "length" else "unreadable"
    scores = [Score("accuracy", float(is_right), problem=problem), Score("accuracy_all", float(is_right))]
    if form == "gsm8k":
        scores.append(Score("accuracy_official", float(official_gsm8k(reply.text) == gold)))
    return tuple(scores)


def _summarize(items: Sequence[ScoredItem], *, config: MathConfig) -> Summary:
    problems = Counter(score.problem for item in items for score in item.scores if score.metric == "accuracy" and score.problem)
    details = {
        "format": config.format, "max_items": config.max_items, "problems": dict(sorted(problems.items())),
        "note": "accuracy leaves replies without a final answer out, accuracy_all counts them as wrong",
    }
    metrics = METRICS if config.format == "gsm8k" else METRICS[:2]
    return Summary(mean_figures(items, metrics), details)


def _field(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"no_{name.lower()}")
    return value.strip()


def _number(row: Row, name: str) -> str:
    """A number of the file as text: 43.0 as 43; a text that is one passes too."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRow(f"no_{name.lower()}")
    text = str(value).strip()
    if not re.fullmatch(r"-?\d{1,40}(?:\.\d{1,40})?", text):
        raise BadRow(f"no_{name.lower()}")
    return text.removesuffix(".0")


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
