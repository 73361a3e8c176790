"""The report of a Lion run in a real browser: it can be read, hostile texts stay texts, and rounds are chosen without a script."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from alignray.report.html import write_report
from tests.browser.chromium import Page, chromium_page, require_chromium
from tests.browser.test_report_in_chromium import visit
from tests.unit.report.test_lion_report import build_lion_run, make_round

pytestmark = pytest.mark.browser

LISTED = """[...document.querySelectorAll('.case')].filter(one => one.getClientRects().length)
    .map(one => [one.querySelector('.chip').textContent, one.querySelector('.tag').textContent])"""
WHEELS = "[...document.querySelectorAll('svg.wheel')].filter(one => one.getClientRects().length).map(one => one.getAttribute('aria-label'))"
NOTHING = "document.querySelector('.nothing').getClientRects().length"
CHOOSE = """document.querySelectorAll('#samples fieldset').forEach((field, place) =>
    [...field.querySelectorAll('label')].find(one => one.textContent === {wanted}[place]).querySelector('input').click())"""
OVERLAPS = """(() => {{
    const boxes = [...document.querySelectorAll('{plots} text')].filter(one => one.getClientRects().length)
        .map(one => [one.closest('svg'), one.getBoundingClientRect(), one.textContent]);
    const found = [];
    for (const [place, [svg, box, text]] of boxes.entries()) for (const [other, next, also] of boxes.slice(place + 1)) {{
        if (svg === other && box.left + 1 < next.right && next.left + 1 < box.right
            && box.top + 3 < next.bottom && next.top + 3 < box.bottom) found.push([text, also]);
    }}
    return found;
}})()"""


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return require_chromium()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build_lion_run(tmp_path_factory.mktemp("lion")))


def look_at(report: Path, profile_dir: Path, look: Any, *, width: int = 1000) -> tuple[Any, Page]:
    async def visited() -> tuple[Any, Page]:
        async with chromium_page(profile_dir) as page:
            await page.open(report.as_uri(), width=width, height=1200)
            return await look(page), page

    return asyncio.run(visited())


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_full_report_of_a_lion_run(report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    seen = visit(report.as_uri(), tmp_path / "profile", width=width, scheme=scheme)
    assert seen.complaints == []
    assert {url for url in seen.requested if not url.startswith("data:")} == {report.as_uri()}
    facts = seen.facts
    assert facts["title"].startswith("harbour <b>lion</b>") and facts["title"].endswith("| alignray")
    assert (facts["scripts"], facts["injected"], facts["styles"]) == (0, 0, 1)
    # the wheels of the two rounds that are not chosen take no room
    shown = [box for box in facts["boxes"] if box[0]]
    assert len(facts["boxes"]) == 18 and len(shown) == 12
    assert all(w > 200 and h > 100 and shapes for w, h, shapes in shown), facts["boxes"]
    assert facts["smallest_text"] >= 9 and facts["overflow"] <= 0 and facts["folded"]
    colours = seen.picture.getcolors(maxcolors=1 << 24)
    assert colours is not None and len(colours) > 200
    assert (sum(seen.picture.getpixel((3, 3))) > 3 * 128) == (scheme == "light")


@pytest.mark.parametrize("width", [1280, 400])
def test_labels_of_the_charts_do_not_cover_each_other(report: Path, tmp_path: Path, width: int) -> None:
    async def look(page: Page) -> Any:
        return await page.value(OVERLAPS.format(plots=".chart"))

    seen, _ = look_at(report, tmp_path / "profile", look, width=width)
    assert seen == []


def test_wheels_of_every_round_can_be_chosen_without_a_script(report: Path, tmp_path: Path) -> None:
    async def look(page: Page) -> Any:
        seen = [await page.value(WHEELS)]
        for button in (".wheel-1", ".wheel-2"):
            await page.value(f"document.querySelector('{button}').click()")
            seen.append(await page.value(WHEELS))
        return seen

    seen, page = look_at(report, tmp_path / "profile", look)
    assert page.complaints == []
    pools = ("cache pool", "hard", "generated")
    assert seen == [[f"Root verbs and object nouns, {pool}, round {number}" for pool in pools] for number in (3, 1, 2)]


def test_samples_are_filtered_by_round_and_kind(report: Path, tmp_path: Path) -> None:
    asked = [("all", "all", 78), ("2", "all", 27), ("all", "hard", 36), ("1", "quarantined", 3), ("3", "quarantined", 0), ("3", "easy", 12)]

    async def look(page: Page) -> Any:
        seen = [(await page.value(LISTED), await page.value(NOTHING))]
        for chosen in asked:
            await page.value(CHOOSE.format(wanted=json.dumps(chosen[:2])))
            seen.append((await page.value(LISTED), await page.value(NOTHING)))
        return seen

    (first, *seen), page = look_at(report, tmp_path / "profile", look)
    assert page.complaints == []
    assert len(first[0]) == 24 and {tag for _, tag in first[0]} == {"round 3"}
    for (round_, kind, count), (listed, nothing) in zip(asked, seen, strict=True):
        assert len(listed) == count and bool(nothing) == (count == 0), (round_, kind)
        assert all(kind in ("all", chip) and tag in (f"round {round_}", tag if round_ == "all" else "") for chip, tag in listed)


def test_hostile_answers_and_replies_are_shown_and_not_obeyed(report: Path, tmp_path: Path) -> None:
    async def look(page: Page) -> Any:
        await page.value("document.querySelector('.case.of-hard > summary').click()")
        return {
            "title": await page.value("document.title"), "scripts": await page.value("document.scripts.length"),
            "injected": await page.value("document.querySelectorAll('.said :not(.empty), .asked *, figcaption :not(b, span, bdi)').length"),
            "said": await page.value("[...document.querySelectorAll('.case[open] .said')].map(one => one.textContent)"),
            "height": await page.value("document.querySelector('.case[open] .said').getBoundingClientRect().height"),
        }

    seen, page = look_at(report, tmp_path / "profile", look)
    assert page.complaints == [] and len([url for url in page.requested if not url.startswith("data:")]) == 1
    assert seen["title"].startswith("harbour") and (seen["scripts"], seen["injected"]) == (0, 0) and seen["height"] > 10
    assert len(seen["said"]) == 5
    for text in seen["said"]:
        assert "<script>document.title='pwned';alert(1)</script>" in text and "\N{REPLACEMENT CHARACTER} nul" in text


def test_a_link_leads_to_the_report_of_a_rounds_training(report: Path, tmp_path: Path) -> None:
    async def look(page: Page) -> Any:
        page.loaded.clear()
        await page.value("document.querySelector('#rounds a').click()")
        await asyncio.wait_for(page.loaded.wait(), 30)
        return await page.value("document.title")

    title, _ = look_at(report, tmp_path / "profile", look)
    assert title == "of a round"


@pytest.mark.parametrize("state", ["no round", "one round, unjudged", "many rounds"])
def test_runs_with_little_or_much_in_them(tmp_path: Path, state: str) -> None:
    bare = {"round": 1, "train_pool": 9, "cache_pool": 9, "judged": 0, "train": {"rows": 9, "steps": 1, "loss": 2.0}, "stopped": "killed"}
    rounds = {"no round": [], "one round, unjudged": [bare],
              "many rounds": [make_round(1 + number % 3) | {"round": number + 1} for number in range(24)]}[state]
    run = build_lion_run(tmp_path / "run", rounds=rounds, samples=[], status="running", with_children=False)
    seen = visit(write_report(run).as_uri(), tmp_path / "profile", width=400)
    assert seen.complaints == [] and seen.facts["overflow"] <= 0 and "harbour" in seen.facts["text"]
