"""The best that any client could do: the same rows, faults and latencies with no overhead at all.

An event simulation, no clock and no network. The client knows the service's bucket exactly, sends at the very moment a
token is there, first come first served with retries first, and puts a failed row back the instant its answer is in.
Where ours takes 31.0 s and this 30.9 s, ours over oracle is 1.003; nobody can stay below 1 by much (another order of
the rows may end with shorter answers).

    best = oracle(keys, draw, requests_per_minute=1200, burst=20)
    best.span                # seconds from the first request to the last answer
    best.calls               # requests it takes, retries included
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Draw = Callable[[str, int], tuple[float, bool]]
"""(key of a row, attempt from 0) -> (seconds until the answer is in, whether it settles the row)."""


@dataclass(frozen=True, kw_only=True)
class Best:
    span: float
    calls: int
    in_flight: int
    """At most, at any moment."""


def oracle(keys: Iterable[str], draw: Draw, *, requests_per_minute: float, burst: int) -> Best:
    """Simulate. The bucket holds `burst` tokens at the start and gains `requests_per_minute / 60` a second."""
    interval = 60.0 / requests_per_minute
    fresh = deque((key, 0) for key in keys)
    again: deque[tuple[str, int]] = deque()
    flying: list[tuple[float, int, str, int, bool]] = []  # answer at, number of the request, row, attempt, settles
    now = full_at = last = 0.0  # `full_at`: when the bucket will be full again
    calls = most = 0
    while fresh or again or flying:
        turn = max(now, full_at - (burst - 1) * interval) if fresh or again else float("inf")
        if flying and flying[0][0] <= turn:
            now, _, key, attempt, settles = heapq.heappop(flying)
            last = now
            if not settles:
                again.append((key, attempt + 1))
            continue
        now = turn
        full_at = max(full_at, now) + interval
        key, attempt = again.popleft() if again else fresh.popleft()
        seconds, settles = draw(key, attempt)
        heapq.heappush(flying, (now + seconds, calls, key, attempt, settles))
        calls += 1
        most = max(most, len(flying))
    return Best(span=last, calls=calls, in_flight=most)
