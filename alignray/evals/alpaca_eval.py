"""AlpacaEval 2: which of two outputs a judge prefers, the win rate against a baseline, and the same at equal lengths (arXiv:2404.04475)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step
from alignray.evals.judged import (
    LOSS,
    SEED,
    TIE,
    UNREADABLE,
    WIN,
    Question,
    as_outcome,
    consistency_score,
    facts_of,
    facts_text,
    failure_scores,
    json_object,
    judge_details,
    judge_figures,
    judge_steps,
    kappa_figure,
    label_schema,
    numbered_labels,
    read_questions,
    text_of,
    verdict_of,
)
from alignray.evals.reading import raw_of
from alignray.evals.statistics import bootstrap_interval
from alignray.evals.summary import mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Figure, Message, Rejected, Reply, Score, ScoredItem
from alignray.seeding import unit_draw

NAME, ANSWER = "alpaca_eval", "alpaca_eval/answer"
COEFFICIENTS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
"""Columns of the published coefficients: of length, difficulty and model."""
_MARKS = ("m", "M")
NO_DIFFICULTY = (
    "length-controlled win rate not computed: it needs the instruction difficulties (instruction_difficulty.csv of the data set "
    "tatsu-lab/alpaca_eval), and no file of them was given"
)
Floats = NDArray[np.float64]


class AlpacaEvalConfig(BenchmarkConfig):
    """AlpacaEval 2 against recorded baseline outputs."""

    kind: Literal["alpaca_eval"] = "alpaca_eval"
    baseline: str
    """Official baseline outputs, the 805 instructions in their order: rows of instruction, output, dataset (or recorded annotations)."""
    annotations: str | None = None
    """Recorded annotations of the candidate (instruction, output_2, preference in [1, 2]): what they hold is not asked."""
    difficulty: str | None = None
    """Official instruction_difficulty.csv: the instruction's place, its difficulty. None: no length-controlled win rate."""
    coefficients: str | None = None
    """Published coefficients of the length-controlled model (baseline_gpt4_1106_preview.csv)."""
    coefficients_of: str | None = None
    """The candidate's row there; None: its coefficients are fitted to the preferences at hand."""
    labels: str | None = None
    """Human labels for kappa: rows of question_id (the instruction's place) and label: win, tie or loss."""
    orders: Literal["random", "both"] = "random"
    """random: one question, in an order drawn for the instruction, as published. both: two, averaged, which shows position bias."""
    seed: int = 0
    """Of the random order."""
    max_new_tokens: int | None = None
    """Of an answer; None: what the candidate's config says (the authors set it for each model)."""

    def files(self) -> dict[str, str]:
        paths = {name: getattr(self, name) for name in ("baseline", "annotations", "difficulty", "coefficients", "labels")}
        return {name: path for name, path in paths.items() if path is not None}

    @pydantic.model_validator(mode="after")
    def _coefficients_fit(self) -> AlpacaEvalConfig:
        if self.coefficients_of is not None and self.coefficients is None:
            raise ValueError(
                f"coefficients_of = {self.coefficients_of!r} names a row of the published coefficients, and coefficients names no file "
                "of them; name it, or leave coefficients_of out to fit the candidate's own"
            )
        if self.coefficients is not None and self.coefficients_of is None:
            raise ValueError("coefficients are used for the row that coefficients_of names; name the candidate's, or leave both out")
        return self


def benchmark(config: AlpacaEvalConfig, prompts_dir: str | None = None) -> Benchmark:
    """AlpacaEval 2 of a config."""
    orders = ("drawn",) if config.orders == "random" else ("drawn", "swapped")
    questions = tuple(_question(order, config.seed, prompts_dir) for order in orders)
    steps = (answer_step(ANSWER, max_new_tokens=config.max_new_tokens), *(step for question in questions for step in judge_steps(question)))
    return Benchmark(
        NAME, read=partial(_read, config), steps=steps, score=partial(_score, config.seed, questions),
        summarize=partial(_summarize, config, questions),
    )


# ---- reading


