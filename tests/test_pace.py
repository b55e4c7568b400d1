"""The pace against imagined services: a token bucket of `burst` that fills at a true rate, on a clock that is ours."""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from annotate.pace import Pace, TokenPace
from annotate.quota import DayCount, seconds_to_midnight


def run(
    true: float, declared: float | None, n: int, burst: float, *, pause: str = "exact", answer_seconds: float = 1.0
) -> tuple[float, float]:
    """Ask n times. How long it took by the best possible, and the share of requests that were rejected.

    Requests arrive 10 to 14 ms after they were sent; a rejection is known 30 ms later, any other reply after
    `answer_seconds`. `pause`: what the service says of when to come back; nothing, a second, or exactly when.
    """
    draw = random.Random(0)
    rate = true / 60
    level, at, now, last, sent, rejected = burst, 0.0, 0.0, 0.0, 0, 0
    replies: list[tuple[float, float, bool, float]] = []
    pace = Pace(declared)
    while n or replies:
        due = now + pace.wait(now) if n else float("inf")
        if n and due <= (replies[0][0] if replies else float("inf")):
            now = due if due > now else now
            if pace.wait(now) > 0:
                now += 1e-6
                continue
            pace.sent(now)
            n, sent = n - 1, sent + 1
            arrives = now + 0.010 + 0.004 * draw.random()
            level = min(burst, level + max(0.0, arrives - at) * rate)
            at = max(at, arrives)
            if level >= 1:
                level, last = level - 1, max(last, arrives)
                heapq.heappush(replies, (arrives + answer_seconds, now, True, 0.0))
            else:
                heapq.heappush(replies, (arrives + 0.030, now, False, (1 - level) / rate))
            continue
        now, sent_at, fine, exact = heapq.heappop(replies)
        if fine:
            pace.admitted()
        else:
            pace.rejected(sent_at, now, exact if pause == "exact" else 1.0)
            n, rejected = n + 1, rejected + 1
    return last / ((sent - rejected - burst) / rate), rejected / sent


@pytest.mark.parametrize("burst", [20, 60])
@pytest.mark.parametrize("rpm", [300, 1200, 6000])
def test_a_declared_rate_is_kept_to(rpm: int, burst: int) -> None:
    ratio, rejected = run(rpm, rpm, max(1200, rpm), burst=max(1, rpm / 60))
    assert ratio < 1.02 and rejected < 0.002
    ratio, rejected = run(1200, 1200, 1200, burst=burst, pause="second")
    assert ratio < 1.05 and rejected < 0.002


@pytest.mark.parametrize("pause", ["exact", "second"])
@pytest.mark.parametrize("declared", [None, 1320, 2400])
def test_a_rate_that_is_not_known_or_declared_too_high_is_learnt(declared: float | None, pause: str) -> None:
    ratio, rejected = run(1200, declared, 1200, burst=20, pause=pause)
    assert ratio < 1.05 and rejected < 0.05


@pytest.mark.parametrize("rpm", [15, 60, 300, 6000])
@pytest.mark.parametrize("declared", [None, 4.0])
def test_slow_and_fast_services_are_learnt(rpm: int, declared: float | None) -> None:
    """15 a minute is the smallest free tier; 4.0 declares four times too much."""
    ratio, rejected = run(rpm, declared and declared * rpm, 1200, burst=max(1, rpm / 4), pause="second")
    assert ratio < 1.25 and rejected < 0.06


def test_a_rate_that_changes_is_followed() -> None:
    """Half of the requests at 1200 a minute, then the service gives 600, and then 2400."""
    pace = Pace(None)
    now, level, at = 0.0, 20.0, 0.0
    rates = []
    for rate in (20.0, 10.0, 40.0):
        admitted, start = 0, now
        while now - start < 120:
            now += max(pace.wait(now), 1e-6)
            if pace.wait(now) > 0:
                continue
            pace.sent(now)
            level = min(20.0, level + (now - at) * rate)
            at = now
            if level >= 1:
                level -= 1
                admitted += now - start > 60
                pace.admitted()
            else:
                pace.rejected(now, now + 0.02, (1 - level) / rate)
        rates.append(admitted / 60)
    assert rates == [pytest.approx(20, rel=0.05), pytest.approx(10, rel=0.05), pytest.approx(40, rel=0.1)]


