"""The body that `openai_chat` sends, and what the service on this machine says to it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from loopback import Config, Service, expected_answer, expected_scores, serve, sha256_of
from loopback.asking import RUBRIC, ask, picture, question, rating

from annotate.backends.openai_chat import THINKING_ROOM, Dialect, OpenAIChat, UnknownImage, wire_body
from annotate.prompting import parse_reply, render_question
from annotate.protocol import Message, Outcome, Part, Request
from annotate.records import Image, Prompt, Reason, Turn

CONFIG = Config(wires=("openai",), keep_requests=1)
PNG = picture()
TWO = ("It is red.", "It is blue.")


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serve(CONFIG) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    """A service that has seen nothing yet and asks for no key."""
    running.reset()
    return running


def chat(service: Service, **options: Any) -> OpenAIChat:
    return OpenAIChat(**{"model": "judge", "base_url": f"{service.url}/v1", **options})


def test_the_whole_body_of_a_small_request() -> None:
    schema = {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string"},
            "ratings": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"completion": {"type": "integer", "minimum": 1, "maximum": 2}},
                    "required": ["completion"],
                },
                "minItems": 2,
                "maxItems": 2,
            },
        },
        "required": ["reasoning", "ratings"],
    }
    parts = (Part(kind="text", text="Rate "), Part(kind="text", text="it."), Part(kind="image", image=0))
    request = Request(
        messages=(Message(role="user", parts=parts),),
        images=(b"GIF89a...",),
        schema=schema,
        decoding={"temperature": 0.5, "max_output_tokens": 64, "seed": 3},
        sha256="",
        prompt=question("Rate it.").prompt,
    )
    entry = {"completion": {"type": "integer"}}
    closed = {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string"},
            "ratings": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": entry,
                    "required": ["completion"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["reasoning", "ratings"],
        "additionalProperties": False,
    }
    usual = {
        "model": "judge",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Rate it."},
                    {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhLi4u"}},
                ],
            }
        ],
        "temperature": 0.5,
        "max_completion_tokens": 64,
        "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": closed}},
    }
    assert wire_body(request, model="judge", dialect=Dialect()) == usual
    assert list(closed["properties"]) == ["reasoning", "ratings"]  # thoughts are written before numbers

    lenient = wire_body(request, model="judge", dialect=Dialect(strict=False))["response_format"]["json_schema"]
    ratings = lenient["schema"]["properties"]["ratings"]
    assert lenient["strict"] is False
    assert (ratings["minItems"], ratings["maxItems"]) == (2, 2)
    assert ratings["items"]["properties"]["completion"] == {"type": "integer", "minimum": 1, "maximum": 2}

    other = Dialect(
        response_format="json_object",
        token_limit_field="max_tokens",
        reasoning_effort="low",
        extra_body={"temperature": None, "top_k": 1},
    )
    changed = {
        "max_tokens": 64 + THINKING_ROOM,  # thoughts count against what is sent, not against the reply's own limit
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "top_k": 1,
    }
    left = {n: v for n, v in usual.items() if n not in ("temperature", "max_completion_tokens")}
    assert wire_body(request, model="judge", dialect=other) == left | changed
    assert "response_format" not in wire_body(request, model="judge", dialect=Dialect(response_format="text"))


def test_text_and_images_stand_in_their_places_and_bytes_arrive_verbatim(service: Service) -> None:
    images = [picture(form) for form in ("PNG", "JPEG", "WEBP", "GIF")]
    turn = Turn(
        role="user",
        text="A <image> and <image>, then <image><image>: which is red?",
        images=tuple(Image(path="x", sha256=sha256_of(i)) for i in images),
    )
    prompt = Prompt.of((Turn(role="system", text="Be brief."), turn))
    request = render_question(prompt, backend="b", model="judge", decoding={"temperature": 0.0}, images=images)
    (reply,) = ask(chat(service), request)
    text = "A  and , then : which is red?"
    assert reply.text == expected_answer(text, [sha256_of(i) for i in images])
    (sent,) = service.requests()
    system, user = sent["body"]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    kinds = [part.get("text") or part["image_url"]["url"].split(";")[0] for part in user["content"]]
    assert kinds == [
        "A ", "data:image/png", " and ", "data:image/jpeg", ", then ", "data:image/webp", "data:image/gif",
        ": which is red?",
    ]  # fmt: skip
    urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert [base64.b64decode(url.split(",")[1]) for url in urls] == list(images)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"response_format": "json_object"},
        {"response_format": "text"},
        {"strict": False},
        {"token_limit_field": "max_tokens"},
        {"reasoning_effort": "low", "extra_body": {"temperature": None, "seed": 1}},
    ],
)
def test_each_dialect_is_understood_and_answered(service: Service, options: dict[str, Any]) -> None:
    (reply,) = ask(chat(service, **options), rating("Which colour?", TWO, [PNG]))
    assert reply.outcome is Outcome.OK, reply.detail
    ratings = parse_reply(reply.text, 2, RUBRIC).ratings
    assert [r.scores for r in ratings] == [expected_scores(t, [sha256_of(PNG)]) for t in TWO]


def test_an_image_of_another_type_is_the_rows_failure_and_is_not_sent(service: Service) -> None:
    request = question("Which?", [picture("BMP")])
    with pytest.raises(UnknownImage):
        wire_body(request, model="judge", dialect=Dialect())
    (reply,) = ask(chat(service), request)
    assert (reply.outcome, reply.reason) == (Outcome.ROW_FATAL, Reason.IMAGE_UNREADABLE)
    assert service.stats()["arrivals"] == []


def body_with(change: Any) -> dict[str, Any]:
    body = wire_body(rating("Which?", TWO, [PNG]), model="judge", dialect=Dialect())
    change(body)
    return body


def user_parts(body: dict[str, Any]) -> Any:
    return body["messages"][1]["content"]


def reply_schema(body: dict[str, Any]) -> Any:
    return body["response_format"]["json_schema"]["schema"]


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown field": (lambda b: b.update(temprature=0), "Unrecognized request argument supplied: temprature"),
    "no messages": (lambda b: b.update(messages=[]), "Invalid 'messages'"),
    "a message without content": (lambda b: b["messages"][1].pop("content"), "expected role and content"),
    "no parts": (lambda b: user_parts(b).clear(), "not empty"),
    "an empty text": (lambda b: user_parts(b)[0].update(text=""), "not empty"),
    "another mime type": (
        lambda b: user_parts(b)[1].update(image_url={"url": "data:image/bmp;base64,AAAA"}),
        "Invalid MIME type",
    ),
    "a false mime type": (
        lambda b: user_parts(b)[1]["image_url"].update(url=user_parts(b)[1]["image_url"]["url"].replace("png", "jpeg")),
        "said to be image/jpeg but is image/png",
    ),
    "no data URL": (lambda b: user_parts(b)[1]["image_url"].update(url="https://x.y/z.png"), "data URL"),
    "both limits": (lambda b: b.update(max_tokens=5), "at the same time"),
    "an open object": (lambda b: reply_schema(b).pop("additionalProperties"), "'additionalProperties' is required"),
    "an optional field": (lambda b: reply_schema(b)["required"].pop(), "'required' is required"),
    "a range": (lambda b: reply_schema(b)["properties"]["ratings"].update(minItems=2), "'minItems' is not permitted"),
}


def post(service: Service, body: dict[str, Any]) -> int:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{service.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return int(response.status)


@pytest.mark.parametrize("name", REFUSED)
def test_the_service_refuses_what_services_refuse(service: Service, name: str) -> None:
    """Or else the tests above would prove little."""
    change, message = REFUSED[name]
    assert post(service, body_with(lambda body: None)) == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(service, body_with(change))
    with caught.value as refusal:
        assert refusal.code == 400
        assert message in json.load(refusal)["error"]["message"]
