"""Edited models under test: what is in the memory when, what a query finds, scores with a fake model, figures worked by hand."""

import dataclasses
import math

import numpy as np
import pytest

from alignray.methods.lte.config import EvaluationConfig
from alignray.methods.lte.evaluation import (
    Before,
    Entries,
    Setting,
    Step,
    Tally,
    Unit,
    answered,
    grouped,
    mean_of,
    moments,
    questions_of,
    shown,
    unedited,
)
from alignray.methods.lte.sentiment import as_edit, sentiment_success
from alignray.schema import Answer, Edit, EditScore, Opinion, Probe, Rewrite, SentimentEdit


def edit(number: int, *, subject: str = "", target: str = "new", further: tuple[Rewrite, ...] = ()) -> Edit:
    subject = subject or f"s{number}"
    return Edit(
        row_id=f"e{number}", source="zsre", subject=subject, relation="r", prompt=f"{subject} is", target=target,
        facts=(f"{subject} is {target}", *(rewrite.fact for rewrite in further)), rephrases=(f"what is {subject}",), further=further,
        portability=(Probe("Reasoning", f"after {subject}", (Answer("far", ("afar",)), Answer("away"))),),
        locality=(Probe("Forgetfulness", f"not {subject}", (Answer("old"),)),),
    )


