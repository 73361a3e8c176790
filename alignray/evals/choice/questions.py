"""Questions from the official files, one reader per format; every reader takes a row and gives a question or says what is wrong."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignray.evals.choice.answers import plain

Row = Mapping[str, Any]
MAX_OPTIONS = 26


@dataclass(frozen=True)
class Question:
    """One item of any format."""

    key: str
    """The file's own id; empty where it has none."""
    stem: str
    options: tuple[str, ...]
    """Texts without letters; empty where the answer is free."""
    gold: tuple[str, ...]
    """Letters; any one of them is right, or with ``many`` all of them together are. Options of one wording are all right."""
    many: bool = False
    passage: str = ""
    target: str = ""
    """The answer's text where it is free."""
    original: str = ""
    """BBH: the input as it stands in the file, for few-shot prompts."""
    lettered: bool = True
    """Whether the file itself gives the options letters."""


class BadRow(ValueError):
    """Why a row is no question; the message is a reject reason."""


def read_agieval(row: Row, _task: str) -> Question:
    """AGIEval v1: passage, question, options "(A)...", label: a letter, or several as a list or "A C"; any of several at once."""
    options = tuple(re.sub(r"^\s{0,4}[(\uff08]?[A-Z][)\uff09.\uff0e]\s?", "", _text(option)) for option in _list(row, "options"))
    label = row.get("label")
    letters = [str(part) for part in label] if isinstance(label, list) else re.findall("[A-Z]", _field(row, "label"))
    gold = tuple(sorted(letters))
    _check(options, gold)
    return Question("", _field(row, "question"), options, gold, many=len(gold) > 1, passage=_text(row.get("passage") or ""))


_BBH_CLOSED = {"boolean_expressions": ("True", "False"), "sports_understanding": ("yes", "no"), "web_of_lies": ("Yes", "No")}
"""Tasks with two answers whose input names no options."""


def read_bbh(row: Row, task: str) -> Question:
    """BIG-Bench Hard: input with "Options:" and lines "(A) ..." or "- ...", target "(A)" or the option's text; else a free answer."""
    original, target = _field(row, "input"), _field(row, "target")
    stem, mark, tail = original.rpartition("Options:")
    lettered = tuple(found.strip() for found in re.findall(r"^\([A-Z]\) ?(.*)$", tail, re.MULTILINE)) if mark else ()
    bullets = tuple(found.strip() for found in re.findall(r"^- (.*)$", tail, re.MULTILINE)) if mark and not lettered else ()
    options = lettered or bullets or _BBH_CLOSED.get(task, ())
    if not options:
        return Question("", original, (), (), target=target, original=original)
    gold = (target[1],) if re.fullmatch(r"\([A-Z]\)", target) else _same_as(target, options)
    _check(options, gold)
    body = stem.rstrip() if mark else original
    return Question("", body, options, gold, target=target, original=original, lettered=bool(lettered))


def read_arc(row: Row, _task: str) -> Question:
    """ARC, OpenBookQA and QASC: question {stem, choices}, or the hub's columns; answerKey a letter or a number; also BMC's own form."""
    if "problem" in row:
        return read_bmc(row)
    question: Any = row.get("question", row.get("question_stem"))
    choices: Any = row.get("choices")
    if isinstance(question, Mapping):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, Mapping):
        labels, texts = list(choices.get("label") or ()), list(choices.get("text") or ())
    elif isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        labels, texts = [choice.get("label") for choice in choices], [choice.get("text") for choice in choices]
    else:
        raise BadRow("no_options")
    key = _field(row, "answerKey")
    if len(labels) != len(texts) or labels.count(key) != 1:
        raise BadRow("label_not_an_option")
    options = tuple(_text(text) for text in texts)
    gold = _same_as(options[labels.index(key)], options)
    _check(options, gold)
    return Question(str(row.get("id") or ""), _text(question), options, gold)


def read_bmc(row: Row) -> Question:
    """A question as BMC's evaluation reads it: problem with "Options:" and a line each, answer as text (eval/QA of its repository)."""
    stem, mark, tail = _field(row, "problem").rpartition("\nOptions:\n")
    if not mark:
        raise BadRow("no_options")
    options = tuple(line.strip() for line in tail.split("\n") if line.strip())
    gold = _same_as(_field(row, "answer"), options)
    _check(options, gold)
    return Question("", stem, options, gold)


def read_mmlu(row: Row, _task: str) -> Question:
    """MMLU: question, A, B, C, D, answer, a letter; or the hub's question, choices, answer as a number from 0."""
    if isinstance(row.get("choices"), list):
        options, number = tuple(_text(choice) for choice in row["choices"]), row.get("answer")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(options):
            raise BadRow("label_not_an_option")
        gold = _same_as(options[number], options)
    else:
        options = tuple(_field(row, letter) for letter in "ABCD")
        answer = _field(row, "answer").strip()
        _check(options, (answer,))
        gold = _same_as(options[ord(answer) - ord("A")], options)
    _check(options, gold)
    return Question("", _field(row, "question"), options, gold)


