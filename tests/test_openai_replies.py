"""What `openai_chat` makes of the answers of particular services, and the body it sends; pure functions mostly."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Config, serve
from loopback.asking import ask, question

from annotate.backends.openai_chat import OpenAIChat
from annotate.backends.openai_replies import reply_of, reply_of_error
from annotate.protocol import Outcome
from annotate.records import Reason

OK, RATE, DAY = Outcome.OK, Outcome.RATE_MINUTE, Outcome.QUOTA_DAY
AGAIN, ROW, RUN = Outcome.TRANSIENT, Outcome.ROW_FATAL, Outcome.RUN_FATAL

# ------------------------------------------------------------------------------------------------ particular services


def error(message: str, *, type: str = "", code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type or "invalid_request_error", "param": param, "code": code}}


def google(code: int, message: str, *details: Mapping[str, Any], status: str = "") -> list[Any]:
    """As Gemini's compatible endpoint writes it: a list of one."""
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def quota(*ids: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": i} for i in ids]}


def completion(content: Any, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}]}


RETRY_5S = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "5s"}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
EXCEEDED = "You exceeded your current quota, please check your plan and billing details."


class Case(NamedTuple):
    """An answer, and what it is to be: the outcome, with seconds to wait or a row's reason."""

    status: int
    body: Any
    outcome: Outcome
    more: float | Reason | None = None
    headers: Mapping[str, str] = {}


