"""How long to insist, as a function of a reply's `Outcome` alone:

ok, row_fatal   done
transient       again, up to `attempts` times, waiting a random time below a doubling limit ("full jitter")
rate_minute     the whole lane pauses for as long as the service says, or ever longer; uses up no attempt
quota_day       the lane is closed for today, or waits for tomorrow; the last one ends the run with `Stopped`
run_fatal       the run ends with `UserError`, saying what the service said
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotate.protocol import Outcome, Reply

if TYPE_CHECKING:
    from tenacity import RetryCallState


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to insist. The defaults suit a remote service."""

    attempts: int = 6
    """Tries of one request, rejections for being too fast not counted."""
    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    """The wait is drawn below first_seconds, twice that, four times that, ... and never above this."""
    pauses: int = 30
    """Pauses of a lane, one after the other with nothing achieved in between, before giving up."""
    outages: int = 8
    """Pauses of a lane, one after the other, because it answers nothing but errors; about four minutes."""
    errors: int = 20
    """Transient errors in a row, over all requests, after which the service is taken to be down."""
    reasks: int = 2
    """Fresh questions after a reply that cannot be read, where the annotator may answer otherwise."""
    refusals: int = 20
    """Refused requests in a row, after which the fault is taken to be ours."""
    farewell_seconds: float = 60.0
    """After Ctrl-C, how long replies that are under way, and paid for, are waited for."""


Send = Callable[[], Awaitable[Reply]]
"""Sends one request and waits for a reply that is not about the pace."""


async def insist(
    send: Send, patience: Patience, sleep: Callable[[float], Awaitable[None]], well: Callable[[], bool]
) -> tuple[Reply, int]:
    """The last reply to one request (ok, row_fatal, or transient after all tries), and the number of tries.

    `well` says whether other requests succeed, so that an error is this one's alone.
    """
    from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt

    retrying = AsyncRetrying(
        stop=stop_after_attempt(patience.attempts),
        wait=_Wait(patience, well),
        retry=retry_if_result(_is_transient),
        sleep=sleep,
        retry_error_callback=_last,
    )
    reply: Reply = await retrying(send)
    tries: int = retrying.statistics["attempt_number"]
    return reply, tries


def _is_transient(reply: Reply) -> bool:
    return reply.outcome is Outcome.TRANSIENT


def _last(state: RetryCallState) -> Reply:
    assert state.outcome is not None
    reply: Reply = state.outcome.result()
    return reply


class _Wait:
    """At once for the first two, then full jitter; and never less than the service asks for."""

    def __init__(self, patience: Patience, well: Callable[[], bool]) -> None:
        from tenacity import wait_random_exponential

        self._well = well
        self._jitter = wait_random_exponential(multiplier=patience.first_seconds, max=patience.longest_seconds)

    def __call__(self, state: RetryCallState) -> float:
        wait = 0.0 if state.attempt_number <= 2 and self._well() else self._jitter(state)
        return max(wait, _last(state).retry_after or 0.0)
