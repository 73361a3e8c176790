"""BMC's prompt steps: a model answers the question itself where pairs are built from its answers; the editor bridges the pair."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import Any

from alignray.methods.bmc.config import BridgeConfig
from alignray.methods.bmc.edits import edit_rate, same_text
from alignray.prompts import load_prompt
from alignray.schema import BridgedPair, BridgeDraft, ChatRequest, Completion, Message, Rejected
from alignray.steps import PromptStep

ANSWER, EDIT = "bmc/answer", "bmc/edit"
GOOD = "[[GOOD]]"
"""The verdict on a losing answer that is right already."""
ALREADY_GOOD = "already_good"
REASONS = {
    ALREADY_GOOD: "the editor found the losing answer right already",
    "content_filter": "the endpoint's filter stopped the answer",
    "copy": "the edit is the reference itself (on_copy)",
    "cut_at_max_tokens": "the answer was cut at max_new_tokens (on_length)",
    "echo": "the answer repeats labels of the prompt",
    "empty": "nothing was answered",
    "holds_verdict": "an answer holds [[GOOD]] itself, and so was not shown to the editor",
    "identical_pair": "the student's answer is the true one to the word",
    "refusal": "the editor turned the task down",
    "rewritten": "more was changed than max_edit_rate",
    "unchanged": "the edit is the answer that was to be edited",
    "unclear_verdict": "a verdict beside other text, or another one than asked for",
}
"""Why a pair did not come through; a call that fails for good has the engine's reason."""

_VERDICT = re.compile(r"^\[\[\s*([\w ]+?)\s*\]\]")
_MARKS = " \t\n.*`\"'"
# what an editor puts before its answer although it is asked not to; a line of its own, or a label
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay)[,.!]?\s+)?"
    r"(?:here(?:'s|\u2019s| is)[^\n:]{0,80}:[ \t]*\n+|(?:the )?(?:repaired|improved|changed|edited|revised|corrected) answer:\s*"
    r"|\[(?:answer to edit|(?:repaired|improved|changed|edited) answer)\]\s*)",
    re.IGNORECASE,
)
_LABELS = ("[Question]", "[Request]", "[Reference answer]", "[Answer to edit]")
_END = re.compile(r"\s*\[end of the answer\]\s*$", re.IGNORECASE)
_DECLINES = re.compile(
    r"(?:i(?:'m| am) (?:sorry|unable)|sorry,|i apologi[sz]e|i (?:cannot|can't|can not|won't|will not) |as an ai\b|unfortunately, i )",
    re.IGNORECASE,
)


def bridge_steps(
    config: BridgeConfig, *, answers_first: bool, prompts_dir: str | None = None,
) -> list[PromptStep[BridgeDraft, BridgeDraft]]:
    """The chain that every pair walks; empty for plain pairs that are there already.

    Args:
        answers_first: the drafts hold a question and its true answer, and a model's own answer becomes the losing one.
    """
    step = partial(PromptStep, takes=BridgeDraft)
    steps: list[PromptStep[BridgeDraft, BridgeDraft]] = []
    if answers_first:
        steps.append(step(name=ANSWER, role="student", build=_ask_student, parse=partial(_read_answer, config=config)))
    if config.variant != "plain":
        template = load_prompt(prompt_name(config), prompts_dir)

        def ask_editor(draft: BridgeDraft) -> ChatRequest | None:
            answer, reference = _sides(draft, config)
            if GOOD in answer or GOOD in reference:
                return None  # a text that speaks the verdict's language: what the editor means by it could not be told
            task_field = "request" if config.task == "instruction" else "question"
            fields = {task_field: transcript(draft.prompt), "answer": answer}
            if config.variant != "no_reference":
                fields["reference"] = reference
            return ChatRequest((Message("user", template.render(**fields)),))

        steps.append(step(name=EDIT, role="editor", build=ask_editor, parse=partial(_read_edit, config=config)))
    return steps


def prompt_name(config: BridgeConfig) -> str:
    """Which prompt the editor gets."""
    kind = "degrade" if config.variant == "degrade" else "bridge"
    target = "instruction" if config.task == "instruction" else "answer"
    return f"bmc/{kind}_{target}" + ("_no_reference" if config.variant == "no_reference" else "")


