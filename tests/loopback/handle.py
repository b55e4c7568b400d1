"""Starts the service in a process of its own and talks to it; needs no library, so any client can be beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loopback.behaviour import Config

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    """Without a slash at its end."""

    def stats(self) -> dict[str, Any]:
        """What it has seen since it began or was reset; see `service.Service.stats`."""
        return dict(self._call("/stats"))

    def requests(self) -> list[dict[str, Any]]:
        """The last `keep_requests` requests: path, headers, query and body (JSON, or text where it is none)."""
        return list(self._call("/requests"))

    def reset(self, config: Config | None = None) -> None:
        """Forget everything, also attempts and limits; with another config from here on, if one is given."""
        self._call("/reset", json.dumps(asdict(config)) if config else "null")

    def _call(self, path: str, body: str | None = None) -> Any:
        data = None if body is None else body.encode()
        with _direct.open(urllib.request.Request(self.url + path, data=data), timeout=30) as response:
            return json.load(response)


@contextmanager
def serve(config: Config) -> Iterator[Service]:
    """The service while the block lasts. Its process ends with ours, however ours ends."""
    path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "loopback.service", "--config", json.dumps(asdict(config))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the loopback service did not start; see its message above")
            yield Service(url)
        finally:
            process.terminate()
            process.wait(10)
