"""`openai_chat`: any service that speaks OpenAI's chat completions, through OpenAI's own client library.

    annotate: {backend: openai_chat, model: gpt-4o}
    annotate: {backend: openai_chat, model: lmms-lab/llava-critic-7b,             # vLLM and the like need no key
               options: {base_url: "http://127.0.0.1:8000/v1", paid: false, strict: false}}
    annotate: {backend: openai_chat, model: gemini-2.5-pro,
               options: {base_url: "https://generativelanguage.googleapis.com/v1beta/openai", key_env: GEMINI_API_KEY}}

The body that is sent is made by `wire_body`, which `openai_batch` uses too; what comes back is read in
`openai_replies.py`. The library sends and authenticates; its retries are off, because the run's own policy must see
every rejection, and its limits on connections are lifted, because requests would silently wait for one another.

The reply's form is asked for by `response_format: json_schema`. `strict: true` keeps to what every strict mode takes:
closed objects with all fields required, and no ranges or counts (some refuse `minimum` and `minItems`, and Gemini any
enum of numbers): the prompt names the scales, and what is outside of them is caught in reading. Servers of one's own
can enforce ranges and counts: `strict: false` leaves them in. What knows no schemas gets `json_object` or `text`.

A reasoning model's thoughts count against the limit that is sent: with `reasoning_effort: low` they get room of their
own on top of the reply's. Many refuse a temperature: `extra_body: {temperature: null}` leaves a field out.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from annotate.backends.openai_replies import reply_of, reply_of_error, transient
from annotate.errors import UserError
from annotate.keys import read_key, scrub
from annotate.protocol import Message, Outcome, Reply, Request, Traits
from annotate.records import Reason

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Dialect", "OpenAIChat", "UnknownImage", "key_for", "reply_of", "reply_of_error", "wire_body"]

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
THINKING_ROOM = 8192
_FORMATS = ("json_schema", "json_object", "text")
_TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")
_OURS = ("messages", "model", "n", "response_format", "stream")
"""Fields that `extra_body` must not change: they decide whom we ask, what, and whether we can read the answer."""


# ------------------------------------------------------------------------------------------------------------- asking


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one service wants to be asked; see the head of this file."""

    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    strict: bool = True
    token_limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """The former is OpenAI's, and the only one its reasoning models take; older servers know only the latter."""
    reasoning_effort: str = ""
    """How long a reasoning model thinks: minimal, low, medium, high."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the body, as they are; null leaves a field out."""

    def __post_init__(self) -> None:
        faults = [
            f"openai_chat: {name} is {value!r}; expected {' or '.join(known)}"
            for name, value, known in (
                ("response_format", self.response_format, _FORMATS),
                ("token_limit_field", self.token_limit_field, _TOKEN_LIMITS),
            )
            if value not in known
        ]
        faults += [f"openai_chat: extra_body must not hold {name!r}" for name in self.extra_body if name in _OURS]
        if faults:
            raise UserError(*faults)

    def decides(self) -> dict[str, Any]:
        """What of it is not as usual, for the key of a request: an option that comes later changes no old key."""
        usual = Dialect()
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(usual, name)}

    def room(self) -> int:
        """Tokens that thoughts may take, on top of the reply's limit."""
        return THINKING_ROOM if self.reasoning_effort not in ("", "none") else 0


class UnknownImage(ValueError):
    """An image is of no type that these services take."""


def wire_body(request: Request, *, model: str, dialect: Dialect) -> dict[str, Any]:
    """The JSON body of a chat completion. Raises `UnknownImage`."""
    body: dict[str, Any] = {"model": model, "messages": [_message(m, request.images) for m in request.messages]}
    body |= request.decoding
    if "max_output_tokens" in body:
        body[dialect.token_limit_field] = body.pop("max_output_tokens") + dialect.room()
    if request.schema is not None and dialect.response_format != "text":
        body["response_format"] = _response_format(request.schema, dialect)
    if dialect.reasoning_effort:
        body["reasoning_effort"] = dialect.reasoning_effort
    return {name: value for name, value in (body | dict(dialect.extra_body)).items() if value is not None}


def _message(message: Message, images: tuple[bytes, ...]) -> dict[str, Any]:
    """Text and images in their places; a plain string where there are no images, which every server understands."""
    if all(part.kind == "text" for part in message.parts):
        return {"role": message.role, "content": "".join(part.text for part in message.parts)}
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if part.kind == "image":
            content.append({"type": "image_url", "image_url": {"url": _data_url(images[part.image])}})
        elif content and content[-1]["type"] == "text":
            content[-1]["text"] += part.text  # some chat templates put a line break between two texts
        else:
            content.append({"type": "text", "text": part.text})
    return {"role": message.role, "content": content}


def _data_url(image: bytes) -> str:
    return f"data:{_mime_of(image)};base64,{base64.b64encode(image).decode('ascii')}"


