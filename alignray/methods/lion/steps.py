"""Lion's prompt steps: the teacher answers once, the student each round, the referee scores both in both orders, the generator writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from alignray.methods.lion.config import LionConfig
from alignray.methods.lion.discriminate import gap_of, reading_of
from alignray.methods.lion.filters import BAD_START, CUT, FILTERED, MARKER_WORD, TOO_SHORT, instruction_in, num_words, why_unusable
from alignray.methods.lion.referee import SCORES_SCHEMA, STUDENT_FIRST, TEACHER_FIRST, ask_referee, scores_of
from alignray.prompts import PromptTemplate, load_prompt
from alignray.schema import Candidate, ChatRequest, Completion, LionDraft, Message, Rejected, Review
from alignray.steps import PromptStep

TEACHER, STUDENT, REFEREE, GENERATOR = "teacher", "student", "referee", "generator"
"""Roles."""
TEACHER_STEP, STUDENT_STEP, REFEREE_STEP, GENERATOR_STEP = "lion/teacher", "lion/student", "lion/referee", "lion/generator"
UNREADABLE, EMPTY = "unreadable", "empty"
REASONS = {
    BAD_START: "the new instruction does not begin with a letter or digit (first_character)",
    FILTERED: "the endpoint's filter stopped the answer",
    CUT: "the answer was cut at max_new_tokens (on_length for the teacher's; a new instruction is never kept cut)",
    EMPTY: "the teacher answered nothing",
    MARKER_WORD: 'the new instruction holds "instruction"',
    TOO_SHORT: "the new instruction has three words or fewer",
    UNREADABLE: "no reply of the referee could be read, in either order and however often it was asked: quarantined",
}
"""Why a row did not come through; a call that fails for good has the engine's reason."""

_SHOWN_AGAIN = 4_000
"""Characters of an unreadable reply, from its end, that the referee is shown when it is asked again."""

Record = TypeVar("Record", LionDraft, Candidate)
LionStep = PromptStep[LionDraft, LionDraft]


def teacher_steps(config: LionConfig, prompts_dir: str | None = None) -> list[PromptStep[Any, Any]]:
    """The teacher's answer to an instruction, asked once and used for training and for every round's review."""
    system, template = (load_prompt(name, prompts_dir) for name in ("lion/teacher_system", "lion/teacher"))
    return [PromptStep(
        name=TEACHER_STEP, role=TEACHER, takes=LionDraft, build=partial(_ask_teacher, system=system, template=template),
        parse=partial(_read_teacher, config=config),
    )]


def judge_steps(config: LionConfig, prompts_dir: str | None = None) -> list[PromptStep[Any, Any]]:
    """The student's answer of a round, then the referee in both orders, in each up to ``config.retries`` times more.

    A draft that carries an answer and reviews of an earlier round loses them. The last step rejects a row whose scores could not be
    read in either order; one order is enough, and ``gap_of`` says that it was one.
    """
    form = "_json" if config.referee_form == "json" else ""
    names = ("referee_system", f"referee{form}", f"referee_again{form}")
    system, template, again = (load_prompt(f"lion/{name}", prompts_dir) for name in names)
    schema = SCORES_SCHEMA if form else None
    steps = [PromptStep(name=STUDENT_STEP, role=STUDENT, takes=LionDraft, build=_ask_student, parse=_read_student)]
    for order in (TEACHER_FIRST, STUDENT_FIRST):
        question: Question = partial(_question, system=system, template=template, teacher_first=order == TEACHER_FIRST)
        for name in names_of(order, config):
            steps.append(PromptStep(
                name=name, role=REFEREE, takes=LionDraft,
                build=partial(_ask_again, order=order, question=question, again=again, schema=schema),
                parse=partial(_read_referee, name=name, teacher_first=order == TEACHER_FIRST, config=config),
            ))
    last = steps.pop()
    return [*steps, dataclasses.replace(last, parse=partial(_quarantine, parse=last.parse))]


def generator_steps(config: LionConfig, prompts_dir: str | None = None) -> list[PromptStep[Any, Any]]:
    """The new instruction of a drawing. Whether it is new indeed is decided over all of them, by the pipeline."""
    templates = {origin: load_prompt(f"lion/generator_{origin}", prompts_dir) for origin in ("hard", "easy")}
    return [PromptStep(
        name=GENERATOR_STEP, role=GENERATOR, takes=Candidate, build=partial(_ask_generator, templates=templates, config=config),
        parse=partial(_read_generator, config=config),
    )]


def names_of(order: str, config: LionConfig) -> list[str]:
    """Names of the steps that ask the referee in one order."""
    return [order, *(f"{order}_again_{turn}" for turn in range(1, config.retries + 1))]


