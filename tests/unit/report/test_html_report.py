from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alignray.errors import RecordError
from alignray.report import charts
from alignray.report.html import write_report
from alignray.report.page import dollars, duration, number, percent
from alignray.report.run_folder import read_run, reject_reasons, sample_rows
from alignray.report.webr_page import safe_url
from alignray.schema import Message
from tests.runfolders import build_run, make_rows, write_parts


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page_text(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def test_the_report_is_one_small_file_without_scripts_or_network(page_text: str) -> None:
    page = Page(page_text)
    assert len(page_text.encode()) < 5_000_000
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "img", "object", "embed", "form", "base", "audio", "video"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        if tag == "link":
            assert attributes["href"] == "data:,"
        elif tag == "a":
            assert attributes["href"].startswith("https://")
            assert attributes["rel"] == "noopener noreferrer nofollow"
        else:
            assert not {"src", "href", "srcset", "data"} & set(attributes)
    assert "url(" not in page_text and "@import" not in page_text
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0] and "script-src" not in policies[0]


def test_hostile_texts_are_shown_as_they_are_and_not_obeyed(page_text: str) -> None:
    page = Page(page_text)
    assert "<script>document.title='pwned';alert(1)</script>" in page.text
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page.text
    assert "\x07" not in page_text
    assert "javascript:document.title='pwned'" in page.text
    assert not any(str(a.get("href", "")).startswith("javascript") for _, a in page.tags)


def test_every_part_of_a_full_run_is_told(page_text: str) -> None:
    text = " ".join(Page(page_text).text.split())
    for heading in ("From records to rows", "Tokens and cost by step", "Throughput", "Token lengths", "Diversity and ratings",
                    "What the instructions ask for", "Why records were turned down", "Sample rows", "The run"):
        assert heading in text
    for loss in ("not_html 640", "near_duplicate 27", "over_quota 12", "1,416 in, 340 kept"):
        assert loss in text
    assert "bands x rows17 x 4" in text and "recall near the threshold99% (97.11 to 99.79)" in text
    assert "webr/refine" in text and "small-model-1" in text and "fingerprint 0123456789abcdef" in text
    assert "neither kept nor rejected" not in text
    assert page_text.count("<svg") == 7
    assert page_text.count('class="sample instruction"') == page_text.count('class="sample response"') == 6


def test_the_report_and_its_samples_are_the_same_each_time(run_dir: Path, page_text: str) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page_text
    assert not list(run_dir.glob(".*"))


def test_samples_do_not_depend_on_how_rows_lie_in_parts(tmp_path: Path) -> None:
    rows = make_rows(100, hostile=False)
    (tmp_path / "config.yaml").write_text("seed: 5")
    write_parts(tmp_path, rows, num_parts=2)
    first = sample_rows(read_run(tmp_path), 12)
    for path in tmp_path.glob("parts/*"):
        path.unlink()
    write_parts(tmp_path, rows[::-1], num_parts=7)
    assert sample_rows(read_run(tmp_path), 12) == first
    assert len(first) == len(set(first)) == 12
    assert [row.branch for row in first].count("response") == 6
    assert len(sample_rows(read_run(tmp_path), 500)) == 100


def test_one_branch_fills_in_for_the_other(tmp_path: Path) -> None:
    rows = [row for row in make_rows(60) if row.branch == "instruction"]
    (tmp_path / "config.yaml").write_text("seed: 5")
    write_parts(tmp_path, rows)
    assert len(sample_rows(read_run(tmp_path), 12)) == 12


def test_reject_reasons_are_counted_with_an_example_each(run_dir: Path) -> None:
    reasons = reject_reasons(read_run(run_dir))
    assert (reasons[0].step, reasons[0].reason, reasons[0].count) == ("ingest", "not_html", 640)
    assert all(one.example is not None and one.example.reason == one.reason and one.example.step == one.step for one in reasons)
    assert len(reasons) == 11


@pytest.mark.parametrize("status", ["empty", "running", "failed", "stopped_at_budget"])
def test_a_run_without_rows_renders(tmp_path: Path, status: str) -> None:
    build_run(tmp_path, num_rows=0, status=status, with_analysis=False)
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "No rows have been written" in text


