"""A service of our own on this machine: real HTTP, in a process of its own, for tests and benchmarks.

    from loopback import Config, expected_scores, serve

    with serve(Config(requests_per_minute=1200, faults={"500": 0.03})) as service:
        ...ask service.url through any client...
        assert service.stats()["rejected"] == 0

`behaviour.py`  what the service does and when: limits, latency, faults, scenarios. Pure.
`answers.py`    what it answers: scores derived from what it received. Pure.
`service.py`    the HTTP core, and the seam that a wire format plugs into.
`gemini.py`     a wire format (others beside it).
`handle.py`     starts the process and talks to it. Needs no library.
"""

from loopback.answers import expected_answer, expected_grade, expected_preference, expected_scores, sha256_of
from loopback.behaviour import KINDS, Config, fault_of, latency_of
from loopback.handle import Service, serve

__all__ = [
    "KINDS",
    "Config",
    "Service",
    "expected_answer",
    "expected_grade",
    "expected_preference",
    "expected_scores",
    "fault_of",
    "latency_of",
    "serve",
    "sha256_of",
]
