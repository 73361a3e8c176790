from __future__ import annotations

import re
from typing import Any

import pytest

from alignray.report.token_rewards import MAX_EVALUATIONS, MAX_TOKENS, PairHistory, pair_view, visible, watched_pairs, write_token_rewards
from tests.runfolders import HOSTILE
from tests.trainfolders import CHOSEN_TEXTS, REJECTED_TEXTS, ROW_IDS, make_train_metrics, make_watched
from tests.unit.report.test_html_report import Page

TEXTS = {"prompt": ["What", f" now?{HOSTILE}"], "chosen": CHOSEN_TEXTS, "rejected": REJECTED_TEXTS}


def side(logprobs: list[float], reference: list[float] | None, edited: list[int], weights: list[float]) -> dict[str, Any]:
    return {"ids": list(range(len(logprobs))), "edited": edited, "logprobs": logprobs, "weights": weights, "reference": reference}


def entry(chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    return {"row_id": "r", "prompt_ids": [7], "chosen": chosen, "rejected": rejected}


def style_of(view: dict[str, Any], place: int, token: int) -> str:
    return str(view["sides"][place]["tokens"][token]["style"])


def test_a_reward_is_beta_times_the_log_ratio() -> None:
    one = entry(side([-1.0, -3.0], [-2.0, -2.0], [0, 1], [1.0, 3.0]), side([-2.0], [-1.5], [1], [2.0]))
    view = pair_view(PairHistory("r", [(5, one)], {}), beta=0.1, number=0)
    chosen, rejected = view["sides"]
    assert (chosen["reward"], rejected["reward"], view["margin"]) == ("+0", "-0.05", "+0.05")  # 0.1 (1 - 1), 0.1 (-0.5)
    assert chosen["tokens"][0]["tip"] == "token 0: log-probability -1, reference -2, reward +0.1, weight 1"
    # the largest of the three has the full colour, half as much has half; weights go from 1 to the greatest
    assert view["reward_scale"] == "0.1" and view["weight_scale"] == "3"
    assert style_of(view, 0, 0) == "--r0:1;"
    assert style_of(view, 0, 1) == "--r0:-1;--w0:1;"
    assert style_of(view, 1, 0) == "--r0:-0.5;--w0:0.5;"
    assert view["chart"] is None and "π_ref" in view["meaning"]


def test_without_a_reference_model_training_itself_is_the_measure() -> None:
    def at(logprob: float) -> dict[str, Any]:
        return entry(side([logprob], None, [1], [1.0]), side([-1.0], None, [1], [1.0]))

    view = pair_view(PairHistory("r", [(0, at(-2.0)), (10, at(-1.0))], {}), beta=2.0, number=0)
    assert view["sides"][0]["reward"] == "+2" and "before training" in view["meaning"]
    assert not view["has_weights"]
    alone = pair_view(PairHistory("r", [(10, at(-1.0))], {}), beta=2.0, number=0)
    assert alone["sides"][0]["reward"] == "-2" and "nothing is known" in alone["meaning"]


def test_watched_pairs_are_gathered_over_the_evaluations() -> None:
    lines = make_train_metrics(20, objective="dpo")
    lines.append({"kind": "eval", "step": 20, "watched": [{**make_watched(20)[0], "prompt_ids": [9]}]})  # evaluated again after a restart
    lines.append({"kind": "eval", "step": 30, "watched": [{"row_id": "torn", "chosen": {"ids": [1]}}, 7]})
    first, second = watched_pairs(lines, {ROW_IDS[0]: TEXTS})
    assert (first.row_id, second.row_id) == ROW_IDS
    assert [step for step, _ in first.evaluations] == [0, 10, 20]
    assert first.evaluations[-1][1]["prompt_ids"] == [9]
    assert first.texts["chosen"] == CHOSEN_TEXTS and second.texts == {}


@pytest.mark.parametrize("change", [{"logprobs": [1.0]}, {"weights": None}, {"reference": ["x"] * 7}, {"logprobs": [float("nan")] * 7}])
def test_an_entry_whose_numbers_do_not_fit_is_left_out(change: dict[str, Any]) -> None:
    broken = make_watched(0)[0]
    broken["rejected"] |= change
    assert watched_pairs([{"step": 1, "watched": [broken]}], {}) == []


def test_of_many_evaluations_first_last_and_some_between_can_be_chosen() -> None:
    history = [(step, make_watched(step)[0]) for step in range(100)]
    steps = pair_view(PairHistory("r", history, {}), beta=1, number=0)["steps"]
    assert len(steps) == MAX_EVALUATIONS and (steps[0], steps[-1]) == (0, 99) and steps == sorted(set(steps))


def test_long_responses_are_cut_and_counted() -> None:
    many = side([-1.0] * (MAX_TOKENS + 5), [-1.0] * (MAX_TOKENS + 5), [0] * (MAX_TOKENS + 5), [1.0] * (MAX_TOKENS + 5))
    view = pair_view(PairHistory("r", [(0, entry(many, many))], {}), beta=1, number=0)
    assert len(view["sides"][0]["tokens"]) == MAX_TOKENS and view["sides"][0]["rest"] == 5


@pytest.mark.parametrize(("text", "shown"), [
    (" answer", " answer"), ("   ", "␣␣␣"), ("\n", "↵\n"), ("\t", "⇥"), ("\r", "␍"), ("", "·"), ("\x07", "␇"), ("\x00", "␀"),
    ("\u202e", "⟨U+202E⟩"), ("\ufeff", "⟨U+FEFF⟩"), ("\x7f", "⟨U+007F⟩"), ("a\u2028b", "a⟨U+2028⟩b"), ("👩‍💻", "👩‍💻"),
    ("日本", "日本"), ("<b>", "<b>"), ("\udc80", "⟨U+DC80⟩"),
])
def test_what_one_would_not_see_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.fixture(scope="module")
def page_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    history = [(step, make_watched(step)[0]) for step in (0, 10, 20)]
    path = tmp_path_factory.mktemp("page") / "pair.html"
    pairs = [PairHistory(f"row{HOSTILE}", history, TEXTS), PairHistory("bare", history, {})]
    assert write_token_rewards(path, pairs, beta=0.1, title=f"Pair {HOSTILE}", facts=[("policy", HOSTILE)]) == path
    return path.read_text(encoding="utf-8")


def test_hostile_tokens_are_inert(page_text: str) -> None:
    page = Page(page_text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object", "embed", "form", "base", "a", "b-x"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag == "link" or not {"src", "href"} & set(attributes)
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0] and "script-src" not in policies[0]
    assert "\u202e" not in page_text.split('class="tokens"')[1].split("</div>")[0]
    # one span a token: a token that spells the end of one does not end it
    spans = [attributes for tag, attributes in page.tags if tag == "span" and attributes.get("class", "").split(" ")[0] == "t"]
    assert len(spans) == 2 * (len(CHOSEN_TEXTS) + len(REJECTED_TEXTS))
    assert all(re.fullmatch(r"(--[rw]\d:-?[\d.]+;)*", attributes["style"]) for attributes in spans)
    for text in ("<script>alert(1)</script>", "</span>", "⟨U+202E⟩", "␇", "↵", "⟨104⟩"):
        assert text in page.text, text


def test_every_evaluation_and_both_figures_can_be_chosen(page_text: str) -> None:
    page = Page(page_text)
    radios = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [radio["class"] for radio in radios] == ["by-reward", "by-weight", "step0", "step1", "step2"] * 2
    assert [radio["class"] for radio in radios if "checked" in radio] == ["by-reward", "step2"] * 2
    assert {radio["name"] for radio in radios} == {"p0-by", "p0-step", "p1-by", "p1-step"}
    for k in range(MAX_EVALUATIONS):
        assert f":has(.step{k}:checked) .t {{ --v: var(--r{k}, 0); }}" in page_text
    edited = [attributes for tag, attributes in page.tags if tag == "span" and attributes.get("class") == "t e"]
    assert len(edited) == 2 * 2
    assert "Weights, chosenedited tokens, by step" in " ".join(page.text.split()).replace("chosen edited", "chosenedited")
