"""The wire of Gemini's `generateContent`, as google-genai, google-generativeai (REST) and plain HTTP speak it.

    POST /v1beta/models/gemini-2.5-pro:generateContent      x-goog-api-key: KEY

Fields come in camelCase or snake_case, enums as names or numbers, as in JSON of protocol buffers. What the real service
refuses is refused: a field there is not, a content without parts, image bytes that are no image, a schema without
`responseMimeType: application/json`, both kinds of schema, both a budget and a level of thinking.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web

from loopback.answers import Answer, Received
from loopback.behaviour import Problem
from loopback.service import Refused, Service, read_image

TOP = {
    "model",
    "contents",
    "systemInstruction",
    "generationConfig",
    "safetySettings",
    "tools",
    "toolConfig",
    "cachedContent",
    "serviceTier",
}
GENERATION = {
    "stopSequences",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "candidateCount",
    "maxOutputTokens",
    "temperature",
    "topP",
    "topK",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseLogprobs",
    "logprobs",
    "thinkingConfig",
    "mediaResolution",
}
THINKING = {"includeThoughts", "thinkingBudget", "thinkingLevel"}
IMAGES = {"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"}
MIME_TYPES = {"text/plain", "application/json", "text/x.enum"}
CATEGORIES = {
    f"HARM_CATEGORY_{name}": number
    for name, number in {
        "HARASSMENT": 7,
        "HATE_SPEECH": 8,
        "SEXUALLY_EXPLICIT": 9,
        "DANGEROUS_CONTENT": 10,
        "CIVIC_INTEGRITY": 11,
    }.items()
}
THRESHOLDS = {"BLOCK_LOW_AND_ABOVE": 1, "BLOCK_MEDIUM_AND_ABOVE": 2, "BLOCK_ONLY_HIGH": 3, "BLOCK_NONE": 4, "OFF": 5}
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "CANCELLED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
FINISH = {
    "stop": ("STOP", 1),
    "length": ("MAX_TOKENS", 2),
    "safety": ("SAFETY", 3),
    "recitation": ("RECITATION", 4),
    "unknown": ("A_REASON_OF_TOMORROW", 77),
}
QUOTA_ID = {
    "minute": "GenerateRequestsPerMinutePerProjectPerModel",
    "tokens": "GenerateContentInputTokensPerModelPerMinute",
    "day": "GenerateRequestsPerDayPerProjectPerModel",
}


class Gemini:
    """`generateContent`; a wire of batch jobs can use `read_request` and `answer` for each of its lines."""

    def routes(self, service: Service) -> Sequence[web.RouteDef]:
        async def call(request: web.Request) -> web.StreamResponse:
            return await service.generate(request, self)

        return [web.post("/{version:v1|v1beta}/models/{model}:generateContent", call)]

    def key_of(self, request: web.Request) -> str:
        return request.headers.get("x-goog-api-key") or request.query.get("key", "")

    def read(self, request: web.Request, body: Any) -> Received:
        enums_as_numbers = "enum-encoding=int" in request.query.get("$alt", "")
        return read_request(request.match_info["model"], body, {"enums_as_numbers": enums_as_numbers})

    def answer(self, received: Received, answer: Answer) -> Mapping[str, Any]:
        """`GenerateContentResponse`."""
        which = 1 if received.notes.get("enums_as_numbers") else 0
        usage = {"promptTokenCount": answer.input_tokens, "totalTokenCount": answer.input_tokens}
        details = [{"modality": ("TEXT", 1)[which], "tokenCount": answer.text_tokens}]
        if image_tokens := answer.input_tokens - answer.text_tokens:
            details.append({"modality": ("IMAGE", 2)[which], "tokenCount": image_tokens})
        whole: dict[str, Any] = {"usageMetadata": {**usage, "promptTokensDetails": details}}
        if answer.blocked:
            return {**whole, "promptFeedback": {"blockReason": ("PROHIBITED_CONTENT", 4)[which]}}
        if answer.candidates == 0:
            return whole
        whole["usageMetadata"] |= {
            "candidatesTokenCount": answer.output_tokens,
            "totalTokenCount": answer.input_tokens + answer.output_tokens + answer.thought_tokens,
            **({"thoughtsTokenCount": answer.thought_tokens} if answer.thought_tokens else {}),
        }
        candidate: dict[str, Any] = {"finishReason": FINISH[answer.finish][which], "index": 0}
        if answer.text is not None:
            candidate["content"] = {"parts": [{"text": answer.text}], "role": "model"}
        elif answer.finish == "length":
            candidate["content"] = {"role": "model"}
        whole |= {"candidates": [candidate], "modelVersion": f"{received.model}-001", "responseId": answer.response_id}
        return whole

    def error(self, problem: Problem) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """`google.rpc.Status`, with QuotaFailure, RetryInfo and ErrorInfo where they belong."""
        details: list[dict[str, Any]] = []
        headers = {}
        if problem.quota:
            metric = "generativelanguage.googleapis.com/generate_content_requests"
            violation = {"quotaMetric": metric, "quotaId": QUOTA_ID[problem.quota], "quotaValue": "1"}
            details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
        if problem.delay is not None and problem.tell in ("body", "both"):
            seconds = f"{problem.delay:.9f}".rstrip("0").rstrip(".")
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"})
        if problem.delay is not None and problem.tell in ("header", "both"):
            headers["Retry-After"] = str(math.ceil(problem.delay))
        if problem.kind == "400_key":
            info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info})
        error = {"code": problem.status, "message": problem.message, "status": STATUS[problem.status]}
        return headers, {"error": {**error, **({"details": details} if details else {})}}


WIRE = Gemini()


# ------------------------------------------------------------------------------------------------------------ reading


def read_request(model: str, body: Any, notes: Mapping[str, Any] | None = None) -> Received:
    """`GenerateContentRequest` -> `Received`. Raises `Refused`."""
    body = _message(body, TOP, "the request")
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Refused("* GenerateContentRequest.contents: contents is not specified")
    texts: list[str] = []
    images: list[str] = []
    for i, raw in enumerate(contents):
        content = _message(raw, {"role", "parts"}, f"contents[{i}]")
        if content.get("role", "user") not in ("user", "model"):
            raise Refused("Please use a valid role: user, model.")
        _read_parts(content, f"contents[{i}]", texts, images)
    if contents[-1].get("role", "user") != "user":
        raise Refused("Please ensure that the last turn is of the user.")
    system: list[str] = []
    if "systemInstruction" in body:
        instruction = _message(body["systemInstruction"], {"role", "parts"}, "system_instruction")
        _read_parts(instruction, "system_instruction", system, None)
    _check_safety(body.get("safetySettings", []))
    config = _generation(body.get("generationConfig", {}))
    return Received(
        model=model,
        system="".join(system),
        text="".join(texts),
        images=tuple(images),
        schema=config.get("responseJsonSchema") or config.get("responseSchema"),
        json_only=config.get("responseMimeType") == "application/json",
        max_output_tokens=config.get("maxOutputTokens"),
        notes=notes or {},
    )


def _message(raw: Any, known: Iterable[str], where: str) -> dict[str, Any]:
    """The object with its names in camelCase, none of them unknown."""
    if not isinstance(raw, dict):
        raise Refused(f"Invalid value at {where!r}: expected an object")
    named = {re.sub(r"_([a-z])", lambda m: m[1].upper(), name): value for name, value in raw.items()}
    for name in named:
        if name not in known:
            raise Refused(f"Invalid JSON payload received. Unknown name {name!r} at {where!r}: Cannot find field.")
    return named


def _read_parts(content: Mapping[str, Any], where: str, texts: list[str], images: list[str] | None) -> None:
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise Refused(f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.")
    for i, raw in enumerate(parts):
        part = _message(raw, {"text", "inlineData"}, f"{where}.parts[{i}]")
        if len(part) != 1:
            raise Refused(f"* GenerateContentRequest.{where}.parts[{i}].data: required oneof field must have one field")
        if "text" in part:
            if not isinstance(part["text"], str) or not part["text"]:
                raise Refused(f"* {where}.parts[{i}].text: must be text, and not empty")
            texts.append(part["text"])
        elif images is None:
            raise Refused(f"* {where}: only text is allowed here")
        else:
            images.append(_read_image(part["inlineData"], f"{where}.parts[{i}].inline_data"))


def _read_image(raw: Any, where: str) -> str:
    blob = _message(raw, {"mimeType", "data"}, where)
    if blob.get("mimeType") not in IMAGES:
        raise Refused(f"Unsupported MIME type: {blob.get('mimeType')}")
    try:
        text = str(blob.get("data", "")).replace("-", "+").replace("_", "/")
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise Refused(f"Invalid value at {where!r} (TYPE_BYTES), Base64 decoding failed") from None
    return read_image(data, blob["mimeType"])


def _check_safety(settings: Any) -> None:
    for raw in settings:
        setting = _message(raw, {"category", "threshold"}, "safety_settings")
        for name, known in (("category", CATEGORIES), ("threshold", THRESHOLDS)):
            if setting.get(name) not in known and setting.get(name) not in known.values():
                raise Refused(f"Invalid value at 'safety_settings.{name}': {setting.get(name)!r}")


def _generation(raw: Any) -> dict[str, Any]:
    config = _message(raw, GENERATION, "generation_config")
    thinking = _message(config.get("thinkingConfig", {}), THINKING, "generation_config.thinking_config")
    if {"thinkingBudget", "thinkingLevel"} <= set(thinking):
        raise Refused("You can only set only one of thinking budget and thinking level.")
    if thinking.get("thinkingLevel", "LOW") not in ("MINIMAL", "LOW", "MEDIUM", "HIGH"):
        raise Refused("Invalid value at 'generation_config.thinking_config.thinking_level'")
    schemas = {"responseSchema", "responseJsonSchema"} & set(config)
    if len(schemas) > 1:
        raise Refused("* GenerateContentRequest.generation_config: only one kind of response schema may be set")
    if config.get("responseMimeType", "text/plain") not in MIME_TYPES:
        raise Refused(f"* generation_config.response_mime_type: allowed are {', '.join(sorted(MIME_TYPES))}")
    if schemas and config.get("responseMimeType") != "application/json":
        raise Refused("Function calling config or response schema needs response_mime_type: 'application/json'")
    for name, low, high, kind in (
        ("temperature", 0, 2, (int, float)),
        ("topP", 0, 1, (int, float)),
        ("maxOutputTokens", 1, 65536, int),
        ("candidateCount", 1, 8, int),
        ("seed", -(2**31), 2**31 - 1, int),
    ):
        value = config.get(name, low)
        if not isinstance(value, kind) or not low <= value <= high:
            raise Refused(f"* generation_config.{name}: {value!r} is not in the range from {low} to {high}")
    return config
