"""The report of an evaluation in a real browser: it can be read, hostile texts stay texts, and the list of items can be searched."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from alignray.report.html import write_report
from tests.browser.chromium import Page, chromium_page, require_chromium
from tests.browser.test_report_in_chromium import visit
from tests.unit.report.test_eval_page import BREAKER, CANDIDATES, build_eval_run, item

pytestmark = pytest.mark.browser

INJECTED = "document.querySelectorAll('img, iframe, svg svg, [onload], [onerror], .said *, .asked *, .head bdi *').length"
LISTED = "[...document.querySelectorAll('.verdict > summary .head')].map(head => [...head.children].map(child => child.textContent))"
COUNT = "document.querySelector('[data-part=count]').textContent"
CHOOSE = """(() => {{
    const field = document.querySelector('[data-part={name}]');
    const option = [...(field.options || [])].find(one => one.textContent === {text});
    field.value = option ? option.value : {text};
    field.dispatchEvent(new Event('input', {{bubbles: true}}));
    return field.value;
}})()"""


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return require_chromium()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build_eval_run(tmp_path_factory.mktemp("eval")))


async def choose(page: Page, **wanted: str) -> str:
    """Clear the filters, set some, and return what the page says of the matches."""
    await page.value("document.querySelector('[data-part=clear]').click()")
    for name, text in wanted.items():
        assert await page.value(CHOOSE.format(name=name, text=json.dumps(text))) != "", (name, text)
    await asyncio.sleep(0.4)
    return await page.value(COUNT)


def browse(report: Path, profile_dir: Path, look: Any) -> tuple[Any, Page]:
    async def visited() -> tuple[Any, Page]:
        async with chromium_page(profile_dir) as page:
            await page.open(report.as_uri(), width=1000, height=1200)
            return await look(page), page

    return asyncio.run(visited())


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_full_report_of_an_evaluation(report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    seen = visit(report.as_uri(), tmp_path / "profile", width=width, scheme=scheme)
    assert seen.complaints == []
    assert {url for url in seen.requested if not url.startswith("data:")} == {report.as_uri()}
    facts = seen.facts
    assert facts["title"].startswith("harbour <b>eval</b>") and (facts["scripts"], facts["injected"], facts["styles"]) == (2, 0, 1)
    assert len(facts["boxes"]) == 11
    assert all(w > 200 and h > 100 and shapes for w, h, shapes in facts["boxes"]), facts["boxes"]
    assert facts["smallest_text"] >= 9
    assert facts["overflow"] <= 0 and facts["folded"]
    assert (sum(seen.picture.getpixel((3, 3))) > 3 * 128) == (scheme == "light")


def test_hostile_prompts_answers_and_verdicts_are_shown_and_not_obeyed(report: Path, tmp_path: Path) -> None:
    async def look(page: Page) -> Any:
        count = await choose(page, candidate="large <b>", text="answer 7 of")
        await page.value("document.querySelector('.verdict > summary').click()")
        await asyncio.sleep(0.3)
        return {
            "count": count, "title": await page.value("document.title"), "injected": await page.value(INJECTED),
            "scripts": await page.value("document.scripts.length"), "listed": await page.value(LISTED),
            "said": await page.value("[...document.querySelectorAll('.verdict .said')].map(one => one.textContent)"),
            "facts": await page.value("document.querySelector('.verdict details pre').textContent"),
            "height": await page.value("document.querySelector('.verdict .said').getBoundingClientRect().height"),
            "roles": await page.value("[...document.querySelectorAll('.verdict .role')].map(one => one.textContent)"),
        }

    seen, page = browse(report, tmp_path / "profile", look)
    shown = BREAKER.replace("\x07", "\N{REPLACEMENT CHARACTER}")
    assert page.complaints == [] and len([url for url in page.requested if not url.startswith("data:")]) == 1
    assert seen["count"] == "1 of 120 items match." and seen["listed"] == [["large <b>", "followbench", "style", "level 3", "item-7"]]
    assert seen["said"] == ["be kind", f"question 7 {shown}", f"answer 7 of large <b> {shown}", f"verdict 7: YES {shown}"]
    assert seen["roles"] == ["system", "user", "followbench/answer", "followbench/judge"] and seen["height"] > 10
    assert "</script>" in seen["facts"] and "pwned" not in seen["title"].split("|")[1]
    assert (seen["injected"], seen["scripts"]) == (0, 2)


def test_filters_find_what_was_asked_for(report: Path, tmp_path: Path) -> None:
    asked: list[tuple[dict[str, str], int]] = [
        ({}, 120), ({"candidate": "small"}, 40), ({"benchmark": "followbench"}, 120), ({"category": "style"}, 39), ({"level": "3"}, 24),
        ({"state": "unscored"}, 12), ({"state": "scored"}, 108), ({"metric": "ssr", "state": "unscored"}, 0),
        ({"metric": "hsr", "value": "1"}, 48), ({"metric": "hsr", "value": "0"}, 60), ({"value": "another"}, 120),
        ({"candidate": "other", "level": "1", "metric": "hsr", "value": "1"}, 4), ({"text": "VERDICT 7:"}, 3),
        ({"text": "no such words"}, 0),
    ]

    async def look(page: Page) -> Any:
        return [await choose(page, **wanted) for wanted, _ in asked]

    seen, page = browse(report, tmp_path / "profile", look)
    assert page.complaints == []
    counts = [0 if count == "No item matches." else int(count.split()[0]) for count in seen]
    assert counts == [expected for _, expected in asked]


def test_pages_of_the_list(report: Path, tmp_path: Path) -> None:
    async def look(page: Page) -> Any:
        seen = []
        for button in ("", "on", "on", "back"):
            if button:
                await page.value(f"document.querySelector('[data-part={button}]').click()")
            listed = await page.value(LISTED)
            seen.append((await page.value(COUNT), len(listed), listed[0][-1]))
        await choose(page, candidate="small")
        return seen, await page.value("getComputedStyle(document.querySelector('[data-part=pager]')).display")

    (seen, pager), page = browse(report, tmp_path / "profile", look)
    assert page.complaints == []
    assert seen[0] == ("120 of 120 items match, 1 to 50 listed.", 50, "item-0")
    assert seen[2] == ("120 of 120 items match, 101 to 120 listed.", 20, "item-33") and seen[3] == (seen[1][0], 50, "item-16")
    assert pager == "none"


def test_5000_long_items_make_a_page_below_20_mb_that_can_be_searched(tmp_path: Path) -> None:
    long = "long <answer> & more " * 400
    items = [item(name, number, text=f"needle{number} {long}") for name in CANDIDATES[:2] for number in range(2600)]
    report = write_report(build_eval_run(tmp_path / "run", items=items))
    assert 5_000_000 < report.stat().st_size < 20_000_000

    async def look(page: Page) -> Any:
        return await page.value(COUNT), await choose(page, text="needle25 long")

    (before, after), page = browse(report, tmp_path / "profile", look)
    assert page.complaints == []
    assert before == "5000 of 5000 items match, 1 to 50 listed." and after == "2 of 5000 items match."
    assert "The other 200 are in the run folder's parts/" in report.read_text(encoding="utf-8")


def test_an_injected_script_does_not_run_even_if_escaping_failed(report: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = report.read_text(encoding="utf-8")
    broken.write_text(text.replace("<main>", "<main><script>document.title='pwned'</script>", 1), encoding="utf-8")

    async def look(page: Page) -> Any:
        return await page.value("document.title"), await page.value(COUNT)

    (title, count), page = browse(broken, tmp_path / "profile", look)
    assert not title.startswith("pwned") and count.startswith("120 of 120")
    assert any("script-src" in complaint for complaint in page.complaints)


@pytest.mark.parametrize("status", ["running", "empty"])
def test_an_evaluation_without_items(tmp_path: Path, status: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"method": "evaluate", "status": status, "name": "harbour"}))
    seen = visit(write_report(tmp_path).as_uri(), tmp_path / "profile", width=400)
    assert seen.complaints == [] and seen.facts["overflow"] <= 0 and "harbour" in seen.facts["text"]
