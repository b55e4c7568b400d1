"""The wire of OpenAI's chat completions, and of Gemini's endpoint that is compatible with it.

    POST /v1/chat/completions               Authorization: Bearer KEY
    POST /v1beta/openai/chat/completions    the same, with errors and usage as Gemini writes them

What the strictest services refuse is refused: a field there is not, a message without content, an image that is no data
URL of its true mime type, both limits of tokens, and with `strict` a schema that is not closed, that leaves a field out
of `required`, or that uses a word which strict modes do not know.

A request whose text holds `[[respond:BASE64]]`, the base64 of `{"status": ..., "headers": {...}, "body": ...}`, gets
just that: tests write answers of particular services where they say what is to be made of them. It is not counted.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from loopback.answers import Answer, Received
from loopback.behaviour import Problem
from loopback.service import Refused, Service, read_image

FIELDS = {
    "model",
    "messages",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "stream",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "service_tier",
    "store",
    "metadata",
    "user",
}
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
STRICT_WORDS = {"type", "properties", "required", "additionalProperties", "items", "enum", "description", "title"}
TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}
FINISH = {"stop": "stop", "length": "length", "safety": "content_filter", "unknown": "a_reason_of_tomorrow"}
CODE = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    408: ("timeout", None),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", None),
    504: ("server_error", None),
}


class OpenAI:
    """Chat completions; a wire of batch jobs can use `read_request` and `answer` for each of its lines."""

    path = "/v1/chat/completions"

    def routes(self, service: Service) -> Sequence[web.RouteDef]:
        return [web.post(wire.path, _handler(service, wire)) for wire in (self, _compatible)]

    def key_of(self, request: web.Request) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def read(self, request: web.Request, body: Any) -> Received:
        return read_request(body)

    def usage(self, answer: Answer) -> dict[str, Any]:
        """Thoughts are among the tokens of the completion."""
        written = answer.output_tokens + answer.thought_tokens
        return {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": written,
            "total_tokens": answer.input_tokens + written,
            "completion_tokens_details": {"reasoning_tokens": answer.thought_tokens},
        }

    def answer(self, received: Received, answer: Answer) -> Mapping[str, Any]:
        """`chat.completion`. A prompt that is blocked ends as a filtered answer, a recitation as a refusal."""
        whole = {
            "id": f"chatcmpl-{answer.response_id}",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": f"{received.model}-2025-01-01",
            "usage": self.usage(answer),
        }
        if answer.candidates == 0 and not answer.blocked:
            return {**whole, "choices": []}
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        finish = "content_filter" if answer.blocked else FINISH.get(answer.finish, "stop")
        if answer.finish == "recitation":
            message["refusal"] = "I can't repeat that."
        return {**whole, "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]}

    def error(self, problem: Problem) -> tuple[Mapping[str, str], Any]:
        """The wait stands in the headers, or in words in the message, as OpenAI writes it."""
        kind, code = CODE[problem.status]
        message = problem.message
        if problem.quota == "tokens":
            kind = "tokens"
        if problem.quota == "day":
            message += " Rate limit reached on requests per day (RPD): Limit 1, Used 1, Requested 1."
        if problem.kind == "400_key":
            code = "invalid_api_key"
        headers = {}
        if problem.delay is not None and problem.tell in ("header", "both"):
            headers = {"retry-after": str(math.ceil(problem.delay)), "retry-after-ms": f"{problem.delay * 1000:.3f}"}
        if problem.delay is not None and problem.tell in ("body", "both"):
            message += f" Please try again in {problem.delay:.3f}s."
        return headers, {"error": {"message": message, "type": kind, "param": None, "code": code}}


class GeminiCompatible(OpenAI):
    """Google's errors are those of its own interface, in a list; thoughts are counted in the total alone."""

    path = "/v1beta/openai/chat/completions"

    def usage(self, answer: Answer) -> dict[str, Any]:
        return {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.input_tokens + answer.output_tokens + answer.thought_tokens,
        }

    def error(self, problem: Problem) -> tuple[Mapping[str, str], Any]:
        from loopback.gemini import WIRE

        headers, body = WIRE.error(problem)
        return headers, [body]


WIRE = OpenAI()
_compatible = GeminiCompatible()


def _handler(service: Service, wire: OpenAI) -> Any:
    async def call(request: web.Request) -> web.StreamResponse:
        if found := re.search(rb"\[\[respond:([A-Za-z0-9+/=]+)\]\]", await request.read()):
            wanted = json.loads(base64.b64decode(found[1]))
            headers = {"Content-Type": "application/json", **wanted.get("headers", {})}
            return web.Response(text=json.dumps(wanted["body"]), status=wanted["status"], headers=headers)
        return await service.generate(request, wire)

    return call


# ------------------------------------------------------------------------------------------------------------ reading