def _mime_of(image: bytes) -> str:
    """By its first bytes: what a file is called says little of what it holds."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "image/webp"
    raise UnknownImage("the image is no PNG, JPEG, GIF or WebP file, and these services take no other")


def _response_format(schema: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    if dialect.response_format == "json_object":
        return {"type": "json_object"}
    closed = {"name": "reply", "strict": dialect.strict, "schema": _closed(schema, keep_limits=not dialect.strict)}
    return {"type": "json_schema", "json_schema": closed}


def _closed(schema: Any, keep_limits: bool) -> Any:
    """The schema with every object closed and all its fields required, in the same order."""
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for word, value in schema.items():
        if word == "properties":
            made[word] = {name: _closed(inner, keep_limits) for name, inner in value.items()}
        elif keep_limits or word not in ("minimum", "maximum", "minItems", "maxItems"):
            made[word] = _closed(value, keep_limits)
    if made.get("type") == "object":
        made |= {"required": list(made["properties"]), "additionalProperties": False}
    return made


# ------------------------------------------------------------------------------------------------------------- sending


def key_for(key_env: str, base_url: str) -> str:
    """The key; for a server of one's own a placeholder, as the library insists on one. Raises `UserError`.

    What such servers' users set instead (EMPTY, 0) is no secret, and must not be taken out of texts like one.
    """
    value = os.environ.get(key_env, "").strip()
    if base_url and key_env == OPENAI_KEY and len(value) < 8:
        return value or "none"
    return read_key(key_env)


class OpenAIChat:
    """One request, one chat completion."""

    def __init__(
        self,
        *,
        model: str,
        key_env: str = OPENAI_KEY,
        base_url: str = "",
        timeout_seconds: float = 600.0,
        response_format: Literal["json_schema", "json_object", "text"] = "json_schema",
        strict: bool = True,
        token_limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens",
        reasoning_effort: str = "",
        extra_body: Mapping[str, Any] | None = None,
        paid: bool = True,
        image_tokens: int = 765,
    ) -> None:
        """`base_url` up to `/v1`; OpenAI's where it is empty. `image_tokens` is a guess, for estimates.

        A server of one's own (`base_url` without OPENAI_API_KEY set) needs no key; say `paid: false` of it.
        """
        if find_spec("openai") is None:  # imported only when it is needed, but missed before any work
            raise ModuleNotFoundError("No module named 'openai'", name="openai")
        if not model:
            raise UserError("openai_chat needs a model, e.g. model: gpt-4o")
        if base_url and not base_url.startswith(("http://", "https://")):
            raise UserError(f"openai_chat: base_url is {base_url!r}; expected http:// or https:// and the path to /v1")
        if not isinstance(extra_body, Mapping | None):
            raise UserError(f"openai_chat: extra_body is {extra_body!r}; expected names and values")
        if timeout_seconds <= 0:
            raise UserError(f"openai_chat: timeout_seconds is {timeout_seconds}; expected more than 0")
        self.model = model
        self.paid = paid
        self.key_env = key_env
        self.base_url = base_url
        self.timeout_seconds = timeout_seconds
        self.dialect = Dialect(
            response_format=response_format,
            strict=strict,
            token_limit_field=token_limit_field,
            reasoning_effort=reasoning_effort,
            extra_body=extra_body or {},
        )
        self.traits = Traits(
            decides=self.dialect.decides(),
            quota_zone="America/Los_Angeles" if "googleapis.com" in base_url else "UTC",
            image_tokens=image_tokens,
            thinking_room=self.dialect.room(),
        )
        self._client: AsyncOpenAI | None = None

    def check(self) -> None:
        """Raise `UserError` where there is no key."""
        key_for(self.key_env, self.base_url)

    async def open(self, workspace: Path) -> None:
        """Make the client; nobody is talked to yet."""
        key = key_for(self.key_env, self.base_url)
        self._client = _client(key, self.base_url or OPENAI, self.timeout_seconds)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def reply(self, request: Request) -> Reply:
        """Ask once. Whatever goes wrong is one of the outcomes."""
        from httpx2 import Response
        from openai import APIConnectionError, APIStatusError

        if self._client is None:
            raise RuntimeError("open() comes before reply()")
        try:
            body = wire_body(request, model=self.model, dialect=self.dialect)
        except UnknownImage as error:
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.IMAGE_UNREADABLE, detail=str(error))
        try:
            # Over the whole call: a service that keeps the line alive with blanks never times out by itself.
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._client.post("/chat/completions", body=body, cast_to=Response)
        except APIStatusError as error:
            reply = reply_of_error(error.status_code, error.response.headers, _json_or_text(error.response))
            return self._with_hint(reply, error.status_code)
        except APIConnectionError as error:
            cause = error.__cause__ or error
            return transient(f"{type(cause).__name__}: {cause}")
        except TimeoutError:
            return transient(f"no answer within {self.timeout_seconds:g} s")
        return reply_of(_json_or_text(response))

    def _with_hint(self, reply: Reply, status: int) -> Reply:
        """What a user can do about a refusal that concerns every request."""
        if reply.outcome is not Outcome.RUN_FATAL or not self.base_url or status not in (401, 403, 404):
            return reply
        hint = f" (at {self.base_url}"
        if status == 404 and not self.base_url.rstrip("/").endswith("/v1"):
            hint += "; most servers want a base_url that ends in /v1"
        elif status in (401, 403) and key_for(self.key_env, self.base_url) == "none":
            hint += f"; no key was sent, as {self.key_env} is not set"
        return replace(reply, detail=f"{reply.detail}{hint})")


def _client(key: str, base_url: str, timeout_seconds: float) -> AsyncOpenAI:
    import httpx2
    from openai import AsyncOpenAI

    from annotate.backends.connections import Connections

    for name in ("openai._base_client", "httpx2", "httpcore2.connection", "httpcore2.http11"):
        logging.getLogger(name).addFilter(_scrubbed)
    timeout = httpx2.Timeout(timeout_seconds, connect=min(30.0, timeout_seconds), pool=None)
    # Idle connections are given up before the server does it (uvicorn, and so vLLM: after 5 s).
    connections = Connections(keepalive_seconds=4.0)
    # Redirects are not followed: a POST would arrive as a GET. The wrong base_url is told instead.
    http = httpx2.AsyncClient(timeout=timeout, transport=connections, follow_redirects=False)
    return AsyncOpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=0, http_client=http)


def _scrubbed(record: logging.LogRecord) -> bool:
    """A filter of the client's loggers: a service may send the key back in a header, which is logged at DEBUG."""
    record.msg, record.args = scrub(record.getMessage()), None
    return True


def _json_or_text(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text
