"""What the Gemini backends send, which options they have, and where keys do not go."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gemini_rig import BACKENDS, KEY, ROOT, backends, running, scenario, sent, service
from loopback import Config, Service, expected_answer, expected_preference, expected_scores, sha256_of
from loopback.asking import RUBRIC, ask, picture, question, rating

from annotate.backends.gemini import Gemini
from annotate.backends.gemini_legacy import GeminiLegacy
from annotate.backends.gemini_wire import THINKING_ROOM, Options, wire_request
from annotate.errors import UserError
from annotate.prompting import parse_reply
from annotate.protocol import Outcome
from annotate.records import Prompt, Reason, Turn

__all__ = ["running", "service"]  # fixtures

OK, TRANSIENT, ROW, RUN = Outcome.OK, Outcome.TRANSIENT, Outcome.ROW_FATAL, Outcome.RUN_FATAL

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


def test_the_body_is_what_the_library_makes_of_its_own_objects(service: Service) -> None:
    """We hand the library the body, not objects to make it of; this is the body that it would have made."""
    from google import genai
    from google.genai import types

    request = rating("Which digit?", COMPLETIONS, [picture()])
    ask(Gemini(model="m", base_url=service.url, thinking_budget=64), request)
    ours = sent(service)
    wire = wire_request(request, Options(model="m", thinking_budget=64))
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=service.url, api_version="v1beta"))
    client.models.generate_content(
        model="m",
        contents=[types.Content.model_validate(content) for content in wire.contents],
        config=types.GenerateContentConfig.model_validate(
            {**wire.generation, "system_instruction": wire.system, "safety_settings": list(wire.safety)}
        ),
    )
    client.close()
    theirs = sent(service)
    theirs["systemInstruction"].pop("role")  # which a system's words do not need
    _, image, _ = (part.get("inlineData") for part in theirs["contents"][0]["parts"])
    image["data"] = image["data"].replace("-", "+").replace("_", "/")  # either alphabet of base64 is taken
    assert ours == theirs
    first, second = (request["headers"] for request in service.requests()[-2:])
    assert first.get("x-goog-api-key") == second.get("x-goog-api-key") == KEY


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