def _read(config: AlpacaEvalConfig, files: Files) -> Iterator[EvalDraft | Rejected]:
    rows = [{**row, "place": place} for place, row in enumerate(files["baseline"])]
    recorded = _annotations(files.get("annotations", ()))
    difficulty = _difficulty(files.get("difficulty", ()))
    labels = numbered_labels(files.get("labels", ()), "alpaca_eval.labels", as_outcome)
    weights = _weights(config, files.get("coefficients", ()))

    def read_one(row: Mapping[str, Any], key: str, row_id: str) -> EvalDraft | str:
        instruction, output = row["instruction"], row.get("output", row.get("output_1"))
        if not isinstance(output, str) or not instruction.strip():
            return "malformed"
        facts: dict[str, Any] = {"baseline": output, "weights": weights, "difficulty": difficulty.get(key), "label": labels.get(f"{key}/1")}
        replies: tuple[Reply, ...] = ()
        if (found := recorded.get(instruction)) is not None:
            facts["preference"], replies = found[1], (Reply(ANSWER, found[0]),)
        return EvalDraft(
            row_id, benchmark=NAME, key=key, group=key, category=str(row.get("dataset", "")), prompt=(Message("user", instruction),),
            facts=facts_text(facts), replies=replies,
        )

    yield from read_questions(
        rows, read_one, benchmark=NAME, source="baseline", needs="instruction and output", key_of=_key,
    )


def _key(row: Mapping[str, Any]) -> str:
    """The instruction's place in the file, by which the authors' file of difficulties names it."""
    return str(row["place"]) if isinstance(row.get("instruction"), str) else ""


def _annotations(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, float | None]]:
    """Output and preference by instruction; None where the recorded judge gave none."""
    found: dict[str, tuple[str, float | None]] = {}
    for number, row in enumerate(rows):
        instruction, output, preference = row.get("instruction"), row.get("output_2"), row.get("preference")
        is_number = isinstance(preference, int | float) and not isinstance(preference, bool) and math.isfinite(preference)
        if is_number and preference == 0:
            preference = 1.5  # a tie, as annotators before AlpacaEval 2 wrote it
        if not isinstance(instruction, str) or not isinstance(output, str) or (preference is not None and not is_number):
            raise RecordError(f"alpaca_eval.annotations: row {number} needs instruction, output_2 and a preference in [1, 2]")
        if preference is not None and not 1 <= preference <= 2:
            raise RecordError(f"alpaca_eval.annotations: row {number} has preference {preference!r}; it lies in [1, 2]")
        found[instruction] = output, preference
    return found


