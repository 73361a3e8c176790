"""The report and the card of an LTE run, from rows that the method made and files written by hand; hostile texts are shown, not obeyed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from alignray.methods.lte.config import LTEConfig, ThreefoldConfig
from alignray.methods.lte.scopes import NOTES, examples_of
from alignray.methods.lte.threefold import STYLES as DRAWN
from alignray.methods.lte.threefold import Neighbour, Shown, show
from alignray.report.card import write_card
from alignray.report.html import write_report
from alignray.report.lte_card import COLUMNS
from alignray.report.lte_figures import LEFT_OUT, STYLES, Rows, places_chart, places_view, read_rows, word_charts, word_histogram
from alignray.report.lte_page import MAX_SAMPLES, sample_list
from alignray.report.run_folder import read_run
from alignray.schema import EditDraft, EditExample, Rejected, table_of
from alignray.seeding import row_id_of
from tests.runfolders import HOSTILE
from tests.unit.report.test_html_report import Page

SPOILED = f"{HOSTILE} \x00 nul"
SETS = {"zsre": ("rephrase", "nq"), "wiki_recent": ("Reasoning", "Forgetfulness"), "mquake": ("hops_2", "earlier"),
        "counterfact": ("model", "plain")}
"""Aspects of the in-scope and the out-of-scope pairs that are made of each data set."""
CELLS = [
    {"group": "zsre", "scope": "in_scope", "wanted": 60, "found": 60, "short": False},
    {"group": "zsre", "scope": "out_of_scope", "wanted": 80, "found": 60, "short": True},
    {"group": "counterfact", "scope": "in_scope", "wanted": 7500, "found": 60, "short": True},
]
FILES = [{"form": "zsre_mend", "paths": ["data/zsre.json"]}, {"form": "mquake", "paths": ["data/MQuAKE-CF.json"]}]


def make_draft(source: Any, number: int, *, in_scope: bool, hostile: bool) -> EditDraft:
    bad = SPOILED if hostile and number % 20 == 0 else ""
    kind: Any = "out_of_scope" if not in_scope else "free_text" if source == "counterfact" else "in_scope"
    facts = tuple(f"The owner of mill {number} in town {hop} is Ida {number}. {bad}" for hop in range(2 if source == "mquake" else 1))
    edit_id = row_id_of("edit", source, str(number))
    return EditDraft(
        row_id_of("draft", edit_id, kind), edit_id, source, kind, SETS[source][not in_scope] + (bad if source == "zsre" else ""), facts,
        f"mill {number}", f"Who owns mill {number} of {source}, {kind}? {bad}", f"Ida {number} {bad}",
        f"Ida {number} {bad}" if not in_scope else f"Otto {number} {bad}", prompt_tokens=40, completion_tokens=9, cost_usd=0.001,
    )


def make_examples(count: int, config: ThreefoldConfig, *, hostile: bool) -> tuple[list[EditExample], Counter[str]]:
    """``count`` in-scope and out-of-scope pairs of each data set; every tenth edit has one neighbour at most."""
    examples: list[EditExample] = []
    shown: Counter[str] = Counter()
    for source in SETS:
        for number in range(count):
            near = [
                Neighbour(row_id_of("edit", source, f"near {place}"), f"The owner of farm {place} is Karl. {SPOILED if hostile else ''}",
                          0.9 - place / 10)
                for place in range(1 if number % 10 == 0 else 4)
            ]
            for in_scope in (True, False):
                draft = make_draft(source, number, in_scope=in_scope, hostile=hostile)
                facts = show(draft, near, config, rewrites=(), seed=5)
                shown.update({facts.style: 1, "short": facts.num_short})
                examples += examples_of(draft, facts, form="thesis")
    return examples, shown


def make_manifest(examples: list[EditExample], shown: Counter[str], *, status: str, hostile: bool) -> dict[str, Any]:
    aspects = Counter(f"{one.source}/{one.kind}/{one.aspect}" for one in examples if one.with_prompt)
    lte = {
        "cells": CELLS, "aspects": dict(aspects), "pairs": len(examples) // 2, "form": "thesis", "shown": dict(shown),
        "notes": {"no_plain_answer": 0, "no_plain_query": 17, "needs_a_model": 4, f"new {SPOILED if hostile else ''}": 1},
        "leakage": {"test_edits": 250, "shared": 12, "handling": "drop"},
    }
    steps = {name: {"role": role, "calls": 100, "prompt_tokens": 9000, "completion_tokens": 900, "usd": 0.5, "models": ["big-1"]}
             for name, role in (("lte/query", "author"), ("lte/verify", "verifier"))}
    return {
        "method": "lte", "name": f"mills <b>lte</b> {HOSTILE[:60]}" if hostile else "mills", "status": status,
        "message": f"a note {SPOILED}" if hostile else "", "started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T09:00:00Z",
        "result": {"rows": len(examples)}, "seconds": {"edits": 3.5}, "versions": {"ray": "2.60"}, "fingerprint": "ab" * 16,
        "funnel": [{"stage": "read", "in": 900, "kept": 880, "rejected": {f"ingest/empty_target {HOSTILE[:30]}": 20}}],
        "usage": {"usd": 1.0, "steps": steps}, "lte": lte,
    }


def make_config(config: ThreefoldConfig, *, hostile: bool) -> dict[str, Any]:
    bad = f"data/{HOSTILE[:80]}.json"
    return {
        "seed": 5, "embedder": "some-model", "lte": LTEConfig(threefold=config).model_dump(mode="json"), "prompts": {"dir": None},
        "input": {"edits": [*FILES, *([{"form": "zsre_mend", "paths": [bad]}] if hostile else [])], "plain": ["data/evol.json"],
                  "test": [{"form": "zsre_knowedit", "paths": ["data/zsre-test.json"]}]},
    }


def build_lte_run(
    run_dir: Path, *, count: int = 60, status: str = "done", hostile: bool = True, threefold: ThreefoldConfig | None = None,
    num_parts: int = 2,
) -> Path:
    """A run folder with ``8 * count`` pairs, its manifest, config, markers of the files read, parts and rejects."""
    run_dir.mkdir(parents=True, exist_ok=True)
    config = threefold or ThreefoldConfig()
    examples, shown = make_examples(count, config, hostile=hostile)
    (run_dir / "manifest.json").write_text(json.dumps(make_manifest(examples, shown, status=status, hostile=hostile)))
    (run_dir / "config.yaml").write_text(yaml.safe_dump(make_config(config, hostile=hostile)))
    (run_dir / "parts").mkdir(exist_ok=True)
    for part in range(num_parts):
        pq.write_table(table_of(EditExample, examples[part::num_parts]), run_dir / "parts" / f"{num_parts}-{part}.parquet")
    (run_dir / "rejects").mkdir(exist_ok=True)
    rejected = [Rejected(row_id_of("lost", str(place)), "lte/verify", "false", f"[[F]] {SPOILED if hostile else ''}") for place in range(5)]
    pq.write_table(table_of(Rejected, rejected), run_dir / "rejects" / "0.parquet")
    split = row_id_of("data/zsre.json", "zsre_mend")[:16]
    for number, kept in enumerate((2000, 345)):
        marker = {"files": {}, "bytes": {}, "footers": {}, "counts": {"kept": kept, "rejected": number, "records": kept + number},
                  "extra": {"split": split, "last": number == 1}}
        path = run_dir / "commits" / "edits" / f"{split}-{number:05d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(marker))
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lte_run(tmp_path_factory.mktemp("lte"))


@pytest.fixture(scope="module")
def page_text(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def told(text: str) -> str:
    return " ".join(Page(text).text.split())


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}">', 1)[1].split("</section>", 1)[0]


def cells_of(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>.*?</tr>", text, re.DOTALL)
    return [[" ".join(Page(cell).text.split()) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)] for row in rows]


def change(run: Path, **parts: Any) -> Path:
    """The run with other facts in its manifest; None takes one out."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["lte"] = {name: value for name, value in {**manifest["lte"], **parts}.items() if value is not None}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


