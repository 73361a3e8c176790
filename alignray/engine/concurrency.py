"""How many requests to keep open at an endpoint whose capacity nobody told us.

``Controller`` is pure: it is told what happened and when, and says when the next request may leave. ``Gate`` makes
coroutines wait for it.

Two signals find the capacity. A 429 or 503 is a cut: the limit falls to just under the number of requests that were
open when the refused one left. Latency tells of queueing, which is the same as throughput that no longer grows:
between two limits, the *elasticity* ``ln(latency ratio) / ln(limit ratio)`` is 0 while there is room and 1 when every
further request only waits in line. It is compared between neighbouring limits, not with an unloaded endpoint, because
a batching server gets slower and faster at the same time. A start by doubling, then probes 20 % up and 15 % down, far
apart while they find nothing new; up-probes that pay grow back to doubling.

While it starts, and with an endpoint that has refused anything, requests leave at a pace slightly above ``limit /
latency``: a bucket of tokens may hold few, and would refuse the burst that refills an emptied pipe. Others get theirs at
once, so that nothing is lost when this process itself was held up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

START = 8
"""Requests open at first."""
UP_STEP, DOWN_STEP = 0.2, 0.15
"""Size of a probe, as a share of the limit."""
UP_PAYS_BELOW, DOWN_PAYS_ABOVE = 0.7, 0.85
"""Elasticity that lets a probe stay: throughput must gain upwards, must not suffer downwards."""
FULL_SHARE = 0.9
"""Only calls that left with the limit this full tell what the limit costs."""
MIN_WINDOW = 16
"""Fewest latencies behind one decision."""
HOLD_ROUNDS, FIRST_HOLD, MAX_HOLD_S = 20, 0.25, 30.0
"""Time between probes, in latencies: a quarter of it at first, doubling up to four times it while probes find nothing."""
HOLD_PER_PAUSE = 60
"""Hold after a Retry-After, in pauses: a probe that costs a pause then costs under 2 % of the time."""
MAX_PAUSE_S = 20.0
"""Longest silence, whatever Retry-After asks for: one request then looks whether the endpoint is back."""
PACE_GAIN, PACE_SLACK_S = 1.1, 0.005
"""Sends may outrun limit / latency by this factor, and come in bursts of this length."""
CUT, PAUSE_CUT, EDGE_SHARE = 0.95, 0.9, 0.98
"""A refusal lowers the limit to this share, or to this share of what the endpoint took. Where each refusal silences all
senders for a while, it pays to stay clear of the edge."""
TIMEOUT_SHARE = 0.1
"""Timeouts per success that mean overload; fewer are single hung calls."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request under way."""

    sent_at: float
    level: int
    """Requests open when it left, itself included."""
    round: int


