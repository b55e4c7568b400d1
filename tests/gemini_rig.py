"""What the tests of the Gemini backends have in common: both of them, and a service that lets them in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Config, Service, serve
from loopback.asking import question

from annotate.backends.gemini import Gemini
from annotate.backends.gemini_legacy import GeminiLegacy
from annotate.protocol import Request

ROOT = Path(__file__).parents[1]
KEY = "AIza-the-key-of-this-test"

BACKENDS: dict[str, Callable[..., Any]] = {"gemini": Gemini, "gemini_legacy": GeminiLegacy}
backends = pytest.mark.parametrize("backend", BACKENDS)


def scenario(kind: str) -> Request:
    return question(f"Which digit is it? [[scenario:{kind}]]")


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serve(Config()) as service:
        yield service


@pytest.fixture
def service(running: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that has seen nothing yet and lets our key in."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    running.reset(Config(key=KEY, keep_requests=8, slow_seconds=4.0))
    return running


def sent(service: Service) -> dict[str, Any]:
    """The body of the last request, its names in camelCase: libraries mix both spellings, and both are taken."""

    def named(value: Any, name: str = "") -> Any:
        if isinstance(value, dict) and name != "responseJsonSchema":
            camel = {re.sub("_([a-z])", lambda m: m[1].upper(), n): inner for n, inner in value.items()}
            return {n: named(inner, n) for n, inner in camel.items()}
        return [named(inner) for inner in value] if isinstance(value, list) else value

    return dict(named(service.requests()[-1]["body"]))
