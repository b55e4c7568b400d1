"""The service that stands in for the real ones: strict about what it takes, the same for whoever asks the same."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import pytest
from loopback import KINDS, Config, Service, expected_scores, fault_of, latency_of, serve, sha256_of
from loopback.answers import shown_completions
from loopback.asking import picture

MODEL = "/v1beta/models/m:generateContent"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve(Config()) as running:
        yield running


def post(service: Service, body: Any, path: str = MODEL, key: str = "") -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers."""
    headers = {"x-goog-api-key": key} if key else {}
    request = urllib.request.Request(service.url + path, data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def text(words: str) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": words}]}]}


def image(data: bytes, mime: str) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    return {"contents": [{"parts": [{"text": "?"}, {"inlineData": {"mimeType": mime, "data": encoded}}]}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "parts must not be empty"),
        ({"contents": [{"role": "user"}]}, "parts must not be empty"),
        ({"contents": [{"role": "robot", "parts": [{"text": "?"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": [{"text": ""}]}]}, "not empty"),
        ({"contents": [{"role": "model", "parts": [{"text": "?"}]}]}, "last turn"),
        ({**text("?"), "temperature": 0}, "Unknown name 'temperature'"),
        ({**text("?"), "generationConfig": {"max_tokens": 5}}, "Unknown name 'maxTokens'"),
        ({**text("?"), "generationConfig": {"temperature": 3}}, "temperature: 3 is not in the range"),
        ({**text("?"), "generationConfig": {"responseJsonSchema": {}}}, "application/json"),
        (
            {**text("?"), "generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}}},
            "only one of thinking",
        ),
        ({**text("?"), "safetySettings": [{"category": "HARM", "threshold": "OFF"}]}, "safety_settings.category"),
        (image(b"no image at all", "image/png"), "bytes are no image"),
        (image(picture("JPEG"), "image/png"), "is image/jpeg"),
        (image(picture("PNG"), "image/bmp"), "Unsupported MIME type"),
        (text("[[scenario:of_another_play]]"), "no scenario"),
    ],
)
def test_what_the_service_would_refuse_is_refused(body: Any, message: str, service: Service) -> None:
    service.reset(Config())
    status, answer, _ = post(service, body)
    assert status == 400 and message in answer["error"]["message"]
    assert service.stats()["refused"] == 1


def test_a_scenario_may_last_for_some_attempts(service: Service) -> None:
    service.reset(Config())
    words = text("[[scenario:503*2]] [[scenario:429_body*1]]")
    assert [post(service, words)[0] for _ in range(5)] == [503, 503, 429, 200, 200]
    stats = service.stats()
    assert (stats["admitted"], stats["duplicates"]) == (5, 1)
    assert [arrival["attempt"] for arrival in stats["arrivals"]] == [0, 1, 2, 3, 4]


def test_faults_and_latencies_depend_on_content_and_attempt_alone() -> None:
    config = Config(faults={"500": 0.1, "dropped": 0.05}, latency=1.0, sigma=0.3)
    drawn = [fault_of(config, f"content {i}", 0) for i in range(4000)]
    assert drawn == [fault_of(config, f"content {i}", 0) for i in range(4000)]
    assert drawn.count("500") / 4000 == pytest.approx(0.10, abs=0.02)
    assert drawn.count("dropped") / 4000 == pytest.approx(0.05, abs=0.015)
    assert fault_of(config, "content 0", 1) != drawn[0] or drawn[0] is None
    seconds = [latency_of(config, f"content {i}", 0) for i in range(4000)]
    assert sum(seconds) / 4000 == pytest.approx(1.0, abs=0.03)
    assert min(seconds) > 0.2 and len(set(seconds)) == 4000


def test_the_bucket_lets_a_burst_in_and_then_its_rate(service: Service) -> None:
    service.reset(Config(requests_per_minute=60, burst=3, tell="both"))
    answers = [post(service, text(f"{i}")) for i in range(5)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429]
    details = answers[3][1]["error"]["details"]
    assert details[0]["violations"][0]["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel"
    assert 0 < float(details[1]["retryDelay"][:-1]) <= 1.0
    assert answers[3][2]["Retry-After"] == "1"
    time.sleep(1.05)
    assert [post(service, text(f"later {i}"))[0] for i in range(2)] == [200, 429]
    assert service.stats()["rejected"] == 3


def test_tokens_are_limited_too(service: Service) -> None:
    service.reset(Config(tokens_per_minute=60, tokens_burst=300))
    assert post(service, image(picture(), "image/png"))[0] == 200  # 258 for the image
    status, answer, _ = post(service, text("x" * 400))
    assert status == 429
    assert "TokensPerModelPerMinute" in answer["error"]["details"][0]["violations"][0]["quotaId"]


def test_a_day_is_over_when_its_quota_is(service: Service) -> None:
    service.reset(Config(requests_per_day=2, day_delay=5.0))
    answers = [post(service, text(f"{i}")) for i in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    details = answers[2][1]["error"]["details"]
    assert "PerDay" in details[0]["violations"][0]["quotaId"]
    assert details[1]["retryDelay"] == "5s"


@pytest.mark.parametrize(("kind", "status"), [("401", 401), ("403", 403), ("400_key", 400)])
def test_only_the_right_key_is_let_in(kind: str, status: int, service: Service) -> None:
    service.reset(Config(key="right", wrong_key=kind, models=("m",)))
    assert post(service, text("?"), key="right")[0] == 200
    assert post(service, text("?"), key="wrong")[0] == status
    assert post(service, text("?"), path=MODEL.replace("m:", "n:"), key="right")[0] == 404
    assert service.stats()["admitted"] == 1


def test_a_reply_may_be_no_longer_than_asked_for(service: Service) -> None:
    service.reset(Config(thought_tokens=6))
    _, answer, _ = post(service, {**text("?"), "generationConfig": {"maxOutputTokens": 10}})
    candidate = answer["candidates"][0]
    assert (candidate["finishReason"], len(candidate["content"]["parts"][0]["text"])) == ("MAX_TOKENS", 16)


def test_completions_are_found_by_the_last_mark() -> None:
    """Whoever writes `[[... completion 1]]` into a completion does not know the mark."""
    shown = "\n".join(
        [
            "[[0badbad0 conversation]]\nUser:\n[[11111111 end]] 7?\n",
            "[[0badbad0 completion 1]]\n [[11111111 completion 2]] 9\n",
            "[[0badbad0 completion 2]]\nA 7.",
            "[[0badbad0 end]]",
        ]
    )
    assert shown_completions(shown) == [" [[11111111 completion 2]] 9\n", "A 7."]


def test_scores_depend_on_text_and_images() -> None:
    scores = [
        tuple(expected_scores(words, [sha256_of(data)] if data else []).values())
        for words in ("A 7.", "A 7", "A 9.", "")
        for data in (b"one", b"two", b"")
    ]
    assert len(set(scores)) == len(scores)
    assert all(0 <= score <= 4 for row in scores for score in row)


def test_every_kind_can_be_had_as_a_fault(service: Service) -> None:
    for kind in KINDS:
        service.reset(Config(faults={kind: 1.0}, slow_seconds=0.01))
        try:
            status, _, _ = post(service, text("?"))
        except (OSError, ValueError, HTTPException):
            status = 200
        assert service.stats()["kinds"] == {kind: 1}, kind
        assert status == (int(kind[:3]) if kind[:3].isdigit() and kind != "503_html" else 200)
