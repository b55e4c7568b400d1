"""How fast to ask and how long to insist.

`Pacer` lets requests through at an even pace and stops them all where the service asks for a pause. `insist` tries one
request until it gets an answer that is worth keeping; what it does is a function of the reply's `Outcome` alone:

    ok, row_fatal           done
    transient               again, up to `attempts` times, waiting a random time below a doubling limit ("full jitter")
    rate_minute             everybody pauses for `retry_after`, then again; uses up no attempt
    quota_day               `Stopped`, saying when to come back
    run_fatal               `UserError`, saying what the service said
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_random_exponential

from annotate.errors import Stopped, UserError
from annotate.protocol import Annotator, Outcome, Reply, Request


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to insist. The defaults suit a remote service."""

    attempts: int = 6
    """Tries of one request, rejections for being too fast not counted."""
    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    """The wait is drawn below first_seconds, twice that, four times that, ... and never above this."""
    pauses: int = 30
    """Pauses of the whole run, one after the other with nothing let in between, before giving up."""
    reasks: int = 2
    """Fresh questions after a reply that cannot be read, where decoding is random."""


class Pacer:
    """Admits requests at `requests_per_minute` (None: at once), and none during a pause."""

    def __init__(self, requests_per_minute: float | None, patience: Patience) -> None:
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._patience = patience
        self._next = 0.0
        self._resume = 0.0
        self._pauses = 0
        self._closed = asyncio.Event()

    async def admit(self) -> None:
        """Wait for one's turn. Raises `Stopped` once the pacer is closed."""
        now = asyncio.get_running_loop().time
        turn = max(now(), self._next, self._resume)
        self._next = turn + self._interval
        while (wait := max(turn, self._resume) - now()) > 0:  # a pause may begin while we wait
            await self.sleep(wait)
        if self._closed.is_set():
            raise Stopped("the run has ended")

    async def sleep(self, seconds: float) -> None:
        """Wait. Raises `Stopped` as soon as the pacer is closed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
            raise Stopped("the run has ended")

    def close(self) -> None:
        """Let nobody through any more: the run is over, requests that wait are not sent."""
        self._closed.set()

    def admitted(self) -> None:
        """The service took a request: it is not shut."""
        self._pauses = 0

    def pause(self, retry_after: float | None, detail: str) -> None:
        """Stop everybody, for as long as the service says or ever longer. Many rejections at once are one pause."""
        now = asyncio.get_running_loop().time()
        if now >= self._resume:
            self._pauses += 1
            if self._pauses > self._patience.pauses:
                raise Stopped(f"the service lets nothing through ({detail or 'too many requests'}); try again later")
        wait = min(self._patience.longest_seconds, self._patience.first_seconds * 2 ** (self._pauses - 1))
        self._resume = max(self._resume, now + (wait if retry_after is None else retry_after))


async def insist(annotator: Annotator, request: Request, pacer: Pacer, patience: Patience) -> tuple[Reply, int]:
    """One request until it is settled: the last reply (ok, row_fatal, or transient after all tries), and the tries."""
    retrying = AsyncRetrying(
        stop=stop_after_attempt(patience.attempts),
        wait=_Wait(patience),
        retry=retry_if_result(_is_transient),
        sleep=pacer.sleep,
        retry_error_callback=_last,
    )
    reply: Reply = await retrying(_let_in, annotator, request, pacer)
    tries: int = retrying.statistics["attempt_number"]
    if reply.outcome is Outcome.QUOTA_DAY:
        raise Stopped(f"the daily quota is used up ({reply.detail or annotator.model}); {_when(reply.retry_after)}")
    if reply.outcome is Outcome.RUN_FATAL:
        raise UserError(f"the annotator {annotator.model} refuses every request: {reply.detail}")
    return reply, tries


async def _let_in(annotator: Annotator, request: Request, pacer: Pacer) -> Reply:
    """The answer to one request that was not rejected for being too fast."""
    while True:
        await pacer.admit()
        reply = await annotator.reply(request)
        if reply.outcome is not Outcome.RATE_MINUTE:
            pacer.admitted()
            return reply
        pacer.pause(reply.retry_after, reply.detail)


def _is_transient(reply: Reply) -> bool:
    return reply.outcome is Outcome.TRANSIENT


def _last(state: RetryCallState) -> Reply:
    assert state.outcome is not None
    reply: Reply = state.outcome.result()
    return reply


class _Wait:
    """Full jitter, and never less than the service asks for."""

    def __init__(self, patience: Patience) -> None:
        self._jitter = wait_random_exponential(multiplier=patience.first_seconds, max=patience.longest_seconds)

    def __call__(self, state: RetryCallState) -> float:
        return max(self._jitter(state), _last(state).retry_after or 0.0)


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "come back tomorrow with the same command; nothing is asked twice"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"come back in {hours} h {minutes} min with the same command; nothing is asked twice"
