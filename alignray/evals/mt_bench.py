"""MT-Bench: 80 two-turn questions, graded 1 to 10 by a judge or compared with a baseline in both orders (arXiv:2306.05685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import pydantic

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary
from alignray.evals.judged import (
    CREDIT,
    MIRRORED,
    Question,
    agreed,
    answer_after,
    answers_by_id,
    as_outcome,
    as_rating,
    consistency_score,
    facts_of,
    facts_text,
    failure_scores,
    judge_details,
    judge_figures,
    judge_steps,
    kappa_figure,
    label_schema,
    number_schema,
    numbered_labels,
    question_id,
    read_label,
    read_questions,
    read_rating,
    text_of,
    verdict_of,
    verdict_score,
)
from alignray.evals.statistics import weighted_kappa
from alignray.evals.summary import mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Message, Rejected, Score, ScoredItem

ANSWERS = ("mt_bench/answer_1", "mt_bench/answer_2")
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories whose judge sees the reference answer (FastChat, NEED_REF_CATS)."""
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1,
}
"""Of the candidate, by category (FastChat, temperature_config)."""
_LABELS = ("A", "B", "C")
Games = Mapping[int, tuple[Question[str], Question[str]]]
"""By turn: the question that shows the candidate as A, and the one that shows it as B."""
Templates = tuple[PromptTemplate, PromptTemplate]
"""The judge's prompt without and with reference answers."""
_IF_A = {"A": "win", "B": "loss", "C": "tie"}


class MTBenchConfig(BenchmarkConfig):
    """MT-Bench in one of its two modes."""

    kind: Literal["mt_bench"] = "mt_bench"
    questions: str
    """Official question.jsonl."""
    references: str | None = None
    """Official reference answers (gpt-4.jsonl) for math, reasoning and coding; None: the judge sees none."""
    mode: Literal["single", "pairwise"] = "single"
    """single: each answer gets 1 to 10. pairwise: against the baseline's answers, in both orders."""
    baseline: str | None = None
    """Recorded answers to compare with, as FastChat's model_answer files hold them; for pairwise."""
    judgments: str | None = None
    """Recorded judgements (FastChat's model_judgment files): what they hold is not asked."""
    judged_model: str | None = None
    """The candidate's name in ``judgments``; None: the file is about one model only."""
    labels: str | None = None
    """Human labels for kappa: rows of question_id, turn, and label: win, tie or loss (pairwise), a rating of 1 to 10 (single)."""
    turns: Literal["both", "first"] = "both"
    """first: the second question is neither asked nor judged."""
    temperatures: Literal["official", "role"] = "official"
    """The candidate's: by category as in FastChat, or what the role's config says."""
    max_new_tokens: int | None = 1024
    """Of an answer; FastChat's default."""

    def files(self) -> dict[str, str]:
        paths = {name: getattr(self, name) for name in ("questions", "references", "baseline", "judgments", "labels")}
        return {name: path for name, path in paths.items() if path is not None}

    @pydantic.model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> Self:
        if (self.mode == "pairwise") != (self.baseline is not None):
            raise ValueError(f"mode={self.mode!r} with baseline={self.baseline!r}: pairwise needs a baseline, single takes none")
        return self


def benchmark(config: MTBenchConfig, prompts_dir: str | None = None) -> Benchmark:
    """MT-Bench of a config."""
    turns = (1,) if config.turns == "first" else (1, 2)
    name = "mt_bench" if config.mode == "single" else "mt_bench/pair"
    asked = partial(answer_after, max_new_tokens=config.max_new_tokens, temperature=partial(_temperature, config))
    answers = tuple(asked(ANSWERS[turn - 1], partial(_chat, turn)) for turn in turns)
    if config.mode == "single":
        ratings = {turn: _rating_question(turn, prompts_dir) for turn in turns}
        steps = tuple(step for question in ratings.values() for step in judge_steps(question))
        return Benchmark(
            name, read=partial(_read, config, name), steps=answers + steps, score=partial(_score_single, ratings),
            summarize=partial(_summarize_single, config, ratings),
        )
    games = {turn: (_label_question(turn, "ab", prompts_dir), _label_question(turn, "ba", prompts_dir)) for turn in turns}
    steps = tuple(step for pair in games.values() for question in pair for step in judge_steps(question))
    return Benchmark(
        name, read=partial(_read, config, name), steps=answers + steps, score=partial(_score_pair, games),
        summarize=partial(_summarize_pair, config, games),
    )


# ---- reading


