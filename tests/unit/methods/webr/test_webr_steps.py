"""The whole chain in plain Python: both branches, every ablation, every way a model can fail to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from alignray.engine.scripted import scripted_text
from alignray.methods.webr import WebRConfig, assign_branch, to_row_record, webr_steps
from alignray.methods.webr.steps import NO_PERSONA
from alignray.schema import ChatRequest, Completion, Rejected, WebDocument, WebRDraft
from alignray.seeding import row_id_of
from alignray.steps import run_chain

PAGE = WebDocument(row_id_of("page"), "# Tides\n\nThe moon pulls the sea.\n\nTwice a day the water rises.")
ANSWERS = {
    "webr/persona": "A sailor.", "webr/instruction": "Explain tides.", "webr/response": "The moon does it.",
    "webr/refine": "The moon pulls the sea twice a day.",
}
INSTRUCTION, RESPONSE = {"instruction_share": 1.0}, {"instruction_share": 0.0}


class Model:
    """Answers each step with a fixed text, 10 tokens in, 3 out, a cent a call; remembers what it was asked."""

    def __init__(self, **changes: Completion | str) -> None:
        self.changes = {f"webr/{step}": answer for step, answer in changes.items()}
        self.asked: dict[str, str] = {}

    def __call__(self, step: Any, _record: Any, request: ChatRequest) -> Completion:
        assert [message.role for message in request.messages] == ["user"] and step.name not in self.asked
        self.asked[step.name] = request.messages[0].content
        answer = self.changes.get(step.name, ANSWERS[step.name])
        completion = answer if isinstance(answer, Completion) else Completion(answer)
        return replace(completion, prompt_tokens=10, completion_tokens=3, cost_usd=0.01)


def walk(model: Callable[..., Completion], **switches: Any) -> Any:
    config = WebRConfig.model_validate({"section": False, "part_share": 0, "layout": "doc_first", **switches})
    return run_chain(assign_branch(PAGE, config, seed=0), webr_steps(config, seed=0), model)


# ---- both branches


def test_web_as_instruction_asks_three_times_and_answers_from_the_page() -> None:
    model = Model()
    draft = walk(model, **INSTRUCTION)
    assert list(model.asked) == ["webr/persona", "webr/instruction", "webr/response"]
    assert model.asked["webr/response"] == f"{PAGE.text}\n\nExplain tides."
    assert (draft.persona, draft.instruction, draft.rollout, draft.response) == ("A sailor.", "Explain tides.", "", "The moon does it.")


def test_web_as_response_rolls_out_without_the_page_and_refines_with_it() -> None:
    model = Model()
    draft = walk(model, **RESPONSE)
    assert list(model.asked) == ["webr/persona", "webr/instruction", "webr/response", "webr/refine"]
    assert model.asked["webr/response"] == "Explain tides."
    assert model.asked["webr/refine"].startswith(
        f"[Information]\n{PAGE.text}\n\n[Question]\nExplain tides.\n\n[Answer]\nThe moon does it.\n"
    )
    assert (draft.rollout, draft.response) == ("The moon does it.", "The moon pulls the sea twice a day.")


def test_the_model_answers_exactly_the_user_turn_that_the_row_holds() -> None:
    for switches in (INSTRUCTION, RESPONSE):
        for layout in ("doc_first", "request_first", "random"):
            model = Model()
            config = WebRConfig.model_validate({"layout": layout, **switches})
            draft = run_chain(assign_branch(PAGE, config, seed=3), webr_steps(config, seed=3), model)
            assert to_row_record(draft, config, seed=3, model="m").messages[0].content == model.asked["webr/response"]


def test_the_instruction_prompt_knows_the_persona_the_word_and_the_limit() -> None:
    model = Model()
    draft = walk(model, **INSTRUCTION, max_words=[70], instruction_words=["task"])
    assert "author: A sailor." in model.asked["webr/instruction"] and "at most 70 words" in model.asked["webr/instruction"]
    assert model.asked["webr/instruction"].endswith("Reply with the task alone.")
    assert isinstance(draft, WebRDraft)


def test_the_persona_sees_the_whole_page_and_the_rest_only_its_sections() -> None:
    config = WebRConfig(section=True, instruction_share=0)
    seed = next(n for n in range(100) if assign_branch(PAGE, config, seed=n).text == "Tides")
    model = Model()
    run_chain(assign_branch(PAGE, config, seed=seed), webr_steps(config, seed=seed), model)
    assert model.asked["webr/persona"].startswith(PAGE.text)
    assert model.asked["webr/instruction"].startswith("Tides\n\n\nThe text above")
    assert "[Information]\nTides\n\n[Question]" in model.asked["webr/refine"]


@pytest.mark.parametrize(("switches", "words"), [(INSTRUCTION, "one particular piece"), (RESPONSE, "one particular part")])
def test_a_draft_about_a_part_gets_the_part_prompt(switches: dict[str, float], words: str) -> None:
    part, whole = Model(), Model()
    walk(part, **switches, part_share=1)
    walk(whole, **switches, part_share=0)
    assert words in part.asked["webr/instruction"] and words not in whole.asked["webr/instruction"]


# ---- ablations


def test_without_a_persona_the_author_is_not_known_and_no_call_is_paid() -> None:
    model = Model()
    draft = walk(model, **INSTRUCTION, persona=False)
    assert list(model.asked) == ["webr/instruction", "webr/response"] and draft.persona == ""
    assert f"author: {NO_PERSONA}" in model.asked["webr/instruction"]


def test_without_refining_the_rollout_is_the_response() -> None:
    model = Model()
    draft = walk(model, **RESPONSE, refine=False)
    assert list(model.asked) == ["webr/persona", "webr/instruction", "webr/response"]
    assert (draft.rollout, draft.response) == ("", "The moon does it.")


@pytest.mark.parametrize("switches", [INSTRUCTION, RESPONSE])
@pytest.mark.parametrize("persona", [True, False])
@pytest.mark.parametrize("refine", [True, False])
def test_tokens_and_cost_are_the_sum_of_the_calls(switches: dict[str, float], persona: bool, refine: bool) -> None:
    model = Model()
    draft = walk(model, **switches, persona=persona, refine=refine)
    calls = 2 + persona + (refine and switches is RESPONSE)
    assert len(model.asked) == calls
    assert (draft.prompt_tokens, draft.completion_tokens) == (10 * calls, 3 * calls)
    assert draft.cost_usd == pytest.approx(0.01 * calls)


def test_the_shipped_fake_model_walks_every_page_to_its_end(pages: list[WebDocument]) -> None:
    config = WebRConfig()
    steps = webr_steps(config, seed=0)

    def scripted(_step: Any, _record: Any, request: ChatRequest) -> Completion:
        return Completion(scripted_text(request.messages))

    drafts = [run_chain(assign_branch(page, config, seed=0), steps, scripted) for page in pages]
    assert all(isinstance(draft, WebRDraft) and draft.instruction and draft.response for draft in drafts)
    assert {bool(draft.rollout) for draft in drafts if draft.branch == "response"} == {True}


# ---- what a model may do


@pytest.mark.parametrize("step", ["persona", "instruction", "response", "refine"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Completion(""), "empty"), (Completion(" \n\t"), "empty"),
        (Completion("I can", finish_reason="content_filter"), "content_filter"),
        (Completion("I\u2019m sorry, but I can\u2019t help with that."), "refusal"),
    ],
)
def test_no_answer_rejects_the_row_with_its_step_and_reason(step: str, answer: Completion, reason: str) -> None:
    outcome = walk(Model(**{step: answer}), **RESPONSE)
    assert outcome == Rejected(PAGE.row_id, f"webr/{step}", reason, raw=answer.text)


def test_a_rejected_row_asks_no_further() -> None:
    model = Model(instruction="")
    walk(model, **RESPONSE)
    assert list(model.asked) == ["webr/persona", "webr/instruction"]


@pytest.mark.parametrize("step", ["instruction", "response", "refine"])
def test_a_cut_answer_is_rejected_or_kept_as_on_length_says(step: str) -> None:
    cut = Completion("The moon pulls the", finish_reason="length")
    assert walk(Model(**{step: cut}), **RESPONSE) == Rejected(PAGE.row_id, f"webr/{step}", "cut_at_max_tokens", "The moon pulls the")
    assert isinstance(walk(Model(**{step: cut}), **RESPONSE, on_length="keep"), WebRDraft)


def test_a_cut_persona_is_good_enough() -> None:
    draft = walk(Model(persona=Completion("A sailor who", finish_reason="length")), **INSTRUCTION)
    assert draft.persona == "A sailor who"


def test_raw_text_is_kept_up_to_its_limit() -> None:
    outcome = walk(Model(response="I cannot assist with that. " * 1000), **INSTRUCTION)
    assert outcome.reason == "refusal" and len(outcome.raw) == Rejected.RAW_LIMIT


def test_preambles_are_taken_off_every_answer() -> None:
    model = Model(
        persona="Here is the persona:\nA sailor.", instruction='"Explain tides."', response="Here's my answer:\n\nThe moon.",
        refine="Improved answer: The moon pulls.",
    )
    draft = walk(model, **RESPONSE)
    assert (draft.persona, draft.instruction, draft.rollout, draft.response) == (
        "A sailor.", "Explain tides.", "The moon.", "The moon pulls.",
    )


# ---- the authors' way


def test_original_checks_only_the_final_response_and_only_its_two_prefixes() -> None:
    declines = "I'm sorry, but I cannot create a request."
    draft = walk(Model(instruction=declines), **INSTRUCTION, preset="original")
    assert draft.instruction == declines
    assert walk(Model(response="As an AI language model, I cannot."), **INSTRUCTION, preset="original").response
    assert walk(Model(response="I\u2019m sorry, I can\u2019t."), **INSTRUCTION, preset="original").response
    outcome = walk(Model(response=declines), **INSTRUCTION, preset="original")
    assert outcome == Rejected(PAGE.row_id, "webr/response", "refusal", declines)
    assert walk(Model(response=declines), **RESPONSE, preset="original").rollout == declines
    assert walk(Model(refine=declines), **RESPONSE, preset="original").reason == "refusal"


def test_original_puts_two_blank_lines_behind_the_page_when_it_generates() -> None:
    model = Model()
    draft = walk(model, **INSTRUCTION, preset="original", layout="request_first")
    assert model.asked["webr/response"] == f"{PAGE.text}\n\n\nExplain tides."
    config = WebRConfig.model_validate({"preset": "original", "layout": "request_first"})
    assert to_row_record(draft, config, seed=0, model="m").messages[0].content == f"Explain tides.\n\n{PAGE.text}"


def test_original_strips_what_it_stripped_and_an_emptied_answer_is_rejected_with_its_raw_text() -> None:
    draft = walk(Model(refine="Improved Answer:\n\nBody one.\n\nBody two."), **RESPONSE, preset="original")
    assert draft.response == "Body one.\n\nBody two."
    single = "A single paragraph mentioning the improved answer."
    assert walk(Model(refine=single), **RESPONSE, preset="original") == Rejected(PAGE.row_id, "webr/refine", "empty", single)
    one = "Here is the whole answer in one paragraph."
    assert walk(Model(response=one), **INSTRUCTION, preset="original") == Rejected(PAGE.row_id, "webr/response", "empty", one)
    assert walk(Model(response=one), **INSTRUCTION).response == one


def test_original_keeps_cut_answers() -> None:
    cut = Completion("The moon pulls the", finish_reason="length")
    assert walk(Model(response=cut), **INSTRUCTION, preset="original").response == "The moon pulls the"
    assert walk(Model(response=cut), **INSTRUCTION, preset="original", on_length="reject").reason == "cut_at_max_tokens"
