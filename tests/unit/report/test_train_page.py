from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignray.report import charts
from alignray.report.card import write_card
from alignray.report.html import write_report
from alignray.report.run_folder import read_run
from alignray.report.train_figures import curves, length_bias, lines_of, objective_name, points, reference_sentence, smooth
from tests.runfolders import HOSTILE
from tests.trainfolders import build_train_run
from tests.unit.report.test_html_report import Page


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_train_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page_text(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def told(text: str) -> str:
    return " ".join(Page(text).text.split())


def change_manifest(run_dir: Path, **changes: Any) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps(manifest | changes))


def test_the_page_has_no_scripts_no_links_and_no_network(page_text: str) -> None:
    page = Page(page_text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object", "embed", "form", "base", "a", "audio", "video", "b-x"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag == "link" or not {"src", "href", "srcset", "data"} & set(attributes)
    assert "url(" not in page_text and "@import" not in page_text
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0] and "script-src" not in policies[0]


def test_hostile_texts_are_shown_as_they_are(page_text: str) -> None:
    page = Page(page_text)
    # warning, layout's reason, model, config.yaml, prompts, tokens
    assert page.text.count("<script>document.title='pwned';alert(1)</script>") > 8
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page.text
    assert "\x07" not in page_text
    assert sum(tag == "style" for tag, _ in page.tags) == 1


def test_every_part_of_a_full_run_is_told(page_text: str) -> None:
    text = told(page_text)
    for heading in ("Mind this", "Training", "How it was computed", "From records to rows", "The rows", "Token by token",
                    "By how much was edited", "Why records were turned down", "The run"):
        assert heading in text, heading
    for fact in (
        "the learning rate is high", "Pairs170and 30 held out", "Steps20DPO-BMC", "Held-out accuracy100.0%", "8,000 tokens a second",
        "Rows were padded", "a sliding window of 128 positions", "200 distinct pairs: 150 (75.0%) were in the store already",
        "50 computed in 3 forward passes", "stopped and taken up again",
        "50,000 tokens, prompts counted once; 20,000 are of responses, 10.0% of them",
        "chosen is longer50.0%", "3.2 chosen, 3.5 rejected", "the prompt's beginning cut off 10 (5.0%)",
        "least edited10.0% to 20.0%101.2580.0%2.50.5", "30 pairs of the held-out rows",
        "Unedited tokens: 0.500 before training, 0.500 after",
        "identical_tokens", "kinddpo", "delta3",
    ):
        assert fact in text, fact
    for title in ("Loss", "Reward margin", "Accuracy", "Rewards", "Log-probability", "Token weight", "KL from the reference",
                  "Gradient norm", "Learning rate", "Tokens per second"):
        assert f'aria-label="{title}"' in page_text, title
    assert page_text.count("<svg") == 10 + 2 + 2
    assert "neither kept nor rejected" not in text and "zero stage" not in text


def test_the_page_is_the_same_each_time(run_dir: Path, page_text: str) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page_text


@pytest.mark.parametrize("objective", ["sft", "simpo"])
def test_runs_without_a_reference(tmp_path: Path, objective: str) -> None:
    text = told(write_report(build_train_run(tmp_path / "run", objective=objective, hostile=False)).read_text())
    assert "distinct pairs" not in text and "λ of edited" not in text
    assert ("Examples170" in text) == (objective == "sft") == ("Held-out loss0.29" in text)
    assert ("no reference model" in text) == (objective == "simpo") == ("Token by token" in text)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run", status="running", hostile=False, with_analysis=False, with_texts=False, num_steps=0)
    (run / "metrics.jsonl").write_text("")
    text = told(write_report(run).read_text())
    assert "No step has been logged yet" in text and "running" in text
    assert "Token by token" not in text


