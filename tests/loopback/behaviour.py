"""What the service does and when. Pure: the same config, content and attempt give the same latency and the same fault.

An *attempt* is the how-manieth time the service admitted the same content (texts and image bytes); a request that is
rejected for being too fast is no attempt. So two clients that ask the same things meet the same faults and latencies,
whatever their pace.

A *kind* says what becomes of an attempt (`KINDS`). It comes from a scenario in the request's text, or from the fault
shares of the config, or it is `ok`:

    [[scenario:safety]]     always      [[scenario:503*2]]     the first two attempts of this content, then ok
    [[scenario:503*1]] [[scenario:truncated*2]]     attempts 0: 503, 1 and 2: truncated, then ok
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the service behaves; JSON-able, so that it can be handed to its process."""

    wires: tuple[str, ...] = ("gemini",)
    """Modules of this package, each with a `WIRE`."""
    key: str = ""
    """The only API key that is let in; empty: anyone is."""
    wrong_key: str = "401"
    """The kind that another key meets: 401, 403 or 400_key."""
    models: tuple[str, ...] = ()
    """The models there are; empty: any. Another one is a 404."""

    requests_per_minute: float | None = None
    burst: float = 20
    """Requests that may come at once; refilled continuously."""
    tokens_per_minute: float | None = None
    """Input tokens: characters / 4 + 258 an image."""
    tokens_burst: float | None = None
    """None: a tenth of a minute's."""
    requests_per_day: int | None = None
    """Requests admitted before the daily quota is used up (until `reset`)."""
    tell: Literal["body", "header", "both", "neither"] = "body"
    """Where a 429 says when to come back: RetryInfo, Retry-After."""
    retry_delay: float | None = None
    """The seconds it says; None: those until there is a token again."""
    day_delay: float | None = None
    """Misleading seconds that a 429 of the daily quota carries besides."""
    rejection_seconds: float = 0.02

    latency: float = 0.0
    """Mean of the log-normal seconds between admission and answer."""
    sigma: float = 0.3
    slow_seconds: float = 30.0
    """What `slow` takes."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Share of the attempts by kind, e.g. {"500": 0.03, "dropped": 0.01}."""
    thought_tokens: int = 0
    """Tokens that the model thinks before it writes; they count against the limit of the reply."""
    keep_requests: int = 0
    """How many of the last request bodies `Service.requests()` gives back."""


# ----------------------------------------------------------------------------------------------------------- problems


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An error as the service means it; each wire writes it in its own form."""

    kind: str
    status: int
    message: str
    quota: Literal["", "minute", "tokens", "day"] = ""
    """Which limit was reached, where one was."""
    delay: float | None = None
    """Seconds until it is worth coming back."""
    tell: Literal["body", "header", "both", "neither"] = "body"


SCENARIO_DELAY = 0.25
"""Seconds that the 429 scenarios ask to wait."""

_MESSAGES = {
    "400": "Request contains an invalid argument.",
    "400_key": "API key not valid. Please pass a valid API key. Got {key}.",
    "401": "Request had invalid authentication credentials: {key}",
    "403": "The caller {key} does not have permission",
    "404": "models/{model} is not found, or is not supported",
    "408": "The request timed out before it was complete.",
    "500": "An internal error has occurred (key {key}).",
    "503": "The model is overloaded. Please try again later.",
    "504": "Deadline expired before operation could complete.",
    "429_body": "Resource has been exhausted (e.g. check quota). Key {key}.",
    "429_header": "Resource has been exhausted (e.g. check quota).",
    "429_both": "Resource has been exhausted (e.g. check quota).",
    "429_bare": "Resource has been exhausted (e.g. check quota).",
    "429_day": "You exceeded your current quota, please check your plan and billing details.",
    "429_day_misleading": "You exceeded your current quota. Please retry in 5s.",
}
_TELL: Mapping[str, Any] = {"429_body": "body", "429_header": "header", "429_both": "both", "429_bare": "neither"}

ERRORS = tuple(_MESSAGES)
"""Answered as an error in the wire's form. Several messages echo the caller's key, as services have been seen to."""
BODIES = ("503_html", "html200", "broken_body", "empty_body", "truncated", "dropped", "slow")
"""What arrives is no answer at all: a page of a proxy, half a body, none."""
ANSWERS = (
    "ok",
    "safety",
    "recitation",
    "blocked",
    "max_tokens",
    "thoughts_only",
    "no_candidates",
    "unknown_finish",
    "empty_text",
    "wrong_schema",
    "broken_json_text",
    "fenced",
    "shuffled",
)
"""Status 200 and a body in the wire's form; `answers.py` says what it holds."""
KINDS = (*ANSWERS, *ERRORS, *BODIES)