def transcript(prompt: tuple[Message, ...]) -> str:
    """The turns before the answer as one text: a single user turn as it is, more of them each under its speaker."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in prompt)


def _sides(draft: BridgeDraft, config: BridgeConfig) -> tuple[str, str]:
    """The answer to edit and the reference."""
    return (draft.chosen, draft.rejected) if config.variant == "degrade" else (draft.rejected, draft.chosen)


def _ask_student(draft: BridgeDraft) -> ChatRequest:
    return ChatRequest(draft.prompt)


def _paid(draft: BridgeDraft, completion: Completion, **changes: Any) -> BridgeDraft:
    return dataclasses.replace(
        draft, prompt_tokens=draft.prompt_tokens + completion.prompt_tokens,
        completion_tokens=draft.completion_tokens + completion.completion_tokens, cost_usd=draft.cost_usd + completion.cost_usd, **changes,
    )


def _unusable(completion: Completion, config: BridgeConfig) -> str:
    """Why an answer cannot be used whatever it says, or nothing."""
    if completion.finish_reason == "length" and config.on_length == "reject":
        return "cut_at_max_tokens"
    if completion.finish_reason == "content_filter":
        return "content_filter"
    return "" if completion.text.strip() else "empty"


def _read_answer(draft: BridgeDraft, completion: Completion | None, *, config: BridgeConfig) -> BridgeDraft | Rejected:
    assert completion is not None
    reason = _unusable(completion, config)
    if not reason and same_text(completion.text, draft.chosen):
        reason = "identical_pair"
    if reason:
        return Rejected(draft.row_id, ANSWER, reason, completion.text[: Rejected.RAW_LIMIT])
    return _paid(draft, completion, rejected=completion.text.strip())


def _read_edit(draft: BridgeDraft, completion: Completion | None, *, config: BridgeConfig) -> BridgeDraft | Rejected:
    if completion is None:
        return Rejected(draft.row_id, EDIT, "holds_verdict", _sides(draft, config)[0][: Rejected.RAW_LIMIT])
    reason, edited = _unusable(completion, config), ""
    if not reason:
        answer, reference = _sides(draft, config)
        edited = read_edit(completion.text, answer, reference)
        reason = _verdict(edited, config, answer) or _problem(edited, answer, reference, config)
    if reason:
        # of a verdict the losing answer is worth looking at: was it good?
        raw = draft.rejected if reason == ALREADY_GOOD else completion.text
        return Rejected(draft.row_id, EDIT, reason, raw[: Rejected.RAW_LIMIT])
    return _paid(draft, completion, edited=edited)


def read_edit(text: str, *answers: str) -> str:
    """The editor's text without a line that announces it and the label that ends it.

    Args:
        answers: where one of the pair's own begins like an announcement, the edit's beginning is taken for text.
    """
    stripped = text.strip()
    body = stripped if any(_PREAMBLE.match(answer.strip()) for answer in answers) else _PREAMBLE.sub("", stripped, count=1)
    return _END.sub("", body).strip() or stripped


def _verdict(text: str, config: BridgeConfig, answer: str) -> str:
    """already_good for the verdict alone, unclear_verdict where there is one in another shape, or nothing."""
    if text.strip(_MARKS).upper() == GOOD:
        return ALREADY_GOOD if config.task != "instruction" else "unclear_verdict"
    if GOOD in text.upper() or (_VERDICT.match(text) and not _VERDICT.match(answer)):
        return "unclear_verdict"
    return ""


def _problem(edited: str, answer: str, reference: str, config: BridgeConfig) -> str:
    if same_text(edited, answer):
        return "unchanged"
    if any(label in edited and label not in answer and label not in reference for label in _LABELS):
        return "echo"
    if _DECLINES.match(edited) and not _DECLINES.search(answer) and not _DECLINES.search(reference):
        return "refusal"
    if config.on_copy == "reject" and same_text(edited, reference):
        return "copy"
    # a copy that is kept is flagged as one, however much it changes
    if not same_text(edited, reference) and edit_rate(answer, edited, unit=config.unit) > config.max_edit_rate:
        return "rewritten"
    return ""


def to_bridged(draft: BridgeDraft, config: BridgeConfig, *, model: str) -> BridgedPair:
    """The finished pair of a draft that came through.

    Args:
        model: the editor's name, for the row.
    """
    chosen, rejected, copies_reference = draft.chosen, draft.rejected, False
    if config.variant == "degrade":
        rejected = draft.edited
        copies_reference = same_text(draft.edited, draft.rejected)
    elif config.variant != "plain":
        chosen = draft.edited
        copies_reference = same_text(draft.edited, draft.chosen)
    return BridgedPair(
        row_id=draft.row_id, prompt=draft.prompt, chosen=chosen, rejected=rejected, original_chosen=draft.chosen,
        original_rejected=draft.rejected, source=draft.source, task=config.task, variant=config.variant,
        edit_rate=edit_rate(rejected, chosen, unit=config.unit),
        original_edit_rate=edit_rate(draft.rejected, draft.chosen, unit=config.unit), copies_reference=copies_reference,
        model="" if config.variant == "plain" else model, prompt_tokens=draft.prompt_tokens,
        completion_tokens=draft.completion_tokens, cost_usd=draft.cost_usd,
    )
