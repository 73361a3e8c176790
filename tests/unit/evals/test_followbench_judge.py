"""The judge: what it is shown, how its replies are read, and that it is asked again for the form alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.followbench import FollowBenchConfig, JudgeConfig, benchmark
from alignray.evals.followbench.judge import AGAIN, ANSWER, ASK, read_as_authors, read_verdict, verdict_schema
from alignray.schema import ChatRequest, Completion, EvalDraft, Score
from alignray.steps import run_chain

RECORDED = "recorded_Meta-Llama-3-8B-Instruct"
STEPS = ("Write a poem.", "Write a poem on rain.", "Write a poem on rain in Rome.", "Write a poem on rain in Rome in May.")
ROWS = [
    {"example_id": 7, "category": "content", "source": "quora", "level": level, "instruction": text, "target": ""}
    for level, text in enumerate(STEPS)
]


def walk(
    *judge_says: str | Completion, level: int = 2, **switches: Any,
) -> tuple[EvalDraft, list[tuple[str, ChatRequest]], tuple[Score, ...]]:
    """One item answered "Rain falls.", with the judge's replies in turn."""
    config = FollowBenchConfig(kind="followbench", content="content.json", judge=JudgeConfig(**switches))
    bench = cloudpickle.loads(cloudpickle.dumps(benchmark(config)))
    asked: list[tuple[str, ChatRequest]] = []

    def generate(step: Any, _draft: Any, request: ChatRequest) -> Completion:
        asked.append((step.name, request))
        reply = "Rain falls." if step.name == ANSWER else judge_says[len(asked) - 2]
        return reply if isinstance(reply, Completion) else Completion(reply)

    draft = run_chain(list(bench.read({"content": ROWS}))[level - 1], bench.steps, generate)
    return draft, asked, bench.score(draft)


def as_json(*satisfied: Any) -> str:
    return json.dumps({"verdicts": [{"constraint": "c", "reason": "r", "satisfied": bit} for bit in satisfied]})


# ---- asking


def test_the_judge_sees_every_version_up_to_the_item_s_own_and_the_answer() -> None:
    _, asked, scores = walk(as_json(True, False))
    (answer, answered), (name, request) = asked
    assert (answer, answered.max_new_tokens, answered.temperature) == (ANSWER, None, None), "as the candidate says"
    text = request.messages[0].content
    assert name == ASK and text.index(STEPS[0]) < text.index(STEPS[1]) < text.index(STEPS[2]) < text.index("Rain falls.")
    assert STEPS[3] not in text and "content constraints" in text and "\n[Version 2, the last]\n" in text
    assert (request.max_new_tokens, request.temperature) == (1024, 0.0)
    assert {score.metric: score.value for score in scores} == {"hsr": 0, "ssr": 0.5, "hsr_fixed": 0, "ssr_fixed": 0.5}


def test_ablations_leave_out_the_path() -> None:
    endpoints = walk(as_json(True, True, True), level=3, prompt="endpoints")[1][1][1].messages[0].content
    assert STEPS[0] in endpoints and STEPS[3] in endpoints and STEPS[1] + "\n" not in endpoints and STEPS[2] + "\n" not in endpoints
    alone = walk(as_json(True, True, True), level=3, prompt="final_only")[1][1][1].messages[0].content
    assert STEPS[3] in alone and STEPS[0] + "\n" not in alone and "3 constraints" in alone


def test_the_form_asked_for_is_the_form_described() -> None:
    request = walk(as_json(True, True))[1][1][1]
    assert request.json_schema is not None and "Python" not in request.messages[0].content
    listed = walk("['YES', 'YES']", form="list")[1][1][1]
    assert listed.json_schema is None and "Python list of 2 strings" in listed.messages[0].content


def test_chinese_items_are_judged_in_chinese() -> None:
    config = FollowBenchConfig(kind="followbench", content="c", language="zh")
    for prompt in ("multi_level", "endpoints", "final_only"):
        bench = benchmark(config.model_copy(update={"judge": JudgeConfig(prompt=prompt)}))  # type: ignore[arg-type]
        seen: list[str] = []
        run_chain(list(bench.read({"content": ROWS}))[1], bench.steps, lambda step, _draft, request, seen=seen: (  # type: ignore[misc]
            seen.append(request.messages[-1].content), Completion("?"))[1])
        assert "约束" in seen[1] and STEPS[2] in seen[1] and "无法读取" in seen[2] and len(seen) == 4


def test_an_unreadable_reply_is_asked_for_its_form_twice_and_then_is_a_problem() -> None:
    draft, asked, scores = walk("Yes and no.", "Well.", Completion("['YES'", "length"))
    assert [name for name, _ in asked] == [ANSWER, ASK, *AGAIN]
    assert [turn.role for turn in asked[2][1].messages] == ["user", "assistant", "user"]
    assert asked[2][1].messages[0] == asked[1][1].messages[0] and asked[2][1].messages[1].content == "Yes and no."
    assert asked[3][1].messages[1].content == "Well." and STEPS[0] not in asked[3][1].messages[2].content
    assert {(score.value, score.problem) for score in scores} == {(0.0, "unreadable")} and len(draft.replies) == 4


