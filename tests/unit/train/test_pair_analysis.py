from __future__ import annotations

import math
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import torch
import yaml

from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.train.analysis import (
    PairModel,
    analyze_pairs,
    edit_rate,
    held_out_pairs,
    pair_by_id,
    run_config,
    score_pair,
    span_confidence,
    span_positions,
    split_figures,
    thirds,
    trained_folder,
    watched_entry,
    write_watched_texts,
)
from alignray.train.config import TrainConfig
from alignray.train.data import PairTokens
from alignray.train.tiny import write_tiny_model

# ---- figures from numbers


def test_an_edit_rate_is_the_distance_over_the_longer_response() -> None:
    assert edit_rate([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert edit_rate([1, 2, 3, 4], [1, 9, 3]) == pytest.approx(2 / 4)  # one replaced, one gone
    assert edit_rate([5], [1, 2, 3, 4, 5]) == pytest.approx(4 / 5)
    assert edit_rate([1, 2], [3, 4, 5]) == 1


def test_thirds_are_equal_and_ties_go_by_position() -> None:
    assert thirds([0.9, 0.1, 0.5, 0.2, 0.8, 0.3]) == [[1, 3], [5, 2], [4, 0]]
    assert thirds([0.5] * 6) == [[0, 1], [2, 3], [4, 5]]
    assert [len(part) for part in thirds(np.arange(8.0))] == [3, 3, 2]
    assert thirds([]) == [[], [], []]


def test_positions_count_from_the_start_of_each_span() -> None:
    assert span_positions([0, 1, 1, 0, 1, 1, 1]) == [0, 1, 2, 0, 1, 2, 3]
    assert span_positions([True, False]) == [1, 0]
    assert span_positions([]) == []


def test_confidence_is_the_mean_probability_at_each_place() -> None:
    logprobs = [np.log([0.5, 0.2, 0.8, 0.4]), np.log([0.4, 0.6])]
    found = span_confidence(logprobs, [[0, 1, 1, 0], [1, 0]])
    first, second = found["positions"]
    assert (first["position"], first["tokens"], second["position"], second["tokens"]) == (1, 2, 2, 1)
    assert first["mean"] == pytest.approx(0.3)  # 0.2 and 0.4
    assert first["error"] == pytest.approx(0.1)  # standard deviation 0.2 / sqrt 2, over sqrt 2
    assert second["mean"] == pytest.approx(0.8) and second["error"] is None
    assert found["unedited"]["tokens"] == 3 and found["unedited"]["mean"] == pytest.approx((0.5 + 0.4 + 0.6) / 3)


def test_late_places_of_long_spans_count_together() -> None:
    found = span_confidence([[math.log(0.5)] * 5], [[1] * 5], max_position=3)
    assert [(place["position"], place["tokens"]) for place in found["positions"]] == [(1, 1), (2, 1), (3, 3)]
    assert found["unedited"] == {"tokens": 0, "mean": None, "error": None}


def test_splits_tell_margin_accuracy_and_norms_of_each_third() -> None:
    low, middle, high = split_figures(
        [0.3, 0.1, 0.2], margins=[3.0, -1.0, 2.0], correct=[1.0, 0.0, 1.0], norms={"trained": [[2.0, 4.0], [1.0], []]},
    )
    assert (low["name"], low["rows"], low["margin"], low["accuracy"]) == ("least edited", 1, -1.0, 0.0)
    assert low["edit_rate"] == {"low": 0.1, "mean": 0.1, "high": 0.1}
    assert low["grad_norm"] == {"trained": {"mean": 3.0, "low": 2.0, "high": 4.0, "batches": 2}}
    assert (middle["margin"], high["margin"], high["grad_norm"]) == (2.0, 3.0, {})


def test_two_pairs_make_two_parts() -> None:
    assert [split["rows"] for split in split_figures([0.1, 0.2], margins=[1, 1], correct=[1, 1], norms={})] == [1, 1]


# ---- models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), hidden_size=16, num_layers=2, num_heads=2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("other"), hidden_size=16, num_layers=2, num_heads=2, seed=1)


def config_of(tiny: Path, **more: Any) -> TrainConfig:
    return TrainConfig.model_validate({
        "model": {"path": str(tiny), "dtype": "float32", "gradient_checkpointing": False}, "max_tokens_per_device": 64,
        "objective": {"kind": "dpo", "beta": 0.1, "weights": {"kind": "bmc", "delta": 3.0}}, **more,
    })


def make_pairs(count: int, seed: int = 0) -> list[PairTokens]:
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        prompt, chosen = rng.integers(0, 200, 4 + number % 3), rng.integers(0, 200, 6 + number % 4)
        rejected, at = chosen.copy(), rng.integers(0, len(chosen))
        rejected[at] = (rejected[at] + 1) % 200
        edited = np.arange(len(chosen)) == at
        pairs.append(PairTokens(f"{number:032x}", prompt, chosen, rejected, edited, edited))
    return pairs


def plain_logprobs(folder: Path, prompt: Any, ids: Any) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = torch.tensor(np.concatenate([prompt, ids]))[None]
    logits = model(whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logits.gather(-1, torch.tensor(ids)[:, None])[:, 0].detach()


def test_a_scored_pair_has_the_log_probabilities_of_both_models(tiny: Path, other: Path) -> None:
    (pair,) = make_pairs(1)
    entry = score_pair(config_of(tiny), pair, folder=other)
    assert entry["row_id"] == pair.row_id and entry["prompt_ids"] == pair.prompt_ids.tolist()
    for name in ("chosen", "rejected"):
        ids, side = getattr(pair, f"{name}_ids"), entry[name]
        assert side["ids"] == ids.tolist() and side["edited"] == pair.chosen_edited.tolist()
        np.testing.assert_allclose(side["logprobs"], plain_logprobs(other, pair.prompt_ids, ids), atol=1e-4)
        np.testing.assert_allclose(side["reference"], plain_logprobs(tiny, pair.prompt_ids, ids), atol=1e-4)
        # a random model finds every token hopeless, so edited ones have the full weight 1 + delta
        assert side["weights"] == [4.0 if is_edited else 1.0 for is_edited in side["edited"]]


def test_a_model_is_no_better_than_itself(tiny: Path) -> None:
    pairs = make_pairs(5)
    model = PairModel(config_of(tiny))
    before = model.score(pairs)
    known = [
        PairTokens(p.row_id, p.prompt_ids, p.chosen_ids, p.rejected_ids, p.chosen_edited, p.rejected_edited, one.chosen_logprobs,
                   one.rejected_logprobs)
        for p, one in zip(pairs, before, strict=True)
    ]
    assert all(one.margin == pytest.approx(0, abs=1e-5) for one in model.score(known))
    entry = watched_entry(config_of(tiny), pairs[0], before[0], before[0])
    assert entry["chosen"]["logprobs"] == entry["chosen"]["reference"]


def test_the_gradient_norm_is_that_of_plain_autograd(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = config_of(tiny, objective={"kind": "simpo", "beta": 2.0, "gamma": 0.5})
    pairs = make_pairs(3)
    norm = PairModel(config).gradient_norm(pairs)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    losses = []
    for pair in pairs:
        means = []
        for ids in (pair.chosen_ids, pair.rejected_ids):
            whole = torch.tensor(np.concatenate([pair.prompt_ids, ids]))[None]
            logits = model(whole).logits.log_softmax(-1)[0, len(pair.prompt_ids) - 1 : -1]
            means.append(logits.gather(-1, torch.tensor(ids)[:, None]).mean())
        losses.append(-torch.nn.functional.logsigmoid(2.0 * (means[0] - means[1]) - 0.5))
    torch.stack(losses).mean().backward()
    wanted = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.parameters() if p.grad is not None))
    assert norm == pytest.approx(wanted, rel=1e-4)


def test_the_gradient_norm_leaves_the_model_as_it_was(tiny: Path) -> None:
    config = config_of(tiny, objective={"kind": "orpo"})
    model, pairs = PairModel(config), make_pairs(4)
    before = model.score(pairs)
    first = model.gradient_norm(pairs)
    assert model.gradient_norm(pairs) == first
    for one, two in zip(before, model.score(pairs), strict=True):
        np.testing.assert_array_equal(one.chosen_logprobs, two.chosen_logprobs)


def test_all_analyses_of_some_pairs(tiny: Path, other: Path) -> None:
    found = analyze_pairs(config_of(tiny), make_pairs(9), other, batch_size=2, max_batches=4)
    assert [split["rows"] for split in found["edit_splits"]] == [3, 3, 3]
    for split in found["edit_splits"]:
        assert 0 <= split["accuracy"] <= 1
        # three pairs make one whole batch of two
        assert {name: norm["batches"] for name, norm in split["grad_norm"].items()} == {"untrained": 1, "trained": 1}
        assert all(norm["mean"] > 0 for norm in split["grad_norm"].values())
    (place,) = found["confidence"]["trained"]["chosen"]["positions"]
    assert (place["position"], place["tokens"]) == (1, 9)
    assert orjson.loads(orjson.dumps(found)) == found


def test_adapters_are_merged_into_their_model(tiny: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), peft.LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    model.save_pretrained(tmp_path / "adapters")
    merged = tmp_path / "merged"
    model.merge_and_unload().save_pretrained(merged)
    (pair,) = make_pairs(1)
    entry = score_pair(config_of(tiny), pair, folder=tmp_path / "adapters")
    np.testing.assert_allclose(entry["chosen"]["logprobs"], plain_logprobs(merged, pair.prompt_ids, pair.chosen_ids), atol=1e-3)
    assert entry["chosen"]["logprobs"] != entry["chosen"]["reference"]
    simpo = config_of(tiny, objective={"kind": "simpo"})
    norms = [PairModel(simpo, tmp_path / name).gradient_norm([pair]) for name in ("adapters", "merged")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 0


# ---- run folders


def write_run(run: Path, tiny: Path, pairs: list[PairTokens], *, objective: str = "dpo") -> Path:
    run.mkdir()
    rows = [
        {
            "row_id": pair.row_id, "token_key": pair.row_id, "prompt_ids": pair.prompt_ids.tolist(), "chosen_ids": pair.chosen_ids.tolist(),
            "rejected_ids": pair.rejected_ids.tolist(), "chosen_edited": pair.chosen_edited.astype(int).tolist(),
            "rejected_edited": pair.rejected_edited.astype(int).tolist(), "split": "eval" if number % 2 else "train",
        }
        for number, pair in enumerate(pairs)
    ]
    log = CommitLog(Storage(str(run)))
    for place in range(2):
        log.write("tokens", f"part-{place}", {"rows": ("stages/tokens", pa.Table.from_pylist(rows[place::2]))}, {"kept": len(rows) // 2})
    config = {
        "run_dir": str(run), "model": {"path": str(tiny), "dtype": "float32"}, "objective": {"kind": objective}, "tokens": {},
        "eval": {"watch_rows": 2}, "workers": {"num_workers": 1},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_pairs_and_settings_come_from_the_run_folder(tiny: Path, tmp_path: Path) -> None:
    pairs = make_pairs(6)
    run = str(write_run(tmp_path / "run", tiny, pairs))
    config, _ = run_config(run)
    assert (config.model.path, config.eval.watch_rows) == (str(tiny), 2)
    split, held_out = held_out_pairs(run, 2)
    assert (split, [pair.row_id for pair in held_out]) == ("eval", [pairs[1].row_id, pairs[3].row_id])
    np.testing.assert_array_equal(pair_by_id(run, pairs[4].row_id).chosen_ids, pairs[4].chosen_ids)
    with pytest.raises(RecordError, match="no pair 'nobody'"):
        pair_by_id(run, "nobody")
    with pytest.raises(RecordError, match="holds no model"):
        trained_folder(run)


def test_the_texts_of_the_watched_pairs_are_written_down(tiny: Path, tmp_path: Path) -> None:
    pairs = make_pairs(6)
    run = write_run(tmp_path / "run", tiny, pairs)
    write_watched_texts(str(run), *run_config(str(run)))
    texts = orjson.loads((run / "watched.json").read_bytes())
    assert list(texts) == [pairs[1].row_id, pairs[3].row_id]
    assert [len(texts[pairs[1].row_id][name]) for name in ("prompt", "chosen", "rejected")] == [
        len(pairs[1].prompt_ids), len(pairs[1].chosen_ids), len(pairs[1].rejected_ids)]


def test_an_sft_run_watches_nothing(tiny: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny, make_pairs(2), objective="sft")
    write_watched_texts(str(run), *run_config(str(run)))
    assert not (run / "watched.json").exists()


def test_a_folder_that_is_no_training_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no config\.yaml"):
        run_config(str(tmp_path))
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RecordError, match="names no model"):
        run_config(str(tmp_path))
    with pytest.raises(RecordError, match="no pairs"):
        held_out_pairs(str(tmp_path))


def test_the_scripts_write_their_pages(tiny: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs(12)
    run = write_run(tmp_path / "run", tiny, pairs)
    shutil.copytree(other, run / "model")
    (run / "manifest.json").write_bytes(orjson.dumps({"method": "train", "status": "done"}))
    scripts = Path(__file__).parents[3] / "scripts"
    monkeypatch.setattr("sys.argv", ["analyze_training.py", str(run), "--batch-size", "2", "--max-batches", "1"])
    runpy.run_path(str(scripts / "analyze_training.py"), run_name="__main__")
    assert orjson.loads((run / "analysis.json").read_bytes())["rows"] == 6
    assert "6 pairs of the held-out rows" in (run / "report.html").read_text()
    monkeypatch.setattr("sys.argv", ["token_rewards.py", str(run), "--row", pairs[4].row_id, "--out", str(tmp_path / "pair.html")])
    runpy.run_path(str(scripts / "token_rewards.py"), run_name="__main__")
    page = (tmp_path / "pair.html").read_text()
    assert page.count('<span class="t"') + page.count('<span class="t e"') == len(pairs[4].chosen_ids) + len(pairs[4].rejected_ids)
    monkeypatch.setattr("sys.argv", ["token_rewards.py", str(run), "--row", "nobody"])
    with pytest.raises(SystemExit, match="no pair 'nobody'"):
        runpy.run_path(str(scripts / "token_rewards.py"), run_name="__main__")
