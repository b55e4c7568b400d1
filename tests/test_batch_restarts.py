"""Batch jobs over several runs: interrupted, killed, gone on with; and how much memory ten thousand images take."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import service_run
import small_run
from batch_asking import KEY, WIRE, ask, backend, few_certificates, request, right
from batch_rig import Rig, outcomes, run_service
from loopback import Config, serve
from loopback.batches import plan, seen

from annotate.errors import UserError
from annotate.journal import read_journal
from annotate.protocol import Outcome


@pytest.fixture(scope="module", params=sorted(WIRE))
def running(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with run_service(request.param) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return running.anew(tmp_path, monkeypatch)


# --------------------------------------------------------------------------------------------------------- the next run


def interrupt(rig: Rig, *requests: Any, when: Callable[[], bool]) -> None:
    """A run that is told to stop as soon as `when` is so."""

    async def run() -> None:
        task = asyncio.create_task(ask(backend(rig.name, rig.url), rig.workspace, requests))
        while not await asyncio.to_thread(when):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


def journaled(rig: Rig) -> list[str]:
    """The steps in jobs.jsonl."""
    text = (rig.workspace / "jobs.jsonl").read_text() if (rig.workspace / "jobs.jsonl").exists() else ""
    return [json.loads(line)["key"].partition("/")[2] for line in text.splitlines()]


def test_the_next_run_takes_up_a_job_that_was_left(rig: Rig) -> None:
    plan(rig.url, fates=[{"seconds": 0.3}])
    requests = [request(i) for i in range(6)]
    interrupt(rig, *requests[:5], when=lambda: "job" in journaled(rig))
    assert [reply.text for reply in rig.ask(*requests)] == [right(asked) for asked in requests]
    assert [len(job["keys"]) for job in rig.jobs()] == [5, 1]


def test_a_job_whose_id_was_never_told_is_found_by_its_name(rig: Rig) -> None:
    plan(rig.url, after_create=0.25)
    interrupt(rig, request(0), when=lambda: bool(rig.jobs()))
    assert journaled(rig) == ["intent"]
    [reply] = rig.ask(request(0))
    assert reply.text == right(request(0))
    assert len(rig.jobs()) == 1


def test_a_job_that_never_came_to_be_is_not_waited_for(rig: Rig) -> None:
    plan(rig.url, creates=["lost_before"], before_create=0.25)
    interrupt(rig, request(0), when=lambda: "intent" in journaled(rig))
    assert outcomes(rig.ask(request(0))) == ["transient"]
    assert outcomes(rig.ask(request(0))) == ["ok"]
    assert len(rig.jobs()) == 1


def test_what_was_answered_is_answered_from_disk(rig: Rig) -> None:
    first = rig.ask(request(0), request(1))
    calls = seen(rig.url)["counts"]
    assert rig.ask(request(1), request(0)) == first[::-1]
    assert seen(rig.url)["counts"] == calls


def test_a_refusal_that_the_run_knows_of_may_be_asked_again(rig: Rig) -> None:
    asked = request(0, scenario="400*1")
    assert outcomes(rig.ask(asked)) == ["row_fatal"]
    assert outcomes(rig.ask(asked)) == ["ok"]


def test_two_runs_in_one_place_are_refused(rig: Rig) -> None:
    async def both() -> None:
        rig.workspace.mkdir()
        one, other = backend(rig.name, rig.url), backend(rig.name, rig.url)
        await one.open(rig.workspace)
        with pytest.raises(UserError, match="another process"):
            await other.open(rig.workspace)
        await one.close()
        await other.close()

    asyncio.run(both())


def test_a_job_that_the_key_does_not_reach_is_not_bought_again(rig: Rig) -> None:
    plan(rig.url, fates=[{"seconds": 9.0}])
    interrupt(rig, request(0), when=lambda: "job" in journaled(rig))
    rig.service.reset()  # another project: it has no such job
    [reply] = rig.ask(request(0))
    assert reply.outcome is Outcome.RUN_FATAL
    assert "jobs.jsonl" in reply.detail
    assert rig.jobs() == []


# -------------------------------------------------------------------------------------------------------- a whole stage


def stage(rig: Rig, folder: Path, questions: list[str]) -> Path:
    """A recipe whose stage `annotate` asks these."""
    base_url = rig.url + ("/v1" if rig.name == "openai_batch" else "")
    options = {"quiet_seconds": 0.1, "poll_seconds": 0.02, "key_env": KEY[rig.name]}
    return service_run.make(
        folder, questions, url=base_url, backend=rig.name, requests_per_minute=None, options=options
    )


def test_a_stage_by_batch_jobs(rig: Rig, tmp_path: Path) -> None:
    """The first job expires half done; later, one row is refused."""
    if rig.name == "openai_batch":
        pytest.skip("the stage does not see which service it is")
    plan(rig.url, fates=[{"end": "expired", "answered": 0.5}])
    questions = [f"What stands on table {i}?" for i in range(9)] + ["What is it? [[scenario:400]]"]
    recipe = stage(rig, tmp_path, questions)
    run = small_run.align("annotate", recipe, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    records = service_run.annotated(tmp_path)
    assert (len(records), service_run.wrong_scores(records)) == (9, 0)
    assert rig.service.stats()["duplicates"] == 0
    assert rig.jobs()[0]["state"] == "expired"


@pytest.mark.slow
def test_ctrl_c_leaves_jobs_to_the_next_run(rig: Rig, tmp_path: Path) -> None:
    plan(rig.url, fates=[{"seconds": 2.0}])
    recipe = stage(rig, tmp_path, [f"What stands on table {i}?" for i in range(20)])
    process = small_run.start("annotate", recipe, cwd=tmp_path)
    while not rig.jobs():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert len(rig.jobs()) == 1
    records = service_run.annotated(tmp_path)
    assert (len(records), service_run.wrong_scores(records)) == (20, 0)


# --------------------------------------------------------------------------------------------------- kills, and memory


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
            while not lives.live(workspace, 25, rng.uniform(0.0, 0.4)):
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
