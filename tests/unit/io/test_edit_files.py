"""Edits from the official files: counts of the real ones, every shape of a ground truth, and rows that are none."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import RecordError
from alignray.io.edits import REASONS, EditFile, answers_of, read_edits, read_plain_queries, relation_of
from alignray.io.fetch import FetchConfig
from alignray.methods.lte import LTEConfig, build_drafts, leaking_ids
from alignray.schema import Answer, Edit, PlainQuery, Probe, Rejected, Rewrite, from_row, records_of, table_of, to_row

FILES: dict[str, EditFile] = {
    "counterfact_edit_10k": "counterfact", "counterfact_questions_1k": "counterfact_questions",
    "knowedit_wiki_counterfact_train": "wiki_counterfact", "knowedit_wiki_recent_train": "wiki_recent",
    "knowedit_wikibio_test": "wikibio", "knowedit_wikibio_train": "wikibio", "knowedit_zsre_test": "zsre_knowedit",
    "mquake_hard_429": "mquake", "zsre_mend_train_1k": "zsre_mend",
}
REJECTS = {"knowedit_wiki_counterfact_train": {"duplicate_record": 7}, "zsre_mend_train_1k": {"empty_target": 1}}
"""What is wrong in the real files, counted by hand."""


def read(uri: str | Path, form: EditFile) -> tuple[list[Edit], list[Rejected], Counter[str]]:
    counts: Counter[str] = Counter()
    records = list(read_edits(str(uri), form, FetchConfig(), counts))
    return [r for r in records if isinstance(r, Edit)], [r for r in records if isinstance(r, Rejected)], counts


def queries(uri: str | Path) -> tuple[list[PlainQuery], list[Rejected], Counter[str]]:
    counts: Counter[str] = Counter()
    records = list(read_plain_queries(str(uri), FetchConfig(), counts))
    return [r for r in records if isinstance(r, PlainQuery)], [r for r in records if isinstance(r, Rejected)], counts


def written(tmp_path: Path, *rows: Any, name: str = "edits.json") -> Path:
    path = tmp_path / name
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)) if name.endswith(".jsonl") else orjson.dumps(list(rows)))
    return path


def rows_listed(data_dir: Path, name: str) -> int:
    """Rows of a file by the data's own README."""
    found = re.search(rf"^\| edit/{name}\.jsonl\.gz \| .*? \| ([\d,]+) \|", (data_dir / "README.md").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", ""))


# ---- real files


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_gives_as_many_edits_as_it_has_rows(data_dir: Path, name: str) -> None:
    edits, rejects, counts = read(data_dir / "edit" / f"{name}.jsonl.gz", FILES[name])
    assert counts["records"] == rows_listed(data_dir, name) == len(edits) + len(rejects)
    assert Counter(reject.reason for reject in rejects) == REJECTS.get(name, {})
    assert len({edit.row_id for edit in edits}) == len(edits)
    for edit in edits:
        assert edit.subject and edit.prompt and edit.target and edit.facts[0] == f"{edit.prompt} {edit.target}"
        assert all(probe.prompt and probe.answers for probe in (*edit.portability, *edit.locality))
    assert list(records_of(Edit, table_of(Edit, edits[:50]))) == edits[:50]


def kinds(edits: list[Edit], name: str) -> Counter[str]:
    return Counter(probe.kind for edit in edits for probe in getattr(edit, name))


def test_items_of_the_real_files_are_all_there(data_dir: Path) -> None:
    zsre, _, counts = read(data_dir / "edit" / "knowedit_zsre_test.jsonl.gz", "zsre_knowedit")
    assert kinds(zsre, "portability") == {"Reasoning": 536, "Subject_Aliasing": 190, "Logical_Generalization": 181}
    assert kinds(zsre, "locality") == {"Relation_Specificity": 1814} and not counts["probes_without_answer"]
    assert Counter(len(edit.ground_truth[0].aliases) for edit in zsre) == {0: 891, 1: 13, 2: 2, 3: 1}
    recent, _, counts = read(data_dir / "edit" / "knowedit_wiki_recent_train.jsonl.gz", "wiki_recent")
    assert kinds(recent, "portability") == {"Reasoning": 359, "Logical_Generalization": 171, "Subject_Aliasing": 43}
    # six items of 1,433 have an empty list of aliases and nothing else
    assert kinds(recent, "locality") == {"Relation_Specificity": 1212, "Forgetfulness": 215} and counts["probes_without_answer"] == 6


def test_a_mquake_case_needs_all_its_rewrites(data_dir: Path) -> None:
    edit = read(data_dir / "edit" / "mquake_hard_429.jsonl.gz", "mquake")[0][0]
    assert edit.facts == (
        "Hey Jude was performed by Madonna", "The director of Madonna is Narendra Modi", "Narendra Modi is a citizen of Australia",
        "The official language of Australia is Arabic",
    )
    assert edit.rewrites[1] == Rewrite(
        "Madonna", "P1037", "The director of Madonna is", "Narendra Modi", "Who is the director of Madonna?", (Answer("Guy Oseary"),),
    )
    assert edit.chain.endswith("Narendra Modi is a citizen of Australia. The official language of Australia is Arabic.")
    assert [probe.kind for probe in edit.portability] == ["Multi_Hop"] * 3
    assert edit.portability[0].answers == (Answer("Arabic", ("ar", "Arabian language", "Arabic language")),)
    assert edit.original_answers[0].text == "English" and edit.case_id == "7417"


def test_wikibios_official_parts_share_items_of_locality_and_nothing_else(data_dir: Path) -> None:
    train, test = (read(data_dir / "edit" / f"knowedit_wikibio_{part}.jsonl.gz", "wikibio")[0] for part in ("train", "test"))
    assert (len(leaking_ids(train, test)), len(leaking_ids(train, test, by=("subject_and_relation", "text")))) == (65, 0)
    assert leaking_ids(test[:20], test, by=("text",)) == {edit.row_id for edit in test[:20]}


def test_real_edits_give_pairs_for_every_data_set(data_dir: Path) -> None:
    edits = [edit for name, form in FILES.items() if "test" not in name for edit in read(data_dir / "edit" / f"{name}.jsonl.gz", form)[0]]
    plain, _, _ = queries(data_dir / "instructions" / "alpaca_en_demo.jsonl.gz")
    config = LTEConfig.model_validate({"scopes": {"plain_answers": "drop", "free_text": "file", "out_of_scope": "file"}})
    notes: Counter[str] = Counter()
    drafts = build_drafts(edits, plain, config, seed=1, notes=notes)
    assert {draft.source for draft in drafts} == {"zsre", "wiki_recent", "wiki_counterfact", "wikibio", "mquake", "counterfact"}
    assert all(draft.query and draft.answer and draft.plain_answer for draft in drafts)
    assert len({draft.row_id for draft in drafts}) == len(drafts)
    # WikiBio and wiki_recent do not say what held before: without a model they give no in-scope pair, 322 edits and 417 with 573 items
    assert not [draft for draft in drafts if draft.kind == "in_scope" and draft.source in ("wikibio", "wiki_recent")]
    assert notes["no_plain_answer"] >= 322 + 417 + 573


# ---- ground truths


@pytest.mark.parametrize(("value", "answers"), [
    ("male", (Answer("male"),)), (["male"], (Answer("male"),)), (["male", "man"], (Answer("male", ("man",)),)),
    ([["UK", "Britain"], ["France"]], (Answer("UK", ("Britain",)), Answer("France"))), ([[], ["x"]], (Answer("x"),)),
    ([[]], ()), ([], ()), (None, ()), ("", ()), ([" x ", "x", ""], (Answer("x"),)), (1984, (Answer("1984"),)),
    ([["a"], "b"], (Answer("a"), Answer("b"))), ([None, "x"], (Answer("x"),)),
])
def test_every_shape_of_a_ground_truth_is_read(value: Any, answers: tuple[Answer, ...]) -> None:
    assert answers_of(value) == answers


def test_a_plain_text_is_never_taken_apart_into_letters() -> None:
    assert answers_of("writer") == (Answer("writer"),)


@pytest.mark.parametrize("value", [{"str": "x"}, [{"a": 1}], True, [True]])
def test_another_shape_is_a_bad_row(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError):
        answers_of(value)
    row = {"subject": "S", "prompt": "S is", "target_new": "T", "ground_truth": value}
    edits, rejects, _ = read(written(tmp_path, row, {**row, "ground_truth": "x"}), "wiki_counterfact")
    assert len(edits) == 1 and [reject.reason for reject in rejects] == ["bad_row"]


@given(st.lists(st.lists(st.text(max_size=4), max_size=3), max_size=4))
def test_no_answer_is_blank_and_every_form_is_kept(value: list[list[str]]) -> None:
    forms = {form for answer in answers_of(value) for form in (answer.text, *answer.aliases)}
    assert "" not in forms and forms == {text.strip() for group in value for text in group} - {""}


# ---- forms

WIKI = {"subject": "Lyon", "prompt": "The river of Lyon is", "target_new": "Rhine"}


def test_mends_form_becomes_an_edit_with_its_nq_item(tmp_path: Path) -> None:
    row = {"subject": "Lyon", "src": "Which river is Lyon on?", "alt": "Rhine", "answers": ["Rhone"], "rephrase": "Lyon's river?",
           "loc": "nq question: who wrote it", "loc_ans": "Nobody"}
    (edit,), _, counts = read(written(tmp_path, row), "zsre_mend")
    assert (edit.relation, edit.facts) == ("Which river is {} on?", ("Which river is Lyon on? Rhine",))
    assert edit.locality == (Probe("nq", "who wrote it", (Answer("Nobody"),)),) and edit.rephrases == ("Lyon's river?",)
    (edit,), _, counts = read(written(tmp_path, {**row, "loc_ans": ""}), "zsre_mend")
    assert edit.locality == () and counts["probes_without_answer"] == 1


def test_romes_form_of_counterfact_is_read_as_well(tmp_path: Path) -> None:
    row = {"case_id": 3, "requested_rewrite": {"prompt": "The river of {} is", "relation_id": "P1", "subject": "Lyon",
           "target_new": {"str": "Rhine"}, "target_true": {"str": "Rhone"}}, "paraphrase_prompts": ["a", "b"],
           "neighborhood_prompts": ["The river of Arles is"]}
    (edit,), _, _ = read(written(tmp_path, row), "counterfact")
    assert (edit.prompt, edit.target, edit.relation, edit.case_id) == ("The river of Lyon is", "Rhine", "P1", "3")
    assert edit.locality == (Probe("Neighborhood", "The river of Arles is", (Answer("Rhone"),)),) and edit.rephrases == ("a", "b")


def test_a_relation_is_the_prompt_without_its_subject() -> None:
    assert relation_of("The river of Lyon in Lyon is", "Lyon") == "The river of {} in Lyon is"
    assert relation_of("It is", "Lyon") == "It is"


@pytest.mark.parametrize(("change", "reason"), [
    ({"target_new": " "}, "empty_target"), ({"subject": ""}, "empty_prompt"), ({"prompt": ""}, "empty_prompt"),
    ({"prompt": None}, "missing_column"), ({"prompt": ["a"]}, "bad_row"), ({"locality": {"K": "x"}}, "bad_row"),
    ({"locality": [1]}, "bad_row"), ({"portability": {"K": [1]}}, "bad_row"), ({}, "duplicate_record"),
])
def test_a_row_that_is_no_edit_is_rejected_with_its_place(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    edits, rejects, counts = read(written(tmp_path, WIKI, {**WIKI, **change}), "wiki_recent")
    (reject,) = rejects
    assert (len(edits), reject.step, reject.reason, counts["records"]) == (1, "ingest", reason, 2) and reason in REASONS
    assert orjson.loads(reject.detail)["row"] == 1 and "Lyon" in reject.raw + "Lyon" * (change.get("subject") == "")


@pytest.mark.parametrize("form", get_args(EditFile))
def test_a_file_of_another_form_is_refused_with_the_names_it_has(tmp_path: Path, form: EditFile) -> None:
    with pytest.raises(RecordError, match=rf"no row has .* files of form {form} have; there are: colour, taste"):
        read(written(tmp_path, {"colour": "red", "taste": "good"}), form)


@pytest.mark.parametrize("change", [
    {"requested_rewrite": []}, {"requested_rewrite": [1]}, {"questions": []}, {"new_answer": ""}, {"new_answer_alias": [{}]},
    {"requested_rewrite": [{"prompt": "{} is", "subject": "S", "target_new": "T"}]},
])
def test_a_mquake_case_that_is_not_whole_is_rejected(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {"requested_rewrite": [{"prompt": "{} is", "subject": "S", "target_new": {"str": "T"}}], "questions": ["Q?"], "new_answer": "T"}
    edits, rejects, _ = read(written(tmp_path, row, {**row, **change}), "mquake")
    assert (len(edits), len(rejects)) == (1, 1) and edits[0].facts == ("S is T",) and edits[0].relation == "{} is"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)
FIELDS = st.sampled_from(["subject", "prompt", "target_new", "ground_truth", "portability", "locality", "rephrase"])


@given(st.dictionaries(FIELDS, ANYTHING))
def test_any_row_is_an_edit_or_a_reject(tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]) -> None:
    edits, rejects, _ = read(written(tmp_path_factory.mktemp("rows"), WIKI, row), "wiki_recent")
    assert len(edits) + len(rejects) == 2
    assert all(from_row(Edit, to_row(edit)) == edit for edit in edits)


# ---- what no edit bears on


def test_evol_instructs_chats_give_their_first_exchange(tmp_path: Path) -> None:
    said = [("human", " Write it. "), ("gpt", "It."), ("human", "More"), ("gpt", "No")]
    rows = [
        {"conversations": [{"from": who, "value": text} for who, text in said]}, {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Alone", "output": ""}, {"turns": ["First", "Then"]},
    ]
    for name in ("evol.json", "evol.jsonl"):
        found, rejects, counts = queries(written(tmp_path, *rows, name=name))
        assert [(query.query, query.answer) for query in found] == [("Write it.", "It."), ("Add\n\n1 2", "3"), ("Alone", ""), ("First", "")]
        assert not rejects and counts["records"] == 4


def test_a_query_that_is_there_twice_or_blank_is_rejected(tmp_path: Path) -> None:
    rows = [{"question": "Who?"}, {"question": "Who?", "answer": "Me"}, {"question": " "}, {"other": 1}, {"messages": [{"role": "user"}]}]
    found, rejects, _ = queries(written(tmp_path, *rows))
    assert len(found) == 1
    assert [reject.reason for reject in rejects] == ["duplicate_record", "empty_prompt", "missing_column", "bad_row"]


def test_lines_that_are_no_json_are_rejects_of_a_chat_file_and_its_id_is_the_query(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "A", "response": "B"}\nnonsense\n{"prompt": "C"}\n'))
    found, rejects, counts = queries(path)
    assert [query.query for query in found] == ["A", "C"] and [reject.reason for reject in rejects] == ["bad_row"]
    assert counts["records"] == 3
    (again,), _, _ = queries(written(tmp_path, {"instruction": "A"}))
    assert again.row_id == found[0].row_id


def test_real_instructions_are_queries(data_dir: Path) -> None:
    found, rejects, counts = queries(data_dir / "instructions" / "alpaca_en_demo.jsonl.gz")
    assert (counts["records"], len(found), Counter(reject.reason for reject in rejects)) == (721, 710, {"duplicate_record": 11})
    assert all(query.answer for query in found)
    with pytest.raises(RecordError, match="no row has a chat"):
        queries(data_dir / "edit" / "zsre_mend_train_1k.jsonl.gz")
