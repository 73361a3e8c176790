"""What a run will cost: the arithmetic of thesis Table 4.5, with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# calls, prompt tokens, completion tokens per call: thesis Table 4.5, priced there at 0.075 and 0.30 USD per million
TABLE_4_5: dict[str, tuple[int, float, float]] = {
    "webr/persona": (100_000, 523, 32),
    "webr/instruction (web as instruction)": (66_667, 711, 123),
    "webr/response (web as instruction)": (66_667, 611, 392),
    "webr/instruction (web as response)": (33_333, 645, 91),
    "webr/response (web as response)": (33_333, 91, 522),
    "webr/refine": (33_333, 1155, 591),
}

TYPICAL_COMPLETION: dict[str, float] = {
    "webr/persona": 32, "webr/instruction": 112, "webr/response": 435, "webr/refine": 591,
}
"""Mean completion tokens per call over both branches, from the same table; used until a run has measured its own."""


@dataclass(frozen=True)
class StepForecast:
    """One step's share of a plan. Tokens are totals over its calls."""

    step: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float


def step_forecast(step: str, calls: int, tokens: tuple[float, float], price: tuple[float, float]) -> StepForecast:
    """Cost of ``calls`` calls at (prompt, completion) tokens per call and dollars per million tokens."""
    prompt, completion = calls * tokens[0], calls * tokens[1]
    return StepForecast(step, calls, round(prompt), round(completion), (prompt * price[0] + completion * price[1]) / 1e6)


def table_4_5(price: tuple[float, float]) -> list[StepForecast]:
    """The thesis' table at the given dollars per million tokens, each line in whole cents as it is printed there.

    At (0.075, 0.30) the lines add up to the 38.57 USD of the thesis; unrounded they are 38.5599.
    """
    steps = [step_forecast(step, calls, (prompt, completion), price) for step, (calls, prompt, completion) in TABLE_4_5.items()]
    return [replace(step, usd=round(step.usd, 2)) for step in steps]


def total(steps: Sequence[StepForecast]) -> float:
    """Dollars of all steps."""
    return sum(step.usd for step in steps)


def completion_mean(step: str, measured: Mapping[str, float], cap: int) -> float:
    """Completion tokens to expect per call: measured where there is a figure, typical else; never above the cap."""
    return min(measured.get(step, TYPICAL_COMPLETION.get(step, cap / 2)), cap)
