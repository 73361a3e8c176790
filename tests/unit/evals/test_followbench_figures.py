"""From answers and verdicts to figures: the recorded tables of a real model to the digit, and small benchmarks worked by hand."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from alignray.evals.followbench import FollowBenchConfig, benchmark
from alignray.evals.followbench.figures import rule_verdict
from alignray.evals.followbench.items import Facts
from alignray.evals.followbench.judge import ANSWER, ASK, verdict_of
from alignray.evals.followbench.metrics import Verdict, original_scores
from alignray.evals.recorded import RecordedAnswers
from alignray.schema import EvalDraft, Figure, Rejected, Reply, ScoredItem

RECORDED = "recorded_Meta-Llama-3-8B-Instruct"


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file) if path.name.endswith(".json.gz") else [json.loads(line) for line in file]


def scored(bench: Any, drafts: Iterable[EvalDraft]) -> list[ScoredItem]:
    return [ScoredItem(
        row_id=draft.row_id, candidate="c", benchmark=draft.benchmark, key=draft.key, group=draft.group, category=draft.category,
        prompt=draft.prompt, facts=draft.facts, replies=draft.replies, scores=bench.score(draft),
    ) for draft in drafts]


def figure(figures: Iterable[Figure], metric: str, category: str = "") -> Figure:
    (found,) = (figure for figure in figures if (figure.metric, figure.category) == (metric, category))
    return found


# ---- the recorded model


@pytest.fixture(scope="module")
def recorded(data_dir: Path) -> Callable[[str], list[EvalDraft]]:
    """Drafts of a category with the recorded answers and the verdicts on them."""
    folder = data_dir / "followbench"

    def drafts_of(category: str) -> list[EvalDraft]:
        bench = benchmark(FollowBenchConfig.model_validate({"kind": "followbench", category: "f"}))
        answers = RecordedAnswers(rows_of(folder / RECORDED / f"{category}_output.jsonl.gz"), "answers")
        rows = rows_of(folder / RECORDED / f"{category}_judged.jsonl.gz")
        judged = {(row["example_id"], row["level"]): row["judge_output"] for row in rows}
        drafts = []
        for item in bench.read({category: rows_of(folder / f"en_{category}_constraints.json.gz")}):
            assert isinstance(item, EvalDraft)
            draft = answers.fill(item, bench)
            assert not isinstance(draft, Rejected)
            facts = Facts.from_json(draft.facts)
            replies = () if facts.rule else (Reply(ASK, judged.pop((facts.example_id, facts.level))),)
            drafts.append(dataclasses.replace(draft, replies=(*draft.replies, *replies)))
        assert not judged
        return drafts

    return drafts_of


@pytest.mark.parametrize("category", ["content", "format", "situation"])
def test_recorded_answers_and_verdicts_give_the_recorded_tables(
    data_dir: Path, recorded: Callable[[str], list[EvalDraft]], category: str,
) -> None:
    judged: dict[str, list[Verdict]] = {}
    ruled: dict[str, list[bool]] = {}
    for draft in recorded(category):
        facts = Facts.from_json(draft.facts)
        if facts.rule:
            ruled.setdefault(draft.group, []).append(rule_verdict(facts, draft.replies[0].text, "original").hard)
        else:
            judged.setdefault(draft.group, []).append(verdict_of(draft.replies, facts, "original"))
    scores = original_scores(list(judged.values()), list(ruled.values()))
    folder = data_dir / "followbench" / RECORDED
    for measure, percents in (("hsr", scores.hsr_percent), ("ssr", scores.ssr_percent)):
        printed = (folder / f"{category}_{measure}.csv").read_text().splitlines()[1].split(",")[1:]
        assert [f"{percent:.2f}%" for percent in percents] == printed
    assert f"{scores.csl}" == (folder / f"{category}_csl.csv").read_text().splitlines()[1].split(",")[1]
    rules = json.loads((folder / f"{category}_rule_counts.json").read_text())
    assert [sum(group[level] for group in ruled.values()) for level in range(5)] == rules["rule_satisfied_per_level"]
    assert len(ruled) == rules["rule_groups"]
    assert sum(verdict is None for group in judged.values() for verdict in group) == rules["unparsed"]


def test_recorded_figures_count_unreadable_verdicts_apart(recorded: Callable[[str], list[EvalDraft]]) -> None:
    """The published HSR of format level 4 holds three times -1 in 30 groups: 46.67 is 56.67 without them."""
    drafts = recorded("format")
    strict = benchmark(FollowBenchConfig(kind="followbench", format="f"))
    summary = strict.summarize(scored(strict, drafts))
    level_4 = figure(summary.figures, "hsr", "level_4")
    assert (level_4.num, level_4.num_unscored) == (27, 3) and level_4.value == pytest.approx(17 / 27)
    assert level_4.low is not None and level_4.high is not None and level_4.low < 17 / 27 < level_4.high
    assert summary.details["judge"]["num_unreadable"] == 3 and figure(summary.figures, "judge_failure_rate").value == pytest.approx(3 / 140)
    csl = figure(summary.figures, "csl", "format")
    assert (csl.num, csl.num_unscored) == (27, 3)
    failed = benchmark(FollowBenchConfig(kind="followbench", format="f", unreadable="unsatisfied"))
    figures = failed.summarize(scored(failed, drafts)).figures
    assert figure(figures, "hsr", "level_4").value == pytest.approx(17 / 30) and figure(figures, "csl").num == 30
    assert figure(figures, "hsr", "level_1").value == pytest.approx(0.8) and figure(figures, "ssr", "level_5").value == pytest.approx(0.82)


# ---- by hand


def answered(draft: EvalDraft, answer: str, *verdicts: str) -> EvalDraft:
    return dataclasses.replace(draft, replies=(Reply(ANSWER, answer), *(Reply(ASK, verdict) for verdict in verdicts)))


def spelled(bits: str) -> str:
    return str(["YES" if bit == "1" else "NO" for bit in bits])


STYLE_GROUPS = {1: ("1", "11", "101", "1111", "00000"), 2: ("1", "10", "111", "1111", "11111"), 3: ("0", "00", "000", "0000", "00000")}


def style_rows() -> list[dict[str, Any]]:
    return [
        {"example_id": group, "category": "style", "source": "quora", "level": level, "instruction": f"{group}, {level}", "target": ""}
        for group in STYLE_GROUPS for level in range(6)
    ]


def style_items(**switches: Any) -> tuple[Any, list[ScoredItem]]:
    files = {name: switches.pop(name) for name in ("human_labels", "example") if name in switches}
    config = FollowBenchConfig.model_validate({"kind": "followbench", "style": "f", **dict.fromkeys(files, "f"), **switches})
    bench = cloudpickle.loads(cloudpickle.dumps(benchmark(config)))
    drafts = []
    for draft in bench.read({"style": style_rows(), **files}):
        facts = Facts.from_json(draft.facts)
        if facts.category == "style":
            drafts.append(answered(draft, "An answer.", spelled(STYLE_GROUPS[facts.example_id][facts.level - 1])))
        else:
            drafts.append(answered(draft, "Answer: x" if facts.level > 2 else "x"))
    return bench, scored(bench, drafts)


def test_rates_and_levels_by_hand() -> None:
    bench, items = style_items()
    figures = bench.summarize(items).figures
    assert [figure(figures, "hsr", f"level_{level}").value for level in range(1, 6)] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3, 1 / 3])
    assert [figure(figures, "ssr", f"level_{level}").value for level in range(1, 6)] == pytest.approx([2 / 3, 1 / 2, 5 / 9, 2 / 3, 1 / 3])
    overall = figure(figures, "hsr")
    assert overall.value == pytest.approx(7 / 15) and figure(figures, "hsr", "style").value == overall.value and overall.num == 15
    assert figure(figures, "csl").value == pytest.approx((2 + 1 + 0) / 3) and figure(figures, "csl").num == 3
    # group 1: 11010, fails at 3 and 5, 4 is satisfied; group 2: 10111; group 3: 00000
    assert figure(figures, "failure_consistency").value == pytest.approx(1 / 3)
    assert figure(figures, "failure_consistency_pairwise").value == pytest.approx(4 / 6)
    assert [found.value for found in figures if found.metric == "hsr_fixed"] == [found.value for found in figures if found.metric == "hsr"]


def test_levels_may_weigh_by_their_number() -> None:
    bench, items = style_items(aggregation="level_weighted")
    figures = bench.summarize(items).figures
    assert figure(figures, "hsr").value == pytest.approx((2 / 3 + 2 / 3 + 1 + 8 / 3 + 5 / 3) / 15)
    assert figure(figures, "hsr", "level_4").value == pytest.approx(2 / 3)


def example_rows(gold: str = "Answer: x") -> list[dict[str, Any]]:
    return [
        {"example_id": group, "category": "example", "source": "imdb", "level": level, "instruction": f"{group}? {level}",
         "target": "{instruction}\nAnswer: {answer}", **({"answer": gold} if gold else {})}
        for group in (1, 2) for level in range(1, 6)
    ]


def test_categories_weigh_alike_and_examples_have_two_columns() -> None:
    bench, items = style_items(example=example_rows())
    summary = bench.summarize(items)
    figures = summary.figures
    # examples: levels 1 and 2 out of form, 3 to 5 in form and right
    assert figure(figures, "hsr", "example").value == pytest.approx(3 / 5) and figure(figures, "hsr_answer").value == pytest.approx(3 / 5)
    assert figure(figures, "hsr").value == pytest.approx((7 / 15 + 3 / 5) / 2)
    assert figure(figures, "hsr", "level_3").value == pytest.approx((1 / 3 + 1) / 2)
    assert figure(figures, "ssr").num == 15 and not any((found.metric, found.category) == ("ssr", "example") for found in figures)
    assert figure(figures, "csl", "example").value == 0 and figure(figures, "csl").value == pytest.approx((1 + 0) / 2)
    assert figure(figures, "csl_answer").num == 2
    assert summary.details["radar"]["hsr"] == pytest.approx({"style": 7 / 15, "example": 3 / 5})
    assert summary.details["rules"]["example_template"] == {"num": 10, "original": 6, "fixed": 6, "differ": 0}
    wrong, items = style_items(example=example_rows("Answer: y"))
    assert figure(wrong.summarize(items).figures, "hsr_answer").value == 0
    without, items = style_items(example=example_rows(""))
    assert not any(found.metric == "hsr_answer" for found in without.summarize(items).figures)


def test_details_are_plain_json_with_a_curve_per_category() -> None:
    bench, items = style_items(example=example_rows())
    details = json.loads(json.dumps(bench.summarize(items).details))
    assert [point["level"] for point in details["curves"]["ssr"]["style"]] == [1, 2, 3, 4, 5]
    assert details["curves"]["hsr"]["all"][2]["value"] == pytest.approx(2 / 3)
    assert set(details["curves"]["hsr"]) == {"all", "style", "example"}
    assert details["failure_consistency"]["hsr"]["all"]["group"] == {"num_consistent": 1, "num": 5, "rate": 1 / 5}
    assert details["judge"]["num_judged"] == 15 and details["judge"]["num_rule_checked"] == 10 and details["judge"]["failure_rate"] == 0


def test_an_unscored_item_is_counted_and_takes_its_group_out_of_csl() -> None:
    bench, items = style_items()
    lost = dataclasses.replace(items[1], replies=items[1].replies[:1])
    unread = dataclasses.replace(items[5], replies=(items[5].replies[0], Reply(ASK, "Hm.")))
    silent = dataclasses.replace(items[10], replies=())
    drafts = [EvalDraft(item.row_id, item.benchmark, item.key, item.group, item.category, item.prompt, item.facts, item.replies)
              for item in (items[0], lost, *items[2:5], unread, *items[6:10], silent, *items[11:])]
    rescored = scored(bench, drafts)
    problems = {item.key: {score.problem for score in item.scores} for item in rescored if item.scores[0].problem}
    assert problems == {lost.key: {"no_verdict"}, unread.key: {"unreadable"}, silent.key: {"no_answer"}}
    figures = bench.summarize(rescored).figures
    assert (figure(figures, "hsr").num, figure(figures, "hsr").num_unscored) == (12, 3)
    assert (figure(figures, "csl").num, figure(figures, "csl").num_unscored, figure(figures, "csl").value) == (0, 3, None)
    assert all(0 <= found.value <= 5 for found in figures if found.value is not None)


def test_nothing_at_all_gives_no_numbers() -> None:
    bench, _ = style_items()
    summary = bench.summarize([])
    assert summary.figures == () and summary.details["judge"]["failure_rate"] is None
    assert summary.details["human_agreement"] is None


def test_soft_rates_of_rules_are_the_hard_bit_or_the_share_of_constraints() -> None:
    row = {"example_id": 15, "category": "mixed", "source": "arxiv", "instruction": "Summarize.", "target": ""}
    for switch, soft in (("original", 0.0), ("per_constraint", 0.6)):
        bench = benchmark(FollowBenchConfig.model_validate({"kind": "followbench", "mixed": "f", "ssr_rules": switch}))
        draft = list(bench.read({"mixed": [{**row, "level": level} for level in range(6)]}))[4]
        assert isinstance(draft, EvalDraft)
        scores = {score.metric: score.value for score in bench.score(answered(draft, "We edit transformer weights."))}
        assert scores == {"hsr": 0, "ssr": soft, "hsr_fixed": 0, "ssr_fixed": soft}


def test_agreement_with_humans_by_item_and_by_constraint() -> None:
    labels = [{"category": "style", "example_id": 1, "level": level, "verdicts": verdicts}
              for level, verdicts in ((1, [1]), (2, [1, 0]), (3, [1, 0, 1]), (5, [0] * 5))]
    bench, items = style_items(human_labels=labels)
    found = bench.summarize(items).details["human_agreement"]
    assert found["num_labelled"] == 4 and found["num_undecided"] == 0
    assert found["item"]["rate"] == 3 / 4 and found["item"]["kappa"] == pytest.approx(1 / 2)  # chance: 1/2 * 1/4 + 1/2 * 3/4
    assert (found["constraint"]["num"], found["constraint"]["rate"]) == (11, 10 / 11)


def test_the_rate_that_humans_would_find_stands_beside_their_agreement() -> None:
    """By hand: the judge calls 7 of 15 items satisfied; of the labelled ones it finds 2 of 3 that are, and 2 of 2 that are not."""
    labels = [{"category": "style", "example_id": example, "level": level, "verdicts": [verdict] * level}
              for example, level, verdict in ((1, 1, 1), (1, 2, 1), (2, 2, 1), (1, 5, 0), (3, 2, 0))]
    bench, items = style_items(human_labels=labels)
    found = bench.summarize(items).details["human_agreement"]["corrected_hsr"]
    assert found["num"] == 15 and found["value"] == pytest.approx(7 / 15 / (2 / 3))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    bench, items = style_items(human_labels=labels[:1])
    assert bench.summarize(items).details["human_agreement"]["corrected_hsr"]["value"] is None


def test_one_more_satisfied_level_never_lowers_a_figure() -> None:
    bench, items = style_items()
    better = list(items)
    (place,) = (place for place, item in enumerate(items) if item.key.endswith("/3/1"))
    better[place] = dataclasses.replace(items[place], scores=tuple(dataclasses.replace(score, value=1.0) for score in items[place].scores))
    before, after = bench.summarize(items).figures, bench.summarize(better).figures
    for metric in ("hsr", "ssr", "csl"):
        low, high = figure(before, metric).value, figure(after, metric).value
        assert low is not None and high is not None and high > low
