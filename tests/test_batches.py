"""Batch jobs through the real SDKs against a service on loopback: answers by key, and whatever goes wrong in a run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_asking import KEY, WIRE, ask, backend, png, request, right
from batch_rig import SECRET, Rig, outcomes, run_service
from loopback.batches import plan, seen

from annotate.errors import UserError
from annotate.protocol import Outcome, traits_of
from annotate.records import Reason


@pytest.fixture(scope="module", params=sorted(WIRE))
def running(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with run_service(request.param) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return running.anew(tmp_path, monkeypatch)


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
    plan(rig.url, fates=[{"seconds": 0.03}] * 3)
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


def test_what_a_job_did_before_it_ended_early_is_used(rig: Rig) -> None:
    end = "expired" if rig.name == "gemini_batch" else "cancelled"
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


@pytest.mark.parametrize("kind", ["503", "429_bare", "lost_before", "lost_after"])
def test_a_creation_that_fails_makes_one_job_all_the_same(rig: Rig, kind: str) -> None:
    plan(rig.url, creates=[kind])
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


# -------------------------------------------------------------------------------------------------------------- the key


def test_the_key_is_nowhere(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    plan(rig.url, creates=["500"], looks=["500"])
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
