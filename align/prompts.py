r"""The prompts of a recipe, checked whole before any work.

What comes in is one of two formats (`prompts.format: auto` tells them apart by content):

    records  JSON Lines    {"schema":"prompt/1","id":"91ab…","turns":[{"role":"user","text":"<image>\nIs there a 7?",…
    llava    a JSON list   [{"id":"p1","image":"p1.png","conversations":[{"from":"human","value":"<image>\nIs …?"}]},…

What goes out is a `PromptSet`: every image lies below `image_root`, opens, decodes, is no decompression bomb, and has
the hash its record says. All faults are found before the first is told (`invalid: error`), or bad rows become Failures
(`invalid: skip`). Rows with the same content become one; one id with two contents is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from align.context import PromptSet
from align.formats.images import CheckedImage, check_images
from align.formats.llava import Dialogue, is_dialogue, read_dialogue
from align.formats.store import UNOPENED
from align.settings import Prompts
from annotate.errors import RecordError, UserError
from annotate.records import Failure, Prompt, Reason, canonical_json

_FORMATS = (
    'expected JSONL of prompt records ("schema": "prompt/1") or LLaVA\'s conversation JSON '
    '(id, image, conversations: [{"from": "human", "value": "<image>\\n..."}])'
)


@dataclass(frozen=True)
class _Fault:
    """What is wrong with one row, and where."""

    where: str
    text: str
    reason: Reason = Reason.INVALID_INPUT
    record_id: str = ""

    def as_failure(self) -> Failure:
        # `where` is the file's name and line, so that it reads the same on every machine
        return Failure(stage="prompts", record_id=self.record_id or self.where, reason=self.reason, detail=self.text)


@dataclass(frozen=True)
class _Row:
    """A row that reads, before its images are looked at."""

    where: str
    source_id: str
    image_paths: tuple[str, ...]
    prompt: Callable[[Mapping[str, CheckedImage]], Prompt]


def load_prompts(settings: Prompts) -> PromptSet:
    """Read and check `settings.file`; with `limit`, its first so many rows. Raises `UserError` listing every fault."""
    if settings.limit is not None and settings.limit < 1:
        raise UserError(f"prompts.limit: {settings.limit} leaves no prompt; give at least 1, or leave it out")
    file, root = Path(settings.file), Path(settings.image_root)
    rows: list[_Row | _Fault] = list(_parse(file, settings))
    paths = {path for row in rows if isinstance(row, _Row) for path in row.image_paths}
    if paths and not root.is_dir():
        raise UserError(f"prompts.image_root: {root} is not a folder; image paths are relative to it")
    images = check_images(root, paths, max_pixels=settings.max_image_pixels)
    prompts, faults, duplicates = _assemble(rows, images)
    told = [f"{file.parent / fault.where}: {fault.text}" for fault in faults]
    if told and settings.invalid == "error":
        raise UserError(*told)
    if not prompts:
        raise UserError(f"{file}: no usable prompt in it", *told)
    return PromptSet(
        prompts=tuple(prompts), failures=tuple(f.as_failure() for f in faults), duplicates=duplicates, root=root
    )


def unreadable(key: str, path: Path, error: OSError) -> UserError:
    """What is told of a file that a recipe names and that cannot be read."""
    remedy = "is the path right?"
    if isinstance(error, FileNotFoundError) and path.parts[:2] == ("data", "demo"):
        base = path.parts[2:] in (("language.jsonl",), ("connect.jsonl",), ("tune.jsonl",))
        remedy = f"`make demo-{'base-' * base}data` writes the demo's"
    return UserError(f"{key}: {path} cannot be read ({error.strerror}); {remedy}")


def _assemble(rows: list[_Row | _Fault], images: Mapping[str, CheckedImage]) -> tuple[list[Prompt], list[_Fault], int]:
    """Prompts in the order of the file, faults likewise, and how many rows repeated an earlier one."""
    prompts: dict[str, Prompt] = {}
    first_with: dict[str, tuple[str, str]] = {}
    faults: list[_Fault] = []
    duplicates = 0
    for row in rows:
        made = row if isinstance(row, _Fault) else _make(row, images)
        if isinstance(made, _Fault):
            faults.append(made)
            continue
        where = row.where
        known_id, known_at = first_with.setdefault(made.source_id or made.id, (made.id, where))
        if known_id != made.id:
            text = f"id {made.source_id!r} is already that of another prompt ({known_at}); give every prompt its own id"
            faults.append(_Fault(where, text, record_id=made.source_id))
        elif made.id in prompts:
            duplicates += 1
        else:
            prompts[made.id] = made
    return list(prompts.values()), faults, duplicates


def _make(row: _Row, images: Mapping[str, CheckedImage]) -> Prompt | _Fault:
    for path in row.image_paths:
        image = images[path]
        if image.fault:
            return _Fault(row.where, f"image {path!r}: {image.fault}", image.reason, row.source_id)
    try:
        return row.prompt(images)
    except RecordError as error:
        return _Fault(row.where, str(error), record_id=row.source_id)


# ------------------------------------------------------------------------------------------------- rows of the file


def _parse(file: Path, settings: Prompts) -> Iterator[_Row | _Fault]:
    kind: Literal["auto", "records", "llava"] = settings.format
    for number, (where, value) in enumerate(_values(file)):
        if settings.limit is not None and number >= settings.limit:
            return
        if isinstance(value, _Fault):
            yield value
            continue
        if kind == "auto":
            kind = "llava" if is_dialogue(value) else "records"
        try:
            canonical_json(value).encode("utf-8")
            yield _llava_row(where, value, file) if kind == "llava" else _record_row(where, value)
        except UnicodeEncodeError:
            yield _Fault(where, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
        except RecordError as error:
            known = is_dialogue(value) or (isinstance(value, dict) and "schema" in value)
            yield _Fault(where, f"{error}" if known else f"{error}; {_FORMATS}", record_id=_id_in(value))


def _id_in(value: Any) -> str:
    """The user's own id in a row that does not read, if it is plain to see."""
    given = value.get("source_id") or value.get("id") if isinstance(value, dict) else None
    return str(given) if isinstance(given, str | int) else ""


