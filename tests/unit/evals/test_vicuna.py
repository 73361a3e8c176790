import math
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from pydantic import ValidationError

from alignray.evals.vicuna import VicunaConfig, benchmark, read_scores
from tests.unit.evals.judged_runs import drafts_of, figure, rejects_of, rows_of, score_of, summary_of, walked

QUESTIONS = [{"question_id": place, "category": "generic" if place < 3 else "math", "turns": [f"Ask {place}"]} for place in range(1, 5)]
REFERENCE = [{"question_id": place, "choices": [{"turns": [f"theirs {place}"]}]} for place in range(1, 5)]
FILES = {"questions": QUESTIONS, "reference": REFERENCE}
ONE, TWO = VicunaConfig(questions="q", reference="r", setting=1), VicunaConfig(questions="q", reference="r", num_evidence=2)


def judge(own: float, theirs: float, *, bonus_first: float = 0.0) -> Any:
    """A judge with a score for each, and a bonus for whoever stands first."""

    def says(step: str, _draft: Any, request: Any) -> str:
        if "answer" in step:
            return "own"
        text = request.messages[0].content
        own_first = text.index("\nown\n") < text.index("\ntheirs ")
        first, second = (own + bonus_first, theirs) if own_first else (theirs + bonus_first, own)
        if "Your first line" in text:
            return f"{first} {second}\nreasons"
        return f"reasons\nScore of Assistant 1: {first}\nScore of Assistant 2: {second}"

    return says


# ---- reading


@pytest.mark.parametrize(("text", "scores"), [
    ("8 9\nBecause", (8.0, 9.0)), ("7.5, 6", (7.5, 6.0)), ("8,9", (8.0, 9.0)),
    ("Reasons.\nScore of Assistant 1: 8\nScore of Assistant 2: 9.5", (8.0, 9.5)),
    ("Score of the Assistant 1: 8/10\n**Score of the Assistant 2: 3**", (8.0, 3.0)),
    ('{"assistant_1": 3, "assistant_2": 10}', (3.0, 10.0)),
    ("8", None), ("8 9 7", None), ("11 5", None), ("0 5", None), ("", None), ("Assistant 1 gets 8, assistant 2 gets 9", None),
    ("Score of Assistant 1: 8", None), ("Score of Assistant 1: 8\nScore of Assistant 1: 7\nScore of Assistant 2: 9", None),
    ('{"assistant_1": true, "assistant_2": 10}', None), ('{"assistant_1": 5}', None), ("reasons\n8 9", None), (" " * 90_000 + "x", None),
])
def test_scores_are_read_strictly_or_not_at_all(text: str, scores: tuple[float, float] | None) -> None:
    assert read_scores(text) == scores


# ---- setting 1


def test_setting_1_asks_once_with_the_reference_model_first() -> None:
    bench = benchmark(ONE)
    item, asked = walked(bench, drafts_of(bench, FILES)[0], judge(8, 5))
    assert [name for name, _ in asked] == ["vicuna/answer", "vicuna/judge"] and asked[1][1].temperature == 0.0
    text = asked[1][1].messages[0].content
    assert text.index("theirs 1") < text.index("\nown\n")
    assert (score_of(item, "candidate_score"), score_of(item, "reference_score")) == ((8.0, ""), (5.0, ""))
    assert score_of(item, "relative_score")[0] == pytest.approx(1.6)


def test_the_relative_score_is_the_ratio_of_the_sums_with_its_interval() -> None:
    bench = benchmark(ONE)
    own, theirs = [9, 3, 8, 6], [4, 6, 8, 7]
    items = [
        walked(bench, draft, judge(own[place], theirs[place]))[0] for place, draft in enumerate(drafts_of(bench, FILES))
    ]
    found = bench.summarize(items)
    ratio = figure(found, "relative_score")
    assert ratio.value == pytest.approx(26 / 25) and figure(found, "relative_score", "math").value == pytest.approx(14 / 15)
    # the textbook variance of a ratio estimator, t of 3 degrees of freedom
    residuals = np.array(own) - 26 / 25 * np.array(theirs)
    half = 3.18245 * math.sqrt(4 / 3 * float(residuals @ residuals)) / 25
    assert ratio.high == pytest.approx(26 / 25 + half, abs=1e-4) and ratio.low == pytest.approx(26 / 25 - half, abs=1e-4)
    assert any("not measured" in note for note in found.details["notes"])


