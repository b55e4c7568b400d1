"""What Gemini is sent and what its answers mean, for `gemini`, `gemini_legacy` and `gemini_batch`. No client here.

    sent = wire_request(request, options)       # sent.rest() is the JSON body of `generateContent`
    reply = reply_of(body)                      # body: JSON of `GenerateContentResponse`
    reply = reply_of_status(429, details, ...)  # an error: `google.rpc.Status`

Every answer and every error ends as one of the six outcomes:

    OK            text, and the model came to its end (STOP, or a reason not known here: the parser judges the text)
    RATE_MINUTE   429; `retry_after` from RetryInfo in the body, else from the header Retry-After, else None
    QUOTA_DAY     429 with a quotaId "...PerDay..."; what such a reply says of seconds is not believed
    TRANSIENT     408, 409, 425, 499, 5xx, a body that is no answer, no candidates at all, a candidate without text
    ROW_FATAL     SAFETY, RECITATION and their like, a blocked prompt, other 4xx (`blocked`); MAX_TOKENS (`cut_off`);
                  more input than the model takes (`too_long`); an image of no kind it takes (`image_unreadable`)
    RUN_FATAL     401, 402, 403, 404, an API key that is not valid, a country or account that is not served

A reply without candidates and without a reason is TRANSIENT because the service is known to give such replies and then
to answer when asked again; it is asked a bounded number of times.

Usage counts are disjoint: `output_tokens` (the text) does not include `thought_tokens`; both are billed as output.
"""

from __future__ import annotations

import base64
import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from annotate.errors import UserError
from annotate.keys import scrub
from annotate.protocol import Message, Outcome, Reply, Request
from annotate.records import Reason

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
QUOTA_ZONE = "America/Los_Angeles"
IMAGE_TOKENS = 258
THINKING_ROOM = 8192
"""Tokens on top of the reply's limit where the model itself decides how much to think: thoughts count against the limit
that is sent, and would leave no room for the reply."""

Safety = Literal["off", "block_none", "default"]


# ------------------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the reply besides the request. Raises `UserError` for what makes no sense."""

    model: str
    thinking_budget: int | None = None
    """Tokens of thought; 0 none, -1 as the model likes, None: say nothing."""
    thinking_level: str | None = None
    """minimal, low, medium, high: the word for newer models."""
    safety: Safety = "off"
    """off: no filter; block_none: the same for models that do not know OFF; default: the service's own."""
    seed: int | None = None
    json: bool = True
    """The reply is JSON by the request's schema; False: free text that ends with it, as the prompt asks."""

    def __post_init__(self) -> None:
        faults = []
        if not self.model:
            faults.append("this annotator needs a model, e.g. gemini-2.5-pro")
        if self.thinking_budget is not None and self.thinking_level is not None:
            faults.append("thinking_budget and thinking_level exclude each other; give one")
        if self.thinking_budget is not None and self.thinking_budget < -1:
            faults.append(
                f"thinking_budget: {self.thinking_budget} makes no sense; -1 is as the model likes, 0 is none"
            )
        if self.thinking_level not in (None, "minimal", "low", "medium", "high"):
            faults.append(f"thinking_level: {self.thinking_level!r} is none of minimal, low, medium, high")
        if self.safety not in ("off", "block_none", "default"):
            faults.append(f"safety: {self.safety!r} is none of off, block_none, default")
        if faults:
            raise UserError(*faults)

    def decides(self) -> dict[str, Any]:
        """For `Traits.decides`: what is set, so that nothing is bought anew because an option came to be."""
        thinking = {"thinking_budget": self.thinking_budget, "thinking_level": self.thinking_level, "seed": self.seed}
        return {"safety": self.safety, "json": self.json, **{n: v for n, v in thinking.items() if v is not None}}

    def room(self) -> int:
        """Tokens that thoughts may take, on top of the reply's limit."""
        if self.thinking_budget is not None and self.thinking_budget >= 0:
            return self.thinking_budget
        thinks = not re.match(r"(models/)?gemini-(1|2\.0)", self.model)
        return THINKING_ROOM if thinks else 0


# ---------------------------------------------------------------------------------------------------------------- sent


