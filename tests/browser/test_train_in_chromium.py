"""The report of a training run in a real browser, and what its switches do without a script."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from alignray.report.html import write_report
from alignray.report.token_rewards import watched_pairs, write_token_rewards
from tests.browser.chromium import chromium_page, require_chromium
from tests.browser.test_report_in_chromium import check_page, visit
from tests.trainfolders import CHOSEN_TEXTS, REJECTED_TEXTS, ROW_IDS, build_train_run, make_train_metrics

pytestmark = pytest.mark.browser

COLOURS = "[...document.querySelectorAll('.pair')].slice(0, 2).map(pair => getComputedStyle(pair.querySelector('.t.e')).backgroundColor)"


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return require_chromium()


@pytest.fixture(scope="module")
def train_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build_train_run(tmp_path_factory.mktemp("train")))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_full_report_of_a_training_run(train_report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    check_page(train_report, tmp_path, title="harbour <b>train</b>", num_charts=14, width=width, scheme=scheme)


def test_a_training_run_that_has_just_begun(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run", status="running", with_analysis=False, with_texts=False, num_steps=0)
    seen = visit(write_report(run).as_uri(), tmp_path / "profile", width=400)
    assert seen.complaints == []
    assert seen.facts["overflow"] <= 0


def test_radio_buttons_recolour_the_tokens_of_their_pair_alone(tmp_path: Path) -> None:
    texts = {"prompt": ["What"], "chosen": CHOSEN_TEXTS, "rejected": REJECTED_TEXTS}
    pairs = watched_pairs(make_train_metrics(20, objective="dpo"), dict.fromkeys(ROW_IDS, texts))
    path = write_token_rewards(tmp_path / "pair.html", pairs, beta=0.1, title="pairs")

    async def look() -> tuple[list[Any], list[str]]:
        async with chromium_page(tmp_path / "profile") as page:
            await page.open(path.as_uri(), width=900, height=900)
            seen = [await page.value(COLOURS)]
            for button in (".step0", ".by-weight", ".step2", ".by-reward"):
                await page.value(f"document.querySelector('{button}').click()")
                seen.append(await page.value(COLOURS))
            return seen, page.complaints

    seen, complaints = asyncio.run(look())
    assert complaints == []
    reward_after, reward_before, weight_before, weight_after, again = (first for first, _ in seen)
    assert {other for _, other in seen} == {reward_after}
    assert reward_after == again
    # before training the reward is 0 everywhere; the weight falls as the edited token grows likely
    assert len({reward_before, reward_after, weight_before, weight_after}) == 4
    assert reward_before.replace(" ", "").endswith(("/0)", ",0)")), reward_before