def test_a_repeated_reply_that_can_be_read_ends_the_asking() -> None:
    _, asked, scores = walk("Yes and no.", as_json(True, True))
    assert [name for name, _ in asked] == [ANSWER, ASK, AGAIN[0]]
    assert [score.value for score in scores] == [1, 1, 1, 1]


def test_the_schema_admits_exactly_the_verdicts_that_are_read() -> None:
    for num in (1, 5):
        schema = json.loads(verdict_schema(num))
        jsonschema.validate(json.loads(as_json(*[True] * num)), schema)
        for wrong in (as_json(*[True] * (num + 1)), as_json(*["YES"] * num), "{}"):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(json.loads(wrong), schema)
            assert read_verdict(wrong, num) is None


# ---- reading


@pytest.mark.parametrize(("text", "num", "verdict"), [
    (as_json(True, False), 2, (True, False)),
    (f"```json\n{as_json(True)}\n```", 1, (True,)),
    ("1) a\n2) b\n3) ['YES', 'NO']", 2, (True, False)),
    ('Final output:\n```python\n["YES", "YES"]\n```', 2, (True, True)),
    ("**['NO']**", 1, (False,)),
    ("['YES', 'NO', ]", 2, (True, False)),
    ("['YES']", 2, None),
    ("['YES', 'YES', 'YES']", 2, None),
    ("['YES', 'PARTIAL']", 2, None),
    ("['YES', 'NO'] or ['NO', 'NO']", 2, None),
    ("[YES, NO]", 2, None),
    ("The answer is not YES", 1, None),
    ("['YES']\n\nBut see above.", 1, None),
    (as_json(1, 0), 2, None),
    (as_json(True) + as_json(True), 1, None),
    ('{"verdicts": {"satisfied": true}}', 1, None),
    ("['YES' for _ in range(2)]", 2, None),
    ("__import__('os').system('true')", 1, None),
    ("", 1, None),
    ("{" * 5000, 1, None),
    ("[" * 100_000, 3, None),
    ("['" + "YES'," * 100_000, 3, None),
    ("\ud800", 1, None),
])
def test_strict_reading_never_guesses(text: str, num: int, verdict: tuple[bool, ...] | None) -> None:
    assert read_verdict(text, num) == verdict


# a reply that begins with a brace is read as JSON, and as nothing else
@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.text(max_size=40).filter(lambda text: "[" not in text and "]" not in text and not text.strip().startswith("{")),
)
def test_what_is_asked_for_is_read_back_in_either_form(satisfied: list[bool], before: str) -> None:
    spelled = str(["YES" if bit else "NO" for bit in satisfied])
    assert read_verdict(as_json(*satisfied), len(satisfied)) == tuple(satisfied)
    assert read_verdict(f"{before}\n{spelled}", len(satisfied)) == tuple(satisfied)
    assert read_as_authors(f"{before}\n{spelled}", len(satisfied)) == tuple(satisfied)


@given(st.text(alphabet="[]'\", YESNO{}\n`1)", max_size=60), st.integers(1, 3))
def test_reading_gives_a_verdict_of_the_right_length_or_none(text: str, num: int) -> None:
    for verdict in (read_verdict(text, num), read_as_authors(text, num), read_as_authors(text, num, language="zh")):
        assert verdict is None or len(verdict) == num
    strict = read_verdict(text, num)
    if strict is not None and num > 1:  # what is beyond doubt the authors read alike, but for any YES at level 1
        assert read_as_authors(text, num) in (strict, None)


# ---- the authors' readings


def test_the_authors_readings_of_42_replies(spec_vectors: Callable[[str], Any]) -> None:
    cases = spec_vectors("followbench_metrics")["judge_parsing"]
    differ = []
    for case in cases:
        for language in ("en", "zh"):
            verdict = read_as_authors(case["judge_output"], case["level"], language=language)  # type: ignore[arg-type]
            read = (-1, -1) if verdict is None else (int(all(verdict)), sum(verdict) / len(verdict))
            if read != (case[language]["hard"], case[language]["soft"]):
                differ.append((language, case["judge_output"], read))
    assert len(cases) == 42 and differ == []


def test_recorded_verdicts_are_re_read_exactly(data_dir: Path) -> None:
    num, unread, strict_differs = 0, 0, 0
    for category in ("content", "format", "situation"):
        with gzip.open(data_dir / "followbench" / RECORDED / f"{category}_judged.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                verdict = read_as_authors(row["judge_output"], row["level"])
                read = (-1, -1) if verdict is None else (int(all(verdict)), sum(verdict) / len(verdict))
                assert read == (row["hard_satisfy"], row["soft_satisfy"])
                num, unread = num + 1, unread + (verdict is None)
                strict_differs += read_verdict(row["judge_output"], row["level"]) != verdict
    assert (num, unread, strict_differs) == (275, 7, 0)
