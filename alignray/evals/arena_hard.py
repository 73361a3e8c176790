"""Arena-Hard v0.1: 500 prompts, compared with a baseline in both orders on five verdicts; Bradley-Terry with bootstrap.

Source: arXiv:2406.11939, and the authors' arena-hard-auto.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pydantic

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step
from alignray.evals.judged import (
    CREDIT,
    LOSS,
    MIRRORED,
    SEED,
    TIE,
    WIN,
    Question,
    agreed,
    answers_by_id,
    as_outcome,
    consistency_score,
    facts_of,
    facts_text,
    failure_scores,
    judge_details,
    judge_figures,
    judge_steps,
    kappa_figure,
    label_schema,
    numbered_labels,
    question_id,
    read_label,
    read_questions,
    text_of,
    verdict_of,
    verdict_score,
)
from alignray.evals.statistics import bootstrap_interval
from alignray.evals.summary import mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Message, Rejected, Score, ScoredItem

NAME, ANSWER = "arena_hard", "arena_hard/answer"
VERDICTS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
_OF_A = {"A>>B": WIN, "A>B": WIN, "A=B": TIE, "B>A": LOSS, "B>>A": LOSS}
SCALE, ANCHOR = 400.0, 1000.0
"""Of ratings: 400 points are odds of ten; the baseline stands at 1000."""
_NUM_RESAMPLES = 1000


class ArenaHardConfig(BenchmarkConfig):
    """Arena-Hard v0.1 against recorded baseline answers."""

    kind: Literal["arena_hard"] = "arena_hard"
    questions: str
    """Official question.jsonl: rows of uid or question_id, cluster, and prompt or turns."""
    baseline: str
    """Recorded answers of the baseline (gpt-4-0314.jsonl)."""
    judgments: str | None = None
    """Recorded judgements of the candidate: rows of question_id and games, of which the first shows the baseline as A."""
    labels: str | None = None
    """Human labels for kappa: rows of question_id and label: win, tie or loss."""
    strong_weight: int = pydantic.Field(3, ge=1)
    """What a >> verdict counts, in battles."""
    max_new_tokens: int | None = 4096
    """Of an answer, as published."""

    def files(self) -> dict[str, str]:
        paths = {name: getattr(self, name) for name in ("questions", "baseline", "judgments", "labels")}
        return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True)
class Battle:
    """One comparison of two models."""

    first: str
    second: str
    credit: float
    """Of the first: 1 won, 0.5 tied, 0 lost."""
    weight: float = 1.0


def benchmark(config: ArenaHardConfig, prompts_dir: str | None = None) -> Benchmark:
    """Arena-Hard of a config."""
    games = (_question("game_1", prompts_dir), _question("game_2", prompts_dir))
    steps = (answer_step(ANSWER, max_new_tokens=config.max_new_tokens, temperature=0.0), *judge_steps(games[0]), *judge_steps(games[1]))
    return Benchmark(
        NAME, read=partial(_read, config), steps=steps, score=partial(_score, config.strong_weight, games),
        summarize=partial(_summarize, config, games),
    )


# ---- reading


def _read(config: ArenaHardConfig, files: Files) -> Iterator[EvalDraft | Rejected]:
    baseline = answers_by_id(files["baseline"], "arena_hard.baseline")
    labels = numbered_labels(files.get("labels", ()), "arena_hard.labels", as_outcome)
    judged = _judged(files.get("judgments", ()))

    def read_one(row: Mapping[str, Any], key: str, row_id: str) -> EvalDraft | str:
        question = _prompt(row)
        if not question.strip():
            return "malformed"
        if not baseline.get(key):
            return "no_baseline_answer"
        facts = {"baseline": baseline[key][0], "judged": judged.get(key, {}), "label": labels.get(f"{key}/1")}
        # 250 clusters of two questions each, too many for a table, and so what intervals are clustered by
        return EvalDraft(
            row_id, benchmark=NAME, key=key, group=str(row.get("cluster", key)), category="", prompt=(Message("user", question),),
            facts=facts_text(facts),
        )

    yield from read_questions(
        files["questions"], read_one, benchmark=NAME, source="questions", needs="uid and prompt",
    )


def _prompt(row: Mapping[str, Any]) -> str:
    turns = row.get("turns")
    if isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
        return str(turns[0].get("content", ""))
    return ""


def _judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    judged: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows):
        key, games = question_id(row), row.get("games")
        texts = [game.get("judgment") for game in games if isinstance(game, Mapping)] if isinstance(games, list) else []
        if not key or len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise RecordError(
                f"arena_hard.judgments: row {number} (keys {', '.join(sorted(row))}) has no two games; the pre-release files of "
                "arena-bench-v1 hold one rating of 1 to 10 instead and cannot be used as pairwise judgements"
            )
        judged[key] = {f"{NAME}/judge_game_{place}": str(text) for place, text in enumerate(texts, start=1)}
    return judged


# ---- the judge


def _question(game: str, prompts_dir: str | None) -> Question[str]:
    return Question(
        f"{NAME}/judge_{game}", ask=partial(_ask, game, load_prompt("arena_hard/judge", prompts_dir)),
        read=partial(read_label, labels=VERDICTS), again=load_prompt("arena_hard/again", prompts_dir), schema=label_schema(VERDICTS),
        max_new_tokens=4096,
    )


def _ask(game: str, template: PromptTemplate, draft: EvalDraft) -> str:
    """Game 1 shows the baseline as A, game 2 the candidate, as published."""
    own, baseline = text_of(draft, ANSWER), facts_of(draft)["baseline"]
    answer_a, answer_b = (baseline, own) if game == "game_1" else (own, baseline)
    return template.render(question=draft.prompt[-1].content, answer_a=answer_a, answer_b=answer_b)


def outcome_of(verdict: str, *, is_a: bool) -> str:
    """Win, tie or loss of the model that stands as A, or of the one that stands as B."""
    return _OF_A[verdict] if is_a else MIRRORED[_OF_A[verdict]]


# ---- scores


def _score(strong_weight: int, games: tuple[Question[str], Question[str]], draft: EvalDraft) -> tuple[Score, ...]:
    verdicts = [verdict_of(draft, game) for game in games]
    outcomes = _outcomes(verdicts)
    battles = tuple(
        verdict_score("win_rate", None if outcome is None else CREDIT[outcome], weight=strong_weight if verdict and ">>" in verdict else 1)
        for verdict, outcome in zip(verdicts, outcomes, strict=True)
    )
    return (*battles, consistency_score(*outcomes), *failure_scores(verdicts))


def _outcomes(verdicts: Sequence[str | None]) -> tuple[str | None, str | None]:
    first, second = verdicts
    return (
        None if first is None else outcome_of(first, is_a=False),
        None if second is None else outcome_of(second, is_a=True),
    )


def _summarize(config: ArenaHardConfig, games: tuple[Question[str], Question[str]], items: Sequence[ScoredItem]) -> Summary:
    """Win rate against the baseline in [0, 1]; for one candidate Bradley-Terry's is the weighted mean of its battles' credits."""
    battles = [(item.group, battle) for item in items for battle in battles_of(item)]
    counts = dict.fromkeys(VERDICTS, 0)
    pairs = []
    for item in items:
        verdicts = [verdict_of(item, game) for game in games]
        for verdict in verdicts:
            if verdict is not None:
                counts[verdict] += 1
        label, outcome = facts_of(item).get("label"), agreed(*_outcomes(verdicts))
        if label is not None and outcome is not None:
            pairs.append((item.group, outcome, label))
    details: dict[str, Any] = {
        "judge": judge_details(items), "verdicts_as_given": counts, "bradley_terry": _bradley_terry_details(battles),
        "notes": [f"a >> verdict counts {config.strong_weight} battles; bootstrap and interval draw clusters of questions"],
    }
    if config.max_items is not None:
        details["max_items"] = config.max_items
    return Summary((*mean_figures(items, ["win_rate"]), *judge_figures(items), *kappa_figure(pairs)), details)


CANDIDATE_NAME, BASELINE_NAME = "candidate", "baseline"


def battles_of(item: ScoredItem, *, name: str = CANDIDATE_NAME) -> list[Battle]:
    """The item's readable comparisons with the baseline, from its scores."""
    return [
        Battle(name, BASELINE_NAME, score.value, score.weight) for score in item.scores if score.metric == "win_rate" and not score.problem
    ]


