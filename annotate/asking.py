"""Asks an annotator many things at once; async inside, plain outside. What `run.py` and `teach.py` have in common.

In: calls, each with a key. Out, through `done(key, line)`, one line per call, in the order in which they are settled:

    {"outcome": "ok", "reason": null, "detail": "", "attempts": 1, "cost_usd": 0.0,
     "replies": [{"request_sha256": "5c…", "text": "...", "usage": {}, "model_version": "", "response_id": "",
                  "finish": "STOP", "seconds": 1.2}]}

Every raw text is kept, also of replies that could not be read, so that reading again with a better parser costs no
call; a text that is not the last of its call is kept in `attempts.jsonl` the moment it arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from annotate.errors import MmalignError, Stopped, UserError
from annotate.gate import Gate, spelled
from annotate.journal import Journal
from annotate.keys import scrub
from annotate.lanes import Lane
from annotate.limits import Patience, insist
from annotate.protocol import Annotator, Outcome, Reply, Request
from annotate.purse import Purse
from annotate.records import Image, Prompt, Reason
from annotate.stage import Done, Progress

UNREADABLE = "unreadable"
"""Outcome of a call whose replies are all of no use; that of any other line is the last reply's."""

ReadImage = Callable[[Image], bytes]
CostOf = Callable[[Annotator, Mapping[str, int]], float | None]
"""Dollars for the usage of one reply; None where no price is known."""


class Call(Protocol):
    """One thing to ask."""

    @property
    def prompt(self) -> Prompt: ...

    def request(self, attempt: int = 0, room: int = 1) -> Request:
        """The request without its images; `attempt` counts fresh questions, `room` multiplies the token limit."""
        ...

    def readable(self, text: str, cut_off: bool = False) -> bool:
        """Whether a reply's text, cut off at the token limit or not, is of use; if not, it may be asked again."""
        ...

    def note(self) -> Mapping[str, Any]:
        """What the line is to say of how it was asked."""
        ...


class AskSettings(Protocol):
    """What an annotator's block of the recipe says of money and patience."""

    @property
    def workers(self) -> int | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def wait_quota(self) -> bool: ...
    @property
    def budget_usd(self) -> float | None: ...
    @property
    def max_output_tokens(self) -> int: ...


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
    asking = _Asking(lanes, calls, settings, cost_of, read_image, done, purse, patience, progress, workspace)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(asking.run())
    else:  # called from a notebook, whose loop is busy with us
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, asking.run()).result()


