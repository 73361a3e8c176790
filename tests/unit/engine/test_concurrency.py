"""The controller against endpoints in simulated time, where the best possible throughput is known."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from simulated_endpoint import Endpoint, simulate

from alignray.engine.concurrency import MAX_PAUSE_S, Controller, Gate


def share_of(capacity: float, endpoint: Endpoint, *, start: float = 10, end: float = 90, max_in_flight: int = 256) -> float:
    outcome = simulate(Controller(max_in_flight), endpoint, seconds=end)
    return outcome.rate(start, end) / capacity


@pytest.mark.parametrize("slots", [10, 64, 200])
@pytest.mark.parametrize("door", ["queue", "429", "429 with Retry-After"])
def test_fixed_slots_are_filled_without_being_told_their_number(slots: int, door: str) -> None:
    endpoint = Endpoint(
        slots=lambda now: slots, refuses=door != "queue", retry_after_s=1.0 if door.endswith("After") else 0.0
    )
    assert share_of(slots / 0.2, endpoint) >= 0.95


@pytest.mark.parametrize(("rate", "burst"), [(50, 50), (300, 300), (300, 10), (800, 20)])
@pytest.mark.parametrize("retry_after_s", [0.0, 1.0])
def test_a_token_bucket_is_drained(rate: float, burst: float, retry_after_s: float) -> None:
    assert share_of(rate, Endpoint(rate=rate, burst=burst, retry_after_s=retry_after_s), end=120) >= 0.90


def test_a_known_capacity_is_used_from_the_cap_alone() -> None:
    assert share_of(64 / 0.2, Endpoint(slots=lambda now: 64), max_in_flight=64) >= 0.98


def test_answers_of_very_different_length_do_not_mislead_it() -> None:
    rng = random.Random(3)
    endpoint = Endpoint(latency=lambda now, busy: 0.2 * rng.lognormvariate(-0.125, 0.5), slots=lambda now: 100)
    assert share_of(500, endpoint) >= 0.93


def test_a_batching_server_that_slows_down_as_it_speeds_up_is_not_taken_for_a_queue() -> None:
    # latency 0.2 s alone, 1 s at 256: more requests still mean more answers per second, up to 256 / s
    assert share_of(256, Endpoint(latency=lambda now, busy: 0.2 * (1 + busy / 64))) >= 0.85


def test_a_queue_stays_short() -> None:
    controller = Controller(256)
    simulate(controller, Endpoint(slots=lambda now: 40), seconds=60)
    assert 38 <= controller.limit <= 60


def test_a_capacity_that_shrinks_is_followed_through_retry_after_pauses() -> None:
    endpoint = Endpoint(slots=lambda now: 100 if now < 30 else 20, refuses=True, retry_after_s=1.0)
    outcome = simulate(Controller(256), endpoint, seconds=90)
    assert outcome.rate(60, 90) >= 0.90 * 100


def test_few_requests_are_refused_once_the_number_of_slots_is_found() -> None:
    outcome = simulate(Controller(256), Endpoint(slots=lambda now: 64, refuses=True), seconds=60)
    assert outcome.refused / len(outcome.sends) < 0.01


@pytest.mark.parametrize("refuses", [True, False])
def test_it_follows_a_capacity_that_changes(refuses: bool) -> None:
    endpoint = Endpoint(slots=lambda now: 100 if int(now / 30) % 2 == 0 else 20, refuses=refuses)
    outcome = simulate(Controller(256), endpoint, seconds=90)
    assert outcome.rate(45, 60) >= 0.95 * 100
    assert outcome.rate(75, 90) >= 0.90 * 500


@pytest.mark.parametrize("retry_after_s", [0.0, 5.0, 3600.0])
def test_a_long_refusal_is_knocked_on_rarely_but_never_left_alone_for_30_s(retry_after_s: float) -> None:
    endpoint = Endpoint(slots=lambda now: 0 if 20 <= now < 140 else 50, refuses=True, retry_after_s=retry_after_s)
    outcome = simulate(Controller(256), endpoint, seconds=240)
    gaps = [later - earlier for earlier, later in zip(outcome.sends, outcome.sends[1:], strict=False)]
    assert max(gaps) < 30
    knocks = sum(30 <= moment < 140 for moment in outcome.sends)
    assert 4 <= knocks <= 60
    # back within one pause and a start by doubling
    assert outcome.rate(190, 240) >= 0.85 * 250


def test_retry_after_silences_all_senders() -> None:
    controller = Controller(64)
    tickets = [controller.sent(0.0) for _ in range(4)]
    controller.throttled(tickets[0], 1.0, 7.0)
    assert controller.next_send() == 8.0
    controller.throttled(tickets[1], 1.0, 1e6)
    assert controller.next_send() == 1.0 + MAX_PAUSE_S


def test_single_hung_calls_cost_no_capacity_but_a_choked_endpoint_gets_fewer() -> None:
    controller = Controller(100, start=100)
    for moment in range(1000):
        ticket = controller.sent(moment * 0.01)
        controller.succeeded(ticket, moment * 0.01 + 0.2)
    before = controller.limit
    controller.timed_out(controller.sent(11.0), 41.0)
    assert controller.limit == before
    for _ in range(150):
        controller.timed_out(controller.sent(50.0), 80.0)
    assert controller.limit == before / 2


def test_no_place_is_lost_or_invented() -> None:
    rng, controller, open_tickets, now = random.Random(0), Controller(32), [], 0.0
    for _ in range(20_000):
        now += rng.random() * 0.02
        if controller.next_send() <= now:
            open_tickets.append(controller.sent(now))
        if open_tickets and rng.random() < 0.7:
            ticket = open_tickets.pop(rng.randrange(len(open_tickets)))
            outcome = rng.random()
            if outcome < 0.8:
                controller.succeeded(ticket, now)
            elif outcome < 0.9:
                controller.throttled(ticket, now, rng.choice([0.0, 0.1]))
            elif outcome < 0.95:
                controller.timed_out(ticket, now)
            else:
                controller.failed(ticket)
        assert controller.in_flight == len(open_tickets)
        assert 1 <= controller.limit <= 32
    assert math.isfinite(controller.latency_s)


def test_the_gate_is_first_come_first_served_and_survives_cancelled_waiters() -> None:
    async def main() -> list[int]:
        gate, order = Gate(Controller(1)), []

        async def call(number: int) -> None:
            ticket = await gate.enter()
            order.append(number)
            await asyncio.sleep(0.001)
            gate.controller.succeeded(ticket, gate.clock())
            gate.pump()

        tasks = [asyncio.create_task(call(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.controller.in_flight == 0
        return order

    assert asyncio.run(main()) == [0, 1, 3, 4, 5]
