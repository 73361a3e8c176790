"""What is decided about a page before any model is asked, and the row that comes out at the end."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pydantic
import pytest
from scipy.stats import binomtest, chisquare

from alignray.methods.webr import WebRConfig, assign_branch, leading_sections, to_row_record, user_turn
from alignray.methods.webr.config import ORIGINAL
from alignray.methods.webr.drafts import layout_of
from alignray.schema import Message, WebDocument, WebRDraft
from alignray.seeding import row_id_of, unit_draw

VECTORS = json.loads((Path(__file__).parents[3] / "golden" / "webr_vectors.json").read_text())["section"]
SEEDS = range(20_000)


def cut(text: str, seed: int) -> str:
    return leading_sections(text, lambda purpose: unit_draw(seed, "row", purpose))


# ---- sections


def test_sections_are_the_authors_and_as_often_as_the_formula_says() -> None:
    """P(k) = 1/(2n) for k < n, P(n) = 1/2 + 1/(2n): 1/8, 1/8, 1/8, 5/8 of 20,000 for n = 4."""
    counts = Counter(cut(VECTORS["webpage"], seed) for seed in SEEDS)
    possible = VECTORS["possible_outputs"]
    assert set(counts) == set(possible.values())
    observed = [counts[possible[k]] for k in "1234"]
    assert chisquare(observed, [2500, 2500, 2500, 12500]).pvalue > 1e-3


def test_a_single_section_is_returned_untouched() -> None:
    text = VECTORS["single_section_is_returned_untouched"]
    assert {cut(text, seed) for seed in range(100)} == {text}
    assert cut("", 0) == ""


def test_the_draw_decides_alone() -> None:
    text = "a\n\nb\n\nc"
    assert leading_sections(text, lambda purpose: {"cut": 0.5, "sections": 0.0}[purpose]) == text
    assert leading_sections(text, lambda purpose: {"cut": 0.49, "sections": 0.0}[purpose]) == "a"
    assert leading_sections(text, lambda purpose: {"cut": 0.49, "sections": 0.34}[purpose]) == "a\n\nb"
    assert leading_sections(text, lambda purpose: {"cut": 0.49, "sections": 0.999}[purpose]) == text


def test_empty_sections_are_no_sections() -> None:
    texts = {cut("\n\n##\n\n# a\n\n\n\n   \n\nb\n\n", seed) for seed in range(200)}
    assert texts == {"a", "a\n\nb"}


def test_a_page_of_nothing_but_marks_keeps_its_text() -> None:
    page = WebDocument(row_id_of("marks"), "#\n\n##\n\n")
    assert {assign_branch(page, WebRConfig(), seed=seed).text for seed in range(20)} == {"#\n\n##\n\n"}


# ---- draws


def test_a_page_is_decided_the_same_way_each_time_and_another_seed_decides_anew(pages: list[WebDocument]) -> None:
    first = [assign_branch(page, WebRConfig(), seed=1) for page in pages]
    assert first == [assign_branch(page, WebRConfig(), seed=1) for page in pages]
    assert first != [assign_branch(page, WebRConfig(), seed=2) for page in pages]


def test_two_thirds_become_instructions_and_half_are_about_a_part() -> None:
    drafts = [assign_branch(WebDocument(row_id_of(str(n)), "text"), WebRConfig(), seed=0) for n in range(6000)]
    assert binomtest(sum(draft.branch == "instruction" for draft in drafts), 6000, 2 / 3).pvalue > 1e-3
    for branch in ("instruction", "response"):
        parts = [draft.part for draft in drafts if draft.branch == branch]
        assert binomtest(sum(parts), len(parts), 0.5).pvalue > 1e-3
    assert {draft.word for draft in drafts if draft.branch == "instruction"} == {"request", "instruction"}
    assert {draft.word for draft in drafts if draft.branch == "response"} == {"request", "question", "instruction"}
    assert chisquare(list(Counter(draft.max_words for draft in drafts).values())).pvalue > 1e-3
    assert {draft.max_words for draft in drafts} == {50, 100, 150, 200}


@pytest.mark.parametrize(("share", "branch"), [(1.0, "instruction"), (0.0, "response")])
def test_a_ratio_of_one_to_nothing_leaves_one_branch(pages: list[WebDocument], share: float, branch: str) -> None:
    config = WebRConfig(instruction_share=share)
    assert {assign_branch(page, config, seed=0).branch for page in pages} == {branch}


def test_switches_turn_draws_off(pages: list[WebDocument]) -> None:
    config = WebRConfig(part_share=0, section=False, max_words=(70,), instruction_words=("task",), query_words=("task",))
    for page in pages:
        draft = assign_branch(page, config, seed=0)
        assert (draft.part, draft.text, draft.max_words, draft.word) == (False, page.text, 70, "task")


def test_a_switch_moves_no_other_draw(pages: list[WebDocument]) -> None:
    for page in pages:
        usual, other = assign_branch(page, WebRConfig(), seed=0), assign_branch(page, WebRConfig(section=False), seed=0)
        assert dataclasses.replace(usual, text=page.text) == other


# ---- user turns and rows


def draft_of(page: WebDocument, **values: object) -> WebRDraft:
    draft = dataclasses.replace(assign_branch(page, WebRConfig(section=False), seed=0), instruction="Do it.", response="Done.")
    return dataclasses.replace(draft, **values)  # type: ignore[arg-type]


def test_user_turns_are_put_together_as_the_layout_says(pages: list[WebDocument]) -> None:
    draft = draft_of(pages[0], text="PAGE")
    assert user_turn(draft, "doc_first") == "PAGE\n\nDo it."
    assert user_turn(draft, "request_first") == "Do it.\n\nPAGE"
    assert user_turn(draft, "doc_first_wide") == "PAGE\n\n\nDo it."
    assert user_turn(draft, "request_only") == "Do it."


def test_layouts_are_even_and_web_as_response_shows_no_page() -> None:
    drafts = [draft_of(WebDocument(row_id_of(str(n)), "t"), branch="instruction") for n in range(2000)]
    counts = Counter(layout_of(draft, WebRConfig(), seed=0) for draft in drafts)
    assert set(counts) == {"doc_first", "request_first"} and chisquare(list(counts.values())).pvalue > 1e-3
    assert {layout_of(draft, WebRConfig(layout="doc_first"), seed=0) for draft in drafts} == {"doc_first"}
    assert layout_of(draft_of(drafts[0].document, branch="response"), WebRConfig(layout="doc_first"), seed=0) == "request_only"


def test_a_row_carries_its_conversation_and_its_provenance(pages: list[WebDocument]) -> None:
    draft = draft_of(pages[3], branch="response", persona="P", prompt_tokens=7, completion_tokens=5, cost_usd=0.25)
    row = to_row_record(draft, WebRConfig(), seed=0, model="m", cluster_size=2)
    assert row.messages == (Message("user", "Do it."), Message("assistant", "Done."))
    assert (row.url, row.file, row.offset, row.record_id, row.digest) == ("https://example.org/3", "a.warc.gz", 3, "<3>", "sha1:3")
    assert (row.layout, row.persona, row.model, row.cluster_size) == ("request_only", "P", "m", 2)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_usd) == (7, 5, 0.25)
    instruction = draft_of(pages[3], branch="instruction", text="PAGE")
    row = to_row_record(instruction, WebRConfig(layout="request_first"), seed=0, model="m")
    assert row.messages[0] == Message("user", "Do it.\n\nPAGE") and row.layout == "request_first"


# ---- presets


def test_the_original_preset_sets_its_switches_and_any_key_overrides_it() -> None:
    original = WebRConfig.model_validate({"preset": "original"})
    assert {key: getattr(original, key) for key in ORIGINAL} == {
        "refusals": "prefix", "preamble": "original", "generation_layout": "doc_first_wide", "rounding": "floor", "on_length": "keep",
    }
    assert WebRConfig.model_validate({"preset": "original", "refusals": "normalized"}).refusals == "normalized"
    assert {getattr(WebRConfig(), key) for key in ORIGINAL} == {"normalized", "same", "nearest", "reject"}


def test_empty_choices_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_words is empty; give at least one choice"):
        WebRConfig(max_words=())