MINUTE_USED_UP = {
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}
DAY_USED_UP = {"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.38"}
DAY_LEFT = {"x-ratelimit-remaining-requests-day": "900", "x-ratelimit-reset-requests-day": "33011.38"}
A_DATE = {"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
A_DAY, A_MINUTE = "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "GenerateRequestsPerMinutePerProjectPerModel"
RPM, TPM, RPD = (f"Rate limit reached for gpt-4o on {what}: Limit 200, Used 200." for what in ("RPM", "TPM", "RPD"))

ANSWERS: dict[str, Case] = {
    # 429: too fast, and for how long
    "OpenAI, minutes": Case(429, error(f"{TPM} Please try again in 6m0s. Visit https://x", type="tokens"), RATE, 360.0),
    "OpenAI, milliseconds": Case(429, error(f"{RPM} Please try again in 120ms."), RATE, 0.12),
    "OpenAI, in headers": Case(429, error(RPM), RATE, 0.5, {"retry-after-ms": "500", "retry-after": "1"}),
    "OpenAI, the state of its limits": Case(429, error(RPM), RATE, 1.0, MINUTE_USED_UP),
    "Azure, in words": Case(429, error("Please retry after 26 seconds.", code="429"), RATE, 26.0),
    "Gemini, in words": Case(429, google(429, f"{EXCEEDED}\nPlease retry in 11.6659s."), RATE, 11.6659),
    "Gemini, RetryInfo": Case(429, google(429, EXCEEDED, quota(A_MINUTE), RETRY_5S), RATE, 5.0, {"Retry-After": "60"}),
    "a date": Case(429, error("slow down"), RATE, 30.0, A_DATE),
    "words without sense": Case(429, error("slow down"), RATE, None, {"Retry-After": "soon"}),
    "a page": Case(429, "<html>Too many requests</html>", RATE),
    # 429: a day's quota
    "OpenAI, a rolling day": Case(429, error(f"{RPD} Please try again in 7m12s.", type="requests"), DAY, 432.0),
    "Groq, tokens a day": Case(
        429, error("on tokens per day (TPD): Limit 100000. Try again in 1h2m3.5s."), DAY, 3723.5
    ),
    "OpenRouter": Case(429, error("Rate limit exceeded: free-models-per-day."), DAY),
    "Cerebras, in headers": Case(429, error("too many"), DAY, 33011.38, DAY_USED_UP),
    "a minute, and the day is not used up": Case(429, error("too many"), RATE, None, DAY_LEFT),
    "Gemini, a day": Case(429, google(429, EXCEEDED, quota(A_DAY)), DAY),
    "Gemini, a day, with a wait that is not true": Case(429, google(429, EXCEEDED, quota(A_DAY), RETRY_5S), DAY),
    "Gemini, minute and day": Case(429, google(429, EXCEEDED, quota(A_MINUTE, A_DAY), RETRY_5S), DAY),
    # no money: in the words that Gemini uses for "too fast"
    "OpenAI, by code": Case(429, error(EXCEEDED, code="insufficient_quota"), RUN),
    "OpenAI, by type": Case(429, error(EXCEEDED, type="insufficient_quota"), RUN),
    "402": Case(402, error("Insufficient credits"), RUN),
    # what no row can mend
    "vLLM, no such model": Case(404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, RUN),
    "vLLM, a key is wanted": Case(401, {"error": "Unauthorized"}, RUN),
    "Gemini, a wrong key": Case(400, google(400, "API key not valid.", BAD_KEY), RUN),
    "Gemini, a country": Case(400, google(400, "User location is not supported.", status="FAILED_PRECONDITION"), RUN),
    "no temperature": Case(400, error("Unsupported value", param="temperature", code="unsupported_value"), RUN),
    "no such schema": Case(400, error("Invalid schema", param="response_format"), RUN),
    "a redirect": Case(301, {}, RUN, None, {"Location": "https://elsewhere/v1"}),
    # what is a row's own
    "a field of it": Case(400, error("Invalid", param="messages[1]", code="unsupported_value"), ROW, Reason.BLOCKED),
    "a server's own check": Case(422, {"detail": [{"msg": "field required"}]}, ROW, Reason.BLOCKED),
    "OpenAI, policy": Case(400, error("Rejected.", code="content_policy_violation"), ROW, Reason.BLOCKED),
    "Azure, policy": Case(400, error("Rejected.", code="content_filter"), ROW, Reason.BLOCKED),
    "OpenRouter, policy": Case(403, error("Your input was flagged"), ROW, Reason.BLOCKED),
    "an image": Case(400, error("Unsupported image.", code="image_parse_error"), ROW, Reason.IMAGE_UNREADABLE),
    "OpenAI, too long": Case(400, error("Too long", code="context_length_exceeded"), ROW, Reason.TOO_LONG),
    "vLLM, too long": Case(400, {"message": "longer than the maximum model length of 9"}, ROW, Reason.TOO_LONG),
    "Gemini, too long": Case(400, google(400, "exceeds the maximum number of tokens allowed"), ROW, Reason.TOO_LONG),
    "413": Case(413, error("Payload too large"), ROW, Reason.TOO_LONG),
    "more than a minute lets through": Case(429, error(f"Request too large. {TPM}"), ROW, Reason.TOO_LONG),
    # what may pass
    "409": Case(409, error("conflict"), AGAIN),
    "503 with a wait": Case(503, error("overloaded"), AGAIN, 7.0, {"Retry-After": "7"}),
    "OpenRouter, a 200 that is none": Case(200, {"error": {"code": 502, "message": "Provider error"}}, AGAIN),
    "a 200 that is a 429": Case(200, {"error": {"code": 429, "message": "Please retry in 3s"}}, RATE, 3.0),
    "OpenRouter, broken off": Case(200, completion("The 7", "error"), AGAIN),
    "another JSON altogether": Case(200, ["hello"], AGAIN),
    "choices of the wrong type": Case(200, {"choices": "none"}, AGAIN),
    "no message": Case(200, {"choices": [{"finish_reason": "stop"}]}, AGAIN),
    # completions
    "a refusal": Case(200, completion(None, refusal="I can't."), ROW, Reason.BLOCKED),
    "Gemini, a filter by name": Case(200, completion(None, "content_filter: RECITATION"), ROW, Reason.BLOCKED),
    "Mistral, cut off": Case(200, completion("The 7", "model_length"), ROW, Reason.CUT_OFF),
    "no finish_reason": Case(200, completion("The 7 is red.", None), OK),
    "text in pieces": Case(200, completion([{"text": "The 7 "}, {"text": "is red."}]), OK),
}


def wanted(case: Case) -> str:
    """Words in a prompt that make the service answer with just that."""
    answer = json.dumps({"status": case.status, "body": case.body, "headers": dict(case.headers)})
    return f"[[respond:{base64.b64encode(answer.encode()).decode()}]]"


def test_the_answers_of_particular_services() -> None:
    """Each through the library, and the same by the pure functions that batch jobs are read with."""
    with serve(Config(wires=("openai",))) as service:
        backend = OpenAIChat(model="judge", base_url=f"{service.url}/v1")
        replies = ask(backend, *(question(wanted(case)) for case in ANSWERS.values()))
    for (name, case), reply in zip(ANSWERS.items(), replies, strict=True):
        more = reply.reason if reply.outcome is ROW else reply.retry_after
        assert (name, reply.outcome, more) == (name, case.outcome, case.more), reply
        assert (reply.detail == "") is (reply.outcome is OK), name
        read = reply_of(case.body) if case.status == 200 else reply_of_error(case.status, case.headers, case.body)
        # A refusal that concerns every request also says where it came from.
        assert reply == replace(read, detail=reply.detail) and reply.detail.startswith(read.detail), name
        if reply.outcome is OK:
            assert reply.text == "The 7 is red."


def test_details_say_what_to_do() -> None:
    no_money = reply_of_error(429, {}, error(EXCEEDED, code="insufficient_quota"))
    assert no_money.detail == f"no money is left on the account (HTTP 429 insufficient_quota: {EXCEEDED})"
    redirect = reply_of_error(308, {"Location": "https://elsewhere/v1"}, "")
    assert redirect.detail == "HTTP 308 redirects to https://elsewhere/v1; correct base_url"
    page = reply_of_error(503, {}, "<html>\n  <h1>Sorry</h1>" + "x" * 1000)
    assert page.detail.startswith("HTTP 503: <html> <h1>Sorry</h1>xxx") and len(page.detail) == 300


THOUGHT_45 = {"completion_tokens_details": {"reasoning_tokens": 45}}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}, (9, 5, 0)),
        # OpenAI: thoughts among the completion
        ({"prompt_tokens": 9, "completion_tokens": 50, "total_tokens": 59, **THOUGHT_45}, (9, 5, 45)),
        # Gemini: in the total alone
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 59}, (9, 5, 45)),
        # xAI: beside the completion, and told
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 59, **THOUGHT_45}, (9, 5, 45)),
        # no total, nonsense
        ({"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": None}, (9, 5, 0)),
        ({"prompt_tokens": "9", "completion_tokens": -5, "total_tokens": None}, (0, 0, 0)),
    ],
)
def test_every_token_is_counted_once(usage: dict[str, Any], expected: tuple[int, int, int]) -> None:
    found = reply_of({**completion("The 7 is red."), "usage": usage}).usage
    assert (found["input_tokens"], found["output_tokens"], found["thought_tokens"]) == expected
    assert reply_of(completion("The 7 is red.")).usage == {}


NAMES = st.sampled_from(["error", "choices", "message", "content", "code", "usage", "details", "detail", "violations"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


@settings(max_examples=200, deadline=None)
@given(JSON, st.integers(300, 599), st.text("0123456789 .mshd-", max_size=40))
def test_no_json_whatever_breaks_the_reader(body: Any, status: int, wait: str) -> None:
    assert reply_of(body).outcome in Outcome
    assert reply_of_error(status, {"retry-after": wait, "x-ratelimit-reset-requests": wait}, body).outcome is not OK
