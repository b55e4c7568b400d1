"""Batch jobs under kill -9, and how much memory ten thousand images take."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from batch_asking import KEY, WIRE, few_certificates, request, right
from loopback import Config, serve
from loopback.batches import plan, seen

from annotate.journal import read_journal


class Nursery:
    """Processes that ask, one after the other (see `batch_asking.main`)."""

    def __init__(self, process: subprocess.Popen[str], name: str, url: str) -> None:
        self._process, self._name, self._url = process, name, url

    def live(self, workspace: Path, n: int, seconds: float) -> bool:
        """One life, killed after so many seconds; whether it came to its own end before."""
        assert self._process.stdin is not None and self._process.stdout is not None
        life = {"name": self._name, "url": self._url, "workspace": str(workspace), "n": n, "seconds": seconds}
        print(json.dumps(life), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        assert status in (0, signal.SIGKILL)
        return status == 0


def environment(folder: Path, name: str) -> dict[str, str]:
    return {**os.environ, **few_certificates(folder), "PYTHONPATH": str(Path(__file__).parent), KEY[name]: "key"}


@contextmanager
def nursery(folder: Path, name: str, url: str) -> Iterator[Nursery]:
    command = [sys.executable, "-m", "batch_asking"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment(folder, name)) as process:
        assert process.stdin is not None
        yield Nursery(process, name, url)
        process.stdin.close()


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("gemini_batch", 10),
        pytest.param("gemini_batch", 100, marks=pytest.mark.slow),
        pytest.param("openai_batch", 100, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_time_nothing_is_bought_twice(name: str, kills: int, tmp_path: Path) -> None:
    """Kills while requests are written, between intent and creation, while jobs run, while answers are downloaded."""
    rng = random.Random(f"{name} {kills}")
    slowly = {"fates": [{"seconds": 0.05}] * 99, "before_create": 0.04, "after_create": 0.04, "download_seconds": 0.03}
    with serve(Config(wires=(WIRE[name],))) as service, nursery(tmp_path, name, service.url) as lives:
        lives.live(tmp_path / "first", 1, 60.0)
        done = runs = 0
        while done < kills:
            runs += 1
            workspace = tmp_path / f"run-{runs}"
            service.reset()
            plan(service.url, **slowly)
            while not lives.live(workspace, 25, rng.uniform(0.0, 0.5)):
                done += 1
            check(workspace, service.url, 25)
            assert service.stats()["duplicates"] == 0


def check(workspace: Path, url: str, n: int) -> None:
    """Each question has its own answer, and was in one job alone."""
    requests = [request(i) for i in range(n)]
    answers = read_journal(workspace / "journal.jsonl")
    assert {asked.sha256: right(asked) for asked in requests} == {key: line["text"] for key, line in answers.items()}
    bought = Counter(key for job in seen(url)["jobs"] for key in job["keys"])
    assert bought == Counter(asked.sha256 for asked in requests)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WIRE))
def test_images_do_not_pile_up(name: str, tmp_path: Path) -> None:
    """Ten times as many images of 200 kB each take some kilobytes more for each question, not 200."""

    def peak(n: int) -> float:
        with serve(Config(wires=(WIRE[name],))) as service:
            command = [
                sys.executable,
                "-m",
                "batch_asking",
                name,
                service.url,
                str(tmp_path / str(n)),
                str(n),
                "200000",
            ]
            done = subprocess.run(command, env=environment(tmp_path, name), check=True, capture_output=True, text=True)
            told = json.loads(done.stdout)
            assert told["right"] == n
            print(name, n, told)
            return float(told["peak_mb"])

    assert peak(10_000) - peak(1_000) < 9_000 * 0.006
