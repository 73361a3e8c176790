"""The thesis' cost table, to the cent."""

from __future__ import annotations

import pytest

from alignray.engine.prices import price_table
from alignray.methods.webr.plan import TABLE_4_5, completion_mean, step_forecast, table_4_5, total

PRINTED = [4.88, 6.02, 10.90, 2.52, 5.45, 8.80]
"""Lines of Table 4.5; their sum is printed as 38.57."""


def test_table_4_5_is_reproduced_line_by_line() -> None:
    steps = table_4_5((0.075, 0.30))
    assert [step.usd for step in steps] == PRINTED
    assert total(steps) == pytest.approx(38.57, abs=1e-9)


def test_the_price_of_the_table_ships_under_its_name() -> None:
    _, prices = price_table()
    batch = prices["gpt-4o-mini-batch"]
    assert f"{total(table_4_5((batch.prompt, batch.completion))):.2f}" == "38.57"


def test_the_calls_are_those_of_100000_rows() -> None:
    calls = {name: count for name, (count, _, _) in TABLE_4_5.items()}
    assert calls["webr/persona"] == 100_000
    assert calls["webr/response (web as instruction)"] + calls["webr/response (web as response)"] == 100_000


def test_one_step_by_hand() -> None:
    step = step_forecast("s", 1000, (200, 50), (1.0, 4.0))
    assert (step.calls, step.prompt_tokens, step.completion_tokens) == (1000, 200_000, 50_000)
    assert step.usd == pytest.approx(0.2 + 0.2)


def test_completions_are_measured_typical_or_half_the_cap_and_never_above_it() -> None:
    assert completion_mean("webr/persona", {}, 1024) == 32
    assert completion_mean("webr/persona", {"webr/persona": 20}, 1024) == 20
    assert completion_mean("webr/persona", {}, 8) == 8
    assert completion_mean("other", {}, 100) == 50


def test_typical_completions_are_the_means_of_the_table() -> None:
    """(66,667 x 123 + 33,333 x 91) / 100,000 = 112.3 and (66,667 x 392 + 33,333 x 522) / 100,000 = 435.3."""
    assert completion_mean("webr/instruction", {}, 10**6) == pytest.approx(112.3, abs=0.5)
    assert completion_mean("webr/response", {}, 10**6) == pytest.approx(435.3, abs=0.5)
    assert completion_mean("webr/refine", {}, 10**6) == 591