@dataclass(frozen=True, kw_only=True)
class WireRequest:
    """A request as the service takes it; names in snake_case, image bytes as they are."""

    contents: Sequence[Mapping[str, Any]]
    """[{"role": "user", "parts": [{"text": "..."}, {"inline_data": {"mime_type": "image/png", "data": b"..."}}]}]"""
    system: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)
    safety: Sequence[Mapping[str, str]] = ()

    def rest(self) -> dict[str, Any]:
        """The JSON body of `generateContent`, as in a line of a batch file."""
        contents = [{"role": c["role"], "parts": [_rest_part(part) for part in c["parts"]]} for c in self.contents]
        body: dict[str, Any] = {"contents": contents}
        if self.system:
            body["systemInstruction"] = {"parts": [{"text": self.system}]}
        if self.generation:
            body["generationConfig"] = {_camel(n): v for n, v in self.generation.items()}
            if thinking := self.generation.get("thinking_config"):
                body["generationConfig"]["thinkingConfig"] = {_camel(n): v for n, v in thinking.items()}
        if self.safety:
            body["safetySettings"] = list(self.safety)
        return body


class ImageRefused(Exception):
    """The service does not take images of this kind."""


def wire_request(request: Request, options: Options) -> WireRequest:
    """Texts and images in their places; the schema as it is, its order spelled out. Raises `ImageRefused`."""
    system = "\n\n".join(p.text for m in request.messages if m.role == "system" for p in m.parts if p.text)
    contents = [
        {"role": "model" if m.role == "assistant" else "user", "parts": list(_parts(m, request.images))}
        for m in request.messages
        if m.role != "system"
    ]
    threshold = {"off": "OFF", "block_none": "BLOCK_NONE"}.get(options.safety)
    names = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
    safety = [{"category": f"HARM_CATEGORY_{n}", "threshold": threshold} for n in names] if threshold else []
    return WireRequest(contents=contents, system=system, generation=_generation(request, options), safety=safety)


def _parts(message: Message, images: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Texts that follow one another are one part: it says the same, and the client's work is by the part."""
    for kind, parts in groupby(message.parts, key=lambda part: part.kind):
        if kind == "image":
            for part in parts:
                data = images[part.image]
                yield {"inline_data": {"mime_type": mime_type(data, part.image), "data": data}}
        elif text := "".join(part.text for part in parts):  # an empty part is refused
            yield {"text": text}


def mime_type(data: bytes, index: int = 0) -> str:
    """The type of an image by its first bytes. Raises `ImageRefused` for one that the service does not take."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"heic", b"heix", b"hevc"):
            return "image/heic"
        if data[8:12] in (b"mif1", b"msf1"):
            return "image/heif"
    raise ImageRefused(f"image {index + 1} is none of PNG, JPEG, WebP, HEIC, HEIF; Gemini takes no other")


def _generation(request: Request, options: Options) -> dict[str, Any]:
    decoding = request.decoding
    config: dict[str, Any] = {n: decoding[n] for n in ("temperature", "top_p") if decoding.get(n) is not None}
    if (limit := decoding.get("max_output_tokens")) is not None:
        config["max_output_tokens"] = limit + options.room()
    seed = decoding.get("seed", options.seed)
    if seed is not None:
        config["seed"] = seed
    if options.thinking_budget is not None:
        config["thinking_config"] = {"thinking_budget": options.thinking_budget}
    if options.thinking_level is not None:
        config["thinking_config"] = {"thinking_level": options.thinking_level.upper()}
    if request.schema is not None and options.json:
        config["response_mime_type"] = "application/json"
        config["response_json_schema"] = ordered(request.schema)
    return config


def ordered(schema: Any) -> Any:
    """The schema with the order of each object's properties spelled out: some models sort them otherwise."""
    if isinstance(schema, Mapping):
        inner = {name: ordered(value) for name, value in schema.items()}
        if isinstance(schema.get("properties"), Mapping):
            inner["propertyOrdering"] = list(schema["properties"])
        return inner
    return [ordered(item) for item in schema] if isinstance(schema, list | tuple) else schema


def _rest_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if "text" in part:
        return {"text": part["text"]}
    image = part["inline_data"]
    return {"inlineData": {"mimeType": image["mime_type"], "data": base64.b64encode(image["data"]).decode()}}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda m: m[1].upper(), name)


# ------------------------------------------------------------------------------------------------------------- answers

_REFUSED = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "ESCALATION",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "MODEL_ARMOR",
}


