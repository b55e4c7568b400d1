"""A lane is one key at one endpoint, with limits of its own; a run may have several.

    annotate:
      backend: openai_chat
      model: judge-7b
      requests_per_minute: 600
      lanes:
        - {base_url: "http://gpu1:8000/v1"}
        - {base_url: "http://gpu2:8000/v1", requests_per_minute: 1200}

What a lane says goes over what the block says: its limits by their names, everything else as options of the backend.
All lanes must give the same replies, so model and the options that decide a reply are the same in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from annotate.backends.registry import make_annotator
from annotate.errors import UserError
from annotate.pace import Pace, TokenPace
from annotate.protocol import Annotator, Managed, Traits, traits_of
from annotate.quota import DayCount
from annotate.records import sha256_of

MOST_IN_FLIGHT = 1024
"""Guards memory where neither the recipe nor the backend says how many requests at once are of use."""


class LaneSettings(Protocol):
    """What the recipe's block says of annotator and pace; `align.settings.Annotate` is one."""

    @property
    def backend(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def tokens_per_minute(self) -> float | None: ...
    @property
    def requests_per_day(self) -> int | None: ...
    @property
    def lanes(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class LaneLimits:
    """Of one lane; None: not declared."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    requests_per_day: int | None = None


_LIMITS = ("requests_per_minute", "tokens_per_minute", "requests_per_day")


class Lane:
    """One annotator and its pace, as a run uses it."""

    def __init__(self, annotator: Annotator, limits: LaneLimits, label: str) -> None:
        self.annotator, self.limits, self.label = annotator, limits, label
        self.traits: Traits = traits_of(annotator)
        self.most_in_flight = self.traits.in_flight or (10**9 if self.traits.batch else MOST_IN_FLIGHT)
        self.in_flight = 0
        self.where = ""
        """Which of several lanes it is, for messages."""
        self.not_before = 0.0
        """Time of the loop before which nothing goes here (a new day is waited for)."""
        self.errors = 0
        """Transient errors in a row."""
        self.outages = 0
        """Pauses in a row because of them."""
        self.answered = False
        """Whether it has answered anything in this run."""
        self.closed = ""
        """Why nothing more goes here today; empty while it is open."""

    async def open(self, workspace: Path) -> None:
        """Before the first request, in the loop of the run."""
        self.closed, self.in_flight, self.not_before, self.errors, self.outages = "", 0, 0.0, 0, 0
        self.answered = False
        limits = LaneLimits() if self.traits.batch else self.limits  # a job is one call, whatever it holds
        paced = self.traits.paced and not self.traits.batch
        self.pace = Pace(limits.requests_per_minute) if paced or limits.requests_per_minute else None
        per_minute = limits.tokens_per_minute
        self.tokens = TokenPace(per_minute) if per_minute else None
        self.day = DayCount(workspace / f"requests{self.label}.txt", self.traits.quota_zone)
        if isinstance(self.annotator, Managed):
            folder = workspace / f"backend{self.label}"
            folder.mkdir(parents=True, exist_ok=True)
            await self.annotator.open(folder)

    async def close(self) -> None:
        if isinstance(self.annotator, Managed):
            await self.annotator.close()

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request of so many tokens may go."""
        by_requests = self.pace.wait(now) if self.pace else 0.0
        return max(by_requests, self.tokens.wait(now, tokens) if self.tokens else 0.0)

    def took(self, now: float, tokens: int) -> None:
        if self.limits.requests_per_day is not None and not self.traits.batch:
            self.day.add()
        self.in_flight += 1
        if self.pace:
            self.pace.sent(now)
        if self.tokens:
            self.tokens.take(now, tokens)

    def the_pace(self) -> Pace:
        """The lane's pace; one that had none gets one as soon as the service complains."""
        if self.pace is None:
            self.pace = Pace(None)
        return self.pace

    @property
    def day_is_full(self) -> bool:
        most = None if self.traits.batch else self.limits.requests_per_day
        return most is not None and self.day.today() >= most


def make_lanes(settings: LaneSettings, annotator: Annotator | None = None) -> list[Lane]:
    """The lanes of a block, or the one lane of an annotator made elsewhere. Raises `UserError`."""
    common = {name: getattr(settings, name) for name in _LIMITS}
    if annotator is not None or not settings.lanes:
        label = "" if annotator else _label(settings.options)
        annotator = annotator or make_annotator(settings.backend, settings.model, settings.options)
        return [Lane(annotator, LaneLimits(**common), label)]
    lanes = []
    for number, said in enumerate(settings.lanes, 1):
        limits = {**common, **{name: said[name] for name in _LIMITS if name in said}}
        for name, value in limits.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
                raise UserError(f"lane {number}: {name} must be a number above 0, got {value!r}")
        options = {**settings.options, **{name: value for name, value in said.items() if name not in _LIMITS}}
        made = make_annotator(settings.backend, settings.model, options)
        lanes.append(Lane(made, LaneLimits(**limits), _label(options)))
        lanes[-1].where = f" of lane {number}"
    first = lanes[0]
    if first.traits.batch and len(lanes) > 1:
        raise UserError(
            "batch jobs go by one lane: another key would not know the jobs of the first, and buy them again"
        )
    for number, lane in enumerate(lanes[1:], 2):
        if (lane.annotator.model, dict(lane.traits.decides)) != (first.annotator.model, dict(first.traits.decides)):
            raise UserError(f"lane {number} would not reply as lane 1 does; lanes differ in key and endpoint only")
        if any(lane.label == other.label for other in lanes[: number - 1]):
            raise UserError(f"lane {number} is the same as an earlier one; give it another key or endpoint")
    return lanes


def _label(options: Mapping[str, Any]) -> str:
    """Names what a lane keeps on disk (the day's count, its jobs): the same key at the same endpoint, the same name."""
    door = {name: str(options[name]).rstrip("/") for name in ("key_env", "base_url", "file") if options.get(name)}
    return f"-{sha256_of(door)[:8]}" if door else ""


def check_backend(block: Any) -> None:
    """Raise `UserError` with what keeps a recipe's annotator or judge from working; talks to nobody."""
    if hasattr(block, "lanes"):
        check_lanes(make_lanes(block))
        return
    annotator = make_annotator(block.backend, block.model, block.options)
    if isinstance(annotator, Managed):
        annotator.check()


def check_lanes(lanes: Sequence[Lane]) -> None:
    """Raise `UserError` where a lane cannot work (no key), before any work is done."""
    for lane in lanes:
        if isinstance(lane.annotator, Managed):
            lane.annotator.check()
