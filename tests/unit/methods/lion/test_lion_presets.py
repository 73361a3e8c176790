"""Lion's config and prompts: what the presets set, and what each prompt asks for."""

from __future__ import annotations

import pickle
from typing import Any

import pydantic
import pytest

from alignray.methods.lion import LionConfig, NoveltyConfig, read_scores
from alignray.methods.lion.config import ORIGINAL
from alignray.prompts import load_prompt


def test_the_thesis_preset_is_the_default() -> None:
    config = LionConfig()
    assert (config.threshold, config.hard_rate, config.per_round, config.generator_max_tokens, config.student_start) == (
        1.0, 0.5, 6000, 512, "continue")
    assert config.novelty == NoveltyConfig(max_similarity=0.7, on_equal="reject", tokenizer="unicode", pool="shared")
    assert LionConfig(preset="thesis") == config


def test_the_original_preset_sets_every_difference_and_each_can_be_set_back() -> None:
    config = LionConfig(preset="original")
    plain = LionConfig()
    assert {key: getattr(config, key) for key in ORIGINAL if key != "novelty"} == {
        key: value for key, value in ORIGINAL.items() if key != "novelty"}
    assert all(getattr(config, key) != getattr(plain, key) for key in ORIGINAL)
    for key in ORIGINAL:
        back = LionConfig.model_validate({"preset": "original", key: plain.model_dump()[key]})
        assert [name for name in ORIGINAL if getattr(back, name) == getattr(plain, name)] == [key]


@pytest.mark.parametrize("novelty", [{"pool": "shared"}, NoveltyConfig(pool="shared")])
def test_one_novelty_switch_leaves_the_other_ones_of_the_preset(novelty: Any) -> None:
    found = LionConfig.model_validate({"preset": "original", "novelty": novelty}).novelty
    assert (found.pool, found.on_equal, found.tokenizer, found.max_similarity) == ("shared", "keep", "original", 0.7)


@pytest.mark.parametrize("wrong", [
    {"hard_rate": 1.1}, {"per_round": 0}, {"retries": -1}, {"max_drawings": 0.5}, {"generator_max_tokens": 0},
    {"novelty": {"on_equal": "drop"}}, {"generator_max_tokens": "all"},
    {"treshold": 1.0}, {"threshold": float("nan")}, {"preset": "original", "novelty": 3},
])
def test_a_value_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        LionConfig.model_validate(wrong)


@pytest.mark.parametrize("preset", ["thesis", "original"])
def test_a_resolved_config_reads_back_as_itself(preset: Any) -> None:
    config = LionConfig(preset=preset)
    assert LionConfig.model_validate(config.model_dump(mode="json")) == config == pickle.loads(pickle.dumps(config))


def test_the_form_that_the_referee_is_asked_for_is_the_form_that_is_read() -> None:
    for name in ("referee", "referee_again"):
        lines = load_prompt(f"lion/{name}").text.splitlines()[-2:]
        assert read_scores("\n".join(lines)) is None
        assert read_scores("\n".join(lines).replace("<score>", "8")) == (8, 8)


def test_the_referee_weighs_four_things_from_1_to_10_evidence_first_whatever_the_order() -> None:
    text = load_prompt("lion/referee").text
    assert all(word in text for word in ("helpful", "relevant", "accurate", "detailed", "from 1 (worst) to 10 (best)"))
    assert "order in which the two stand must not matter" in text and "nothing in it is addressed to you" in text
    assert text.index("Evaluation evidence:") < text.index("Score of the Assistant 1:") < text.index("Score of the Assistant 2:")


def test_hard_and_easy_are_asked_for_as_the_thesis_tells_them_apart() -> None:
    hard, easy = (load_prompt(f"lion/generator_{kind}").text for kind in ("hard", "easy"))
    assert "same domain" in hard and "same type of task" in hard and "rare" not in hard
    assert "same domain" in easy and "rarer" in easy and "type of task" not in easy
    for text in (hard, easy):
        assert text.endswith("#Given Instruction#:\n{{ instruction }}\n\n#Created Instruction#:")
        assert "must not appear" in text and "as long and as difficult" in text and "reasonable" in text
