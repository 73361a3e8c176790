"""IFEval: 541 prompts whose instructions a program can check (arXiv:2311.07911), scored strictly and loosely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step, reply_of
from alignray.evals.ifeval.checkers import MAX_RESPONSE, check_loose, check_strict
from alignray.evals.ifeval.instructions import Instruction, InstructionError, read_instructions
from alignray.evals.ifeval.language import need_language_models
from alignray.evals.reading import raw_of
from alignray.evals.statistics import mean_interval
from alignray.evals.summary import mean_figures
from alignray.schema import EvalDraft, Figure, Message, Rejected, Score, ScoredItem
from alignray.seeding import row_id_of

NAME, ANSWER = "ifeval", "ifeval/answer"
METRICS = ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose")
_CHECKS = {"strict": check_strict, "loose": check_loose}


class IFEvalConfig(BenchmarkConfig):
    """IFEval as its official file has it."""

    kind: Literal["ifeval"] = "ifeval"
    prompts: str
    """Official input_data.jsonl."""
    max_new_tokens: int | None = None
    """Of an answer; None: what the role's config says."""
    temperature: float | None = None
    """Of an answer; None: what the role's config says."""

    def files(self) -> dict[str, str]:
        return {"prompts": self.prompts}


def benchmark(config: IFEvalConfig, prompts_dir: str | None = None) -> Benchmark:
    """IFEval for one config; no judge, so no prompt of ``prompts_dir`` is used.

    Raises:
        ConfigError: the language check's library is not installed.
    """
    need_language_models()
    step = answer_step(ANSWER, max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    return Benchmark(NAME, _read, (step,), _score, _summarize)


def _read(files: Files) -> Iterator[EvalDraft | Rejected]:
    rows = files["prompts"]
    if not any("instruction_id_list" in row for row in rows):
        seen = f"keys {', '.join(sorted(map(str, rows[0])))}" if rows else "no rows"
        raise RecordError(f"ifeval.prompts: no row has an instruction_id_list ({seen:.200}); name the official input_data.jsonl")
    known: set[str] = set()
    for number, row in enumerate(rows):
        yield _read_row(row, number, known)


def _read_row(row: Mapping[str, Any], number: int, known: set[str]) -> EvalDraft | Rejected:
    key = str(row["key"]) if isinstance(row.get("key"), str | int) else ""
    row_id = row_id_of(NAME, key) if key and key not in known else row_id_of(NAME, key, str(number))
    prompt, detail, reason = row.get("prompt"), "", ""
    if not key or key in known:
        reason = "duplicate_key" if key else "no_key"
    elif not isinstance(prompt, str) or not prompt.strip():
        reason = "no_prompt"
    else:
        known.add(key)
        try:
            instructions = read_instructions(row.get("instruction_id_list"), row.get("kwargs"))
        except InstructionError as err:
            reason, detail = "bad_instructions", str(err)
        else:
            facts = {"instructions": [{"name": one.name, "kwargs": dict(one.kwargs)} for one in instructions]}
            return EvalDraft(row_id, NAME, key, key, "", (Message("user", prompt),), _json(facts))
    return Rejected(row_id, f"{NAME}/read", reason, raw_of(row), _json({"row": number, "key": key, "problem": detail}))


def _score(draft: EvalDraft) -> tuple[Score, ...]:
    """Of the item: followed all, and the share followed; of each type of instruction in it: the share followed."""
    instructions = instructions_of(draft)
    reply = reply_of(draft, ANSWER)
    problem = "unanswered" if reply is None else "too_long" if len(reply.text) > MAX_RESPONSE else ""
    scores: list[Score] = []
    for mode, check in _CHECKS.items():
        flags = check(instructions, reply.text) if reply is not None and not problem else (False,) * len(instructions)
        scores += [
            Score(f"prompt_{mode}", float(all(flags)), 1.0, problem),
            Score(f"instruction_{mode}", sum(flags) / len(flags), float(len(flags)), problem),
        ]
        for name in dict.fromkeys(instruction.name for instruction in instructions):
            of_type = [flag for flag, instruction in zip(flags, instructions, strict=True) if instruction.name == name]
            scores.append(Score(f"{mode}/{name}", sum(of_type) / len(of_type), float(len(of_type)), problem))
    return tuple(scores)


def instructions_of(draft: EvalDraft | ScoredItem) -> tuple[Instruction, ...]:
    """What the reader found the item to ask for."""
    return tuple(Instruction(one["name"], one["kwargs"]) for one in orjson.loads(draft.facts)["instructions"])


def _summarize(items: Sequence[ScoredItem]) -> Summary:
    names = sorted({score.metric.partition("/")[2] for item in items for score in item.scores} - {""})
    groups = sorted({name.partition(":")[0] for name in names})
    by_group = [_figure(items, mode, group) for mode in _CHECKS for group in groups]
    by_type = {name: {mode: _as_json(_figure(items, mode, name)) for mode in _CHECKS} for name in names}
    details = {
        "by_group": {group: {mode: _as_json(_one(by_group, f"instruction_{mode}", group)) for mode in _CHECKS} for group in groups},
        "by_type": by_type,
        "num_prompts": len(items),
        "num_instructions": sum(len(instructions_of(item)) for item in items),
        "note": "sentences are split by rules and languages told by lingua, so single verdicts can differ from the official evaluator's",
    }
    return Summary((*mean_figures(items, METRICS, by_category=False), *by_group), details)


def _figure(items: Sequence[ScoredItem], mode: str, category: str) -> Figure:
    """Share of the instructions of one type, or of a group of types, that were followed."""
    found = [
        (item.group, score) for item in items for score in item.scores
        if f"{score.metric}:".startswith(f"{mode}/{category}:")
    ]
    good = [(group, score) for group, score in found if not score.problem]
    metric, num_unscored = f"instruction_{mode}", len({group for group, score in found if score.problem})
    if not good:
        return Figure(metric, category, None, None, None, 0, num_unscored)
    estimate = mean_interval(
        [score.value for _, score in good], [group for group, _ in good], [score.weight for _, score in good],
    )
    return Figure(metric, category, estimate.value, estimate.low, estimate.high, len({group for group, _ in good}), num_unscored)


def _one(figures: Sequence[Figure], metric: str, category: str) -> Figure:
    return next(figure for figure in figures if (figure.metric, figure.category) == (metric, category))


def _as_json(figure: Figure) -> dict[str, Any]:
    return {
        "value": figure.value, "low": figure.low, "high": figure.high, "num_prompts": figure.num, "num_unscored": figure.num_unscored,
    }


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
