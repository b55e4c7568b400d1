"""What a figure of the card looks like: a value with its 95% interval, and the number of prompts it rests on.

    {"value": 0.41, "low": 0.33, "high": 0.48, "n": 212}
    {"value": null, "low": null, "high": null, "n": 0, "why": "every prompt was read once"}

What cannot be computed is null and says why; it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from align.stats import Interval

Figure = dict[str, Any]
DIGITS = 4


def figure(found: Interval, why: str) -> Figure:
    """A figure with its interval; `why` says what is wrong where it is not defined."""
    made = {"value": _number(found.value), "low": _number(found.low), "high": _number(found.high), "n": found.n}
    if made["value"] is None:
        return {**made, "why": why}
    if made["low"] is None:
        return {**made, "why": "an interval takes two prompts at least"}
    return made


def plain(value: float | None, n: int, why: str) -> Figure:
    """A figure that has no interval: a p-value, a share of variance, a price."""
    number = None if value is None else _number(value)
    return {"value": number, "n": n} if number is not None else {"value": None, "n": n, "why": why}


def left_out(why: str, n: int = 0) -> Figure:
    """A whole section that cannot be computed."""
    return {"n": n, "why": why}


def is_known(figure: Mapping[str, Any] | None) -> bool:
    return figure is not None and figure.get("value") is not None


def is_bounded(figure: Mapping[str, Any] | None) -> bool:
    return is_known(figure) and figure is not None and figure["low"] is not None and figure["high"] is not None


def _number(value: float) -> float | None:
    # rounded, so that the last bits of a sum are no matter, and never -0.0
    return round(float(value), DIGITS) + 0.0 if math.isfinite(value) else None
