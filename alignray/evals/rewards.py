"""Rewards that a program can verify: the share of an answer's constraints that hold, for training with PPO or GRPO.

A rule is JSON, as it stands in a training set's label column:

    {"kind": "ifeval", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    {"kind": "followbench", "rule": "E2E", "language": "en", "level": 1, "target": "..."}

An IFEval rule may add ``mode`` (strict, or loose); a FollowBench rule ``gold`` and ``variant`` (fixed, or original); both ``credit``
(share, or all: 1 for all constraints, else 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from alignray.errors import RecordError
from alignray.evals.followbench.rules import check_rule, target_problem
from alignray.evals.ifeval.checkers import MAX_RESPONSE, check_loose, check_strict
from alignray.evals.ifeval.instructions import Instruction, InstructionError, read_instructions

Credit = Literal["share", "all"]
MAX_RULE_BYTES = 262_144
MAX_INSTRUCTIONS = 50
_CREDITS = ("share", "all")
_IFEVAL_KEYS = frozenset({"kind", "instruction_id_list", "kwargs", "mode", "credit"})
_FOLLOWBENCH_KEYS = frozenset({"kind", "rule", "language", "level", "target", "gold", "variant", "credit"})


@dataclass(frozen=True)
class Reward:
    """What one answer earned."""

    value: float
    """0 to 1; 0 where there is a problem."""
    bits: tuple[bool, ...] = ()
    """One per constraint, in the rule's order; none where there is a problem."""
    problem: str = ""
    """Why the answer was not checked: "too_long"."""


@dataclass(frozen=True)
class InstructionRule:
    """The instructions of an IFEval prompt."""

    instructions: tuple[Instruction, ...]
    mode: Literal["strict", "loose"] = "strict"
    credit: Credit = "share"


@dataclass(frozen=True)
class FollowBenchRule:
    """A rule of FollowBench at one level."""

    rule: str
    level: int
    language: Literal["en", "zh"] = "en"
    target: str = ""
    gold: str = ""
    variant: Literal["fixed", "original"] = "fixed"
    credit: Credit = "share"


Rule = InstructionRule | FollowBenchRule


def reward(rule: Rule | Mapping[str, Any] | str, response: str) -> Reward:
    """What a response earns under a rule, 0 to 1.

    Args:
        rule: read already, as a mapping, or as the JSON text of one.

    Raises:
        RecordError: the rule cannot be read.
        ConfigError: it needs a language to be told, and lingua is not installed.
    """
    if not isinstance(rule, InstructionRule | FollowBenchRule):
        rule = read_rule(rule)
    if len(response) > MAX_RESPONSE:
        return Reward(0.0, (), "too_long")
    bits = _check(rule, response)
    return Reward(float(all(bits)) if rule.credit == "all" else sum(bits) / len(bits), bits)


def read_rule(label: Mapping[str, Any] | str) -> Rule:
    """The rule of a label.

    Raises:
        RecordError: the label is no rule, or has keys or values that a rule does not have.
    """
    data = _parsed(label) if isinstance(label, str) else label
    if not isinstance(data, Mapping):
        raise RecordError(f"a rule is a JSON object; got {_shown(data)}")
    kind = data.get("kind")
    if kind not in ("ifeval", "followbench"):
        raise RecordError(f"a rule has the kind ifeval or followbench; got kind = {_shown(kind)}")
    unknown = data.keys() - (_IFEVAL_KEYS if kind == "ifeval" else _FOLLOWBENCH_KEYS)
    if unknown:
        raise RecordError(f"a rule of kind {kind} has no {_shown(', '.join(sorted(map(str, unknown))))}; leave it out")
    return _read_instruction_rule(data) if kind == "ifeval" else _read_followbench_rule(data)


def _parsed(label: str) -> Any:
    # a lone surrogate is no UTF-8, so it is no JSON
    encoded = label.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_RULE_BYTES:
        raise RecordError(f"a rule of {len(encoded)} bytes is too long; {MAX_RULE_BYTES} are the most")
    try:
        return orjson.loads(encoded)
    except orjson.JSONDecodeError as err:
        raise RecordError(f"a rule is a JSON object; got {_shown(label)} ({err})") from err


def _read_instruction_rule(data: Mapping[str, Any]) -> InstructionRule:
    try:
        instructions = read_instructions(data.get("instruction_id_list"), data.get("kwargs"), max_instructions=MAX_INSTRUCTIONS)
    except InstructionError as err:
        raise RecordError(f"rule of kind ifeval: {err}") from err
    mode, credit = _choice(data, "mode", ("strict", "loose")), _choice(data, "credit", _CREDITS)
    return InstructionRule(instructions, mode, credit)  # type: ignore[arg-type]


def _read_followbench_rule(data: Mapping[str, Any]) -> FollowBenchRule:
    name, level = _text(data, "rule"), data.get("level")
    if not isinstance(level, int) or isinstance(level, bool) or not 1 <= level <= 5:
        raise RecordError(f"rule of kind followbench: level must be 1 to 5; got {_shown(level)}")
    language, variant = _choice(data, "language", ("en", "zh")), _choice(data, "variant", ("fixed", "original"))
    target, gold = _text(data, "target"), _text(data, "gold")
    if problem := target_problem(name, target):
        raise RecordError(f"rule of kind followbench: {problem}; got target = {_shown(target)} for {_shown(name)}")
    rule = FollowBenchRule(
        name, level, language, target, gold, variant, _choice(data, "credit", _CREDITS),  # type: ignore[arg-type]
    )
    if check_rule(name, "", language=rule.language, level=level, target=target, gold=gold, variant=rule.variant) is None:
        raise RecordError(f"rule of kind followbench: there is no rule {_shown(name)} for language {language}; name the item's source")
    return rule


def _choice(data: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = data.get(key, choices[0])
    if value not in choices:
        raise RecordError(f"rule of kind {data['kind']}: {key} must be {' or '.join(choices)}; got {_shown(value)}")
    return str(value)


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise RecordError(f"rule of kind {data['kind']}: {key} must be a text; got {_shown(value)}")
    return value


def _check(rule: Rule, response: str) -> tuple[bool, ...]:
    if isinstance(rule, InstructionRule):
        return (check_strict if rule.mode == "strict" else check_loose)(rule.instructions, response)
    verdict = check_rule(
        rule.rule, response, language=rule.language, level=rule.level, target=rule.target, gold=rule.gold, variant=rule.variant,
    )
    assert verdict is not None, "read_rule knows which rules there are"
    return verdict.bits


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:  # JSON may be nested deeper than that
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= 200 else text[:200] + "..."
