"""Gemini, by either client library, over real HTTP: what each thing that can happen comes to, and what is sent."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import KINDS, Config, Service, expected_answer, expected_preference, expected_scores, serve, sha256_of
from loopback.asking import RUBRIC, ask, picture, question, rating

from annotate.backends.gemini import Gemini
from annotate.backends.gemini_legacy import GeminiLegacy
from annotate.backends.gemini_wire import THINKING_ROOM, Options, reply_of, reply_of_status, retry_after, wire_request
from annotate.errors import UserError
from annotate.prompting import parse_reply
from annotate.protocol import Managed, Outcome, Reply, Request
from annotate.records import Prompt, Reason, Turn

ROOT = Path(__file__).parents[1]
KEY = "AIza-the-key-of-this-test"

BACKENDS: dict[str, Callable[..., Any]] = {"gemini": Gemini, "gemini_legacy": GeminiLegacy}
backends = pytest.mark.parametrize("backend", BACKENDS)

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


@backends
def test_without_aiohttp_it_is_the_same(backend: str, service: Service) -> None:
    """google-genai takes another way to the network where aiohttp is installed, as it is here."""
    import aiohttp  # noqa: F401

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", WITHOUT_AIOHTTP, backend, service.url]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {kind: [o.value, delay] for kind, (o, _, delay) in OUTCOMES.items()}
    assert service.stats()["kinds"] == dict.fromkeys(KINDS, 1)


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


# ---------------------------------------------------------------------------------------------------- what is sent

COMPLETIONS = ["It is a 7.", "A nine, written in blue.\n\nI am sure.", "7", "Ich weiß nicht: 5 – oder 6?"]


@backends
@pytest.mark.parametrize("kind", ["ok", "shuffled", "fenced"])
def test_scores_reach_the_completion_that_they_are_of(backend: str, kind: str, service: Service) -> None:
    """The service derives them from the texts and image bytes that it received."""
    images = [picture("PNG"), picture("JPEG"), picture("WEBP")]
    request = rating(f"Which digit? [[scenario:{kind}]]", COMPLETIONS, images)
    (reply,) = ask(BACKENDS[backend](model="m", base_url=service.url), request)
    parsed = parse_reply(reply.text, len(COMPLETIONS), RUBRIC)
    assert [r.scores for r in parsed.ratings] == [
        expected_scores(text, [sha256_of(data) for data in images]) for text in COMPLETIONS
    ]
    assert parsed.reasoning.startswith("I looked at 3 image(s)")
    assert service.stats()["refused"] == 0


@backends
def test_pairs(backend: str, service: Service) -> None:
    (reply,) = ask(
        BACKENDS[backend](model="m", base_url=service.url), rating("Which digit?", COMPLETIONS[:2], mode="pairwise")
    )
    parsed = parse_reply(reply.text, 2, RUBRIC, pairwise=True)
    assert parsed.preference == expected_preference(*COMPLETIONS[:2], [])


@backends
def test_images_stand_in_their_places_as_they_are(backend: str, service: Service) -> None:
    first, second = picture("JPEG", 1), picture("PNG", 2)
    request = question("Which is older?", [first, second])
    (reply,) = ask(BACKENDS[backend](model="m", base_url=service.url), request)
    assert reply.text == expected_answer("Which is older?", [sha256_of(first), sha256_of(second)])
    parts = sent(service)["contents"][0]["parts"]
    assert [part.get("text") or part["inlineData"]["mimeType"] for part in parts] == [
        "image/jpeg",
        "image/png",
        "Which is older?",
    ]


@backends
def test_an_image_of_no_kind_that_is_taken_is_not_sent(backend: str, service: Service) -> None:
    request = question("What is it?", [b"GIF89a..."])
    (reply,) = ask(BACKENDS[backend](model="m", base_url=service.url), request)
    assert (reply.outcome, reply.reason) == (ROW, Reason.IMAGE_UNREADABLE)
    assert service.stats()["arrivals"] == []


@backends
def test_a_conversation_keeps_its_roles(backend: str, service: Service) -> None:
    from annotate.prompting import render_question

    turns = (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="Which digit?"),
        Turn(role="assistant", text="A 7."),
        Turn(role="user", text="Sure?"),
    )
    request = render_question(Prompt.of(turns), backend="b", model="m", decoding={}, images=())
    (reply,) = ask(BACKENDS[backend](model="m", base_url=service.url), request)
    assert reply.text == expected_answer("Which digit?A 7.Sure?", [])
    body = sent(service)
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]


def test_reasons_stand_before_scores_in_the_schema(service: Service) -> None:
    (reply,) = ask(Gemini(model="m", base_url=service.url), rating("Which digit?", COMPLETIONS))
    config = sent(service)["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    schema = config["responseJsonSchema"]
    entry = schema["properties"]["ratings"]["items"]
    assert list(schema["properties"]) == schema["propertyOrdering"] == ["reasoning", "ratings"]
    assert list(entry["properties"]) == entry["propertyOrdering"] == ["completion", "rationale", *RUBRIC.attributes]
    # The service writes its fields in the order of the schema that it got.
    assert list(json.loads(reply.text)) == ["reasoning", "ratings"]


def test_the_legacy_library_would_lose_the_order_and_so_sends_no_schema(service: Service) -> None:
    (reply,) = ask(GeminiLegacy(model="m", base_url=service.url), rating("Which digit?", COMPLETIONS))
    assert set(sent(service)["generationConfig"]) == {"temperature", "maxOutputTokens"}
    assert reply.text.index("I looked at") < reply.text.index('"reasoning"') < reply.text.index('"ratings"')
    ask(GeminiLegacy(model="m", base_url=service.url, json=True), rating("Which digit?", COMPLETIONS))
    assert sent(service)["generationConfig"]["responseMimeType"] == "application/json"


def test_free_text_when_json_is_off(service: Service) -> None:
    ask(Gemini(model="m", base_url=service.url, json=False), rating("Which digit?", COMPLETIONS))
    assert set(sent(service)["generationConfig"]) == {"temperature", "maxOutputTokens"}


@pytest.mark.parametrize(
    ("options", "decoding", "config"),
    [
        ({}, {}, {"temperature": 0.0, "maxOutputTokens": 256 + THINKING_ROOM}),
        (
            {"thinking_budget": 512, "seed": 3},  # thoughts have a room of their own
            {"temperature": 0.7, "top_p": 0.9},
            {
                "temperature": 0.7,
                "topP": 0.9,
                "maxOutputTokens": 768,
                "seed": 3,
                "thinkingConfig": {"thinkingBudget": 512},
            },
        ),
        (
            {"thinking_level": "low", "seed": 3},
            {"seed": 4},  # the request's own
            {
                "temperature": 0.0,
                "maxOutputTokens": 256 + THINKING_ROOM,
                "seed": 4,
                "thinkingConfig": {"thinkingLevel": "LOW"},
            },
        ),
        (
            {"thinking_budget": 0},
            {},
            {"temperature": 0.0, "maxOutputTokens": 256, "thinkingConfig": {"thinkingBudget": 0}},
        ),
        ({"model": "gemini-2.0-flash"}, {}, {"temperature": 0.0, "maxOutputTokens": 256}),  # does not think
    ],
)
def test_decoding(options: dict[str, Any], decoding: dict[str, Any], config: dict[str, Any], service: Service) -> None:
    (reply,) = ask(Gemini(**{"model": "m", "base_url": service.url} | options), question("Which digit?", **decoding))
    assert reply.outcome is OK
    assert sent(service)["generationConfig"] == config


@backends
@pytest.mark.parametrize(("safety", "thresholds"), [("off", 4), ("block_none", 4), ("default", 0)])
def test_safety(backend: str, safety: str, thresholds: int, service: Service) -> None:
    (reply,) = ask(BACKENDS[backend](model="m", base_url=service.url, safety=safety), question("Which digit?"))
    assert reply.outcome is OK
    assert len(sent(service).get("safetySettings", [])) == thresholds


@backends
def test_thoughts_are_counted_apart(backend: str, service: Service) -> None:
    """The legacy library does not know them: they are what the total has beyond prompt and reply."""
    service.reset(Config(thought_tokens=100))
    (reply,) = ask(BACKENDS[backend](model="m", base_url=service.url), question("x" * 40, [picture()]))
    assert reply.usage == {"input_tokens": 10 + 258, "output_tokens": 14, "thought_tokens": 100}


def test_the_body_for_a_batch_is_what_the_library_sends(service: Service) -> None:
    request = rating("Which digit?", COMPLETIONS, [picture()])
    ask(Gemini(model="m", base_url=service.url, thinking_budget=64), request)
    body = sent(service)
    body["systemInstruction"].pop("role")  # which a system's words do not need
    _, image, _ = (part.get("inlineData") for part in body["contents"][0]["parts"])
    image["data"] = image["data"].replace("-", "+").replace("_", "/")  # either alphabet of base64 is taken
    assert wire_request(request, Options(model="m", thinking_budget=64)).rest() == body


# ----------------------------------------------------------------------------------------------------- keys, options


@backends
@pytest.mark.parametrize("wrong", ["400_key", "401", "403"])
def test_a_refused_key_is_shown_nowhere(
    backend: str,
    wrong: str,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The service repeats it in its message."""
    caplog.set_level(logging.DEBUG)
    service.reset(Config(key="another", wrong_key=wrong))
    annotator = BACKENDS[backend](model="m", base_url=service.url)
    (reply,) = ask(annotator, question("Which digit?"))
    assert reply.outcome is RUN and "[key]" in reply.detail
    output = capfd.readouterr()
    for place in (repr(reply), repr(annotator), repr(vars(annotator)), caplog.text, output.out, output.err):
        assert KEY not in place
    assert [arrival["status"] for arrival in service.stats()["arrivals"]] == [int(wrong[:3])]


