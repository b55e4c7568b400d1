"""What is measured: services with their limits, latencies and faults, and what the client is told of them.

A service refuses what comes faster than its bucket allows (a second's worth at once, then evenly) and takes a
log-normal time for each answer. With faults, 9% of the attempts go wrong, each drawn from the hash of what was asked
and the number of the attempt, so that every client, and the oracle, meets the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from loopback import Config, fault_of, latency_of

from bench.annotate_rig.oracle import Best, oracle

FAULTS = {"500": 0.03, "503": 0.02, "dropped": 0.01, "truncated": 0.01, "broken_json_text": 0.02}


@dataclass(frozen=True, kw_only=True)
class Regime:
    name: str
    title: str
    n: int
    requests_per_minute: float
    latency: float
    faults: bool = False
    declared: float | None
    """The rate that the client is told; None: nothing."""
    target: float
    """Our span over the oracle's, at most."""
    most_rejected: float | None = None
    """Our share of rejected calls, at most."""
    peers: bool = False
    """Whether the peers are measured here too."""

    @property
    def burst(self) -> int:
        return round(self.requests_per_minute / 60)

    def service(self, *, openai: bool = False) -> Config:
        """The service. It asks who is too fast to come back in a second, in whole seconds as services do.

        As Gemini it says so in the body, as OpenAI's in headers too. (Told the very milliseconds until there is a
        token again, all the requests of a crowd come back at once: most peers then lose most of their rows.)
        """
        return Config(
            wires=("gemini", "openai"),
            tell="both" if openai else "body",
            requests_per_minute=self.requests_per_minute,
            burst=self.burst,
            retry_delay=1.0,
            latency=self.latency,
            faults=FAULTS if self.faults else {},
        )

    def oracle(self, contents: list[str]) -> Best:
        """`contents`: hash of each row's request, in the order of the plan."""
        config = self.service()

        def draw(content: str, attempt: int) -> tuple[float, bool]:
            return latency_of(config, content, attempt), fault_of(config, content, attempt) is None

        return oracle(contents, draw, requests_per_minute=self.requests_per_minute, burst=self.burst)


def _pair(name: str, title: str, n: int, rpm: float, latency: float) -> list[Regime]:
    common = {"n": n, "requests_per_minute": rpm, "latency": latency, "declared": rpm, "target": 1.02, "peers": True}
    clean = Regime(name=f"{name}-clean", title=f"{title}, clean", **common)  # type: ignore[arg-type]
    return [clean, Regime(name=f"{name}-faults", title=f"{title}, 9% faults", faults=True, **common)]  # type: ignore[arg-type]


_LEARNT = {"n": 1200, "requests_per_minute": 1200, "latency": 1.0, "target": 1.05, "most_rejected": 0.05}
REGIMES = [
    *_pair("1200", "1,200 rpm, 1 s", 600, 1200, 1.0),
    *_pair("6000", "6,000 rpm, 3 s", 1500, 6000, 3.0),
    Regime(name="undeclared", title="1,200 rpm, 1 s, rate not told", declared=None, **_LEARNT),  # type: ignore[arg-type]
    Regime(name="overdeclared", title="1,200 rpm, 1 s, told 2,400", declared=2400, **_LEARNT),  # type: ignore[arg-type]
    *_pair("300", "300 rpm, 1 s", 200, 300, 1.0),
]
"""In the order of importance, which is that of a whole run."""

QUICK = Regime(
    name="quick", title="1,200 rpm, 1 s, 9% faults, short", n=240, requests_per_minute=1200, latency=1.0, faults=True,
    declared=1200, target=1.05,
)  # fmt: skip
