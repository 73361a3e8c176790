"""The forecast: arithmetic one can do by hand, and an interval that holds it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignray.pipelines.plan import Plan, plan_webr
from alignray.pipelines.webr_config import WebRJobConfig

SENTENCE = "The lighthouse keeper wrote down the height of the tide at noon and at midnight for thirty years. "


def job(path: Path, **changes: Any) -> WebRJobConfig:
    return WebRJobConfig.model_validate({
        "ingest": {"sources": [{"name": "s", "paths": [str(path)]}]},
        "engines": {"e": {"kind": "openai", "model": "x", "price": {"prompt": 1.0, "completion": 2.0}}},
        "roles": {"default": {"engine": "e", "max_new_tokens": 1024}},
        **changes,
    })


def plan(tmp_path: Path, texts: list[str], **changes: Any) -> Plan:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return plan_webr(job(path, **changes))


@pytest.fixture
def tiny_prompts(tmp_path: Path) -> str:
    """Prompts that are nothing but their fields, so that their lengths can be added up by hand."""
    folder = tmp_path / "prompts" / "webr"
    folder.mkdir(parents=True)
    for name in ("instruction_whole", "instruction_part", "query_whole", "query_part"):
        (folder / f"{name}.txt").write_text("{{ text }}{{ persona }}{{ word }}{{ max_words }}")
    (folder / "persona.txt").write_text("{{ text }}")
    return str(tmp_path / "prompts")


ONE_WAY = {
    "section": False, "persona": False, "instruction_share": 1.0, "instruction_words": ["request"], "max_words": [50],
    "layout": "doc_first",
}
MEASURED = {"completion_tokens": {"webr/instruction": 20, "webr/response": 40}}


def test_one_page_by_hand(tmp_path: Path, tiny_prompts: str) -> None:
    """Page of 430 ASCII characters, 4.3 a token, 12 tokens of template a message, 1 and 2 dollars a million tokens.

    instruction: 430 + "not known" 9 + "request" 7 + "50" 2 = 448 characters = 105 tokens, + 12 = 117 in, 20 out
    response: the assumed request is int(20 * 0.86) = 17 times "word ", 85 characters; 430 + 2 + 85 = 517 = 121, + 12 = 133 in, 40 out
    in all 250 in, 60 out: 250 + 120 = 370 millionths of a dollar
    """
    text = (SENTENCE * 5)[:429] + "."
    found = plan(tmp_path, [text], webr=ONE_WAY, plan=MEASURED, prompts={"dir": tiny_prompts})
    assert {name: (step.calls, step.prompt_tokens, step.completion_tokens) for name, step in found.steps.items()} == {
        "webr/instruction": (1, 117, 20), "webr/response": (1, 133, 40),
    }
    assert (found.pages, found.drafts, found.rows, found.calls, found.prompt_tokens, found.completion_tokens) == (1, 1, 1, 2, 250, 60)
    assert found.usd == pytest.approx(370e-6)
    # all pages alike: only the 25 % of the completion lengths is left of the interval
    assert (found.low_usd, found.high_usd) == (pytest.approx(0.75 * 370e-6), pytest.approx(1.25 * 370e-6))


def test_ten_pages_alike_cost_ten_times_one(tmp_path: Path, tiny_prompts: str) -> None:
    texts = [f"{n:02d} " + (SENTENCE * 5)[:427] for n in range(10)]
    found = plan(tmp_path, texts, webr=ONE_WAY, plan=MEASURED, prompts={"dir": tiny_prompts})
    assert found.usd == pytest.approx(10 * 370e-6, rel=0.01) and found.calls == 20


def texts_of(number: int) -> list[str]:
    return [f"Page {n}. " + SENTENCE * (3 + n % 17) for n in range(number)]


@pytest.mark.parametrize("changes", [{}, {"num_rows": 30}, {"plan": {"sample_pages": 20}}, {"num_rows": 30, "plan": {"sample_pages": 20}}])
def test_the_interval_holds_the_estimate(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = plan(tmp_path, texts_of(120), **changes)
    assert 0 < found.low_usd < found.usd < found.high_usd
    assert found.pages_low <= found.pages <= found.pages_high
    assert found.usd == pytest.approx(sum(step.usd for step in found.steps.values()))


def test_both_branches_ask_as_often_as_their_shares(tmp_path: Path) -> None:
    found = plan(tmp_path, texts_of(120))
    calls = {name: step.calls for name, step in found.steps.items()}
    assert calls["webr/persona"] == calls["webr/instruction"] == calls["webr/response"] == 120
    assert calls["webr/refine"] == pytest.approx(40, abs=16)  # 120 draws at 1/3: 3 standard deviations are 15.5


def test_a_number_of_rows_caps_the_drafts(tmp_path: Path) -> None:
    """30 rows are 20 and 10; at 1.2 pages a row 24 and 12."""
    found = plan(tmp_path, texts_of(120), num_rows=30, oversample=1.2)
    assert (found.drafts, found.rows, found.pages) == (36, 30, 120)
    assert plan(tmp_path, texts_of(120), num_rows=1000).drafts == 120
    assert plan(tmp_path, texts_of(120), num_rows=1000).rows == 120


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "json", "parquet"])
def test_a_sample_of_the_pages_tells_how_many_there_are(tmp_path: Path, suffix: str) -> None:
    """4,000 pages of random words, 400 of them read."""
    rng = random.Random(0)
    rows = [{"text": SENTENCE * 2 + " ".join(rng.choices(SENTENCE.split(), k=rng.randint(30, 90)))} for _ in range(4000)]
    path, lines = tmp_path / f"pages.{suffix}", "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write = {"jsonl.gz": gzip.compress, "jsonl.zst": lambda data: pa.compress(data, "zstd", asbytes=True)}.get(suffix, bytes)
        path.write_bytes(write(json.dumps(rows).encode() if suffix == "json" else lines))
    found = plan_webr(job(path, plan={"sample_pages": 400}))
    assert found.sampled_pages == 400
    assert found.pages == pytest.approx(4000, rel=0.1) and found.pages_low <= 4000 <= found.pages_high
    assert found.notes and "pages found in" in found.notes[0]
    assert found.low_usd < found.usd < found.high_usd


def test_free_engines_cost_nothing(tmp_path: Path) -> None:
    found = plan(tmp_path, texts_of(10), engines={"e": {"kind": "scripted"}})
    assert (found.usd, found.low_usd, found.high_usd) == (0, 0, 0) and found.calls > 0


def test_no_page_makes_an_empty_plan(tmp_path: Path) -> None:
    found = plan(tmp_path, ["short"])
    assert (found.pages, found.drafts, found.rows, found.calls, found.usd, found.steps) == (0, 0, 0, 0, 0, {})
