"""What the judge is asked along an item's path, and how its verdicts are read: strictly, or as the authors' program does.

Source: thesis 7.2 (the prompt knows the path of instructions), 7.4.1 (its ablation), and the authors' parser. Model text is never
evaluated: the authors' ``eval`` is read by hand, as far as lists of quoted words go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Literal

import orjson

from alignray.evals.benchmark import JUDGE, reply_of, with_reply
from alignray.evals.followbench.config import JudgeConfig
from alignray.evals.followbench.items import NAME, Facts
from alignray.evals.followbench.rules import Language
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import ChatRequest, Completion, EvalDraft, Message, Rejected, Reply
from alignray.steps import PromptStep

ANSWER, ASK = f"{NAME}/answer", f"{NAME}/judge"
AGAIN = (f"{NAME}/judge_again_1", f"{NAME}/judge_again_2")

Verdict = tuple[bool, ...] | None
"""One per constraint, in the order in which they were added; None: unreadable."""

_READ_LIMIT = 200_000
_SHOWN_LIMIT = 8_000
_LIST_LIMIT = 2_000
_FENCE = re.compile(r"\A```[A-Za-z]{0,12}[ \t]*\n(.*)\n```\Z", re.DOTALL)
_LAST_LIST = re.compile(r"[^\[\]]{0,80}(\[[^\[\]]{1,400}\])[.*` ]{0,4}")
_REPEATED = re.compile(r"\[\s*(['\"])([A-Z/]{1,12})\1 for \w{1,20} in range\(\s*([0-9]{1,3})\s*\)\s*\]")
_SPELLED_NO: dict[str, frozenset[str]] = {
    "en": frozenset({"NO", "PARTIAL", "MAYBE", "UNKNOWN", "N/A"}),
    "zh": frozenset({"NO", "PARTIAL", "PARTIALLY", "MAYBE", "UNKNOWN"}),
}


# ---- asking


def judge_steps(config: JudgeConfig, prompts_dir: str | None = None) -> tuple[PromptStep[EvalDraft, EvalDraft], ...]:
    """The question, and twice the same with a request for the form where the reply cannot be read."""
    templates = {
        (language, name): load_prompt(f"{NAME}/{name}{'_zh' if language == 'zh' else ''}", prompts_dir)
        for language in ("en", "zh") for name in (f"judge_{config.prompt}", "judge_again")
    }
    first = PromptStep(
        name=ASK, role=JUDGE, takes=EvalDraft, build=partial(_ask, config=config, templates=templates), parse=partial(_keep, step=ASK),
    )
    again = [
        PromptStep(
            name=step, role=JUDGE, takes=EvalDraft, build=partial(_ask_again, step=step, config=config, templates=templates),
            parse=partial(_keep, step=step),
        ) for step in AGAIN
    ]
    return (first, *again)


def _keep(draft: EvalDraft, completion: Completion | None, *, step: str) -> EvalDraft | Rejected:
    return with_reply(draft, step, completion)


Templates = dict[tuple[str, str], PromptTemplate]


def _ask(draft: EvalDraft, *, config: JudgeConfig, templates: Templates) -> ChatRequest | None:
    facts = Facts.from_json(draft.facts)
    if facts.rule or reply_of(draft, ASK) is not None or reply_of(draft, ANSWER) is None:
        return None
    return _request(config, facts, (_question(draft, facts, config, templates),))


def _ask_again(draft: EvalDraft, *, step: str, config: JudgeConfig, templates: Templates) -> ChatRequest | None:
    facts = Facts.from_json(draft.facts)
    asked = [reply for reply in draft.replies if reply.step in (ASK, *AGAIN)]
    if facts.rule or not asked or reply_of(draft, step) is not None or verdict_of(draft.replies, facts, config.parser) is not None:
        return None
    repeat = templates[facts.language, "judge_again"].render(num=facts.level, form=config.form)
    seen = asked[-1].text[-_SHOWN_LIMIT:] or "(empty)"
    turns = (_question(draft, facts, config, templates), Message("assistant", seen), Message("user", repeat))
    return _request(config, facts, turns)


def _question(draft: EvalDraft, facts: Facts, config: JudgeConfig, templates: Templates) -> Message:
    answer = reply_of(draft, ANSWER)
    assert answer is not None
    fields: dict[str, Any] = {
        "kind": "" if facts.category == "mixed" else facts.category, "num": facts.level, "final": facts.path[-1], "answer": answer.text,
        "form": config.form,
    }
    if config.prompt != "final_only":
        fields["initial"] = facts.path[0]
    if config.prompt == "multi_level":
        fields["between"] = list(facts.path[1:-1])
    return Message("user", templates[facts.language, f"judge_{config.prompt}"].render(**fields))


def _request(config: JudgeConfig, facts: Facts, messages: tuple[Message, ...]) -> ChatRequest:
    return ChatRequest(
        messages, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
        json_schema=verdict_schema(facts.level) if config.form == "json" else None,
    )


@cache
def verdict_schema(num: int) -> str:
    """JSON schema of a verdict on so many constraints: each named, reasoned about and decided, in that order."""
    constraint = {
        "type": "object", "additionalProperties": False, "required": ["constraint", "reason", "satisfied"],
        "properties": {"constraint": {"type": "string"}, "reason": {"type": "string"}, "satisfied": {"type": "boolean"}},
    }
    verdicts = {"type": "array", "items": constraint, "minItems": num, "maxItems": num}
    schema = {"type": "object", "additionalProperties": False, "required": ["verdicts"], "properties": {"verdicts": verdicts}}
    return orjson.dumps(schema).decode()


# ---- reading


def verdict_of(replies: Sequence[Reply], facts: Facts, parser: Literal["strict", "original"] = "strict") -> Verdict:
    """The first readable verdict among the judge's replies; None where there is none."""
    for reply in replies:
        if reply.step in (ASK, *AGAIN):
            verdict = read_verdict(reply.text, facts.level) if parser == "strict" else read_as_authors(
                reply.text, facts.level, language=facts.language)
            if verdict is not None:
                return verdict
    return None


