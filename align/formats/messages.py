r"""Lists of messages, as most tools write a dialogue, and the several ways in which rows name images.

ms-swift         [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "A cat."}]
LLaMA-Factory    [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
here             [("user", "<image>\nWhat is it?"), ("assistant", "A cat.")]
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.formats.format import Images, Row
from align.formats.parts import Role, answer
from annotate.errors import RecordError
from annotate.records import Example, Image, Prompt, Turn

Spoken = tuple[Role, str]
TOOL_CALL = "is the message of a tool call, which records do not hold"


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The words of one tool."""

    role: str
    content: str
    roles: Mapping[str, Role]
    """The tool's word -> ours. Each of ours once: it is also how turns are written."""
    refused: Mapping[str, str]
    """The tool's words for what no record holds, and why."""

    def word(self, role: Role) -> str:
        return next(theirs for theirs, ours in self.roles.items() if ours == role)


def spoken(value: Any, tags: Tags, field: str) -> list[Spoken]:
    """The messages of a list as (role, text). Raises `RecordError` naming message and key."""
    return [
        (role_of(message, tags, f"{field}[{i}]"), said(message.get(tags.content), f"{field}[{i}].{tags.content}"))
        for i, message in enumerate(messages_of(value, field))
    ]


def messages_of(value: Any, field: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise RecordError(f"{field}: expected a list with at least one message, got {kind(value)}")
    return value


def role_of(message: Any, tags: Tags, field: str) -> Role:
    if not isinstance(message, Mapping):
        raise RecordError(f"{field}: expected an object with {tags.role!r} and {tags.content!r}, got {kind(message)}")
    word = message.get(tags.role)
    if isinstance(word, str) and word in tags.refused:
        raise RecordError(f"{field}.{tags.role}: {word!r} {tags.refused[word]}; take such rows out")
    role = tags.roles.get(word) if isinstance(word, str) else None
    if role is None:
        raise RecordError(f"{field}.{tags.role}: {word!r} is none of {', '.join(tags.roles)}")
    return role


def said(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{field}: expected text, got {kind(value)}")
    return value


def kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def last_answer(messages: Sequence[Spoken], field: str) -> tuple[list[Spoken], str]:
    """What was said before, and the assistant's last word."""
    if messages[-1][0] != "assistant":
        raise RecordError(f"{field}: ends with the {messages[-1][0]}; the last message must be the assistant's answer")
    return list(messages[:-1]), answer(messages[-1][1], f"{field}[{len(messages) - 1}]")


def example_from(prompt: Prompt, completion: str, *, source: str) -> Example:
    """A row of fine-tuning made elsewhere: `source` is the format's name."""
    try:
        return Example.of(prompt=prompt, completion=completion, source=source)
    except UnicodeEncodeError:
        raise RecordError("the answer holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None


def written(turns: Sequence[Turn], tags: Tags) -> list[dict[str, Any]]:
    return [{tags.role: tags.word(turn.role), tags.content: turn.text} for turn in turns]


def refuse(row: Row, keys: Sequence[str]) -> None:
    """Raise `RecordError` where a row holds what no record does: tools, videos, ..."""
    for key in keys:
        if row.get(key) not in (None, "", [], {}):
            raise RecordError(f"{key}: records hold text and images only; take such rows out")


def images_of(value: Any, images: Images, field: str) -> tuple[Image, ...]:
    """The images a row names (paths) or holds (data: URIs, `{"bytes": ..., "path": ...}`): one, a list, or none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (image_of(value, images, f"{field}[0]"),)
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(image_of(each, images, f"{field}[{i}]") for i, each in enumerate(several))


def image_of(value: Any, images: Images, field: str) -> Image:
    path = data = value
    if not isinstance(value, str) and isinstance(value, Mapping):
        path, data = value.get("path"), value.get("bytes")
    if isinstance(data, bytes) and data:
        return images.embedded(data, path if isinstance(path, str) else "")
    if not isinstance(path, str) or not path:
        raise RecordError(f"{field}: expected the path of an image, or its bytes, got {kind(value)}")
    if path.startswith("data:"):
        try:
            return images.embedded(base64.b64decode(path.partition(",")[2], validate=True))
        except binascii.Error:
            raise RecordError(f"{field}: a data: URI that is not base64; was it cut?") from None
    if "://" in path:
        raise RecordError(f"{field}: {path!r} is an address; download it and name the file")
    try:
        return images.named(path)
    except RecordError as error:
        raise RecordError(f"{field}: {error}") from None