class Parrot:
    """Token ids are the words' lengths. It says what stands last in the prompt, whatever the target."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.seeds: list[int] = []

    def argmax(self, prompts, targets):
        self.asked += zip(prompts, targets, strict=True)
        last = [len(prompt.split()[-1]) for prompt in prompts]
        return [
            (tuple(len(word) for word in target.split()), (size,) * len(target.split()))
            for size, target in zip(last, targets, strict=True)
        ]

    def logprobs(self, prompts, targets):
        """Words that stand in the prompt are likely."""
        self.asked += zip(prompts, targets, strict=True)
        return [
            [math.log(0.5 if word in prompt.split() else 0.1) for word in target.split()]
            for prompt, target in zip(prompts, targets, strict=True)
        ]

    def write(self, prompts, *, max_new_tokens, top_k=1, seeds=None, max_length=None):
        self.seeds += seeds or []
        return [" ".join(prompt.split()[-max_new_tokens:]) if top_k == 1 else "drawn words here" for prompt in prompts]


def test_the_memory_of_every_moment():
    found = moments(5, single=True, batch=(2, 100), stream=(3, 50), when=EvaluationConfig())
    single = [moment for moment in found if moment.setting == Setting("single", 1)]
    assert [(moment.memory, moment.scored) for moment in single] == [(range(n, n + 1), range(n, n + 1)) for n in range(5)]
    assert [moment.memory for moment in found if moment.setting == Setting("batch", 2)] == [range(0, 2), range(2, 4), range(4, 5)]
    assert [moment.memory for moment in found if moment.setting == Setting("batch", 5)] == [range(0, 5)]  # 100 is all of them
    inserted = [moment for moment in found if moment.setting == Setting("sequential", 3, "at_insertion")]
    assert [(moment.memory, moment.scored) for moment in inserted] == [(range(n + 1), range(n, n + 1)) for n in range(3)]
    last = [moment for moment in found if moment.setting == Setting("sequential", 5, "final")]
    assert [(moment.memory, moment.scored) for moment in last] == [(range(5), range(5))]


@pytest.mark.parametrize("when", ["final", "at_insertion"])
def test_a_stream_is_scored_as_the_protocol_says(when):
    found = moments(4, single=False, batch=(), stream=(4,), when=EvaluationConfig(sequential=when))
    assert {moment.setting.when for moment in found} == {when}


def test_sizes_that_come_to_the_same_are_done_once():
    found = moments(3, single=False, batch=(3, 10, 1000), stream=(), when=EvaluationConfig())
    assert [moment.setting for moment in found] == [Setting("batch", 3)]


def test_a_query_finds_what_is_in_the_memory_then():
    entries = Entries([edit(0), edit(1), edit(2), edit(3)], key="descriptor")
    cosines = np.array([0.9, 0.1, 0.5, 0.7], np.float32)
    assert entries.find(cosines, range(0, 4), top_k=3, floor=None) == [0, 3, 2]
    assert entries.find(cosines, range(1, 3), top_k=3, floor=None) == [2, 1]
    assert entries.find(cosines, range(0, 4), top_k=3, floor=0.6) == [0, 3]
    assert entries.find(np.full(4, 0.5, np.float32), range(0, 4), top_k=2, floor=None) == [0, 1]  # equals: the earlier one


def test_the_latest_fact_stands_for_all_of_its_subject_and_relation():
    entries = Entries([edit(0, subject="Ada"), edit(1), edit(2, subject="ADA", target="newer")], key="prompt")
    cosines = np.array([0.9, 0.2, 0.8], np.float32)
    assert entries.num_superseded == 1
    assert entries.find(cosines, range(0, 3), top_k=3, floor=None) == [2, 1]
    assert entries.find(cosines, range(0, 2), top_k=3, floor=None) == [0, 1], "the later one is not in this memory"
    assert entries.keys == ["Ada is", "s1 is", "ADA is"]


def test_a_record_with_several_rewrites_brings_them_all():
    entries = Entries([edit(0, further=(Rewrite("t", "r2", "t is", "x"), Rewrite("u", "r2", "u is", "y"))), edit(1)], key="descriptor")
    assert (entries.of(0), entries.of(1)) == (range(0, 3), range(3, 4))
    assert entries.facts == ["s0 is new", "t is x", "u is y", "s1 is new"]
    assert entries.owners == ["e0", "e0", "e0", "e1"]


def test_questions_of_a_record():
    found = questions_of(edit(7), Setting("single", 1), "lte", EvaluationConfig(), writes="edits")
    assert [(one.row.aspect, one.row.query, one.row.target, one.writes) for one in found] == [
        ("edit", "s7 is", "new", True), ("rephrase", "what is s7", "new", False), ("portability", "after s7", "far", False),
        ("locality", "not s7", "old", False),
    ]
    again = questions_of(edit(7), Setting("batch", 10), "lte", EvaluationConfig(), writes="none")
    assert len({one.row.row_id for one in [*found, *again]}) == 8


def test_questions_that_are_the_same_are_asked_once():
    config = EvaluationConfig()
    settings = [Setting("single", 1), Setting("batch", 1), Setting("sequential", 1, "final")]
    questions = [one for setting in settings for one in questions_of(edit(0), setting, "lte", config, writes="none")]
    bags = list(grouped(questions, 3))
    assert [len(bag) for bag in bags] == [9, 3]
    model = Parrot()
    rows = [row for bag in bags for row in answered(
        model, bag, Before({("not s0", "old"): (2,)}, {}), max_new_tokens=4, is_original=False, seed=0)]
    assert len(rows) == 12
    assert len(model.asked) == len(set(model.asked)) == 4


def test_scores_worked_by_hand():
    questions = questions_of(edit(0, target="tokyo bay x"), Setting("single", 1), "lte", EvaluationConfig(), writes="all")
    put = [shown(one, {one.row.query: f"s0 is tokyo bay x. {one.row.query} bay"}, ["e0", "e0"], 0.25) for one in questions]
    model = Parrot()
    unit = Unit("u", "lte", (Step((), tuple(put)),), True)
    before = unedited(model, unit)
    assert before == Before({("not s0", "old"): (2,)}, {})  # "not s0" ends in a word of two letters
    rows = {row.aspect: row for row in answered(model, put, before, max_new_tokens=3, is_original=True, seed=0)}
    assert (rows["edit"].token_score, rows["edit"].exact_score) == (pytest.approx(1 / 3), 0.0)  # 3 against 5, 3, 1
    assert (rows["portability"].token_score, rows["portability"].exact_score) == (1.0, 1.0)  # "far" has 3 letters
    assert (rows["locality"].token_score, rows["locality"].exact_score) == (0.0, 0.0)  # it said 2, and says 3 now
    assert rows["edit"].retrieved == ("e0",)
    assert rows["edit"].said == "s0 is bay"
    assert (rows["edit"].said_score, rows["locality"].said_score) == (0.0, None)
    assert rows["edit"].fluency == pytest.approx((2 / 3 * 1 + 4 / 3 * 0) / 2)  # two bigrams, one trigram
    text = "s0 is drawn words here"  # 4 bigrams, 3 trigrams
    assert rows["edit"].fluency_original == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2), text
    assert len(set(model.seeds)) == 4
    assert {row.edit_seconds for row in rows.values()} == {0.25}


def test_an_alias_is_an_answer():
    question = questions_of(edit(0), Setting("single", 1), "m", EvaluationConfig(), writes="all")[2]
    put = [shown(question, {question.row.query: "x afar away"}, [])]
    row = next(answered(Parrot(), put, Before({}, {}), max_new_tokens=2, is_original=False, seed=0))
    assert (row.said, row.said_score) == ("afar away", 1.0)


def opinion(number: int = 0, topic: str = "soup") -> SentimentEdit:
    return SentimentEdit(
        f"o{number}", topic, "positive", f"say good of {topic}", f"And {topic} ?",
        (Opinion(f"Is {topic} nice ?", "good fun", "positive"), Opinion(f"Is {topic} nice ?", "not nice", "negative"),
         Opinion(f"And {topic} ?", "good", "positive")),
        "tea", (Opinion("Is tea nice ?", "dull", "negative"),),
    )


def test_a_sentiment_edit_is_an_edit_whose_fact_holds_no_reply():
    edits = [as_edit(opinion(0)), edit(1), as_edit(opinion(2))]
    entries = Entries(edits, key="descriptor")
    assert entries.facts == entries.keys == ["say good of soup", "s1 is new", "say good of soup"]
    assert Entries(edits, key="prompt").keys[0] == "And soup ?"
    assert entries.find(np.array([0.9, 0.1, 0.8], np.float32), range(0, 3), top_k=3, floor=None) == [2, 1], "the latest opinion of soup"
    assert [(one.prompt, one.target) for one in edits[0].rewrites] == [("And soup ?", "good fun")]


def test_sentiment_worked_by_hand():
    """Bare, words of the question are likely (0.5) and others are not (0.1); the edit makes "good" likely."""
    record = as_edit(opinion())
    questions = questions_of(record, Setting("single", 1), "lte", EvaluationConfig(), writes="all")
    assert [(one.row.aspect, one.row.kind, one.row.query, one.row.target) for one in questions] == [
        ("edit", "edit", "And soup ?", "good fun"), ("locality", "Other_Topic", "Is tea nice ?", "dull"),
    ]
    assert questions[0].queries == ["And soup ?", "Is soup nice ?"]
    put = [shown(one, {query: f"say good of soup . {query}" for query in one.queries}, ["o0"]) for one in questions]
    model = Parrot()
    before = unedited(model, Unit("u", "lte", (Step((), tuple(put)),)))
    assert set(before.logprobs) == {("Is soup nice ?", "good fun"), ("And soup ?", "good")}
    edited, other = answered(model, put, before, max_new_tokens=3, is_original=False, seed=0)
    low, high = math.log(0.1), math.log(0.5)
    wanted, unwanted = (2 * high + low) / 3, (low + high) / 2  # "good" "fun" "good" against "not" "nice"
    assert edited.token_score == pytest.approx(1 / (1 + math.exp(unwanted - wanted)))
    assert (edited.exact_score, edited.retrieved, edited.said, edited.said_score) == (1.0, ("o0",), "And soup ?", None)
    assert edited.fluency is not None
    assert (other.token_score, other.said_score) == (1.0, None), "the last word of the question is as before"
    bare = next(answered(model, questions, before, max_new_tokens=3, is_original=False, seed=0))
    assert bare.token_score == pytest.approx(1 / (1 + math.exp(unwanted - low)))
    assert bare.exact_score == 0.0


def test_replies_that_became_less_likely_cost():
    """The wanted reply stands in the bare question and not in the prompt with the edit."""
    replies = (Opinion("nice ?", "nice", "negative"), Opinion("nice ?", "x", "positive"))
    record = SentimentEdit("o", "soup", "negative", "d", "nice ?", replies)
    question = questions_of(as_edit(record), Setting("single", 1), "lte", EvaluationConfig(), writes="none")[0]
    model = Parrot()
    before = unedited(model, Unit("u", "lte", (Step((), (question,)),)))
    row = next(answered(model, [shown(question, {"nice ?": "other"}, [])], before, max_new_tokens=3, is_original=False, seed=0))
    assert row.token_score == pytest.approx(0.5 * 0.2) == sentiment_success([[math.log(0.5)]], [[math.log(0.1)]], [[math.log(0.1)]]).value
    assert row.exact_score == 0.0, "equally likely is not likelier"


def test_sentiment_is_asked_once_for_all_settings():
    record = as_edit(opinion())
    settings = [Setting("single", 1), Setting("batch", 1)]
    questions = [one for setting in settings for one in questions_of(record, setting, "lte", EvaluationConfig(), writes="none")]
    (bag,) = grouped(questions, 9)
    model = Parrot()
    before = unedited(model, Unit("u", "lte", (Step((), bag),)))
    model.asked.clear()
    assert len(list(answered(model, bag, before, max_new_tokens=3, is_original=False, seed=0))) == 4
    assert len(model.asked) == len(set(model.asked)) == 4  # three replies, one question of locality


def test_all_data_sets_are_those_of_facts():
    row = EditScore("1", "lte", "convsent", "batch", 2, "", "o0", "edit", "edit", "q", "t", "p", ("o0",), 0.5, 1.0)
    tally = Tally()
    tally.add(row, top_k=1)
    assert {one["source"] for one in [*tally.figures(), *tally.retrieval()]} == {"convsent"}
    tally.add(dataclasses.replace(row, source="zsre", token_score=0.0), top_k=1)
    means = {one["source"]: one["mean"] for one in tally.figures() if one["measure"] == "token"}
    assert means == {"all": 0.0, "convsent": 0.5, "zsre": 0.0}


def test_means_are_over_records():
    found = mean_of({"a": [1.0, 0.0], "b": [1.0], "c": [0.0, 0.0, 0.0]})  # 0.5, 1, 0
    assert (found.mean, found.se, found.records) == (0.5, pytest.approx(0.5 / math.sqrt(3)), 3)
    assert mean_of({"a": [0.25]}).se == 0.0
    with pytest.raises(ValueError, match="no record"):
        mean_of({})


def test_figures_of_rows():
    row = EditScore("1", "lte", "zsre", "batch", 10, "", "e0", "edit", "edit", "q", "t", "p", ("e0", "e1"), 0.5, 0.0, fluency=6.5,
                    edit_seconds=2.0, answer_seconds=0.5)
    rows = [
        row, dataclasses.replace(row, row_id="2", aspect="rephrase", kind="rephrase", token_score=1.0, exact_score=1.0, fluency=None,
                                 retrieved=("e1", "e0")),
        dataclasses.replace(row, row_id="3", source="wikibio", edit_id="e9", aspect="locality", kind="x", token_score=0.25, fluency=None,
                            retrieved=("e1",)),
    ]
    tally = Tally()
    for one in rows:
        tally.add(one, top_k=2)
    figures = {(one["source"], one["metric"], one["measure"]): one for one in tally.figures()}
    assert figures["zsre", "edit_success", "token"] == {
        "method": "lte", "source": "zsre", "mode": "batch", "size": 10, "when": "", "metric": "edit_success", "measure": "token",
        "mean": 0.75, "se": 0.0, "records": 1,
    }
    assert figures["all", "edit_success", "exact"]["mean"] == 0.5
    assert figures["all", "fluency", "thesis"]["mean"] == 650.0
    assert figures["wikibio", "locality", "token"]["mean"] == 0.25
    assert ("zsre", "portability", "token") not in figures
    assert ("zsre", "edit_success", "said") not in figures
    found = {(one["source"], one["aspect"], one["k"]): (one["precision"], one["hit"]) for one in tally.retrieval()}
    assert found["zsre", "edit", 1] == (1.0, 1.0)
    assert found["zsre", "rephrase", 1] == (0.0, 0.0)
    assert found["zsre", "rephrase", 2] == (0.5, 1.0)
    assert found["all", "locality", 2] == (0.0, 0.0)
    assert tally.times() == [
        {"method": "lte", "mode": "batch", "size": 10, "edit_seconds": 2.0, "answer_seconds": 0.5, "edits": 2, "queries": 3}
    ]