def test_a_failed_run_tells_why(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run", hostile=False)
    change_manifest(run, status="failed", message="step 7: the loss of row abc is not a number", warnings=[])
    assert "Why it failedstep 7: the loss of row abc" in told(write_report(run).read_text())


def test_odd_files_do_not_stop_the_report(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run", hostile=False)
    (run / "watched.json").write_text("{")
    (run / "analysis.json").write_text('{"edit_splits": [3, {"name": 1}], "confidence": {"trained": []}}')
    next((run / "stages" / "tokens").glob("*.parquet")).write_bytes(b"PAR1")
    change_manifest(run, result=None, tokens=[], reference={"distinct": "x"}, warnings="no", objective={"kind": "dpo", "beta": "x"})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"kind": "eval", "step": "x", "watched": 3}\n{"kind": "eval", "step": 30, "watched": [{"row_id": 1}, 2]}\n')
    assert "ids are shown" in told(write_report(run).read_text())
    write_card(run)


# ---- figures


def test_of_a_step_that_was_done_twice_the_last_counts(run_dir: Path) -> None:
    lines = lines_of(read_run(run_dir).metrics, "train")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[10]["loss"] == pytest.approx(0.7 - 0.5 * 11 / 20 + 0.001)
    assert points(lines, "no such figure") == []


def test_a_model_that_is_its_own_reference_has_no_accuracy(run_dir: Path) -> None:
    held_out = lines_of(read_run(run_dir).metrics, "eval")
    assert held_out[0]["accuracy"] == 0
    assert points(held_out, "accuracy", 100) == [(10, 75.0), (20, 100.0)]


def test_smoothing_keeps_the_mean() -> None:
    values = [(float(x), float(x % 7)) for x in range(1000)]
    found = smooth(values, 100)
    assert len(found) == 100
    assert sum(y for _, y in found) / 100 == pytest.approx(sum(y for _, y in values) / 1000)
    assert found[0] == (4.5, pytest.approx((0 + 1 + 2 + 3 + 4 + 5 + 6 + 0 + 1 + 2) / 10))
    assert smooth(values, 1000) == values


def test_lengths_are_compared_pair_by_pair(run_dir: Path) -> None:
    bias = length_bias(read_run(run_dir))  # (3, 1), (5, 2), (4, 4), (1, 7)
    assert bias is not None
    assert (bias.pairs, bias.longer, bias.shorter, bias.mean_chosen, bias.mean_rejected) == (4, 2, 1, 3.25, 3.5)
    assert bias.rate == 0.5


@pytest.mark.parametrize(("objective", "name"), [
    ({"kind": "dpo"}, "DPO"), ({"kind": "r_dpo", "weights": {"kind": "bmc"}}, "R-DPO-BMC"),
    ({"kind": "dpo", "weights": {"kind": "every"}}, "DPO (EW)"),
    ({"kind": "sft"}, "supervised fine-tuning"),
])
def test_objectives_by_name(tmp_path: Path, objective: dict[str, Any], name: str) -> None:
    run = build_train_run(tmp_path / "run")
    change_manifest(run, objective=objective)
    assert objective_name(read_run(run)) == name


def test_a_second_run_with_the_same_rows_computes_nothing(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run")
    change_manifest(run, reference={"distinct": 200, "found": 200, "computed": 0, "passes": 0})
    assert reference_sentence(read_run(run)).endswith("200 (100.0%) were in the store already, 0 computed.")


def test_an_axis_of_figures_below_zero() -> None:
    assert charts.ticks_between(-2.1, 0.9) == pytest.approx([-3, -2, -1, 0, 1])
    assert charts.ticks_between(0.690, 0.693) == pytest.approx([0.69, 0.691, 0.692, 0.693])
    low, *_, high = charts.ticks_between(4.0, 4.0)
    assert low < 4 < high
    drawn = charts.lines([charts.Series("x", [(0, -1.0), (10, -2.0)])], title="t", x_unit="step", from_zero=False)
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn)]
    assert heights == sorted(heights) and 0 < heights[0] < heights[-1] < charts.HEIGHT
    assert ">0.691<" not in charts.lines([charts.Series("x", [(0, 0.69), (1, 5.0)])], title="t", x_unit="step")


def test_a_lone_evaluation_is_drawn(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run", num_steps=0)
    kl = next(curve for curve in curves(read_run(run)) if curve["title"].startswith("KL"))
    assert re.search(r'd="M[\d.]+ [\d.]+ L', kl["chart"])


# ---- the card


def test_the_card_tells_base_data_objective_and_figures(tmp_path: Path) -> None:
    card = write_card(build_train_run(tmp_path / "run", hostile=False)).read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and front["tags"] == ["alignray", "preference", "dpo", "bmc"]
    for fact in ("tuned with DPO-BMC", "- pairs: 170, and 30 held out", "chosen is longer in 50.0% of the pairs",
                 "| objective: beta | 0.1 |", "| optimizer: learning rate | 5e-07 |", "| loss | 0.29 | 0.69 before training |",
                 "| accuracy (chosen reward above rejected) | 100.0% |",
                 "last training step was 0.2", "weights.delta is below 1", "AutoModelForCausalLM"):
        assert fact in card, fact
    assert "base_model" not in front or front["base_model"] == "models/tiny"


def test_the_card_of_adapters_loads_them_with_peft(tmp_path: Path) -> None:
    run = build_train_run(tmp_path / "run", hostile=False)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] |= {"lora": {"rank": 8, "alpha": 16}, "path": "meta-llama/Llama-3.1-8B"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    card = write_card(run).read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["base_model"]) == ("peft", "meta-llama/Llama-3.1-8B")
    assert "AutoPeftModelForCausalLM" in card and "holds the adapters" in card and "| model: lora / rank | 8 |" in card


def test_hostile_names_are_inert_in_the_card(run_dir: Path) -> None:
    front, body = write_card(run_dir).read_text().split("---\n", 2)[1:]
    assert "base_model" not in yaml.safe_load(front)
    assert "<script" not in body and "<img" not in body and "<b>train" not in body
    assert HOSTILE not in body
