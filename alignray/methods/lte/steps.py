"""LTE's prompt steps: what the paper asks a strong model for. A draft is asked what its ``asks`` name and nothing else.

Source: thesis appendix C: out-of-scope examples (Figure C.1), free-text queries (C.2), their answers (C.3), their verification (C.4),
and answers without the edit where the data does not say what held before.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from alignray.methods.lte.config import LTEConfig
from alignray.methods.lte.render import fact_list
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import ChatRequest, Completion, EditDraft, Message, Rejected
from alignray.steps import PromptStep

AUTHOR, VERIFIER = "author", "verifier"
"""Roles; the thesis has GPT-4 for both."""
OUT_OF_SCOPE, QUERY, ANSWER, VERIFY, PLAIN = "lte/out_of_scope", "lte/query", "lte/answer", "lte/verify", "lte/plain"
EMPTY, CUT, FILTERED, UNREADABLE, FAILED, NO_VERDICT = (
    "empty", "cut_at_max_tokens", "content_filter", "unreadable", "failed_verification", "no_verdict",
)
REASONS = {
    CUT: "the answer was cut at max_new_tokens (on_length)",
    EMPTY: "nothing was answered",
    FAILED: "the verifier found the written answer wrong: [[F]]",
    FILTERED: "the endpoint's filter stopped the answer",
    NO_VERDICT: "the verifier's verdict could not be read, however often it was asked",
    UNREADABLE: "no [Query] and [Answer] in the reply",
}
"""Why a draft did not come through; a call that fails for good has the engine's reason."""

_SHOWN_AGAIN = 4_000
"""Characters of an unreadable reply, from its end, that the verifier is shown when it is asked again."""
_VERDICT = re.compile(r"\[\[([TF])\]\]")
_PAIR = re.compile(r"\A\s*\[Query\]:?+\s*+(?P<query>\S.*?)\s*\n\s*\[Answer\]:?+\s*+(?P<answer>\S.*?)\s*\Z", re.DOTALL)
_LABEL = re.compile(r"\A\s*\[(?:Query|Answer)\]:?[ \t]*")
_NEXT = re.compile(r"\n\s*\[Edit Descriptor\]")

LTEStep = PromptStep[EditDraft, EditDraft]
Read = Callable[[EditDraft, str], EditDraft | str]
"""What an answer makes of a draft, or a reason of ``REASONS``."""


def lte_steps(config: LTEConfig, prompts_dir: str | None = None) -> list[PromptStep[Any, Any]]:
    """The chain that every draft walks; a step that its ``asks`` do not name asks nothing."""
    load = partial(load_prompt, prompts_dir=prompts_dir)
    wrappers = {name: load(f"lte/{name}") for name in ("complete_sentence", "complete_text", "answer_question")}
    step = partial(_step, config=config)
    return [
        step(OUT_OF_SCOPE, _by_descriptor(load("lte/out_of_scope")), _read_pair),
        step(QUERY, _by_descriptor(load("lte/query")), _read_query),
        step(ANSWER, partial(_ask_answer, template=load("lte/answer")), _read_answer),
        *_verify_steps(config, load("lte/verify"), load("lte/verify_again")),
        step(PLAIN, partial(_ask_plain, wrappers=wrappers), _read_plain),
    ]


def verify_names(config: LTEConfig) -> list[str]:
    """Names of the steps that ask the verifier."""
    return [VERIFY, *(f"{VERIFY}_again_{turn}" for turn in range(1, config.retries + 1))]


def read_verdict(text: str) -> bool | None:
    """The last [[T]] or [[F]] of a reply, in capitals; None where there is none."""
    found = _VERDICT.findall(text)
    return found[-1] == "T" if found else None


# ---- one question


def _step(name: str, ask: Callable[[EditDraft], str], read: Read, *, config: LTEConfig) -> LTEStep:
    return PromptStep(
        name=name, role=AUTHOR, takes=EditDraft, build=partial(_build, name=name, ask=ask),
        parse=partial(_parse, name=name, read=read, config=config),
    )


def _build(draft: EditDraft, *, name: str, ask: Callable[[EditDraft], str]) -> ChatRequest | None:
    return ChatRequest((Message("user", ask(draft)),)) if name in draft.asks else None


def _parse(draft: EditDraft, completion: Completion | None, *, name: str, read: Read, config: LTEConfig) -> EditDraft | Rejected:
    if completion is None:
        return draft
    outcome = _unusable(completion, config) or read(draft, completion.text)
    if isinstance(outcome, str):
        return Rejected(draft.row_id, name, outcome, completion.text[: Rejected.RAW_LIMIT])
    return _paid(outcome, completion, asks=tuple(ask for ask in draft.asks if ask != name))


