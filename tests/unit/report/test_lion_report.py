"""The report and the card of a Lion run, from files written by hand; hostile texts are shown, not obeyed."""

from __future__ import annotations

import json
import random
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from alignray.report.card import write_card
from alignray.report.charts import Slice
from alignray.report.eval_charts import Point
from alignray.report.html import write_report
from alignray.report.lion_card import COLUMNS
from alignray.report.lion_charts import Histogram, gap_histogram, round_bars, round_curve, score_rows
from alignray.report.lion_figures import compared_verbs, gap_charts, merged_steps, planned_by_role, read_lion, threshold_of
from alignray.report.lion_page import MAX_SAMPLES, sample_list
from alignray.report.run_folder import read_run
from alignray.report.verb_nouns import verb_noun_structure
from alignray.schema import LionRow, Rejected, table_of
from alignray.seeding import row_id_of
from tests.runfolders import HOSTILE
from tests.unit.report.test_html_report import Page

SPOILED = f"{HOSTILE} \x00 nul"
CATEGORIES = ("writing", "coding", "reasoning", "knowledge", "common sense", "mathematics", "roleplay", f"odd {SPOILED}")
EDGES = [step / 2 for step in range(-18, 19)]
ROLES = ("teacher", "student", "referee", "generator")
VERBS = ("write", "explain", "list", "create", "describe", "summarize", "calculate", "translate", "compare", "design", "find", "suggest")
NOUNS = ("story", "plan", "function", "poem", "difference", "letter", "equation", "recipe", "summary", "argument")
PLACES = ("a harbour town", "spring floods", "rail freight", "a family bakery", "night nurses", "early radio")
POOLS = {1: (4000, 4000), 2: (600, 4600), 3: (600, 5200), 4: (600, 5800)}
"""Train Pool and Cache Pool by round."""


def instructions(count: int, rng: random.Random, *, skew: float = 1.0) -> list[str]:
    weights = [1 / (place + 1) ** skew for place in range(len(VERBS))]
    return [
        f"{rng.choices(VERBS, weights)[0].capitalize()} a {rng.choice(NOUNS)} about {rng.choice(PLACES)}." for _ in range(count)
    ]


def make_round(number: int, *, hostile: bool = True) -> dict[str, Any]:
    """Round ``number`` of three: the hard share falls from 40 to 20 %."""
    rng = random.Random(number)
    train, cache = POOLS[number]
    quarantined, share, quality = 12 - number, (0.4, 0.28, 0.2)[number - 1], (71.4, 79.8, 84.9)[number - 1]
    gaps = [rng.gauss(2.4 - 0.6 * number, 1.6) for _ in range(cache - quarantined)]
    counts = [sum(low <= gap < high for gap in gaps) for low, high in pairwise(EDGES)]
    judged = cache - quarantined
    hard = round(judged * share)
    names = CATEGORIES if hostile else CATEGORIES[:-1]
    reasons = {"lion/generator/not_novel": 140 + number, "lion/generator/too_short": 9, "lion/generator/marker": 4}
    return {
        "round": number, "train_pool": train, "cache_pool": cache, "judged": judged, "hard": hard, "easy": judged - hard,
        "quarantined": quarantined, "one_reading": 41, "hard_share": share,
        "gap": {"mean": sum(gaps) / len(gaps), "edges": EDGES, "counts": counts},
        "teacher_mean": 8.25, "student_mean": round(8.25 * quality / 100, 3), "relative_quality": quality,
        "referee": {"readings": 2 * cache + 80, "unreadable": 96, "first_wins": 0.561, "order_flips": 0.132},
        "categories": [
            {"category": name, "num": 700 - 60 * place, "teacher": 8.8 - 0.2 * place, "student": 4.6 + 0.7 * number - 0.3 * place}
            for place, name in enumerate(names)
        ],
        "verb_nouns": {
            "cache": verb_noun_structure(instructions(800, rng)), "hard": verb_noun_structure(instructions(300, rng, skew=0.4)),
            "generated": verb_noun_structure(instructions(400, rng, skew=0.7)),
        },
        "generated": {"drawn": 600 + sum(reasons.values()), "hard": 310, "easy": 290, "rejected": reasons},
        "train": {"rows": train - 3, "steps": 96, "loss": 1.31 - 0.1 * number, "run_dir": f"students/round_{number}"},
        "usage": {role: make_usage(role, train if role in ("teacher",) else cache) for role in ROLES},
        "benchmarks": make_benchmarks(number), "stopped": "",
    }


