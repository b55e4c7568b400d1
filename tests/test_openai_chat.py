"""`openai_chat` through OpenAI's own library, against a service on this machine: real HTTP, nothing patched."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import KINDS, Config, Service, expected_scores, serve, sha256_of
from loopback.asking import RUBRIC, ask, picture, question, rating

from align.settings import Annotate
from annotate.backends.openai_chat import OpenAIChat
from annotate.backends.registry import make_annotator
from annotate.errors import UserError
from annotate.prompting import parse_reply
from annotate.protocol import Annotator, Managed, Outcome, Reply, Request, traits_of
from annotate.records import Completion, Image, Prompt, Reason, Turn
from annotate.run import AnnotateWork

KEY = "sk-loopback-0123456789abcdef"
CONFIG = Config(wires=("openai",), key=KEY, keep_requests=16)
OPEN = Config(wires=("openai",), keep_requests=16)
"""The same without a key."""
PNG = picture()
TWO = ("It is red.", "It is blue.")

OK, RATE, DAY = Outcome.OK, Outcome.RATE_MINUTE, Outcome.QUOTA_DAY
AGAIN, ROW, RUN = Outcome.TRANSIENT, Outcome.ROW_FATAL, Outcome.RUN_FATAL


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serve(CONFIG) as service:
        yield service


@pytest.fixture
def service(running: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that has seen nothing yet and lets our key in."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running.reset(CONFIG)
    return running


def chat(service: Service, path: str = "/v1", **options: Any) -> OpenAIChat:
    return OpenAIChat(**{"model": "judge", "base_url": service.url + path, **options})


def scenario(kind: str, **decoding: Any) -> Request:
    return question(f"Which colour? [[scenario:{kind}]]", [PNG], **decoding)


# ------------------------------------------------------------------------------------------------- the exception table

SCENARIOS: dict[str, tuple[Outcome, Reason | None]] = {
    "ok": (OK, None),
    "fenced": (OK, None),
    "shuffled": (OK, None),
    "wrong_schema": (OK, None),  # for the parser to find out
    "broken_json_text": (OK, None),
    "unknown_finish": (OK, None),
    "safety": (ROW, Reason.BLOCKED),  # finish_reason content_filter
    "recitation": (ROW, Reason.BLOCKED),  # the field refusal
    "blocked": (ROW, Reason.BLOCKED),
    "max_tokens": (ROW, Reason.CUT_OFF),
    "thoughts_only": (ROW, Reason.CUT_OFF),
    "no_candidates": (AGAIN, None),
    "empty_text": (AGAIN, None),
    "400": (ROW, Reason.BLOCKED),
    "400_key": (RUN, None),
    "401": (RUN, None),
    "403": (RUN, None),
    "404": (RUN, None),
    "408": (AGAIN, None),
    "500": (AGAIN, None),
    "503": (AGAIN, None),
    "504": (AGAIN, None),
    "503_html": (AGAIN, None),
    "html200": (AGAIN, None),
    "broken_body": (AGAIN, None),
    "empty_body": (AGAIN, None),
    "truncated": (AGAIN, None),
    "dropped": (AGAIN, None),
    "slow": (AGAIN, None),
    "429_body": (RATE, None),
    "429_header": (RATE, None),
    "429_both": (RATE, None),
    "429_bare": (RATE, None),
    "429_day": (DAY, None),
    "429_day_misleading": (DAY, None),
}
"""What each of the service's scenarios is to the run; the reason where it is a row's."""


def outcomes(url: str, path: str = "/v1") -> dict[str, tuple[Outcome, Reason | None]]:
    """What each scenario comes to; all at once, but for the slow one, whose timeout is short."""
    names = [name for name in SCENARIOS if name != "slow"]
    replies = dict(zip(names, ask(chat(Service(url), path), *map(scenario, names)), strict=True))
    (replies["slow"],) = ask(chat(Service(url), path, timeout_seconds=0.5), scenario("slow"))
    for reply in replies.values():
        assert (reply.detail == "") is (reply.outcome is OK), reply
    return {n: (r.outcome, r.reason if r.outcome is ROW else None) for n, r in replies.items()}


@pytest.mark.parametrize("path", ["/v1", "/v1beta/openai"])
def test_whatever_happens_is_one_of_six_outcomes_and_is_sent_once(service: Service, path: str) -> None:
    assert set(SCENARIOS) == set(KINDS)
    assert outcomes(service.url, path) == SCENARIOS
    arrivals = service.stats()["arrivals"]
    assert sorted(a["kind"] for a in arrivals) == sorted(SCENARIOS)  # no hidden second try of any


def test_the_outcomes_are_the_same_where_aiohttp_is_not_installed(service: Service) -> None:
    program = (
        "import json, sys\n"
        "sys.modules['aiohttp'] = None  # as if it were not installed\n"
        "from test_openai_chat import outcomes\n"
        f"found = outcomes({service.url!r})\n"
        "print(json.dumps({n: [o.value, r and r.value] for n, (o, r) in found.items()}))\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {n: [o.value, r and r.value] for n, (o, r) in SCENARIOS.items()}
    assert len(service.stats()["arrivals"]) == len(SCENARIOS)
    assert __import__("aiohttp")  # here it is installed


def test_what_was_paid_for_comes_with_its_text_and_tokens(service: Service) -> None:
    service.reset(Config(wires=("openai",), thought_tokens=20))
    asked = rating("Which colour?", TWO, [PNG])
    whole, cut = ask(chat(service), asked, rating("Which colour? [[scenario:max_tokens]]", TWO, [PNG]))
    assert (whole.finish, whole.model_version) == ("stop", "judge-2025-01-01")
    assert whole.response_id.startswith("chatcmpl-")
    assert (cut.outcome, cut.finish) == (ROW, "length")
    assert whole.text.startswith(cut.text[:60]) and 0 < len(cut.text) < len(whole.text)
    for reply in (whole, cut):
        assert reply.usage["output_tokens"] == -(-len(reply.text) // 4)
        assert reply.usage["thought_tokens"] == 20
        assert reply.usage["input_tokens"] > 258
    (compatible,) = ask(chat(service, "/v1beta/openai"), asked)  # counts thoughts in the total alone
    assert compatible.usage == whole.usage


def test_a_service_that_keeps_the_line_alive_with_blanks_is_hung_up_on() -> None:
    async def asked() -> Reply:
        hung_up = asyncio.Event()

        async def blanks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while not writer.is_closing():
                    writer.write(b"1\r\n \r\n")
                    await writer.drain()
                    await asyncio.sleep(0.02)
            writer.close()
            hung_up.set()

        async with await asyncio.start_server(blanks, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            backend = OpenAIChat(model="judge", base_url=url, timeout_seconds=0.4)
            await backend.open(Path())
            reply = await asyncio.wait_for(backend.reply(question("Which?")), 20)
            await asyncio.wait_for(hung_up.wait(), 20)
            await backend.close()
            return reply

    reply = asyncio.run(asked())
    assert (reply.outcome, reply.detail) == (AGAIN, "no answer within 0.4 s")


@pytest.mark.parametrize("path", ["/v1", "/v1beta/openai"])
def test_thoughts_that_use_up_the_limit_leave_no_text_but_their_bill(service: Service, path: str) -> None:
    (reply,) = ask(chat(service, path), scenario("thoughts_only", max_output_tokens=64))
    assert (reply.outcome, reply.reason, reply.text) == (ROW, Reason.CUT_OFF, "")
    assert reply.detail == "the reply reached its token limit before it had any text"
    assert (reply.usage["output_tokens"], reply.usage["thought_tokens"]) == (0, 64)


@pytest.mark.parametrize(
    ("kind", "path", "seconds"),
    [
        ("429_body", "/v1", 0.25),  # "Please try again in 0.250s."
        ("429_header", "/v1", 0.25),  # retry-after-ms: 250, retry-after: 1
        ("429_bare", "/v1", None),
        ("429_body", "/v1beta/openai", 0.25),  # RetryInfo
        ("429_header", "/v1beta/openai", 1.0),  # Retry-After: 1
        ("429_bare", "/v1beta/openai", None),
        ("429_day", "/v1", None),
        ("429_day", "/v1beta/openai", None),
        ("429_day_misleading", "/v1", 5.0),  # OpenAI's day is a rolling one: what it says of the next request is true
        ("429_day_misleading", "/v1beta/openai", None),  # Gemini's quota is for the day, whatever RetryInfo says
    ],
)
def test_a_429_says_when_to_come_back(service: Service, kind: str, path: str, seconds: float | None) -> None:
    (reply,) = ask(chat(service, path), scenario(kind))
    assert (reply.outcome, reply.retry_after) == (DAY if "day" in kind else RATE, seconds)


# --------------------------------------------------------------------------------------------- scores and their owners


@settings(max_examples=20, deadline=None)
@given(
    texts=st.lists(st.text(min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=5),
    shades=st.lists(st.integers(0, 255), max_size=2),
    reversed_rows=st.booleans(),
)
def test_scores_reach_the_completion_they_are_of(
    running: Service, texts: list[str], shades: list[int], reversed_rows: bool
) -> None:
    """In whatever order completions are shown and rated: the service's scores are a hash of text and images."""
    running.reset(OPEN)
    images = [picture(shade=shade) for shade in shades]
    order = " [[scenario:shuffled]]" if reversed_rows else ""
    (reply,) = ask(chat(running), rating(f"Which colour?{order}", texts, images))
    assert reply.outcome is OK, reply.detail
    rated = parse_reply(reply.text, len(texts), RUBRIC).ratings
    assert [r.scores for r in rated] == [expected_scores(text, [sha256_of(i) for i in images]) for text in texts]