def read_request(body: Any) -> Received:
    """`CreateChatCompletionRequest` -> `Received`. Raises `Refused`."""
    if not isinstance(body, dict):
        raise Refused("We could not parse the JSON body of your request.")
    for name in body:
        if name not in FIELDS:
            raise Refused(f"Unrecognized request argument supplied: {name}")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Refused("you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("Invalid 'messages': empty array. Expected an array with minimum length 1.")
    system: list[str] = []
    texts: list[str] = []
    images: list[str] = []
    for i, message in enumerate(messages):
        _read_message(message, f"messages[{i}]", system, texts, images)
    if messages[-1]["role"] != "user":
        raise Refused("Invalid 'messages': the last message must be of the user.")
    schema, json_only = _response_format(body.get("response_format", {"type": "text"}), "".join(system + texts))
    return Received(
        model=body["model"],
        system="".join(system),
        text="".join(texts),
        images=tuple(images),
        schema=schema,
        json_only=json_only,
        max_output_tokens=_check_numbers(body),
    )


def _read_message(message: Any, where: str, system: list[str], texts: list[str], images: list[str]) -> None:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise Refused(f"Invalid {where!r}: expected role and content.")
    role, content = message["role"], message["content"]
    if role not in ("system", "developer", "user", "assistant"):
        raise Refused(f"Invalid '{where}.role': {role!r}.")
    into = system if role in ("system", "developer") else texts
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts:
        raise Refused(f"Invalid type for '{where}.content': expected a string or an array of objects, not empty.")
    for i, part in enumerate(parts):
        at = f"{where}.content[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url") or set(part) != {"type", kind}:
            raise Refused(f"Invalid {at!r}: expected type and text, or type and image_url.")
        if kind == "text":
            if not isinstance(part["text"], str) or not part["text"]:
                raise Refused(f"Invalid '{at}.text': expected a string, not empty.")
            into.append(part["text"])
        elif role != "user":
            raise Refused(f"Invalid {at!r}: image URLs are only allowed for messages with role 'user'.")
        else:
            images.append(_read_image(part["image_url"], at))


def _read_image(raw: Any, where: str) -> str:
    if not isinstance(raw, dict) or not {"url"} <= set(raw) <= {"url", "detail"}:
        raise Refused(f"Invalid '{where}.image_url': expected an object with a url.")
    found = re.fullmatch(r"data:([^;,]*);base64,(.*)", str(raw["url"]), re.S)
    if found is None:
        raise Refused(f"Invalid '{where}.image_url.url': expected a base64-encoded data URL with an image MIME type.")
    mime, data = found.groups()
    if mime not in IMAGES:
        raise Refused(f"Invalid MIME type {mime!r}. Only image types are supported: {', '.join(IMAGES)}.")
    try:
        image = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise Refused(f"Invalid base64 image_url at {where}.") from None
    return read_image(image, mime)


def _response_format(raw: Any, text: str) -> tuple[Mapping[str, Any] | None, bool]:
    """The schema, and whether the reply is to be JSON alone."""
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind not in ("text", "json_object", "json_schema") or (kind != "json_schema" and set(raw) != {"type"}):
        raise Refused("Invalid 'response_format'.")
    if kind == "json_object" and "json" not in text.lower():
        raise Refused("'messages' must contain the word 'json' in some form, to use response_format json_object.")
    if kind != "json_schema":
        return None, kind == "json_object"
    wrapped = raw.get("json_schema")
    if not isinstance(wrapped, dict) or not set(wrapped) <= {"name", "schema", "strict", "description"}:
        raise Refused("Missing required parameter: 'response_format.json_schema'.")
    if not re.fullmatch("[a-zA-Z0-9_-]{1,64}", str(wrapped.get("name", ""))):
        raise Refused("Invalid 'response_format.json_schema.name'.")
    schema = wrapped.get("schema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Refused("Invalid schema for response_format: schema must be a JSON Schema of 'type: \"object\"'.")
    if wrapped.get("strict"):
        _check_strict(schema, ())
    return schema, True


def _check_strict(schema: Any, context: tuple[str, ...]) -> None:
    """What strict modes demand of a schema, and no word that one of them refuses."""
    where = f"Invalid schema for response_format: In context={context}, "
    if not isinstance(schema, dict) or schema.get("type") not in TYPES:
        raise Refused(f"{where}schema must have a 'type' key.")
    if unknown := sorted(set(schema) - STRICT_WORDS):
        raise Refused(f"{where}'{unknown[0]}' is not permitted.")
    if "enum" in schema and not all(isinstance(value, str) for value in schema["enum"]):
        raise Refused(f"{where}'enum' may only hold strings.")
    if schema["type"] == "object":
        if schema.get("additionalProperties") is not False:
            raise Refused(f"{where}'additionalProperties' is required to be supplied and to be false.")
        properties = schema.get("properties", {})
        if sorted(schema.get("required", [])) != sorted(properties):
            raise Refused(f"{where}'required' is required to be supplied and to include every key in properties.")
        for name, inner in properties.items():
            _check_strict(inner, (*context, "properties", name))
    if schema["type"] == "array":
        _check_strict(schema.get("items"), (*context, "items"))


def _check_numbers(body: Mapping[str, Any]) -> int | None:
    """The limit of the reply, where there is one."""
    if {"max_tokens", "max_completion_tokens"} <= set(body):
        raise Refused("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    for name, low, high, kind in (
        ("temperature", 0, 2, (int, float)),
        ("top_p", 0, 1, (int, float)),
        ("max_tokens", 1, 65536, int),
        ("max_completion_tokens", 1, 65536, int),
        ("n", 1, 1, int),
        ("seed", -(2**63), 2**63 - 1, int),
    ):
        value = body.get(name, low)
        if not isinstance(value, kind) or not low <= value <= high:
            raise Refused(f"Invalid {name!r}: {value!r} is not in the range from {low} to {high}.")
    if body.get("stream"):
        raise Refused("loopback: this service does not stream.")
    if body.get("reasoning_effort", "low") not in ("none", "minimal", "low", "medium", "high"):
        raise Refused("Invalid 'reasoning_effort'.")
    limit: int | None = body.get("max_completion_tokens", body.get("max_tokens"))
    return limit
