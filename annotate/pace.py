"""How fast to ask: arithmetic on times that are handed in, so that it can be tried out against any imagined service.

`Pace` spaces requests evenly at a rate. The rate is the declared one, as long as the service keeps to it; where nothing
was declared, or too much, it is learnt from the rejections themselves:

    search   nothing known yet: double every second until the service first says no; then halve at each no that comes
             soon, and grow by a quarter a second in between (a declared rate gets a second chance first)
    found    a service that says no has just run out. Between two such moments it has let in exactly what it gives out
             in that time: admitted / seconds IS the rate. Keep to it a while, then grow, by one per cent a second.

Many rejections of requests that were under way at the same moment are one event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

START_PER_MINUTE = 600.0
"""Where learning begins when no rate is declared."""
BURST_SECONDS = 1.0
"""What may be made up for at once after standing still: so many seconds' worth of requests."""
PEAK = 3.0
"""Made up for at no more than so many times the rate, so that the first rejection finds few under way."""

_REMEMBERED = 4096


class Pace:
    """When the next request may go, in seconds of any clock that never goes back (`now`)."""

    def __init__(self, per_minute: float | None) -> None:
        self.declared = per_minute / 60 if per_minute else None
        self.rate = self.declared or START_PER_MINUTE / 60
        """Requests per second, as believed at the moment."""
        # One and a little are held back: requests travel for different times and may arrive closer than they left.
        self.burst = max(1.0, self.rate * BURST_SECONDS * 0.95 - 1)
        self._credit = self.burst
        self._last = -1e18  # of the last request sent
        self._at: float | None = None  # when credit and rate were brought up to date
        self._resume = -1e18
        self._learning = per_minute is None
        self._found_at: float | None = None
        self._event: float | None = None  # when the service was last seen to have run out
        self._before = 0  # sent since then, and forgotten when
        self._sent: deque[float] = deque()
        self._rejected = 0
        self._known_until = -1e18  # rejections of what was sent before are part of that event
        self._soon = 0
        self._paused = 0.0  # seconds of pause since then
        self._silent = 0  # events since anything was let in

    # -------------------------------------------------------------------------------------------------- asking for it

    def wait(self, now: float) -> float:
        """Seconds until one more request may go; 0 if it may go now."""
        self._bring_up(now)
        spacing = self._last + 1 / (PEAK * self.rate) - now
        due = (1 - self._credit) / self.rate if self._credit < 1 - 1e-9 else 0.0
        return max(0.0, self._resume - now, due, spacing)

    def sent(self, now: float) -> None:
        self._bring_up(now)
        self._credit -= 1
        self._last = now
        self._sent.append(now)
        if len(self._sent) > _REMEMBERED:
            self._sent.popleft()
            self._before += 1

    def _bring_up(self, now: float) -> None:
        """Grow rate and credit to what they are at `now`."""
        since = self._at if self._at is not None else now
        passed = max(0.0, now - since)
        self._at = max(now, since)
        running = max(0.0, min(passed, now - max(since, self._resume)))
        if running:
            self._grow(running, now)
        self._credit = min(self.burst, self._credit + passed * self.rate)

    def _grow(self, seconds: float, now: float) -> None:
        unit = max(1.0, 5 / self.rate)  # a slow service is learnt about by the call, not by the second
        if self._learning and self._event is None:
            self.rate *= 2 ** (seconds / unit)
        elif self._learning:
            self.rate *= 1.25 ** (seconds / unit)
        elif self._found_at is not None and (quiet := (now - self._found_at) / unit) > 5:
            self.rate *= (1 + 0.01 * min(10.0, max(1.0, quiet / 4))) ** (seconds / unit)
        if self.declared is not None:
            self.rate = min(self.rate, self.declared)
        if self._learning:
            self.burst = max(1.0, self.rate * BURST_SECONDS)

    # ------------------------------------------------------------------------------------------- what came of it

    def admitted(self) -> None:
        """The service took a request: it is not shut."""
        self._silent = 0

    def rejected(self, sent_at: float, now: float, pause: float) -> bool:
        """A request sent at `sent_at` was too many: send none for `pause` seconds. True if that is a new event."""
        self._rejected += 1
        new = self._event is None or sent_at > self._known_until
        if new:
            self._silent += 1
            self._learn(sent_at)
            self._event, self._known_until, self._paused = sent_at, now, 0.0
        resume = max(self._resume, now + pause)
        self._paused += resume - max(self._resume, now)
        self._resume = resume
        return new

    @property
    def slowed(self) -> bool:
        """Whether the service has said that it was too fast."""
        return self._event is not None

    @property
    def silent(self) -> int:
        """Rejections in a row, each after its pause, with nothing let in between."""
        return self._silent

    def _given_out(self, admitted: int, seconds: float) -> float:
        """The rate of a service that had nothing left both before and after it let so many in.

        During our pause it can only have laid by what it has room for, which is our own `burst` as far as we know.
        """
        rate = admitted / seconds
        if rate * self._paused > self.burst and seconds > self._paused:
            rate = max(rate, (admitted - self.burst) / (seconds - self._paused))
        if self.declared is not None and rate > 0.97 * self.declared:
            rate = self.declared
        return rate

    def _learn(self, sent_at: float) -> None:
        """Take the rate from what was let through since the service last ran out."""
        sent = self._before + bisect_right(self._sent, sent_at)
        admitted = sent - self._rejected
        seconds = sent_at - self._event if self._event is not None else 0.0
        if seconds >= 1.0 and admitted >= 10:
            found = self._given_out(admitted, seconds)
            # One that can lay nothing by gives out less than it could whenever we ask for less.
            self.rate = max(found, 0.97 * self.rate) if self.burst < 2 and not self._learning else found
            self._learning, self._found_at, self._soon = False, sent_at, 0
        elif self._event is None and self.declared is not None:
            pass  # it may have had less in store than we thought
        elif not self._learning and 0 < sent <= self.burst and self.burst > 1:
            self.burst = max(1.0, self.burst / 2)
        else:
            self._soon += 1  # one rejection soon after another may be chance, two hardly
            self.rate *= 0.9 if self._soon == 1 and not self._learning else 0.5
            self._learning = True
        if self.declared is not None:
            self.rate = min(self.rate, self.declared)
        if self._learning or self._found_at == sent_at:
            self.burst = max(1.0, min(self.burst, self.rate * BURST_SECONDS))
        self._credit = 0.0
        # Those sent after this one are of the next stretch; those of them that are rejected too will be counted there.
        self._sent = deque(self._sent[i] for i in range(bisect_right(self._sent, sent_at), len(self._sent)))
        self._before = self._rejected = 0


class TokenPace:
    """Tokens per minute: reserve what a request will probably take, and settle when it is known."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._most = self._rate * BURST_SECONDS
        self._level = self._most
        self._at: float | None = None

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a request of so many tokens may go; one larger than the store waits until it is full."""
        self._bring_up(now)
        return max(0.0, (min(tokens, self._most) - self._level) / self._rate)

    def take(self, now: float, tokens: float) -> None:
        self._bring_up(now)
        self._level -= tokens

    def settle(self, reserved: float, used: float) -> None:
        """What was reserved comes back, what was used goes."""
        self._level = min(self._most, self._level + reserved - used)

    def _bring_up(self, now: float) -> None:
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now if self._at is None else max(now, self._at)
        self._level = min(self._most, self._level + passed * self._rate)