def test_a_stage_in_shuffled_orders_gives_every_completion_its_own_scores(service: Service, tmp_path: Path) -> None:
    prompts = [
        Prompt.of((Turn(role="user", text=f"<image>\n{i}?", images=(Image(path="p", sha256=sha256_of(PNG)),)),))
        for i in range(6)
    ]
    completions = [
        Completion.of(prompt_id=p.id, model="vlm", index=i, text=f"Answer {i} to {p.id}.")
        for p in prompts
        for i in range(4)
    ]
    options = {"base_url": f"{service.url}/v1"}
    work = AnnotateWork(
        prompts=prompts,
        completions=completions,
        settings=Annotate(backend="openai_chat", model="judge", passes=3, options=options, requests_per_minute=60_000),
        seed=0,
        read_image=lambda image: PNG,
    )
    lines: dict[str, Any] = {}
    work.execute(work.units, lines.__setitem__, tmp_path, lambda done, total, note="": None)
    annotated = work.compile(lines, tmp_path).files["annotated.jsonl"]
    assert len(annotated) == 6  # type: ignore[arg-type]
    orders = set()
    for record in annotated:
        text = {c.id: c.text for c in record.completions}  # type: ignore[union-attr]
        for annotation in record.annotations:  # type: ignore[union-attr]
            orders.add(tuple(list(text).index(i) for i in annotation.shown_order))
            assert annotation.model_version == "judge-2025-01-01"
            for rated in annotation.ratings:
                assert rated.scores == expected_scores(text[rated.completion_id], [sha256_of(PNG)])
    assert len(orders) > 4
    assert service.stats()["duplicates"] == 0


