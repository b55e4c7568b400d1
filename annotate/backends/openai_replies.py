"""What a chat completion, or a refusal to give one, says: JSON in, `Reply` out. Pure; without a client library.

    reply_of(body)                           of a 200, or of a line of a batch's results
    reply_of_error(status, headers, body)    of anything else

Read are OpenAI's own forms and those that compatible services have been seen to send: vLLM's flat errors, Gemini's list
of one error with the details of its own interface, OpenRouter's errors in a 200.

    429 too fast                                                       rate_minute, with the wait that is told
    429 a day's quota (RPD, TPD, ...PerDay...)                         quota_day
    429 one request above the whole limit; 413; the context is full    row_fatal too_long
    402, and 429 insufficient_quota: no money                          run_fatal
    401 403 404 405 3xx, and 400 for an option that no row can have    run_fatal
    content filter, refusal, other 400 422                             row_fatal blocked
    reply at its limit                                                 row_fatal cut_off, with its text and usage
    408 409 425 5xx, no JSON, no choices, no text                      transient
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from annotate.keys import scrub
from annotate.protocol import Outcome, Reply
from annotate.records import Reason

_NO_MONEY = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "access_terminated"}
_NO_SUCH_OPTION = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
_NO_KEY = re.compile(r"API_KEY_INVALID|invalid_api_key|api key not valid|api key expired", re.I)
_POLICY = re.compile(
    r"content_policy|content_filter|moderation_blocked|invalid_prompt|content management policy|safety system"
    r"|(?:input|prompt|request|content) (?:was|has been) flagged",
    re.I,
)
_TOO_LONG = re.compile(
    r"context.?length|context.?window|context.?size|maximum model length|string_above_max_length|too many tokens"
    r"|exceeds the maximum number of tokens|(?:prompt|input|request) is too (?:long|large)|request too large",
    re.I,
)
_A_DAY = re.compile(r"per[-_ ]?day|\b[RTI]PD\b|daily", re.I)
_COME_BACK = re.compile(r"(?:again|retry) (?:in|after) ((?:\d+(?:\.\d+)?\s*(?:ms|[dhms])[a-z]*\s*)+)", re.I)
_CUT_OFF = ("length", "model_length", "max_tokens")
_SHOWN = 300
"""Characters of a service's message that are kept."""


# ----------------------------------------------------------------------------------------------------------- a 200


def reply_of(body: Any) -> Reply:
    """The text of a chat completion, or why it has none. `body` is JSON, or text where it was none."""
    whole = _object(body)
    if whole.get("error"):
        code = str(_object(whole["error"]).get("code"))
        return reply_of_error(int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500, {}, whole)
    choices = whole.get("choices")
    if not isinstance(choices, list) or not choices:
        return transient("an answer without choices" if whole else f"the answer is no chat completion: {body!s:.100}")
    choice = _object(choices[0])
    message = _object(choice.get("message"))
    text = _text(message.get("content"))
    finish = _string(choice.get("finish_reason"))
    told: dict[str, Any] = {
        "text": scrub(text),
        "usage": usage_of(whole),
        "model_version": scrub(_string(whole.get("model"))),
        "response_id": scrub(_string(whole.get("id"))),
        "finish": scrub(finish),
    }
    if refusal := _string(message.get("refusal")):
        return Reply(
            outcome=Outcome.ROW_FATAL, reason=Reason.BLOCKED, detail=_cut(f"the model refuses: {refusal}"), **told
        )
    if finish.startswith("content_filter"):
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.BLOCKED, detail=_cut(finish), **told)
    if finish in _CUT_OFF:
        detail = "the reply reached its token limit" + ("" if text else " before it had any text")
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.CUT_OFF, detail=detail, **told)
    if finish == "error" or not text.strip():
        why = _error(choice).message or f"an answer without text (finish_reason {finish or 'unknown'})"
        return Reply(outcome=Outcome.TRANSIENT, detail=_cut(why), **told)
    return Reply(outcome=Outcome.OK, **told)


def usage_of(body: Mapping[str, Any]) -> dict[str, int]:
    """Tokens read, written and thought, each counted once; empty where the service tells nothing.

    OpenAI counts thoughts among `completion_tokens`; Gemini and others beside them, which shows in the total.
    """
    usage = _object(body.get("usage"))
    if not usage:
        return {}
    read, written, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    beside = max(0, total - read - written)
    among = min(written, _count(_object(usage.get("completion_tokens_details")).get("reasoning_tokens")))
    thought = beside or among
    return {"input_tokens": read, "output_tokens": written if beside else written - among, "thought_tokens": thought}


def transient(detail: str) -> Reply:
    """Nothing of use came back, and another time it may."""
    return Reply(outcome=Outcome.TRANSIENT, detail=_cut(detail))


# ------------------------------------------------------------------------------------------------------------ an error


@dataclass(frozen=True, kw_only=True)
class _Error:
    """What an error's body says."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str = ""
    details: tuple[Mapping[str, Any], ...] = ()
    """Google's: QuotaFailure, RetryInfo, ErrorInfo."""
    words: str = field(default="", repr=False)
    """All of it, to look for words in."""


