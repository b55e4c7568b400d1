r"""What a source of prompts is, and the words its script is written in.

A `Source` describes one public collection: where it lies, under which licence, which files people have of it, and a
function `read` that turns one raw row into `Row`s. Everything else (reading files or the hub, drawing, images, the
manifest, the command line) is shared: `source_files.py`, `source_draw.py`, `source_command.py`. So a new source is one
description and one function; `prepare_alpaca.py` is the shortest example.

A `Row` becomes one line of the output, a prompt record as `annotate/records.py` defines it:

    {"schema":"prompt/1","id":"…","turns":[{"role":"user","text":"<image>\nIs there a teapot?","images":[…]}],
     "source":"lrv","source_id":"2392588-1f2e3d4c5b6a","reference":"There is none.",
     "meta":{"task":"conversation","modality":"image","type":"negative","polarity":"negative"}}

What stands in `meta` is described in `README.md`, section "What the records hold".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER

Raw = Mapping[str, Any]
"""One row as the source has it."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """What `datasets.load_dataset` is called with."""

    id: str
    config: str | None = None
    split: str = "train"
    data_files: str | None = None
    revision: str | None = None
    """The commit whose list of files was looked up, or the branch that is needed; `--revision` says another."""
    images_inside: bool = False
    """Whether the rows bring their images (then `--image-dir`), or name files (then `--image-root`)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a source (or several shards of it), and the same rows on the hub."""

    files: tuple[str, ...]
    """Patterns below the folder; the first that matches anything is read."""
    hub: Hub | None = None
    type: str = ""
    """The type of its rows, where the file is what tells it."""
    required: bool = True


@dataclass(frozen=True)
class Excluded:
    """A sound row that is not asked for: an unanswerable question, a dialogue without an answer."""

    reason: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One dialogue of a source, before it is decided which turn is asked and before its images are looked at."""

    id: str
    """The source's own id, made unique within the source."""
    turns: tuple[tuple[str, str], ...]
    """(role, text) from the first turn to the last, answers included."""
    image_files: tuple[str, ...] = ()
    image_bytes: tuple[bytes | None, ...] = ()
    """Images that lie in the row itself, as in the parquet files of the hub."""
    type: str = ""
    meta: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One public collection."""

    name: str
    title: str
    licence: str
    """As its card or repository states it, with what is uncertain about it."""
    url: str
    subsets: Mapping[str, tuple[Part, ...]]
    """Name -> parts; the first is the default."""
    read: Callable[[Raw, str], Iterable[Row | Excluded]]
    """One raw row and the type of its part -> rows. Raises `RecordError` for a row that is not as it should be."""
    rows: int
    """About how many rows the default subset has, for the progress bar and the overview."""
    modality: Literal["image", "text"]
    n: int | None = None
    """How many are taken if `--n` does not say; None: all."""
    types: tuple[str, ...] = ()
    turn: Literal["first", "last"] = "last"
    images: str = ""
    """Where the image files come from, and what `--image-root` is to name."""
    unpack: Callable[[Path], Iterator[tuple[str, Any]]] | None = None
    """For files that are not one row after the other: yields (place, row)."""
    beside: Callable[[Path], Iterable[Path]] = lambda path: ()
    """Files that `unpack` reads in addition, for the manifest."""
    gather: Callable[[Iterator[tuple[str, Any]]], Iterator[tuple[str, Any]]] | None = None
    """For the hub, where several rows make one: what `unpack` does with the rows of a file."""
    note: str = ""
    """What the reader of `--help` should know."""


# ---------------------------------------------------------------------------------------- reading fields of a raw row


def text_of(raw: Raw, key: str) -> str:
    """A field that must be text and not blank."""
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        if key not in raw:
            raise RecordError(f"field {key!r} is missing")
        raise RecordError(f"field {key!r} is {'empty' if isinstance(value, str) else f'{value!r:.40}, not text'}")
    return value


def optional_text(raw: Raw, key: str) -> str:
    """A field that may be absent, null or blank (then the empty text)."""
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise RecordError(f"field {key!r} is {value!r:.40}, not text")
    return (value or "").strip()


def number_of(raw: Raw, key: str) -> int:
    """A whole number, also when a CSV has it as text."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"-?\d+", str(value).strip()):
        raise RecordError(f"field {key!r} is {value!r:.40}, not a whole number")
    return int(value)