def make_usage(role: str, calls: int) -> dict[str, Any]:
    calls *= 2 if role == "referee" else 1
    usd = 0.0 if role == "student" else calls * 0.0005
    return {"calls": calls, "prompt_tokens": 210 * calls, "completion_tokens": 130 * calls, "usd": usd}


def make_benchmarks(number: int) -> dict[str, Any]:
    agieval, bbh = 0.21 + 0.03 * number, 0.29 + 0.02 * number
    return {
        "agieval": {"metric": "accuracy", "value": agieval, "low": agieval - 0.016, "high": agieval + 0.016},
        "bbh <b>": {"metric": "mean over tasks", "value": bbh, "low": bbh - 0.011, "high": bbh + 0.012},
    }


def make_closing() -> dict[str, Any]:
    """The imitation after the third round."""
    return {
        "round": 4, "train_pool": 600, "cache_pool": 5800, "judged": 0, "hard": 0, "easy": 0, "quarantined": 0, "one_reading": 0,
        "hard_share": None, "gap": None, "teacher_mean": None, "student_mean": None, "relative_quality": None,
        "referee": {"readings": 0, "unreadable": 0, "first_wins": None, "order_flips": None}, "categories": [], "verb_nouns": {},
        "generated": None, "train": {"rows": 600, "steps": 15, "loss": 0.98, "run_dir": "students/round_4"},
        "usage": {"teacher": make_usage("teacher", 600)}, "benchmarks": make_benchmarks(4), "stopped": "",
    }


def make_sample(number: int, kind: str, place: int, *, hostile: bool = True) -> dict[str, Any]:
    bad = SPOILED if hostile and place % 3 == 0 else ""
    long = "A sentence that goes on and on. " * 900 if place == 4 else ""
    scores: list[tuple[float | None, float | None]] = {
        "hard": [(9.0, 4.0), (8.0, 5.5)], "easy": [(8.0, 8.0), (7.0, 8.0)], "quarantined": [(None, None), (None, None)]}[kind]
    reviews = [
        {"step": f"lion/referee/{order}", "teacher": teacher, "student": student,
         "text": f"Evaluation evidence: number {place}. {bad}\nScore of the Assistant 1: {teacher}\nScore of the Assistant 2: {student}"}
        for order, (teacher, student) in zip(("teacher_first", "student_first"), scores, strict=True)
    ]
    return {
        "round": number, "kind": kind, "row_id": row_id_of("sample", f"{number}{kind}{place}"), "origin": "seed" if place % 2 else "hard",
        "category": CATEGORIES[place % 7],
        "instruction": f"Instruction {number}-{kind}-{place}: write a story about rail freight. {bad}{long}",
        "teacher": f"The teacher's answer {place}.\n{bad}{long}",
        "student": "" if kind == "quarantined" else f"The student's {place}. {bad}",
        "gap": None if kind == "quarantined" else (3.75 if kind == "hard" else -0.5), "reviews": reviews,
    }


def make_samples(*, hostile: bool = True) -> list[dict[str, Any]]:
    """12 hard and 12 easy ones of each round, 3 quarantined ones of the first two."""
    return [
        make_sample(number, kind, place, hostile=hostile)
        for number in (1, 2, 3) for kind, count in (("hard", 12), ("easy", 12), ("quarantined", 3 if number < 3 else 0))
        for place in range(count)
    ]


