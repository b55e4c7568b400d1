"""Gemini, by either client library, over real HTTP: what each thing that can happen comes to, and what is sent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from gemini_rig import BACKENDS, KEY, ROOT, backends, running, scenario, service
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import KINDS, Config, Service, expected_answer, serve
from loopback.asking import ask, question

from annotate.backends.gemini import Gemini
from annotate.backends.gemini_wire import THINKING_ROOM, reply_of, reply_of_status, retry_after
from annotate.protocol import Managed, Outcome, Reply
from annotate.records import Reason

__all__ = ["running", "service"]  # fixtures

OK, MINUTE, DAY = Outcome.OK, Outcome.RATE_MINUTE, Outcome.QUOTA_DAY
TRANSIENT, ROW, RUN = Outcome.TRANSIENT, Outcome.ROW_FATAL, Outcome.RUN_FATAL

# What happens at the service -> outcome, reason of a row's failure, seconds to wait.
OUTCOMES: dict[str, tuple[Outcome, Reason | None, float | None]] = {
    "ok": (OK, None, None),
    "429_body": (MINUTE, None, 0.25),  # RetryInfo in the body
    "429_header": (MINUTE, None, 1.0),  # Retry-After, in whole seconds
    "429_both": (MINUTE, None, 0.25),  # the body knows better
    "429_bare": (MINUTE, None, None),
    "429_day": (DAY, None, None),  # quotaId ...PerDay...
    "429_day_misleading": (DAY, None, None),  # the same with "retry in 5 s"
    "400": (ROW, Reason.BLOCKED, None),
    "400_key": (RUN, None, None),  # API_KEY_INVALID
    "401": (RUN, None, None),
    "403": (RUN, None, None),
    "404": (RUN, None, None),  # no such model
    "408": (TRANSIENT, None, None),
    "500": (TRANSIENT, None, None),
    "503": (TRANSIENT, None, None),
    "504": (TRANSIENT, None, None),
    "503_html": (TRANSIENT, None, None),  # a proxy's page
    "html200": (TRANSIENT, None, None),
    "broken_body": (TRANSIENT, None, None),
    "empty_body": (TRANSIENT, None, None),
    "truncated": (TRANSIENT, None, None),  # the connection closes in the middle of the body
    "dropped": (TRANSIENT, None, None),  # before anything came
    "slow": (TRANSIENT, None, None),  # slower than the timeout
    "safety": (ROW, Reason.BLOCKED, None),
    "recitation": (ROW, Reason.BLOCKED, None),
    "blocked": (ROW, Reason.BLOCKED, None),  # promptFeedback.blockReason
    "max_tokens": (ROW, Reason.CUT_OFF, None),
    "thoughts_only": (ROW, Reason.CUT_OFF, None),  # all of the limit went into thoughts
    "no_candidates": (TRANSIENT, None, None),  # and no reason: known to pass
    "empty_text": (TRANSIENT, None, None),
    "unknown_finish": (OK, None, None),  # the parser judges the text
    # Of these the service thinks well, and so do we: whether the text can be read is the parser's business.
    "wrong_schema": (OK, None, None),
    "broken_json_text": (OK, None, None),
    "fenced": (OK, None, None),
    "shuffled": (OK, None, None),
}


# ------------------------------------------------------------------------------------------------ what it comes to


@pytest.fixture(scope="module", params=BACKENDS)
def everything(request: pytest.FixtureRequest) -> Iterator[tuple[dict[str, Reply], dict[str, Any]]]:
    """Each kind asked once and at the same time: the replies, and what the service counted."""
    with serve(Config(slow_seconds=4.0)) as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", KEY)
        backend = BACKENDS[request.param](model="gemini-2.5-pro", base_url=service.url, timeout_seconds=2.0)
        replies = dict(zip(KINDS, ask(backend, *map(scenario, KINDS)), strict=True))
        yield replies, service.stats()


def test_the_table_has_all_kinds() -> None:
    assert set(OUTCOMES) == set(KINDS)


@pytest.mark.parametrize("kind", OUTCOMES)
def test_outcome(kind: str, everything: tuple[dict[str, Reply], dict[str, Any]]) -> None:
    reply = everything[0][kind]
    outcome, reason, delay = OUTCOMES[kind]
    assert (reply.outcome, reply.retry_after) == (outcome, delay)
    if outcome is ROW:
        assert reply.reason is reason
    assert bool(reply.detail) == (outcome is not OK)


def test_each_is_sent_once_whatever_happens(everything: tuple[dict[str, Reply], dict[str, Any]]) -> None:
    """The libraries would repeat a 503, a 401, a dropped connection."""
    assert everything[1]["kinds"] == dict.fromkeys(KINDS, 1)


def test_a_cut_off_reply_keeps_what_was_paid_for(everything: tuple[dict[str, Reply], dict[str, Any]]) -> None:
    cut = everything[0]["max_tokens"]
    assert cut.text.startswith("The answer is") and cut.usage["output_tokens"] == 7
    only_thoughts = everything[0]["thoughts_only"]
    assert only_thoughts.text == "" and only_thoughts.usage["thought_tokens"] == 256 + THINKING_ROOM


def test_a_good_reply_says_where_it_is_from(everything: tuple[dict[str, Reply], dict[str, Any]]) -> None:
    reply = everything[0]["ok"]
    request = scenario("ok")
    assert reply.text == expected_answer(request.messages[0].parts[0].text, [])
    assert (reply.model_version, reply.finish) == ("gemini-2.5-pro-001", "STOP")
    assert reply.response_id.endswith("-1") or reply.response_id == ""  # the legacy library loses it


WITHOUT_AIOHTTP = """
import json, sys
sys.modules["aiohttp"] = None                       # as if it were not installed
try:
    import aiohttp
    raise SystemExit("aiohttp is still there")
