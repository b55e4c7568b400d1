"""What requests that are still to be sent will take: tokens, dollars, minutes, days. Arithmetic only; asks nobody.

By rule of thumb at first: 4 characters a token, so many tokens an image as the backend says, and 1500 tokens of
thoughts a reply where it thinks and its budget allows them. Once there are replies to requests of the same plan, by
their mean, which knows the thoughts and the real size of images.

    80 calls, 20 answered already; about 152,320 input tokens (20,640 of them images), 64,000 output (by rule of thumb)
    about $0.21, $0.10 as a batch (prices of 2026-04-19)
    at least 16 min at the limits you set
    3 days at 30 requests a day
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from annotate.purse import dollars
from annotate.stage import Estimate, Line, Reading

if TYPE_CHECKING:
    from annotate.lanes import Lane
    from annotate.protocol import Request

CostOf = Callable[[Mapping[str, int], bool], float | None]
"""Dollars for the usage of one request, interactive or as part of a batch; None where no price is known."""
KINDS = ("input_tokens", "output_tokens", "thought_tokens")
THOUGHTS = 1500
"""Tokens that a reply is thought over with, by rule of thumb."""


def estimate_calls(
    requests: Sequence[Request],
    *,
    written: int,
    lines: Mapping[str, Line],
    lanes: Sequence[Lane],
    cost_of: CostOf,
    cached: int,
    prices_as_of: str,
) -> Estimate:
    """What `requests` will take by these lanes, beside `cached` that are answered.

    `written`: guessed output tokens of one reply. `lines`: what the journal holds of earlier replies of the same plan.
    `prices_as_of`: the day of the prices behind `cost_of`, where they are from a table.
    """
    traits = lanes[0].traits
    paid = lanes[0].annotator.paid
    images = sum(len(request.prompt.images) for request in requests) * traits.image_tokens
    usages = _usages(lines)
    if usages:
        one = {name: sum(usage[name] for usage in usages) / len(usages) for name in KINDS}
        basis = f"mean of {len(usages)} {'reply' if len(usages) == 1 else 'replies'}"
    else:
        read = (sum(_characters(request) for request in requests) // 4 + images) / max(1, len(requests))
        thought = min(THOUGHTS, traits.thinking_room)
        one = {"input_tokens": read, "output_tokens": written, "thought_tokens": thought}
        basis = "rule of thumb"
    usage = {name: round(one[name] * len(requests)) for name in KINDS}
    each = {name: round(one[name]) for name in KINDS}
    prices = {batch: cost_of(each, batch) for batch in (False, True)} if paid else {False: 0.0, True: 0.0}
    a_day = 0 if traits.batch else int(_together([lane.limits.requests_per_day for lane in lanes]) or 0)
    now, later = ((None if price is None else price * len(requests)) for price in (prices[traits.batch], prices[True]))
    return Estimate(
        calls=len(requests),
        cached=cached,
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        thought_tokens=usage["thought_tokens"],
        image_tokens=images,
        usd=now,
        usd_batch=later if paid and not traits.batch else None,
        minutes=0.0 if traits.batch else minutes_at(lanes, len(requests), usage["input_tokens"]),
        days=math.ceil(len(requests) / a_day) if a_day else 0,
        requests_per_day=a_day,
        paid=paid,
        basis=basis,
        prices_as_of=prices_as_of if paid else "",
    )


def _usages(lines: Mapping[str, Line]) -> list[dict[str, int]]:
    """Tokens of each call that is answered, all its replies together; without those of which nothing is told."""
    found = []
    for line in lines.values():
        told = [reply["usage"] for reply in line.get("replies", ()) if reply.get("usage")]
        if told:
            found.append({name: sum(usage.get(name, 0) for usage in told) for name in KINDS})
    return found


def _characters(request: Request) -> int:
    return sum(len(part.text) for message in request.messages for part in message.parts)


def minutes_at(lanes: Sequence[Lane], calls: int, input_tokens: int) -> float:
    """Minutes at the declared limits of all lanes together; 0 where nothing is declared."""
    by_requests = _together([lane.limits.requests_per_minute for lane in lanes])
    by_tokens = _together([lane.limits.tokens_per_minute for lane in lanes])
    return max(calls / by_requests if by_requests else 0.0, input_tokens / by_tokens if by_tokens else 0.0)


def _together(limits: Sequence[float | None]) -> float | None:
    """The sum of what all lanes allow; None where one of them says nothing."""
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def spelled(found: Estimate) -> list[str]:
    """The estimate in lines for the terminal."""
    if found.reading:
        return _read(found.reading)
    if not found.calls:
        here = f"; up to {found.output_tokens:,} tokens are written here" if found.output_tokens else ""
        return [f"no calls ({found.cached} answered already){here}" if found.cached else f"no calls{here}"]
    cached = f", {found.cached} answered already" if found.cached else ""
    calls = f"{found.calls} {'call' if found.calls == 1 else 'calls'}{cached}"
    lines = [f"{calls}; {_tokens(found)}", _dollars(found)] if found.paid else [f"{calls}, free"]
    if found.minutes >= 1:
        hours, minutes = divmod(math.ceil(found.minutes), 60)
        lines.append(f"at least {f'{hours} h ' if hours else ''}{minutes} min at the limits you set")
    if found.days > 1:
        lines.append(f"{found.days} days at {found.requests_per_day:,} requests a day")
    return lines


def _read(found: Reading) -> list[str]:
    """What a training reads."""
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in found.left_out.items())
    passes = f"{found.passes:.2f}".rstrip("0").rstrip(".")
    return [
        f"{found.rows:,} rows, {found.with_images:,} with images: {found.lm_tokens:,} tokens of the language model, "
        f"{found.image_tokens:,} of them images, {found.trained_tokens:,} with loss",
        f"{passes} {'pass' if passes == '1' else 'passes'} over them: {round(found.lm_tokens * found.passes):,} "
        f"tokens, about {found.flops * found.passes:.3g} floating-point operations",
        *([f"left out: {left_out}"] if left_out else []),
        f"({found.basis})",
    ]


def _tokens(found: Estimate) -> str:
    images = f" ({found.image_tokens:,} of them images)" if found.image_tokens else ""
    thought = f", {found.thought_tokens:,} thinking" if found.thought_tokens else ""
    basis = f" (by {found.basis})" if found.basis else ""
    return f"about {found.input_tokens:,} input tokens{images}, {found.output_tokens:,} output{thought}{basis}"


def _dollars(found: Estimate) -> str:
    if found.usd is None:
        return "price unknown: give a table with `prices:`, see annotate/prices.yaml"
    batch = f", {dollars(found.usd_batch)} as a batch" if found.usd_batch is not None else ""
    dated = f" (prices of {found.prices_as_of})" if found.prices_as_of else ""
    return f"about {dollars(found.usd)}{batch}{dated}"