# ---- the page


def test_the_page_has_no_scripts_no_links_and_no_network(page_text: str) -> None:
    page = Page(page_text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object", "embed", "form", "base", "audio", "video", "b-x", "a"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag == "link" or not {"src", "href", "srcset", "data"} & set(attributes)
    assert "url(" not in page_text and "@import" not in page_text
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0] and "script-src" not in policies[0]


def test_hostile_texts_are_shown_as_they_are(page_text: str) -> None:
    page = Page(page_text)
    # message, note, aspects, rejects, queries, facts, prompts and answers
    assert page.text.count("<script>document.title='pwned';alert(1)</script>") > 50
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page.text
    assert "\x07" not in page_text and "\x00" not in page_text
    assert sum(tag == "style" for tag, _ in page.tags) == 1


def test_every_part_of_a_full_run_is_told(page_text: str) -> None:
    text = told(page_text)
    for heading in ("Mind this", "Table C.1: pairs wanted and found", "Where the queries come from", "What stands beside the exact fact",
                    "Lengths in words", "Do the rows give away what you will test on?", "What was left out", "From records to rows",
                    "Why records were turned down", "Tokens and cost by step", "Pairs, with the edit prompt and without it", "The run"):
        assert heading in text, heading
    for fact in (
        "Examples960480 with the edit prompt", "Pairs4807,640 wanted", "Short cells2of 3, 7,460 pairs missing", "Cost$1.00",
        "17 edits without an out-of-scope query: there were fewer plain queries", "4 pairs left out: the files do not have all",
        "12 training edits share a fact (subject and relation) or a question with one of the 250 test edits; they were left out.",
    ):
        assert fact in text, fact
    # where the exact fact stands, and three lengths
    assert page_text.count("<svg") == 4
    ids = re.findall(r'<section id="([a-z-]+)">', page_text)
    assert ids == ["cells", "aspects", "beside", "lengths", "leakage", "left-out", "funnel", "rejects", "cost", "samples", "run"]


