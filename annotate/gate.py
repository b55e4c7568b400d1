"""Who goes next: every request passes here, and is told by which lane it goes.

Each lane lets one in whenever its pace allows, the first in the queue: requests that were sent before and have to be
sent again stand before new ones. There are no batches and nobody waits for anybody else's reply.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from annotate.errors import Stopped
from annotate.lanes import Lane
from annotate.quota import seconds_to_midnight

Tell = Callable[[str], None]


@dataclass(order=True)
class _Waiter:
    fresh: bool
    number: int
    tokens: int = field(compare=False)
    turn: asyncio.Future[Lane] = field(compare=False)


class Gate:
    """Admission to all lanes of a run; `workers` bounds the requests in flight over all of them."""

    def __init__(self, lanes: Sequence[Lane], *, workers: int | None, wait_quota: bool, tell: Tell) -> None:
        self.lanes, self._workers, self._wait_quota, self._tell = lanes, workers, wait_quota, tell
        self._queue: list[_Waiter] = []
        self._numbers = 0
        self._changed = asyncio.Event()  # somebody came, somebody left
        self._closed = False
        self.in_flight = 0

    def open(self) -> None:
        self._servers = [asyncio.create_task(self._serve(lane)) for lane in self.lanes]

    def close(self) -> None:
        """Let nobody through any more; those who wait are sent away with `Stopped`."""
        self._closed = True
        for server in self._servers:
            server.cancel()
        for waiter in self._queue:
            if not waiter.turn.done():
                waiter.turn.set_exception(Stopped("the run has ended"))
        self._queue.clear()

    async def enter(self, tokens: int, *, fresh: bool) -> Lane:
        """Wait for one's turn; the lane to go by. Raises `Stopped` once the gate is closed."""
        if self._closed:
            raise Stopped("the run has ended")
        self._numbers += 1
        waiter = _Waiter(fresh, self._numbers, tokens, asyncio.get_running_loop().create_future())
        heapq.heappush(self._queue, waiter)
        self._changed.set()
        return await waiter.turn

    def leave(self, lane: Lane) -> None:
        """The reply is there."""
        lane.in_flight -= 1
        self.in_flight -= 1
        self._changed.set()

    def shut(self, lane: Lane, why: str, seconds: float | None = None) -> Stopped | None:
        """The daily quota of a lane is used up: wait for the next day, or close it; after the last one the run ends."""
        if seconds is None:
            seconds = seconds_to_midnight(lane.traits.quota_zone, time.time()) + 60
            if self._wait_quota and seconds > 23 * 3600:
                seconds = 600.0  # it is just past midnight; the service's clock, or its reset, may be a little late
        if self._wait_quota:
            until = asyncio.get_running_loop().time() + seconds
            if until > lane.not_before + 60:
                self._tell(f"daily quota used up ({why}); waiting {spelled(seconds)}")
            lane.not_before = max(lane.not_before, until)
            return None
        lane.closed = f"the daily quota is used up ({why}); come back in {spelled(seconds)} with the same command"
        if not all(other.closed for other in self.lanes):
            return None
        return Stopped(f"{lane.closed} (or add --wait-quota); nothing is asked twice")

    # ---------------------------------------------------------------------------------------------------- one lane

    async def _serve(self, lane: Lane) -> None:
        now = asyncio.get_running_loop().time
        while not lane.closed:
            most = self._workers if self._workers and not lane.traits.batch else 10**9
            full = lane.in_flight >= lane.most_in_flight or self.in_flight >= most
            if not self._queue or full:
                self._changed.clear()
                await self._changed.wait()
                continue
            if lane.day_is_full:
                stopped = self.shut(lane, f"requests_per_day {lane.limits.requests_per_day}", lane.day.reset_in())
                if stopped is not None and not self._queue[0].turn.done():
                    heapq.heappop(self._queue).turn.set_exception(stopped)  # who is told, ends the run
            wait = max(lane.wait(now(), self._queue[0].tokens), lane.not_before - now())
            if wait > 0 or lane.closed:
                await asyncio.sleep(min(wait, 60.0))  # a pause may have begun, a retry may have come: look again
                continue
            if not self._queue:
                continue  # another lane was quicker
            waiter = heapq.heappop(self._queue)
            try:
                lane.took(now(), waiter.tokens)
            except OSError as error:  # the day's count cannot be kept: whoever waits is told, and ends the run
                waiter.turn.set_exception(error)
                continue
            self.in_flight += 1
            if waiter.turn.cancelled():
                self.leave(lane)
            else:
                waiter.turn.set_result(lane)


def spelled(seconds: float) -> str:
    """A duration for people: `5 h 12 min`."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
