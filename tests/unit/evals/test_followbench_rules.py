"""Rule checks: the authors' verdicts as they are, what the mended ones say instead, and that no answer can stall either."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.followbench.rules import RULES, Language, check_rule, rule_of, target_problem
from alignray.evals.followbench.templates import answer_is_right
from alignray.evals.followbench.texts import num_characters, num_words, paragraphs, sentences


def bits(
    rule: str, answer: str, level: int = 5, *, target: str = "", language: Language = "en", fixed: bool = True, gold: str = "",
) -> list[int]:
    verdict = check_rule(rule, answer, language=language, level=level, target=target, gold=gold, variant="fixed" if fixed else "original")
    assert verdict is not None
    assert verdict.hard == all(verdict.bits)
    return [int(bit) for bit in verdict.bits]


# ---- the authors' verdicts


def test_every_recorded_verdict_of_the_authors_rules_is_reproduced(spec_vectors: Callable[[str], Any]) -> None:
    cases = spec_vectors("followbench_rules")["cases"]
    differ = []
    for case in cases:
        verdict = check_rule(case["rule"], case["response"], language=case["lang"], level=case["level"], target=case["target"])
        if (None if verdict is None else verdict.hard) != case["expected"]:
            differ.append(case["id"])
    assert len(cases) == 208 and differ == []


def test_a_rule_judges_only_where_the_official_items_have_one() -> None:
    assert rule_of("en", "format", "oasst", 30) == "format_30" and rule_of("zh", "format", "oasst", 30) == ""
    assert rule_of("en", "mixed", "xsum", 12) == "xsum" and rule_of("en", "example", "xsum", 39) == "example_template"
    assert rule_of("en", "style", "quora", 22) == "" and rule_of("en", "content", "WIKIEVENTS", 19) == "WIKIEVENTS"


def test_cumulative_rules_give_a_bit_per_constraint_of_the_level() -> None:
    answer = "Potter shuns parties. The actor shuns lavish cars. His films earned it."
    assert bits("cnn_dailymail", answer, 1) == [1]
    assert bits("cnn_dailymail", answer, 5) == [1, 1, 1, 0, 0]
    assert bits("cnn_dailymail", answer, 5, fixed=False) == [1, 1, 1, 0, 0]
    assert bits("E2E", "x", 5, target="x") == [1]  # nothing to tell apart


# ---- what is mended


@pytest.mark.parametrize(("rule", "answer", "level", "target", "original", "fixed"), [
    ("E2E", " name[A]\n", 1, "name[A]", 0, 1),
    ("CONLL2003", "Bonn\n", 5, "['Bonn']", 0, 1),
    ("WIKIEVENTS", "a\nb\n", 2, "a\nb\nc", 0, 1),
    ("WIKIEVENTS", "a\na", 2, "a\nb\nc", 1, 0),
    ("WIKIEVENTS", "a", 2, "a\nb\nc", 1, 0),
    ("BBH_time", "01/09/19381", 2, "01/09/1938", 1, 0),
    ("self_made_space", "the 114th floor", 2, "14th floor", 1, 0),
    ("self_made_space", "14th floor, apartment 2", 4, "14th floor, Apartment 2", 0, 1),
    ("gsm_8k", "$14.00", 1, "$14", 1, 1),
    ("gsm_8k", "$14.50", 1, "$14", 1, 0),
    ("gsm_8k", "$1,400", 1, "$1400", 0, 1),
    ("gsm_8k", "$1,400", 1, "$1", 1, 0),
    ("xsum", "The storm hit U.S. coasts at 3.5 p.m. in total.", 1, "", 0, 1),
    ("arxiv", "Weights activations.", 4, "", 1, 0),
    ("gigaword", "two people killed  southern philippines bomb blast", 1, "", 1, 0),
])
def test_single_slips_of_the_english_rules(rule: str, answer: str, level: int, target: str, original: int, fixed: int) -> None:
    assert all(bits(rule, answer, level, target=target, fixed=False)) == bool(original)
    assert all(bits(rule, answer, level, target=target)) == bool(fixed)


@pytest.mark.parametrize(("rule", "answer", "level", "target", "original", "fixed"), [
    ("gigaword", "两人在袭击中丧生", 5, "", 1, 0),
    ("gigaword", "两人于袭击中丧生", 5, "", 0, 1),
    ("gigaword", "二人在袭击中丧生", 3, "", 0, 1),
    ("xsum", "洪" * 20 + "。", 2, "", 0, 1),
    ("xsum", "洪" * 21 + "。", 2, "", 0, 0),
    ("samsum", "琐碎的" + "事" * 12 + "。", 5, "", 0, 1),
    ("gsm_8k", "她赚了$14。", 1, "14美元", 0, 1),
    ("gsm_8k", "她赚了14.00美元。", 1, "14美元", 0, 1),
    ("gsm_8k", "共1,400美元", 1, "1400美元", 0, 1),
    ("BBH_logical", "答案是（B）", 1, "(B)", 0, 1),
    ("self_made_space", "他在114楼", 1, "14楼", 1, 0),
    ("format_22", "木。木。木。\n\n木\n\n木", 2, "", 0, 1),
])
def test_single_slips_of_the_chinese_rules(rule: str, answer: str, level: int, target: str, original: int, fixed: int) -> None:
    assert all(bits(rule, answer, level, target=target, language="zh", fixed=False)) == bool(original)
    assert all(bits(rule, answer, level, target=target, language="zh")) == bool(fixed)


LONG = "You should dust the wooden table every single day with a soft dry cloth so that nothing at all can scratch its polished surface"


def test_format_22_can_be_passed_at_every_level_once_marker_and_closing_words_are_no_sentences() -> None:
    numbered = "\n\n".join(f"{number}. {LONG}." for number in (1, 2, 3))
    closing = ("\n\nThose are suggestions", " Those are suggestions.", "\n\n4. **Those are suggestions.**")
    for closed in (f"{numbered}{words}" for words in closing):
        assert bits("format_22", closed) == [1, 1, 1, 1, 1]
        assert not all(bits("format_22", closed, fixed=False))
    assert bits("format_22", numbered) == [1, 1, 1, 1, 0]
    assert bits("format_22", f"{numbered}\n\n", 4) == [1, 1, 1, 1]
    assert bits("format_22", numbered.replace("2. ", ""), 4) == [1, 1, 1, 0]
    assert bits("format_22", numbered.replace("3. ", "3. Note. Well. "), 4) == [1, 0, 0, 1]


def test_format_30_follows_the_instruction_s_order() -> None:
    point = "Innovation helps our national economy grow much stronger each year"  # 10 words
    answer = "\n".join(f"**{number}. Growth:** {point}." for number in range(1, 6))
    assert bits("format_30", answer) == [1, 1, 1, 1, 1]
    assert bits("format_30", answer, fixed=False) == [1, 1, 1, 0, 1]
    assert bits("format_30", answer.replace("much", "quickly")) == [1, 1, 1, 0, 1]
    assert bits("format_30", answer.replace("much", "family")) == [1, 1, 1, 1, 1]
    assert bits("format_30", answer.replace("year.", "year. It does so.", 1)) == [1, 0, 0, 1, 1]
    assert bits("format_30", answer.replace("**5. Growth:** ", "** ")) == [1, 1, 1, 1, 0]
    assert bits("format_30", answer.rpartition("\n")[0], 1) == [0]
    inline = " ".join(f"**{number}) Growth: {point}." for number in range(1, 6))
    assert bits("format_30", inline) == [1, 1, 1, 1, 1]


# ---- templates


def test_a_template_wants_an_answer_and_lines_only_where_the_true_answer_has_them() -> None:
    target = "{instruction}\n{{'Response': '{answer}'}}"
    one, two = "{'Response': 'x'}", "{'Response': 'x\ny'}"
    assert bits("example_template", "{'Response': ''}", target=target, fixed=False) == [1]
    assert bits("example_template", "{'Response': ''}", target=target) == [0]
    assert bits("example_template", two, target=target, gold=one) == [0]
    assert bits("example_template", two, target=target, gold=two) == [1]
    assert bits("example_template", two, target=target, gold=two, fixed=False) == [0]
    assert bits("example_template", one.replace("'", '"'), target=target) == [0]


def test_a_bare_template_refuses_the_labels_of_others() -> None:
    bare = "{instruction}\n{answer}"
    english = ("[Bot]\nhe", "#Answer#\nhe", "Answer: he", "The response of the bot is: he", "{'bot': 'he'}", "<body>he</body>")
    for other in (*english, "答案是: 他"):
        assert bits("example_template", other, target=bare) == [0], other
    assert bits("example_template", "he", target=bare) == [1]


def test_an_answer_in_form_is_right_when_it_says_the_same() -> None:
    target, gold = "{instruction}\nAnswer: {answer}", "Answer: The Sopranos"
    assert answer_is_right("Answer: the  sopranos.\n", target, gold)
    assert not answer_is_right("Answer: Friends", target, gold) and not answer_is_right("The Sopranos", target, gold)


def test_targets_that_a_rule_cannot_use_are_named() -> None:
    assert target_problem("CONLL2003", "__import__('os').system('true')") and target_problem("CONLL2003", "[1]")
    assert target_problem("CONLL2003", "['Bonn']") == "" and target_problem("E2E", "") and target_problem("xsum", "") == ""
    assert target_problem("example_template", "{instruction}") and target_problem("example_template", "{answer}") == ""


# ---- texts


def test_sentences_as_a_reader_counts_them() -> None:
    assert sentences("Mr. Smith paid $3.50. He left!  \n") == ["Mr. Smith paid $3.50.", "He left!"]
    assert sentences('He said "no." Then... nothing?!') == ['He said "no."', "Then...", "nothing?!"]
    assert sentences(" \n. ") == [] and num_words("a  b - c.") == 3
    assert paragraphs("a\nb\n \n\nc\n") == ["a\nb", "c"] and num_characters("我用 GPT 写了3.5句。") == 8


HOSTILE = ("." * 200_000 + "x", "**1" * 70_000, "is " * 70_000, "has " + " " * 200_000, "9" * 200_000, "$" * 200_000, "\n" * 200_000,
           "**" + " " * 200_000, "a-" * 100_000, "([" * 100_000, "ly" * 100_000, "1. " * 70_000, "（A" * 70_000, "'s " * 70_000)


def test_no_answer_stalls_a_rule() -> None:
    started = time.process_time()
    for (language, variant), rules in RULES.items():
        for rule in rules:
            for answer in HOSTILE:
                target = "['a']" if rule == "CONLL2003" else "$14" if rule == "gsm_8k" else "(A)"
                check_rule(rule, answer[:12_000], language=language, level=5, target=target, variant=variant)  # type: ignore[arg-type]
    assert time.process_time() - started < 10  # each rule reads an answer in one pass


def test_a_point_of_many_lines_is_put_together_in_one_pass() -> None:
    started = time.process_time()
    check_rule("format_30", "**a" + "\n" + "xy\n" * 200_000, level=5, variant="fixed")
    assert time.process_time() - started < 5


@given(st.text(alphabet="aZ1 .!?*\n:-,'我。在了", max_size=60), st.sampled_from(sorted(RULES["en", "original"])), st.integers(1, 5))
def test_a_rule_gives_as_many_bits_as_constraints_and_lower_levels_are_prefixes(answer: str, rule: str, level: int) -> None:
    target = "['a']" if rule == "CONLL2003" else "a"
    for variant in ("original", "fixed"):
        verdict = check_rule(rule, answer, level=level, target=target, variant=variant)
        assert verdict is not None and len(verdict.bits) in (1, level)
        if len(verdict.bits) == level > 1 and level < 5:  # format_22 counts its paragraphs otherwise at level 5
            below = check_rule(rule, answer, level=level - 1, target=target, variant=variant)
            assert below is not None and verdict.bits[:-1] == below.bits
