"""Grants: what was reserved for a call that was lost stays reserved, also when the call is asked again."""

from __future__ import annotations

from alignray.runtime.ask import _Purse
from alignray.schema import Completion


def test_a_call_asked_again_does_not_settle_what_was_lost_the_first_time() -> None:
    answer = Completion(text="", finish_reason="stop", prompt_tokens=1, completion_tokens=1, model="m", latency_s=0.0, cost_usd=0.1)
    first, again = (_Purse(None, "key", "row", (1.0, 10)) for _ in range(2))
    assert first.settles(answer) != again.settles(answer)
    assert first.settles(answer).startswith("key#")
