"""One call while it is being asked: from its admission to its line in the journal."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from annotate.errors import Stopped, UserError
from annotate.gate import spelled
from annotate.keys import scrub
from annotate.lanes import Lane
from annotate.limits import insist
from annotate.pixels import UnreadableImage, is_sent_as_it_is, to_send
from annotate.protocol import Annotator, Outcome, Reply, Request
from annotate.records import Prompt, Reason

if TYPE_CHECKING:
    from annotate.asking import Asking
    from annotate.calls import Call, ReadImage

UNREADABLE = "unreadable"
"""Outcome of a call whose replies are all of no use; that of any other line is the last reply's."""


class Asked:
    """One call while it is being asked."""

    def __init__(self, run: Asking, call: Call, request: Request, lane: Lane) -> None:
        """`request` is the call's first one, `lane` that by which it has already been let in."""
        self.run, self.call, self.request = run, call, request
        self.lane: Lane | None = lane
        self.kept: list[str] = []

    async def line(self) -> dict[str, Any]:
        """Ask until there is a reply of use, or none is to be had."""
        line: dict[str, Any] = {**_LINE, **self.call.note(), "replies": []}
        attempt, room = 0, 1
        while self.run.attempts.lines.get(self.request.sha256) == {}:
            attempt += 1  # what an earlier line of this call was made of is not asked again, but put afresh
            self.request = self.call.request(attempt)
        asked = attempt
        # A reply from fixed decoding would only come again; another may be better. Bad output is never sent back.
        traits = self.run.lanes[0].traits
        greedy = traits.greedy_is_fixed and self.request.decoding.get("temperature", 0) == 0
        fresh = 0 if traits.deterministic or greedy else self.run.patience.reasks
        try:
            while True:
                kept, readable = await self._reply()
                _add(line, kept)
                cut_off = kept["cut_off"]
                if readable:
                    return line | {"outcome": Outcome.OK.value, "reason": None, "detail": ""}
                if (cut_off and room == 1) or (kept["outcome"] == Outcome.OK.value and attempt < asked + fresh):
                    room, attempt = (2, attempt) if cut_off else (room, attempt + 1)
                    self.request = self.call.request(attempt, room)
                elif kept["outcome"] == Outcome.OK.value:
                    return line | {"outcome": UNREADABLE}
                elif room == 2 and kept["outcome"] == Outcome.ROW_FATAL.value:
                    detail = f"cut off; with twice the room: {kept['detail'] or 'cut off again'}"
                    return line | {"outcome": kept["outcome"], "reason": Reason.CUT_OFF.value, "detail": detail}
                else:
                    return line | {name: kept[name] for name in ("outcome", "reason", "detail")}
        finally:
            self._leave()

    async def _reply(self) -> tuple[dict[str, Any], bool]:
        """One reply, and whether it is of use.

        It is from an earlier run that was killed before the call was settled, or from the service.
        """
        key = self.request.sha256
        if earlier := self.run.attempts.lines.get(key):
            self.kept.append(key)
            return dict(earlier), self._readable(earlier)
        self.cost: float | None = 0.0
        started = asyncio.get_running_loop().time()
        reply, tries = await insist(self._send, self.run.patience, self.run.sleep, self.run.is_well)
        seconds = asyncio.get_running_loop().time() - started
        kept = _kept(reply, key, tries, self.cost, round(seconds, 3))
        readable = self._readable(kept)
        if reply.text and not readable:
            self.run.attempts.append(key, kept)
            self.kept.append(key)
        return kept, readable

    def _readable(self, kept: Mapping[str, Any]) -> bool:
        return bool(kept["text"]) and self.call.readable(kept["text"], kept["cut_off"])

    async def _send(self) -> Reply:
        """The reply to a request that was not turned away for being too early."""
        tokens = self.run.tokens_of(self.request)
        now = asyncio.get_running_loop().time
        while True:
            lane = self.lane = self.lane or await self.run.gate.enter(tokens, fresh=False)
            held = self.run.most(self.request)
            while not self.run.purse.hold(held):
                await self.run.money()  # others may cost less than they might
            cost: float | None = 0.0
            sent_at = now()
            try:
                reply = await self._ask(lane.annotator)
                cost = self.run.cost_of(lane.annotator, reply.usage) if lane.annotator.paid else 0.0
            finally:
                self.run.pay(held, cost)
                self._leave()
            self.cost = None if cost is None or self.cost is None else self.cost + cost
            if lane.tokens:
                lane.tokens.settle(tokens, reply.usage.get("input_tokens", tokens))
            reply = replace(reply, text=_kept_text(reply.text), detail=_kept_text(reply.detail))
            if reply.outcome is Outcome.RATE_MINUTE:
                self._pause(lane, reply, sent_at, now())
            elif reply.outcome is Outcome.QUOTA_DAY:
                if stopped := self.run.gate.shut(lane, reply.detail or lane.annotator.model, reply.retry_after):
                    raise stopped
            elif reply.outcome is Outcome.RUN_FATAL:
                raise UserError(
                    f"the annotator {lane.annotator.model}{lane.where} refuses every request: {reply.detail}"
                )
            elif not self._is_down(lane, reply, now()):
                if lane.pace:
                    lane.pace.admitted()
                return reply

    def _is_down(self, lane: Lane, reply: Reply, now: float) -> bool:
        """Whether the service seems to answer nothing but errors; then the whole lane waits, ever longer."""
        patience = self.run.patience
        if reply.outcome is not Outcome.TRANSIENT:
            lane.errors = lane.outages = 0
            lane.answered = True
            return False
        lane.errors += 1
        if lane.errors < patience.errors or lane.traits.batch:
            return False
        if now >= lane.not_before:
            if lane.outages >= patience.outages:
                if any(not other.closed for other in self.run.lanes if other is not lane):
                    lane.closed = f"it answers nothing but errors ({reply.detail})"
                    self.run.tell(f"the annotator{lane.where} is left out: {lane.closed}")
                    return True
                if not self.run.more and lane.answered:
                    return False  # it may be these last rows and not the service
                raise Stopped(f"the service answers nothing but errors ({reply.detail}); try again later")
            wait = min(patience.longest_seconds, patience.first_seconds * 2**lane.outages)
            lane.outages += 1
            lane.not_before = now + wait
            if wait > 10 or (lane.outages == 1 and not lane.answered):
                self.run.tell(f"the service answers nothing but errors ({reply.detail}); waiting {spelled(wait)}")
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
                self.run.tell(f"the service asks for a pause of {spelled(reply.retry_after or wait)}")
            else:
                self.run.tick()

    def _ask(self, annotator: Annotator) -> Awaitable[Reply]:
        """Nothing here holds on to the images: a backend that is done with them can let them go."""
        images = _images(self.request.prompt, self.run.read_image)
        if isinstance(images, Reply):
            return _at_once(images)
        if all(map(is_sent_as_it_is, images)):
            return annotator.reply(replace(self.request, images=tuple(images)))
        return self._ask_redrawn(annotator, images)

    async def _ask_redrawn(self, annotator: Annotator, images: list[bytes]) -> Reply:
        """Where an image is not to be sent as it is; drawn beside the loop, which a large one would hold up."""
        try:
            shown = await asyncio.to_thread(lambda: tuple(map(to_send, images)))
        except UnreadableImage as error:
            return _no_image(Reason.IMAGE_UNREADABLE, f"an image {error}")
        images.clear()
        return await annotator.reply(replace(self.request, images=shown))

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
        "cut_off": reply.outcome is Outcome.ROW_FATAL and reply.reason is Reason.CUT_OFF,
        "usage": dict(sorted(reply.usage.items())),
        "model_version": reply.model_version,
        "response_id": reply.response_id,
        "finish": reply.finish,
        "seconds": seconds,
    }


_REPLY = ("request_sha256", "text", "cut_off", "usage", "model_version", "response_id", "finish", "seconds")


def _add(line: dict[str, Any], kept: Mapping[str, Any]) -> None:
    """Count a reply in, and keep its text."""
    line["attempts"] += kept["tries"]
    known = line["cost_usd"] is not None and kept["cost_usd"] is not None
    line["cost_usd"] = line["cost_usd"] + kept["cost_usd"] if known else None
    if kept["text"]:
        line["replies"].append({name: kept[name] for name in _REPLY})


async def _at_once(reply: Reply) -> Reply:
    return reply


def _kept_text(text: str) -> str:
    """A service's text as it can be written down: without keys, and without halves of characters."""
    return scrub(text).encode("utf-8", "replace").decode("utf-8")


def tokens_of(request: Request, image_tokens: int) -> int:
    """What a request costs to send, by rule of thumb: 4 characters a token, and so many an image."""
    characters = sum(len(part.text) for message in request.messages for part in message.parts)
    return characters // 4 + image_tokens * len(request.prompt.images)


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