def read_ecqa(row: Row, _task: str) -> Question:
    """ECQA: q_no, q_text, q_op1 to q_op5, q_ans as text; also BMC's own form."""
    if "problem" in row:
        return read_bmc(row)
    options = tuple(_field(row, f"q_op{number}") for number in range(1, 6))
    gold = _same_as(_field(row, "q_ans"), options)
    _check(options, gold)
    return Question(str(row.get("q_no") or ""), _field(row, "q_text"), options, gold)


def read_strategyqa(row: Row, _task: str) -> Question:
    """StrategyQA: question, answer true or false."""
    answer = row.get("answer")
    if not isinstance(answer, bool):
        raise BadRow("no_answer")
    return Question(str(row.get("qid") or ""), _field(row, "question"), ("Yes", "No"), ("A" if answer else "B",))


READERS: Mapping[str, Callable[[Row, str], Question]] = {
    "agieval": read_agieval, "bbh": read_bbh, "arc": read_arc, "mmlu": read_mmlu, "ecqa": read_ecqa, "qasc": read_arc,
    "openbookqa": read_arc, "strategyqa": read_strategyqa,
}


def rows_of(rows: Sequence[Row], form: str) -> Iterator[Row]:
    """Rows of a file; BBH's are inside of its ``examples``, and MMLU's CSV files have no header line, which is a question itself."""
    for row in rows:
        if form == "bbh" and isinstance(row, Mapping) and isinstance(row.get("examples"), list):
            yield from row["examples"]
        elif form == "mmlu" and isinstance(row, Mapping) and "question" not in row and len(row) == 6:
            if row is rows[0]:
                yield _mmlu_row(list(row))
            yield _mmlu_row(list(row.values()))
        else:
            yield row


def _mmlu_row(cells: Sequence[Any]) -> Row:
    return dict(zip(("question", "A", "B", "C", "D", "answer"), cells, strict=True))


# ---- solved examples


def bbh_shots(text: str, num_shots: int, *, reasoning: bool) -> str:
    """The task's description and its first examples, from an official cot-prompts file; without reasoning only the answers.

    Raises:
        BadRow: the text is not of that form.
    """
    body = text.split("-----\n", 1)[-1].strip()
    description, *shots = re.split(r"\n\s*\nQ: ", body)
    if not shots or any("\nA: Let's think step by step." not in shot for shot in shots):
        raise BadRow("not_a_cot_prompt")
    if not reasoning:
        shots = [_without_reasoning(shot) for shot in shots]
    return "\n\nQ: ".join([description.strip(), *(shot.strip() for shot in shots[:num_shots])])


def _without_reasoning(shot: str) -> str:
    question, _, solution = shot.partition("\nA: Let's think step by step.")
    answer = solution.rpartition("the answer is ")[2].strip()
    return f"{question}\nA: {answer.removesuffix('.')}"


def agieval_shots(rows: Sequence[Row], task: str, num_shots: int) -> list[tuple[Question, str]]:
    """A task's solved examples and their explanations, from the official few_shot_prompts.csv; none where it has no such column.

    Samples are Python literals in that file; they are read as literals, bounded in length, and never run.
    """
    column = task.removesuffix("-without-passage")
    cells = {str(row.get("", row.get("Unnamed: 0", ""))): row.get(column) for row in rows}
    shots = []
    for number in range(1, num_shots + 1):
        sample, explanation = cells.get(f"sample {number}"), cells.get(f"explanation {number}")
        if not sample or not explanation:
            break
        question = read_agieval(_literal(str(sample)), task)
        shots.append((question, str(explanation)))
    return shots


def _literal(text: str) -> Row:
    try:
        value = ast.literal_eval(text[:50_000])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadRow("not_a_sample") from None
    if not isinstance(value, Mapping):
        raise BadRow("not_a_sample")
    return value


# ---- fields


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("not_a_text")
    return value.strip()


def _field(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"no_{name}")
    return value.strip()


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise BadRow(f"no_{name}")
    return value


def _same_as(answer: str, options: Sequence[str]) -> tuple[str, ...]:
    """Letters of the options that read like the answer; case and a full stop at the end do not count."""
    return tuple(chr(ord("A") + number) for number, option in enumerate(options) if plain(option) == plain(answer))


def _check(options: Sequence[str], gold: Sequence[str]) -> None:
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise BadRow("no_options")
    if not gold or any(len(letter) != 1 or not 0 <= ord(letter) - ord("A") < len(options) for letter in gold):
        raise BadRow("label_not_an_option")