def test_rejections_of_what_was_under_way_are_one_event() -> None:
    pace = Pace(1200)
    for i in range(10):
        pace.sent(i * 0.001)
    assert pace.rejected(0.005, 0.1, 2.0)
    assert not any(pace.rejected(i * 0.001, 0.1, 2.0) for i in range(6, 10))
    assert (pace.silent, pace.rate) == (1, 20.0)
    assert pace.wait(0.1) == pytest.approx(2.0)
    pace.admitted()
    assert pace.silent == 0


def test_tokens_are_reserved_and_settled() -> None:
    tokens = TokenPace(60_000)  # a thousand a second
    assert tokens.wait(0.0, 900) == 0.0
    tokens.take(0.0, 900)
    assert tokens.wait(0.0, 900) == pytest.approx(0.8)
    tokens.settle(900, 400)  # it took less than was thought
    assert tokens.wait(0.0, 900) == pytest.approx(0.3)
    assert tokens.wait(0.5, 900) == 0.0
    tokens.take(0.5, 5000)  # more than a second's worth goes when the store is full, and is paid off
    assert tokens.wait(0.5, 900) == pytest.approx(4.9)


# ------------------------------------------------------------------------------------------------------------ the day


class Clock:
    def __init__(self, *when: int) -> None:
        self.set(*when)

    def set(self, *when: int) -> None:
        self.now = datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]

    def __call__(self) -> float:
        return self.now


def test_a_day_is_counted_over_runs_and_in_the_zone_of_the_service(tmp_path: Path) -> None:
    clock = Clock(2026, 11, 21, 7, 0)  # still the 20th, 23:00, in California
    file = tmp_path / "requests.txt"
    first = DayCount(file, "America/Los_Angeles", clock)
    for _ in range(3):
        first.add()
    again = DayCount(file, "America/Los_Angeles", clock)
    assert again.today() == 3
    assert again.reset_in() == 3600
    clock.set(2026, 11, 21, 8, 1)
    assert again.today() == 0
    again.add()
    assert DayCount(file, "America/Los_Angeles", clock).today() == 1


def test_a_clock_that_is_set_back_gives_no_second_quota(tmp_path: Path) -> None:
    clock = Clock(2026, 11, 21, 12, 0)
    count = DayCount(tmp_path / "requests.txt", "UTC", clock)
    count.add()
    clock.set(2026, 11, 20, 12, 0)
    assert count.today() == DayCount(tmp_path / "requests.txt", "UTC", clock).today() == 1
    count.add()
    clock.set(2026, 11, 21, 13, 0)
    assert DayCount(tmp_path / "requests.txt", "UTC", clock).today() == 2


def test_a_line_cut_short_by_a_kill_is_no_day(tmp_path: Path) -> None:
    file = tmp_path / "requests.txt"
    file.write_text("2026-11-21 1\n2026-11-21 1\n2026-1")
    assert DayCount(file, "UTC", Clock(2026, 11, 21, 12, 0)).today() == 2


def test_midnight() -> None:
    assert seconds_to_midnight("UTC", Clock(2026, 11, 21, 23, 59)()) == 60
    assert seconds_to_midnight("America/Los_Angeles", Clock(2026, 11, 21, 7, 59)()) == 60


def test_a_pace_tells_that_the_service_slowed_it_down() -> None:
    pace = Pace(None)
    pace.sent(0.0)
    assert not pace.slowed
    pace.rejected(0.0, 0.1, 1.0)
    assert pace.slowed
