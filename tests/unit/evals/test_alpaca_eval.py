import csv
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import optimize, stats

from alignray.errors import RecordError
from alignray.evals.alpaca_eval import (
    AlpacaEvalConfig,
    benchmark,
    fit_length_controlled,
    leaderboard_numbers,
    length_controlled_win_rate,
    length_feature,
)
from tests.unit.evals.judged_runs import answered, drafts_of, figure, rejects_of, rows_of, score_of, silent, summary_of, walked

MODELS = ["alpaca-7b", "falcon-7b-instruct"]
BASELINE = [{"dataset": "helpful_base", "instruction": f"Do thing {place}.", "output": f"base {place}"} for place in range(40)]
CONFIG = AlpacaEvalConfig(baseline="b")
COLUMNS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")


def prefers(which: str) -> Any:
    """A candidate that says "own", and a judge that goes by the answer or by the place."""

    def says(step: str, draft: Any, request: Any) -> str:
        if step == "alpaca_eval/answer":
            return "own"
        text = request.messages[0].content
        own_first = text.index("\nown\n") < text.index(f"\nbase {draft.key}\n")
        return {"own": "m" if own_first else "M", "first": "m", "base": "M" if own_first else "m"}[which]

    return says


# ---- the judge


def test_the_judge_sees_a_drawn_order_that_is_the_same_for_every_candidate() -> None:
    bench = benchmark(CONFIG)
    drafts = drafts_of(bench, {"baseline": BASELINE})
    texts = [walked(bench, draft, prefers("own"))[1][1][1].messages[0].content for draft in drafts]
    num_first = sum(text.index("\nown\n") < text.index("\nbase ") for text in texts)
    assert 10 <= num_first <= 30
    other = benchmark(CONFIG.model_copy(update={"seed": 1}))
    again = [walked(other, draft, prefers("own"))[1][1][1].messages[0].content for draft in drafts]
    assert again != texts and texts == [walked(bench, draft, prefers("own"))[1][1][1].messages[0].content for draft in drafts]


@pytest.mark.parametrize(("which", "win_rate"), [("own", 1.0), ("base", 0.0)])
def test_a_preference_goes_to_the_answer_whatever_its_place(which: str, win_rate: float) -> None:
    bench = benchmark(CONFIG)
    found = summary_of(bench, drafts_of(bench, {"baseline": BASELINE}), prefers(which))
    assert figure(found, "win_rate").value == figure(found, "win_rate", "helpful_base").value == win_rate
    assert any("hard" in note for note in found.details["notes"]) and any("not measured" in note for note in found.details["notes"])
    assert found.details["leaderboard"]["win_rate"] == 100 * win_rate


def test_a_judge_that_goes_by_place_is_seen() -> None:
    bench = benchmark(CONFIG)
    found = summary_of(bench, drafts_of(bench, {"baseline": BASELINE}), prefers("first"))
    assert found.details["win_rate_by_place"] == {"first": 1.0, "second": 0.0}
    both = benchmark(CONFIG.model_copy(update={"orders": "both"}))
    found = summary_of(both, drafts_of(both, {"baseline": BASELINE}), prefers("first"))
    assert figure(found, "position_consistency").value == 0.0 and figure(found, "win_rate").value == 0.5
    fair = summary_of(both, drafts_of(both, {"baseline": BASELINE}), prefers("own"))
    assert figure(fair, "position_consistency").value == 1.0 and figure(fair, "win_rate").value == 1.0


@pytest.mark.parametrize(("reply", "num_asked"), [
    ("m", 1), (" M.", 1), ("`m`", 1), ('{"verdict": "M"}', 1), ("Model m", 3), ("", 3), ("mM", 3), ("first", 3), ("x" * 200_000, 3),
])
def test_only_the_mark_alone_is_a_verdict(reply: str, num_asked: int) -> None:
    bench = benchmark(CONFIG)
    item, asked = walked(bench, drafts_of(bench, {"baseline": BASELINE})[0], lambda step, *_: "own" if "answer" in step else reply)
    assert len(asked) - 1 == num_asked
    is_failure = num_asked == 3
    assert score_of(item, "judge_failure")[0] == float(is_failure) and (score_of(item, "win_rate")[1] == "unreadable") == is_failure


def test_everything_travels() -> None:
    assert drafts_of(cloudpickle.loads(cloudpickle.dumps(benchmark(CONFIG))), {"baseline": BASELINE})[3].key == "3"


# ---- reading