def test_the_page_is_the_same_whatever_the_parts_are_called_and_of_bounded_size(tmp_path: Path, page_text: str, run_dir: Path) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page_text
    assert len(page_text.encode()) < 2_000_000
    other = write_report(build_lte_run(tmp_path, num_parts=5)).read_text(encoding="utf-8")
    assert other == page_text


def test_cells_stand_beside_what_was_wanted_and_short_ones_are_marked(page_text: str) -> None:
    found = section(page_text, "cells")
    rows = [row[:5] for row in cells_of(found)]
    assert rows[1:] == [
        ["ZsRE", "in-scope", "60", "60", "–"], ["ZsREshort", "out-of-scope", "80", "60", "20"],
        ["COUNTERFACTshort", "in-scope", "7,500", "60", "7,440"], ["All cells", "", "7,640", "180", "7,460"],
    ]
    assert found.count('class="chip short"') == 2
    assert 'class="missing" style="width:99.2%"' in found


def test_a_cell_that_the_originals_rule_leaves_smaller_is_not_marked_short(tmp_path: Path) -> None:
    cells = [{"group": "ripple_edits", "scope": "in_scope", "wanted": 2250, "found": 2000, "short": False}]
    page = write_report(change(build_lte_run(tmp_path, count=2, hostile=False), cells=cells)).read_text()
    assert cells_of(section(page, "cells"))[1][:5] == ["RippleEdits", "in-scope", "2,250", "2,000", "250"]
    assert 'class="chip short"' not in page and "Short cells0of 1, 250 pairs missing" in told(page)


def test_queries_are_counted_by_data_set_scope_and_aspect(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=4, hostile=False)
    aspects = {"zsre/in_scope/edit": 3, "zsre/in_scope/rephrase": 7, "counterfact/free_text/model": 5, "mquake/in_scope/a/b": 1}
    text = section(write_report(change(run, aspects=aspects)).read_text(), "aspects")
    assert cells_of(text.split("<details>")[0]) == [
        ["in-scope", "rephrase the edit's prompt in other words", "", "7"], ["in-scope", "edit the edit's own prompt", "", "3"],
        ["in-scope", "a/b", "", "1"], ["free text", "model written by a model", "", "5"],
    ]
    assert re.findall(r"<span>(\d+) pairs</span>", text) == ["10", "1", "5"]
    without = section(write_report(change(run, aspects=None)).read_text(), "aspects")  # then the rows say it
    assert ["in-scope", "rephrase the edit's prompt in other words", "", "4"] in cells_of(without)


