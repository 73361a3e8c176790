"""Final answers and their equality: hand-worked cases, recorded verdicts, MATH's own gold answers."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.math.answers import final_expression, final_number, last_boxed, official_gsm8k
from alignray.evals.math.equality import constant, normal_form, same_answer, same_number


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(("solution", "answer"), [
    ("9 * 2 = 18\n#### 18", "18"),
    ("#### $1,234.50 a year", "1234.50"),
    ("so \\boxed{42} apples, of 50", "42"),
    ("She has 3.\nAnswer: 7 cups of 8", "7"),
    ("The answer is 12. She had 40 before.", "12"),
    ("**Final answer:** $\\$2{,}500$", "2500"),
    ("16 - 3 - 4 = 9, and 9 * 2 = 18", "18"),
    ("It sinks to -3 degrees", "-3"),
    ("that is 10-3", "3"),
    ("leaves 3/4", "3/4"),
    ("a share of 15%", "15%"),
    ("room B12 has none", None),
    ("no number here", None),
    ("", None),
])
def test_the_final_number_of_a_word_problem(solution: str, answer: str | None) -> None:
    assert final_number(solution) == answer


@pytest.mark.parametrize(("solution", "answer"), [
    (r"thus \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{1} no, \boxed{\left\{ \frac{1}{1+\sqrt{2}} \right\}}.", r"\left\{ \frac{1}{1+\sqrt{2}} \right\}"),
    (r"\boxed 5 apples", "5"),
    (r"\fbox{x^{2}}", "x^{2}"),
    (r"\boxed{1} and \boxed{2 never closed", "1"),
    (r"The final answer is $\frac{3}{4}$.", r"\frac{3}{4}"),
    ("The answer is 12.", "12"),
    ("We get 12 in the end", None),
])
def test_the_final_expression_is_stated(solution: str, answer: str | None) -> None:
    assert final_expression(solution) == answer


@pytest.mark.parametrize(("left", "right"), [
    (r"\frac12", "0.5"), (r"\tfrac{1}{2}", r"\dfrac{1}{2}"), ("1/2", ".5"), (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt3}"),
    (r"1\frac{4}{5}", "1.8"), (r"10,\!080", "10080"), (r"\$36", "36"), (r"90^\circ", "90"), (r"50\%", "50"), ("x=5", "5"),
    (r"x \in [-2,7]", "[-2,7]"), (r"\text{Evelyn}", "Evelyn"), (r"\text{(C)}", "C"), (r"15\mbox{ cm}^2", "15"), ("12 inches", "12"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"), ("1,-2", "-2, 1"), (r"\{1,2\}", r"\{2,1\}"),
    (r"3 \pm 2\sqrt{2}", r"3-2\sqrt{2}, 3+2\sqrt{2}"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix}-\frac{1}{3}\\\frac{2}{3}\end{pmatrix}"), ("4210_{5}", "4210_5"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)"), ("x^{2}+1", "x^2 + 1"), (r"2^{10}", "1024"), (r"$5$;$10$", "5;10"),
    (r"\frac{20000}{\pi}", r"20000/\pi"), (r"-\frac{24}{25}", "-0.96"), ("58,500", "58500"), (r"\sqrt[3]{8}", "2"),
])
def test_equal_answers(left: str, right: str) -> None:
    assert same_answer(left, right)
    assert same_answer(right, left)


@pytest.mark.parametrize(("left", "right"), [
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), (r"\{1,2\}", "(1,2)"), ("1,2", "1,2,3"), ("52_8", "52"), ("1/3", "0.333"),
    (r"\sqrt{2}", "1.414"),
    ("-2", "2"), ("x+1", "x-1"), ("Evelyn", "Eve"), ("", "0"), ("2k", "2"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    ("1,2,2", "1,1,2"), (r"3\pi", "3"), ("x", "X"), ("1/0", "1"), (r"2^{999}", r"2^{998}"), ("(", "("[:0]),
])
def test_different_answers(left: str, right: str) -> None:
    assert not same_answer(left, right)
    assert not same_answer(right, left)


@pytest.mark.parametrize(("given_answer", "gold", "is_same"), [
    ("18.0", "18", True), ("1,200", "1200", True), (".75", "3/4", True), ("15%", "15", True), ("15%", "0.15", True), ("0.15", "15", False),
    ("0.667", "0.6666666667", True), ("0.67", "0.6666666667", False), ("11.50", "11.5", True), ("11.49", "11.5", False), ("-3", "3", False),
    ("2/0", "2", False),
])
def test_numbers_are_compared_by_value(given_answer: str, gold: str, is_same: bool) -> None:
    assert same_number(given_answer, gold) is is_same


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_constants_are_exact(left: Fraction, right: Fraction) -> None:
    def latex(value: Fraction) -> str:
        return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"

    assert constant(latex(left)) == left
    assert constant(f"({latex(left)})*({latex(right)})") == left * right
    assert same_answer(latex(left), f"{left}") and (left == right) == same_answer(latex(left), f"{right}")


@pytest.mark.parametrize(("mixed", "value"), [
    (r"-1\frac{4}{5}", "-1.8"), (r"1\frac{4}{5}", "1.8"), ("-1 3/4", "-1.75"), ("\u22121 3/4", r"-\frac{7}{4}"), ("1 3/4", "7/4"),
    (r"$-2 \dfrac{1}{2}$", "-2.5"),
])
def test_a_mixed_number_has_its_sign_as_a_whole(mixed: str, value: str) -> None:
    assert same_answer(mixed, value)
    for wrong in ("-0.8", "0.2", "-0.25", "-13/4", "13/4", "-1", "-1.5"):
        assert not same_answer(mixed, wrong)


@given(st.text(alphabet="0123456789.,-+/^*(){}[]\\ $%_xfracsqtpibo\n", max_size=60), st.text(max_size=20))
def test_any_text_is_answered_and_a_text_equals_itself(left: str, right: str) -> None:
    final_number(left + right)
    final_expression(left + right)
    same_answer(left, right)
    assert normal_form(normal_form(left)) is not None
    assert same_answer(left, left)


@pytest.mark.parametrize("hostile", [
    "\\boxed{" * 9000, "(" * 50_000, "9" * 50_000, "1," * 25_000, "answer is " * 5000, "$" * 50_000, "{" * 900, "\\frac" * 150, "-" * 990,
    "9^9^9^9^9", "2^{64}" * 150, "the answer is " + "(" * 900, "\\sqrt" * 190, " " * 50_000, "#### " * 10_000, "(1,(" * 200 + "))" * 200,
])
def test_hostile_answers_take_no_time(hostile: str) -> None:
    started = time.process_time()
    final_number(hostile)
    final_expression(hostile)
    same_answer(hostile[:1000], hostile[:999])
    same_answer(hostile[:1000], "5")
    assert time.process_time() - started < 0.5


def test_gsm8k_verdicts_of_recorded_solutions_all_agree(data_dir: Path) -> None:
    """2,576 solutions of four models with the official is_correct: neither reader differs in one."""
    rows = rows_of(data_dir / "math" / "gsm8k_model_solutions_with_verdicts.jsonl.gz")
    models = [name for name in rows[0] if name not in ("question", "ground_truth")]
    differing, total, right = [], 0, 0
    for row, model in itertools.product(rows, models):
        solution, verdict = row[model]["solution"], row[model]["is_correct"]
        gold = official_gsm8k(row["ground_truth"])
        assert gold is not None
        given_answer = final_number(solution)
        ours = given_answer is not None and same_number(given_answer, gold)
        if ours != verdict or (official_gsm8k(solution) == gold) != verdict:
            differing.append((model, row["question"]))
        total, right = total + 1, right + verdict
    assert (total, right, differing) == (2576, 1000, [])


def test_every_math500_solution_ends_in_its_answer(data_dir: Path) -> None:
    rows = rows_of(data_dir / "math" / "math500.jsonl.gz")
    assert [row["unique_id"] for row in rows if not same_answer(last_boxed(row["solution"]) or "", row["answer"])] == []


def test_of_all_pairs_of_math500_answers_only_these_are_equal(data_dir: Path) -> None:
    """Short answers that are no plain integers: but for dollars that equal degrees, units being left out, no false equality."""
    answers = sorted({row["answer"] for row in rows_of(data_dir / "math" / "math500.jsonl.gz")})
    odd = [answer for answer in answers if not answer.lstrip("-").isdecimal() and len(answer) < 12]
    equal = {pair for pair in itertools.combinations(odd, 2) if same_answer(*pair)}
    assert equal == {
        ("-2,1", "1,-2"), ("2 \\sqrt{5}", "2\\sqrt{5}"), ("36^\\circ", "\\$36"), ("\\frac14", "\\frac{1}{4}"),
    }
