"""HumanEval: a function from its docstring, tests in a sandbox, pass@k (Chen et al. 2021, arXiv:2107.03374)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import orjson
import pydantic

from alignray.errors import RecordError
from alignray.evals.benchmark import Benchmark, BenchmarkConfig, Files, Summary, answer_step, reply_of
from alignray.evals.code.programs import program_of
from alignray.evals.reading import raw_of
from alignray.evals.sandbox import Limits, Outcome, Requirement, run_tests
from alignray.evals.summary import mean_figures
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import EvalDraft, Message, Rejected, Score, ScoredItem
from alignray.seeding import row_id_of

NAME = "humaneval"
_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


class HumanEvalConfig(BenchmarkConfig):
    """HumanEval's problems, and how the answers' programs are run."""

    kind: Literal["humaneval"] = "humaneval"
    path: str
    """HumanEval.jsonl.gz, or a file of its form: task_id, prompt, entry_point, canonical_solution, test."""
    style: Literal["chat", "completion"] = "chat"
    """chat asks for the whole function in a code block; completion sends the bare prompt, for a model that continues text."""
    num_samples: int = pydantic.Field(1, ge=1, le=1000)
    """Answers per problem; their temperature is the candidate's own, and above 1 they want one above 0."""
    k: tuple[int, ...] = pydantic.Field((1,), min_length=1)
    """pass@k is reported for each; none may exceed num_samples."""
    max_new_tokens: int | None = None
    """Cap of an answer; None: the role's."""
    timeout_s: float = pydantic.Field(3.0, gt=0, le=600)
    """Wall clock for one program and its tests; the authors' harness has 3 s."""
    memory_mib: int = pydantic.Field(1024, ge=64)
    """Address space of one program."""
    require: Requirement = "strict"
    """strict runs no program where namespaces, an own root and seccomp cannot all be had; best takes what there is, and says so: then
    a program can write where this user can, and end this user's processes."""

    @pydantic.model_validator(mode="after")
    def _k_fits(self) -> HumanEvalConfig:
        for k in self.k:
            if not 1 <= k <= self.num_samples:
                raise ValueError(f"k holds {k}, and pass@k needs 1 <= k <= num_samples = {self.num_samples}; raise num_samples or drop it")
        return self

    def files(self) -> dict[str, str]:
        return {"path": self.path}


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that at least one of k answers drawn from the samples passes: 1 - C(n - c, k) / C(n, k), unbiased.

    Source: arXiv:2107.03374, equation 1, computed as a product so that no binomial grows.

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= num_passed <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} of {num_passed} in {num_samples} is not defined; k and passes lie within the samples")
    if num_samples - num_passed < k:
        return 1.0
    miss = 1.0
    for drawn in range(num_samples - num_passed + 1, num_samples + 1):
        miss *= 1.0 - k / drawn
    return 1.0 - miss


def benchmark(config: HumanEvalConfig, prompts_dir: str | None = None) -> Benchmark:
    """HumanEval as plain functions; only ``score`` runs programs, in the sandbox.

    Each sample is a step of its own name, for which the runtime draws a seed of its own, so that no two come from one cached answer.
    """
    template = load_prompt("code/function", prompts_dir) if config.style == "chat" else None
    names = tuple(f"code/answer_{number}" for number in range(1, config.num_samples + 1))
    return Benchmark(
        name=NAME, read=partial(_read, template=template),
        steps=tuple(answer_step(name, max_new_tokens=config.max_new_tokens) for name in names),
        score=partial(score, config=config, steps=names), summarize=partial(_summarize, config=config),
        check=partial(check_machine, config.require),
    )


def check_machine(require: Requirement, **walls: Any) -> None:
    """Run a program of ours as those of models will be run.

    Raises:
        ConfigError: ``require`` is strict and the machine has no full sandbox.
        EngineError: the sandbox broke.
    """
    run_tests("def probe():\n    return 1", "def check(probe):\n    assert probe() == 1", entry_point="probe", require=require, **walls)