def test_files_have_the_records_that_their_commits_counted(page_text: str) -> None:
    rows = {row[0]: row[1:] for row in cells_of(section(page_text, "aspects").split("<details>")[1])}
    assert rows["data/zsre.json"] == ["zsre_mend", "edits", "2,345", "1"]
    assert rows["data/MQuAKE-CF.json"] == ["mquake", "edits", "–", "–"]
    assert rows["data/evol.json"][1] == "plain queries" and rows["data/zsre-test.json"][1] == "test edits, not trained on"


# ---- beside the exact fact


def test_what_was_drawn_stands_beside_the_configured_shares_and_missing_neighbours_are_counted(run_dir: Path, page_text: str) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    shown = manifest["lte"]["shown"]
    rows = cells_of(section(page_text, "beside"))[1:]
    assert [row[1] for row in rows] == ["50.0%", "25.0%", "25.0%"]
    assert [row[2] for row in rows] == [f"{shown[style] / 480:.1%}{shown[style]}" for style in STYLES]
    assert shown["short"] > 0 and f"{shown['short']} neighbours were drawn but are missing" in told(page_text)
    # two neighbours drawn and one missing: one stands in the row
    assert int(rows[2][3]) == shown["exact_and_2"] - shown["short"] and int(rows[1][3]) == shown["exact_and_1"] + shown["short"]


def test_without_counts_in_the_manifest_the_rows_say_what_was_drawn(tmp_path: Path, run_dir: Path, page_text: str) -> None:
    again = write_report(change(build_lte_run(tmp_path), shown={})).read_text(encoding="utf-8")
    assert section(again, "beside") == section(page_text, "beside")


def test_a_shuffled_exact_fact_is_about_even_over_the_places(run_dir: Path) -> None:
    run = read_run(run_dir)
    rows = read_rows(run)
    assert set(rows.places) == {2, 3} and rows.num_several > 0 and not rows.num_without_exact
    view = places_view(run, rows)
    assert view is not None and all(one["is_fine"] for one in view["told"])
    assert view["told"][0]["text"].endswith("about even.")
    # every prompt with a neighbour is counted, or has the two facts of an MQuAKE case
    assert sum(counts.total() for counts in rows.places.values()) + rows.num_several == rows.neighbours[1] + rows.neighbours[2]


def test_an_exact_fact_that_is_always_first_is_told_and_warned_of_unless_configured(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, hostile=False, threefold=ThreefoldConfig(exact_first=True))
    page = section(write_report(run).read_text(), "beside")
    assert page.count("always the first, as configured (exact_first).") == 2 and 'class="warn"' not in page
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["lte"]["threefold"]["exact_first"] = False
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    page = section(write_report(run).read_text(), "beside")
    assert page.count('class="warn"') == 2 and "a model can learn the place" in page and "1st 100.0%" in page


def test_a_place_that_should_always_be_the_first_and_is_not_is_warned_of(run_dir: Path) -> None:
    run = read_run(run_dir)
    run.config["lte"]["threefold"]["exact_first"] = True
    view = places_view(run, read_rows(run))
    assert view is not None and not any(one["is_fine"] for one in view["told"])
    assert "not always the first, though exact_first is set" in view["told"][0]["text"]


def test_places_that_chance_explains_are_even_and_others_are_not(run_dir: Path) -> None:
    run = read_run(run_dir)
    # 400 tosses have a standard deviation of 10
    for heads, is_fine in ((200, True), (240, True), (241, False), (159, False)):
        view = places_view(run, Rows(places={2: Counter({0: heads, 1: 400 - heads})}))
        assert view is not None and [one["is_fine"] for one in view["told"]] == [is_fine], heads
    view = places_view(run, Rows(places={2: Counter({0: 3})}))
    assert view is not None and view["told"] == [
        {"text": "Of 3 prompts with 2 facts the exact one is 1st 100.0%, 2nd 0.0%: too few to tell.", "is_fine": True}]


