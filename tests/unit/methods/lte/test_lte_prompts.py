"""The one renderer: the thesis' form to the byte, the originals' layout around a lead-in of our own, ICE for models nobody tuned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lte.config import Form
from alignray.methods.lte.render import (
    AUTHORS_LEAD_INS,
    AUTHORS_WRAPPERS,
    PROMPTS,
    fact_list,
    is_authors_lead_in,
    is_authors_wrapper,
    lead_in,
    render_prompt,
)
from alignray.prompts import load_prompt

FORMS: tuple[Form, ...] = ("thesis", "original_train", "original_seqedit", "original_easyedit", "ice")


def test_every_rendered_prompt_of_the_vectors_comes_out_to_the_byte(spec_vectors: Callable[[str], Any]) -> None:
    cases = spec_vectors("lte")["rendered_prompts"]
    assert len(cases) == 14
    for case in cases:
        wanted = case["rendered"].replace("{LEAD_IN}", lead_in(case["style"]))
        assert render_prompt(case["facts"], case["query"], form=case["style"]) == wanted


def test_lead_ins_are_known_by_the_digests_of_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    known = spec_vectors("lte")["prompt_lead_in"]
    names = {"original_train": "train_notebook", "original_seqedit": "seqedit_eval", "original_easyedit": "easyedit_eval"}
    assert {form: known[name]["sha256"] for form, name in names.items()} == AUTHORS_LEAD_INS
    for form, name in names.items():
        assert lead_in(form).endswith(known[name]["ends_with"]) and "\n" not in lead_in(form)  # type: ignore[arg-type]
    wrappers = spec_vectors("lte")["no_edit_answer_wrappers"]
    assert sorted(AUTHORS_WRAPPERS.values()) == sorted(wrapper["sha256_of_lead"] for wrapper in wrappers.values())


def test_our_lead_in_is_not_taken_for_the_authors_and_a_shadow_that_is_theirs_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not any(is_authors_lead_in(form) for form in FORMS) and not any(map(is_authors_wrapper, AUTHORS_WRAPPERS))
    (tmp_path / "lte").mkdir()
    (tmp_path / "lte" / "original_query.txt").write_text("Theirs.\n\n[Updated Information]:\n{{ facts }}\n\n[Query]:\n{{ query }}")
    monkeypatch.setitem(AUTHORS_LEAD_INS, "original_easyedit", hashlib.sha256(b"Theirs.").hexdigest())
    assert is_authors_lead_in("original_easyedit", str(tmp_path)) and not is_authors_lead_in("original_train", str(tmp_path))
    assert render_prompt(["F"], "Q", form="original_easyedit", prompts_dir=str(tmp_path)).startswith("Theirs.\n\n[Updated")


def test_one_fact_is_unnumbered_and_several_are_counted_from_one() -> None:
    assert fact_list(["A"]) == "A"
    assert fact_list(["A", "B\nC"]) == "1. A\n2. B\nC"


@pytest.mark.parametrize("form", FORMS)
def test_without_facts_the_query_stands_alone(form: Form) -> None:
    assert render_prompt([], "What is it?", form=form) == "What is it?"


@pytest.mark.parametrize("form", FORMS)
@given(facts=st.lists(st.text(min_size=1), min_size=1, max_size=3), query=st.text())
def test_facts_stand_before_the_query_and_both_unchanged(form: Form, facts: list[str], query: str) -> None:
    prompt = render_prompt(facts, query, form=form)
    assert prompt.endswith(query)
    assert f"{fact_list(facts)}\n" in prompt.removesuffix(query)


def test_the_ice_form_says_what_to_do_with_facts_and_the_tuned_forms_need_not() -> None:
    assert "[Updated Information]\nF\n\n[Query]\nQ" in render_prompt(["F"], "Q", form="ice")
    assert lead_in("thesis") == "" and len(lead_in("ice")) > 100
    assert set(PROMPTS) == set(FORMS)


def test_completions_are_asked_for_alone_before_a_blank_line_and_the_query() -> None:
    for name in AUTHORS_WRAPPERS:
        before, blank, query = load_prompt(f"lte/{name}").render(query="Q\n\nR").partition("\n\n")
        assert blank and query == "Q\n\nR" and "nothing else" in before and "\n" not in before