class Controller:
    """The limit on open requests. All times come from the caller's clock, in seconds."""

    def __init__(self, max_in_flight: int, *, start: int = START) -> None:
        self.max_in_flight = max_in_flight
        self.limit = float(min(start, max_in_flight))
        self.in_flight = 0
        self.latency_s = 0.0
        """Mean latency of about the last round; 0 before the first success."""
        self._round = 0
        self._sum, self._count = 0.0, 0
        self._phase, self._next_probe, self._step = "up", "down", 1.0
        self._reference: tuple[float, float] | None = None
        self._candidate = (0.0, 0.0)
        self._hold_until, self._hold_scale = 0.0, FIRST_HOLD
        self._paused_until, self._due = 0.0, 0.0
        self._is_paced, self._was_refused = True, False
        self._cut_until, self._cut_floor = -math.inf, 1.0
        self._successes, self._timeouts, self._storm = 0, 0, 0

    def next_send(self) -> float:
        """When the next request may leave (a past time: at once); infinity while every place is taken."""
        if self.in_flight >= int(self.limit):
            return math.inf
        return max(self._paused_until, self._due - PACE_SLACK_S)

    def sent(self, now: float) -> Ticket:
        """Takes a place; the ticket goes back through exactly one of the four outcomes below."""
        self.in_flight += 1
        if self._is_paced:
            self._due = max(self._due, now) + self.latency_s / (PACE_GAIN * self.limit)
        return Ticket(now, self.in_flight, self._round)

    def succeeded(self, ticket: Ticket, now: float) -> None:
        """The endpoint answered."""
        self.in_flight -= 1
        self._successes += 1
        latency = now - ticket.sent_at
        self.latency_s += (latency - self.latency_s) / (max(self.limit, MIN_WINDOW) if self.latency_s else 1.0)
        if self._storm:
            self._storm = 0
            self._restart()
        elif ticket.round == self._round and ticket.level >= int(FULL_SHARE * int(self.limit)):
            self._sum += latency
            self._count += 1
            if self._count >= (self.limit if self._step >= 1.0 else max(self.limit, MIN_WINDOW)):
                self._end_round(self._sum / self._count, now)

    def throttled(self, ticket: Ticket, now: float, retry_after_s: float = 0.0) -> None:
        """The endpoint said it is too much (429, 503): fewer from now on, none before its Retry-After."""
        self.in_flight -= 1
        self._is_paced = self._was_refused = True
        pause = min(retry_after_s, MAX_PAUSE_S)
        if now >= self._cut_until:
            self._cut_floor = self.limit / 2
            if self._cut_until > -math.inf and not self._successes:
                # refused all over a whole round: the endpoint is not over its limit but closed, so knock ever more rarely
                pause = max(pause, min(0.25 * 2**self._storm, MAX_PAUSE_S))
                self._storm += 1
            self._successes = self._timeouts = 0
            self._cut_until = now + max(self.latency_s, 0.1, pause)
            self._lower(ticket.level, pause)
        elif not pause:
            self._lower(ticket.level, pause)
        self._paused_until = max(self._paused_until, now + pause)
        self._hold_scale = max(self._hold_scale, 1.0)
        self._hold("up", now, at_least_s=HOLD_PER_PAUSE * pause)
        self._new_round()

    def timed_out(self, ticket: Ticket, now: float) -> None:
        """No answer in time; many of these beside few answers mean that the queue has grown too long."""
        self.in_flight -= 1
        self._timeouts += 1
        if self._timeouts > max(2.0, TIMEOUT_SHARE * self._successes) and ticket.sent_at >= self._cut_until:
            self.limit = max(1.0, self.limit / 2)
            self._successes = self._timeouts = 0
            self._cut_until = now
            self._hold("up", now)
            self._new_round()

    def failed(self, ticket: Ticket) -> None:
        """Any other end of a call; it says nothing about capacity."""
        self.in_flight -= 1

    def _lower(self, refused_level: int, pause: float) -> None:
        """After a refused probe back to what the endpoint took; else a little down. At most by half in one round."""
        taken = refused_level - 1.0
        proven = self._reference[0] if self._reference is not None and self._reference[0] < self.limit else 0.0
        if self._phase == "up" and proven:
            lowered = max(proven, round((EDGE_SHARE if pause else 1.0) * taken))
        else:
            lowered = max(proven, PAUSE_CUT * self.limit) if pause else max(taken, CUT * self.limit)
        self.limit = max(1.0, self._cut_floor, min(self.limit, lowered))

    def _end_round(self, latency: float, now: float) -> None:
        here = (self.limit, latency)
        reference = self._reference
        if self._phase == "hold":
            self._reference = here
            if now >= self._hold_until:
                self._phase = self._next_probe
                self._move()
        elif self._phase == "up":
            pays = reference is None or _elasticity(reference, here) < UP_PAYS_BELOW
            self._judge(pays, here, back_to="up" if self._step >= 1.0 else "down", now=now)
        elif self._phase == "down":
            if reference is not None and _elasticity(here, reference) > DOWN_PAYS_ABOVE:
                # a moment of noise looks the same: only when the old limit is slow once more does the lower one stay
                self._phase, self._candidate, self.limit = "confirm", here, reference[0]
            else:
                self._judge(False, here, back_to="up", now=now)
        else:
            pays = _elasticity(self._candidate, here) > DOWN_PAYS_ABOVE
            if pays:
                self.limit, self._phase = self._candidate[0], "down"
            self._judge(pays, self._candidate if pays else here, back_to="up", now=now)
        self._new_round()

    def _judge(self, pays: bool, here: tuple[float, float], *, back_to: str, now: float) -> None:
        """Go on in the probe's direction where it paid and can go on; else back to the reference, and hold."""
        if pays:
            self._reference = here
            self._hold_scale = FIRST_HOLD
            if self._move():
                return
        elif self._reference is not None:
            self.limit = self._reference[0]
        self._is_paced = self._was_refused
        self._hold(back_to, now)
        self._hold_scale = min(2 * self._hold_scale, 4.0)

    def _move(self) -> bool:
        before = self.limit
        if self._phase == "up":
            self.limit = min(max(self.limit * (1 + self._step), self.limit + 1), float(self.max_in_flight))
            self._step = min(2 * self._step, 1.0)
        else:
            self.limit = max(self.limit * (1 - DOWN_STEP), 1.0)
        return int(self.limit) != int(before)

    def _hold(self, next_probe: str, now: float, *, at_least_s: float = 0.0) -> None:
        self._phase, self._next_probe, self._step = "hold", next_probe, UP_STEP
        hold_s = min(HOLD_ROUNDS * self._hold_scale * self.latency_s, MAX_HOLD_S)
        self._hold_until = now + max(hold_s, at_least_s)

    def _restart(self) -> None:
        self._phase, self._step, self._reference = "up", 1.0, None
        self._new_round()

    def _new_round(self) -> None:
        self._round += 1
        self._sum, self._count = 0.0, 0


def _elasticity(low: tuple[float, float], high: tuple[float, float]) -> float:
    """How much of a growth of the limit went into latency: 0 none, 1 all of it."""
    if high[0] <= low[0] or low[1] <= 0 or high[1] <= 0:
        return 0.0
    return math.log(high[1] / low[1]) / math.log(high[0] / low[0])


class Gate:
    """Lets coroutines through as a controller allows, first come first served."""

    def __init__(self, controller: Controller, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.controller = controller
        self.clock = clock
        self._waiting: deque[asyncio.Future[Ticket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self) -> Ticket:
        """Waits for a place. The ticket must go back to the controller, followed by ``pump``."""
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self.controller.failed(future.result())
                self.pump()
            raise

    def pump(self) -> None:
        """Lets in whoever may go now and sets the alarm for the next one. Call after each outcome."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            now, due = self.clock(), self.controller.next_send()
            if due <= now:
                self._waiting.popleft().set_result(self.controller.sent(now))
                continue
            if due < math.inf:
                self._timer = asyncio.get_running_loop().call_later(due - now, self.pump)
            return

    def refuse_all(self, error: Exception) -> None:
        """Everyone who waits gets an error of their own like this one."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(type(error)(*error.args))
