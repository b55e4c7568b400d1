"""How many requests a service has been sent today, counted in a file so that every run of the day counts on.

    2026-11-21 1     one line a request, with its day in the service's own time zone

A clock that is set back does not give the day's requests again: the latest day seen stays today.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def zone_named(name: str) -> tzinfo:
    """The time zone, or Pacific standard time for Pacific and UTC for others where the machine has no zone data."""
    try:
        return ZoneInfo(name)
    except ZoneInfoNotFoundError:
        return timezone(timedelta(hours=-8)) if name == "America/Los_Angeles" else UTC


def seconds_to_midnight(zone: str, now: float) -> float:
    """From `now` (seconds since the epoch) to the zone's next midnight, when daily quotas begin anew."""
    here = datetime.fromtimestamp(now, zone_named(zone))
    tomorrow = datetime.combine(here.date() + timedelta(days=1), datetime.min.time(), here.tzinfo)
    return tomorrow.timestamp() - now


class DayCount:
    """Counts requests per day in `file`."""

    def __init__(self, file: Path, zone: str, clock: Callable[[], float] = time.time) -> None:
        self._file, self._zone, self._clock = file, zone, clock
        lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
        days = [line.split()[0] for line in lines if len(line.split()) == 2 and len(line.split()[0]) == 10]
        self._day = max(days, default="")
        self._count = days.count(self._day) if days else 0

    def today(self) -> int:
        """Requests sent today."""
        day = datetime.fromtimestamp(self._clock(), zone_named(self._zone)).date().isoformat()
        if day > self._day:
            self._day, self._count = day, 0
        return self._count

    def add(self) -> None:
        """One more was sent."""
        self._count = self.today() + 1
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(f"{self._day} 1\n")

    def reset_in(self) -> float:
        """Seconds until the count begins anew."""
        return seconds_to_midnight(self._zone, self._clock())
