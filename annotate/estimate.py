"""What requests that are still to be sent will take: tokens, dollars, minutes, days. Arithmetic only; asks nobody.

By rule of thumb at first (4 characters a token, so many tokens an image as the backend says); once there are replies of
the same stage, by their mean, which knows thinking and the real size of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from annotate.stage import Estimate, Line

if TYPE_CHECKING:
    from annotate.lanes import Lane
    from annotate.protocol import Request

CostOf = Callable[[Mapping[str, int], bool], float | None]
"""Dollars for the usage of one request, interactive or as part of a batch; None where no price is known."""
KINDS = ("input_tokens", "output_tokens", "thought_tokens")


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
    """`written`: guessed output tokens of one reply. `lines`: what the journal holds of earlier replies."""
    traits = lanes[0].traits
    paid = lanes[0].annotator.paid
    images = sum(len(request.prompt.images) for request in requests) * traits.image_tokens
    mean = mean_usage(lines)
    if mean is not None:
        one = mean
        basis = f"mean of {len(_usages(lines))} replies"
    else:
        text = sum(_characters(request) for request in requests) // 4
        one = {"input_tokens": (text + images) / max(1, len(requests)), "output_tokens": written, "thought_tokens": 0}
        basis = "rule of thumb"
    usage = {name: round(one[name] * len(requests)) for name in KINDS}
    each = {name: round(one[name]) for name in KINDS}
    prices = {batch: cost_of(each, batch) for batch in (False, True)} if paid else {False: 0.0, True: 0.0}
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
        days=days_at(lanes, len(requests)),
        paid=paid,
        basis=basis,
        prices_as_of=prices_as_of if paid else "",
    )


def mean_usage(lines: Mapping[str, Line]) -> dict[str, float] | None:
    """Mean tokens of the replies in the journal, all replies of a call together; None where none tells its usage."""
    usages = _usages(lines)
    if not usages:
        return None
    return {name: sum(usage.get(name, 0) for usage in usages) / len(usages) for name in KINDS}


def _usages(lines: Mapping[str, Line]) -> list[dict[str, int]]:
    found = []
    for line in lines.values():
        told = [reply["usage"] for reply in line.get("replies", ()) if reply["usage"]]
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


def days_at(lanes: Sequence[Lane], calls: int) -> int:
    """Days that the declared daily limits spread the calls over; 0 where a lane has none."""
    by_day = _together([lane.limits.requests_per_day for lane in lanes])
    return math.ceil(calls / by_day) if by_day else 0


def _together(limits: Sequence[float | None]) -> float | None:
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def spelled(found: Estimate) -> list[str]:
    """The estimate in lines for the terminal."""
    if not found.calls:
        return [f"no calls ({found.cached} answered already)" if found.cached else "no calls"]
    tokens = f"{found.input_tokens:,} input tokens"
    tokens += f" ({found.image_tokens:,} of them images)" if found.image_tokens else ""
    tokens += f", {found.output_tokens:,} output"
    tokens += f", {found.thought_tokens:,} thinking" if found.thought_tokens else ""
    if found.basis == "rule of thumb" and found.paid:
        tokens += ", and what it thinks"
    cached = f", {found.cached} answered already" if found.cached else ""
    lines = [f"{found.calls} calls{cached}; about {tokens} (by {found.basis})"]
    if not found.paid:
        lines.append("free")
    elif found.usd is None:
        lines.append("price unknown: give a table with `prices:`, see annotate/prices.yaml")
    else:
        batch = f", ${found.usd_batch:.2f} as a batch" if found.usd_batch is not None else ""
        dated = f" (prices of {found.prices_as_of})" if found.prices_as_of else ""
        lines.append(f"about ${found.usd:.2f}{batch}{dated}")
    if found.minutes >= 1:
        hours, minutes = divmod(round(found.minutes), 60)
        lines.append(f"at least {f'{hours} h ' if hours else ''}{minutes} min at the limits you set")
    if found.days > 1:
        lines.append(f"{found.days} days at the daily limit you set")
    return lines
