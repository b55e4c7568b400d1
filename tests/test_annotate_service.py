"""The whole stage against a real service on this machine, through the command line: kills, quotas, disks, keys."""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import service_run
import small_run
from loopback import Config, Service, serve

FAULTS = {"500": 0.06, "503": 0.04, "dropped": 0.03, "truncated": 0.03, "broken_json_text": 0.05, "html200": 0.02}
BACKENDS = ("gemini", pytest.param("gemini_legacy", marks=pytest.mark.slow), "openai_chat")


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serve(Config(wires=("gemini", "openai"))) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    running.reset(config())
    return running


def config(**rest: Any) -> Config:
    return Config(wires=("gemini", "openai"), key=service_run.KEY, **rest)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", service_run.KEY)


def url_of(service: Service, backend: str) -> str:
    return service.url + ("/v1" if backend == "openai_chat" else "")


def questions(n: int, what: str = "") -> list[str]:
    return [f"What stands on table {i}? {what}".strip() for i in range(n)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_lost_and_nothing_is_bought_twice(tmp_path: Path, service: Service, backend: str) -> None:
    service.reset(config(faults=FAULTS, latency=0.02))
    made = {"url": url_of(service, backend), "backend": backend}
    recipe = service_run.make(tmp_path, questions(40), **made)
    run = small_run.align("annotate", recipe, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    records = service_run.annotated(tmp_path)
    assert (len(records), service_run.wrong_scores(records)) == (40, 0)
    calls = len(service.stats()["arrivals"])
    assert calls > 44  # faults were met
    assert service.stats()["duplicates"] <= service.stats()["kinds"].get("broken_json_text", 0)

    assert "up to date" in small_run.align("annotate", recipe, cwd=tmp_path).stdout
    assert small_run.align("annotate", recipe, "--reparse", cwd=tmp_path).returncode == 0
    assert len(service.stats()["arrivals"]) == calls
    # A tenth more prompts, somewhere in the file, are a tenth more calls.
    service.reset(config())
    more = questions(44)
    recipe = service_run.make(tmp_path, more, **made)
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert len(service.stats()["arrivals"]) == 4
    assert service_run.wrong_scores(service_run.annotated(tmp_path)) == 0


def killed_and_quiet(folder: Path, service: Service, n: int, kills: int, **behaviour: Any) -> None:
    """Runs that are killed at random moments, and one that is left alone, end with the same bytes."""
    service.reset(config(**behaviour))
    quiet = service_run.make(folder / "quiet", questions(n), url=service.url)
    assert small_run.align("annotate", quiet, cwd=folder / "quiet").returncode == 0
    service.reset(config(**behaviour))
    recipe = service_run.make(folder / "killed", questions(n), url=service.url, requests_per_minute=60 * n)
    draw = random.Random(5)
    struck = 0
    while struck < kills:
        process = small_run.start("annotate", recipe, "annotate.requests_per_minute=300", cwd=folder / "killed")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        struck += 1
    journal = folder / "killed/runs/service/annotate/journal.jsonl"
    done = journal.read_bytes().count(b"\n")
    assert done < n, "the kills came too late to mean anything"
    stats = service.stats()
    # What was in flight when the process died is the only thing that may be paid for again.
    in_flight_at_death = sum(stats["paid"].values()) - done
    last = small_run.align("annotate", recipe, cwd=folder / "killed")
    assert last.returncode == 0, last.stderr
    assert service.stats()["duplicates"] <= in_flight_at_death
    assert small_run.outputs(folder / "killed/runs/service/annotate") == small_run.outputs(
        folder / "quiet/runs/service/annotate"
    )
    assert service_run.wrong_scores(service_run.annotated(folder / "killed")) == 0


def test_killed_runs_end_with_the_bytes_of_a_quiet_one(tmp_path: Path, service: Service) -> None:
    killed_and_quiet(tmp_path, service, 40, 4, latency=0.1, faults={"500": 0.05, "dropped": 0.03})


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path, service: Service) -> None:
    killed_and_quiet(tmp_path, service, 300, 30, latency=0.1, faults=FAULTS)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_takes_along_what_is_paid_for(tmp_path: Path, service: Service, sent: signal.Signals) -> None:
    service.reset(config(latency=0.8, sigma=0.0))
    recipe = service_run.make(tmp_path, questions(60), url=service.url, requests_per_minute=1200)
    process = small_run.start("annotate", recipe, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    while not service.stats()["admitted"] > 8:
        time.sleep(0.05)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "are under way and are waited for" in errors and "Traceback" not in errors
    journal = (tmp_path / "runs/service/annotate/journal.jsonl").read_text().splitlines()
    assert len(journal) == sum(service.stats()["paid"].values()) >= 9
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert service.stats()["duplicates"] == 0


def test_a_full_disk_stops_the_run_and_the_journal_stays_whole(tmp_path: Path, service: Service) -> None:
    recipe = service_run.make(tmp_path, questions(30), url=service.url)

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = small_run.start("annotate", recipe, cwd=tmp_path, preexec_fn=small_disk)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "a file may not grow further" in errors and "Traceback" not in errors
    journal = tmp_path / "runs/service/annotate/journal.jsonl"
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 0 < len(kept) < 30 and journal.stat().st_size <= 20_000
    before = sum(service.stats()["paid"].values())
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert sum(service.stats()["paid"].values()) - before == 30 - len(kept)
    assert len(service_run.annotated(tmp_path)) == 30


def test_a_daily_quota_stops_with_the_time_to_come_back(tmp_path: Path, service: Service) -> None:
    service.reset(config(requests_per_day=12, day_delay=5.0))
    recipe = service_run.make(tmp_path, questions(30), url=service.url)
    run = small_run.align("annotate", recipe, cwd=tmp_path)
    assert run.returncode == 3, run.stderr
    assert "daily quota is used up" in run.stderr and "come back in" in run.stderr and "12 of 30" in run.stderr
    assert "5 s" not in run.stderr  # what the service says of a day's quota is misleading
    service.reset(config())
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert service.stats()["admitted"] == 18


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_cannot_be_had_is_a_failure_with_its_reason(tmp_path: Path, service: Service, backend: str) -> None:
    kinds = ("safety", "max_tokens", "wrong_schema", "503", "400", "429_body*1", "fenced", "shuffled")
    asked = [f"Table {i}? [[scenario:{kind}]]" for i, kind in enumerate(kinds)]
    recipe = service_run.make(tmp_path, asked, url=url_of(service, backend), backend=backend)
    run = small_run.align("annotate", recipe, "annotate.attempts=2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = (tmp_path / "runs/service/annotate/failures.jsonl").read_text().splitlines()
    found = {row["record_id"]: row["reason"] for row in map(json.loads, rows)}
    ids = [json.loads(line)["id"] for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [found.get(prompt_id) for prompt_id in ids] == [
        "blocked", "cut_off", "unparsable", "service", "blocked", None, None, None,
    ]  # fmt: skip
    assert service_run.wrong_scores(service_run.annotated(tmp_path)) == 0
    # Asked again, they cost again, and only where that is said.
    calls = len(service.stats()["arrivals"])
    small_run.align("annotate", recipe, cwd=tmp_path)
    assert len(service.stats()["arrivals"]) == calls
    small_run.align("annotate", recipe, "--retry-failed", "annotate.attempts=1", cwd=tmp_path)
    assert len(service.stats()["arrivals"]) > calls


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_key_is_nowhere(tmp_path: Path, service: Service, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service of these scenarios echoes the key in its errors, as services have been seen to."""
    asked = [f"Table {i}? [[scenario:{kind}]]" for i, kind in enumerate(("500*1", "429_body*1", "500", "safety"))]
    recipe = service_run.make(tmp_path, asked, url=url_of(service, backend), backend=backend)
    run = small_run.align("annotate", recipe, "annotate.attempts=3", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    monkeypatch.setenv("SERVICE_KEY", "another-" + service_run.KEY)
    refused = small_run.align("annotate", recipe, "--retry-failed", cwd=tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr
    assert "refuses every request" in refused.stderr
    for text in (run.stdout, run.stderr, refused.stdout, refused.stderr):
        assert service_run.KEY not in text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or service_run.KEY.encode() not in file.read_bytes(), file
    monkeypatch.delenv("SERVICE_KEY")
    missing = small_run.align("annotate", recipe, "--retry-failed", cwd=tmp_path)
    if backend != "openai_chat":  # a server of one's own needs no key
        assert missing.returncode == 2 and "SERVICE_KEY" in missing.stderr


def test_two_keys_are_two_lanes(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", service_run.KEY)
    service.reset(config(latency=0.05))
    lanes = [{"key_env": "SERVICE_KEY", "requests_per_minute": 300}, {"key_env": "OTHER_KEY"}]
    recipe = service_run.make(tmp_path, questions(50), url=service.url, lanes=lanes, requests_per_minute=900)
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert service_run.wrong_scores(service_run.annotated(tmp_path)) == 0
    began = [arrival["at"] for arrival in service.stats()["arrivals"]]
    assert 1.2 < max(began) - min(began) < 4  # 50 at 20 a second; 300 alone would take 9 seconds, 900 alone 2.3