@backends
def test_a_key_is_echoed_in_any_error(backend: str, service: Service) -> None:
    for reply in ask(BACKENDS[backend](model="m", base_url=service.url), scenario("500"), scenario("429_body")):
        assert "[key]" in reply.detail and KEY not in repr(reply)


@backends
def test_where_the_key_comes_from(backend: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    make = BACKENDS[backend]
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UserError, match="GEMINI_API_KEY or GOOGLE_API_KEY"):
        make(model="m").check()
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    assert ask(make(model="m", base_url=service.url), question("Which digit?"))[0].outcome is OK
    with pytest.raises(UserError, match="MY_KEY"):
        make(model="m", key_env="MY_KEY").check()
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("GOOGLE_API_KEY", "a wrong one")
    assert ask(make(model="m", base_url=service.url, key_env="MY_KEY"), question("And now?"))[0].outcome is OK


def test_two_keys_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The legacy library is configured for the whole process; our backends are not."""
    monkeypatch.setenv("WRONG", "wrong")

    async def both() -> list[Outcome]:
        annotators = [GeminiLegacy(model="m", base_url=service.url, key_env=k) for k in ("GEMINI_API_KEY", "WRONG")]
        for annotator in annotators:
            await annotator.open(Path())
        replies = await asyncio.gather(*(a.reply(question(f"{i}?")) for i in range(8) for a in annotators))
        for annotator in annotators:
            await annotator.close()
        return [reply.outcome for reply in replies]

    assert asyncio.run(both()) == [OK, RUN] * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "needs a model"),
        ({"thinking_budget": 10, "thinking_level": "low"}, "exclude each other"),
        ({"thinking_budget": -2}, "-2 makes no sense"),
        ({"thinking_level": "much"}, "'much' is none of minimal"),
        ({"safety": "on"}, "'on' is none of off"),
        ({"timeout_seconds": 0}, "not above 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Gemini(**{"model": "m"} | options)


def test_what_decides_a_reply_is_told() -> None:
    assert Gemini(model="m", thinking_budget=64, seed=1).traits.decides == {
        "safety": "off",
        "json": True,
        "thinking_budget": 64,
        "seed": 1,
    }
    assert Gemini(model="m", base_url="http://x", timeout_seconds=1).traits == Gemini(model="m").traits
    assert Gemini(model="m").traits.quota_zone == "America/Los_Angeles"


MISSING = """
import sys
sys.modules[sys.argv[2]] = None                     # as if it were not installed
from annotate.backends.registry import make_annotator
from annotate.errors import UserError
try:
    make_annotator(sys.argv[1], "m", {})
except UserError as error:
    print(error)
"""

LAZY = """
import sys
from annotate.backends.registry import make_annotator
assert make_annotator(sys.argv[1], "m", {}).paid
print(sys.argv[2] in sys.modules)
"""


@pytest.mark.parametrize(
    ("backend", "library", "extra"),
    [
        ("gemini", "google.genai", "mmalign[gemini]"),
        ("gemini_legacy", "google.generativeai", "mmalign[gemini-legacy]"),
    ],
)
def test_the_library_is_missing_or_not_needed_yet(backend: str, library: str, extra: str) -> None:
    """Without a key: an estimate needs neither it nor the library's half second."""
    environment = {n: v for n, v in os.environ.items() if not n.endswith("_API_KEY")}

    def run(script: str) -> str:
        command = [sys.executable, "-c", script, backend, library]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60).stdout

    assert run(MISSING) == (
        f"annotator {backend!r} needs the library {library!r}, which is not installed: pip install '{extra}'\n"
    )
    assert run(LAZY) == "False\n"