def make_manifest(status: str, *, hostile: bool) -> dict[str, Any]:
    steps = {
        f"lion/{role}/round_{number}": {
            "role": role, **make_usage(role, POOLS[number][0 if role == "teacher" else 1]), "models": [f"{role}-model"]}
        for number in (1, 2, 3) for role in ROLES
    }
    planned = {f"lion/{role}": {"step": f"lion/{role}", "calls": 12000, "prompt_tokens": 2_400_000, "completion_tokens": 1_500_000,
                                "usd": 6.5} for role in ROLES}
    return {
        "method": "lion", "name": f"harbour <b>lion</b> {HOSTILE[:60]}" if hostile else "harbour lion", "status": status,
        "message": f"a note {SPOILED}" if hostile else "", "started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T09:00:00Z",
        "result": {"rows": 40}, "seconds": {"round 1": 7210.5, "round 2": 2300.0}, "versions": {"ray": "2.60"}, "fingerprint": "ab" * 16,
        "funnel": [{"stage": "seeds", "in": 4021, "kept": 4000, "rejected": {f"lion/seed/empty {HOSTILE[:30]}": 21}}],
        "usage": {"usd": 31.5, "steps": steps}, "plan": {"usd": 26.0, "low_usd": 20.0, "high_usd": 33.0, "steps": planned},
    }


def make_config(*, hostile: bool) -> dict[str, Any]:
    return {
        "seed": 3, "rounds": 3, "lion": {"threshold": 1.0, "hard_rate": 0.5, "per_round": 600},
        "student": {"model": {"path": "models/tiny"}, "epochs": 3}, "student_engine": {"kind": "transformers", "model": "student"},
        "engines": {"big": {"kind": "openai", "model": f"big-1 {SPOILED}" if hostile else "big-1",
                            "price": {"prompt": 0.5, "completion": 1.5}},
                    "judge": {"kind": "openai", "model": "judge-1"}},
        "roles": {"default": {"engine": "big"}, "referee": {"engine": "judge", "temperature": 0.2}},
    }


def make_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"row_id": row_id_of("row", str(place)), "instruction": f"do {place}", "response": "done",
         "origin": ("seed", "hard", "easy")[place % 3]}
        for place in range(count)
    ]


def build_lion_run(
    run_dir: Path, *, rounds: list[dict[str, Any]] | None = None, samples: list[dict[str, Any]] | None = None, status: str = "done",
    hostile: bool = True, with_children: bool = True,
) -> Path:
    """A run of three rounds and the closing imitation, its manifest, config, rows, rejects and the pages of its trainings."""
    run_dir.mkdir(parents=True, exist_ok=True)
    rounds = [*(make_round(number, hostile=hostile) for number in (1, 2, 3)), make_closing()] if rounds is None else rounds
    state = {"rounds": rounds, "samples": make_samples(hostile=hostile) if samples is None else samples,
             "notes": [f"a note on the rounds {SPOILED}"] if hostile else []}
    (run_dir / "lion.json").write_text(json.dumps(state))
    (run_dir / "manifest.json").write_text(json.dumps(make_manifest(status, hostile=hostile)))
    (run_dir / "config.yaml").write_text(yaml.safe_dump(make_config(hostile=hostile)))
    (run_dir / "parts").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(make_rows(40)), run_dir / "parts" / "0.parquet")
    (run_dir / "rejects").mkdir(exist_ok=True)
    rejected = [Rejected(row_id_of("lost", str(place)), "lion/generator", "not_novel", f"too near {SPOILED if hostile else ''}")
                for place in range(5)]
    pq.write_table(table_of(Rejected, rejected), run_dir / "rejects" / "0.parquet")
    for child in ("students/round_1", "students/round_2", "students/round_4", "benchmarks/round_1") if with_children else ():
        (run_dir / child).mkdir(parents=True)
        (run_dir / child / "report.html").write_text("<!doctype html><title>of a round</title>")
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lion_run(tmp_path_factory.mktemp("lion"))


@pytest.fixture(scope="module")
def page_text(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def told(text: str) -> str:
    return " ".join(Page(text).text.split())


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}">', 1)[1].split("</section>", 1)[0]


# ---- the page


def test_the_page_has_no_scripts_and_no_network_and_links_only_to_its_rounds(page_text: str) -> None:
    page = Page(page_text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object", "embed", "form", "base", "audio", "video", "b-x"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag in ("link", "a") or not {"src", "href", "srcset", "data"} & set(attributes)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["students/round_1/report.html", "benchmarks/round_1/report.html", "students/round_2/report.html",
                     "students/round_4/report.html"]
    assert "url(" not in page_text and "@import" not in page_text
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0] and "script-src" not in policies[0]