def test_bars_of_places_are_as_high_as_their_shares() -> None:
    drawn = places_chart({2: Counter({0: 30, 1: 10}), 3: Counter({0: 5, 2: 5}), 9: Counter({0: 3})})
    heights = [float(height) for height in re.findall(r'<rect class="bar[^>]* height="([\d.]+)"', drawn)]
    assert len(heights) == 5 and heights[3] == 0  # two of two facts, three of three
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2) and heights[2] == heights[4] == pytest.approx(2 * heights[1], abs=0.2)
    assert "1st of 2 facts: 30 (75.0 %)" in drawn and drawn.count('class="mark"') == 2
    assert places_chart({}) == "" == places_chart({2: Counter()})


def test_a_prompt_without_its_own_fact_is_warned_of(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=3, hostile=False)
    draft = make_draft("zsre", 1, in_scope=True, hostile=False)
    stray = examples_of(draft, Shown(("A fact.",), ("other",), ("other",), DRAWN[0]), form="thesis")
    pq.write_table(table_of(EditExample, stray), run / "parts" / "stray.parquet")
    assert "1 prompts do not show the fact of their edit." in told(write_report(run).read_text())


# ---- lengths


def test_words_are_counted_between_blanks_with_the_edit_prompt_and_without() -> None:
    draft = make_draft("zsre", 7, in_scope=True, hostile=False)
    examples = examples_of(draft, Shown(draft.facts, (draft.edit_id,), (), DRAWN[0]), form="thesis")
    query, fact = len(draft.query.split()), len(draft.facts[0].split())
    assert len(examples[1].messages[0].content.split()) == query
    assert len(examples[0].messages[0].content.split()) == query + fact + 3  # [Updated Information] [Query]


def test_the_lengths_of_a_run_are_those_of_its_messages(run_dir: Path) -> None:
    rows = read_rows(read_run(run_dir))
    messages = [table.column("messages").to_pylist() for table in map(pq.read_table, sorted((run_dir / "parts").glob("*.parquet")))]
    words = sorted(len(turns[0]["content"].split()) for part in messages for turns in part)
    assert sorted(rows.words["with"] + rows.words["without"]) == words and len(rows.words["answer"]) == 960
    assert [one["title"] for one in word_charts(rows)] == ["Prompts with the edit prompt", "Prompts without it", "Answers"]
    assert word_charts(Rows()) == []


def test_a_few_very_long_prompts_share_the_last_bar() -> None:
    drawn = word_histogram([10] * 500 + [11] * 490 + [4000] * 3, title="t")
    tips = re.findall(r"<title>([^<]*)</title>", drawn)
    assert "10 to 11 words: 500" in tips and "11 to 12 words: 490" in tips and "24 words or more: 3" in tips
    assert "words or more" not in word_histogram([1, 2, 3], title="t")


# ---- leakage


def leakage_of(run: Path, **found: Any) -> str:
    return section(write_report(change(run, leakage=found)).read_text(), "leakage")


def test_the_check_against_test_edits_is_said_in_words(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=2, hostile=False)
    text = leakage_of(run, test_edits=1304, shared=0, handling="drop")
    assert "No training edit shares a fact (subject and relation) or a question with one of the 1,304 test edits." in text
    assert "warn" not in text
    text = leakage_of(run, test_edits=1304, shared=12, handling="report")
    assert "they are in the rows, as on_leakage: report asks for." in text and "warn" in text


def test_a_run_that_names_no_test_edits_says_that_nobody_looked(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=2, hostile=False)
    text = leakage_of(run, test_edits=0, shared=0, handling="drop")
    assert "No test edits were named (input.test)" in text and "MQuAKE comes without a training part" in text
    assert text.count("warn") == 2
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["input"]["edits"] = FILES[:1]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "MQuAKE" not in leakage_of(run, test_edits=0, shared=0, handling="drop")


def test_everything_that_the_method_counts_as_left_out_has_words() -> None:
    assert set(NOTES) < set(LEFT_OUT) and "needs_a_model" in LEFT_OUT
    assert list(STYLES) == list(DRAWN)


