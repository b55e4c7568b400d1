r"""TRL's conversational preference and prompt-completion sets, with images; `trl` is parquet, `trl_jsonl` names files.

    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
     "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
     "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}], "images": [<cat.jpg>]}

A prompt-completion row has `completion` in the place of `chosen` and `rejected`. In parquet the images stand in the
rows, and the schema says what they are, so that `load_dataset("parquet", data_files=...)` gives PIL images. Keys beyond
TRL's stand in one column, `mmalign_meta`, as JSON: a parquet file has one schema from its first row on.

Images before the text, as LLaVA has them ("<image>\nWhat is it?"), become image parts before a text part, without the
newline, which chat templates bring themselves; an empty text part in front says that the text is to the letter. Read
are also plain text instead of parts (TRL then shows the images first), `image`, pairs without `prompt` (both sides hold
the whole dialogue), and TRL's standard format, whose texts become one turn each; JSON Lines keep that form, parquet
does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from align.formats.containers import pyarrow_parquet
from align.formats.format import Format, Images, Kind, Made, Row
from align.formats.messages import (
    TOOL_CALL,
    Spoken,
    Tags,
    example_from,
    images_of,
    kind,
    last_answer,
    messages_of,
    role_of,
)
from align.formats.parts import agrees_with, answer, pair_from, prompt_from, restored, with_beyond
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Example, PreferencePair, Turn

NAME = "trl"
BEYOND = "mmalign_meta"
TAGS = Tags(
    role="role",
    content="content",
    roles={"user": "user", "assistant": "assistant", "system": "system"},
    refused={"tool": TOOL_CALL},
)
_KNOWN = ("prompt", "chosen", "rejected", "completion")
_IMAGE = {"type": "image"}


def _recognises(row: Row) -> bool:
    chosen, completion = _first(row.get("chosen")), _first(row.get("completion"))
    return ("role" in chosen and "role" in _first(row.get("rejected"))) or (
        "role" in completion and "role" in _first(row.get("prompt"))
    )


def _first(value: Any) -> Mapping[str, Any]:
    found = value[0] if isinstance(value, list) and value else None
    return found if isinstance(found, Mapping) else {}


# --------------------------------------------------------------------------------------------------------- reading


def _read(row: Row, images: Images) -> Sequence[Made]:
    row = {k: _without_nulls(v) if k in _KNOWN else v for k, v in row.items()}
    text = row.pop(BEYOND, None)
    if text is not None:
        row |= _loaded(text)
    record = _bare(row, images)
    rest = {key: value for key, value in row.items() if key not in ("images", "image")}
    return [with_beyond(record, NAME, rest, _plain(record))]


def _without_nulls(messages: Any) -> Any:
    """Parquet has one form for all parts: an image part comes with `"text": None`, which says nothing."""
    if isinstance(messages, Mapping):
        return {key: _without_nulls(value) for key, value in messages.items() if value is not None}
    return [_without_nulls(each) for each in messages] if isinstance(messages, list) else messages


def _loaded(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError) as error:
        raise RecordError(f"{BEYOND}: not the JSON that mmalign wrote there ({error}); drop the column") from None
    if not isinstance(found, dict):
        raise RecordError(f"{BEYOND}: expected a JSON object, got {kind(found)}; drop the column")
    return found


def _bare(row: Row, images: Images) -> PreferencePair | Example:
    """The record of a row, whatever form the row has."""
    if row.get("image") is not None and row.get("images") is not None:
        raise RecordError("image: given beside images; keep one")
    name = "image" if row.get("image") is not None else "images"
    shown = images_of(row.get(name), images, name)
    if "chosen" not in row and "rejected" not in row:
        prompt = prompt_from(_talk(row.get("prompt"), "prompt", len(shown)), shown, where="prompt")
        return example_from(prompt, _answer(row.get("completion"), "completion"), source=NAME)
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and len(chosen) > 1 and not isinstance(row.get("prompt"), list):
        talk, better = last_answer(_talk(chosen, "chosen", len(shown)), "chosen")
        other, worse = last_answer(_talk(rejected, "rejected", len(shown)), "rejected")
        if talk != other:
            raise RecordError("rejected: must begin as chosen does, up to the answer; else it is no pair")
        return pair_from(prompt_from(talk, shown, where="chosen"), better, worse, rule=NAME)
    prompt = prompt_from(_talk(row.get("prompt"), "prompt", len(shown)), shown, where="prompt")
    return pair_from(prompt, _answer(chosen, "chosen"), _answer(rejected, "rejected"), rule=NAME)


def _talk(value: Any, field: str, n_images: int) -> list[Spoken]:
    """Messages as (role, text with placeholders)."""
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else messages_of(value, field)
    talk: list[Spoken] = []
    for i, message in enumerate(messages):
        where = f"{field}[{i}]"
        role = role_of(message, TAGS, where)
        content = message.get("content")
        if isinstance(content, str):
            # TRL shows the images of plain texts before the first user's
            first = role == "user" and all(role != "user" for role, _ in talk)
            talk.append((role, _shown_first(n_images if first else 0) + _literal(content, f"{where}.content")))
        else:
            talk.append((role, _text_of_parts(content, f"{where}.content")))
    return talk


def _answer(value: Any, field: str) -> str:
    if isinstance(value, str):
        return answer(value, field)
    talk = _talk(value, field, 0)
    if len(talk) != 1:
        raise RecordError(f"{field}: {len(talk)} messages; a record holds one answer")
    return last_answer(talk, field)[1]


def _text_of_parts(parts: Any, field: str) -> str:
    texts: list[str] = []
    for i, part in enumerate(messages_of(parts, field)):
        where = f"{field}[{i}]"
        what = part.get("type") if isinstance(part, Mapping) else None
        if what == "text":
            texts.append(_literal(part.get("text", ""), f"{where}.text"))
        elif what == "image" and part.get("image") is None:
            texts.append(IMAGE_PLACEHOLDER)
        elif what == "image":
            raise RecordError(f"{where}.image: an image inside a part; put it into the column images, in order")
        else:
            raise RecordError(f"{where}.type: {what!r} is neither 'text' nor 'image'; take such rows out")
    n = next((i for i, text in enumerate(texts) if text != IMAGE_PLACEHOLDER), len(texts))
    if n and IMAGE_PLACEHOLDER not in texts[n:]:
        return _shown_first(n) + "".join(texts[n:])
    return "".join(texts)


def _literal(text: Any, field: str) -> str:
    if not isinstance(text, str):
        raise RecordError(f"{field}: expected text, got {kind(text)}")
    if IMAGE_PLACEHOLDER in text:
        raise RecordError(f"{field}: {IMAGE_PLACEHOLDER} as text; TRL marks an image by a part {{'type': 'image'}}")
    return text


def _shown_first(n: int) -> str:
    return (IMAGE_PLACEHOLDER + "\n") * n


# --------------------------------------------------------------------------------------------------------- writing


def _plain(record: PreferencePair | Example) -> dict[str, Any]:
    """The row that the record makes by itself, without its images."""
    prompt = [{"role": turn.role, "content": _parts(turn)} for turn in record.prompt.turns]
    if isinstance(record, Example):
        return {"prompt": prompt, "completion": _reply(record.completion, "completion")}
    chosen, rejected = _reply(record.chosen.text, "chosen"), _reply(record.rejected.text, "rejected")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _reply(text: str, where: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [_text(answer(text, where))]}]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _parts(turn: Turn) -> list[dict[str, Any]]:
    """The inverse of `_text_of_parts`."""
    n = len(turn.images)
    rest = turn.text.removeprefix(_shown_first(n))
    if not n:
        return [_text(turn.text)]
    if IMAGE_PLACEHOLDER not in rest:
        return [*[dict(_IMAGE)] * n, _text(rest)]
    parts: list[dict[str, Any]] = []
    for i, text in enumerate(turn.text.split(IMAGE_PLACEHOLDER)):
        parts += ([dict(_IMAGE)] if i else []) + ([_text(text)] if text or not i else [])
    return parts


def _written(record: Made) -> dict[str, Any]:
    """The row without its images, as it was read where it still says the same."""
    assert isinstance(record, PreferencePair | Example)
    paths = [image.path for image in record.prompt.images]

    def same(row: Row, by_path: Any) -> list[Made]:
        return [_bare({**{k: v for k, v in row.items() if k != "image"}, "images": paths}, by_path)]

    return restored(_plain(record), record.meta.get(NAME), known=_KNOWN, agrees=agrees_with(record, same))


def _write_parquet(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, PreferencePair | Example)
    unknown = {key: value for key, value in _written(record).items() if key not in _KNOWN}
    shown = [{"bytes": images.bytes_of(image), "path": image.path} for image in record.prompt.images]
    beyond = json.dumps(unknown, ensure_ascii=False) if unknown else None
    return [{**_plain(record), "images": shown, BEYOND: beyond}]


def _write_jsonl(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, PreferencePair | Example)
    return [{**_written(record), "images": [image.path for image in record.prompt.images]}]


def _schema(kind: Kind) -> Any:
    """Arrow types, and in the metadata the features that `datasets` reads from there."""
    pyarrow_parquet()
    import pyarrow

    text = pyarrow.string()
    part = pyarrow.struct([("type", text), ("text", text)])
    messages = pyarrow.list_(pyarrow.struct([("role", text), ("content", pyarrow.list_(part))]))
    names = ("prompt", "completion") if kind == "examples" else ("prompt", "chosen", "rejected")
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
    value = {"dtype": "string", "_type": "Value"}
    said = [{"role": value, "content": [{"type": value, "text": value}]}]
    # `Sequence` is what both older and newer releases of `datasets` take for a list
    features: dict[str, Any] = {name: said for name in names}
    features |= {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}, BEYOND: value}
    return pyarrow.schema(
        [*((name, messages) for name in names), ("images", pyarrow.list_(image)), (BEYOND, text)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


_LAYOUT = (
    "huggingface/trl f2cd5771: docs/source/dataset_formats.md, trl/data_utils.py, and trl 1.16.0: "
    "DataCollatorForVisionPreference"
)
_Writer = Callable[[Made, Images], Sequence[dict[str, Any]]]
FORMATS = (
    Format(
        name=NAME,
        title="TRL preference and prompt-completion, parquet with the images in it",
        layout=_LAYOUT,
        kinds=("pairs", "examples"),
        container="parquet",
        recognises=_recognises,
        read=_read,
        write=_write_parquet,
        parquet_schema=_schema,
    ),
    Format(
        name="trl_jsonl",
        title="the same as JSON Lines, images by their paths (read as trl)",
        layout=_LAYOUT,
        kinds=("pairs", "examples"),
        container="jsonl",
        read=_read,
        write=_write_jsonl,
    ),
)