def test_hostile_texts_are_shown_as_they_are(page_text: str) -> None:
    page = Page(page_text)
    # message, note, model in the config, rejects, instructions, answers and replies
    assert page.text.count("<script>document.title='pwned';alert(1)</script>") > 50
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page.text
    assert "\x07" not in page_text and "\x00" not in page_text
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert page_text.count("bbh &lt;b&gt;") >= 3


def test_every_part_of_a_full_run_is_told(page_text: str) -> None:
    text = told(page_text)
    for heading in ("Mind this", "Round by round", "What the student has learnt", "How far the student is behind",
                    "What the instructions ask for", "Student against teacher, by kind of task", "New instructions",
                    "Can the referee be trusted?", "Cost by round and role", "Instructions with both answers", "From records to rows",
                    "Tokens and cost by step", "Why records were turned down", "The run"):
        assert heading in text, heading
    for fact in (
        "Rounds judged3and the closing imitation", "Cache Pool5,8004,000 in round 1", "Hard now20.0%40.0% in round 1",
        "Relative quality84.971.4 in round 1", "Cost$31.50plan $26.00 ($20.00 to $33.00)",
        "3,997 rows96 steps, loss 1.210", "hard: a gap of 1 or more", "4 closing imitation", "not judged",
        "hard 1,596 (39.9%)", "quarantined 11 (0.3%)", "754 drawn, 600 kept (79.6%): 310 after hard ones, 290 after easy ones",
        "lion/generator/not_novel 141", "8,0801.2%", "56.1%13.2%41", "round 3 beside round 1",
    ):
        assert fact in text, fact
    for title in ("Sizes of the pools by round", "Relative quality by round", "agieval by round", "Gaps in round 1", "Gaps in round 3",
                  "Root verbs and object nouns, hard, round 2", "Mean scores by category, round 3",
                  "Mean scores by category, round 3, as a radar"):
        assert f'aria-label="{title}"' in page_text, title
    # pools, 3 curves, 3 gaps, 9 wheels, bars and radar
    assert page_text.count("<svg") == 1 + 3 + 3 + 9 + 2
    assert "0.300 (0.284 to 0.316)" in section(page_text, "learning")


def test_the_page_is_the_same_each_time_and_of_bounded_size(run_dir: Path, page_text: str) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page_text
    assert len(page_text.encode()) < 2_000_000
    assert "more characters]" in page_text


def test_cost_by_round_stands_beside_the_plan(page_text: str) -> None:
    rows = re.findall(r"<tr.*?</tr>", section(page_text, "spent"), re.DOTALL)
    cells = [[" ".join(Page(cell).text.split()) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)] for row in rows]
    assert cells[0] == ["Round", "teacher", "student", "referee", "generator", "All"]
    assert cells[1][1] == "$2.004,000 calls840k in, 520k out" and cells[1][3].startswith("$4.008,000 calls")
    assert cells[1][5].startswith("$8.0020,000 calls")
    assert cells[4][0] == "4 closing imitation" and cells[4][2:5] == ["–"] * 3
    assert cells[5][0] == "All rounds" and cells[5][1].startswith("$2.905,800 calls")
    assert cells[6][0] == "The plan" and cells[6][1].startswith("$6.5012,000 calls") and cells[6][5].startswith("$26.0048,000 calls")


