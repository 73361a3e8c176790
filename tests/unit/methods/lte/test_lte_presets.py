"""LTE's presets: the thesis by default, the authors' code where it differs, every single difference a switch of its own."""

from __future__ import annotations

import pytest

from alignray.methods.lte import LTEConfig, QuotaConfig, ThreefoldConfig
from alignray.methods.lte.config import ORIGINAL


def test_the_default_is_the_thesis() -> None:
    config = LTEConfig()
    assert (config.preset, config.form, config.top_k, config.memory_key) == ("thesis", "thesis", 3, "descriptor")
    assert config.form_for("train") == config.form_for("single") == config.form_for("stream") == "thesis"
    assert (config.threefold.shares, config.threefold.neighbours, config.threefold.exact_first) == ((0.5, 0.25, 0.25), "top", False)
    assert (config.threefold.skip, config.evaluation.items, config.evaluation.fluency) == ((), "all", "both")


def test_the_original_sets_every_difference_and_a_key_overrides_its_own() -> None:
    config = LTEConfig.model_validate({"preset": "original"})
    assert [config.form_for(use) for use in ("train", "single", "stream")] == ["original_train", "original_easyedit", "original_seqedit"]
    assert (config.top_k, config.memory_key, config.quotas.ripple_edits_rule) == (1, "prompt", "original")
    assert config.threefold == ThreefoldConfig.model_validate(ORIGINAL["threefold"])
    assert (config.evaluation.items, config.evaluation.sequential, config.evaluation.fluency) == ("first_only", "at_insertion", "both")
    own = LTEConfig.model_validate({"preset": "original", "top_k": 2, "threefold": {"skip": []}, "quotas": QuotaConfig(scale=0.5)})
    assert (own.top_k, own.threefold.skip, own.threefold.exact_first) == (2, (), True)
    assert (own.quotas.scale, own.quotas.ripple_edits_rule) == (0.5, "original")


@pytest.mark.parametrize("key", sorted(ORIGINAL))
def test_each_switch_of_the_original_differs_from_the_thesis_and_can_be_set_alone(key: str) -> None:
    alone, thesis, original = (LTEConfig.model_validate(data) for data in ({key: ORIGINAL[key]}, {}, {"preset": "original"}))
    assert getattr(alone, key) == getattr(original, key) != getattr(thesis, key)
    assert [name for name in LTEConfig.model_fields if getattr(alone, name) != getattr(thesis, name)] == [key]


def test_a_config_that_was_written_out_reads_back_the_same() -> None:
    config = LTEConfig.model_validate({"preset": "original", "top_k": 5})
    assert LTEConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(("key", "value"), [
    ("top_k", 0), ("similarity_floor", 1.5), ("retries", 10), ("form", "alpaca"), ("quotas", {"table": {"known": {"in_scope": 1}}}),
    ("threefold", {"shares": [1, 0]}), ("scopes", {"earlier_share": 2}), ("quotas", {"scale": 0}),
])
def test_a_value_that_makes_no_sense_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        LTEConfig.model_validate({key: value})
