"""Asks an annotator many things at once; async inside, plain outside. What `run.py` and `teach.py` have in common.

In: calls, each with a key. Out, through `done(key, line)`, one line per call, in the order in which they are settled:

    {"outcome": "ok", "reason": null, "detail": "", "attempts": 1, "cost_usd": 0.0,
     "replies": [{"request_sha256": "5c…", "text": "...", "usage": {}, "model_version": ""}]}

Every raw text is kept, also of replies that could not be read, so that reading again with a better parser costs no
call. A line says nothing of time or place.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from annotate.errors import MmalignError, Stopped, UserError
from annotate.limits import Pacer, Patience, insist
from annotate.protocol import Annotator, Outcome, Priced, Request
from annotate.records import Image, Prompt, Reason
from annotate.stage import Done, Progress

UNREADABLE = "unreadable"
"""Outcome of a call whose replies are all of no use; that of any other line is the last reply's."""

ReadImage = Callable[[Image], bytes]


class Call(Protocol):
    """One thing to ask."""

    @property
    def prompt(self) -> Prompt: ...

    def request(self, images: Sequence[bytes], attempt: int) -> Request: ...

    def readable(self, text: str) -> bool:
        """Whether a reply's text is of use; if not, the question may be put again."""
        ...


class Limits(Protocol):
    """What an annotator's block of the recipe says of pace and money."""

    @property
    def temperature(self) -> float: ...
    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def workers(self) -> int: ...
    @property
    def budget_usd(self) -> float | None: ...
    @property
    def max_output_tokens(self) -> int: ...


def ask_all(
    annotator: Annotator,
    calls: Mapping[str, Call],
    *,
    limits: Limits,
    read_image: ReadImage,
    done: Done,
    workspace: Path,
    progress: Progress,
    patience: Patience,
) -> None:
    """Ask all `calls`. Raises `Stopped` or `UserError` after what is in flight has been kept."""
    price = _price_of_one(annotator, calls, limits)
    if price is None and limits.budget_usd is not None:
        raise UserError(f"budget_usd is set, but no price of {annotator.model} is known; remove it, or add the price")
    purse = _Purse(workspace, limits.budget_usd, dearest=price or 0.0)
    asking = _Asking(annotator, calls, limits, read_image, done, purse, patience, progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(asking.run())
    else:  # called from a notebook, whose loop is busy with us
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, asking.run()).result()


class _Purse:
    """What has been spent, over all runs of the stage, and how much may be."""

    def __init__(self, workspace: Path, budget_usd: float | None, dearest: float) -> None:
        """`dearest` is what one call may cost, as long as none has cost more."""
        self._file = workspace / "spent.txt"
        self._budget = budget_usd
        paid = [float(usd) for usd in self._file.read_text().split()] if self._file.exists() else []
        self.spent: float = sum(paid)
        self._dearest = max([dearest, *paid])

    def pay(self, usd: float | None) -> None:
        if usd:
            self.spent += usd
            self._dearest = max(self._dearest, usd)
            with self._file.open("a") as stream:
                stream.write(f"\n{usd:.8f}")  # a number cut short by a kill is a number still

    def check(self, in_flight: int) -> None:
        """Stop before the budget could be passed by one more call beside those in flight."""
        if self._budget is not None and self.spent + self._dearest * (in_flight + 1) > self._budget:
            raise Stopped(f"budget_usd {self._budget:.2f} is reached (spent {self.spent:.2f}); raise it to go on")


