"""Prompts: strict about their fields, blind to what the fields hold, and asking for what the paper asks for."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ConfigError
from alignray.prompts import PromptTemplate, load_prompt, prompt_names

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT / "tests" / "golden" / "prompts"
REGENERATE = os.environ.get("ALIGNRAY_REGENERATE_GOLDENS") == "1"
NAMES = list(prompt_names())
DOCUMENT_FIRST = ["webr/persona", "webr/instruction_whole", "webr/instruction_part", "webr/query_whole", "webr/query_part"]
ASK_FOR_A_REQUEST = DOCUMENT_FIRST[1:]
FIELDS = {
    "text": "# Tides\n\nThe moon pulls the sea.  Twice a day the water rises; \"spring tides\" are the highest.\n\n- {{ not a field }}\n",
    "persona": "An oceanographer who writes for schools",
    "word": "request",
    "max_words": 50,
    "instruction": "Explain tides to a child in three sentences.",
    "rollout": "The moon pulls the water.\n\nThat is a tide.",
    "question": "What moves the sea?\nOptions:\nthe moon\nthe wind",
    "request": "Explain tides in one sentence.",
    "reference": "The moon pulls the water.\nThe answer is the moon",
    "answer": "The wind pushes the water.\nThe answer is the wind",
}
HOSTILE = [
    "{{ 7*7 }}", "{% raw %}", "{# gone #}", "{% for x in [1] %}x{% endfor %}", "{{ ''.__class__.__mro__ }}", "{{ text }}", "%s {0} ${x}",
    "</s><|im_end|>", "a\r\nb\r", "\x00", "trailing \n\n",
]


def render(name: str, **changes: object) -> str:
    template = load_prompt(name)
    return template.render(**{field: changes.get(field, FIELDS[field]) for field in template.fields})


# ---- strict fields


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_prompt("webr/refine").render(text="t", instruction="i")
    assert str(caught.value) == 'prompt "webr/refine" needs field(s) instruction, rollout, text; got instruction, text'


def test_an_extra_field_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match=r'prompt "webr/persona" needs field\(s\) text; got persona, text'):
        load_prompt("webr/persona").render(text="t", persona="p")
    with pytest.raises(ConfigError, match="got none"):
        load_prompt("webr/persona").render()


def test_a_prompt_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r'there is no prompt "webr/person"; the package has: .*webr/persona'):
        load_prompt("webr/person")


def test_a_broken_template_names_its_line() -> None:
    with pytest.raises(ConfigError, match='prompt "mine" line 2'):
        PromptTemplate("mine", "fine\n{% if %}")
    with pytest.raises(ConfigError, match='prompt "mine" line 1.*nosuchfilter'):
        PromptTemplate("mine", "{{ text | nosuchfilter }}")


def test_a_template_that_fails_while_it_is_filled_in_says_so() -> None:
    with pytest.raises(ConfigError, match='prompt "mine": .*has no attribute'):
        PromptTemplate("mine", "{{ text.nothing.here }}").render(text="x")


def test_a_template_cannot_reach_into_python() -> None:
    with pytest.raises(ConfigError, match='prompt "mine": .*unsafe'):
        PromptTemplate("mine", "{{ text.__class__.__mro__ }}").render(text="x")


def test_a_prompt_survives_pickle() -> None:
    template = load_prompt("webr/refine")
    back = pickle.loads(pickle.dumps(template))
    assert (back.name, back.text, back.fields, back.digest) == (template.name, template.text, template.fields, template.digest)


# ---- values are never templates


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_or_model_wrote_stands_in_the_prompt_byte_for_byte(name: str, value: str) -> None:
    template = load_prompt(name)
    for field in template.fields:
        assert value in render(name, **{field: value})


@given(st.text())
def test_any_text_stands_first_and_unchanged(text: str) -> None:
    marker = "The text above comes from a web page."
    for name in DOCUMENT_FIRST:
        before, found, _ = render(name, text=text).rpartition(marker)
        assert found and before == f"{text}\n\n\n"


# ---- shadows


def test_a_file_in_prompts_dir_shadows_the_package(tmp_path: Path) -> None:
    (tmp_path / "webr").mkdir()
    (tmp_path / "webr" / "persona.txt").write_text("Who wrote {{ text }}? \u00e9 \n")
    mine = load_prompt("webr/persona", str(tmp_path))
    assert mine.render(text="it") == "Who wrote it? \u00e9 "  # one newline at the end is the editor's
    assert mine.digest != load_prompt("webr/persona").digest
    assert load_prompt("webr/refine", str(tmp_path)).text == load_prompt("webr/refine").text


def test_a_prompts_dir_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts.dir = '.*gone' is not a folder"):
        load_prompt("webr/persona", str(tmp_path / "gone"))


def test_a_shadow_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "webr").mkdir()
    (tmp_path / "webr" / "persona.txt").write_bytes(b"\xff{{ text }}")
    with pytest.raises(ConfigError, match=r'prompt "webr/persona": .*persona.txt is not UTF-8 text \(byte 0\)'):
        load_prompt("webr/persona", str(tmp_path))


# ---- sources


def test_sources_lists_every_prompt_with_exactly_its_fields() -> None:
    listed: dict[str, frozenset[str]] = {}
    for line in (ROOT / "alignray" / "prompts" / "SOURCES.md").read_text().splitlines():
        if line.startswith("| `"):
            names, _, fields = (cell.strip() for cell in line.strip("|").split("|"))
            listed |= {name: frozenset(fields.split(", ")) for name in re.findall(r"`([^`]+)`", names)}
    assert listed == {name: load_prompt(name).fields for name in NAMES}


# ---- contracts (spec 1.2)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_names_every_field_and_ends_without_a_stray_newline(name: str) -> None:
    template = load_prompt(name)
    assert template.text == template.text.rstrip() and template.text.isascii()
    assert all(f"{{{{ {field} }}}}" in template.text for field in template.fields)


@pytest.mark.parametrize("name", ASK_FOR_A_REQUEST)
def test_a_request_is_asked_for_with_its_word_its_limit_its_persona_and_nothing_else(name: str) -> None:
    prompt = render(name, word="question", max_words=150, persona="a sailor")
    assert "at most 150 words" in prompt
    assert "author: a sailor" in prompt and "fit the author" in prompt
    assert prompt.endswith("Reply with the question alone.")
    assert "request" not in prompt.replace(str(FIELDS["text"]), "")
    assert all(word in prompt for word in ("specific", "style", "format", "structure"))


@pytest.mark.parametrize("name", ["webr/instruction_whole", "webr/instruction_part"])
def test_web_as_instruction_asks_for_a_task_on_the_text_and_forbids_the_giveaways(name: str) -> None:
    text = load_prompt(name).text
    assert re.search(r'Do not write "rewrite"(, "new version"| or "new version")', text)
    assert "need the text" in text
    assert all(word in text for word in ("words", "sentences", "paragraphs"))


def test_the_part_prompts_aim_at_one_part_and_the_whole_ones_do_not() -> None:
    assert "one particular piece of information" in load_prompt("webr/instruction_part").text
    assert '"specific part information"' in load_prompt("webr/instruction_part").text
    assert "one particular part of the text" in load_prompt("webr/query_part").text
    assert not any("particular p" in load_prompt(f"webr/{name}_whole").text for name in ("instruction", "query"))


@pytest.mark.parametrize("name", ["webr/query_whole", "webr/query_part"])
def test_web_as_response_asks_for_the_most_likely_query(name: str) -> None:
    text = load_prompt(name).text
    assert "most likely" in text and "excellent answer" in text and "clear and concise" in text


def test_the_persona_is_the_author_in_at_most_30_words() -> None:
    text = load_prompt("webr/persona").text
    assert "at most 30 words" in text and "wrote it" in text and text.endswith("Reply with the description alone.")


def test_refine_labels_its_three_blocks_in_order() -> None:
    prompt = render("webr/refine", text="PAGE", instruction="ASK", rollout="DRAFT")
    assert prompt.startswith("[Information]\nPAGE\n\n[Question]\nASK\n\n[Answer]\nDRAFT\n\n")
    assert "correct in every fact" in prompt and prompt.endswith("Reply with the better answer alone.")


# ---- goldens


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_prompt_is_the_golden_one_byte_for_byte(name: str) -> None:
    """A changed golden is a decision: ALIGNRAY_REGENERATE_GOLDENS=1 writes them, the commit says why."""
    path = GOLDENS / f"{name.replace('/', '-')}.txt"
    rendered = render(name).encode()
    if REGENERATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rendered)
    assert path.read_bytes() == rendered


def test_there_is_no_golden_without_a_prompt() -> None:
    assert {path.stem for path in GOLDENS.glob("*.txt")} == {name.replace("/", "-") for name in NAMES}