def test_files_that_are_not_what_they_should_be_are_named() -> None:
    bench = benchmark(CONFIG)
    with pytest.raises(RecordError, match=r"alpaca_eval\.baseline: no row"):
        drafts_of(bench, {"baseline": [{"prompt": "x"}]})
    for preference in (2.5, "1", True, float("nan")):
        with pytest.raises(RecordError, match=r"alpaca_eval\.annotations: row 0"):
            drafts_of(bench, {"baseline": BASELINE, "annotations": [{"instruction": "x", "output_2": "y", "preference": preference}]})
    with pytest.raises(RecordError, match=r"alpaca_eval\.difficulty: row 1"):
        drafts_of(bench, {"baseline": BASELINE, "difficulty": [{"": "0", "instruction_difficulty": "1.5"}, {"": "x"}]})
    with pytest.raises(RecordError, match="no row 'gpt-9'"):
        drafts_of(benchmark(CONFIG.model_copy(update={"coefficients_of": "gpt-9"})), {"baseline": BASELINE, "coefficients": []})
    for given, way_out in (({"coefficients_of": "m"}, "leave coefficients_of out"), ({"coefficients": "c"}, "or leave both out")):
        with pytest.raises(ValidationError, match=way_out):
            AlpacaEvalConfig(baseline="b", **given)
    odd = [BASELINE[0], {"instruction": "x"}, {"output": "y"}]
    assert [found.reason for found in rejects_of(bench, {"baseline": odd})] == ["malformed", "no_key"]


def test_labels_give_a_kappa() -> None:
    labels = [{"question_id": place, "label": "win" if place % 2 else "loss"} for place in range(40)]
    bench = benchmark(CONFIG)
    drafts = drafts_of(bench, {"baseline": BASELINE, "labels": labels})
    found = summary_of(bench, drafts, lambda step, draft, request: prefers("own" if int(draft.key) % 2 else "base")(step, draft, request))
    assert figure(found, "kappa").value == 1.0 and figure(found, "kappa").num == 40


# ---- the recorded annotations


def recorded(name: str, data_dir: Path, **switches: Any) -> tuple[Any, dict[str, Any]]:
    rows = rows_of(data_dir / "alpaca_eval" / f"{name}.annotations.NC.jsonl.gz")
    return benchmark(AlpacaEvalConfig(baseline="b", annotations="a", **switches)), {"baseline": rows, "annotations": rows}


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", MODELS)
def test_recorded_preferences_come_to_the_leaderboards_row(name: str, data_dir: Path) -> None:
    bench, files = recorded(name, data_dir)
    drafts = drafts_of(bench, files)
    found = summary_of(bench, drafts, silent)
    row, ours = table(data_dir / "alpaca_eval" / "leaderboard_rows.csv")[name], found.details["leaderboard"]
    for column in ("win_rate", "standard_error", "discrete_win_rate"):
        assert ours[column] == pytest.approx(float(row[column]), abs=1e-9)
    assert {column: ours[column] for column in ("n_wins", "n_wins_base", "n_draws", "n_total")} == {
        column: int(row[column]) for column in ("n_wins", "n_wins_base", "n_draws", "n_total")
    }
    assert int(found.details["mean_length_characters"]) == int(row["avg_length"])
    win_rate = figure(found, "win_rate")
    assert win_rate.value == pytest.approx(float(row["win_rate"]) / 100) and win_rate.num == 805
    # t's 1.963 standard errors on either side
    assert win_rate.high == pytest.approx((float(row["win_rate"]) + 1.96290 * float(row["standard_error"])) / 100, abs=1e-6)
    assert figure(found, "length_controlled_win_rate").value is None
    assert "no file of them was given" in found.details["length_controlled"]["missing"]


# ---- length control


def test_the_length_feature_by_hand() -> None:
    # differences 10, 0, -10: sample standard deviation 10
    assert np.allclose(length_feature([20, 5, 5], [10, 5, 15]), np.tanh([1, 0, -1]))
    assert np.allclose(length_feature([5, 6], [5, 6]), 0)
    assert length_controlled_win_rate([9.0, 0.0, 0.0], [1.0, -2.0]) == 0.5
    assert length_controlled_win_rate([9.0, 1.0, 0.0], [np.log(3), -np.log(3)]) == pytest.approx(0.5)
    assert length_controlled_win_rate([9.0, 1.0, np.log(3)], [0.0]) == pytest.approx(0.75)


def test_a_fit_finds_the_coefficients_that_made_the_preferences() -> None:
    rng = np.random.default_rng(3)
    length, difficulty = np.tanh(rng.normal(size=805)), rng.normal(size=805)
    truth = [-1.5, 0.8, -0.4]
    logits = truth[0] * length + truth[1] * difficulty + truth[2]
    shares = (1 / (1 + np.exp(-logits))).tolist()
    assert np.allclose(fit_length_controlled(shares, length, difficulty.tolist()), truth, atol=0.01)
    drawn = (rng.random(805) < shares).astype(float).tolist()
    assert np.allclose(fit_length_controlled(drawn, length, difficulty.tolist()), truth, atol=0.35)