except ImportError:
    pass
from loopback import KINDS
from loopback.asking import ask, question
from annotate.backends.registry import make_annotator

options = {"base_url": sys.argv[2], "timeout_seconds": 2.0}
annotator = make_annotator(sys.argv[1], "gemini-2.5-pro", options)
replies = ask(annotator, *(question(f"Which digit is it? [[scenario:{kind}]]") for kind in KINDS))
print(json.dumps({kind: [r.outcome.value, r.retry_after] for kind, r in zip(KINDS, replies)}))
"""


def test_without_aiohttp_it_is_the_same(service: Service) -> None:
    """google-genai takes another way to the network where aiohttp is installed, as it is here."""
    import aiohttp  # noqa: F401

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_AIOHTTP, backend, service.url], stdout=subprocess.PIPE, env=environment
        )
        for backend in BACKENDS
    ]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert json.loads(output) == {kind: [o.value, delay] for kind, (o, _, delay) in OUTCOMES.items()}
    assert service.stats()["kinds"] == dict.fromkeys(KINDS, 2)


@backends
def test_nobody_answers(backend: str, service: Service) -> None:
    (reply,) = ask(BACKENDS[backend](model="m", base_url="http://127.0.0.1:9"), question("Anybody there?"))
    assert reply.outcome is TRANSIENT


def test_a_day_is_believed_over_any_number_of_seconds() -> None:
    minute = {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}
    day = {"violations": [{"quotaMetric": "x/generate_requests_per_model_per_day"}]}
    info = {"retryDelay": "5s"}
    assert reply_of_status(429, details=[minute, info]).retry_after == 5.0
    assert reply_of_status(429, details=[minute, day, info]) == Reply(outcome=DAY, detail="429 ")


def test_what_no_row_can_help() -> None:
    assert reply_of_status(400, status="FAILED_PRECONDITION", message="User location is not supported").outcome is RUN
    too_long = reply_of_status(400, message="The input token count (9) exceeds the maximum number of tokens (8).")
    assert (too_long.outcome, too_long.reason) == (ROW, Reason.TOO_LONG)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("", None), ("soon", None), ("nan", None)]
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)


names = st.sampled_from(
    ["candidates", "content", "parts", "text", "finishReason", "promptFeedback", "usageMetadata", "totalTokenCount"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(json_values)
def test_no_body_is_too_strange(body: Any) -> None:
    assert reply_of(body).outcome in (OK, TRANSIENT, ROW)


# ------------------------------------------------------------------------------------------------------- in flight


@pytest.mark.parametrize(
    ("backend", "options", "asked", "at_once"),
    [
        ("gemini", {}, 250, 250),  # the library's own pool holds 100
        ("gemini_legacy", {"threads": 32}, 40, 32),
    ],
)
def test_so_many_calls_are_in_flight(
    backend: str, options: dict[str, Any], asked: int, at_once: int, service: Service
) -> None:
    service.reset(Config(latency=1.5, sigma=0.0))
    annotator = BACKENDS[backend](model="m", base_url=service.url, timeout_seconds=10.0, **options)
    replies = ask(annotator, *(question(f"Which digit is number {i}?") for i in range(asked)))
    assert {r.outcome for r in replies} == {OK}
    assert service.stats()["max_in_flight"] == at_once
    assert annotator.traits.in_flight == (at_once if backend == "gemini_legacy" else None)


def test_connections_are_used_again(service: Service) -> None:
    async def one_after_the_other(annotator: Managed) -> None:
        await annotator.open(Path())
        for i in range(5):
            await annotator.reply(question(f"Number {i}?"))  # type: ignore[attr-defined]
        await annotator.close()

    asyncio.run(one_after_the_other(Gemini(model="m", base_url=service.url)))
    assert service.stats()["connections"] == 1


@backends
def test_through_the_proxy_of_the_environment(backend: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    annotators = [BACKENDS[backend](model="m", base_url=f"http://{n}.invalid") for n in ("gemini", "elsewhere")]
    replies = [ask(annotator, question("Which digit?"))[0] for annotator in annotators]
    assert [reply.outcome for reply in replies] == [OK, TRANSIENT]  # the second host there is not
