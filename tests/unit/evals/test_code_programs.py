"""Programs out of answers, and pass@k by hand and by simulation."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.code import pass_at_k, program_of

PROMPT = 'from typing import List\n\ndef helper(x):\n    return x\n\ndef f(x: int) -> int:\n    """One more."""\n'


def value_of(answer: str, argument: int = 1) -> object:
    """What the program's function gives; run here because these answers are our own."""
    namespace: dict[str, object] = {}
    exec(program_of(answer, prompt=PROMPT, entry_point="f"), namespace)
    return namespace["f"](argument)  # type: ignore[operator]


@pytest.mark.parametrize("answer", [
    "```python\ndef f(x: int) -> int:\n    return x + 1\n```",
    "Sure!\n\n```python\ndef f(x):\n    return helper(x) + 1\n```\nIt adds one.",
    "First a wrong one:\n```\ndef f(x):\n    return x\n```\nand now\n```py\nimport math\ndef f(x):\n    return math.floor(x) + 1\n```",
    "```python\n    return x + 1\n```",
    "```python\ny = x\nreturn y + 1\n```",
    "    return x + 1",
    "    return x + 1\n\ndef g(:\n    broken",
    "    return x + 1\n# the end\nnot code",
    "Here you are:\nimport math\ndef f(x):\n    return x + 1\n\nThis function adds one to x.",
    "def f(x):\n    return x + 1",
    "```python\ndef f(x):\n    return x + 1",
])
def test_the_program_is_found(answer: str) -> None:
    assert value_of(answer) == 2


def test_no_answer_is_no_program() -> None:
    assert program_of(" \n", prompt=PROMPT, entry_point="f") == ""


@given(st.text(alphabet="`~ \ndefx():return+1abc", max_size=200))
def test_any_answer_gives_a_text(answer: str) -> None:
    assert isinstance(program_of(answer, prompt=PROMPT, entry_point="f"), str)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(6, 3, 1) == pytest.approx(0.5)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert pass_at_k(10, 0, 5) == 0.0 and pass_at_k(10, 10, 1) == 1.0 and pass_at_k(5, 3, 3) == 1.0
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(3, 1, 4)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(numbers: tuple[int, int, int]) -> None:
    num, passed, k = numbers
    draws = list(itertools.combinations(range(num), k))
    assert pass_at_k(num, passed, k) == pytest.approx(sum(any(one < passed for one in draw) for draw in draws) / len(draws))