def _difficulty(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Difficulty by the instruction's place; the file's first column has no name."""
    found = {}
    for number, row in enumerate(rows):
        place = next((row[name] for name in ("", "index", "Unnamed: 0") if row.get(name) not in (None, "")), None)
        value = row.get("instruction_difficulty", row.get("difficulty"))
        try:
            key, difficulty = str(int(str(place))), float(str(value))
        except ValueError:
            difficulty = math.nan
        if not math.isfinite(difficulty):
            raise RecordError(f"alpaca_eval.difficulty: row {number} is {raw_of(row)[:200]}; it needs a place and instruction_difficulty")
        found[key] = difficulty
    return found


def _weights(config: AlpacaEvalConfig, rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The candidate's published coefficients, in the order of COEFFICIENTS."""
    if config.coefficients_of is None:
        return None
    for row in rows:
        if config.coefficients_of in (row.get(""), row.get("model"), row.get("Unnamed: 0")):
            try:
                return [float(row[name]) for name in COEFFICIENTS]
            except (KeyError, TypeError, ValueError) as err:
                columns = ", ".join(COEFFICIENTS)
                raise RecordError(f"alpaca_eval.coefficients: row {config.coefficients_of!r} needs numbers under {columns}") from err
    raise RecordError(
        f"alpaca_eval.coefficients has no row {config.coefficients_of!r}; leave coefficients_of out to fit the candidate's own"
    )


# ---- the judge


def _question(order: str, seed: int, prompts_dir: str | None) -> Question[str]:
    name = "alpaca_eval/judge" if order == "drawn" else "alpaca_eval/judge_swapped"
    return Question(
        name, ask=partial(_ask, order, seed, load_prompt("alpaca_eval/judge", prompts_dir)), read=_read_mark,
        again=load_prompt("alpaca_eval/again", prompts_dir), schema=label_schema(_MARKS), max_new_tokens=16,
    )


def _is_first(order: str, seed: int, draft: EvalDraft | ScoredItem) -> bool:
    """Whether the candidate stands first: drawn for the instruction, and so the same for every candidate."""
    return (unit_draw(seed, draft.key, "alpaca_eval/order") < 0.5) == (order == "drawn")


def _ask(order: str, seed: int, template: PromptTemplate, draft: EvalDraft) -> str | None:
    facts = facts_of(draft)
    if "preference" in facts:
        return None
    outputs = [text_of(draft, ANSWER), facts["baseline"]]
    first, second = outputs if _is_first(order, seed, draft) else outputs[::-1]
    return template.render(instruction=draft.prompt[-1].content, first=first, second=second)


def _read_mark(text: str) -> str | None:
    """m or M alone, quoted or not; JSON with a verdict. Case is all that tells them apart, and so nothing else is read."""
    found = json_object(text)
    mark = found.get("verdict") if found is not None else text.strip().strip(".`\"'*()[]")
    return mark if mark in _MARKS else None


def _preferences(seed: int, questions: Sequence[Question[str]], draft: EvalDraft | ScoredItem) -> list[float | None]:
    """The candidate's share of the preference in each order, in [0, 1]."""
    facts = facts_of(draft)
    if "preference" in facts:
        return [None if facts["preference"] is None else facts["preference"] - 1.0]
    shares: list[float | None] = []
    for question, order in zip(questions, ("drawn", "swapped"), strict=False):
        mark = verdict_of(draft, question)
        shares.append(None if mark is None else float((mark == "m") == _is_first(order, seed, draft)))
    return shares


# ---- scores


def _score(seed: int, questions: Sequence[Question[str]], draft: EvalDraft) -> tuple[Score, ...]:
    shares = _preferences(seed, questions, draft)
    readable = [share for share in shares if share is not None]
    is_whole = len(readable) == len(shares)
    share = sum(readable) / len(readable) if is_whole else 0.0
    problem = "" if is_whole else UNREADABLE
    scores = [Score("win_rate", share, problem=problem), Score("discrete_win_rate", _discrete(share) if is_whole else 0.0, problem=problem)]
    if len(shares) == 2:
        scores.append(consistency_score(*(None if one is None else str(one) for one in shares)))
    return (*scores, *failure_scores(shares))


def _discrete(share: float) -> float:
    return 1.0 if share > 0.5 else 0.0 if share < 0.5 else 0.5


def _summarize(config: AlpacaEvalConfig, questions: Sequence[Question[str]], items: Sequence[ScoredItem]) -> Summary:
    scored = [(item, score.value) for item in items for score in item.scores if score.metric == "win_rate" and not score.problem]
    figure, length_controlled = _length_controlled(config, scored, len(items))
    details: dict[str, Any] = {
        "judge": judge_details(items), "leaderboard": leaderboard_numbers([value for _, value in scored]),
        "length_controlled": length_controlled, "notes": [],
        "mean_length_characters": float(np.mean([len(text_of_item(item)) for item in items])) if items else None,
    }
    if any("preference" not in facts_of(item) for item in items):
        details["notes"].append(
            "preferences of the judge are hard (0 or 1): the published ones are weighted by the log-probabilities of m and M, which "
            "engines here do not give"
        )
        details["win_rate_by_place"] = _by_place(config.seed, scored)
        if config.orders == "random":
            details["notes"].append("position consistency is not measured: each pair is shown in one order, as published; see orders")
    if config.max_items is not None:
        details["max_items"] = config.max_items
    pairs = [
        (item.group, {1.0: WIN, 0.5: TIE, 0.0: LOSS}[_discrete(value)], label)
        for item, value in scored if (label := facts_of(item).get("label")) is not None
    ]
    figures = mean_figures(items, ["win_rate"]) + mean_figures(items, ["discrete_win_rate"], by_category=False)
    return Summary((*figures, figure, *judge_figures(items), *kappa_figure(pairs)), details)


def text_of_item(item: ScoredItem) -> str:
    """The candidate's output."""
    return next((reply.text for reply in item.replies if reply.step == ANSWER), "")


def leaderboard_numbers(shares: Sequence[float]) -> dict[str, float | int | None]:
    """The leaderboard's columns, its rates and standard error in percent, from preferences in [0, 1]."""
    num = len(shares)
    if not num:
        return {"n_total": 0, "win_rate": None, "standard_error": None}
    num_wins, num_losses = sum(share > 0.5 for share in shares), sum(share < 0.5 for share in shares)
    num_draws = num - num_wins - num_losses
    return {
        "win_rate": 100 * float(np.mean(shares)),
        "standard_error": 100 * float(np.std(shares, ddof=1)) / math.sqrt(num) if num > 1 else None,
        "n_wins": num_wins, "n_wins_base": num_losses, "n_draws": num_draws, "n_total": num,
        "discrete_win_rate": 100 * (num_wins + num_draws / 2) / num,
    }


def _by_place(seed: int, scored: Sequence[tuple[ScoredItem, float]]) -> dict[str, float | None]:
    """Win rate where the candidate stood first and where it stood second: far apart means that the judge goes by place."""
    values: dict[bool, list[float]] = {True: [], False: []}
    for item, value in scored:
        values[_is_first("drawn", seed, item)].append(value)
    return {name: float(np.mean(values[key])) if values[key] else None for name, key in (("first", True), ("second", False))}


# ---- length control


def length_feature(baseline_lengths: Sequence[int], lengths: Sequence[int]) -> Floats:
    """tanh of the baseline's length less the candidate's, in characters, over the sample standard deviation of that difference."""
    delta = np.asarray(baseline_lengths, dtype=np.float64) - np.asarray(lengths, dtype=np.float64)
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    return np.tanh(delta / spread) if spread > 0 else np.zeros(len(delta))


def length_controlled_win_rate(weights: Sequence[float], difficulty: Sequence[float]) -> float:
    """Win rate in [0, 1] that the model foresees at equal lengths.

    Source: arXiv:2404.04475, and the authors' glm_winrate.py. logit P(candidate preferred) = a tanh(length difference) +
    b difficulty + c; at equal lengths the first term is gone. The baseline's own coefficients are 0.
    """
    _, slope, level = weights
    return float(np.mean(_logistic(level + slope * np.asarray(difficulty, dtype=np.float64))))


def fit_length_controlled(shares: Sequence[float], length: Floats, difficulty: Sequence[float]) -> list[float]:
    """Coefficients (length, difficulty, model) of highest likelihood for preferences in [0, 1], by Newton steps.

    The authors choose an L1 penalty by cross-validation and add rows of a baseline told to be brief or verbose (df_gamed.csv) at a
    weight of 0.2; we do neither (a ridge of 1e-3 keeps the solution finite), so numbers differ somewhat from a leaderboard's.
    """
    x = np.column_stack([length, np.asarray(difficulty, dtype=np.float64), np.ones(len(length))])
    y, beta = np.asarray(shares, dtype=np.float64), np.zeros(3)
    for _ in range(100):
        p = _logistic(x @ beta)
        gradient = x.T @ (y - p) - _RIDGE * beta
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + _RIDGE * np.eye(3), gradient)
        beta = beta + step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-9:
            break
    return [float(value) for value in beta]


_RIDGE = 1e-3
_NUM_REFITS = 200


def _logistic(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -x))


def _length_controlled(config: AlpacaEvalConfig, scored: Sequence[tuple[ScoredItem, float]], num: int) -> tuple[Figure, dict[str, Any]]:
    """The figure, or one without a value and the reason."""
    name = "length_controlled_win_rate"
    facts = [facts_of(item) for item, _ in scored]
    difficulty = [found["difficulty"] for found in facts]
    missing = sum(value is None for value in difficulty)
    if config.difficulty is None or missing or not scored:
        why = f"length-controlled win rate not computed: {missing} of {len(scored)} scored items have no difficulty"
        why = NO_DIFFICULTY if config.difficulty is None else why
        return Figure(name, "", None, None, None, 0, num), {"value": None, "missing": why}
    weights = facts[0]["weights"]
    if weights is not None:
        value = length_controlled_win_rate(weights, difficulty)
        how = f"published coefficients of {config.coefficients_of}; no interval, as they come without one"
        figure = Figure(name, "", value, None, None, len(scored), num - len(scored))
        return figure, {"value": value, "coefficients": weights, "how": how}
    length = length_feature([len(found["baseline"]) for found in facts], [len(text_of_item(item)) for item, _ in scored])
    rows = list(zip([share for _, share in scored], length.tolist(), difficulty, strict=True))
    found = bootstrap_interval(_refit, [[row] for row in rows], seed=SEED, num_resamples=_NUM_REFITS)
    weights = fit_length_controlled([row[0] for row in rows], length, difficulty)
    how = f"coefficients fitted here, without the authors' penalty and rows of a gamed baseline; interval of {_NUM_REFITS} refits"
    figure = Figure(name, "", found.value, found.low, found.high, found.num, num - len(scored))
    return figure, {"value": found.value, "coefficients": weights, "how": how}


def _refit(rows: Sequence[tuple[float, float, float]]) -> float:
    shares, length, difficulty = (list(column) for column in zip(*rows, strict=True))
    return length_controlled_win_rate(fit_length_controlled(shares, np.array(length), difficulty), difficulty)
