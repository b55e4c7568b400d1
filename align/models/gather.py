"""Between the coroutines that ask and the one thread that answers: requests that wait together go together.

    gather = Gather(serve, most=16, quiet_ms=20)
    reply = await gather.reply(request)            # from any number of coroutines

`serve(requests, say)` runs in the thread; it calls `say(i, reply)` as soon as request i is answered. Meanwhile new
requests collect for the next round. What it leaves unanswered is `transient`: the runner asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from align.models.judge import Say
from annotate.protocol import Outcome, Reply, Request

T = TypeVar("T")


@dataclass(frozen=True)
class _Waiting:
    request: Request
    answered: asyncio.Future[Reply]


class Gather:
    def __init__(self, serve: Callable[[Sequence[Request], Say], None], *, most: int, quiet_ms: float) -> None:
        """A round begins when `most` requests wait, or none has come for `quiet_ms`."""
        self._serve, self._most, self._quiet = serve, most, quiet_ms / 1000
        self._waiting: list[_Waiting] = []
        self._rounds: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self.stopped = threading.Event()
        """Set while closing: `serve` is to return soon."""

    async def reply(self, request: Request) -> Reply:
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._serve_rounds())
        return await waiting.answered

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run something else where `serve` runs."""
        if self._thread is None:
            self.stopped.clear()
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def close(self) -> None:
        """Stop what is being served and end the thread; what waits is left unanswered."""
        self.stopped.set()
        if self._rounds is not None:
            self._rounds.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rounds
        self._rounds, self._waiting = None, []
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.to_thread(thread.shutdown)

    async def _serve_rounds(self) -> None:
        while self._waiting:
            await self._until_quiet()
            together = [w for w in self._waiting if not w.answered.done()]  # who was cancelled is gone
            self._waiting = []
            try:
                await self._round(together)
            except Exception as error:  # told to those who asked
                for waiting in together:
                    if not waiting.answered.done():
                        waiting.answered.set_exception(error)

    async def _round(self, together: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()

        def say(i: int, reply: Reply) -> None:
            loop.call_soon_threadsafe(_settle, together[i], reply)

        requests = [w.request for w in together]
        await self.in_thread(lambda: self._serve(requests, say))
        for waiting in together:
            _settle(waiting, Reply(outcome=Outcome.TRANSIENT, detail="the worker ended before it answered"))

    async def _until_quiet(self) -> None:
        seen = 0
        while seen < len(self._waiting) < self._most:
            seen = len(self._waiting)
            await asyncio.sleep(self._quiet)


def _settle(waiting: _Waiting, reply: Reply) -> None:
    if not waiting.answered.done():
        waiting.answered.set_result(reply)
