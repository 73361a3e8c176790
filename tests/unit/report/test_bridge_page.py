"""The report and the card of a bridge run, from files written by hand; hostile texts are shown, not obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alignray.report.bridge_figures import analyze_pairs
from alignray.report.bridge_page import marked
from alignray.report.card import write_card
from alignray.report.html import write_report
from alignray.schema import BridgedPair, Message, table_of, to_row

HOSTILE = '<script>alert(1)</script> & "quotes" </mark>'


def pair(number: int, *, chosen: str = "the answer is 4", rejected: str = "the answer is 5", copies: bool = False) -> BridgedPair:
    return BridgedPair(
        f"{number:032x}", (Message("user", f"2+2? {HOSTILE}"),), chosen, rejected, f"it is four {HOSTILE}\nThe answer is 4",
        "The answer is 5", "web", "qa", "bridge", 0.25, 0.9, copies, "editor", 10, 3, 0.01,
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    pairs = [pair(1), pair(2, chosen=f"a {HOSTILE} b", rejected="a c b"), pair(3, copies=True)]
    analysis = analyze_pairs(map(to_row, pairs))
    bridging = {
        "task": "qa", "variant": "bridge", "edited": 5, "already_good": 2, "good_rate": 0.4, "copies": 1, "mean_edit_rate": 0.25,
        "mean_original_edit_rate": 0.9, "same_result": 0, "with_results": 3,
    }
    manifest = {
        "method": "bridge", "name": "bridge", "status": "done", "bridging": bridging, "result": {"rows": 3},
        "funnel": [{"stage": "bridge", "in": 5, "kept": 3, "rejected": {"bmc/edit/already_good": 2}}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    (tmp_path / "config.yaml").write_text("bridge: {task: qa, variant: bridge}\ninput: {kind: questions}\n")
    (tmp_path / "parts").mkdir()
    pq.write_table(table_of(BridgedPair, pairs), tmp_path / "parts" / "part.parquet")
    return tmp_path


def test_figures_by_hand() -> None:
    figures = analyze_pairs(map(to_row, [pair(1), pair(2, copies=True)]))
    assert (figures["copies"], figures["with_results"], figures["same_result"]) == (1, 2, 0)
    assert figures["edit_rate"]["mean"] == 0.25 and figures["edit_rate"]["histogram"]["counts"][5] == 2
    assert sum(figures["original_edit_rate"]["histogram"]["counts"]) == 2
    assert analyze_pairs([])["edit_rate"]["mean"] is None


def test_the_report_tells_verdicts_rates_and_changes(run_dir: Path) -> None:
    page = write_report(run_dir).read_text()
    for told in ("40.0%", "2 of 5", "Modification proportion", "already_good", "a copy of the reference", "the original winning answer"):
        assert told in page, told
    assert '<mark class="removed">5</mark>' in page and '<mark class="added">4</mark>' in page


def test_hostile_texts_are_shown_and_not_obeyed(run_dir: Path) -> None:
    page = write_report(run_dir).read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;/mark&gt;" in page
    assert page.count("<mark") == page.count("</mark>")
    assert "<script" not in write_card(run_dir).read_text()


def test_the_card_tells_what_was_done(run_dir: Path) -> None:
    card = write_card(run_dir).read_text()
    assert "2 of 5 pairs (40.0%) were filtered" in card and "a student model" in card and "parts/*.parquet" in card


def test_a_run_without_rows_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"method": "bridge", "status": "running"}')
    assert "No pairs have been written yet" in write_report(tmp_path).read_text()
    assert "0 preference pairs" in write_card(tmp_path).read_text()


def test_marks_cover_both_texts_and_only_what_differs() -> None:
    before, after = "one two  three\nfour", "one 2  three\nfour five"
    left, right = marked(before, after)
    assert "".join(text for _, text in left) == before and "".join(text for _, text in right) == after
    assert [(kind, text) for kind, text in left if kind != "same"] == [("removed", "two")]
    assert [(kind, text) for kind, text in right if kind != "same"] == [("added", "2"), ("added", "five")]
    assert marked("", "") == ([], [])
