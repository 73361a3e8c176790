"""A cap is never passed, whatever settles, is lost or waits, in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alignray.engine.budget import TEMPLATE_TOKENS, Budget, BudgetConfig, worst_case
from alignray.engine.prices import FREE, Price
from alignray.schema import ChatRequest, Message

CENT = 1e-9
"""Rounding of sums of dollars."""


class Spending(RuleBasedStateMachine):
    """Calls are reserved, settled at no more than their worst case, lost, or reserved again, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(BudgetConfig(usd=1.0, tokens=1000))
        self.out: dict[str, tuple[float, int]] = {}
        self.spent_usd, self.spent_tokens, self.number = 0.0, 0, 0

    @rule(usd=st.floats(0, 0.7), tokens=st.integers(0, 700))
    def reserve(self, usd: float, tokens: int) -> None:
        self.number += 1
        key = f"k{self.number}"
        out_usd, out_tokens = sum(usd for usd, _ in self.out.values()), sum(tokens for _, tokens in self.out.values())
        verdict = self.budget.reserve(key, usd, tokens)
        fits_by = 1.0 - self.spent_usd - out_usd - usd
        if abs(fits_by) > CENT:  # at the cap to the last bit either verdict is right
            fits = fits_by > 0 and self.spent_tokens + out_tokens + tokens <= 1000
            assert verdict == ("granted" if fits else "wait" if self.out else "refused")
        if verdict == "granted":
            self.out[key] = (usd, tokens)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.out)))
        usd, tokens = self.out.pop(key)
        self.budget.settle(key, usd * share, int(tokens * share))
        self.spent_usd += usd * share
        self.spent_tokens += int(tokens * share)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.out)))
        usd, tokens = self.out.pop(key)
        self.budget.lose(key)
        self.spent_usd += usd
        self.spent_tokens += tokens

    @invariant()
    def never_above_the_cap(self) -> None:
        assert self.spent_usd + sum(usd for usd, _ in self.out.values()) <= 1.0 + CENT
        assert self.spent_tokens + sum(tokens for _, tokens in self.out.values()) <= 1000

    @invariant()
    def accounts_agree(self) -> None:
        assert self.budget.spent_usd == pytest.approx(self.spent_usd)
        assert self.budget.spent_tokens == self.spent_tokens
        assert self.budget.reserved == self.out


TestSpending = Spending.TestCase


def test_what_does_not_fit_waits_while_others_are_out_and_is_refused_when_none_is() -> None:
    budget = Budget(BudgetConfig(tokens=100))
    assert budget.reserve("a", 0, 60) == "granted"
    assert budget.reserve("b", 0, 60) == "wait"
    budget.settle("a", 0, 30)
    assert budget.reserve("b", 0, 60) == "granted"
    budget.settle("b", 0, 60)
    assert budget.reserve("c", 0, 11) == "refused"
    assert budget.reserve("c", 0, 10) == "granted"


def test_a_lost_call_counts_at_its_worst_case_and_only_once() -> None:
    budget = Budget(BudgetConfig(usd=1.0))
    budget.reserve("a", 0.25, 10)
    budget.lose("a")
    budget.lose("a")
    budget.lose("never there")
    assert (budget.spent_usd, budget.spent_tokens, budget.reserved) == (0.25, 10, {})


def test_reserving_a_key_that_is_out_loses_the_earlier_sending() -> None:
    budget = Budget(BudgetConfig(usd=1.0))
    budget.reserve("a", 0.25, 10)
    assert budget.reserve("a", 0.25, 10) == "granted"
    assert (budget.spent_usd, list(budget.reserved)) == (0.25, ["a"])


def test_what_an_earlier_session_spent_counts() -> None:
    budget = Budget(BudgetConfig(usd=1.0), spent_usd=0.9, spent_tokens=5)
    assert budget.reserve("a", 0.2, 0) == "refused" and budget.reserve("a", 0.05, 0) == "granted"


def test_no_cap_grants_everything_and_a_cap_of_nothing_grants_what_is_free() -> None:
    assert Budget(BudgetConfig()).reserve("a", 1e9, 10**12) == "granted"
    assert not BudgetConfig().is_set and BudgetConfig(usd=0).is_set and BudgetConfig(tokens=0).is_set
    nothing = Budget(BudgetConfig(usd=0))
    assert nothing.reserve("a", 0.0, 50) == "granted" and nothing.reserve("b", 1e-9, 1) == "wait"


def test_rounding_does_not_pile_up_over_many_calls() -> None:
    """0.1 + 0.2 - 0.1 - 0.2 is not 0 in floating point; a hundred thousand such pairs must not move the cap."""
    budget = Budget(BudgetConfig(usd=0.3000001))
    for _ in range(20_000):
        assert budget.reserve("a", 0.1, 1) == "granted" and budget.reserve("b", 0.2, 1) == "granted"
        budget.settle("a", 0, 0)
        budget.settle("b", 0, 0)
    assert budget._reserved_usd == 0.0 and budget.spent_usd == 0


def test_the_worst_case_by_hand() -> None:
    """Two messages of 5 and 2 bytes, 16 tokens of template each and 16 around them, 100 to come."""
    request = ChatRequest((Message("system", "12345"), Message("user", "\u00e9")), max_new_tokens=100)
    assert TEMPLATE_TOKENS == 16
    assert worst_case(request, Price(prompt=1.0, completion=10.0)) == (pytest.approx((55 + 1000) / 1e6), 155)
    assert worst_case(request, FREE) == (0.0, 155)


@given(st.lists(st.text(max_size=50), min_size=1, max_size=4), st.integers(1, 500), st.floats(0, 50), st.floats(0, 50))
def test_no_byte_level_tokenizer_costs_more_than_the_worst_case(
    texts: list[str], max_new_tokens: int, prompt: float, completion: float,
) -> None:
    """A byte-level vocabulary makes at most one token of each UTF-8 byte; a template adds a role and two marks."""
    price = Price(prompt=prompt, completion=completion)
    request = ChatRequest(tuple(Message("user", text) for text in texts), max_new_tokens=max_new_tokens)
    real = sum(len(text.encode("utf-8", "surrogatepass")) + 3 for text in texts) + 3
    usd, tokens = worst_case(request, price)
    assert tokens >= real + max_new_tokens and usd >= price.usd(real, max_new_tokens)


def test_a_request_without_a_cap_cannot_be_priced() -> None:
    with pytest.raises(AssertionError, match="sampling is filled in before"):
        worst_case(ChatRequest((Message("user", "x"),)), FREE)


def test_the_price_table_ships_and_is_dated() -> None:
    from alignray.engine.prices import price_table

    date, prices = price_table()
    assert date.count("-") == 2 and prices["gpt-4o-mini"].usd(1_000_000, 1_000_000) == pytest.approx(0.75)