def test_a_run_that_has_only_begun_renders(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert "unknown" in write_report(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "manifest.json").write_text('{"status": "running", "name": "x"')  # torn
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-0.parquet").write_bytes(b"PAR1 and then the power failed")
    (tmp_path / "metrics.jsonl").write_text('{"t": 1}\n{"t": 2}\n{"t": 3}\n{"t"')
    write_report(tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        {"funnel": None, "usage": None, "plan": None, "result": None, "seconds": None, "dedup": None, "ingest": None},
        {"funnel": [{}, "x", {"stage": "a", "in": "many", "rejected": None}], "usage": {"steps": {"s": {}, "t": None}}},
        {"plan": {"usd": "cheap"}, "usage": {"usd": float("inf"), "steps": []}, "versions": ["a"], "seconds": {"a": None}},
    ],
)
def test_missing_and_misshapen_facts_are_dashes(tmp_path: Path, broken: dict[str, object]) -> None:
    build_run(tmp_path, num_rows=6, num_parts=1)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | broken).replace("Infinity", "1e999"))
    write_report(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "analysis.json").write_text('{"token_lengths": null, "verb_nouns": {}, "ratings": {"quality": {}}}')
    write_report(tmp_path)


def test_records_that_vanish_are_pointed_out(tmp_path: Path) -> None:
    build_run(tmp_path, num_rows=6, num_parts=1)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["funnel"][0]["in"] += 17
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert "17 records are neither kept nor rejected" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run folder"):
        write_report(tmp_path)


def test_huge_texts_do_not_make_a_huge_page(tmp_path: Path) -> None:
    rows = [replace(row, messages=(row.messages[0], Message("assistant", "x" * 400_000))) for row in make_rows(14)]
    (tmp_path / "config.yaml").write_text("note: " + "y" * 1_000_000)
    write_parts(tmp_path, rows)
    report = write_report(tmp_path)
    assert report.stat().st_size < 600_000
    assert "more characters" in report.read_text()


def test_only_plain_web_addresses_become_links() -> None:
    assert safe_url("https://a.example/x?y=1&z=2#t") == "https://a.example/x?y=1&z=2#t"
    for url in ("javascript:alert(1)", "JaVaScRiPt:alert(1)", " https://a.example", "https://a.example/\n", "data:text/html,x",
                "//a.example", "https:///x", "http://[::1", "file:///etc/passwd", "java\tscript:alert(1)", ""):
        assert safe_url(url) is None, url


def test_numbers_read_well() -> None:
    assert (number(1234567), number(None), number("x"), number(True)) == ("1,234,567", "–", "–", "–")
    assert [dollars(v) for v in (0, 38.574, 0.0042, 1e-7, None, 12345.6)] == \
        ["$0.00", "$38.57", "$0.0042", "under $0.0001", "–", "$12,345.60"]
    assert [duration(v) for v in (2.5, 65, 3 * 3600 + 12 * 60, 0, None, -1)] == \
        ["2.5 s", "1 min 5 s", "3 h 12 min", "0 s", "–", "–"]
    assert [percent(v) for v in (0, 0.5, 0.0001, None)] == ["0.0%", "50.0%", "under 0.1%", "–"]
    assert [charts.compact(v) for v in (0, 950, 1500, 2e6)] == ["0", "950", "1.5k", "2M"]


@pytest.mark.parametrize("limit", [0.003, 1, 3, 7, 10, 99, 1000, 123456, 0, float("inf")])
def test_ticks_are_few_and_reach_the_limit(limit: float) -> None:
    found = charts.ticks(limit)
    assert found[0] == 0 and 2 <= len(found) <= 6
    if 0 < limit < float("inf"):
        assert found[-1] >= limit * (1 - 1e-9) and found[-2] < limit


def test_labels_in_charts_are_escaped() -> None:
    drawn = charts.wheel([charts.Slice("<b>", 3, [("\"><script>", 2)])], title="<t>")
    assert "<script>" not in drawn and "&lt;b&gt;" in drawn
    assert not re.search(r"NaN|nan|inf", drawn)
    assert charts.wheel([], title="x") == "" and charts.lines([], title="x", x_unit="s") == ""


def test_the_report_is_written_without_ray_torch_or_matplotlib(run_dir: Path) -> None:
    code = (
        "import sys\nfrom alignray.report.html import write_report\nfrom alignray.report.card import write_card\n"
        "from alignray.report.analysis import analyze\nfrom alignray.io.export import export\n"
        "print([m for m in ('ray', 'torch', 'matplotlib', 'pandas', 'datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
