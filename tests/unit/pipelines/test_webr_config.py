"""The job's config: presets reach dedup too, and a run's identity holds what decides its rows and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pydantic
import pytest

from alignray.io.sources import list_splits
from alignray.pipelines.webr_account import run_identity
from alignray.pipelines.webr_config import WebRJobConfig, identity_of
from alignray.prompts import load_prompt

BASE: dict[str, Any] = {
    "ingest": {"sources": [{"name": "s", "paths": ["a.jsonl"]}]},
    "engines": {"e": {"kind": "openai", "model": "gpt-4o-mini"}},
    "roles": {"default": {"engine": "e"}},
}


def config(**changes: Any) -> WebRJobConfig:
    return WebRJobConfig.model_validate({**BASE, **changes})


def engine(**changes: Any) -> dict[str, Any]:
    return {"engines": {"e": {"kind": "openai", "model": "gpt-4o-mini", **changes}}}


# ---- presets


def test_the_thesis_is_the_default() -> None:
    plain = config()
    assert (plain.webr.preset, plain.dedup.unit, plain.dedup.n, plain.dedup.num_perm, plain.dedup.threshold, plain.dedup.verify) == (
        "thesis", "word", 5, 128, 0.7, "exact",
    )
    assert plain.webr.instruction_share == pytest.approx(2 / 3)


def test_the_original_preset_fills_dedup_too() -> None:
    """14 bands of 9 rows at threshold 0.7, sets of single units, candidates not verified (spec, WebR 1.3)."""
    original = config(webr={"preset": "original"})
    assert (original.dedup.n, original.dedup.verify, original.dedup.split()) == (1, "none", (14, 9))
    assert (original.webr.refusals, original.webr.rounding) == ("prefix", "floor")


def test_any_key_overrides_the_preset() -> None:
    mixed = config(webr={"preset": "original", "on_length": "reject"}, dedup={"verify": "estimate"})
    assert (mixed.webr.on_length, mixed.webr.preamble) == ("reject", "original")
    assert (mixed.dedup.verify, mixed.dedup.n, mixed.dedup.bands) == ("estimate", 1, 14)


def test_the_thesis_preset_by_name_is_the_default() -> None:
    assert config(webr={"preset": "thesis"}) == config()


def test_token_ids_cannot_be_compared_here_and_the_message_names_the_choices() -> None:
    with pytest.raises(pydantic.ValidationError, match='use "word" or "character"'):
        config(dedup={"unit": "token_id"})


# ---- identity


@pytest.mark.parametrize(
    "change",
    [
        {"run_dir": "elsewhere"}, {"num_rows": 5}, {"oversample": 2}, {"budget": {"usd": 3}}, {"max_reject_rate": 0.5},
        {"analysis": {"embedder": None}}, {"plan": {"sample_pages": 3}}, {"runtime": {"block_rows": 3}},
        engine(base_url="http://other:8000/v1", api_key_env="OTHER"), engine(timeout_s=3, max_in_flight=2, max_attempts=1),
        engine(price={"prompt": 1, "completion": 2}),
        {"ingest": {**BASE["ingest"], "fetch": {"attempts": 2}}},
    ],
    ids=lambda change: str(change)[:50],
)
def test_where_and_at_what_price_a_run_works_is_no_part_of_its_identity(change: dict[str, Any]) -> None:
    assert identity_of(config(**change)) == identity_of(config())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, engine(model="gpt-4o"), engine(extra_body={"top_k": 5}), {"roles": {"default": {"engine": "e", "temperature": 0.1}}},
        {"webr": {"refine": False}}, {"webr": {"preset": "original"}}, {"dedup": {"threshold": 0.8}}, {"dedup": {"enabled": False}},
        {"ingest": {**BASE["ingest"], "gates": {"min_chars": 10}}}, {"engines": {"e": {"kind": "scripted"}}},
        {"engines": {"e": {"kind": "llama", "context_tokens": 1000}}},
    ],
    ids=lambda change: str(change)[:50],
)
def test_what_decides_the_rows_is_part_of_the_identity(change: dict[str, Any]) -> None:
    assert identity_of(config(**change)) != identity_of(config())


def test_a_changed_prompt_or_input_is_another_run_and_a_moved_copy_of_the_prompts_is_not(tmp_path: Path) -> None:
    pages = tmp_path / "a.jsonl"
    pages.write_text('{"text": "x"}\n')
    for name in ("one", "two"):
        (tmp_path / name / "webr").mkdir(parents=True)
        (tmp_path / name / "webr" / "persona.txt").write_text("Who wrote {{ text }}?")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    (tmp_path / "other" / "webr" / "persona.txt").write_text("Who wrote this? {{ text }}")

    def identity(prompts: str) -> dict[str, Any]:
        job = config(ingest={"sources": [{"name": "s", "paths": [str(pages)]}]}, prompts={"dir": str(tmp_path / prompts)})
        return run_identity(job, list_splits(job.ingest))

    before = identity("one")
    assert before == identity("two") != identity("other")
    assert before["prompts"]["webr/refine"] == load_prompt("webr/refine").digest
    pages.write_text('{"text": "longer"}\n')
    assert identity("one") != before