# ---- samples


def test_pairs_are_chosen_by_data_set_and_scope_with_the_style_sheet_alone(page_text: str) -> None:
    found = section(page_text, "samples")
    cases = Counter(re.findall(r'<details class="case of-(\w+) in-(\w+)">', found))
    assert cases == {("zsre", "in_scope"): 8, ("zsre", "out_of_scope"): 8, ("wiki_recent", "in_scope"): 8,
                     ("wiki_recent", "out_of_scope"): 8, ("mquake", "in_scope"): 8, ("mquake", "out_of_scope"): 8,
                     ("counterfact", "free_text"): 8, ("counterfact", "out_of_scope"): 8}
    picks = [a.get("class") for tag, a in Page(found).tags if tag == "input"]
    assert picks == [None, "pick-zsre", "pick-wiki_recent", "pick-mquake", "pick-counterfact",
                     None, "pick-in_scope", "pick-out_of_scope", "pick-free_text"]
    assert "#samples:has(.pick-mquake:checked) .case:not(.of-mquake) { display: none; }" in page_text
    assert "#samples:has(.pick-free_text:checked) .case:not(.in-free_text) { display: none; }" in page_text
    # free text is COUNTERFACT's alone, which has no other in-scope pairs
    empty = re.findall(r"#samples:has\(\.pick-(\w+):checked\):has\(\.pick-(\w+):checked\) \.nothing", page_text)
    assert sorted(empty) == [("counterfact", "in_scope"), ("mquake", "free_text"), ("wiki_recent", "free_text"), ("zsre", "free_text")]
    assert f"{480 - 64} more pairs are in the part files." in told(found)


def test_both_examples_of_a_pair_stand_side_by_side(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=MAX_SAMPLES, hostile=False, threefold=ThreefoldConfig(shares=(0, 0, 1)))
    listed = sample_list(read_run(run))
    assert len(listed["samples"]) == 8 * MAX_SAMPLES and listed["rest"] == 0
    for sample in listed["samples"]:
        prompted, bare = sample["sides"]
        assert prompted["turns"][0][1].startswith("[Updated Information]") and prompted["turns"][0][1].endswith(bare["turns"][0][1])
        same_answer = prompted["turns"][1] == bare["turns"][1]
        assert same_answer == (sample["kind"] == "out_of_scope")
        exact = [fact for fact in sample["facts"] if fact["is_exact"]]
        assert len(exact) == (2 if sample["source"] == "mquake" else 1) and all("owner of mill" in fact["text"] for fact in exact)
        ranks = sorted(fact["label"] for fact in sample["facts"] if not fact["is_exact"])
        assert ranks in (["neighbour, 1 by similarity"], ["neighbour, 1 by similarity", "neighbour, 2 by similarity"])


def test_a_pair_of_which_one_example_is_gone_is_shown_with_a_gap(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=2, hostile=False, num_parts=1)
    (path,) = (run / "parts").glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.filter(table["with_prompt"]), path)
    page = write_report(run).read_text()
    assert page.count("not in the rows") == 16


# ---- what is not there


@pytest.mark.parametrize("status", ["running", "failed", "stopped_at_budget", "empty"])
def test_a_run_of_which_only_the_beginning_is_there(tmp_path: Path, status: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"method": "lte", "name": "x", "status": status, "message": "the engine is down"}))
    text = told(write_report(tmp_path).read_text())
    ending = " yet." if status == "running" else "."
    for part in ("No pairs have been counted", "No queries have been chosen", "Nothing has been drawn", "No examples have been written",
                 "Nothing has been compared with test edits", "No pairs have been written"):
        assert part + ending in text, part
    assert "Short cells– of Table C.1" in text.replace("–of", "– of") and "Pairs–with and without the edit prompt" in text
    assert ("Why it failed" in text) == (status == "failed")
    card = write_card(tmp_path).read_text()
    assert "0 examples that teach" in card and "status is" in card