def _paid(record: Record, completion: Completion, **changes: Any) -> Record:
    return dataclasses.replace(
        record, prompt_tokens=record.prompt_tokens + completion.prompt_tokens,
        completion_tokens=record.completion_tokens + completion.completion_tokens,
        cost_usd=record.cost_usd + completion.cost_usd, **changes,
    )


# ---- teacher and student


def _ask_teacher(draft: LionDraft, *, system: PromptTemplate, template: PromptTemplate) -> ChatRequest:
    return ChatRequest((Message("system", system.render()), Message("user", template.render(instruction=draft.instruction))))


def _read_teacher(draft: LionDraft, completion: Completion | None, *, config: LionConfig) -> LionDraft | Rejected:
    assert completion is not None
    reason = ""
    if completion.finish_reason == "length" and config.on_length == "reject":
        reason = CUT
    elif completion.finish_reason == "content_filter":
        reason = FILTERED
    elif not completion.text.strip():
        reason = EMPTY
    if reason:
        return Rejected(draft.row_id, TEACHER_STEP, reason, completion.text[: Rejected.RAW_LIMIT])
    return _paid(draft, completion, teacher=completion.text.strip())


def _ask_student(draft: LionDraft) -> ChatRequest:
    # as it is trained: the instruction alone, and the model's own chat template around it
    return ChatRequest((Message("user", draft.instruction),))


def _read_student(draft: LionDraft, completion: Completion | None) -> LionDraft:
    assert completion is not None
    return _paid(draft, completion, student=completion.text.strip(), reviews=())


# ---- referee


Question = Callable[[LionDraft], tuple[Message, ...]]


def _question(draft: LionDraft, *, system: PromptTemplate, template: PromptTemplate, teacher_first: bool) -> tuple[Message, ...]:
    text = ask_referee(template, draft.instruction, draft.teacher, draft.student, teacher_first=teacher_first)
    return Message("system", system.render()), Message("user", text)


def _ask_again(
    draft: LionDraft, *, order: str, question: Question, again: PromptTemplate, schema: str | None,
) -> ChatRequest | None:
    """The question at first, the same with the unreadable reply and a request for the form later, nothing once it is answered."""
    if reading_of(draft.reviews, order) is not None:
        return None
    asked = [review for review in draft.reviews if review.step.startswith(order)]
    if not asked:
        return ChatRequest(question(draft), json_schema=schema)
    shown = asked[-1].text[-_SHOWN_AGAIN:] or "(empty)"
    return ChatRequest((*question(draft), Message("assistant", shown), Message("user", again.render())), json_schema=schema)


def _read_referee(
    draft: LionDraft, completion: Completion | None, *, name: str, teacher_first: bool, config: LionConfig,
) -> LionDraft | Rejected:
    if completion is None:
        return draft
    scores = scores_of(completion.text, config)
    first, second = scores if scores is not None else (None, None)
    teacher, student = (first, second) if teacher_first else (second, first)
    return _paid(draft, completion, reviews=(*draft.reviews, Review(name, teacher, student, completion.text)))


def _quarantine(
    draft: LionDraft, completion: Completion | None, *, parse: Callable[[LionDraft, Completion | None], LionDraft | Rejected],
) -> LionDraft | Rejected:
    """What the last reply makes of a draft, or its reject where there is no score to be had: such a row is neither hard nor easy."""
    outcome = parse(draft, completion)
    if isinstance(outcome, Rejected) or gap_of(outcome) is not None:
        return outcome
    texts = "\n\n".join(f"[{review.step}]\n{review.text}" for review in outcome.reviews)
    return Rejected(draft.row_id, REFEREE_STEP, UNREADABLE, texts[: Rejected.RAW_LIMIT])


# ---- generator


def _ask_generator(candidate: Candidate, *, templates: dict[str, PromptTemplate], config: LionConfig) -> ChatRequest:
    cap = config.generator_max_tokens
    if cap == "auto":
        cap = 4 * max(num_words(candidate.parent, config), 1)
    prompt = templates[candidate.origin].render(instruction=candidate.parent)
    return ChatRequest((Message("user", prompt),), max_new_tokens=cap)


def _read_generator(candidate: Candidate, completion: Completion | None, *, config: LionConfig) -> Candidate | Rejected:
    assert completion is not None
    text = instruction_in(completion.text, config)
    reason = why_unusable(text, completion.finish_reason, config)
    if reason:
        return Rejected(candidate.row_id, GENERATOR_STEP, reason, completion.text[: Rejected.RAW_LIMIT])
    return _paid(candidate, completion, instruction=text)