def _read(files: Files, *, template: PromptTemplate | None) -> Iterator[EvalDraft | Rejected]:
    rows = files["path"]
    if rows and not any(isinstance(row, Mapping) and "task_id" in row and "entry_point" in row for row in rows):
        raise RecordError(f"humaneval: path: no row has task_id and entry_point (the first has {_shown(rows[0])}); give HumanEval.jsonl.gz")
    seen: set[str] = set()
    for number, row in enumerate(rows):
        wrong = next((name for name in _FIELDS if not isinstance(row.get(name), str) or not row[name].strip()), None)
        key = row["task_id"] if isinstance(row.get("task_id"), str) else str(number)
        reason = f"no_{wrong}" if wrong else "not_a_name" if not row["entry_point"].isidentifier() else "twice" if key in seen else ""
        if reason:
            yield Rejected(row_id_of(NAME, key, str(number)), f"{NAME}/read", reason, raw_of(row), _json({"row": number}))
            continue
        seen.add(key)
        text = row["prompt"] if template is None else template.render(source=row["prompt"].rstrip(), entry_point=row["entry_point"])
        facts = {"prompt": row["prompt"], "entry_point": row["entry_point"], "solution": row["canonical_solution"], "test": row["test"]}
        yield EvalDraft(row_id_of(NAME, key), NAME, key, key, "", (Message("user", text),), _json(facts))


def score(draft: EvalDraft, *, config: HumanEvalConfig, steps: Sequence[str]) -> tuple[Score, ...]:
    """pass@k of an item, and shares of its answers: without code, over time, and run with every wall of the sandbox up.

    An answer without code, or one cut at its cap, is an answer that fails, as in the paper. Answers that are not there at all
    are a problem.

    Raises:
        ConfigError: ``require`` is strict and the machine has no full sandbox.
        EngineError: the sandbox broke.
    """
    metrics = [f"pass_at_{k}" for k in config.k]
    replies = [reply for name in steps if (reply := reply_of(draft, name)) is not None]
    if len(replies) < len(steps):
        return tuple(Score(metric, 0.0, problem="no_answer") for metric in metrics)
    facts = orjson.loads(draft.facts)
    outcomes = [run_answer(reply.text, facts, config) for reply in replies]
    ran = [outcome for outcome in outcomes if outcome is not None]
    num, passed = len(outcomes), sum(outcome.status == "passed" for outcome in ran)
    scores = [Score(f"pass_at_{k}", pass_at_k(num, passed, k)) for k in config.k]
    scores += [Score("no_code", (num - len(ran)) / num), Score("timed_out", sum(outcome.status == "timed_out" for outcome in ran) / num)]
    if ran:
        scores.append(Score("isolated", sum(outcome.isolation.is_full for outcome in ran) / len(ran)))
    return tuple(scores)


def run_answer(answer: str, facts: Mapping[str, Any], config: HumanEvalConfig) -> Outcome | None:
    """How one answer's program did; None where the answer holds none."""
    program = program_of(answer, prompt=facts["prompt"], entry_point=facts["entry_point"])
    if not program:
        return None
    limits = dataclasses.replace(Limits(), timeout_s=config.timeout_s, memory_bytes=config.memory_mib << 20)
    return run_tests(
        program, facts["test"], entry_point=facts["entry_point"], support=facts["prompt"] + facts["solution"],
        limits=limits, require=config.require,
    )


def _summarize(items: Sequence[ScoredItem], *, config: HumanEvalConfig) -> Summary:
    metrics = [*(f"pass_at_{k}" for k in config.k), "no_code", "timed_out", "isolated"]
    figures = mean_figures(items, metrics)
    isolated = next(figure.value for figure in figures if figure.metric == "isolated")
    walls = "no program was run" if isolated is None else (
        "namespaces, an own root and seccomp around every program" if isolated == 1.0
        else f"on average {isolated:.1%} of an item's programs ran with namespaces, an own root and seccomp; the others with less"
    )
    details = {"num_samples": config.num_samples, "timeout_s": config.timeout_s, "max_items": config.max_items, "sandbox": walls}
    return Summary(figures, details)


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _shown(row: Any) -> str:
    return ", ".join(sorted(map(str, row)))[:200] if isinstance(row, Mapping) else type(row).__name__