def test_steps_of_several_rounds_are_added_up_under_one_name(page_text: str) -> None:
    names = re.findall(r'<td class="text mono">(.*?)</td>', section(page_text, "cost"))
    assert names == [f"lion/{role}" for role in ROLES]
    added = merged_steps({"lion/x/round_1": {"role": "teacher", "calls": 2, "usd": 0.5}, "lion/x/round_12": {"calls": 3}, "y": "bad"})
    assert added == {"lion/x": {"role": "teacher", "calls": 5, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.5},
                     "y": {"role": None, "calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0}}


def test_a_step_whose_role_nobody_says_is_planned_under_the_role_in_its_name(tmp_path: Path) -> None:
    run = build_lion_run(tmp_path, hostile=False, with_children=False)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["plan"]["steps"] = {"lion/referee/again": {"calls": 1}, "lion/referee": {"calls": 5}, "judge": {"calls": 7}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert {role: step["calls"] for role, step in planned_by_role(read_run(run)).items()} == {"referee": 6, "judge": 7}


# ---- samples


def test_samples_are_chosen_by_round_and_kind_with_the_style_sheet_alone(page_text: str) -> None:
    found = section(page_text, "samples")
    cases = re.findall(r'<details class="case in-(\d+) of-(\w+)">', found)
    assert len(cases) == 3 * 24 + 6 and cases[0] == ("3", "hard") and cases[-1] == ("1", "quarantined")
    assert [a.get("class") for tag, a in Page(found).tags if tag == "input"] == [
        "pick-all", "pick-1", "pick-2", "pick-3", None, "pick-hard", "pick-easy", "pick-quarantined"]
    assert "#samples:has(.pick-2:checked) .case:not(.in-2) { display: none; }" in page_text
    assert "#samples:has(.pick-3:checked):has(.pick-quarantined:checked) .nothing { display: block; }" in page_text
    assert page_text.count(".nothing { display: block; }") == 1
    text = told(found)
    assert "teacher 9, student 4" in text and "no scores could be read" in text and "gap +3.75" in text and "gap -0.50" in text
    assert "no answer" in text


def test_of_many_samples_some_of_each_kind_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    many = [make_sample(number, kind, place, hostile=False) for number in (1, 2) for kind in ("hard", "easy") for place in range(100)]
    odd: list[Any] = [{"round": 9, "kind": "hard"}, {"round": 1, "kind": "other"}, {"round": "1", "kind": "hard"}]
    run = build_lion_run(tmp_path, samples=many + odd, with_children=False)
    listed = sample_list(read_lion(read_run(run)))
    assert len(listed["samples"]) == 4 * MAX_SAMPLES and listed["rest"] == 400 + 3 - 4 * MAX_SAMPLES
    assert listed["empty"] == [{"round": number, "kind": "quarantined"} for number in ("all", 1, 2)]
    assert "more samples are in lion.json" in write_report(run).read_text()


# ---- what is not there


def test_a_run_that_was_stopped_in_its_second_round(tmp_path: Path) -> None:
    second = {
        "round": 2, "train_pool": 600, "cache_pool": 4600, "judged": 0, "hard": 0, "easy": 0, "quarantined": 0, "one_reading": 0,
        "hard_share": None, "gap": None, "teacher_mean": None, "student_mean": None, "relative_quality": None, "referee": {},
        "categories": [], "verb_nouns": {}, "generated": None, "train": None, "usage": {}, "benchmarks": {},
        "stopped": "the budget of $12.00 is spent",
    }
    run = build_lion_run(tmp_path, rounds=[make_round(1) | {"benchmarks": {}}, second], status="stopped_at_budget", with_children=False)
    text = told(write_report(run).read_text())
    assert "Round 2: the budget of $12.00 is spent" in text and "stopped at the budget" in text
    assert "Rounds judged12 begun" in text and "closing imitation" not in text and "2 begun" in text
    assert "No benchmark was run on the students." in text and "Hard now40.0%in round 1" in text
    write_card(run)


@pytest.mark.parametrize(("status", "ending"), [("running", " yet."), ("empty", ".")])
def test_a_run_without_a_round_says_what_is_not_there(tmp_path: Path, status: str, ending: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"method": "lion", "status": status, "name": "harbour"}))
    text = told(write_report(tmp_path).read_text())
    for missing in ("No round has been finished", "Nothing has been measured over rounds", "No gaps have been recorded",
                    "No root verbs have been counted", "Nothing has been judged", "No instruction has been generated",
                    "The referee has judged nothing", "No call has been recorded", "No sample has been written"):
        assert missing + ending in text, missing
    assert "0 instructions" in write_card(tmp_path).read_text()


def test_instructions_without_a_kind_of_task(tmp_path: Path) -> None:
    one = make_round(1, hostile=False)
    run = build_lion_run(tmp_path, rounds=[one | {"categories": []}], with_children=False)
    assert "The instructions name no kind of task." in told(write_report(run).read_text())
    few = [{"category": name, "num": 3, "teacher": 8.0, "student": 4.0} for name in ("a", "b")]
    (tmp_path / "lion.json").write_text(json.dumps({"rounds": [one | {"categories": few}]}))
    text = write_report(run).read_text()
    assert 'aria-label="Mean scores by category, round 1"' in text and "as a radar" not in text
    assert "beside round" not in text and "50.0" in section(text, "categories")


@pytest.mark.parametrize("broken", [
    {"gap": None}, {"gap": {"mean": None, "edges": [0, 1], "counts": []}}, {"gap": {"edges": [1, 0], "counts": [3]}},
    {"gap": {"edges": "x", "counts": {}}}, {"gap": {"mean": 0.1, "edges": [0, 1], "counts": [0]}}, {"categories": [{"category": 3}, 4]},
    {"categories": [{"category": "a", "num": None, "teacher": 0, "student": None}]}, {"verb_nouns": None},
    {"verb_nouns": {"cache": {"verbs": [{"verb": 1, "count": 0}, {"verb": "write", "count": 2, "nouns": [{"noun": "x", "count": 0}]}]}}},
    {"referee": None}, {"referee": {"readings": 0, "unreadable": 0}}, {"generated": {}}, {"generated": {"drawn": 0, "rejected": None}},
    {"train": None}, {"train": {"loss": "x"}}, {"usage": None}, {"usage": {"teacher": None}}, {"usage": {"teacher": {"calls": None}}},
    {"benchmarks": {"x": {"value": 0.5, "low": None, "high": None, "metric": None}}}, {"benchmarks": {"x": None}},
    {"benchmarks": {"x": {"value": None}}}, {"stopped": None}, {"stopped": 7}, {"hard_share": "x", "hard": None}, {"judged": None},
    {"teacher_mean": 1e308, "student_mean": -1e308}, {"train_pool": None, "cache_pool": None}, {"relative_quality": None},
])
def test_a_missing_or_misshapen_piece_does_not_stop_report_or_card(tmp_path: Path, broken: dict[str, Any]) -> None:
    run = build_lion_run(tmp_path, rounds=[make_round(1), make_round(2) | broken, make_closing()], with_children=False)
    assert 'aria-label="Sizes of the pools by round"' in write_report(run).read_text()
    assert "| 2 |" in write_card(run).read_text()


def test_odd_files_do_not_stop_the_report(tmp_path: Path) -> None:
    run = build_lion_run(tmp_path, hostile=False, with_children=False)
    odd = [{"round": "1"}, {"round": True}, {"round": -1}, 3, None, {"round": 10**9}]
    states: list[Any] = [[], 3, {"rounds": 3, "samples": {}, "notes": "x"}, {"rounds": odd}, {"rounds": [{"round": 1}], "samples": [3, {}]},
                         {"rounds": [{"round": 1}], "samples": [
                             {"round": 1, "kind": "hard", "reviews": [3, {"teacher": "x"}], "gap": "x"}]}]
    for state in states:
        (run / "lion.json").write_text(json.dumps(state))
        write_report(run)
        write_card(run)
    (run / "lion.json").write_text('{"rounds": [')
    (run / "manifest.json").write_text(json.dumps({"method": "lion", "usage": {"steps": {"x": 3}}, "plan": {"steps": 4}}))
    (run / "config.yaml").write_text("lion: 3\nengines: [x]\nroles: {teacher: 4}\nstudent: [1]\n")
    assert "No round has been finished." in told(write_report(run).read_text())
    write_card(run)


def test_a_round_without_a_number_is_left_out_and_rounds_are_in_order(tmp_path: Path) -> None:
    run = build_lion_run(tmp_path, rounds=[make_round(2), make_round(1), {"round": "3"}], status="running", with_children=False)
    results = read_lion(read_run(run))
    assert [one.number for one in results.rounds] == [1, 2] and not results.rounds[-1].is_closing


@pytest.mark.parametrize(("status", "rounds", "is_closing"), [
    ("done", 3, True), ("running", 3, True), ("running", 4, False), ("done", 5, True), ("stopped_at_budget", None, False),
])
def test_the_closing_imitation_is_told_from_a_round_that_was_stopped(
    tmp_path: Path, status: str, rounds: int | None, is_closing: bool,
) -> None:
    run = build_lion_run(tmp_path, status=status, hostile=False, with_children=False)
    (run / "config.yaml").write_text(yaml.safe_dump({**make_config(hostile=False), "rounds": rounds}))
    assert read_lion(read_run(run)).rounds[-1].is_closing == is_closing


def test_the_threshold_is_that_of_the_config(tmp_path: Path) -> None:
    run = build_lion_run(tmp_path, hostile=False, with_children=False)
    assert threshold_of(read_run(run)) == 1.0
    (run / "config.yaml").write_text("rounds: 3\n")
    assert threshold_of(read_run(run)) is None
    text = write_report(run).read_text()
    assert 'class="bar f1"' not in section(text, "gaps") and "hard: a gap of" not in text


# ---- charts


def bars_of(svg: str) -> list[tuple[str, float, float]]:
    """Class, left edge and height of each bar."""
    found = re.findall(r'<rect class="([\w ]+)" x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', svg)
    return [(css, float(x), float(height)) for css, x, height in found]


def test_gaps_below_zero_are_drawn_and_those_at_the_threshold_are_hard() -> None:
    drawn = gap_histogram(
        Histogram([-2, -1, 0, 1, 2], [1, 2, 4, 3]), span=(-2, 2), highest=0.4, threshold=1.0, mean=0.4, title="t")
    bars = bars_of(drawn)
    assert [css for css, _, _ in bars] == ["bar f0"] * 3 + ["bar f1"]
    assert [x for _, x, _ in bars] == sorted(x for _, x, _ in bars) and bars[0][1] >= 38
    heights = [height for _, _, height in bars]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.3) and heights[2] == pytest.approx(4 * heights[0], abs=0.3)
    assert "gap -2 to -1: 1 (10.0%)" in drawn and "mean 0.40" in drawn
    assert gap_histogram(Histogram([0, 1], [0]), span=(0, 1), highest=1, threshold=None, mean=None, title="t") == ""


