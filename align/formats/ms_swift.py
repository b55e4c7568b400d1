r"""ms-swift's standard layout: `rejected_response` makes a row a pair, without it it is a row of fine-tuning.

    {"messages": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cat."}],
     "rejected_response": "A dog.", "images": ["cat.jpg"]}

`rejected_messages` (the whole dialogue again), a `rejected_response` of one message, `image` for `images` and images
without a placeholder (ms-swift puts those before the first message) are read too. Pairs whose two sides differ in
their images, tool calls, videos and audios have no place in a record. ms-swift would train the answers of earlier turns
too: they are written with `"loss": false`. Image paths are relative to the folder it is started in (or to its
ROOT_IMAGE_DIR). Its LLaVA template adds a newline after `<image>` to the one that LLaVA's own prompts have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row
from align.formats.messages import (
    TOOL_CALL,
    Spoken,
    Tags,
    example_from,
    images_of,
    last_answer,
    refuse,
    spoken,
    written,
)
from align.formats.parts import agrees_with, answer, pair_from, prompt_from, restored, with_beyond
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Example, Image, PreferencePair

NAME = "ms_swift"
TAGS = Tags(
    role="role",
    content="content",
    roles={"user": "user", "assistant": "assistant", "system": "system"},
    refused={word: TOOL_CALL for word in ("tool_call", "tool_response", "tool")},
)
_KNOWN = ("messages", "rejected_response", "rejected_messages", "rejected_images", "images", "image")
_UNHELD = ("tools", "videos", "audios", "video", "audio", "objects", "label")


def _recognises(row: Row) -> bool:
    messages = row.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, Mapping) and "role" in first and isinstance(first.get("content"), str)


def _read(row: Row, images: Images) -> Sequence[Made]:
    record = _bare(row, images)
    return [with_beyond(record, NAME, row, _plain(record))]


def _bare(row: Row, images: Images) -> PreferencePair | Example:
    """The record of a row, whatever form the row has."""
    refuse(row, _UNHELD)
    if row.get("image") is not None and row.get("images") is not None:
        raise RecordError("image: given beside images; keep one")
    name = "image" if row.get("image") is not None else "images"
    shown = images_of(row.get(name), images, name)
    talk, chosen = last_answer(_placed(spoken(row.get("messages"), TAGS, "messages"), shown), "messages")
    prompt = prompt_from(talk, shown, where="messages")
    rejected = _rejected(row, images, talk, shown)
    if rejected is None:
        return example_from(prompt, chosen, source=NAME)
    return pair_from(prompt, chosen, rejected, rule=NAME, margin=_margin(row.get("margin")))


def _margin(value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RecordError(f"margin: expected a number, got {type(value).__name__}")
    return None if value is None else float(value)


def _placed(talk: list[Spoken], shown: Sequence[Image]) -> list[Spoken]:
    """Images without a placeholder stand before the first message that is not the system's, as in ms-swift."""
    missing = len(shown) - sum(text.count(IMAGE_PLACEHOLDER) for _, text in talk)
    at = 1 if talk[0][0] == "system" and len(talk) > 1 else 0
    if missing <= 0:
        return talk
    role, text = talk[at]
    return [*talk[:at], (role, IMAGE_PLACEHOLDER * missing + text), *talk[at + 1 :]]


def _rejected(row: Row, images: Images, talk: list[Spoken], shown: Sequence[Image]) -> str | None:
    """The rejected answer; None for a row of fine-tuning."""
    response, messages = row.get("rejected_response"), row.get("rejected_messages")
    if response is not None and messages is not None:
        raise RecordError("rejected_messages: given beside rejected_response; keep one")
    own = row.get("rejected_images")
    if own is not None and images_of(own, images, "rejected_images") != tuple(shown):
        raise RecordError("rejected_images: other images than the chosen side's, which a pair does not hold")
    if messages is not None:
        theirs = _placed(spoken(messages, TAGS, "rejected_messages"), shown)
        before, last = last_answer(theirs, "rejected_messages")
        if before != talk:
            raise RecordError("rejected_messages: must say what messages says, up to the answer; else it is no pair")
        return last
    if response is None and own is not None:
        raise RecordError("rejected_images: without rejected_response both answers are the same; nothing is preferred")
    if response is None or isinstance(response, str):
        return None if response is None else answer(response, "rejected_response")
    several = spoken(response, TAGS, "rejected_response")
    if len(several) != 1:
        raise RecordError(f"rejected_response: {len(several)} messages; a pair holds one answer on each side")
    return last_answer(several, "rejected_response")[1]


def _plain(record: PreferencePair | Example) -> dict[str, Any]:
    """The row that the record makes by itself."""
    text, where = (record.completion, "completion") if isinstance(record, Example) else (record.chosen.text, "chosen")
    last = {"role": "assistant", "content": answer(text, where)}
    before = written(record.prompt.turns, TAGS)
    for message in before:
        if message["role"] == "assistant":
            message["loss"] = False
    row: dict[str, Any] = {"messages": [*before, last]}
    if isinstance(record, PreferencePair):
        row["rejected_response"] = answer(record.rejected.text, "rejected")
        if record.margin is not None:  # ms-swift's reward models use it, its DPO does not
            row["margin"] = record.margin
    if record.prompt.images:
        row["images"] = [image.path for image in record.prompt.images]
    return row


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, PreferencePair | Example)
    margin = record.margin if isinstance(record, PreferencePair) else None
    kept = {k: v for k, v in (record.meta.get(NAME) or {}).items() if k != "margin" or v == margin}  # 4 for 4.0
    agrees = agrees_with(record, lambda row, by_path: [_bare(row, by_path)])
    return [restored(_plain(record), kept, known=_KNOWN, agrees=agrees)]


FORMAT = Format(
    name=NAME,
    title="ms-swift messages, DPO (rejected_response) and fine-tuning",
    layout="modelscope/ms-swift 3602360a: docs/source_en/Customization/Custom-dataset.md, "
    "swift/dataset/preprocessor/core.py, swift/template/template_inputs.py",
    kinds=("pairs", "examples"),
    container="jsonl",
    recognises=_recognises,
    read=_read,
    write=_write,
)
