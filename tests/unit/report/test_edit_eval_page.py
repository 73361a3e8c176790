"""The report and the card of an evaluation of edited models, from a manifest and rows made by hand; hostile texts are shown, not obeyed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from alignray.methods.lte.render import PROMPTS, render_prompt
from alignray.report.card import write_card
from alignray.report.edit_eval_card import COLUMNS
from alignray.report.edit_eval_figures import facts_in, metric_table, read_cases, read_results
from alignray.report.edit_eval_page import MAX_CASES, MAX_QUERIES, case_list, edit_eval_page
from alignray.report.eval_charts import NUM_COLOURS, tone
from alignray.report.html import write_report
from alignray.report.run_folder import read_run
from alignray.schema import EditScore, table_of
from alignray.seeding import row_id_of
from tests.runfolders import HOSTILE
from tests.unit.report.test_html_report import Page

SPOILED = f"{HOSTILE} \x00 nul"
METHODS = {
    "bare": {"kind": "bare", "model": "tiny-7b"}, "ICE": {"kind": "ice", "model": "tiny-7b", "form": "ice"},
    "LTE": {"kind": "lte", "model": "runs/lte", "top_k": 3}, "LTE-LoRA": {"kind": "lte", "model": "runs/lte-lora", "top_k": 3},
    "FT": {"kind": "fine_tune", "model": "tiny-7b", "steps": 25}, "FT-L": {"kind": "fine_tune", "model": "tiny-7b", "norm": 5e-5},
}
SOURCES = ("zsre", "wiki_recent", "mquake")
SIZES = (10, 100, 1000)
STRENGTH = {"bare": 0.1, "ICE": 0.7, "LTE": 0.97, "LTE-LoRA": 0.93, "FT": 0.6, "FT-L": 0.45}
MEASURES = {
    "edit_success": ("token", "exact", "said"), "portability": ("token", "exact", "said"), "locality": ("token", "exact"),
    "fluency": ("thesis", "original"),
}


def make_figures(methods: Sequence[str] = tuple(METHODS), sources: Sequence[str] = ("all", *SOURCES)) -> list[dict[str, Any]]:
    """Figures that fall with the number of edits, slower for LTE than for the others."""
    settings = [("single", 1, ""), *(("batch", size, "") for size in SIZES),
                *(("sequential", size, when) for size in SIZES for when in ("at_insertion", "final"))]
    figures = []
    for method in methods:
        for place, source in enumerate(sources):
            for mode, size, when in settings:
                for metric, measures in MEASURES.items():
                    loss = 0.03 * math.log10(size) * (1 if "LTE" in method else 3) * (2 if when == "final" else 1)
                    rate = max(STRENGTH[method] - loss - 0.02 * place, 0)
                    rate = {"locality": 1 - loss, "portability": rate * 0.8}.get(metric, rate)
                    for measure in measures:
                        mean = 590 - 300 * loss - (20 if measure == "thesis" else 0) if metric == "fluency" else (
                            rate if measure == "token" else rate * 0.9)
                        figures.append({
                            "method": method, "source": source, "mode": mode, "size": size, "when": when, "metric": metric,
                            "measure": measure, "mean": mean, "se": 2.5 if metric == "fluency" else 0.012, "records": 1000 - place,
                        })
    return figures


def make_manifest(*, status: str = "done", hostile: bool = True) -> dict[str, Any]:
    bad = SPOILED if hostile else ""
    retrieval = [
        {"source": source, "mode": mode, "size": size, "when": when, "aspect": aspect, "k": k, "precision": 0.9 / k, "hit": 0.9,
         "queries": 321}
        for source in ("all", "zsre") for mode, size, when in (("batch", 100, ""), ("sequential", 1000, "final"))
        for aspect in ("edit", "rephrase", "portability", "locality") for k in (1, 3)
    ]
    times = [
        {"method": method, "mode": mode, "size": size, "edit_seconds": seconds, "answer_seconds": 0.012, "edits": 1000, "queries": 4321}
        for mode, size in (("batch", 100), ("single", 1)) for method, seconds in (("FT", 7.5), ("LTE", 0.0021), ("bare", None))
    ]
    return {
        "method": "edit-eval", "name": f"mills <b>edited</b> {HOSTILE[:60]}" if hostile else "mills", "status": status,
        "message": f"a note {bad}" if hostile else "", "started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T09:00:00Z",
        "result": {"rows": 1234}, "seconds": {"single": 300.5}, "versions": {"torch": "2.9"}, "fingerprint": "ab" * 16,
        "funnel": [{"stage": "read", "in": 900, "kept": 880, "rejected": {f"ingest/empty_target {HOSTILE[:30]}": 20}}],
        "edit_eval": {
            "protocol": {"edit_success": f"Of the edit's prompt and its rephrased ones. {bad}", "fluency": "Weighted entropy of n-grams."},
            "datasets": {source: {"records": 1000 + place, "items": {"edit": 1000, "portability": 2000 + place, "locality": 3000}}
                         for place, source in enumerate(SOURCES)},
            "methods": {name: {**told, **({"note": bad} if hostile else {})} for name, told in METHODS.items()},
            "figures": make_figures(), "retrieval": retrieval, "times": times,
            "notes": {"no_portability": 17, "target_too_long": 0, f"odd {bad}": 1},
        },
    }


def edit_of(source: str, number: int) -> tuple[str, str, str]:
    """Id, prompt and target."""
    return row_id_of("edit", source, str(number)), f"The owner of mill {number} in {source} is", f"Ida {number}"


def fact_of(source: str, number: int) -> str:
    return " ".join(edit_of(source, number)[1:])


def make_rows(
    source: Any, number: int, mode: Any = "single", size: int = 1, when: Any = "", *, methods: Sequence[str] = tuple(METHODS),
    hostile: bool = False,
) -> list[EditScore]:
    """What was asked of an edit. LTE is right, FT too on every third edit, ICE on all but portability; of many edits LTE sees 3."""
    edit_id, prompt, target = edit_of(source, number)
    bad = f" {SPOILED}" if hostile and number % 5 == 0 else ""
    near = [(number + step) % 1000 for step in (1, 2)] if size > 1 else []
    shown_ids = [number, *near] if number % 4 else [*near, number]
    aspects = [("edit", "edit", prompt, target), ("rephrase", "rephrase", f"Who owns mill {number}?{bad}", target)]
    aspects += [("portability", f"Reasoning{bad}", f"In which town lives the owner of mill {number} ({hop})?{bad}", "Oslo")
                for hop in range(2)]
    aspects += [("locality", "Forgetfulness", f"Who owns farm {number}?{bad}", f"Karl{bad}")]
    rows = []
    for method in methods:
        for aspect, kind, query, answer in aspects:
            rights = {"bare": aspect == "locality", "FT": number % 3 == 0, "FT-L": False, "ICE": aspect != "portability"}
            is_right = rights.get(method, True)
            is_told = method.startswith(("LTE", "ICE"))
            facts = [fact_of(source, one) + bad for one in shown_ids] if is_told else []
            has_said = aspect != "locality" and method != "FT-L"
            rows.append(EditScore(
                row_id_of("score", method, mode, str(size), when, edit_id, aspect, query), method, source, mode, size, when, edit_id,
                aspect, kind, query, answer, render_prompt(facts, query, form="ice" if method == "ICE" else "thesis"),
                tuple(edit_of(source, one)[0] for one in shown_ids) if is_told else (), 1.0 if is_right else 0.4, float(is_right),
                (f"{answer if is_right else 'Otto'}, says {method}.{bad}" if has_said else ""), float(is_right) if has_said else None,
                5.83 if has_said and aspect == "edit" else None, None, 0.5, 0.01,
            ))
    return rows


def build_edit_eval_run(
    run_dir: Path, *, count: int = 12, hostile: bool = True, status: str = "done", num_parts: int = 2, rows: list[EditScore] | None = None,
    **parts: Any,
) -> Path:
    """A run folder with ``count`` edits of three data sets, each once alone and once in a stream of 100; ``parts`` are put into
    manifest["edit_eval"], and None takes one out."""
    run_dir.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(status=status, hostile=hostile)
    manifest["edit_eval"] = {name: value for name, value in {**manifest["edit_eval"], **parts}.items() if value is not None}
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"seed": 5}))
    if rows is None:
        rows = [row for source in SOURCES for number in range(count) for setting in (("single", 1, ""), ("sequential", 100, "final"))
                for row in make_rows(source, number, *setting, hostile=hostile)]
    (run_dir / "parts").mkdir(exist_ok=True)
    for part in range(num_parts):
        pq.write_table(table_of(EditScore, rows[part::num_parts]), run_dir / "parts" / f"{num_parts}-{part}.parquet")
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_edit_eval_run(tmp_path_factory.mktemp("edit_eval"))


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


def one(method: str, mean: Any, *, metric: str = "edit_success", measure: str = "token", source: str = "zsre", mode: str = "single",
        size: Any = 1, when: str = "", se: Any = 0.01, records: Any = 50) -> dict[str, Any]:
    return {"method": method, "source": source, "mode": mode, "size": size, "when": when, "metric": metric, "measure": measure,
            "mean": mean, "se": se, "records": records}


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
    # message, settings of methods, protocol, notes, queries, targets, facts and answers
    assert page.text.count("<script>document.title='pwned';alert(1)</script>") > 50
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page.text
    assert "\x07" not in page_text and "\x00" not in page_text
    assert sum(tag == "style" for tag, _ in page.tags) == 1


def test_names_of_methods_and_data_sets_are_hostile_too(tmp_path: Path) -> None:
    bad = '"><script>alert(1)</script> } body { display: none'
    figures = [one(bad, 0.9 - size / 1e4, source=bad, mode="batch", size=size) for size in (1, 10, 100)]
    run = build_edit_eval_run(tmp_path, rows=[], figures=figures, datasets={bad: {"records": 3, "items": {"edit": 4}}}, methods={bad: {}})
    page = write_report(run).read_text()
    assert "<script>" not in page and Page(page).text.count(bad) > 3
    style = page.split("<style>")[1].split("</style>")[0]
    assert "alert" not in style
    assert "<script>" not in write_card(run).read_text().split("---\n", 2)[2]


def test_every_part_of_a_full_run_is_told(page_text: str) -> None:
    text = told(page_text)
    for heading in ("Mind this", "Single editing", "Batch editing", "Sequential editing, at insertion",
                    "Sequential editing, after the whole stream", "The four metrics as radars", "Does retrieval find the edit?",
                    "Seconds per edit and per answer",
                    "Cases, method beside method", "How it was measured", "From records to rows", "The run"):
        assert heading in text, heading
    for fact in ("Records3,003of 3 data sets", "Methods65 besides the bare model", "Scored items2,160a row each", "Edits at once1,000",
                 "Weighted entropy of n-grams.", "17 no portability"):
        assert fact in text, fact
    assert "0 target too long" not in text
    ids = re.findall(r'<section id="([a-z-]+)">', page_text)
    assert ids == ["results", "batch", "at-insertion", "final", "radars", "retrieval", "times", "cases", "protocol", "funnel", "run"]
    # a chart for each metric, measure, data set and kind of editing; a radar for each measure and data set
    assert page_text.count("<svg") == 4 * 2 * 4 * 3 + 2 * 4


def test_the_page_is_the_same_whatever_the_parts_are_called_and_of_bounded_size(tmp_path: Path, page_text: str, run_dir: Path) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page_text
    assert len(page_text.encode()) < 3_000_000
    other = write_report(build_edit_eval_run(tmp_path, num_parts=5)).read_text(encoding="utf-8")
    assert other == page_text


# ---- the main table


def test_figures_stand_under_their_measure_with_error_and_number(tmp_path: Path) -> None:
    figures = [
        one("bare", 0.999, metric="locality"), one("bare", 0.1), one("LTE", 0.9876, se=0.0123, records=1301),
        one("LTE", 0.95, measure="exact"),
        one("LTE", 0.9, metric="locality"), one("FT", 0.5, se=None), one("FT", 0.4, measure="exact"), one("FT", 0.6, metric="locality"),
        one("LTE", 583.44, metric="fluency", measure="thesis", se=2.04), one("LTE", 601.2, metric="fluency", measure="original"),
        one("FT", 590.0, metric="fluency", measure="thesis"),
    ]
    methods = {name: METHODS[name] for name in ("bare", "LTE", "FT")}
    page = write_report(build_edit_eval_run(tmp_path, hostile=False, rows=[], figures=figures, methods=methods)).read_text()
    rows = cells_of(section(page, "results").split("<details>")[0])
    assert rows == [
        ["", "Edit success", "Locality", "Fluency"],
        ["Method", "token accuracy", "exact match", "same tokens", "continuation", "with its prompt"],
        ["bare50 records", "10.0± 1.0", "–", "99.9± 1.0", "–", "–"],
        ["LTE", "★ 98.8± 1.2n 1,301", "★ 95.0± 1.0n 50", "★ 90.0± 1.0n 50", "583.4± 2.0n 50", "601.2± 0.0n 50"],
        ["FT50 records", "50.0", "40.0± 1.0", "60.0± 1.0", "★ 590.0± 0.0", "–"],
    ]
    assert "ZsRE" in section(page, "results")


def test_equal_figures_are_all_the_best_and_a_lone_method_is_none(tmp_path: Path) -> None:
    figures = [one("LTE", 0.9001), one("ICE", 0.9), one("FT", 0.8), one("ICE", 0.7, measure="exact")]
    results = read_results(read_run(build_edit_eval_run(tmp_path, rows=[], figures=figures)))
    table = metric_table(results, "zsre", results.settings)
    assert table is not None
    best = {row["method"]: [bool(cell and cell["is_best"]) for cell in row["cells"]] for row in table["rows"]}
    assert best == {"ICE": [True, False], "LTE": [True, False], "FT": [False, False]}
    assert metric_table(results, "mquake", results.settings) is None


def test_methods_stand_in_the_order_of_the_config_and_data_sets_in_that_of_the_thesis(page_text: str) -> None:
    found = section(page_text, "results")
    assert re.findall(r"<h3><bdi>([^<]*)</bdi>", found) == ["All data sets", "ZsRE", "wiki_recent (RippleEdits)", "MQuAKE"]
    names = [row[0] for row in cells_of(found) if len(row) > 8 and row[0] != "Method"]
    assert names == [f"{name}{num} records" for num in ("1,000", "999", "998", "997") for name in METHODS]
    assert cells_of(found.split("<details>")[1])[1:] == [
        ["ZsRE", "1,000", "1,000", "2,000", "3,000"], ["wiki_recent (RippleEdits)", "1,001", "1,000", "2,001", "3,000"],
        ["MQuAKE", "1,002", "1,000", "2,002", "3,000"],
    ]


# ---- charts


def test_sizes_that_span_a_decade_are_drawn_on_a_log_axis_with_single_editing_as_size_1(tmp_path: Path) -> None:
    figures = [one("LTE", 0.9), *(one("LTE", 0.8, mode="batch", size=size, se=None) for size in (10, 100))]
    page = section(write_report(build_edit_eval_run(tmp_path, rows=[], figures=figures)).read_text(), "batch")
    places = [float(x) for x in re.findall(r'<circle class="dot[^"]*" cx="([\d.]+)"', page.split("</svg>")[0])]
    assert places == [38.0, 184.0, 330.0]
    assert "1 edit is single editing" in page and "LTE, 1: 0.900 (0.890 to 0.910)" in page
    few = [one("LTE", 0.8, mode="batch", size=size) for size in (1, 2, 5)]
    page = section(write_report(build_edit_eval_run(tmp_path, rows=[], figures=few)).read_text(), "batch")
    places = [float(x) for x in re.findall(r'<circle class="dot[^"]*" cx="([\d.]+)"', page.split("</svg>")[0])]
    assert places == [38.0, 111.0, 330.0]


def test_a_size_that_a_method_was_not_measured_at_is_a_gap(tmp_path: Path) -> None:
    figures = [one("LTE", 0.9, mode="sequential", when="final", size=size) for size in (10, 100, 1000)]
    figures += [one("FT", 0.5, mode="sequential", when="final", size=size) for size in (10, 1000)]
    run = build_edit_eval_run(tmp_path, rows=[], figures=figures, methods={"LTE": {}, "FT": {}})
    page = section(write_report(run).read_text(), "final")
    lines = re.findall(r'<path class="line s(\d)" d="([^"]*)"><title>(\w+)', page)
    assert [(colour, path.count("M"), name) for colour, path, name in lines] == [("0", 1, "LTE"), ("1", 2, "FT")]
    assert [row[:2] for row in cells_of(page)[2:]] == [
        [f"{name}50 records", size] for name, size in (("LTE", "10"), ("FT", "10"), ("LTE", "100"), ("LTE", "1,000"), ("FT", "1,000"))]


def test_one_size_is_a_table_and_no_chart(tmp_path: Path) -> None:
    figures = [one("LTE", 0.9, mode="batch", size=100), one("FT", 0.5, mode="batch", size=100)]
    text = write_report(build_edit_eval_run(tmp_path, rows=[], figures=figures)).read_text()
    assert "<svg" not in text and "One size was measured" in section(text, "batch")
    assert "No single editing was measured" in text and '<section id="radars">' not in text


def test_radars_have_fluency_in_parts_of_the_best(tmp_path: Path) -> None:
    figures = [one(method, mean, metric=metric, measure=measure) for method, fluency in (("LTE", 600.0), ("FT", 300.0))
               for metric, measure, mean in (("edit_success", "token", 0.5), ("portability", "token", 0.5), ("locality", "token", 1.0),
                                             ("fluency", "original", fluency))]
    page = section(write_report(build_edit_eval_run(tmp_path, rows=[], figures=figures)).read_text(), "radars")
    tips = re.findall(r"<title>(\w+, Fluency: [\d.]+)</title>", page)
    assert tips == ["LTE, Fluency: 1.000", "FT, Fluency: 0.500"]
    assert page.count("<svg") == 1  # of exact match there is nothing
    without = [figure for figure in figures if figure["metric"] != "fluency"]
    page = section(write_report(build_edit_eval_run(tmp_path, rows=[], figures=without)).read_text(), "radars")
    assert page.count("<svg") == 1 and "Fluency</text>" not in page
    page = section(write_report(build_edit_eval_run(tmp_path, rows=[], figures=without[:1])).read_text(), "radars")
    assert "<svg" not in page and "Fewer than three metrics were measured" in page


# ---- retrieval and times


def test_retrieval_stands_by_setting_aspect_and_k(page_text: str) -> None:
    rows = cells_of(section(page_text, "retrieval").split("<details>")[0])
    assert rows[0] == ["Edits", "Query", "Queries", "hit at 1", "precision at 1", "hit at 3", "precision at 3"]
    assert rows[1] == ["batches of 100", "the edit's prompt", "321", "90.0%", "90.0%", "90.0%", "30.0%"]
    assert [row[1] for row in rows[1:]] == ["the edit's prompt", "the prompt in other words", "portability", "locality"] * 2
    assert rows[5][0] == "stream of 1,000, all after the last edit"


def test_times_stand_by_setting_and_method(page_text: str) -> None:
    rows = cells_of(section(page_text, "times"))
    assert [row[:4] for row in rows[1:]] == [
        [method, setting, seconds, "0.012 s"] for setting in ("single editing", "batches of 100")
        for method, seconds in (("bare", "–"), ("LTE", "0.0021 s"), ("FT", "7.5 s"))
    ]
    assert rows[1][4:] == ["1,000", "4,321"]


# ---- cases


def test_edits_on_which_methods_disagree_come_first_whatever_the_bare_model_says(tmp_path: Path) -> None:
    together = [row for number in range(30) for row in make_rows("zsre", number, methods=("bare", "LTE", "LTE-LoRA"))]
    apart = [replace(row, exact_score=0.0) if row.method == "LTE" and row.aspect in aspects else row
             for number, aspects in ((40, ("edit",)), (41, ("edit", "locality")), (42, ("edit", "portability")))
             for row in make_rows("zsre", number, methods=("bare", "LTE", "LTE-LoRA"))]
    run = read_run(build_edit_eval_run(tmp_path, rows=[*together, *apart], figures=[]))
    cases, total = read_cases(run, read_results(run), 3)
    # two aspects before one; of two, three queries of five before two
    assert [case.edit_id for case in cases] == [edit_of("zsre", number)[0] for number in (42, 41, 40)]
    assert [(case.num_apart, case.num_compared) for case in cases] == [(3, 5), (2, 5), (1, 5)] and total == 33
    assert all(len(case.rows) == 15 for case in cases)


def test_with_one_method_beside_the_bare_model_these_two_are_compared(tmp_path: Path) -> None:
    rows = [row for number in range(3) for row in make_rows("zsre", number, methods=("bare", "LTE"))]
    run = read_run(build_edit_eval_run(tmp_path, rows=rows, figures=[], methods={"bare": {"kind": "bare"}, "LTE": {"kind": "lte"}}))
    cases, _ = read_cases(run, read_results(run), 5)
    assert [(case.num_apart, case.num_compared) for case in cases] == [(4, 5)] * 3  # all but locality
    assert "the bare model aside" not in section(write_report(run.path).read_text(), "cases")


def test_cases_are_of_the_first_setting_and_of_the_one_with_the_most_edits(tmp_path: Path) -> None:
    settings = (("batch", 10, ""), ("sequential", 100, "final"), ("sequential", 100, "at_insertion"), ("single", 1, ""), ("batch", 100, ""))
    rows = [row for setting in settings for row in make_rows("zsre", 1, *setting)]
    listed = case_list(read_run(build_edit_eval_run(tmp_path, rows=rows)), read_results(read_run(tmp_path)))
    assert listed["settings"] == ["single editing", "stream of 100, all after the last edit"]
    assert [case["at"] for case in listed["cases"]] == [0, 1] and listed["rest"] == 0


def test_a_case_shows_its_edit_its_queries_and_every_method(tmp_path: Path) -> None:
    run = read_run(build_edit_eval_run(tmp_path, rows=make_rows("zsre", 3, "sequential", 100, "final")))
    (case,) = case_list(run, read_results(run))["cases"]
    assert case["edit"] == ["The owner of mill 3 in zsre is Ida 3"] and case["title"] == "ZsRE"
    assert [part["aspect"] for part in case["aspects"]] == ["the edit's prompt", "the prompt in other words", "portability", "locality"]
    assert [len(part["items"]) for part in case["aspects"]] == [1, 1, 2, 1]
    item = case["aspects"][0]["items"][0]
    assert (item["query"], item["target"]) == ("The owner of mill 3 in zsre is", "Ida 3")
    shown = [tuple(row[key] for key in ("method", "token", "exact", "said", "verdict", "fluency")) for row in item["rows"]]
    assert shown == [
        ("bare", "40.0%", "no", "Otto, says bare.", "wrong", "583.0"), ("ICE", "100.0%", "yes", "Ida 3, says ICE.", "right", "583.0"),
        ("LTE", "100.0%", "yes", "Ida 3, says LTE.", "right", "583.0"),
        ("LTE-LoRA", "100.0%", "yes", "Ida 3, says LTE-LoRA.", "right", "583.0"),
        ("FT", "100.0%", "yes", "Ida 3, says FT.", "right", "583.0"), ("FT-L", "40.0%", "no", "", "", ""),
    ]
    assert not case["aspects"][3]["items"][0]["has_said"]
    (together,) = item["shown"]
    assert together["methods"] == ["ICE", "LTE", "LTE-LoRA"] and item["nothing"] == ["bare", "FT", "FT-L"]
    assert (together["num"], together["rank"]) == (3, 1)
    assert [(fact["text"], fact["label"]) for fact in together["facts"]] == [
        (fact_of("zsre", 3), "the edit's own"), (fact_of("zsre", 4), "of another edit"), (fact_of("zsre", 5), "of another edit")]


def test_an_edit_that_was_not_found_is_told(tmp_path: Path) -> None:
    rows = make_rows("zsre", 4, "batch", 10)
    lost = [replace(row, retrieved=row.retrieved[:2], prompt=render_prompt([fact_of("zsre", 5), fact_of("zsre", 6)], row.query))
            if row.method == "LTE" else row for row in rows]
    text = told(section(write_report(build_edit_eval_run(tmp_path, rows=lost)).read_text(), "cases"))
    assert "LTE was shown 2 edits; the edit itself is not among them:" in text
    assert "ICE, LTE-LoRA were shown 3 edits; the edit itself is number 3 by similarity:" in text


def test_facts_of_a_case_with_several_are_known_by_their_words(tmp_path: Path) -> None:
    """MQuAKE: two facts of one edit; the prompt shows three, so their place does not tell whose they are."""
    edit_id, query, target = edit_of("mquake", 1)
    second = replace(make_rows("mquake", 1, methods=("LTE",))[0], row_id="second", query="Mill 1 stands in", target="Bergen")
    rows = [replace(row, retrieved=(edit_of("mquake", 9)[0], edit_id),
                    prompt=render_prompt([fact_of("mquake", 9), "Mill 1 stands in Bergen", f"{query} {target}"], row.query))
            for row in [second, *make_rows("mquake", 1, methods=("LTE",))]]
    run = read_run(build_edit_eval_run(tmp_path, rows=rows))
    (case,) = case_list(run, read_results(run))["cases"]
    assert sorted(case["edit"]) == ["Mill 1 stands in Bergen", f"{query} {target}"]
    (shown,) = case["aspects"][0]["items"][0]["shown"]
    assert [fact["label"] for fact in shown["facts"]] == ["", "the edit's own", "the edit's own"] and shown["rank"] == 2


@pytest.mark.parametrize("form", list(PROMPTS))
def test_facts_are_read_back_from_every_form_of_the_prompt(form: Any) -> None:
    query = "What is 3?\n[Query] in it"
    for facts in ([], ["One fact."], ["One.\n7. no list", "Two.\nmore", "Three. [Query] no"], [f"fact {number}" for number in range(12)]):
        assert facts_in(render_prompt(facts, query, form=form), query) == facts
    assert facts_in(f"In other words: 1. a\n2. b\nand now {query}", query) == ["In other words: 1. a\n2. b\nand now"]


def test_few_edits_of_each_data_set_and_few_queries_are_shown_and_the_rest_is_counted(tmp_path: Path, page_text: str) -> None:
    cases = Counter(re.findall(r'<details class="case of-(\d) at-(\d)">', section(page_text, "cases")))
    assert cases == {(str(place), at): MAX_CASES for place in range(3) for at in "01"}
    assert f"{72 - 6 * MAX_CASES} more edits of these settings are in the part files." in told(page_text)
    rows = [replace(row, query=f"{row.query} {number}") for number in range(9) for row in make_rows("zsre", 1)]
    run = read_run(build_edit_eval_run(tmp_path, rows=rows))
    (case,) = case_list(run, read_results(run))["cases"]
    assert [(len(part["items"]), part["rest"]) for part in case["aspects"]] == [(MAX_QUERIES, 5), (4, 5), (4, 14), (4, 5)]


def test_cases_are_chosen_by_data_set_and_setting_with_the_style_sheet_alone(tmp_path: Path) -> None:
    rows = [*make_rows("zsre", 1), *make_rows("mquake", 1), *make_rows("mquake", 1, "batch", 10)]
    page = write_report(build_edit_eval_run(tmp_path, rows=rows)).read_text()
    assert "#cases:has(.pick-set-1:checked) .case:not(.of-1) { display: none; }" in page
    assert "#cases:has(.pick-at-1:checked) .case:not(.at-1) { display: none; }" in page
    assert re.findall(r"#cases:has\(\.pick-set-(\d):checked\):has\(\.pick-at-(\d):checked\) \.nothing", page) == [("0", "1")]


# ---- what is missing


@pytest.mark.parametrize("part", ["protocol", "datasets", "methods", "figures", "retrieval", "times", "notes"])
@pytest.mark.parametrize("value", [None, [], {}, "text", [1, None, {}], {"a": None, "b": [1]}])
def test_a_part_that_is_missing_or_misshapen_is_left_out(tmp_path: Path, part: str, value: Any) -> None:
    run = build_edit_eval_run(tmp_path, count=1, **{part: value})
    assert "Cases, method beside method" in told(write_report(run).read_text())
    assert write_card(run).read_text().startswith("---\n")


def test_figures_without_a_number_are_left_out(tmp_path: Path) -> None:
    figures = [one("FT", None), one("ICE", "0.5"), one("ICE", 0.5, size="many"), one("ICE", 0.5, size=0), one("ICE", True),
               one("ICE", 0.5, metric="speed"), one("ICE", 0.5, measure="thesis"), one("bare", 0.3, se=None, records=None)]
    run = build_edit_eval_run(tmp_path, rows=[], figures=figures)
    assert cells_of(section(write_report(run).read_text(), "results").split("<details>")[0])[2:] == [["bare", "30.0"]]


@pytest.mark.parametrize("status", ["running", "failed", "empty"])
def test_a_run_that_has_nothing_yet(tmp_path: Path, status: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"method": "edit-eval", "status": status, "name": "mills"}))
    text = told(write_report(tmp_path).read_text())
    end = " yet." if status == "running" else "."
    for what in ("No figures have been computed", "No times have been recorded", "No scores have been written"):
        assert what + end in text
    assert "0 scored questions" in write_card(tmp_path).read_text()


def test_rows_without_numbers_and_parts_of_another_build_do_not_break_the_page(tmp_path: Path) -> None:
    odd = [replace(row, token_score=math.nan, exact_score=math.nan, said_score=math.nan, fluency=math.nan) for row in make_rows("zsre", 1)]
    run = build_edit_eval_run(tmp_path, rows=[*odd, *make_rows("zsre", 2)])
    table = pq.read_table(next((run / "parts").glob("*.parquet")))
    pq.write_table(table.drop_columns(["retrieved"]), run / "parts" / "old.parquet")
    (run / "parts" / "torn.parquet").write_bytes(b"PAR1")
    shown = edit_eval_page(read_run(run))["browse"]["cases"]
    assert [case["edit_id"] for case in shown] == [edit_of("zsre", number)[0] for number in (2, 1)]
    assert shown[1]["aspects"][0]["items"][0]["rows"][0]["token"] == "–"
    write_report(run)


# ---- the card


def test_the_card_tells_datasets_what_to_load_and_names_every_column(run_dir: Path) -> None:
    card = write_card(run_dir).read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"] == [{"config_name": "default", "data_files": [{"split": "test", "path": "parts/*.parquet"}]}]
    assert front["size_categories"] == ["1K<n<10K"]
    assert set(COLUMNS) == {field.name for field in fields(EditScore)}
    assert "2,160 scored questions to edited language models: edits of 3 data sets put to 6 methods" in card
    assert "<script>" not in card.split("---\n", 2)[2]
    for heading in ("Single editing", "Many edits at once", "Methods", "Data sets", "How it was measured", "Notes", "Limits"):
        assert f"## {heading}\n" in card, heading


def test_the_cards_main_table_is_that_of_the_page(tmp_path: Path) -> None:
    figures = [one("LTE", 0.9876, se=0.0123, records=1301), one("FT", 0.5), one("LTE", 0.8, mode="batch", size=100)]
    card = write_card(build_edit_eval_run(tmp_path, hostile=False, rows=[], figures=figures)).read_text()
    lines = card.splitlines()
    assert "| method | edit success, token accuracy |" in lines
    assert "| LTE | **98.8** ± 1.2 (1,301) |" in lines and "| FT | 50.0 ± 1.0 (50) |" in lines
    assert "| LTE | batches of 100 | 80.0 ± 1.0 (50) |" in lines


def test_the_rows_load_as_a_dataset(run_dir: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_card(run_dir)
    files = {"test": str(run_dir / "parts" / "*.parquet")}
    rows = datasets.load_dataset("parquet", data_files=files, split="test", cache_dir=str(tmp_path))
    assert rows.num_rows == 2160 and set(rows.column_names) == set(COLUMNS)


def test_more_methods_than_colours_are_told_apart() -> None:
    tones = [tone(number) for number in range(2 * NUM_COLOURS)]
    assert len(set(tones)) == len(tones) and tones[NUM_COLOURS] == f"{tones[0]} again"