def _read(config: MTBenchConfig, name: str, files: Files) -> Iterator[EvalDraft | Rejected]:
    references = answers_by_id(files.get("references", ()), "mt_bench.references")
    baseline = answers_by_id(files.get("baseline", ()), "mt_bench.baseline")
    judged = _recorded(config, files.get("judgments", ()))
    kind = as_rating if config.mode == "single" else as_outcome
    labels = numbered_labels(files.get("labels", ()), "mt_bench.labels", kind)

    def read_one(row: Mapping[str, Any], key: str, row_id: str) -> EvalDraft | str:
        category, turns = row.get("category"), row.get("turns")
        is_dialogue = isinstance(turns, list) and len(turns) == 2 and all(isinstance(turn, str) for turn in turns)
        if not isinstance(category, str) or not isinstance(turns, list) or not is_dialogue:
            return "malformed"
        facts: dict[str, Any] = {"questions": turns, "judged": judged.get(key, {})}
        facts["labels"] = {turn: labels[f"{key}/{turn}"] for turn in ("1", "2") if f"{key}/{turn}" in labels}
        if references and category in WITH_REFERENCE:
            if len(references.get(key, ())) < 2:
                return "no_reference_answer"
            facts["references"] = references[key]
        if config.mode == "pairwise":
            if len(baseline.get(key, ())) < (1 if config.turns == "first" else 2):
                return "no_baseline_answer"
            facts["baseline"] = baseline[key]
        return EvalDraft(
            row_id, benchmark=name, key=key, group=key, category=category, prompt=(Message("user", turns[0]),), facts=facts_text(facts),
        )

    yield from read_questions(
        files["questions"], read_one, benchmark=name, source="questions", needs="question_id, category and two turns",
    )