def id_of(raw: Raw, key: str) -> str:
    """An id, which may be text or a number."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RecordError(f"field {key!r} is {value!r:.40}, not an id")
    return str(value)


def list_of(raw: Raw, key: str) -> list[Any]:
    value = raw.get(key)
    if not isinstance(value, list):
        raise RecordError(f"field {key!r} is {value!r:.40}, not a list")
    return value


def texts_of(raw: Raw, key: str) -> list[str]:
    value = list_of(raw, key)
    if not all(isinstance(entry, str) for entry in value):
        raise RecordError(f"field {key!r} holds something other than text")
    return value


def embedded(value: Any, key: str) -> bytes | None:
    """The bytes of an image column of the hub: `{"bytes": …, "path": …}`. None where only a path was kept."""
    if not isinstance(value, Mapping) or not isinstance(value.get("bytes"), bytes | None):
        raise RecordError(f"field {key!r} is {type(value).__name__}, not an image of the hub (bytes, path)")
    return value.get("bytes")


def made_unique(own_id: str, text: str) -> str:
    """An id for a source that gives several rows one id (the image's): the id and 12 digits of the text's hash."""
    return f"{own_id}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


# -------------------------------------------------------------------------------------------------- dialogues, choices

SPEAKERS: Mapping[str, str] = MappingProxyType(
    {
        "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
        "bing": "assistant", "bard": "assistant", "system": "system",
    }
)  # fmt: skip


def spoken(conversation: Any) -> list[tuple[str, str]]:
    """LLaVA's and ShareGPT's `[{"from": "human", "value": "…"}, …]` as (role, text)."""
    if not isinstance(conversation, list) or not conversation:
        raise RecordError("field 'conversations' is not a list of turns")
    turns = []
    for i, turn in enumerate(conversation):
        speaker, said = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise RecordError(f"conversations[{i}].from is {speaker!r:.40}, none of {', '.join(SPEAKERS)}")
        if not isinstance(said, str):
            raise RecordError(f"conversations[{i}].value is not text")
        turns.append((SPEAKERS[speaker], said))
    return turns


def with_image_first(text: str) -> str:
    """The question with one placeholder, on a line before it, wherever the source had it."""
    return f"{IMAGE_PLACEHOLDER}\n{text.replace(IMAGE_PLACEHOLDER, '').strip()}"


def lettered(question: str, choices: list[str], context: str = "") -> str:
    """The question as it is asked: the passage, the question, one choice a line."""
    lines = [*([context, ""] if context else []), question]
    return "\n".join(lines + [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices)])


def multiple_choice(*, id: str, question: str, choices: list[str], index: int, context: str = "", **rest: Any) -> Row:
    """A row of a multiple-choice set; `rest` is more of `Row`, its `meta` added to what every such row has."""
    if not 0 <= index < len(choices):
        raise RecordError(f"the answer is choice {index} of {len(choices)}")
    answer = choices[index].strip()
    if not answer:
        raise RecordError("the right choice is empty")
    asked = lettered(question, choices, context)
    meta = {
        "task": "multiple_choice",
        "question": question,
        **({"context": context} if context else {}),
        "choices": choices,
        "answer": answer,
        "answer_index": index,
        **rest.pop("meta", {}),
    }
    with_image = rest.get("image_files") or rest.get("image_bytes")
    shown = with_image_first(asked) if with_image else asked
    return Row(id=id, turns=(("user", shown), ("assistant", answer)), meta=meta, **rest)
