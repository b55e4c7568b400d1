"""Batch jobs through the real SDKs against a service on loopback: by key, restarts, and whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import service_run
import small_run
from batch_asking import KEY, WIRE, ask, backend, few_certificates, png, request, right
from loopback import Config, Service, serve
from loopback.batches import plan, seen

from annotate.errors import UserError
from annotate.protocol import Outcome, Reply, traits_of
from annotate.records import Reason

SECRET = "AIza-secret-0123456789"


@dataclass
class Rig:
    """One of the two backends, and the service that it talks to."""

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


@pytest.fixture(scope="module", params=sorted(WIRE))
def running(request: pytest.FixtureRequest) -> Iterator[tuple[str, Service]]:
    with serve(Config(wires=(WIRE[request.param],), key=SECRET)) as service:
        yield request.param, service


@pytest.fixture
def rig(running: tuple[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    name, service = running
    service.reset()
    for variable, value in {KEY[name]: SECRET, **few_certificates(tmp_path)}.items():
        monkeypatch.setenv(variable, value)
    return Rig(name, service, tmp_path / "annotate")


def outcomes(replies: list[Reply]) -> list[str]:
    return [reply.outcome.value for reply in replies]


# ------------------------------------------------------------------------------------------------------- what it is for


def test_each_request_gets_its_own_answer_though_they_come_in_another_order(rig: Rig) -> None:
    image = png()
    requests = [request(i, image=image if i % 3 == 0 else None) for i in range(30)]
    replies = rig.ask(*requests)
    assert [reply.text for reply in replies] == [right(asked) for asked in requests]
    assert outcomes(replies) == ["ok"] * 30
    assert replies[0].usage["input_tokens"] > 258 > replies[1].usage["input_tokens"] > 0
    assert replies[0].model_version and replies[0].response_id
    [job] = rig.jobs()
    assert sorted(job["keys"]) == sorted(asked.sha256 for asked in requests)
    assert seen(rig.url)["files"] == []  # tidied up
    assert list((rig.workspace / "requests").iterdir()) == []


def test_the_runner_is_told_that_all_may_come_at_once(rig: Rig) -> None:
    traits = traits_of(backend(rig.name, rig.url))
    assert traits.batch
    assert backend(rig.name, rig.url).paid


def test_jobs_are_as_large_as_they_may_be(rig: Rig) -> None:
    requests = [request(i) for i in range(7)]
    assert outcomes(rig.ask(*requests, max_lines=3)) == ["ok"] * 7
    assert [len(job["keys"]) for job in rig.jobs()] == [3, 3, 1]


def test_jobs_have_no_more_bytes_than_they_may(rig: Rig) -> None:
    requests = [request(i, text=f"{i} " + "x" * 4000) for i in range(4)] + [request(9, text="y" * 14000)]
    replies = rig.ask(*requests, max_bytes=12000)
    assert outcomes(replies) == ["ok"] * 4 + ["row_fatal"]
    assert replies[4].reason is Reason.TOO_LONG
    assert [len(job["keys"]) for job in rig.jobs()] == [2, 2]


def test_no_more_jobs_at_once_than_allowed(rig: Rig) -> None:
    plan(rig.url, fates=[{"seconds": 0.1}] * 3)
    assert outcomes(rig.ask(*(request(i) for i in range(3)), max_lines=1, max_jobs=1)) == ["ok"] * 3
    assert [job["state"] for job in rig.jobs()] == ["completed"] * 3


def test_limits_that_make_no_sense_are_told_together(rig: Rig) -> None:
    with pytest.raises(UserError, match=r"poll_seconds: 0 is too little\nmax_lines: 0 is too little"):
        backend(rig.name, rig.url, max_lines=0, poll_seconds=0)


def test_an_image_of_no_known_kind_is_a_failure_of_its_row(rig: Rig) -> None:
    good, bad = rig.ask(request(0), request(1, image=b"?"))
    assert good.outcome is Outcome.OK
    assert (bad.outcome, bad.reason) == (Outcome.ROW_FATAL, Reason.IMAGE_UNREADABLE)


# ------------------------------------------------------------------------------------------ rows that are not answered


KINDS = (
    "safety",
    "recitation",
    "blocked",
    "max_tokens",
    "no_candidates",
    "empty_text",
    "400",
    "400_key",
    "401",
    "403",
    "404",
    "429_body",
    "429_day",
    "500",
    "503",
)


def test_a_row_means_the_same_as_an_interactive_call(rig: Rig, tmp_path: Path) -> None:
    """The one difference: rows carry no headers, so a wait that stands there is not told."""
    from annotate.backends.gemini import Gemini
    from annotate.backends.openai_chat import OpenAIChat

    interactive: Any = (
        Gemini(model="gemini-2.5-pro", base_url=rig.url, thinking_budget=0)
        if rig.name == "gemini_batch"
        else OpenAIChat(model="gpt-4o", base_url=f"{rig.url}/v1")
    )
    requests = [request(i, scenario=kind) for i, kind in enumerate(KINDS)]
    alone = asyncio.run(ask(interactive, tmp_path / "interactive", requests))
    together = rig.ask(*requests)
    for kind, one, other in zip(KINDS, alone, together, strict=True):
        assert (one.outcome, one.reason, one.text) == (other.outcome, other.reason, other.text), kind


def test_one_bad_row_leaves_the_others_alone(rig: Rig) -> None:
    replies = rig.ask(request(0), request(1, scenario="400"), request(2))
    assert outcomes(replies) == ["ok", "row_fatal", "ok"]


def test_a_row_without_an_answer_goes_into_another_job(rig: Rig) -> None:
    plan(rig.url, fates=[{"missing": 2}])
    requests = [request(i) for i in range(6)]
    first = rig.ask(*requests)
    assert sorted(outcomes(first)) == ["ok"] * 4 + ["transient"] * 2
    again = [asked for asked, reply in zip(requests, first, strict=True) if reply.outcome is Outcome.TRANSIENT]
    assert [reply.text for reply in rig.ask(*requests)] == [right(asked) for asked in requests]
    assert sorted(rig.jobs()[1]["keys"]) == sorted(asked.sha256 for asked in again)


def test_the_first_of_two_answers_is_kept(rig: Rig) -> None:
    plan(rig.url, fates=[{"twice": 4}])
    requests = [request(i) for i in range(4)]
    assert [reply.text for reply in rig.ask(*requests)] == [right(asked) for asked in requests]


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_a_job_did_before_it_ended_early_is_used(rig: Rig, end: str) -> None:
    plan(rig.url, fates=[{"end": end, "answered": 0.5}])
    requests = [request(i) for i in range(10)]
    first = rig.ask(*requests)
    assert sorted(outcomes(first)) == ["ok"] * 5 + ["transient"] * 5
    assert [reply.text for reply in rig.ask(*requests)] == [right(asked) for asked in requests]
    assert len(rig.jobs()[1]["keys"]) == 5
    assert rig.service.stats()["duplicates"] == 0


def test_rows_of_a_failed_job_are_transient_and_say_why(rig: Rig) -> None:
    plan(rig.url, fates=[{"end": "failed"}])
    replies = rig.ask(request(0), request(1))
    assert outcomes(replies) == ["transient", "transient"]
    assert "failed" in replies[0].detail
    assert outcomes(rig.ask(request(0), request(1))) == ["ok", "ok"]


def test_a_row_that_spoils_a_whole_job_fails_alone(rig: Rig) -> None:
    if rig.name == "gemini_batch":
        pytest.skip("Gemini does not name lines")
    plan(rig.url, fates=[{"bad_line": 2}])
    replies = rig.ask(*(request(i) for i in range(3)))
    assert outcomes(replies) == ["transient", "row_fatal", "transient"]


def test_results_that_are_gone_are_transient(rig: Rig) -> None:
    plan(rig.url, fates=[{"lose_results": True}])
    assert outcomes(rig.ask(request(0))) == ["transient"]


# ------------------------------------------------------------------------------------------- calls about jobs that fail


def test_an_upload_that_is_cut_off_is_made_again(rig: Rig) -> None:
    plan(rig.url, drop_uploads=2)
    assert outcomes(rig.ask(request(0))) == ["ok"]
    assert len(rig.jobs()) == 1


def test_an_upload_that_never_works_is_given_back(rig: Rig) -> None:
    plan(rig.url, drop_uploads=99)
    assert outcomes(rig.ask(request(0))) == ["transient"]
    assert rig.jobs() == []


def test_a_file_that_is_not_found_at_once_is_looked_for_again(rig: Rig) -> None:
    plan(rig.url, hidden=2)
    assert outcomes(rig.ask(request(0))) == ["ok"]


@pytest.mark.parametrize("creates", [["503"], ["429_body", "429_bare"], ["lost_before"], ["lost_after"], ["500"] * 4])
def test_a_creation_that_fails_makes_one_job_all_the_same(rig: Rig, creates: list[str]) -> None:
    plan(rig.url, creates=creates)
    assert outcomes(rig.ask(request(0), request(1))) == ["ok", "ok"]
    assert len(rig.jobs()) == 1


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("400", "run_fatal"),  # what is wrong with a job is wrong with all of its rows
        ("403", "run_fatal"),
        ("429_day", "quota_day"),
        ("500", "transient"),
        ("429_bare", "quota_day"),  # for good: nothing of ours is in the queue that is full
    ],
)
def test_a_creation_that_is_refused(rig: Rig, kind: str, outcome: str) -> None:
    plan(rig.url, creates=[kind] * 10)
    [reply] = rig.ask(request(0), poll_seconds=0.005)
    assert reply.outcome.value == outcome
    assert SECRET not in reply.detail
    assert rig.jobs() == []


def test_a_full_queue_is_waited_for_while_our_own_jobs_are_in_it(rig: Rig) -> None:
    if rig.name == "gemini_batch":
        pytest.skip("Gemini refuses the creation")
    plan(rig.url, fates=[{"seconds": 0.3}, {"full": True}, {"full": True}])
    requests = [request(i) for i in range(4)]
    assert [reply.text for reply in rig.ask(*requests, max_lines=2)] == [right(asked) for asked in requests]
    assert [job["state"] for job in rig.jobs()] == ["completed", "failed", "failed", "completed"]


def test_looks_and_downloads_are_insisted_on(rig: Rig) -> None:
    plan(rig.url, looks=["503", "429_body", "500", "504"], cut_downloads=2)
    requests = [request(i) for i in range(5)]
    assert [reply.text for reply in rig.ask(*requests)] == [right(asked) for asked in requests]
    assert len(rig.jobs()) == 1


def test_a_key_that_stops_working_stops_the_run_and_keeps_the_job(rig: Rig) -> None:
    plan(rig.url, looks=["401"])
    assert outcomes(rig.ask(request(0))) == ["run_fatal"]
    assert outcomes(rig.ask(request(0))) == ["ok"]
    assert len(rig.jobs()) == 1


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


def test_a_stage_by_batch_jobs(rig: Rig, tmp_path: Path) -> None:
    """The first job expires half done; later, one row is refused."""
    if rig.name == "openai_batch":
        pytest.skip("the stage does not see which service it is")
    plan(rig.url, fates=[{"end": "expired", "answered": 0.5}])
    questions = [f"What stands on table {i}?" for i in range(9)] + ["What is it? [[scenario:400]]"]
    recipe = service_run.make(
        tmp_path,
        questions,
        url=rig.url,
        backend=rig.name,
        requests_per_minute=None,
        options={"quiet_seconds": 0.1, "poll_seconds": 0.02, "key_env": KEY[rig.name]},
    )
    run = small_run.align("annotate", recipe, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    records = service_run.annotated(tmp_path)
    assert (len(records), service_run.wrong_scores(records)) == (9, 0)
    assert rig.service.stats()["duplicates"] == 0
    jobs = rig.jobs()
    assert jobs[0]["state"] == "expired"
    assert small_run.align("annotate", recipe, cwd=tmp_path).returncode == 0
    assert rig.jobs() == jobs


# -------------------------------------------------------------------------------------------------------------- the key


def test_the_key_is_nowhere(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    plan(rig.url, creates=["500", "429_body"], looks=["500"])
    replies = rig.ask(request(0), request(1, scenario="400_key"), request(2, scenario="500"))
    kept = [path.read_text() for path in rig.workspace.rglob("*") if path.is_file()]
    assert len(kept) >= 2
    for text in (*kept, caplog.text, *(f"{reply}" for reply in replies)):
        assert SECRET not in text


def test_a_wrong_key_stops_the_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY[rig.name], "AIza-wrong")
    [reply] = rig.ask(request(0))
    assert reply.outcome is Outcome.RUN_FATAL
    assert "AIza-wrong" not in reply.detail


def test_without_a_key_it_says_which_variable(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY[rig.name])
    made = backend(rig.name, rig.url, **({"key_env": "MY_KEY"}))
    with pytest.raises(UserError, match="MY_KEY"):
        made.check()


def test_waiting_is_told_in_the_log_and_not_above_info(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="annotate.backends.jobs")
    plan(rig.url, fates=[{"seconds": 0.1}])
    rig.ask(request(0))
    told = [record for record in caplog.records if record.name == "annotate.backends.jobs"]
    assert any("1 requests" in record.getMessage() for record in told)
    assert {record.levelno for record in told} == {logging.INFO}