# ------------------------------------------------------------------------------------------------------ keys and load


def test_250_slow_calls_are_in_flight_at_once(service: Service) -> None:
    service.reset(Config(wires=("openai",), latency=4.0, sigma=0.0))
    replies = ask(chat(service), *(question(f"Question {i}?", [PNG]) for i in range(250)))
    assert {r.outcome for r in replies} == {OK}
    assert service.stats()["max_in_flight"] == 250  # a client as it comes stops at 100


def test_connections_are_kept_for_the_next_call(service: Service) -> None:
    class OneByOne(OpenAIChat):
        async def reply(self, request: Request) -> Reply:
            for _ in range(20):
                last = await super().reply(request)
            return last

    (reply,) = ask(OneByOne(model="judge", base_url=f"{service.url}/v1"), question("Which?"))
    assert (reply.outcome, service.stats()["admitted"], service.stats()["connections"]) == (OK, 20, 1)


def echo(status: int, body: Any, **headers: str) -> Request:
    answer = json.dumps(
        {"status": status, "body": body, "headers": {n.replace("_", "-"): v for n, v in headers.items()}}
    )
    return question(f"[[respond:{base64.b64encode(answer.encode()).decode()}]]")


def test_the_key_goes_nowhere_but_into_the_request(
    service: Service, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even where the service sends it back: in errors, in headers, in the answer itself."""
    kinds = ("400_key", "500", "429_body")
    said = {"message": {"content": f"I was asked with {KEY}."}, "finish_reason": KEY}
    requests = [
        *map(scenario, kinds),
        echo(400, {"error": {"message": "y" * 280 + KEY}}),  # cut in the middle of it
        echo(500, f"<p>Bearer {KEY}</p>", X_Your_Key=KEY),
        echo(302, {}, Location=f"https://elsewhere/?key={KEY}"),
        echo(200, {"choices": [said], "model": KEY, "id": KEY}),
    ]
    with caplog.at_level(logging.DEBUG):
        replies = ask(chat(service), *requests)
    assert [r["headers"]["Authorization"] for r in service.requests()] == [f"Bearer {KEY}"] * len(kinds)
    shown = "".join(map(repr, replies)) + caplog.text + "".join(capfd.readouterr())
    assert "I was asked with [key]." in shown and "X-Your-Key', b'[key]'" in shown  # it was there
    assert sum("[key]" in repr(reply) for reply in replies) >= 6
    assert KEY not in shown and KEY[:8] not in shown


@pytest.mark.parametrize("kind", ["401", "403", "400_key"])
def test_a_wrong_key_ends_the_run_and_is_not_shown(service: Service, kind: str) -> None:
    service.reset(Config(wires=("openai",), key="another", wrong_key=kind))
    (reply,) = ask(chat(service), question("Which?"))
    assert reply.outcome is RUN and "[key]" in reply.detail and KEY not in repr(reply)


def test_keys_are_looked_for_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = OpenAIChat(model="gpt-4o")  # an estimate needs no key
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        backend.check()
    OpenAIChat(model="judge", base_url="http://127.0.0.1:1/v1").check()  # a server of one's own needs none
    with pytest.raises(UserError, match="set the environment variable GEMINI_API_KEY"):
        OpenAIChat(model="judge", base_url="https://x.y/v1", key_env="GEMINI_API_KEY").check()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one sk-two")
    with pytest.raises(UserError, match="OPENAI_API_KEY holds no key") as caught:
        backend.check()
    assert "sk-one" not in str(caught.value)


def test_a_server_of_ones_own_is_asked_without_a_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.reset(OPEN)
    monkeypatch.delenv("OPENAI_API_KEY")
    (first,) = ask(chat(service, paid=False), rating("Which?", TWO))
    monkeypatch.setenv("OPENAI_API_KEY", "0")  # as some set it, and then 0 must still be a score
    (second,) = ask(chat(service, paid=False), rating("Which?", TWO))
    assert first.outcome is second.outcome is OK and first.text == second.text
    assert [r["headers"]["Authorization"] for r in service.requests()] == ["Bearer none", "Bearer 0"]


def test_what_the_run_may_know_of_it() -> None:
    usual = make_annotator("openai_chat", "gpt-4o", {})
    assert isinstance(usual, Annotator) and isinstance(usual, Managed)
    assert (usual.paid, usual.model) == (True, "gpt-4o")
    assert traits_of(usual).decides == {}  # options that come later leave old keys as they are
    assert traits_of(usual).quota_zone == "UTC"
    options = {"base_url": "https://generativelanguage.googleapis.com/v1beta/openai", "reasoning_effort": "low"}
    gemini = make_annotator("openai_chat", "gemini-2.5-pro", {**options, "paid": False, "timeout_seconds": 5})
    assert gemini.paid is False
    assert traits_of(gemini).decides == {"reasoning_effort": "low"}  # not by which way it is reached
    assert traits_of(gemini).quota_zone == "America/Los_Angeles"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "openai_chat needs a model"),
        ({"response_format": "jsno"}, "response_format is 'jsno'; expected json_schema or json_object or text"),
        ({"token_limit_field": "limit"}, "token_limit_field is 'limit'; expected max_completion_tokens or max_tokens"),
        ({"extra_body": {"stream": True}}, "extra_body must not hold 'stream'"),
        ({"extra_body": "top_k"}, "extra_body is 'top_k'"),
        ({"base_url": "127.0.0.1:8000/v1"}, "expected http:// or https://"),
        ({"timeout_seconds": 0}, "expected more than 0"),
        ({"respons_format": "text"}, "did you mean 'response_format'"),
    ],
)
def test_wrong_options_are_the_users_mistake(options: dict[str, Any], message: str) -> None:
    options = {"model": "gpt-4o", **options}
    with pytest.raises(UserError) as caught:
        make_annotator("openai_chat", options.pop("model"), options)
    assert message in str(caught.value)


def test_the_library_is_imported_only_when_it_is_needed() -> None:
    program = (
        "import sys; from annotate.backends.registry import make_annotator; make_annotator('openai_chat', 'm', {})\n"
        "from annotate.backends.openai_chat import wire_body, reply_of\n"
        "print([m for m in ('openai', 'httpx2', 'aiohttp', 'torch') if m in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