def read_verdict(text: str, num: int) -> Verdict:
    """Verdicts in one of the two forms that are asked for, complete and without doubt.

    Either the whole reply is the JSON object of ``verdict_schema``, or its last line ends in a list of ``num`` times 'YES' or 'NO' in
    quotes. Another word, another count or a second list make it unreadable.
    """
    body = text.strip()
    if len(body) > _READ_LIMIT:
        return None
    fenced = _FENCE.match(body)
    inner = fenced[1].strip() if fenced else body
    return _read_json(inner, num) if inner.startswith("{") else _read_last_line(body, num)


def _read_json(text: str, num: int) -> Verdict:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    verdicts = data.get("verdicts") if isinstance(data, dict) else None
    if not isinstance(verdicts, list) or len(verdicts) != num:
        return None
    bits = tuple(bit for verdict in verdicts if isinstance(verdict, dict) and isinstance(bit := verdict.get("satisfied"), bool))
    return bits if len(bits) == num else None


def _read_last_line(text: str, num: int) -> Verdict:
    last = text.rstrip("`* \t\n").rpartition("\n")[2].strip()
    found = _LAST_LIST.fullmatch(last) if len(last) <= _LIST_LIMIT else None
    spelled = _quoted_words(found[1]) if found else None
    if spelled is None or len(spelled) != num or not set(spelled) <= {"YES", "NO"}:
        return None
    return tuple(word == "YES" for word in spelled)


def read_as_authors(text: str, level: int, *, language: Language = "en") -> Verdict:
    """Verdicts as the authors' parser reads them; None where it gives -1.

    At level 1 a last line that contains YES is satisfied ("not YES" too), else one that contains NO is not (UNKNOWN too). Above,
    the last line's brackets from the first to the last hold quoted words: in English as many as the level, in Chinese at least as
    many, also without quotes. Words for half a yes count as no. A Chinese reply's typographic quotes are quotes.

    Differs from the authors' code in that nothing is evaluated: a list is read as one of words, and of comprehensions only
    ``[word for _ in range(n)]``; what other Python they would run is unreadable.
    """
    if language == "zh":
        text = text.replace("\u201c", '"').replace("\u201d", '"')
    last = text.strip("`").strip(" ").strip("\n").rpartition("\n")[2].strip(" ")
    if level == 1:
        return (True,) if "YES" in last else (False,) if "NO" in last else None
    start, end = last.find("["), last.rfind("]")
    if start < 0 or end < start or end - start > _LIST_LIMIT:
        return None
    inside = last[start : end + 1]
    spelled = _repeated(inside) or _quoted_words(inside, bare=_SPELLED_NO["zh"] | {"YES"} if language == "zh" else frozenset())
    if spelled is None or (len(spelled) != level if language == "en" else len(spelled) < level):
        return None
    counted = spelled[:level]
    return tuple(word == "YES" for word in counted) if set(counted) <= _SPELLED_NO[language] | {"YES"} else None


def _quoted_words(text: str, *, bare: frozenset[str] = frozenset()) -> list[str] | None:
    """Words of ``['A', "B"]``; None where it is another thing. Words in ``bare`` may stand without quotes."""
    parts = text[1:-1].split(",")
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    spelled = []
    for part in map(str.strip, parts):
        if len(part) >= 2 and part[0] in "'\"" and part[-1] == part[0] and not set(part[1:-1]) & set("'\"[]\\"):
            spelled.append(part[1:-1])
        elif part in bare:
            spelled.append(part)
        else:
            return None
    return spelled


def _repeated(text: str) -> list[str] | None:
    found = _REPEATED.fullmatch(text)
    return [found[2]] * int(found[3]) if found else None
