"""Endpoints in simulated time, to see what a controller makes of them."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from alignray.engine.concurrency import Controller, Ticket


@dataclass
class Endpoint:
    """A queue or a door of ``slots(t)`` places, a token bucket, or both."""

    latency: Callable[[float, int], float] = lambda now, busy: 0.2
    slots: Callable[[float], float] = lambda now: math.inf
    refuses: bool = False
    """Beyond the slots: 429 (True) or wait in line."""
    rate: float = math.inf
    burst: float = 1.0
    retry_after_s: float = 0.0
    busy: int = 0
    line: list[Ticket] = field(default_factory=list)
    tokens: float = -1.0
    refilled_at: float = 0.0

    def take_token(self, now: float) -> bool:
        if self.rate == math.inf:
            return True
        if self.tokens < 0:
            self.tokens = self.burst
        self.tokens = min(self.burst, self.tokens + (now - self.refilled_at) * self.rate)
        self.refilled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class Outcome:
    served: list[float] = field(default_factory=list)
    sends: list[float] = field(default_factory=list)
    refused: int = 0
    limits: list[tuple[float, float]] = field(default_factory=list)

    def rate(self, start: float, end: float) -> float:
        return sum(start <= moment < end for moment in self.served) / (end - start)


def simulate(controller: Controller, endpoint: Endpoint, *, seconds: float, callers: int = 256, seed: int = 0) -> Outcome:
    """``callers`` that always have one more call to make; a refused one backs off for up to half a second."""
    rng, out = random.Random(seed), Outcome()
    events: list[tuple[float, int, str, Ticket | None]] = []
    ready, number, now, alarm = callers, 0, 0.0, math.inf

    def at(moment: float, what: str, ticket: Ticket | None = None) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (moment, number, what, ticket))

    def begin(ticket: Ticket) -> None:
        endpoint.busy += 1
        at(now + endpoint.latency(now, endpoint.busy), "done", ticket)

    while now < seconds:
        while ready and controller.next_send() <= now:
            ready -= 1
            ticket = controller.sent(now)
            out.sends.append(now)
            full = endpoint.busy >= endpoint.slots(now)
            if (full and endpoint.refuses) or not endpoint.take_token(now):
                at(now + 0.002, "refused", ticket)
            elif full:
                endpoint.line.append(ticket)
            else:
                begin(ticket)
        due = controller.next_send()
        if ready and due < math.inf and due < alarm:
            alarm = due
            at(due, "alarm")
        if not events:
            break
        now, _, what, done = heapq.heappop(events)
        if what == "alarm":
            alarm = math.inf
        elif what == "back":
            ready += 1
        elif what == "refused":
            assert done is not None
            out.refused += 1
            controller.throttled(done, now, endpoint.retry_after_s)
            at(now + rng.random() * 0.5, "back")
        else:
            assert done is not None
            endpoint.busy -= 1
            out.served.append(now)
            controller.succeeded(done, now)
            ready += 1
            while endpoint.line and endpoint.busy < endpoint.slots(now):
                begin(endpoint.line.pop(0))
        out.limits.append((now, controller.limit))
    return out
