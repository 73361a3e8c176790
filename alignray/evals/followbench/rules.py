"""Which answers a program can judge, and how: the authors' rules as they are, and with their slips mended.

A rule gives one bit per constraint of the level where the constraints add up one by one (the five summaries, format 22 and 30),
and a single bit where only the whole can be compared. ``hard`` is all of them.

Source: FollowBench, arXiv:2310.20410, and thesis arXiv:2506.09329 chapter 7; the authors' rule programs, English and Chinese.
``variant="original"`` gives their verdicts. What ``variant="fixed"`` mends:

| rule | original | fixed |
| --- | --- | --- |
| all | blanks and newlines around an answer fail it | they are dropped first |
| E2E, CONLL2003, text_editing | equal to the target, or in its list | the same, after that |
| WIKIEVENTS | all lines are in the target: one is enough, or one repeated | as many different lines as the level |
| BBH_time | digits after the year are overlooked | the date ends where its digits end |
| BBH_logical (zh) | ASCII brackets only | full-width brackets too |
| self_made_space | "114th floor" holds "14th floor"; case counts | no digit before, none and no letter after; any case |
| gsm_8k | "$14.50" passes for $14, "$1,400" is read as $1 | cents and thousands are read (zh: "$" too) |
| summaries | blanks are a sentence, "3.5" ends one, double blanks are words | as a reader counts |
| cnn_dailymail | "has a budget" is present perfect | has or have, adverbs, a participle |
| xsum | "is King" is progressive; "newton stewart" passes; "operations" lacks "operation" | each the other way |
| samsum, gigaword | typographic marks are none | they are marks |
| arxiv | "Weights" begins with the word We; only "transformer" is one | whole word; any case, and plural |
| gigaword (zh) | level 5 demands the word that it forbids; numerals of Chinese are digits | forbids it; 0-9 are |
| limits (zh) | "at most 15 / 20" means fewer; marks, blanks, Latin letters count | at most; a Latin word is one, the rest none |
| format_22 | "1." is a sentence, closing words too short a one: levels 4, 5 always fail | neither is a sentence |
| format_22 | closing words are a fourth paragraph, to the letter | at the third's end or after it, any marks around them |
| format_22 (zh) | "no more than three" means fewer; line ends count | three pass at levels 2, 3; they do not |
| format_30 | keyword at level 2, the instruction has it at 5 | the instruction's order |
| format_30 | a literal "-ly" | words that end in ly, but for stems such as "family" |
| format_30 | two stops pass for "less than 2 sentences" | one sentence a point, its keyword left out; five points at every level |
| example | any text or none fills the template | an answer must; none of another label where the template has none |
| example | more than one line never does | it does where the true answer has lines too, or none is known (zh) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from alignray.evals.followbench import rules_en, rules_zh
from alignray.evals.followbench.rules_en import Rule, cumulative, entities, whole
from alignray.evals.followbench.rules_zh import Bits
from alignray.evals.followbench.templates import fills_strictly, fills_template

Language = Literal["en", "zh"]
Variant = Literal["original", "fixed"]

EXAMPLE = "example_template"
"""The rule of all items of the example category."""


@dataclass(frozen=True)
class RuleVerdict:
    """What a rule says of one answer."""

    bits: Bits
    """One per constraint, or a single one for the whole."""

    @property
    def hard(self) -> bool:
        return all(self.bits)


def rule_of(language: Language, category: str, source: str, example_id: int) -> str:
    """Name of the rule that judges an official item; empty where a judge is needed.

    The rules of the summaries and of format 22 and 30 are about one text each, so they fit the official items only.
    """
    name = f"format_{example_id}" if category == "format" else source
    if category == "example":
        return EXAMPLE
    return name if name in RULES[language, "original"] else ""


def check_rule(
    rule: str, answer: str, *, language: Language = "en", level: int, target: str = "", gold: str = "", variant: Variant = "original",
) -> RuleVerdict | None:
    """Verdict of a rule on an answer; None where the language has no such rule.

    Args:
        level: of the item, 1 to 5.
        target: what the official file gives: the text to equal, a list, a template.
        gold: the true answer in its template, for the example rule's lines.
    """
    if rule == EXAMPLE:
        fits = fills_template(answer, target) if variant == "original" else fills_strictly(answer, target, gold)
        return RuleVerdict((fits,))
    found = RULES[language, variant].get(rule)
    return None if found is None else RuleVerdict(found(answer, target, level))


def target_problem(rule: str, target: str) -> str:
    """Why a target cannot be used by a rule, or nothing."""
    if rule == EXAMPLE:
        return "" if target.count("{answer}") == 1 else "a template holds {answer} once"
    if rule == "CONLL2003":
        try:
            entities(target)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return "no list of names"
    needs_target = rule in _WITH_TARGET
    return "no target" if needs_target and not target else ""


# ---- the tables


_SHARED = ("E2E", "text_editing", "CONLL2003", "WIKIEVENTS", "BBH_time")


def _chinese(variant: Variant) -> dict[str, Rule]:
    english = rules_en.ORIGINAL if variant == "original" else rules_en.FIXED
    own = rules_zh.ORIGINAL if variant == "original" else rules_zh.FIXED
    rules = {name: english[name] for name in _SHARED} | {name: whole(compare) for name, compare in own.whole.items()}
    rules |= {name: cumulative(*predicates, trimmed=variant == "fixed") for name, predicates in own.summaries.items()}
    return rules | {"format_22": partial(_ignore_target, own.format_22)}


def _ignore_target(rule: Callable[[str, int], Bits], answer: str, _target: str, level: int) -> Bits:
    return rule(answer, level)


RULES: dict[tuple[str, str], dict[str, Rule]] = {
    ("en", "original"): rules_en.ORIGINAL, ("en", "fixed"): rules_en.FIXED,
    ("zh", "original"): _chinese("original"), ("zh", "fixed"): _chinese("fixed"),
}
_WITH_TARGET = frozenset({*_SHARED, "BBH_logical", "self_made_space", "gsm_8k"})
