"""The report in a real browser: it complains about nothing, fetches nothing, obeys no hostile text, and can be seen."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alignray.report.html import write_report
from tests.browser.chromium import chromium_page, require_chromium
from tests.runfolders import build_dedup_run, build_run

pytestmark = pytest.mark.browser

FACTS = """({
    title: document.title,
    scripts: document.scripts.length,
    injected: document.querySelectorAll('img, iframe, svg svg, [onload], [onerror]').length,
    styles: document.querySelectorAll('style').length,
    boxes: [...document.querySelectorAll('svg')].map(svg => {
        const box = svg.getBoundingClientRect();
        const shapes = [...svg.querySelectorAll('path, rect')].filter(s => s.getBBox().width > 0 && s.getBBox().height > 0);
        return [box.width, box.height, shapes.length];
    }),
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    smallest_text: Math.min(...[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height)),
    folded: [...document.querySelectorAll('details')].every(d => !d.open),
    height: document.documentElement.scrollHeight,
    text: document.body.innerText.slice(0, 2000),
})"""


@dataclass(frozen=True)
class Visit:
    """What one look at a page brought."""

    facts: dict[str, Any]
    complaints: list[str]
    requested: list[str]
    picture: Image.Image


def visit(url: str, profile_dir: Path, *, width: int = 1280, height: int = 2400, scheme: str = "light") -> Visit:
    async def look() -> Visit:
        async with chromium_page(profile_dir) as page:
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            await page.open(url, width=width, height=height)
            facts, png = await page.value(FACTS), await page.screenshot()
            return Visit(facts, page.complaints, page.requested, Image.open(io.BytesIO(png)).convert("RGB"))

    return asyncio.run(look())


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return require_chromium()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build_run(tmp_path_factory.mktemp("run"), num_rows=600))


@pytest.fixture(scope="module")
def dedup_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build_dedup_run(tmp_path_factory.mktemp("dedup")))


@pytest.mark.parametrize("width", [1280, 400])
def test_the_full_report(report: Path, tmp_path: Path, width: int) -> None:
    check_page(report, tmp_path, title="harbour <b>run</b>", num_charts=7, width=width)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_full_report_of_a_dedup_run(dedup_report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    check_page(dedup_report, tmp_path, title="harbour <b>dedup</b>", num_charts=2, width=width, scheme=scheme)


def check_page(report: Path, tmp_path: Path, *, title: str, num_charts: int, width: int, scheme: str = "light") -> None:
    seen = visit(report.as_uri(), tmp_path / "profile", width=width, scheme=scheme)
    assert seen.complaints == []
    assert seen.requested and {url for url in seen.requested if not url.startswith("data:")} == {report.as_uri()}
    facts = seen.facts
    assert facts["title"].startswith(title) and facts["title"].endswith("| alignray")
    assert (facts["scripts"], facts["injected"], facts["styles"]) == (0, 0, 1)
    assert len(facts["boxes"]) == num_charts
    assert all(w > 200 and h > 100 and shapes for w, h, shapes in facts["boxes"]), facts["boxes"]
    assert facts["overflow"] <= 0
    assert facts["smallest_text"] >= 9
    assert facts["folded"]
    colours = seen.picture.getcolors(maxcolors=1 << 24)
    assert colours is not None and len(colours) > 200
    most = max(count for count, _ in colours) / (seen.picture.width * seen.picture.height)
    assert most < 0.9
    assert (sum(seen.picture.getpixel((3, 3))) > 3 * 128) == (scheme == "light")


@pytest.mark.parametrize("status", ["running", "done"])
def test_a_report_without_duplicates(tmp_path: Path, status: str) -> None:
    path = write_report(build_dedup_run(tmp_path / "run", num_clusters=0, status=status, is_measured=False))
    seen = visit(path.as_uri(), tmp_path / "profile", width=400)
    assert seen.complaints == []
    assert seen.facts["overflow"] <= 0
    assert "harbour" in seen.facts["text"]


@pytest.mark.parametrize("status", ["running", "empty"])
def test_a_report_without_rows(tmp_path: Path, status: str) -> None:
    path = write_report(build_run(tmp_path / "run", num_rows=0, status=status, with_analysis=False))
    seen = visit(path.as_uri(), tmp_path / "profile", width=400)
    assert seen.complaints == []
    assert seen.facts["overflow"] <= 0
    assert "harbour" in seen.facts["text"]


def test_the_harness_hears_a_page_that_misbehaves(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    path.write_text(
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}"><title>bad</title>'
        "<script>document.title='pwned'</script><img src=\"http://127.0.0.1:9/x.png\"><p>x"
    )
    seen = visit(path.as_uri(), tmp_path / "profile")
    assert any("script-src" in complaint or "inline script" in complaint for complaint in seen.complaints)
    assert any("127.0.0.1:9" in complaint for complaint in seen.complaints)
    assert seen.facts["title"] == "bad"
    path.write_text("<!doctype html><title>bad</title><script>document.title='pwned';alert(1)</script>")
    with pytest.raises(TimeoutError):  # a dialog holds the page
        asyncio.run(_open_briefly(path, tmp_path / "profile2"))


async def _open_briefly(path: Path, profile_dir: Path) -> None:
    async with chromium_page(profile_dir) as page:
        async with asyncio.timeout(2):
            await page.open(path.as_uri(), width=400, height=400)
