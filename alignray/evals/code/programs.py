"""A program from what a model answered: a code block, a whole function, or the rest of the function that was begun."""

from __future__ import annotations

import re

MAX_CHARS = 100_000
"""Longer answers are cut here before anything is looked for."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*([\w+-]{0,20})[^\n]{0,100}$", re.MULTILINE)
# where a model that only completes goes on to something else (Chen et al. 2021, section 2.1)
_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nprint ", "\n```", "\n<|")
_CODE_LINE = re.compile(
    r"(?:def|class|import|from|async|if|for|while|try|with|return|print|assert|else|elif|except|finally)\b|[@#)\]}]|\w{1,80}\s{0,5}[=(\[:.]",
)


def program_of(answer: str, *, prompt: str, entry_point: str) -> str:
    """The module to test: imports and helpers of the prompt, then the answer's function; empty where there is no code.

    Looked for in this order: a fenced block that defines the function (the last of several); another fenced block, as the
    rest of the function; a function that stands in the open, with code that follows it; else the whole answer as the rest
    of the function, cut where the paper cuts (arXiv:2107.03374, section 2.1).
    """
    answer = answer[:MAX_CHARS].replace("\r\n", "\n")
    if not answer.strip():
        return ""
    defines = re.compile(rf"^(?:async )?def {re.escape(entry_point)}\b", re.MULTILINE)
    blocks = [block for block in _blocks(answer) if block.strip()]
    whole = [block for block in blocks if defines.search(block)]
    if whole:
        return f"{preamble(prompt, entry_point)}\n{whole[-1]}\n"
    if blocks:
        return f"{prompt.rstrip()}\n{_indented(blocks[0])}\n"
    if (found := defines.search(answer)) is not None:
        return f"{preamble(prompt, entry_point)}\n{_open_code(answer, found.start())}\n"
    return f"{prompt}{_cut(answer)}\n"


def preamble(prompt: str, entry_point: str) -> str:
    """What stands in the prompt before the function: imports and helpers."""
    found = re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""


def _blocks(answer: str) -> list[str]:
    """Contents of fenced blocks; one that is never closed runs to the end."""
    marks = list(_FENCE.finditer(answer))
    blocks = []
    for opening, closing in zip(marks[::2], [*marks[1::2], None], strict=False):
        blocks.append(answer[opening.end() + 1 : closing.start() if closing else len(answer)])
    return blocks


def _indented(body: str) -> str:
    """A body as it stands, moved in by four where its first line starts at the margin."""
    lines = body.strip("\n").split("\n")
    if lines[0][:1] in (" ", "\t"):
        return "\n".join(lines)
    return "\n".join(f"    {line}" if line.strip() else line for line in lines)


def _open_code(answer: str, start: int) -> str:
    """From the imports above the function on, to the first line at the margin that is no code."""
    before = answer[:start].split("\n")[:-1]
    kept = [line for line in before if re.match(r"(?:import|from)\s", line)]
    lines = answer[start:].split("\n")
    end = next((
        number for number, line in enumerate(lines)
        if number and line.strip() and not line[0].isspace() and not _CODE_LINE.match(line)
    ), len(lines))
    return "\n".join([*kept, *lines[:end]])


def _cut(completion: str) -> str:
    ends = [place for stop in _STOPS if (place := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion
