import json
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alignray.errors import RecordError
from alignray.evals.judged import read_label, read_rating
from alignray.evals.mt_bench import MTBenchConfig, benchmark
from alignray.evals.vicuna import read_scores
from tests.unit.evals.judged_runs import answered, drafts_of, figure, rejects_of, rows_of, score_of, silent, summary_of, walked

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write a line.", "Now rhyme it."]},
    {"question_id": 2, "category": "math", "turns": ["2 + 2?", "And twice that?"]},
]
REFERENCES = [{"question_id": 2, "choices": [{"index": 0, "turns": ["FOUR", "EIGHT"]}]}]
BASELINE = [{"question_id": key, "choices": [{"turns": [f"base {key} one", f"base {key} two"]}]} for key in (1, 2)]
FILES = {"questions": QUESTIONS, "references": REFERENCES, "baseline": BASELINE}
SINGLE = MTBenchConfig(questions="q", references="r")
PAIR = MTBenchConfig(questions="q", references="r", mode="pairwise", baseline="b")


def model(verdict: str = "Fine. Rating: [[7]]") -> Any:
    def says(step: str, _draft: Any, _request: Any) -> str:
        return f"own {step[-1]}" if "answer" in step else verdict

    return says


# ---- reading a verdict


@pytest.mark.parametrize(("text", "rating"), [
    ("Rating: [[7]]", 7.0), ("[[8.5]]", 8.5), ("[[ 10 ]] so [[10]]", 10.0), ('{"rating": 3}', 3.0),
    ('```json\n{"rating": 3.5}\n```', 3.5),
    ("[[11]]", None), ("[[0]]", None), ("[7]", None), ("7", None), ("[[5]] no, [[6]]", None), ("", None), ("[[-1]]", None),
    ("[[seven]]", None),
    ('{"rating": true}', None), ('{"rating": "7"}', None), ('{"rating": NaN}', None), ('{"rating": 12}', None), ("$ERROR$", None),
    ("__import__('os')", None), ("[" * 50_000, None),
])
def test_a_rating_is_read_strictly_or_not_at_all(text: str, rating: float | None) -> None:
    assert read_rating(text) == rating


@pytest.mark.parametrize(("text", "label"), [
    ("So [[A]]", "A"), ("[[B]], I say [[B]]", "B"), ("[[A]] or [[B]]", None), ("A", None), ('{"verdict": "C"}', "C"),
    ('{"verdict": "D"}', None),
])
def test_a_label_is_read_strictly_or_not_at_all(text: str, label: str | None) -> None:
    assert read_label(text, ("A", "B", "C")) == label


@settings(max_examples=50)
@given(st.text(alphabet=st.sampled_from('[]{}":0123456789.ABCrating \n\ud800\x00`-e>=')) | st.text())
def test_no_reply_of_a_judge_breaks_a_reader(text: str) -> None:
    for reply in (text, "{" + text, f"[[{text}]]", '{"rating": ' + text + "}"):
        rating = read_rating(reply)
        assert rating is None or 1 <= rating <= 10
        assert read_label(reply, ("A", "B")) in (None, "A", "B")
        assert (scores := read_scores(reply)) is None or all(1 <= score <= 10 for score in scores)


# ---- single


def test_both_turns_are_asked_in_one_chat_and_graded_each() -> None:
    bench = benchmark(SINGLE)
    item, asked = walked(bench, drafts_of(bench, FILES)[0], model())
    assert [name for name, _ in asked] == ["mt_bench/answer_1", "mt_bench/answer_2", "mt_bench/judge_turn_1", "mt_bench/judge_turn_2"]
    assert [message.content for message in asked[1][1].messages] == ["Write a line.", "own 1", "Now rhyme it."]
    assert [request.temperature for _, request in asked] == [0.7, 0.7, 0.0, 0.0]
    first, second = asked[2][1].messages[0].content, asked[3][1].messages[0].content
    assert "own 1" in first and "own 2" not in first and "own 1" in second and "own 2" in second and "[[7]]" in first
    assert [(score.metric, score.value) for score in item.scores] == [
        ("rating", 7.0), ("rating", 7.0), ("turn_1", 7.0), ("turn_2", 7.0), ("judge_failure", 0.0), ("judge_failure", 0.0),
    ]
    assert item.cost_usd == 2.0 and item.prompt_tokens == 28


def test_only_math_coding_and_reasoning_show_the_reference() -> None:
    bench = benchmark(SINGLE)
    writing, math = drafts_of(bench, FILES)
    seen = [
        [request.messages[0].content for name, request in walked(bench, draft, model())[1] if "judge" in name] for draft in (writing, math)
    ]
    assert "eference" not in seen[0][0] and "FOUR" in seen[1][0] and "EIGHT" not in seen[1][0] and "EIGHT" in seen[1][1]
    missing = rejects_of(bench, {"questions": QUESTIONS, "references": [{"question_id": 9, "choices": [{"turns": ["a", "b"]}]}]})
    assert [(found.reason, found.step) for found in missing] == [("no_reference_answer", "mt_bench/read")]