def problem_of(kind: str, *, key: str, model: str) -> Problem:
    """The error that the kind is, one of `ERRORS`."""
    message = _MESSAGES[kind].format(key=key, model=model)
    quota: Literal["", "minute", "tokens", "day"] = ""
    delay = None
    if kind.startswith("429"):
        quota = "day" if kind.startswith("429_day") else "minute"
        delay = 5.0 if kind == "429_day_misleading" else SCENARIO_DELAY if quota == "minute" else None
    return Problem(
        kind=kind, status=int(kind[:3]), message=message, quota=quota, delay=delay, tell=_TELL.get(kind, "body")
    )


# -------------------------------------------------------------------------------------------------------------- draws


def kind_of(config: Config, text: str, content: str, attempt: int) -> str:
    """What becomes of the attempt: the text's scenarios first, then the config's faults, then `ok`."""
    first = 0
    scenarios = re.findall(r"\[\[scenario:([a-z0-9_]+)(?:\*(\d+))?\]\]", text)
    for name, count in scenarios:
        if name not in KINDS:
            raise ValueError(f"no scenario {name!r}; known are {', '.join(KINDS)}")
        if not count or attempt < first + int(count):
            return str(name)
        first += int(count)
    return "ok" if scenarios else fault_of(config, content, attempt) or "ok"


def fault_of(config: Config, content: str, attempt: int) -> str | None:
    """The fault that this attempt of this content meets, if any."""
    share = _uniform(content, attempt, "fault")
    for kind, part in config.faults.items():
        if share < part:
            return kind
        share -= part
    return None


def latency_of(config: Config, content: str, attempt: int) -> float:
    """Seconds between admission and answer: log-normal with the config's mean and sigma."""
    if not config.latency:
        return 0.0
    normal = random.Random(f"{content}:{attempt}:latency").gauss(0.0, 1.0)
    return config.latency * math.exp(config.sigma * normal - config.sigma**2 / 2)


def _uniform(content: str, attempt: int, what: str) -> float:
    digest = hashlib.sha256(f"{content}:{attempt}:{what}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# ------------------------------------------------------------------------------------------------------------- limits


class Bucket:
    """Tokens, refilled continuously up to `capacity`."""

    def __init__(self, per_minute: float, capacity: float, now: float) -> None:
        self._per_second = per_minute / 60
        self._capacity = max(capacity, 1.0)
        self._level = self._capacity
        self._then = now

    def wait(self, now: float, amount: float) -> float:
        """Seconds until so much can be taken; what is more than the bucket can hold needs a full bucket."""
        self._level = min(self._capacity, self._level + (now - self._then) * self._per_second)
        self._then = now
        return max(0.0, (min(amount, self._capacity) - self._level) / self._per_second)

    def take(self, amount: float) -> None:
        self._level -= min(amount, self._capacity)


class Limits:
    """Who is let in."""

    def __init__(self, config: Config, now: float) -> None:
        self._config = config
        self._today = 0
        self._requests = self._tokens = None
        if config.requests_per_minute is not None:
            self._requests = Bucket(config.requests_per_minute, config.burst, now)
        if config.tokens_per_minute is not None:
            capacity = config.tokens_burst or config.tokens_per_minute / 10
            self._tokens = Bucket(config.tokens_per_minute, capacity, now)

    def admit(self, now: float, tokens: int) -> Problem | None:
        """None: let in, and counted. Otherwise the 429."""
        config = self._config
        if config.requests_per_day is not None and self._today >= config.requests_per_day:
            message = "You exceeded your current quota, please check your plan and billing details."
            return Problem(kind="quota", status=429, message=message, quota="day", delay=config.day_delay)
        buckets = {"minute": (self._requests, 1.0), "tokens": (self._tokens, float(tokens))}
        waits = {name: bucket.wait(now, amount) for name, (bucket, amount) in buckets.items() if bucket}
        name = max(waits, key=lambda n: waits[n], default="minute")
        if waits.get(name, 0.0) > 1e-9:
            delay = waits[name] if config.retry_delay is None else config.retry_delay
            message = "Resource has been exhausted (e.g. check quota)."
            quota: Any = name
            return Problem(kind="rate", status=429, message=message, quota=quota, delay=delay, tell=config.tell)
        for bucket, amount in buckets.values():
            if bucket:
                bucket.take(amount)
        self._today += 1
        return None
