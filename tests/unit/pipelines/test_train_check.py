"""``--check`` on a tiny model folder: config and tokenizer, no weights at all."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from alignray.errors import ConfigError, RecordError
from alignray.io.reference_store import ReferenceStore
from alignray.io.sources import IngestConfig, SourceConfig, Split, list_splits
from alignray.methods.bmc.masks import edited_masks
from alignray.objectives import SFTConfig
from alignray.pipelines.train_check import CheckReport, check, check_training, print_check
from alignray.pipelines.train_config import TrainJobConfig
from alignray.train.config import TrainConfig
from alignray.train.tokenize import ChatTokenizer, TokenizeConfig, TokenPair, load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a config and a byte tokenizer, and no weights."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"], chat_template=CHATML,
    ).save_pretrained(folder)
    LlamaConfig(
        hidden_size=64, intermediate_size=176, num_attention_heads=4, num_hidden_layers=2, vocab_size=258,
    ).save_pretrained(folder)
    return str(folder)


def splits_of(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Split]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return list_splits(IngestConfig(sources=(SourceConfig(name="input", paths=(str(tmp_path / "rows.jsonl"),)),)))


Look = Callable[..., CheckReport]
LIMITS = TokenizeConfig(max_length=128, max_prompt_length=64)


@pytest.fixture
def look(model: str, tmp_path: Path) -> Look:
    def run(
        rows: list[dict[str, Any]], *, objective: dict[str, Any] | None = None, masks: Any = edited_masks, **changes: Any,
    ) -> CheckReport:
        config = TrainConfig.model_validate({
            "model": {"path": model}, "objective": objective or {"kind": "dpo", "weights": {"kind": "bmc", "delta": 3}},
            "batch_size": 16, "max_tokens_per_device": 256,
        })
        return check(config, LIMITS, splits_of(tmp_path, rows), **{"masks": masks, "world_size": 2, **changes})

    return run


def pairs(num: int) -> list[dict[str, Any]]:
    return [{"prompt": f"question {row}?", "chosen": f"it is é {row:03d}", "rejected": f"it is é {row + 1:03d}"} for row in range(num)]


def printed(report: CheckReport, **options: Any) -> str:
    out = io.StringIO()
    print_check(report, Console(file=out, width=200, **options))
    return out.getvalue()


def test_the_report_accounts_for_every_row(look: Look) -> None:
    rows = [
        *pairs(40), pairs(1)[0], {"prompt": "p", "chosen": "x", "rejected": "x"},
        {"prompt": "p", "chosen": "a" * 300 + "b", "rejected": "a" * 300},
        {"prompt": "question 3?", "chosen": "yes", "rejected": "no"}, {"prompt": "long", "chosen": "x" + "a" * 300, "rejected": "y"},
    ]
    report = look(rows)
    assert report.read == 45 == report.rows + sum(report.rejected.values()) and not report.is_sample
    assert report.rejected == {"ingest/duplicate_record": 1, "ingest/identical_pair": 1, "tokens/identical_after_truncation": 1}
    assert report.flags == {"edits_cut": 1, "response_cut": 1} and report.truncated_rate == 1 / 42
    assert report.duplicate_prompts == 2
    bias = report.length_bias
    assert bias["median"] == 0 and bias["longer_rate"] == 2 / 42 and bias["shorter_rate"] == 0
    cut = 128 - len("<|im_start|>user\nlong<|im_end|>\n<|im_start|>assistant\n".replace("<|im_start|>", "s").replace("<|im_end|>", "e"))
    assert bias["mean"] == pytest.approx((1 + cut - 2) / 42)
    assert report.lengths["chosen"]["max"] == cut and report.lengths["edited of chosen"]["p50"] in (1, 2)
    assert "1 pairs are left out because what differs is behind the cut" in " ".join(report.warnings)
    told = orjson.loads(orjson.dumps(dataclasses.asdict(report)))
    assert told["memory"]["ddp"]["total"] > told["memory"]["ddp"]["weights"] and told["shown"]["sides"]["chosen"][0]["weight"] == [1, 1]


def test_the_pair_shown_has_its_prompt_marks_and_bounds_of_weights(look: Look) -> None:
    report = look(pairs(3))
    assert report.shown.prompt == "<|im_start|>user\nquestion 0?<|im_end|>\n<|im_start|>assistant\n"
    chosen, rejected = report.shown.sides["chosen"], report.shown.sides["rejected"]
    assert "".join(token.text for token in chosen) == "it is é 000<|im_end|>"
    assert [token.text for token in rejected if token.is_marked] == ["1"]
    # a sure token weighs 1 + 1/1, a hopeless one 1 + delta
    assert {token.weight for token in rejected} == {(1.0, 1.0), (2.0, 4.0)}
    plain = look(pairs(3), objective={"kind": "dpo"})
    assert {token.weight for token in plain.shown.sides["rejected"]} == {(1.0, 1.0)}


def test_weights_are_exact_where_the_store_knows_the_reference(look: Look, model: str, tmp_path: Path) -> None:
    chat = ChatTokenizer(load_tokenizer(model), LIMITS)
    from alignray.io.preferences import pair_of

    row = chat.pair(pair_of(pairs(1)[0]), edited_masks)  # type: ignore[arg-type]
    assert isinstance(row, TokenPair)
    store = ReferenceStore(str(tmp_path / "store"), "k" * 32)
    store.append([(row.token_key, np.full(len(row.chosen_ids), np.log(0.4), np.float32), np.zeros(len(row.rejected_ids), np.float32))])
    report = look(pairs(1), store=store)
    (marked,) = [token.weight for token in report.shown.sides["chosen"] if token.is_marked]
    assert marked == pytest.approx((3.5, 3.5))
    assert "[[0]]{3.5}" in printed(report)


def test_marks_show_with_and_without_colour(look: Look) -> None:
    report = look(pairs(3))
    assert "it is é 00[[1]]{2 to 4}<|im_end|>" in printed(report)
    coloured = printed(report, force_terminal=True, color_system="standard")
    assert "[[" not in coloured and "\x1b[1;31m1" in coloured
    assert "[[" in printed(report, force_terminal=True, no_color=True)
    hostile = look([{"prompt": "\x1b[2Jclear [bold]x[/]", "chosen": "a", "rejected": "b"}])
    assert "\x1b[2J" not in printed(hostile) and "[bold]x[/]" in printed(hostile)


def test_examples_are_checked_too(look: Look) -> None:
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]}]
    report = look(rows, objective={"kind": "sft"}, masks=None)
    assert report.rows == 1 and not report.length_bias and report.lengths["targets"]["max"] == 4
    assert "[[yes<|im_end|>]]" in printed(report)


def test_a_sample_is_the_first_rows_of_every_split(look: Look) -> None:
    report = look(pairs(50), sample_rows=10)
    assert report.read == 10 and report.is_sample and "the first of each file" in printed(report)


def test_memory_is_told_before_a_gpu_is_taken(look: Look) -> None:
    report = look(pairs(3), device_bytes=1 << 20)
    assert "lower max_tokens_per_device" in report.warnings[-1]
    fits = look(pairs(3), device_bytes=80 << 30)
    assert not fits.warnings and "ZeRO 3, offload" in printed(fits)
    assert report.memory["as configured"] == report.memory["ddp"]
    configured, other = report.memory["as configured"], report.memory["no checkpointing"]
    assert other.activations > configured.activations and other.weights == configured.weights


def test_a_chosen_side_that_is_always_longer_is_warned_of(look: Look) -> None:
    rows = [{"prompt": f"q{row}", "chosen": "long answer", "rejected": "short"} for row in range(20)]
    assert any("chosen is longer in 100% of the pairs" in warning for warning in look(rows).warnings)


def test_a_jobs_config_is_all_it_takes(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 81559\necho 512\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    splits_of(tmp_path, pairs(5))
    config = TrainJobConfig.model_validate({
        "model": {"path": model}, "input": {"paths": [str(tmp_path / "rows.jsonl")]}, "run_dir": str(tmp_path / "run"),
        "reference": {"store": str(tmp_path / "store")}, "workers": {"num_workers": 2},
    })
    report = check_training(config)
    assert "there are 0.5;" in report.warnings[-1]
    assert report.rows == 5 and not (tmp_path / "run").exists() and not (tmp_path / "store").exists()
    assert check_training(config.model_copy(update={"objective": SFTConfig()})).lengths.keys() == {"row", "targets"}


def test_nothing_to_train_on_is_an_error(look: Look) -> None:
    with pytest.raises(RecordError, match=r"none of the 1 rows looked at can be trained on \(ingest/identical_pair 1\)"):
        look([{"prompt": "p", "chosen": "x", "rejected": "x"}])


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"model": {"path": str(tmp_path / "nowhere")}})
    with pytest.raises(ConfigError, match="no tokenizer can be loaded"):
        check(config, LIMITS, splits_of(tmp_path, pairs(1)), masks=edited_masks, world_size=1)