# ---- setting 2


def test_setting_2_samples_each_order_and_averages() -> None:
    bench = benchmark(TWO)
    item, asked = walked(bench, drafts_of(bench, FILES)[0], judge(6, 6, bonus_first=2))
    names = ["vicuna/judge_first_1", "vicuna/judge_first_2", "vicuna/judge_second_1", "vicuna/judge_second_2"]
    assert [name for name, _ in asked][1:] == names
    assert len({name for name, _ in asked[1:]}) == 4 and asked[1][1].temperature == 1.0
    assert score_of(item, "candidate_score") == score_of(item, "reference_score") == (7.0, "")
    assert score_of(item, "relative_score")[0] == 1.0
    assert score_of(item, "position_consistency") == (0.0, "")  # the place decided
    fair, _ = walked(bench, drafts_of(bench, FILES)[0], judge(8, 5, bonus_first=1))
    assert score_of(fair, "position_consistency") == (1.0, "") and score_of(fair, "relative_score")[0] == pytest.approx(8.5 / 5.5)


def test_samples_that_cannot_be_read_are_counted_and_an_order_without_any_leaves_no_score() -> None:
    bench = benchmark(TWO)

    def says(bad: str) -> Any:
        return lambda step, draft, request: "no idea" if step.startswith(bad) else judge(8, 4)(step, draft, request)

    one_bad, asked = walked(bench, drafts_of(bench, FILES)[0], says("vicuna/judge_first_1"))
    assert len(asked) == 1 + 3 + 3 and score_of(one_bad, "relative_score")[0] == 2.0
    assert sum(score.value for score in one_bad.scores if score.metric == "judge_failure") == 1
    half_bad, _ = walked(bench, drafts_of(bench, FILES)[0], says("vicuna/judge_first"))
    assert score_of(half_bad, "relative_score") == (0.0, "unreadable")
    found = bench.summarize([one_bad, half_bad])
    assert figure(found, "judge_failure").value == pytest.approx(3 / 8) and figure(found, "relative_score").num_unscored == 1


def test_labels_give_a_kappa() -> None:
    labels = [{"question_id": place, "label": "win" if place > 2 else "loss"} for place in range(1, 5)]
    bench = benchmark(TWO)
    drafts = drafts_of(bench, {**FILES, "labels": labels})
    found = summary_of(bench, drafts, lambda step, draft, request: judge(*((8, 4) if int(draft.key) > 1 else (4, 8)))(step, draft, request))
    # judge: loss win win win; humans: loss loss win win; observed 3/4, by chance (2 + 6) / 16
    assert figure(found, "kappa").value == pytest.approx(0.5)


def test_setting_2_asks_at_least_once() -> None:
    with pytest.raises(ValidationError, match="num_evidence"):
        VicunaConfig(questions="q", reference="r", num_evidence=0)


def test_everything_travels() -> None:
    for config in (ONE, TWO):
        assert len(drafts_of(cloudpickle.loads(cloudpickle.dumps(benchmark(config))), FILES)) == 4


# ---- official files


def test_the_official_files_are_read(data_dir: Path) -> None:
    folder = data_dir / "instructions"
    files = {"questions": rows_of(folder / "vicuna_80.jsonl"), "reference": rows_of(folder / "vicuna_80_reference_gpt4.jsonl")}
    bench = benchmark(TWO)
    drafts, rejects = drafts_of(bench, files), rejects_of(bench, files)
    assert [draft.key for draft in drafts] == [str(key) for key in range(61, 71)]  # coding and math are all that is answered there
    assert len(rejects) == 70 and {found.reason for found in rejects} == {"no_reference_answer"}
    own = {"questions": files["questions"], "reference": [{"question_id": key, "choices": [{"turns": ["x"]}]} for key in range(1, 81)]}
    assert len(drafts_of(bench, own)) == 80