def test_an_unreadable_grade_is_asked_for_twice_more_and_then_counted() -> None:
    bench = benchmark(MTBenchConfig(questions="q", turns="first"))
    item, asked = walked(bench, drafts_of(bench, FILES)[0], model("I like it: 7/10"))
    assert [name for name, _ in asked][1:] == ["mt_bench/judge_turn_1", "mt_bench/judge_turn_1_again_1", "mt_bench/judge_turn_1_again_2"]
    again = asked[2][1]
    assert again.messages[1].role == "assistant" and again.messages[1].content == "I like it: 7/10" and "[[7]]" in again.messages[2].content
    assert asked[1][1].json_schema is None and json.loads(again.json_schema or "")["required"] == ["rating"]
    assert score_of(item, "rating") == (0.0, "unreadable") and score_of(item, "judge_failure") == (1.0, "")
    found = bench.summarize([item])
    assert figure(found, "rating").value is None and figure(found, "rating").num_unscored == 1
    assert found.details["judge"] == {"verdicts": 1, "unreadable": 1, "asked_again": 2}
    assert any("no references" in note for note in found.details["notes"])


def test_a_second_try_that_can_be_read_ends_the_asking() -> None:
    bench = benchmark(MTBenchConfig(questions="q", turns="first"))
    tries = iter(["", '{"rating": 4}'])
    item, asked = walked(bench, drafts_of(bench, FILES)[0], lambda step, *_: "own" if "answer" in step else next(tries))
    assert len(asked) == 3 and score_of(item, "rating") == (4.0, "")
    assert len(asked[2][1].messages) == 1  # an empty reply is not shown as a turn


# ---- pairwise


def test_pairs_are_judged_in_both_orders_and_tie_when_they_differ() -> None:
    bench = benchmark(PAIR)
    draft = drafts_of(bench, FILES)[1]
    always_a, asked = walked(bench, draft, model("[[A]]"))
    assert [name for name, _ in asked][2:] == [f"mt_bench/judge_turn_{turn}_{order}" for turn in (1, 2) for order in ("ab", "ba")]
    ab, ba = (asked[place][1].messages[0].content for place in (2, 3))
    assert ab.index("own 1") < ab.index("base 2 one") and ba.index("own 1") > ba.index("base 2 one") and "FOUR" in ab
    assert score_of(always_a, "win_rate") == (0.5, "") and score_of(always_a, "tie") == (1.0, "")
    assert score_of(always_a, "position_consistency") == (0.0, "")

    def prefers_own(step: str, _draft: Any, request: Any) -> str:
        if "answer" in step:
            return "own"
        return "[[A]]" if step.removesuffix("_again_1").endswith("ab") else "[[B]]"

    won, _ = walked(bench, draft, prefers_own)
    assert score_of(won, "win_rate") == (1.0, "") and score_of(won, "position_consistency") == (1.0, "")
    assert figure(bench.summarize([won, always_a]), "win_rate").value == 0.75


def test_one_unreadable_order_leaves_the_pair_unscored() -> None:
    bench = benchmark(PAIR.model_copy(update={"turns": "first"}))
    item, _ = walked(bench, drafts_of(bench, FILES)[0], lambda step, *_: "own" if "answer" in step else "[[A]]" if "_ab" in step else "?")
    assert score_of(item, "win_rate") == (0.0, "unreadable") and score_of(item, "position_consistency") == (0.0, "unreadable")
    assert [score.value for score in item.scores if score.metric == "judge_failure"] == [0.0, 1.0]


def test_labels_give_a_kappa() -> None:
    labels = [{"question_id": 1, "turn": 1, "label": "tie"}, {"question_id": 2, "turn": 1, "label": "win"}]
    bench = benchmark(PAIR.model_copy(update={"turns": "first", "labels": "l"}))
    drafts = drafts_of(bench, {**FILES, "labels": labels})

    def says(step: str, draft: Any, _request: Any) -> str:
        return "own" if "answer" in step else "[[C]]" if draft.key == "1" else "[[A]]" if step.endswith("ab") else "[[B]]"

    assert figure(bench.summarize([walked(bench, draft, says)[0] for draft in drafts]), "kappa").value == 1.0
    with pytest.raises(RecordError, match=r"mt_bench\.labels: row 0"):
        drafts_of(bench, {**FILES, "labels": [{"question_id": 1, "label": "better"}]})


# ---- reading files


def test_malformed_and_repeated_questions_are_set_aside() -> None:
    bench = benchmark(SINGLE)
    rows = [QUESTIONS[0], QUESTIONS[0], {"question_id": 3, "category": "math", "turns": ["one"]}, {"category": "x"}]
    assert [found.reason for found in rejects_of(bench, {"questions": rows})] == ["duplicate_key", "malformed", "no_key"]
    with pytest.raises(RecordError, match=r"mt_bench\.questions: no row is an item"):
        drafts_of(bench, {"questions": [{"text": "hello"}]})


