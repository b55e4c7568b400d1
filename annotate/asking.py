"""Asks an annotator many things at once; async inside, plain outside. What `run.py` and `teach.py` have in common.

In: calls, each with a key. Out, through `done(key, line)`, one line per call, in the order in which they are settled:

    {"outcome": "ok", "reason": null, "detail": "", "attempts": 1, "cost_usd": 0.0,
     "replies": [{"request_sha256": "5c…", "text": "...", "cut_off": false, "usage": {}, "model_version": "",
                  "response_id": "", "finish": "STOP", "seconds": 1.2}]}

Every raw text is kept, also of replies that could not be read, so that reading again with a better parser costs no
call; a text that is not the last of its call is kept in `attempts.jsonl` the moment it arrives.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate.asked import Asked, tokens_of
from annotate.calls import AskSettings, Call, CostOf, ReadImage
from annotate.errors import MmalignError, Stopped, UserError
from annotate.gate import Gate
from annotate.journal import Journal
from annotate.lanes import Lane
from annotate.limits import Patience
from annotate.protocol import Outcome, Request
from annotate.purse import Purse, dollars
from annotate.records import Reason
from annotate.stage import Done, Progress


def ask_all(
    lanes: Sequence[Lane],
    calls: Mapping[str, Call],
    *,
    settings: AskSettings,
    cost_of: CostOf,
    read_image: ReadImage,
    done: Done,
    workspace: Path,
    progress: Progress,
    patience: Patience,
) -> None:
    """Ask all `calls`. Raises `Stopped` or `UserError` after what is in flight has been kept."""
    if not calls:
        return
    workspace.mkdir(parents=True, exist_ok=True)
    purse = Purse(workspace, settings.budget_usd)
    asking = Asking(lanes, calls, settings, cost_of, read_image, done, purse, patience, progress, workspace)
    busy = True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        busy = False
    if not busy:
        try:
            return asyncio.run(asking.run())
        except asyncio.CancelledError:  # told to end (SIGTERM)
            raise KeyboardInterrupt from None
    with ThreadPoolExecutor(1) as pool:  # called from a notebook, whose loop is busy with us
        pool.submit(asyncio.run, asking.run()).result()


@dataclass
class Asking:
    lanes: Sequence[Lane]
    calls: Mapping[str, Call]
    settings: AskSettings
    cost_of: CostOf
    read_image: ReadImage
    done: Done
    purse: Purse
    patience: Patience
    progress: Progress
    workspace: Path
    error: BaseException | None = None
    settled: int = 0
    refused: int = 0
    more: bool = True
    """Whether there are calls that were not begun."""
    waits: set[asyncio.Future[None]] = field(default_factory=set)
    short_of_money: set[asyncio.Future[None]] = field(default_factory=set)

    # --------------------------------------------------------------------------------------------------- the whole run

    async def run(self) -> None:
        """Lets calls in one by one as the gate opens; the first error shuts it, what is in flight is waited for."""
        price = self._most(next(iter(self.calls.values())).request())
        if price is None and self.settings.budget_usd is not None:
            model = self.lanes[0].annotator.model
            raise UserError(
                f"budget_usd is set, but no price of {model} is known; remove it, or give a table with `prices:`"
            )
        self.spent_before = self.purse.spent
        self.paid = any(lane.annotator.paid for lane in self.lanes)
        self.gate = Gate(self.lanes, workers=self.settings.workers, wait_quota=self.settings.wait_quota, tell=self.tell)
        self.tasks: set[asyncio.Task[None]] = set()
        async with AsyncExitStack() as stack:
            stack.enter_context(_ended_gently())
            self.disk = stack.enter_context(ThreadPoolExecutor(8, "disk"))
            self.attempts = stack.enter_context(Journal(self.workspace / "attempts.jsonl"))
            for lane in self.lanes:
                await lane.open(self.workspace)
                stack.push_async_callback(lane.close)
            self.gate.open()
            try:
                await self._let_in()
                await self._settle_all()
            except asyncio.CancelledError:  # Ctrl-C, the first time
                self._stop(Stopped("interrupted"))
                await self._farewell()
                raise
            finally:
                self.gate.close()
                await self._cancel()
        if self.error is not None:
            kept = f"{self.settled} of {len(self.calls)} replies were kept in this run"
            raise type(self.error)(f"{self.error}; {kept}") if isinstance(self.error, MmalignError) else self.error

    async def _let_in(self) -> None:
        """Start each call when a lane has room for it."""
        for key, call in self.calls.items():
            request = call.request()
            try:
                lane = await self.gate.enter(self.tokens_of(request), fresh=True)
            except Exception as error:
                return self._stop(error)
            task = asyncio.create_task(self._settle(key, Asked(self, call, request, lane)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            if lane.pace is None:
                await asyncio.sleep(0)
        self.more = False

    async def _settle(self, key: str, asked: Asked) -> None:
        """One call from its admission to its line."""
        try:
            line = await asked.line()
            if (refused := self._count_refusals(line)) is not None:
                self._stop(refused)  # at once; what was replied is kept all the same
            await self._in_thread(self.done, key, line)
            for request_sha256 in asked.kept:  # the line has them now; asked anew, they would not count
                await self._in_thread(self.attempts.append, request_sha256, {})
        except Exception as error:
            return self._stop(error)
        self.settled += 1
        self.tick()

    def _stop(self, error: BaseException) -> None:
        """Nothing more is sent; the first reason is the one that is told."""
        self.error = self.error or error
        self.gate.close()
        _wake(self.waits | self.short_of_money)

    async def _settle_all(self) -> None:
        while self.tasks:
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _farewell(self) -> None:
        """Replies under way are paid for: take them along, unless told a second time.

        Batch jobs go on by themselves; the next run fetches what they bring.
        """
        if all(lane.traits.batch for lane in self.lanes):
            self.tell("stopping; batch jobs under way go on at the service, and the next run fetches what they bring")
        elif self.tasks and self.paid and self.gate.in_flight:
            self.tell(f"stopping; {self.gate.in_flight} replies are under way and are waited for (Ctrl-C again: not)")
            await asyncio.wait(self.tasks, timeout=self.patience.farewell_seconds)
            if self.tasks:
                self.tell(f"{len(self.tasks)} did not come in time and are given up")

    async def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def money(self) -> None:
        """Wait until a request comes back, whose money is free again. Raises `Stopped` once the run ends."""
        wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.short_of_money.add(wait)
        await wait
        self.short_of_money.discard(wait)
        if self.error is not None:
            raise Stopped("the run has ended")

    def pay(self, held: float, usd: float | None) -> None:
        """A request has come back."""
        self.purse.settle(held, usd)
        if held:
            _wake(self.short_of_money)

    async def _in_thread(self, what: Callable[..., None], *arguments: Any) -> None:
        """Disks are slow to promise that a line is kept; meanwhile others are asked."""
        await asyncio.get_running_loop().run_in_executor(self.disk, what, *arguments)

    # ---------------------------------------------------------------------------------------------------- what it needs

    async def sleep(self, seconds: float) -> None:
        """Wait before another try. Raises `Stopped` as soon as the run ends."""
        if seconds <= 0:
            return  # to the gate at once, before anybody new
        wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waits.add(wait)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(wait), seconds)
        self.waits.discard(wait)
        wait.cancel()
        if self.error is not None:
            raise Stopped("the run has ended")

    def is_well(self) -> bool:
        """Whether errors are single ones."""
        return all(lane.errors < 3 for lane in self.lanes)

    def _most(self, request: Request) -> float | None:
        """Dollars that a request may cost: its own tokens, and as many back as it allows."""
        annotator = self.lanes[0].annotator
        if not annotator.paid:
            return 0.0
        most = int(request.decoding.get("max_output_tokens", self.settings.max_output_tokens))
        most += self.lanes[0].traits.thinking_room
        return self.cost_of(annotator, {"input_tokens": self.tokens_of(request), "output_tokens": most})

    def tokens_of(self, request: Request) -> int:
        return tokens_of(request, self.lanes[0].traits.image_tokens)

    def most(self, request: Request) -> float:
        return self.purse.most(self._most(request)) if self.paid else 0.0

    def _count_refusals(self, line: Mapping[str, Any]) -> UserError | None:
        """So many refusals in a row are no matter of single rows: what to tell the user then."""
        ours = line["reason"] in (Reason.BLOCKED.value, Reason.INVALID_INPUT.value, Reason.TOO_LONG.value)
        self.refused = self.refused + 1 if line["outcome"] == Outcome.ROW_FATAL.value and ours and self.paid else 0
        if self.refused < self.patience.refusals:
            return None
        return UserError(
            f"{self.refused} requests in a row were refused, the last with: {line['detail']}; mend that, then go "
            "on with the same command and --retry-failed"
        )

    def tick(self) -> None:
        """Tell how far it is."""
        self.progress(self.settled, len(self.calls), self._note())

    def _note(self) -> str:
        """Dollars that this run has spent, and what it will come to; the pace, where the service slows it down."""
        told = []
        if self.paid and self.settled and (spent := self.purse.spent - self.spent_before):
            told.append(f"{dollars(spent)} of about {dollars(spent / self.settled * len(self.calls))}")
        slowed = [lane.pace.rate for lane in self.lanes if lane.pace and lane.pace.slowed]
        if slowed:
            told.append(f"slowed down by the service to about {60 * sum(slowed):.0f} a minute")
        return ", ".join(told)

    def tell(self, what: str) -> None:
        self.progress(self.settled, len(self.calls), what)
        print(what, file=sys.stderr, flush=True)


def _wake(waits: Iterable[asyncio.Future[None]]) -> None:
    for wait in waits:
        if not wait.done():
            wait.set_result(None)


@contextmanager
def _ended_gently() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what is under way, and paid for, is taken along."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
