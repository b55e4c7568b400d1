"""One of the two batch backends and the service it talks to, as the tests of batch jobs use them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from batch_asking import KEY, WIRE, ask, backend, few_certificates
from loopback import Config, Service, serve
from loopback.batches import seen

from annotate.protocol import Reply

SECRET = "AIza-secret-0123456789"


@dataclass
class Rig:
    """`name` is the backend's."""

    name: str
    service: Service
    workspace: Path

    @property
    def url(self) -> str:
        return self.service.url

    def ask(self, *requests: Any, **options: Any) -> list[Reply]:
        """One run: open, ask all at once, close."""
        return asyncio.run(ask(backend(self.name, self.url, **options), self.workspace, requests))

    def jobs(self) -> list[dict[str, Any]]:
        return list(seen(self.url)["jobs"])

    def anew(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
        """For another test: the service has forgotten everything, the workspace is empty, there is a key."""
        self.service.reset()
        for variable, value in {KEY[self.name]: SECRET, **few_certificates(folder)}.items():
            monkeypatch.setenv(variable, value)
        return replace(self, workspace=folder / "annotate")


@contextmanager
def run_service(name: str) -> Iterator[Rig]:
    with serve(Config(wires=(WIRE[name],), key=SECRET)) as service:
        yield Rig(name, service, Path())


def outcomes(replies: list[Reply]) -> list[str]:
    return [reply.outcome.value for reply in replies]
