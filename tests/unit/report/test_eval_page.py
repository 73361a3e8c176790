"""The report and the card of an evaluation, from files written by hand; hostile texts are shown, not obeyed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from alignray.report.card import write_card
from alignray.report.eval_figures import Results, benchmark_section, inseparable
from alignray.report.eval_page import chosen_items, level_of, script_json, verdict_list
from alignray.report.html import write_report
from alignray.report.run_folder import read_run
from alignray.schema import Message, Reply, Score, ScoredItem, table_of
from alignray.seeding import row_id_of
from tests.runfolders import HOSTILE
from tests.unit.report.test_html_report import Page

BREAKER = f"{HOSTILE} </script><!--<script> \u2028\u2029 ]]> \\u003c/script>"
"""What ends a script element, a comment within it or a line of JavaScript."""
CANDIDATES = ("small", "large <b>", "other")
CATEGORIES = ("content", "style", "format")
METRICS = ("hsr", "ssr")


def item(candidate: str, number: int, *, benchmark: str = "followbench", text: str = "", level: int | None = None) -> ScoredItem:
    level = number % 5 + 1 if level is None else level
    is_lost = number % 10 == 9
    scores = (Score("hsr", float(number % 2), problem="unreadable" if is_lost else ""), Score("ssr", 0.5))
    return ScoredItem(
        row_id_of(benchmark, str(number), candidate), candidate, benchmark, f"item-{number}", f"group-{number // 5}",
        CATEGORIES[number % 3], (Message("system", "be kind"), Message("user", f"question {number} {BREAKER}")),
        json.dumps({"level": level, "reference": BREAKER}),
        (Reply("followbench/answer", text or f"answer {number} of {candidate} {BREAKER}"),
         Reply("followbench/judge", f"verdict {number}: YES {BREAKER}", "length" if is_lost else "stop")),
        scores, 10, 20, 0.001,
    )


def make_figures(start: float) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "category": category, "value": round(start - 0.1 * place, 4), "low": round(start - 0.1 * place - 0.08, 4),
         "high": round(start - 0.1 * place + 0.08, 4), "num": 36 if not category else 12, "num_unscored": 4 if not category else 1}
        for metric in METRICS for place, category in enumerate(("", *CATEGORIES))
    ]


def make_details(start: float) -> dict[str, Any]:
    points = [[level, start - 0.1 * level, start - 0.1 * level - 0.1, start - 0.1 * level + 0.1] for level in range(1, 6)]
    return {
        "levels": {metric: dict.fromkeys(("", *CATEGORIES), points) for metric in METRICS},
        "radar": {metric: {category: start - 0.1 * place for place, category in enumerate((*CATEGORIES, f"mixed {HOSTILE}"))}
                  for metric in METRICS},
        "failure_consistency": {"rate": 0.42, "of": 17}, "judge_failures": {"rate": 0.1, "num": 4, "of": 40},
        "rules": [{"rule": f"contains {HOSTILE}", "right": 3, "share": 0.25}], "notes": [f"level 0 is left out {HOSTILE}"],
        "csl": {"mean": 2.5, "by_group": [1, 2.25, None]},
    }


def make_analysis() -> dict[str, Any]:
    starts = dict(zip(CANDIDATES, (0.7, 0.72, 0.95), strict=True))
    return {
        "candidates": {
            name: {"followbench": {"figures": make_figures(start), "details": make_details(start)},
                   "ifeval": {"figures": [{"metric": "strict", "category": "", "value": None, "low": None, "high": None, "num": 0,
                                           "num_unscored": 3}], "details": {}}}
            for name, start in starts.items()
        },
        "comparisons": [
            {"benchmark": "followbench", "metric": "hsr", "first": "small", "second": "large <b>", "difference": -0.02, "low": -0.09,
             "high": 0.05, "p": 0.4, "num": 40, "verdict": "not separable"},
            {"benchmark": "followbench", "metric": "hsr", "first": "small", "second": "other", "difference": -0.25, "low": -0.33,
             "high": -0.17, "p": 0.0001, "num": 40, "verdict": "second"},
            {"benchmark": "followbench", "metric": "hsr", "first": "large <b>", "second": "other", "difference": -0.23, "low": -0.3,
             "high": -0.16, "p": 0.0001, "num": 40, "verdict": "second"},
        ],
        "notes": [f"followbench: only the first 40 items {HOSTILE}"],
        "benchmarks": {"followbench": {"items": 40, "kind": "followbench"}, "ifeval": {"items": 3, "kind": "ifeval"}},
    }


def build_eval_run(run_dir: Path, *, items: list[ScoredItem] | None = None, method: str = "followbench") -> Path:
    """A finished run of three candidates; 120 items in two parts."""
    items = [item(name, number) for name in CANDIDATES for number in range(40)] if items is None else items
    usage = {"role": "judge", "calls": 120, "prompt_tokens": 1200, "completion_tokens": 2400, "usd": 0.12}
    manifest = {
        "method": method, "name": f"harbour <b>eval</b> {HOSTILE[:60]}", "status": "done", "result": {"rows": len(items)},
        "funnel": [{"stage": "answer", "in": len(items) + 1, "kept": len(items), "rejected": {"followbench/answer/refused": 1}}],
        "usage": {"usd": 0.12, "steps": {"followbench/judge": usage}}, "seconds": {"answer": 12.5},
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    (run_dir / "analysis.json").write_text(json.dumps(make_analysis()))
    (run_dir / "config.yaml").write_text("seed: 3\nbenchmarks: [{kind: followbench}]\n")
    (run_dir / "parts").mkdir(exist_ok=True)
    for place in range(2):
        pq.write_table(table_of(ScoredItem, items[place::2]), run_dir / "parts" / f"{place}.parquet")
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_eval_run(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def page_text(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def told(text: str) -> str:
    return " ".join(Page(text).text.split())


def data_of(text: str) -> Any:
    return json.loads(text.split('id="verdict-data">', 1)[1].split("</script>", 1)[0])


def test_the_policy_lets_the_pages_own_script_run_and_no_other(page_text: str) -> None:
    page = Page(page_text)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy
    scripts = [a for tag, a in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "verdict-data"}, {}]
    (source,) = re.findall(r"<script>(.*?)</script>", page_text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "unsafe" not in policy.split("script-src")[1].split(";")[0]
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "fetch(", "<!--"):
        assert word not in source


def test_the_page_has_no_network_and_no_handlers(page_text: str) -> None:
    page = Page(page_text)
    assert not {tag for tag, _ in page.tags} & {"iframe", "img", "object", "embed", "form", "base", "a", "audio", "video", "b-x"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag == "link" or not {"src", "href", "srcset", "data"} & set(attributes)
    assert sum(tag == "style" for tag, _ in page.tags) == 1 and "\x07" not in page_text


def test_texts_within_the_data_cannot_end_it_and_come_back_as_they_were(page_text: str) -> None:
    raw = page_text.split('id="verdict-data">', 1)[1].split("</script>", 1)[0]
    assert not set(raw) & set("<>&\u2028\u2029")
    data = data_of(page_text)
    assert len(data["items"]) == 120 and len(data["prompts"]) == 40  # a prompt is there once for all candidates
    one = next(one for one in data["items"] if one["key"] == "item-7" and data["candidates"][one["candidate"]] == "large <b>")
    shown = BREAKER.replace("\x07", "\N{REPLACEMENT CHARACTER}")
    assert data["prompts"][one["prompt"]] == [["system", "be kind"], ["user", f"question 7 {shown}"]]
    assert [(data["steps"][step], text) for step, text, _ in one["replies"]] == [
        ("followbench/answer", f"answer 7 of large <b> {shown}"), ("followbench/judge", f"verdict 7: YES {shown}")]
    assert one["level"] == 3 and data["categories"][one["category"]] == "style"
    assert [(data["metrics"][metric], value, problem) for metric, value, _, problem in one["scores"]] == [("hsr", 1, ""), ("ssr", 0.5, "")]
    keys = [one["key"] for one in data["items"]]
    assert keys[:4] == ["item-0"] * 3 + ["item-1"] and keys[-1] == "item-39"


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028", "a & b > c", "\\u003c", '"'])
def test_json_for_a_script_element_is_still_the_same_json(text: str) -> None:
    made = script_json({"text": text})
    assert json.loads(made) == {"text": text} and not set(made) & set("<>&\u2028\u2029")


def test_the_main_table_tells_intervals_counts_and_who_is_not_separable(page_text: str) -> None:
    text = told(page_text)
    assert "0.700 0.620 to 0.780 36 items, 4 unscored not separable from large <b>" in text
    assert "1 of 3 pairs of candidates are not separable by these items, so no ranking is given." in text
    assert "small and large <b>: not separable, the difference is -0.020 (-0.090 to 0.050) over 40 items." in text
    assert "other is above small by 0.250 (0.170 to 0.330) over 40 items." in text
    assert "under 0.001" in text and "no ranking" in text and "– no score 0 items, 3 unscored" in text


def test_every_part_of_a_run_is_told(page_text: str) -> None:
    text = told(page_text)
    for part in ("By level", "levels by category", "Judge failures", "10.0%", "12 of 120 judgements", "failure consistency / rate", "0.42",
                 "csl / by_group", "1, 2.25, –", "level 0 is left out", "only the first 40 items", "From records to rows",
                 "Tokens and cost by step", "followbench/judge", "120 of 120 items can be browsed", "8,000 characters"):
        assert part in text, part
    # by category: bars, 2 radars, 2 curves over all, 2 times 3 by category
    assert page_text.count("<svg") == 1 + 2 + 2 + 6


def test_hostile_names_are_shown_as_they_are(page_text: str, run_dir: Path) -> None:
    text = Page(page_text).text
    assert text.count("<script>document.title='pwned';alert(1)</script>") > 5 and "{{ 7*7 }} {% raw %} ${7*7}" in text
    card = write_card(run_dir).read_text(encoding="utf-8")
    body = card.split("\n---\n", 1)[1]
    assert "<script" not in body and "<b>" not in body


def test_separability_needs_an_interval_without_zero_and_a_run_that_does_not_object() -> None:
    analysis = make_analysis()
    first, second, _ = analysis["comparisons"]
    second["verdict"] = "not_separable"  # after a correction for many comparisons, say
    del first["low"]
    pairs = Results(analysis).pairs("followbench")
    assert [pair.is_separable for pair in pairs] == [False, False, True]
    assert inseparable("small", pairs) == ["large <b>", "other"] and inseparable("other", pairs) == ["small"]


def test_without_comparisons_overlapping_intervals_stop_a_ranking() -> None:
    analysis = make_analysis() | {"comparisons": []}
    pairs = Results(analysis).pairs("followbench")
    assert [pair.is_overlapping for pair in pairs] == [True, False, False] and not any(pair.is_separable for pair in pairs)
    assert inseparable("small", pairs) == ["large <b>"] and inseparable("other", pairs) == []
    assert Results(analysis).pairs("ifeval") == []  # nobody has a score there


def test_the_first_metric_over_all_items_is_the_headline_unless_the_details_name_one() -> None:
    analysis = make_analysis()
    assert Results(analysis).headline("followbench") == "hsr"
    analysis["candidates"]["small"]["followbench"]["details"]["headline"] = "ssr"
    assert Results(analysis).headline("followbench") == "ssr" and Results(analysis).headline("nothing") is None


def test_curves_and_judges_counts_are_read_as_the_benchmarks_write_them() -> None:
    by_level = [{"level": level, "value": 0.5, "low": 0.4, "high": 0.6, "num": 8} for level in range(1, 6)]
    curves = {"hsr": {"all": by_level, "style": by_level}}
    figures = [*make_figures(0.7), {"metric": "hsr", "category": "level_1", "value": 0.5, "low": 0.4, "high": 0.6, "num": 8}]
    analysis = {"candidates": {
        "one": {"fb": {"figures": figures, "details": {
            "curves": curves, "judge": {"num_judged": 40, "num_unreadable": 4, "failure_rate": 0.1, "prompt": "multi"}}}},
        "two": {"fb": {"figures": [], "details": {"judge": {"verdicts": 10, "unreadable": 2}}}},
        "rules only": {"fb": {"figures": [], "details": {"judge": {"verdicts": 0, "unreadable": 0}}}},
    }}
    part = benchmark_section(Results(analysis), "fb")
    assert [one["meaning"] for one in part["curves"]] == ["over all categories"]
    assert [one["meaning"] for one in part["category_curves"]] == ["style"] and part["category_curves"][0]["chart"].count("<circle") == 5
    assert [(row["candidate"], row["rate"], row["num"], row["of"]) for row in part["judge"]] == [
        ("one", "10.0%", 4, 40), ("two", "20.0%", 2, 10), ("rules only", "–", 0, 0)]
    assert "level_1" not in part["bars"]["chart"] and any(row["category"] == "level_1" for row in part["figures"]["rows"])
    assert any(row["label"] == "judge / prompt" for row in part["details"]["rows"])


def test_more_items_than_fit_are_counted_and_shared_evenly(tmp_path: Path) -> None:
    items = [item("one", number) for number in range(60)] + [item("two", number) for number in range(60)]
    items += [item("one", number, benchmark="small one") for number in range(4)]
    run = read_run(build_eval_run(tmp_path, items=items))
    chosen = chosen_items(run, 24)
    by_group: dict[tuple[str, str], set[str]] = {}
    for one in chosen:
        by_group.setdefault((one.candidate, one.benchmark), set()).add(one.key)
    assert {key: len(keys) for key, keys in by_group.items()} == {
        ("one", "followbench"): 10, ("two", "followbench"): 10, ("one", "small one"): 4}
    assert by_group["one", "followbench"] == by_group["two", "followbench"]  # so that candidates can be compared
    listed = verdict_list(run, 24)
    assert (listed["shown"], listed["total"], listed["rest"]) == (24, 124, 100)
    (tmp_path / "parts" / "0.parquet").rename(tmp_path / "parts" / "9.parquet")
    assert verdict_list(read_run(tmp_path), 24) == listed


def test_texts_are_cut_and_then_items_left_out_until_the_page_is_small_enough(tmp_path: Path) -> None:
    items = [item("one", number, text="<" * 9000) for number in range(40)]
    run = read_run(build_eval_run(tmp_path, items=items))
    whole = verdict_list(run)
    assert whole["limit"] == 8000 and "[... 1,000 more characters]" in whole["json"]
    cut = verdict_list(run, max_bytes=600_000)  # a "<" takes six bytes
    assert cut["limit"] == 2000 and cut["shown"] == 40 and len(cut["json"]) <= 600_000
    few = verdict_list(run, max_bytes=60_000)
    assert few["limit"] == 400 and 0 < few["shown"] < 40 and few["shown"] + few["rest"] == 40 and len(few["json"]) <= 60_000


def test_levels_come_from_facts_that_are_objects_with_a_whole_number() -> None:
    assert [level_of(facts) for facts in ('{"level": 3}', '{"level": "3"}', '{"level": true}', "[]", "no json", "")] == [
        3, None, None, None, None, None]


def test_the_card_tells_results_without_a_ranking(run_dir: Path) -> None:
    card = write_card(run_dir).read_text(encoding="utf-8")
    for part in ("120 scored items of 3 candidates on 2 benchmarks", "split: test", "0.700 (0.620 to 0.780), 36 items, 4 unscored",
                 "no ranking is given", "alignray followbench config.yaml", "12 of 120 judgements", "keep them out of training data"):
        assert part in card, part
    assert all(f"`{name}`" in card for name in table_of(ScoredItem, []).column_names)


@pytest.mark.parametrize("method", ["evaluate", "followbench"])
def test_a_run_without_rows_has_a_report(tmp_path: Path, method: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"method": method, "status": "running"}))
    text = told(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "No figures have been computed yet" in text and "No item has been scored yet" in text
    assert "0 scored items" in write_card(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("analysis", [
    {"candidates": []}, {"candidates": {"a": None}}, {"candidates": {"a": {"b": []}}}, {"comparisons": {"a": 1}},
    {"candidates": {"a": {"b": {"figures": [1, {}], "details": {"levels": {"hsr": {"": [[1], 2, ["x"], [2, "y"]]}}, "radar": [1],
                                                              "judge_failures": {"rate": "high"}}}}}},
    {"comparisons": [1, {}], "notes": "one", "benchmarks": {"b": None}},
])
def test_a_misshapen_analysis_does_not_stop_the_report(tmp_path: Path, analysis: Any) -> None:
    build_eval_run(tmp_path, items=[])
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    assert "No item has been scored" in told(write_report(tmp_path).read_text(encoding="utf-8"))
    assert write_card(tmp_path).read_text(encoding="utf-8")