def _recorded(config: MTBenchConfig, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Texts of recorded judgements by question and step."""
    columns = ("model",) if config.mode == "single" else ("model_1", "model_2")
    models = {str(row.get(column)) for row in rows for column in columns}
    if rows and (config.judged_model not in models if config.judged_model is not None else len(columns) > 1 or len(models) > 1):
        raise RecordError(
            f"mt_bench.judgments is about {', '.join(sorted(models)[:8])}, and judged_model = {config.judged_model!r} is not one of "
            "them; name the candidate"
        )
    judged: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows):
        model = config.judged_model if config.judged_model is not None else str(row.get("model"))
        if model not in [str(row.get(column)) for column in columns]:
            continue
        key, turn = question_id(row), row.get("turn")
        texts = _texts_single(row) if config.mode == "single" else _texts_pair(row, is_first=row.get("model_1") == model)
        if not key or turn not in (1, 2) or not all(isinstance(text, str) for text in texts.values()):
            raise RecordError(f"mt_bench.judgments: row {number} (keys {', '.join(sorted(row))}) is not of the form of mode={config.mode}")
        judged.setdefault(key, {}).update({f"mt_bench/judge_turn_{turn}{order}": text for order, text in texts.items()})
    return judged


def _texts_single(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"": row.get("judgment")}


def _texts_pair(row: Mapping[str, Any], *, is_first: bool) -> dict[str, Any]:
    """Game 1 shows model_1 as A, game 2 shows model_2 as A; here "ab" is the game that shows the candidate as A."""
    own, other = ("g1_judgment", "g2_judgment") if is_first else ("g2_judgment", "g1_judgment")
    return {"_ab": row.get(own), "_ba": row.get(other)}


# ---- questions to the candidate and the judge


def _chat(turn: int, draft: EvalDraft) -> tuple[Message, ...]:
    if turn == 1:
        return draft.prompt
    return (*draft.prompt, Message("assistant", text_of(draft, ANSWERS[0])), Message("user", facts_of(draft)["questions"][1]))


def _temperature(config: MTBenchConfig, draft: EvalDraft) -> float | None:
    return TEMPERATURES.get(draft.category, 0.7) if config.temperatures == "official" else None


def _rating_question(turn: int, prompts_dir: str | None) -> Question[float]:
    return Question(
        f"mt_bench/judge_turn_{turn}", ask=partial(_ask_rating, turn, _templates("single", turn, prompts_dir)), read=read_rating,
        again=load_prompt("mt_bench/again_rating", prompts_dir), schema=number_schema("rating"),
    )


def _label_question(turn: int, order: str, prompts_dir: str | None) -> Question[str]:
    return Question(
        f"mt_bench/judge_turn_{turn}_{order}", ask=partial(_ask_label, turn, order, _templates("pair", turn, prompts_dir)),
        read=partial(_read_outcome, order), again=load_prompt("mt_bench/again_label", prompts_dir), schema=label_schema(_LABELS),
    )


def _templates(kind: str, turn: int, prompts_dir: str | None) -> Templates:
    name = f"mt_bench/{kind}" if turn == 1 else f"mt_bench/{kind}_turn_2"
    return load_prompt(name, prompts_dir), load_prompt(f"{name}_reference", prompts_dir)


def _ask_rating(turn: int, templates: Templates, draft: EvalDraft) -> str:
    facts = facts_of(draft)
    return _render(templates, facts, _numbered("answer", [text_of(draft, step) for step in ANSWERS], turn), turn)


def _ask_label(turn: int, order: str, templates: Templates, draft: EvalDraft) -> str:
    facts = facts_of(draft)
    own, other = [text_of(draft, step) for step in ANSWERS], facts["baseline"]
    answers_a, answers_b = (own, other) if order == "ab" else (other, own)
    return _render(templates, facts, _numbered("answer_a", answers_a, turn) | _numbered("answer_b", answers_b, turn), turn)


def _render(templates: Templates, facts: Mapping[str, Any], answers: dict[str, str], turn: int) -> str:
    """The judge's prompt for a turn, with the reference answers where the item has them."""
    plain, with_reference = templates
    fields = _numbered("question", facts["questions"], turn) | answers
    if "references" not in facts:
        return plain.render(**fields)
    return with_reference.render(**fields, **_numbered("reference", facts["references"], turn))


def _numbered(field: str, texts: Sequence[str], turn: int) -> dict[str, str]:
    """A field for the first turn alone, or one for each of both."""
    return {field: texts[0]} if turn == 1 else {f"{field}_1": texts[0], f"{field}_2": texts[1]}


def _read_outcome(order: str, text: str) -> str | None:
    """The candidate's outcome by a verdict A, B or C (tie)."""
    label = read_label(text, _LABELS)
    if label is None:
        return None
    return _IF_A[label] if order == "ab" else MIRRORED[_IF_A[label]]


# ---- scores


def _score_single(ratings: Mapping[int, Question[float]], draft: EvalDraft) -> tuple[Score, ...]:
    found = {turn: verdict_of(draft, question) for turn, question in ratings.items()}
    per_turn = tuple(verdict_score(f"turn_{turn}", rating) for turn, rating in found.items())
    return (*(verdict_score("rating", rating) for rating in found.values()), *per_turn, *failure_scores(found.values()))


def _outcomes(games: Games, draft: EvalDraft | ScoredItem) -> dict[int, tuple[str | None, str | None]]:
    return {turn: (verdict_of(draft, first), verdict_of(draft, second)) for turn, (first, second) in games.items()}


def _score_pair(games: Games, draft: EvalDraft) -> tuple[Score, ...]:
    scores: list[Score] = []
    for turn, (first, second) in _outcomes(games, draft).items():
        outcome = agreed(first, second)
        credit = CREDIT[outcome] if outcome is not None else None
        scores += [verdict_score("win_rate", credit), verdict_score(f"win_rate_turn_{turn}", credit)]
        scores += [verdict_score(name, None if outcome is None else float(outcome == name)) for name in ("win", "tie", "loss")]
        scores += [consistency_score(first, second), *failure_scores((first, second))]
    return tuple(scores)


def _summarize_single(config: MTBenchConfig, ratings: Mapping[int, Question[float]], items: Sequence[ScoredItem]) -> Summary:
    """Means as FastChat's show_result has them: unreadable verdicts left out, all turns in one mean."""
    figures = mean_figures(items, ["rating", *(f"turn_{turn}" for turn in ratings)])
    pairs = [
        (item.group, verdict, label) for item in items for turn, question in ratings.items()
        if (label := facts_of(item).get("labels", {}).get(str(turn))) is not None and (verdict := verdict_of(item, question)) is not None
    ]
    details: dict[str, Any] = {"judge": judge_details(items), "notes": ["kappa, where labels are given, is weighted by squared distance"]}
    return Summary(figures + judge_figures(items) + kappa_figure(pairs, weighted_kappa), _noted(config, details))


def _summarize_pair(config: MTBenchConfig, games: Games, items: Sequence[ScoredItem]) -> Summary:
    figures = mean_figures(items, ["win_rate", *(f"win_rate_turn_{turn}" for turn in games), "win", "tie", "loss"])
    pairs = [
        (item.group, verdict, label) for item in items for turn, orders in _outcomes(games, item).items()
        if (label := facts_of(item).get("labels", {}).get(str(turn))) is not None and (verdict := agreed(*orders)) is not None
    ]
    details: dict[str, Any] = {"judge": judge_details(items), "notes": ["a comparison whose two orders differ is a tie; a tie counts half"]}
    return Summary(figures + judge_figures(items) + kappa_figure(pairs), _noted(config, details))


def _noted(config: MTBenchConfig, details: dict[str, Any]) -> dict[str, Any]:
    if config.references is None:
        details["notes"].append("no references given: the judge of math, reasoning and coding saw none, unlike the official one")
    if config.max_items is not None:
        details["max_items"] = config.max_items
    return details