def test_a_curve_over_rounds_spans_what_was_measured_and_breaks_where_nothing_was() -> None:
    points = [Point(1, 70.0, 68.0, 72.0), Point(2, None), Point(3, 80.0), Point(4, 85.0)]
    drawn = round_curve(points, title="t")
    path = re.search(r'<path class="line s0" d="([^"]+)"', drawn)
    assert path is not None and path[1].count("M") == 2 and path[1].count("L") == 1
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]
    assert heights == sorted(heights, reverse=True) and min(heights) >= 13 and max(heights) <= 147
    assert drawn.count("whisker") == 1 and drawn.count("<circle") == 3 and "round 1: 70.00 (68.00 to 72.00)" in drawn
    assert round_curve([Point(1, None)], title="t") == "" == round_curve([], title="t")
    assert "<circle" in round_curve([Point(7, 3.0)], title="t")


def test_bars_by_round_stand_as_high_as_their_numbers() -> None:
    drawn = round_bars(["1", "2"], [("Train Pool", [100, None]), ("Cache Pool", [100, 400])], title="t")
    bars = bars_of(drawn)
    assert [css for css, _, _ in bars] == ["bar f0", "bar f2", "bar f2"]
    assert bars[2][2] == pytest.approx(4 * bars[0][2], abs=0.3) and bars[0][2] == bars[1][2]
    assert "Cache Pool, round 2: 400" in drawn
    assert round_bars(["1"], [("x", [None])], title="t") == ""
    many = round_bars([str(place) for place in range(60)], [("x", [float(place) for place in range(60)])], title="t")
    assert many.count('class="tick middle"') <= 10