def _unusable(completion: Completion, config: LTEConfig) -> str:
    """Why an answer cannot be used whatever it says, or nothing."""
    if completion.finish_reason == "length" and config.on_length == "reject":
        return CUT
    if completion.finish_reason == "content_filter":
        return FILTERED
    return "" if completion.text.strip() else EMPTY


def _paid(draft: EditDraft, completion: Completion, **changes: Any) -> EditDraft:
    return dataclasses.replace(
        draft, prompt_tokens=draft.prompt_tokens + completion.prompt_tokens,
        completion_tokens=draft.completion_tokens + completion.completion_tokens, cost_usd=draft.cost_usd + completion.cost_usd, **changes,
    )


# ---- out-of-scope examples, queries, answers


def _by_descriptor(template: PromptTemplate) -> Callable[[EditDraft], str]:
    return partial(_ask_by_descriptor, template=template)


def _ask_by_descriptor(draft: EditDraft, *, template: PromptTemplate) -> str:
    return template.render(descriptor=fact_list(draft.facts))


def _ask_answer(draft: EditDraft, *, template: PromptTemplate) -> str:
    return template.render(descriptor=fact_list(draft.facts), query=draft.query)


def _read_pair(draft: EditDraft, text: str) -> EditDraft | str:
    found = _PAIR.match(_first_block(text))
    if found is None:
        return UNREADABLE
    answer = found["answer"].strip()
    return dataclasses.replace(draft, query=found["query"].strip(), answer=answer, plain_answer=answer)


def _read_query(draft: EditDraft, text: str) -> EditDraft | str:
    # a model that goes on like the examples before it writes an answer as well
    query = _LABEL.sub("", _first_block(text)).partition("\n[Answer]")[0].strip()
    return dataclasses.replace(draft, query=query) if query else EMPTY


def _read_answer(draft: EditDraft, text: str) -> EditDraft | str:
    answer = _LABEL.sub("", _first_block(text)).strip()
    return dataclasses.replace(draft, answer=answer) if answer else EMPTY


def _first_block(text: str) -> str:
    """A reply without the further examples that a model may add to those it was shown."""
    return _NEXT.split(text, maxsplit=1)[0]


# ---- verification


def _verify_steps(config: LTEConfig, template: PromptTemplate, again: PromptTemplate) -> list[LTEStep]:
    names = verify_names(config)
    return [
        PromptStep(
            name=name, role=VERIFIER, takes=EditDraft, build=partial(_ask_verifier, template=template, again=again),
            parse=partial(_read_verdict, is_last=name == names[-1]),
        )
        for name in names
    ]


def _ask_verifier(draft: EditDraft, *, template: PromptTemplate, again: PromptTemplate) -> ChatRequest | None:
    """The question at first; the same with the unreadable reply and a request for the form later; nothing once it is answered."""
    if VERIFY not in draft.asks:
        return None
    question = Message("user", template.render(descriptor=fact_list(draft.facts), query=draft.query, answer=draft.answer))
    if not draft.reply:
        return ChatRequest((question,))
    shown = Message("assistant", draft.reply[-_SHOWN_AGAIN:])
    return ChatRequest((question, shown, Message("user", again.render())))


def _read_verdict(draft: EditDraft, completion: Completion | None, *, is_last: bool) -> EditDraft | Rejected:
    if completion is None:
        return draft
    verdict = read_verdict(completion.text)
    if verdict is False or (verdict is None and is_last):
        reason = NO_VERDICT if verdict is None else FAILED
        raw = f"{completion.text}\n\n[query] {draft.query}\n[answer] {draft.answer}"
        return Rejected(draft.row_id, VERIFY, reason, raw[: Rejected.RAW_LIMIT])
    asks = tuple(ask for ask in draft.asks if ask != VERIFY) if verdict else draft.asks
    return _paid(draft, completion, reply=completion.text or "(empty)", verdict=verdict, asks=asks)


# ---- answers without the edit


def _ask_plain(draft: EditDraft, *, wrappers: dict[str, PromptTemplate]) -> str:
    name = wrapper_of(draft)
    return wrappers[name].render(query=draft.query) if name else draft.query


def wrapper_of(draft: EditDraft) -> str:
    """The prompt around a query that is asked without its edit; none for free text and for other people's requests."""
    if draft.kind == "free_text" or draft.aspect == "plain":
        return ""
    if draft.source == "wikibio" and draft.aspect == "edit":
        return "complete_text"
    return "answer_question" if draft.query.rstrip().endswith("?") else "complete_sentence"


def _read_plain(draft: EditDraft, text: str) -> EditDraft | str:
    # a model that completes a sentence may say it from its beginning
    answer = text.strip().removeprefix(draft.query.strip()).strip() or text.strip()
    if draft.kind == "out_of_scope":
        return dataclasses.replace(draft, answer=answer, plain_answer=answer)
    return dataclasses.replace(draft, plain_answer=answer)