def test_a_run_that_stopped_before_it_wrote_rows_shows_its_pairs(tmp_path: Path) -> None:
    run = change(build_lte_run(tmp_path, count=2, hostile=False, status="stopped_at_budget"), shown={})
    for path in (run / "parts").glob("*"):
        path.unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"result": {"rows": 0}}))
    text = told(write_report(run).read_text())
    assert "Examples0none written" in text and "Pairs167,640 wanted" in text and "ZsREshort" in text
    assert "Nothing has been drawn." in text


@pytest.mark.parametrize("odd", [
    {"lte": 3}, {"lte": {"cells": 3, "aspects": [], "notes": "x", "leakage": [], "shown": 1, "pairs": "many", "form": []}},
    {"lte": {"cells": [{}, None], "aspects": {"a": 1, "a/b/c": "x"}, "notes": {"n": None}, "leakage": {"test_edits": "x"},
             "shown": {"short": None}}},
    {"usage": {"steps": {"a": 1}}, "funnel": None},
])
def test_misshapen_facts_cost_no_report(tmp_path: Path, odd: dict[str, Any]) -> None:
    run = build_lte_run(tmp_path, count=2, hostile=False)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | odd))
    (run / "config.yaml").write_text("input: {edits: 3, plain: 4, test: [5, {paths: 6}]}\nlte: {threefold: {shares: [1, x]}}\n")
    assert "The run" in told(write_report(run).read_text())
    assert "## Columns" in write_card(run).read_text()


def test_parts_of_another_build_and_torn_ones_are_left_out(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=2, hostile=False)
    pq.write_table(pa.table({"row_id": ["a"]}), run / "parts" / "old.parquet")
    (run / "parts" / "torn.parquet").write_bytes(b"PAR1 torn")
    (run / "commits" / "edits" / "torn.json").write_text("{")
    assert read_rows(read_run(run)).num == 32
    assert "Examples3216 with the edit prompt" in told(write_report(run).read_text())


# ---- the card


def test_the_card_tells_cells_sources_form_and_how_to_train(tmp_path: Path) -> None:
    card = write_card(build_lte_run(tmp_path, hostile=False)).read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["size_categories"] == ["n<1K"] and front["configs"][0]["data_files"] == [{"split": "train", "path": "parts/*.parquet"}]
    for fact in (
        "960 examples that teach a model", "| ZsRE | out-of-scope | 80 | 60 | **20** |", "| ZsRE | in-scope | 60 | 60 | – |",
        "| all |  | 7,640 | 180 | 7,460 |", "**2 cells are short of what was wanted.**", "[Updated Information] {{ facts }}",
        "| data/zsre.json | zsre\\_mend | edits | 2,345 | 1 |", "| data/evol.json | – | plain queries | – | – |",
        "| COUNTERFACT | free text | 60 | 60 |", "- 17 edits without an out-of-scope query", "12 training edits share a fact",
        "| lte/verify | verifier | big-1 | 100 | \\$0.50 |", "In all \\$1.00.", "similar by some-model", "a verifier does not find",
        "alignray train configs/train/thesis-lte.yaml --set 'input.paths=[\"RUN\"]'",
        "- Fewer pairs than wanted: ZsRE out-of-scope, COUNTERFACT in-scope.", "## Limits",
    ):
        assert fact in card, fact
    assert "status is" not in card and "was not verified" not in card and "hashed words" not in card


def test_the_card_names_every_column_of_the_rows_in_its_order() -> None:
    assert list(COLUMNS) == [field.name for field in fields(EditExample)]


def test_hostile_names_are_inert_in_the_card(run_dir: Path) -> None:
    front, body = write_card(run_dir).read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license"] == "other"
    assert "<script" not in body and "<img" not in body and "<b>" not in body and "\x00" not in body
    assert HOSTILE not in body and "&lt;script&gt;" in body


def test_the_card_says_what_a_run_without_models_or_verification_lacks(tmp_path: Path) -> None:
    run = build_lte_run(tmp_path, count=2, hostile=False)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"usage": {"usd": 0, "steps": {}}}))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["embedder"], config["lte"]["scopes"]["verify"] = "hash", False
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    card = write_card(run).read_text()
    assert "No model was asked: all texts stand in the files." in card
    assert "was not verified" in card and "hashed words" in card and "verifier does not find" not in card