def test_a_longer_answer_gains_nothing_once_length_is_controlled() -> None:
    rng = np.random.default_rng(4)
    baseline, own, difficulty = rng.integers(500, 1500, 805), rng.integers(500, 3500, 805), rng.normal(size=805)
    length = length_feature(baseline.tolist(), own.tolist())
    shares = 1 / (1 + np.exp(2 * length))  # the judge goes by length alone
    weights = fit_length_controlled(shares.tolist(), length, difficulty.tolist())
    assert np.mean(shares) > 0.65 and length_controlled_win_rate(weights, difficulty.tolist()) == pytest.approx(0.5, abs=0.01)


def test_published_coefficients_with_a_stand_in_for_the_difficulties(data_dir: Path) -> None:
    """The file of difficulties is not here. Normal ones, as wide as alpaca-7b's published number asks, foresee falcon's as well."""
    folder = data_dir / "alpaca_eval"
    weights = {name: [float(row[column]) for column in COLUMNS] for name, row in table(folder / "lc_glm_weights.csv").items()}
    published = {name: float(row["length_controlled_winrate"]) for name, row in table(folder / "leaderboard_rows.csv").items()}
    normal = stats.norm.ppf((np.arange(805) + 0.5) / 805)

    def miss(width: float) -> float:
        return 100 * length_controlled_win_rate(weights["alpaca-7b"], (width * normal).tolist()) - published["alpaca-7b"]

    difficulty = (optimize.brentq(miss, 0.1, 5) * normal).tolist()
    falcon = 100 * length_controlled_win_rate(weights["falcon-7b-instruct"], difficulty)
    assert falcon == pytest.approx(published["falcon-7b-instruct"], abs=0.15)
    bench, files = recorded("falcon-7b-instruct", data_dir, difficulty="d", coefficients="c", coefficients_of="falcon-7b-instruct")
    files["difficulty"] = [{"": str(place), "instruction_difficulty": str(value)} for place, value in enumerate(difficulty)]
    files["coefficients"] = list(table(folder / "lc_glm_weights.csv").values())
    found = summary_of(bench, drafts_of(bench, files), silent)
    assert figure(found, "length_controlled_win_rate").value == pytest.approx(falcon / 100)
    assert "published coefficients" in found.details["length_controlled"]["how"]


def test_without_published_coefficients_they_are_fitted_with_an_interval() -> None:
    rng = np.random.default_rng(6)
    difficulties = [{"": str(place), "instruction_difficulty": float(rng.normal())} for place in range(40)]
    annotations = [
        {"instruction": row["instruction"], "output_2": "x" * int(rng.integers(1, 30)), "preference": 1 + float(rng.random())}
        for row in BASELINE
    ]
    bench = benchmark(CONFIG.model_copy(update={"difficulty": "d", "annotations": "a"}))
    files = {"baseline": BASELINE, "annotations": annotations, "difficulty": difficulties}
    one = figure(summary_of(bench, drafts_of(bench, files), silent), "length_controlled_win_rate")
    assert one.low is not None and one.value is not None and one.high is not None and 0 < one.low < one.value < one.high < 1
    assert one == figure(summary_of(bench, drafts_of(bench, files), silent), "length_controlled_win_rate")
    files["difficulty"] = difficulties[:39]
    partial = summary_of(bench, drafts_of(bench, files), silent)
    assert figure(partial, "length_controlled_win_rate").value is None
    assert partial.details["length_controlled"]["missing"].endswith("not computed: 1 of 40 scored items have no difficulty")


def test_leaderboard_numbers_by_hand() -> None:
    found = leaderboard_numbers([1.0, 0.0, 0.5, 0.5])
    assert (found["win_rate"], found["discrete_win_rate"], found["n_draws"]) == (50.0, 50.0, 2)
    assert found["standard_error"] == pytest.approx(100 * np.sqrt(0.5 / 3) / 2)
    assert leaderboard_numbers([])["win_rate"] is None


def test_recorded_answers_are_kept() -> None:
    bench = benchmark(CONFIG)
    item, asked = walked(bench, answered(drafts_of(bench, {"baseline": BASELINE})[0], {"alpaca_eval/answer": "own"}), prefers("own"))
    assert [name for name, _ in asked] == ["alpaca_eval/judge"] and score_of(item, "win_rate") == (1.0, "")
