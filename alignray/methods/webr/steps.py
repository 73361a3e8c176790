"""WebR's prompt steps: persona, request, response, refine (thesis 4.2.1 to 4.2.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from alignray.methods.webr.config import WebRConfig
from alignray.methods.webr.drafts import layout_of, user_turn
from alignray.methods.webr.texts import (
    is_refusal,
    is_refusal_original,
    strip_improved_original,
    strip_preamble,
    strip_preamble_original,
)
from alignray.prompts import load_prompt
from alignray.schema import ChatRequest, Completion, Message, Rejected, WebRDraft
from alignray.steps import PromptStep

NO_PERSONA = "not known"


def webr_steps(config: WebRConfig, *, seed: int, prompts_dir: str | None = None) -> list[PromptStep[WebRDraft, WebRDraft]]:
    """The chain that every draft walks. Web-as-Instruction drafts have nothing to ask in the last step."""
    prompt = partial(load_prompt, prompts_dir=prompts_dir)
    persona, refine = prompt("webr/persona"), prompt("webr/refine")
    requests = {
        ("instruction", False): prompt("webr/instruction_whole"), ("instruction", True): prompt("webr/instruction_part"),
        ("response", False): prompt("webr/query_whole"), ("response", True): prompt("webr/query_part"),
    }

    def ask_persona(draft: WebRDraft) -> ChatRequest | None:
        return _user(persona.render(text=draft.document.text)) if config.persona else None

    def ask_instruction(draft: WebRDraft) -> ChatRequest:
        template = requests[draft.branch, draft.part]
        return _user(template.render(
            text=draft.text, persona=draft.persona or NO_PERSONA, word=draft.word, max_words=draft.max_words,
        ))

    def ask_response(draft: WebRDraft) -> ChatRequest:
        layout = layout_of(draft, config, seed=seed)
        if draft.branch == "instruction" and config.generation_layout == "doc_first_wide":
            layout = "doc_first_wide"
        return _user(user_turn(draft, layout))

    def ask_refine(draft: WebRDraft) -> ChatRequest | None:
        if draft.branch == "instruction" or not config.refine:
            return None
        return _user(refine.render(text=draft.text, instruction=draft.instruction, rollout=draft.rollout))

    step = partial(PromptStep, takes=WebRDraft)
    return [
        step(name="webr/persona", role="author", build=ask_persona, parse=_reader("webr/persona", "persona", config)),
        step(name="webr/instruction", role="author", build=ask_instruction,
             parse=_reader("webr/instruction", "instruction", config)),
        step(name="webr/response", role="teacher", build=ask_response, parse=partial(_read_response, config=config)),
        step(name="webr/refine", role="rewriter", build=ask_refine, parse=partial(_read_refined, config=config)),
    ]


def _user(text: str) -> ChatRequest:
    return ChatRequest((Message("user", text),))


def _paid(draft: WebRDraft, completion: Completion, **changes: Any) -> WebRDraft:
    return dataclasses.replace(
        draft, prompt_tokens=draft.prompt_tokens + completion.prompt_tokens,
        completion_tokens=draft.completion_tokens + completion.completion_tokens,
        cost_usd=draft.cost_usd + completion.cost_usd, **changes,
    )


def _text_of(name: str, draft: WebRDraft, completion: Completion, config: WebRConfig) -> str | Rejected:
    """The answer without its preamble, or why it cannot be used."""
    reject = partial(Rejected, draft.row_id, name, raw=completion.text[: Rejected.RAW_LIMIT])
    if completion.finish_reason == "length" and config.on_length == "reject" and name != "webr/persona":
        return reject(reason="cut_at_max_tokens")
    if completion.finish_reason == "content_filter":
        return reject(reason="content_filter")
    strip = strip_preamble if config.preamble == "normalized" else strip_preamble_original
    text = strip(completion.text)
    if not text.strip():
        return reject(reason="empty")
    if config.refusals == "normalized" and is_refusal(text):
        return reject(reason="refusal")
    return text


def _reader(name: str, field: str, config: WebRConfig) -> Callable[[WebRDraft, Completion | None], WebRDraft | Rejected]:
    def read(draft: WebRDraft, completion: Completion | None) -> WebRDraft | Rejected:
        if completion is None:
            return draft
        text = _text_of(name, draft, completion, config)
        return text if isinstance(text, Rejected) else _paid(draft, completion, **{field: text})

    return read


def _read_response(draft: WebRDraft, completion: Completion | None, *, config: WebRConfig) -> WebRDraft | Rejected:
    assert completion is not None
    text = _text_of("webr/response", draft, completion, config)
    if isinstance(text, Rejected):
        return text
    if draft.branch == "response" and config.refine:
        return _paid(draft, completion, rollout=text)
    return _answered("webr/response", _paid(draft, completion, response=text), completion.text, config)


def _read_refined(draft: WebRDraft, completion: Completion | None, *, config: WebRConfig) -> WebRDraft | Rejected:
    if completion is None:
        return draft
    text = _text_of("webr/refine", draft, completion, config)
    if isinstance(text, Rejected):
        return text
    if config.preamble == "original":
        text = strip_improved_original(text)
    return _answered("webr/refine", _paid(draft, completion, response=text), completion.text, config)


def _answered(name: str, draft: WebRDraft, raw: str, config: WebRConfig) -> WebRDraft | Rejected:
    if not draft.response.strip():
        return Rejected(draft.row_id, name, "empty", raw[: Rejected.RAW_LIMIT])
    if config.refusals == "prefix" and is_refusal_original(draft.response):
        return Rejected(draft.row_id, name, "refusal", raw[: Rejected.RAW_LIMIT])
    return draft