def test_scores_of_a_category_lie_on_one_line_in_the_order_of_their_numbers() -> None:
    rows = [(f"kind <{SPOILED}", [("teacher", 8.0), ("student", 4.0), ("before", 2.0)]), ("b", [("teacher", 6.0), ("student", None)])]
    drawn = score_rows(rows, title="t", unit="u")
    dots = [(css, float(x), y) for css, x, y in re.findall(r'class="dot (f\d)" cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert [css for css, _, _ in dots] == ["f0", "f1", "f2", "f0"] and len({y for _, _, y in dots[:3]}) == 1 < len({y for _, _, y in dots})
    start = dots[1][1] - (dots[0][1] - dots[1][1])
    assert dots[2][1] - start == pytest.approx((dots[1][1] - start) / 2, abs=0.2)
    assert "<script" not in drawn and "teacher, b: 6.00" in drawn
    assert score_rows([("a", [("x", None)])], title="t", unit="u") == "" == score_rows([], title="t", unit="u")


def test_gaps_of_all_rounds_have_the_same_axes_which_leave_out_empty_ends(tmp_path: Path) -> None:
    near, far = ({"mean": 0.5, "edges": [-9, -1, 0, 1, 2, 9], "counts": counts} for counts in ([0, 1, 1, 0, 0], [0, 0, 1, 3, 0]))
    rounds = [make_round(number, hostile=False) | {"gap": gap} for number, gap in ((1, near), (2, far))]
    run = build_lion_run(tmp_path, rounds=rounds, hostile=False, with_children=False)
    first, second = gap_charts(read_lion(read_run(run)).judged, 1.0)
    assert len(bars_of(first["chart"])) == len(bars_of(second["chart"])) == 3  # from -1 to 2
    assert [x for _, x, _ in bars_of(first["chart"])] == [x for _, x, _ in bars_of(second["chart"])]
    tallest = max(height for _, _, height in bars_of(second["chart"]))
    assert max(height for _, _, height in bars_of(first["chart"])) == pytest.approx(tallest * 0.5 / 0.75, abs=0.3)


def test_verbs_are_compared_as_shares_of_each_pool() -> None:
    trees = [
        {"slices": [_slice("write", 30), _slice("list", 10)], "recognised": 100}, {"slices": [_slice("list", 5)], "recognised": 10},
        {"slices": [], "recognised": None},
    ]
    shown = compared_verbs(trees)
    assert [row["verb"] for row in shown] == ["list", "write"]
    assert [share["rate"] for share in shown[0]["shares"]] == [0.1, 0.5, None]
    assert [share["percent"] for share in shown[0]["shares"]] == [20.0, 100.0, 0.0]


def _slice(verb: str, count: int) -> Slice:
    return Slice(verb, count, [])


# ---- the card


def test_the_card_tells_pools_rounds_engines_and_limits(tmp_path: Path) -> None:
    card = write_card(build_lion_run(tmp_path, hostile=False, with_children=False)).read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["size_categories"] == ["n<1K"] and front["configs"][0]["data_files"] == [{"split": "train", "path": "parts/*.parquet"}]
    for fact in (
        "40 instructions with a teacher's answers", "Rows by origin: seed 14, easy 13, hard 13.", "a gap of 1 or more",
        "the hard share was 40.0% in round 1 and 20.0% in round 3",
        "| 1 | 4,000 | 4,000 | 3,989 | 1,596 | 2,393 | 11 | 40.0% | 71.4 | 600 |",
        "| 4 (closing imitation) | 600 | 5,800 | – | – | – | – |",
        "0.24 (0.224 to 0.256)", "| big (openai) | teacher-model | \\$0.50 in, \\$1.50 out, per million tokens |",
        "answers the Cache Pool | student (transformers) | each round's checkpoint of models/tiny |",
        "in both orders | judge (openai) | referee-model | that of the price table |",
        "In all \\$31.50, planned \\$26.00.", "56.1% of the replies", "13.2% of the winners", "alignray lion config.yaml",
    ):
        assert fact in card, fact
    assert "status is" not in card


def test_the_card_of_a_run_without_training_does_not_say_that_the_student_learnt(tmp_path: Path) -> None:
    run = build_lion_run(tmp_path, hostile=False, with_children=False)
    config = make_config(hostile=False) | {"student": None, "student_engine": {"kind": "scripted"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    card = write_card(run).read_text()
    assert "| answers the Cache Pool in every round; it is not trained | student (scripted) | student-model | its own, 0 |" in card


def test_the_card_names_every_column_of_the_rows() -> None:
    assert list(COLUMNS) == [field.name for field in fields(LionRow)]


def test_hostile_names_are_inert_in_the_card(run_dir: Path) -> None:
    front, body = write_card(run_dir).read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license"] == "other"
    assert "<script" not in body and "<img" not in body and "<b>" not in body and "\x00" not in body
    assert HOSTILE not in body and "bbh &lt;b&gt;" in body