@dataclass
class _Asking:
    annotator: Annotator
    calls: Mapping[str, Call]
    limits: Limits
    read_image: ReadImage
    done: Done
    purse: _Purse
    patience: Patience
    progress: Progress

    async def run(self) -> None:
        """So many workers take calls from one queue; the first error stops the queue, not what is in flight."""
        self.pacer = Pacer(self.limits.requests_per_minute, self.patience)
        self.queue: Iterator[tuple[str, Call]] = iter(self.calls.items())
        self.error: BaseException | None = None
        self.in_flight = self.settled = 0
        await asyncio.gather(*(self._worker() for _ in range(min(self.limits.workers, len(self.calls)))))
        if self.error is not None:
            kept = f"{self.settled} of {len(self.calls)} replies were kept"
            raise type(self.error)(f"{self.error}; {kept}") if isinstance(self.error, MmalignError) else self.error

    async def _worker(self) -> None:
        for key, call in self.queue:
            if self.error is not None:
                return
            try:
                self.purse.check(self.in_flight)
                self.in_flight += 1
                line = await self._ask(call)
                self.in_flight -= 1
            except Exception as error:  # raised by `run`, when the other workers have kept what they have
                self.error = self.error or error
                self.pacer.close()
                return
            self.done(key, line)
            self.settled += 1
            if self.annotator.paid:
                self.progress(self.settled, len(self.calls), f"${self.purse.spent:.2f}")

    async def _ask(self, call: Call) -> dict[str, Any]:
        """The line of one call."""
        images = _images(call.prompt, self.read_image)
        if isinstance(images, _Unreadable):
            return _line(Outcome.ROW_FATAL, images.reason, images.detail)
        line = _line(Outcome.OK)
        # A reply from fixed decoding would only come again; a random one may be better. Bad output is never sent back.
        for attempt in range(1 + (self.patience.reasks if self.limits.temperature > 0 else 0)):
            request = call.request(images, attempt)
            reply, tries = await insist(self.annotator, request, self.pacer, self.patience)
            cost = _cost(self.annotator, reply.usage)
            self.purse.pay(cost)
            line["attempts"] += tries
            line["cost_usd"] = None if cost is None or line["cost_usd"] is None else line["cost_usd"] + cost
            if reply.outcome is not Outcome.OK:
                reason = Reason.SERVICE if reply.outcome is Outcome.TRANSIENT else reply.reason
                return line | {"outcome": reply.outcome.value, "reason": reason.value, "detail": reply.detail}
            line["replies"].append(
                {
                    "request_sha256": request.sha256,
                    "text": reply.text,
                    "usage": dict(sorted(reply.usage.items())),
                    "model_version": reply.model_version,
                }
            )
            if call.readable(reply.text):
                return line
        return line | {"outcome": UNREADABLE}


def _line(outcome: Outcome, reason: Reason | None = None, detail: str = "") -> dict[str, Any]:
    return {
        "outcome": outcome.value,
        "reason": reason.value if reason else None,
        "detail": detail,
        "attempts": 0,
        "cost_usd": 0.0,
        "replies": [],
    }


def tokens_of(request: Request) -> int:
    """What a request costs to send, by rule of thumb: 4 characters a token, 258 tokens an image."""
    characters = sum(len(part.text) for message in request.messages for part in message.parts)
    return characters // 4 + 258 * len(request.prompt.images)


def _price_of_one(annotator: Annotator, calls: Mapping[str, Call], limits: Limits) -> float | None:
    """What the first call costs if its reply is as long as it may be; None where no price is known."""
    for call in calls.values():
        usage = {"input_tokens": tokens_of(call.request((), 0)), "output_tokens": limits.max_output_tokens}
        return _cost(annotator, usage)
    return 0.0


def _cost(annotator: Annotator, usage: Mapping[str, int]) -> float | None:
    if not annotator.paid:
        return 0.0
    return annotator.cost_usd(usage) if isinstance(annotator, Priced) else None


@dataclass(frozen=True)
class _Unreadable:
    reason: Reason
    detail: str


def _images(prompt: Prompt, read_image: ReadImage) -> list[bytes] | _Unreadable:
    """The bytes of the prompt's images, which must still be those its hashes were taken of."""
    found: list[bytes] = []
    for image in prompt.images:
        try:
            data = read_image(image)
        except FileNotFoundError:
            return _Unreadable(Reason.IMAGE_MISSING, f"{image.path}: no such file")
        except (OSError, UserError) as error:
            return _Unreadable(Reason.IMAGE_UNREADABLE, f"{image.path}: {type(error).__name__}")
        if hashlib.sha256(data).hexdigest() != image.sha256:
            return _Unreadable(Reason.IMAGE_UNREADABLE, f"{image.path}: changed since it was checked")
        found.append(data)
    return found