def reply_of(body: Any) -> Reply:
    """What a body that came with status 200 means; camelCase, enums as names (numbers where a name is not known)."""
    if not isinstance(body, Mapping):
        return transient("the body is no JSON object")
    candidates = _list(body.get("candidates"))
    told: dict[str, Any] = {
        "usage": _usage(_object(body.get("usageMetadata"))),
        "model_version": str(body.get("modelVersion") or ""),
        "response_id": str(body.get("responseId") or ""),
    }
    if not candidates:
        if blocked := _object(body.get("promptFeedback")).get("blockReason"):
            told["finish"] = str(blocked)
            return Reply(outcome=Outcome.ROW_FATAL, detail=f"the prompt was blocked: {blocked}", **told)
        return Reply(outcome=Outcome.TRANSIENT, detail="no candidates, and no reason given", **told)
    candidate = _object(candidates[0])
    parts = [_object(part) for part in _list(_object(candidate.get("content")).get("parts"))]
    text = "".join(str(part.get("text") or "") for part in parts if not part.get("thought"))
    finish = str(candidate.get("finishReason") or "")
    told["finish"] = finish
    if finish == "MAX_TOKENS":
        thoughts = told["usage"].get("thought_tokens", 0)
        detail = f"MAX_TOKENS after {told['usage'].get('output_tokens', 0)} tokens of text and {thoughts} of thoughts"
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.CUT_OFF, text=text, detail=detail, **told)
    if finish in _REFUSED:
        said = scrub(str(candidate.get("finishMessage") or ""))[:300]
        return Reply(outcome=Outcome.ROW_FATAL, detail=f"the reply was blocked: {finish} {said}".strip(), **told)
    if finish == "PUP_LIMITED_DISABLED":
        return Reply(outcome=Outcome.RUN_FATAL, detail=f"the account is limited or disabled: {finish}", **told)
    if not text.strip():
        return Reply(outcome=Outcome.TRANSIENT, detail=f"the reply is empty ({finish or 'no reason'})", **told)
    return Reply(outcome=Outcome.OK, text=text, **told)


def _usage(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The three counts; thoughts that are not told are what the total has beyond prompt and candidates."""
    counts = {n: v for n, v in metadata.items() if isinstance(v, int)}
    if not counts:
        return {}
    read = counts.get("promptTokenCount", 0) + counts.get("toolUsePromptTokenCount", 0)
    written = counts.get("candidatesTokenCount", 0)
    beyond = max(0, counts.get("totalTokenCount", 0) - read - written)
    thoughts = counts.get("thoughtsTokenCount", beyond)
    return {"input_tokens": read, "output_tokens": written, "thought_tokens": thoughts}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


# -------------------------------------------------------------------------------------------------------------- errors


def reply_of_status(
    code: int, *, message: str = "", status: str = "", details: Any = (), headers: Mapping[str, str] | None = None
) -> Reply:
    """What an error means. `details` are those of `google.rpc.Status`; `message` may be a page of HTML."""
    found = [_object(detail) for detail in _list(details)]
    detail = scrub(f"{code} {status} {' '.join(message.split())}".replace("  ", " "))[:300]
    if code == 429:
        if _per_day(found):
            return Reply(outcome=Outcome.QUOTA_DAY, detail=detail)
        delay = _retry_info(found)
        if delay is None:
            delay = retry_after((headers or {}).get("retry-after", ""))
        return Reply(outcome=Outcome.RATE_MINUTE, retry_after=delay, detail=detail)
    key_refused = any(str(d.get("reason", "")).startswith("API_KEY_") for d in found) or "API key not valid" in message
    if code in (401, 402, 403, 404) or (code == 400 and (key_refused or status == "FAILED_PRECONDITION")):
        return Reply(outcome=Outcome.RUN_FATAL, detail=detail)
    if code >= 500 or code in (408, 409, 425, 499) or not 400 <= code:
        return Reply(outcome=Outcome.TRANSIENT, detail=detail)
    too_long = code == 413 or re.search(r"token count.*exceed", message)
    return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.TOO_LONG if too_long else Reason.BLOCKED, detail=detail)


def transient(detail: str) -> Reply:
    return Reply(outcome=Outcome.TRANSIENT, detail=scrub(" ".join(detail.split()))[:300])


def refused(error: ImageRefused) -> Reply:
    return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.IMAGE_UNREADABLE, detail=str(error))


def _per_day(details: Sequence[Mapping[str, Any]]) -> bool:
    violations = [_object(v) for d in details for v in _list(d.get("violations"))]
    named = [str(v.get(name, "")) for v in violations for name in ("quotaId", "quotaMetric")]
    return any("perday" in name.replace("_", "").casefold() for name in named)


def _retry_info(details: Sequence[Mapping[str, Any]]) -> float | None:
    for detail in details:
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", ""))):
            return float(match[1])
    return None


def retry_after(value: str) -> float | None:
    """Seconds from a Retry-After header: a number, or a date."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
