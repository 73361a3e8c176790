"""Rewards by hand, and labels that are no rules."""

from __future__ import annotations

import json
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import RecordError
from alignray.evals.ifeval.checkers import MAX_RESPONSE
from alignray.evals.rewards import MAX_RULE_BYTES, FollowBenchRule, InstructionRule, Reward, read_rule, reward

IFEVAL: dict[str, Any] = {
    "kind": "ifeval", "instruction_id_list": ["punctuation:no_comma", "startend:quotation", "keywords:existence"],
    "kwargs": [{}, {}, {"keywords": ["it"]}],
}
FOLLOWBENCH: dict[str, Any] = {"kind": "followbench", "rule": "E2E", "language": "en", "level": 1, "target": "name[Aromi]"}
SUMMARY: dict[str, Any] = {"kind": "followbench", "rule": "gigaword", "level": 2}


def test_the_share_of_instructions_followed() -> None:
    assert reward(IFEVAL, 'So,\n"it"') == Reward(1 / 3, (False, False, True))
    assert reward(json.dumps(IFEVAL), '"it"') == Reward(1.0, (True, True, True))
    assert reward({**IFEVAL, "mode": "loose"}, 'So,\n"it"') == Reward(1.0, (True, True, True))
    assert reward(IFEVAL, "") == Reward(0.0, (False, False, False))


def test_credit_for_all_or_nothing() -> None:
    assert reward({**IFEVAL, "credit": "all"}, "it") == Reward(0.0, (True, False, True))
    assert reward({**IFEVAL, "credit": "all"}, '"it"').value == 1.0


def test_followbench_rules_have_one_bit_for_the_whole_or_one_for_each_constraint() -> None:
    assert reward(FOLLOWBENCH, "name[Aromi]\n") == Reward(1.0, (True,))
    assert reward({**FOLLOWBENCH, "variant": "original"}, "name[Aromi]\n") == Reward(0.0, (False,))
    assert len(reward(SUMMARY, "rain fell").bits) == 2
    template = {"kind": "followbench", "rule": "example_template", "level": 3, "target": "{instruction}\n[A] {answer}", "credit": "all"}
    assert reward(template, "[A] rain").value == 1.0 and reward(template, "rain").value == 0.0


def test_a_rule_is_read_once_and_crosses_processes() -> None:
    rule = read_rule(json.dumps(IFEVAL))
    assert isinstance(rule, InstructionRule) and cloudpickle.loads(cloudpickle.dumps(rule)) == rule
    assert reward(rule, '"it"').value == 1.0
    assert read_rule(FOLLOWBENCH) == FollowBenchRule("E2E", 1, target="name[Aromi]")


def test_a_response_beyond_all_measure_earns_nothing() -> None:
    assert reward(IFEVAL, "a" * (MAX_RESPONSE + 1)) == Reward(0.0, (), "too_long")


@pytest.mark.parametrize(("label", "problem"), [
    ("", "a rule is a JSON object"), ("no_comma", "a rule is a JSON object"), ("[]", "a rule is a JSON object"),
    ('{"kind": "ifeval"}{}', "a rule is a JSON object"), ('{"kind": "ifeval", "kwargs": [NaN]}', "a rule is a JSON object"),
    ("[" * 100_000, "a rule is a JSON object"), ("\ud800", "a rule is a JSON object"),
    ('"' + "a" * MAX_RULE_BYTES + '"', "too long"),
    ("{}", "kind ifeval or followbench; got kind = None"), ('{"kind": ["ifeval"]}', "kind ifeval or followbench"),
    ({**IFEVAL, "mod": "loose"}, "has no 'mod'"),
    ({**IFEVAL, "mode": "lax"}, "mode must be strict or loose; got 'lax'"),
    ({**IFEVAL, "credit": 1}, "credit must be share or all; got 1"),
    ({**IFEVAL, "kwargs": [{}, {}]}, "3 instructions have 2 kwargs"),
    ({**IFEVAL, "instruction_id_list": ["__import__"] * 3}, "there is no instruction '__import__'"),
    ({**IFEVAL, "instruction_id_list": ["punctuation:no_comma"] * 60, "kwargs": [{}] * 60}, "60 instructions; 1 to 50"),
    ({**FOLLOWBENCH, "rule": "nothing"}, "there is no rule 'nothing'"),
    ({**FOLLOWBENCH, "level": 6}, "level must be 1 to 5; got 6"), ({**FOLLOWBENCH, "level": True}, "level must be 1 to 5"),
    ({**FOLLOWBENCH, "target": 3}, "target must be a text; got 3"), ({**FOLLOWBENCH, "target": ""}, "no target"),
    ({**FOLLOWBENCH, "language": "de"}, "language must be en or zh"),
])
def test_a_label_that_is_no_rule_is_told(label: Any, problem: str) -> None:
    with pytest.raises(RecordError) as told:
        reward(label if isinstance(label, str) else json.dumps(label), "it")
    assert problem in str(told.value) and len(str(told.value)) < 600


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4,
)


changed_keys = st.dictionaries(st.sampled_from([*IFEVAL, *FOLLOWBENCH, "mode"]), json_values, max_size=4)


@given(changed_keys, st.sampled_from([IFEVAL, FOLLOWBENCH, {}]))
def test_any_label_is_a_rule_or_an_error(changes: dict[str, Any], base: dict[str, Any]) -> None:
    try:
        earned = reward({**base, **changes}, "it")
    except RecordError:
        return
    assert 0 <= earned.value <= 1 and earned.bits