def test_a_mode_has_what_it_needs_and_everything_travels() -> None:
    with pytest.raises(ValidationError, match="pairwise needs a baseline"):
        MTBenchConfig(questions="q", mode="pairwise")
    assert PAIR.files() == {"questions": "q", "references": "r", "baseline": "b"}
    for config in (SINGLE, PAIR):
        bench = cloudpickle.loads(cloudpickle.dumps(benchmark(config)))
        assert len(drafts_of(bench, FILES)) == 2


# ---- the recorded runs


@pytest.mark.parametrize("name", ["mistral-orpo-capybara", "mistral-orpo-mix"])
def test_recorded_gpt4_grades_come_to_the_recorded_means(name: str, data_dir: Path) -> None:
    folder = data_dir / "mt_bench"
    files = {
        "questions": rows_of(folder / "question.jsonl"), "references": rows_of(folder / "reference_answer_gpt-4.jsonl"),
        "judgments": rows_of(folder / f"{name}.gpt-4_single.jsonl.gz"),
    }
    answers = {row["question_id"]: row["choices"][0]["turns"] for row in rows_of(folder / f"{name}.answers.jsonl.gz")}
    bench = benchmark(SINGLE.model_copy(update={"judgments": "j", "judged_model": name}))
    drafts = [
        answered(draft, {f"mt_bench/answer_{turn}": answers[int(draft.key)][turn - 1] for turn in (1, 2)})
        for draft in drafts_of(bench, files)
    ]
    recorded = {(row["question_id"], row["turn"]): row["score"] for row in files["judgments"]}
    items = [walked(bench, draft, silent)[0] for draft in drafts]
    num_equal = sum(score_of(item, f"turn_{turn}") == (recorded[int(item.key), turn], "") for item in items for turn in (1, 2))
    assert num_equal == 160
    found = bench.summarize(items)
    expected = json.loads((folder / f"{name}.reference_numbers.json").read_text())
    for metric, column in (("turn_1", "mean_turn1"), ("turn_2", "mean_turn2"), ("rating", "mean_all")):
        assert figure(found, metric).value == pytest.approx(expected[column], abs=1e-12)
    assert figure(found, "judge_failure").value == expected["n_unparsed"] == 0
    low, high = figure(found, "rating").low, figure(found, "rating").high
    assert low is not None and high is not None and low < expected["mean_all"] < high and figure(found, "rating").num == 80


def test_recorded_gpt4_pairs_come_to_the_recorded_winners(data_dir: Path) -> None:
    folder = data_dir / "mt_bench"
    rows = rows_of(folder / "phi-3_pair.gpt-4_pair.jsonl.gz")
    judged = {row["question_id"] for row in rows}
    files = {
        "questions": [row for row in rows_of(folder / "question.jsonl") if row["question_id"] in judged], "judgments": rows,
        "references": rows_of(folder / "reference_answer_gpt-4.jsonl"),
        "baseline": [{"question_id": key, "choices": [{"turns": ["not shown", "again"]}]} for key in judged],
    }
    found = {}
    for name in ("phi-3", "phi-3-dpo"):
        bench = benchmark(PAIR.model_copy(update={"judgments": "j", "judged_model": name, "turns": "first"}))
        found[name] = summary_of(bench, [answered(draft, {"mt_bench/answer_1": "recorded"}) for draft in drafts_of(bench, files)])
    # counted from the recorded columns: 18 and 20 with both orders for one, 2 with an error, the other 35 tie
    counts = {
        name: {metric: round((figure(one, metric).value or 0) * 73) for metric in ("win", "tie", "loss")} for name, one in found.items()
    }
    assert counts == {"phi-3": {"win": 18, "tie": 35, "loss": 20}, "phi-3-dpo": {"win": 20, "tie": 35, "loss": 18}}
    assert figure(found["phi-3"], "win_rate").num == 73 and figure(found["phi-3"], "win_rate").num_unscored == 2
    assert figure(found["phi-3"], "position_consistency").value == pytest.approx((20 + 18 + 8) / 73)
    assert found["phi-3"].details["judge"] == {"verdicts": 150, "unreadable": 3, "asked_again": 0}
    assert figure(found["phi-3"], "win_rate").value == pytest.approx(1 - (figure(found["phi-3-dpo"], "win_rate").value or 0))


def test_recorded_pairs_need_to_know_who_the_candidate_is(data_dir: Path) -> None:
    rows = rows_of(data_dir / "mt_bench" / "phi-3_pair.gpt-4_pair.jsonl.gz")
    bench = benchmark(PAIR.model_copy(update={"judgments": "j"}))
    with pytest.raises(RecordError, match="phi-3, phi-3-dpo"):
        drafts_of(bench, {**FILES, "judgments": rows})