@dataclass
class _Asking:
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
    waits: set[asyncio.Future[None]] = field(default_factory=set)

    # --------------------------------------------------------------------------------------------------- the whole run

    async def run(self) -> None:
        """Lets calls in one by one as the gate opens; the first error shuts it, what is in flight is waited for."""
        price = self._most(next(iter(self.calls.values())).request())
        if price is None and self.settings.budget_usd is not None:
            model = self.lanes[0].annotator.model
            raise UserError(
                f"budget_usd is set, but no price of {model} is known; remove it, or give a table with `prices:`"
            )
        self.paid = any(lane.annotator.paid for lane in self.lanes)
        self.gate = Gate(
            self.lanes, workers=self.settings.workers, wait_quota=self.settings.wait_quota, tell=self._tell
        )
        self.tasks: set[asyncio.Task[None]] = set()
        async with AsyncExitStack() as stack:
            self.attempts = stack.enter_context(Journal(self.workspace / "attempts.jsonl"))
            for lane in self.lanes:
                stack.push_async_callback(lane.close)
                await lane.open(self.workspace)
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
            kept = f"{self.settled} of {len(self.calls)} replies were kept"
            raise type(self.error)(f"{self.error}; {kept}") if isinstance(self.error, MmalignError) else self.error

    async def _let_in(self) -> None:
        """Start each call when a lane has room for it."""
        for key, call in self.calls.items():
            request = call.request()
            try:
                lane = await self.gate.enter(tokens_of(request), fresh=True)
            except Stopped as stopped:
                return self._stop(stopped)
            task = asyncio.create_task(self._settle(key, _Asked(self, call, request, lane)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            if lane.pace is None:
                await asyncio.sleep(0)

    async def _settle(self, key: str, asked: _Asked) -> None:
        """One call from its admission to its line."""
        try:
            line = await asked.line()
            self._count_refusals(line)
            self.done(key, line)
            for request_sha256 in asked.kept:  # the line has them now; asked anew, they would not count
                self.attempts.append(request_sha256, {})
        except Exception as error:
            return self._stop(error)
        self.settled += 1
        self.progress(self.settled, len(self.calls), self._note() if self.paid else "")

    def _stop(self, error: BaseException) -> None:
        """Nothing more is sent; the first reason is the one that is told."""
        self.error = self.error or error
        self.gate.close()
        for wait in self.waits:
            if not wait.done():
                wait.set_result(None)

    async def _settle_all(self) -> None:
        while self.tasks:
            if self.error is not None and all(lane.traits.batch for lane in self.lanes):
                return  # such jobs go on by themselves; the next run fetches what they bring
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _farewell(self) -> None:
        """Replies under way are paid for: take them along, unless told a second time."""
        if self.tasks and self.paid and not all(lane.traits.batch for lane in self.lanes):
            self._tell(f"stopping; {len(self.tasks)} replies are under way and are waited for (Ctrl-C again: not)")
            await asyncio.wait(self.tasks, timeout=self.patience.farewell_seconds)

    async def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)

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
        return self.cost_of(annotator, {"input_tokens": tokens_of(request), "output_tokens": most})

    def most(self, request: Request) -> float:
        return self.purse.most(self._most(request)) if self.paid else 0.0

    def _count_refusals(self, line: Mapping[str, Any]) -> None:
        """So many refusals in a row are no matter of single rows. Raises `UserError`."""
        ours = line["reason"] in (Reason.BLOCKED.value, Reason.INVALID_INPUT.value, Reason.TOO_LONG.value)
        self.refused = self.refused + 1 if line["outcome"] == Outcome.ROW_FATAL.value and ours and self.paid else 0
        if self.refused >= self.patience.refusals:
            raise UserError(
                f"{self.refused} requests in a row were refused, the last with: {line['detail']}; mend that, then go "
                "on with the same command and --retry-failed"
            )

    def _note(self) -> str:
        """Dollars spent, and what it will come to."""
        if not self.purse.spent:
            return ""
        share = self.settled / len(self.calls)
        return f"${self.purse.spent:.2f} of about ${self.purse.spent / share:.2f}"

    def _tell(self, what: str) -> None:
        self.progress(self.settled, len(self.calls), what)
        print(what, file=sys.stderr, flush=True)


class _Asked:
    """One call while it is being asked."""

    def __init__(self, run: _Asking, call: Call, request: Request, lane: Lane) -> None:
        """`request` is the call's first one, `lane` that by which it has already been let in."""
        self.run, self.call, self.request = run, call, request
        self.lane: Lane | None = lane
        self.kept: list[str] = []

    async def line(self) -> dict[str, Any]:
        """Ask until there is a reply of use, or none is to be had."""
        line: dict[str, Any] = {**_LINE, **self.call.note(), "replies": []}
        attempt, room = 0, 1
        # A reply from fixed decoding would only come again; another may be better. Bad output is never sent back.
        fresh = 0 if self.run.lanes[0].traits.deterministic else self.run.patience.reasks
        try:
            while True:
                kept = await self._reply()
                _add(line, kept)
                cut_off = kept["reason"] == Reason.CUT_OFF.value
                if kept["text"] and self.call.readable(kept["text"], cut_off):
                    return line | {"outcome": Outcome.OK.value, "reason": None, "detail": ""}
                if (cut_off and room == 1) or (kept["outcome"] == Outcome.OK.value and attempt < fresh):
                    room, attempt = (2, attempt) if cut_off else (room, attempt + 1)
                    self.request = self.call.request(attempt, room)
                elif kept["outcome"] == Outcome.OK.value:
                    return line | {"outcome": UNREADABLE}
                else:
                    return line | {name: kept[name] for name in ("outcome", "reason", "detail")}
        finally:
            self._leave()

    async def _reply(self) -> dict[str, Any]:
        """One reply: from an earlier run that was killed before the call was settled, or from the service."""
        key = self.request.sha256
        if earlier := self.run.attempts.lines.get(key):
            self.kept.append(key)
            return dict(earlier)
        self.cost: float | None = 0.0
        started = asyncio.get_running_loop().time()
        reply, tries = await insist(self._send, self.run.patience, self.run.sleep, self.run.is_well)
        seconds = asyncio.get_running_loop().time() - started
        kept = _kept(reply, key, tries, self.cost, round(seconds, 3))
        cut_off = reply.outcome is Outcome.ROW_FATAL and reply.reason is Reason.CUT_OFF
        if reply.text and not self.call.readable(reply.text, cut_off):
            self.run.attempts.append(key, kept)
            self.kept.append(key)
        return kept

    async def _send(self) -> Reply:
        """The reply to a request that was not turned away for being too early."""
        tokens = tokens_of(self.request)
        now = asyncio.get_running_loop().time
        while True:
            lane = self.lane = self.lane or await self.run.gate.enter(tokens, fresh=False)
            held = self.run.most(self.request)
            self.run.purse.hold(held)
            cost: float | None = 0.0
            sent_at = now()
            try:
                reply = await self._ask(lane.annotator)
                cost = self.run.cost_of(lane.annotator, reply.usage) if lane.annotator.paid else 0.0
            finally:
                self.run.purse.settle(held, cost)
                self._leave()
            self.cost = None if cost is None or self.cost is None else self.cost + cost
            if lane.tokens:
                lane.tokens.settle(tokens, reply.usage.get("input_tokens", tokens))
            reply = replace(reply, text=scrub(reply.text), detail=scrub(reply.detail))
            if reply.outcome is Outcome.RATE_MINUTE:
                self._pause(lane, reply, sent_at, now())
            elif reply.outcome is Outcome.QUOTA_DAY:
                if stopped := self.run.gate.shut(lane, reply.detail or lane.annotator.model, reply.retry_after):
                    raise stopped
            elif reply.outcome is Outcome.RUN_FATAL:
                raise UserError(f"the annotator {lane.annotator.model} refuses every request: {reply.detail}")
            elif not self._is_down(lane, reply, now()):
                if lane.pace:
                    lane.pace.admitted()
                return reply

    def _is_down(self, lane: Lane, reply: Reply, now: float) -> bool:
        """Whether the service seems to answer nothing but errors; then the whole lane waits, ever longer."""
        patience = self.run.patience
        if reply.outcome is not Outcome.TRANSIENT:
            lane.errors = lane.outages = 0
            return False
        lane.errors += 1
        if lane.errors < patience.errors or lane.traits.batch:
            return False
        if now >= lane.not_before:
            if lane.outages >= patience.pauses:
                raise Stopped(f"the service answers nothing but errors ({reply.detail}); try again later")
            wait = min(patience.longest_seconds, patience.first_seconds * 2**lane.outages)
            lane.outages += 1
            lane.not_before = now + wait
            if wait > 10:
                self.run._tell(f"the service answers nothing but errors ({reply.detail}); waiting {spelled(wait)}")
        return True

    def _pause(self, lane: Lane, reply: Reply, sent_at: float, now: float) -> None:
        """The lane was too fast: nobody goes by it for as long as the service says, or ever longer."""
        pace = lane.the_pace()
        patience = self.run.patience
        wait = min(patience.longest_seconds, patience.first_seconds * 2**pace.silent)
        if pace.rejected(sent_at, now, wait if reply.retry_after is None else reply.retry_after):
            if pace.silent > patience.pauses:
                why = reply.detail or "too many requests"
                raise Stopped(f"the service lets nothing through ({why}); try again later")
            if (reply.retry_after or wait) > 10:
                self.run._tell(f"the service asks for a pause of {spelled(reply.retry_after or wait)}")

    def _ask(self, annotator: Annotator) -> Awaitable[Reply]:
        """Nothing here holds on to the images: a backend that is done with them can let them go."""
        images = _images(self.request.prompt, self.run.read_image)
        if isinstance(images, Reply):
            return _at_once(images)
        return annotator.reply(replace(self.request, images=tuple(images)))

    def _leave(self) -> None:
        if self.lane is not None:
            self.run.gate.leave(self.lane)
            self.lane = None


# ----------------------------------------------------------------------------------------------------------- one line

_LINE: Mapping[str, Any] = {"outcome": "ok", "reason": None, "detail": "", "attempts": 0, "cost_usd": 0.0}


def _kept(reply: Reply, key: str, tries: int, cost: float | None, seconds: float) -> dict[str, Any]:
    """A reply as plain JSON."""
    reason = None
    if reply.outcome is not Outcome.OK:
        reason = Reason.SERVICE.value if reply.outcome is Outcome.TRANSIENT else reply.reason.value
    return {
        "outcome": reply.outcome.value,
        "reason": reason,
        "detail": reply.detail,
        "tries": tries,
        "cost_usd": cost,
        "request_sha256": key,
        "text": reply.text,
        "usage": dict(sorted(reply.usage.items())),
        "model_version": reply.model_version,
        "response_id": reply.response_id,
        "finish": reply.finish,
        "seconds": seconds,
    }


_REPLY = ("request_sha256", "text", "usage", "model_version", "response_id", "finish", "seconds")


def _add(line: dict[str, Any], kept: Mapping[str, Any]) -> None:
    """Count a reply in, and keep its text."""
    line["attempts"] += kept["tries"]
    known = line["cost_usd"] is not None and kept["cost_usd"] is not None
    line["cost_usd"] = line["cost_usd"] + kept["cost_usd"] if known else None
    if kept["text"]:
        line["replies"].append({name: kept[name] for name in _REPLY})


async def _at_once(reply: Reply) -> Reply:
    return reply


def tokens_of(request: Request) -> int:
    """What a request costs to send, by rule of thumb: 4 characters a token, 258 tokens an image."""
    characters = sum(len(part.text) for message in request.messages for part in message.parts)
    return characters // 4 + 258 * len(request.prompt.images)


def _images(prompt: Prompt, read_image: ReadImage) -> list[bytes] | Reply:
    """The bytes of the prompt's images, which must still be those its hashes were taken of."""
    found: list[bytes] = []
    for image in prompt.images:
        try:
            data = read_image(image)
        except FileNotFoundError:
            return _no_image(Reason.IMAGE_MISSING, f"{image.path}: no such file")
        except (OSError, UserError) as error:
            return _no_image(Reason.IMAGE_UNREADABLE, f"{image.path}: {type(error).__name__}")
        if hashlib.sha256(data).hexdigest() != image.sha256:
            return _no_image(Reason.IMAGE_UNREADABLE, f"{image.path}: changed since it was checked")
        found.append(data)
    return found


def _no_image(reason: Reason, detail: str) -> Reply:
    return Reply(outcome=Outcome.ROW_FATAL, reason=reason, detail=detail)