def _record_row(where: str, value: Any) -> _Row:
    prompt = Prompt.from_json(value)

    def checked(images: Mapping[str, CheckedImage]) -> Prompt:
        for image in prompt.images:
            if image.sha256.startswith(UNOPENED):
                raise RecordError(
                    f"image {image.path!r} was never opened, so the prompt's id does not know it; convert or build "
                    "the file again with --image-root"
                )
            if images[image.path].sha256 != image.sha256:
                raise RecordError(
                    f"image {image.path!r} has sha256 {images[image.path].sha256[:16]}… but the record says "
                    f"{image.sha256[:16]}…; it was changed after the record was written"
                )
        return prompt

    return _Row(where, prompt.source_id, tuple(image.path for image in prompt.images), checked)


def _llava_row(where: str, value: Any, file: Path) -> _Row:
    read = read_dialogue(value)
    dialogue: Dialogue = read if read.source else replace(read, source=file.stem)

    def made(images: Mapping[str, CheckedImage]) -> Prompt:
        return Prompt.of(
            dialogue.turns_with({path: images[path].sha256 for path in dialogue.image_paths}),
            source=dialogue.source,
            source_id=dialogue.source_id,
            reference=dialogue.reference,
            meta=dialogue.meta,
        )

    return _Row(where, dialogue.source_id, dialogue.image_paths, made)


def _values(file: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values of the file, each with its place: the elements of one list, or one a line. Bad lines as faults.

    Not `annotate.jsonl.read_rows`, which stops at the first bad line: here all of them are to be told.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise unreadable("prompts.file", file, error) from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise UserError(f"{file}: empty; {_FORMATS}")
    if data.lstrip().startswith(b"["):
        for i, value in enumerate(_whole_list(file, data), start=1):
            yield f"{file.name} row {i}", value
        return
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            where = f"{file.name}:{number}"
            try:
                yield where, _json(line)
            except ValueError as error:
                yield where, _Fault(where, _why_not_json(error))


def _whole_list(file: Path, data: bytes) -> list[Any]:
    try:
        rows = _json(data)
    except ValueError as error:
        line = data.count(b"\n") + 1
        if isinstance(error, json.JSONDecodeError):
            line = error.lineno
        elif isinstance(error, UnicodeDecodeError):
            line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: {_why_not_json(error)}") from None
    if not rows:
        raise UserError(f"{file}: the list is empty; {_FORMATS}")
    return list(rows)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _why_not_json(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg}, column {error.colno}); is it cut in half?"
    return f"not JSON ({error})"