def _bradley_terry_details(battles: Sequence[tuple[str, Battle]]) -> dict[str, Any] | None:
    if not battles:
        return None
    groups: dict[Hashable, list[Battle]] = {}
    for group, battle in battles:
        groups.setdefault(group, []).append(battle)
    found = bootstrap_interval(_star_win_rate, list(groups.values()), seed=SEED, num_resamples=_NUM_RESAMPLES)
    rating = bradley_terry([battle for _, battle in battles], anchor=BASELINE_NAME)[CANDIDATE_NAME]
    return {"win_rate": found.value, "low": found.low, "high": found.high, "rating": rating, "num_resamples": _NUM_RESAMPLES}


def _star_win_rate(battles: Sequence[Battle]) -> float:
    """Bradley-Terry's win rate where all battles are with one opponent: the closed form of the likelihood's maximum."""
    return sum(battle.credit * battle.weight for battle in battles) / sum(battle.weight for battle in battles)


def bradley_terry(battles: Sequence[Battle], *, anchor: str) -> dict[str, float]:
    """Ratings of highest likelihood, the anchor's at 1000, 400 points for odds of ten; ties are half a win for each.

    Newton steps on the log-likelihood. A ridge of 1e-6 on the log-odds keeps the rating of a model finite that wins or loses
    every battle; what it then says is only that the rating is far off.

    Raises:
        ValueError: the anchor fought no battle.
    """
    names = sorted({name for battle in battles for name in (battle.first, battle.second)})
    if anchor not in names:
        raise ValueError(f"no battle names the anchor {anchor!r}; the models are {', '.join(names)}")
    place = {name: number for number, name in enumerate(names)}
    x = np.zeros((len(battles), len(names)))
    for number, battle in enumerate(battles):
        x[number, place[battle.first]] += 1
        x[number, place[battle.second]] -= 1
    x = np.delete(x, place[anchor], axis=1)
    y, w = np.array([battle.credit for battle in battles]), np.array([battle.weight for battle in battles])
    beta = np.zeros(x.shape[1])
    for _ in range(200):
        p = np.exp(-np.logaddexp(0.0, -(x @ beta)))
        step = np.linalg.solve((x.T * (w * p * (1 - p))) @ x + 1e-6 * np.eye(len(beta)), x.T @ (w * (y - p)) - 1e-6 * beta)
        beta = beta + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max(initial=0.0))))
        if float(np.abs(step).max(initial=0.0)) < 1e-10:
            break
    log_odds = np.insert(beta, place[anchor], 0.0)
    return {name: ANCHOR + SCALE / math.log(10) * float(value) for name, value in zip(names, log_odds, strict=True)}
