"""The report of an evaluation of edited models in a real browser: it can be read, hostile texts stay texts, charts and cases are chosen
without a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignray.report.html import write_report
from tests.browser.chromium import Page, require_chromium
from tests.browser.test_lion_in_chromium import CHOOSE, OVERLAPS, look_at
from tests.browser.test_report_in_chromium import visit
from tests.unit.report.test_edit_eval_page import build_edit_eval_run, make_figures, make_rows

pytestmark = pytest.mark.browser

CHARTS = """[...document.querySelectorAll('{section} svg')].filter(one => one.getClientRects().length)
    .map(one => one.getAttribute('aria-label'))"""
PICK = """[...document.querySelectorAll('{section} fieldset label')].find(one => one.textContent === '{label}')
    .querySelector('input').click()"""
TEXTS = """Math.min(...[...document.querySelectorAll('.chart text')].filter(one => one.getClientRects().length)
    .map(one => one.getBoundingClientRect().height))"""
LISTED = """[...document.querySelectorAll('.case')].filter(one => one.getClientRects().length)
    .map(one => [one.querySelector('.chip').textContent, one.querySelector('.tag').textContent])"""
NOTHING = "document.querySelector('.nothing').getClientRects().length"
CHOOSE_CASES = CHOOSE.replace("#samples", "#cases")


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return require_chromium()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build_edit_eval_run(tmp_path_factory.mktemp("edit_eval")))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_full_report_of_an_edit_evaluation(report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    seen = visit(report.as_uri(), tmp_path / "profile", width=width, scheme=scheme)
    assert seen.complaints == []
    assert {url for url in seen.requested if not url.startswith("data:")} == {report.as_uri()}
    facts = seen.facts
    assert facts["title"].startswith("mills <b>edited</b>") and facts["title"].endswith("| alignray")
    assert (facts["scripts"], facts["injected"], facts["styles"]) == (0, 0, 1)
    # four metrics of one data set and measure in three sections, four radars of one measure; what is not chosen takes no room
    shown = [box for box in facts["boxes"] if box[0]]
    assert len(shown) == 3 * 4 + 4
    assert all(w > 200 and h > 100 and shapes for w, h, shapes in shown), shown
    assert facts["overflow"] <= 0 and facts["folded"]
    colours = seen.picture.getcolors(maxcolors=1 << 24)
    assert colours is not None and len(colours) > 200
    assert (sum(seen.picture.getpixel((3, 3))) > 3 * 128) == (scheme == "light")


@pytest.mark.parametrize("width", [1280, 400])
def test_labels_of_the_charts_can_be_read(report: Path, tmp_path: Path, width: int) -> None:
    async def look(page: Page) -> Any:
        return await page.value(OVERLAPS.format(plots=".chart")), await page.value(TEXTS)

    (overlaps, smallest), _ = look_at(report, tmp_path / "profile", look, width=width)
    assert overlaps == [] and smallest >= 9


def test_charts_of_every_data_set_and_measure_can_be_chosen_in_each_section(report: Path, tmp_path: Path) -> None:
    async def look(page: Page) -> Any:
        seen = [await page.value(CHARTS.format(section="#batch"))]
        for label in ("MQuAKE", "exact match (Eq 5.1)"):
            await page.value(PICK.format(section="#batch", label=label))
            seen.append(await page.value(CHARTS.format(section="#batch")))
        await page.value(PICK.format(section="#radars", label="exact match (Eq 5.1)"))
        return seen, await page.value(CHARTS.format(section="#radars")), await page.value(CHARTS.format(section="#final"))

    (batch, radars, final), page = look_at(report, tmp_path / "profile", look)
    assert page.complaints == []
    token = ("token accuracy", "token accuracy", "same tokens", "with its prompt")
    exact = ("exact match", "exact match", "all the same", "continuation")
    metrics = ("Edit success", "Portability", "Locality", "Fluency")
    for seen, source, measures in zip(batch, ("All data sets", "MQuAKE", "MQuAKE"), (token, token, exact), strict=True):
        assert seen == [f"{metric} ({measure}), {source}, Batch editing" for metric, measure in zip(metrics, measures, strict=True)]
    assert radars == [f"{source}, exact match (Eq 5.1)" for source in ("All data sets", "ZsRE", "wiki_recent (RippleEdits)", "MQuAKE")]
    assert final[0] == "Edit success (token accuracy), All data sets, Sequential editing, after the whole stream"


def test_cases_are_filtered_by_data_set_and_setting(tmp_path: Path) -> None:
    rows = [*make_rows("zsre", 1), *make_rows("mquake", 1), *make_rows("mquake", 2), *make_rows("mquake", 1, "batch", 10)]
    report = write_report(build_edit_eval_run(tmp_path / "run", rows=rows, hostile=False))
    asked = [("MQuAKE", "all", 3), ("MQuAKE", "batches of 10", 1), ("ZsRE", "batches of 10", 0), ("all", "single editing", 3),
             ("all", "all", 4)]

    async def look(page: Page) -> Any:
        seen = []
        for chosen in asked:
            await page.value(CHOOSE_CASES.format(wanted=json.dumps(chosen[:2])))
            seen.append((await page.value(LISTED), await page.value(NOTHING)))
        return seen

    seen, page = look_at(report, tmp_path / "profile", look)
    assert page.complaints == []
    for (source, setting, count), (listed, nothing) in zip(asked, seen, strict=True):
        assert len(listed) == count and bool(nothing) == (count == 0), (source, setting)
        assert all(source in ("all", chip) and setting in ("all", tag) for chip, tag in listed)


@pytest.mark.parametrize("width", [1280, 400])
def test_an_open_case_is_shown_and_its_hostile_texts_are_not_obeyed(report: Path, tmp_path: Path, width: int) -> None:
    async def look(page: Page) -> Any:
        await page.value("document.querySelectorAll('.case > summary').forEach(one => one.click())")
        return {
            "title": await page.value("document.title"), "scripts": await page.value("document.scripts.length"),
            "injected": await page.value("document.querySelectorAll('.said *, .facts-told bdi *, .query > p[dir] :not(b)').length"),
            "said": await page.value("[...document.querySelectorAll('.case[open] .said')].map(one => one.textContent)"),
            "height": await page.value("document.querySelector('.case[open] .said').getBoundingClientRect().height"),
            "overflow": await page.value("document.documentElement.scrollWidth - window.innerWidth"),
        }

    seen, page = look_at(report, tmp_path / "profile", look, width=width)
    assert page.complaints == [] and len([url for url in page.requested if not url.startswith("data:")]) == 1
    assert seen["title"].startswith("mills") and (seen["scripts"], seen["injected"]) == (0, 0) and seen["height"] > 10
    assert any("<script>document.title='pwned';alert(1)</script>" in text for text in seen["said"]) and seen["overflow"] <= 0


@pytest.mark.parametrize("state", ["nothing", "one method", "many methods"])
def test_runs_with_little_or_much_in_them(tmp_path: Path, state: str) -> None:
    names = {"nothing": [], "one method": ["LTE"], "many methods": list(map("LTE {}".format, range(15)))}[state]
    figures = [{**one, "method": name} for name in names for one in make_figures(["LTE"], ["zsre"])]
    rows = make_rows("zsre", 1, methods=names)
    run = build_edit_eval_run(tmp_path / "run", rows=rows, figures=figures, methods={}, retrieval=[], times=[], status="running")
    seen = visit(write_report(run).as_uri(), tmp_path / "profile", width=400)
    assert seen.complaints == [] and seen.facts["overflow"] <= 0 and "mills" in seen.facts["text"]