def reply_of_error(status: int, headers: Mapping[str, str], body: Any) -> Reply:
    """What a status other than 200 means. `body` is JSON, or text where it was none."""
    error = _error(body)
    headers = {name.lower(): value for name, value in headers.items()}
    detail = _cut(
        " ".join(filter(None, (f"HTTP {status}", error.code))) + (f": {error.message}" if error.message else "")
    )
    if status == 402 or {error.code, error.type} & _NO_MONEY:
        return Reply(outcome=Outcome.RUN_FATAL, detail=_cut(f"no money is left on the account ({detail})"))
    if status == 429:
        return _too_many(headers, error, detail)
    if status in (408, 409, 425, 499) or status >= 500:
        return Reply(outcome=Outcome.TRANSIENT, detail=detail, retry_after=_wait(headers, error))
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(error.words)):
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.TOO_LONG, detail=detail)
    if status in (400, 403, 422) and _POLICY.search(error.words):
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.BLOCKED, detail=detail)
    if 300 <= status < 400:
        detail = _cut(f"{detail} redirects to {headers.get('location', 'nowhere')}; correct base_url")
    if status < 400 or status in (401, 403, 404, 405) or _every_row(error):
        return Reply(outcome=Outcome.RUN_FATAL, detail=detail)
    reason = Reason.IMAGE_UNREADABLE if "image" in error.code else Reason.BLOCKED
    return Reply(outcome=Outcome.ROW_FATAL, reason=reason, detail=detail)


def _every_row(error: _Error) -> bool:
    """Whether a 400 is about the key, or about an option, and so about every row alike."""
    about_a_row = error.param.startswith("messages")
    option = error.param.startswith("response_format") or (error.code in _NO_SUCH_OPTION and not about_a_row)
    return option or bool(_NO_KEY.search(error.words)) or "FAILED_PRECONDITION" in error.words


def _too_many(headers: Mapping[str, str], error: _Error, detail: str) -> Reply:
    """A 429: too fast, nothing more today, or more in one request than is ever let through."""
    if re.search("request too large", error.message, re.I):
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.TOO_LONG, detail=detail)
    quotas = [_string(v.get("quotaId")) for d in error.details for v in _objects(d.get("violations"))]
    wait = _wait(headers, error)
    if any(_A_DAY.search(quota) for quota in quotas):  # Google tells a wait of seconds even then, which is not true
        return Reply(outcome=Outcome.QUOTA_DAY, detail=detail)
    if not quotas and (_A_DAY.search(error.words) or any("day" in kind for kind in _used_up(headers))):
        return Reply(outcome=Outcome.QUOTA_DAY, detail=detail, retry_after=wait)
    return Reply(outcome=Outcome.RATE_MINUTE, detail=detail, retry_after=wait)


def _error(body: Any) -> _Error:
    if isinstance(body, list):  # Gemini's compatible endpoint
        return _error(body[0] if body else {})
    if not isinstance(body, Mapping):
        return _Error(message=str(body), words=str(body))
    inner = body.get("error", body)  # vLLM once sent the fields without the object around them
    fields = _object(inner)
    details = _objects(fields.get("details"))
    named = {name: str(fields.get(name) or "") for name in ("code", "type", "param")}
    message = fields.get("message") or (inner if isinstance(inner, str) else body.get("detail")) or ""
    return _Error(message=str(message), details=tuple(details), words=str(inner), **named)


# -------------------------------------------------------------------------------------------------------- when to come


def _wait(headers: Mapping[str, str], error: _Error) -> float | None:
    """Seconds until it is worth asking again, where the service says so: the most exact of what it says."""
    for detail in error.details:
        if (wait := _seconds(detail.get("retryDelay"))) is not None:
            return wait
    if (wait := _seconds(headers.get("retry-after-ms"))) is not None:
        return wait / 1000
    if (wait := _seconds(headers.get("retry-after"))) is not None:
        return wait
    if (wait := _until(headers.get("retry-after"), headers.get("date"))) is not None:
        return wait
    if told := _COME_BACK.search(error.message):
        return _seconds(told[1])
    return max((wait for wait in _used_up(headers).values() if wait is not None), default=None)


def _used_up(headers: Mapping[str, str]) -> dict[str, float | None]:
    """Of the limits in `x-ratelimit-*` those with nothing left, and when each begins anew: `{"requests": 1.0}`."""
    found: dict[str, float | None] = {}
    for name, value in headers.items():
        kind = name.removeprefix("x-ratelimit-reset-")
        left = headers.get(f"x-ratelimit-remaining-{kind}", "unknown" if "day" in kind else "0")
        if kind != name and _seconds(left) == 0:
            found[kind] = _seconds(value)
    return found


def _seconds(text: Any) -> float | None:
    """Seconds of `7.5s`, `6m0s`, `120ms`, `1h2m`, `20 seconds`, or of a plain number; None of anything else."""
    if not isinstance(text, str):
        return None
    text = text.strip().lower()
    if re.fullmatch(r"\d{1,12}(?:\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(?:\d{1,12}(?:\.\d+)?\s?(?:ms|[dhms])[a-z]*\s?)+", text):
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(
        float(number) * (0.001 if unit == "ms" or unit.startswith("milli") else units[unit[0]])
        for number, unit in re.findall(r"(\d+(?:\.\d+)?)\s?([a-z]+)", text)
    )


def _until(date: str | None, now: str | None) -> float | None:
    """Seconds from the date of the answer (our own clock may be wrong) to the date that it names."""
    try:
        then = parsedate_to_datetime(date or "")
        since = parsedate_to_datetime(now) if now else datetime.now(UTC)
        return max(0.0, (then - since).total_seconds())
    except (TypeError, ValueError):
        return None


# ------------------------------------------------------------------------------------------- JSON that may be anything


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (v for v in value if isinstance(v, Mapping)) if isinstance(value, list) else ()


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _text(content: Any) -> str:
    """The text of a message; some services send it in pieces."""
    if isinstance(content, list):
        return "".join(_string(part.get("text")) for part in _objects(content))
    return _string(content)


def _cut(text: str) -> str:
    """One line of bounded length, without any key: scrubbed before it is cut, so that no half of a key is left."""
    return " ".join(scrub(text).split())[:_SHOWN]
