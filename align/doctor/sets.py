"""Evaluation sets that data is searched for, and the images of both sides.

    load_set("pope", Path("llava_pope_test.jsonl"), Path("val2014"))  ->  [Entry(id="1", texts=("Is there …?",), …), …]

Read are, told apart by the keys of the first row:

    our own benchmark rows      id, suite, prompt, questions                    (align/benchmarks/rows.py)
    POPE                        question_id, image, text[, label]               (RUCAIBox/POPE, haotian-liu/LLaVA)
    a question a row            question, prompt or instruction [, question_id or id, image]    (AlpacaEval, VQA)
    FastChat, MT-Bench          question_id, turns                              (lm-sys/FastChat, question.jsonl)
    everything `align convert` reads, and text files with one question a line (*.txt)

Of a question its user turns are compared, never its right answer: "yes" stands everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.benchmarks.rows import read_row
from align.formats.containers import read_rows
from align.formats.images import check_image, inside
from align.formats.reading import format_of, read_file
from align.formats.store import MAX_PIXELS, UNOPENED
from align.overlap import Entry
from align.prints import ImagePrint, file_name, fingerprint_of, read_print
from annotate.errors import RecordError, UserError
from annotate.records import Annotated, Example, Image, PreferencePair, Prompt

ASKED = ("text", "question", "prompt", "instruction")
"""Fields that hold the question, in rows of no format of `align convert`."""


class Gallery:
    """The images of one file: each is opened once, hashed, and known by its prints; none is kept.

    Without a `root` nothing is opened, and images are known by the sha256 that records say. With one they have the
    identities that `ImageStore` gives them, so that a file of ratings and the pairs made of it are of the same prompts.
    Where `prints` are not wanted, images are checked and hashed as there, which is all that their identity takes.
    """

    def __init__(self, root: Path | None, *, prints: bool = True) -> None:
        self.root, self.prints = root, prints
        self.known: dict[str, ImagePrint | None] = {}
        """Path, or sha256 of embedded bytes -> what it is compared by; None where it cannot be read."""
        self.hashes: dict[str, str] = {}
        """Path -> sha256 where no prints are wanted, empty where it cannot be read."""

    def named(self, path: str) -> Image:
        """An image by its path, as the readers of `align/formats` ask for it; also one that cannot be read."""
        if self.prints:
            found = self._opened(path)
            return Image(path=path, sha256=found.sha256 if found else UNOPENED + path)
        if path not in self.hashes:
            self.hashes[path] = check_image(self.root, path, max_pixels=MAX_PIXELS).sha256 if self.root else ""
        return Image(path=path, sha256=self.hashes[path] or UNOPENED + path)

    def embedded(self, data: bytes, name: str = "") -> Image:
        """An image by its bytes."""
        sha256 = hashlib.sha256(data).hexdigest()
        if self.prints and sha256 not in self.known:
            self.known[sha256] = fingerprint_of(data)
        return Image(path=name or sha256, sha256=sha256)

    def bytes_of(self, image: Image) -> bytes:
        raise RecordError(f"image {image.path!r}: its bytes are not kept")

    def print_of(self, image: Image) -> ImagePrint | None:
        """What an image is compared by: its pixels where they can be read, else the sha256 its record says."""
        if image.sha256 in self.known:
            return self.known[image.sha256]
        found = self._opened(image.path)
        if found is None and not image.sha256.startswith(UNOPENED):
            return ImagePrint(sha256=image.sha256)
        return found

    def _opened(self, path: str) -> ImagePrint | None:
        if self.root is None:
            return None
        if path not in self.known:
            try:
                self.known[path] = read_print(inside(self.root, path))
            except RecordError:
                self.known[path] = None
        return self.known[path]


def entry_of(record: Prompt | Annotated | PreferencePair | Example, gallery: Gallery) -> Entry:
    """A record as it is compared: all its turns but the system's, and all its completions."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    texts = [turn.text for turn in prompt.turns if turn.role != "system"]
    if isinstance(record, Annotated):
        texts += [completion.text for completion in record.completions]
    elif isinstance(record, PreferencePair):
        texts += [record.chosen.text, record.rejected.text]
    elif isinstance(record, Example):
        texts.append(record.completion)
    name = f"{prompt.source_id} ({prompt.id})" if prompt.source_id else prompt.id
    return _entry(name, tuple(texts), prompt.images, gallery)


def load_set(name: str, path: Path, image_root: Path | None) -> list[Entry]:
    """The questions of an evaluation set. Raises `UserError` with what it could be."""
    if image_root is not None and not image_root.is_dir():
        raise UserError(f"--against {name}: {image_root} is not a folder; image paths are relative to it")
    gallery = Gallery(image_root)
    if path.suffix == ".txt":
        return list(_lines(path))
    first = next((placed.value for placed in read_rows(path) if not placed.fault), None)
    read = _reader(first)
    if read is None and _asked_in(first) and not _is_format(path):
        read = _asked
    if read is None:
        try:
            form = format_of(path)
        except UserError:
            keys = ", ".join(map(str, first)) if isinstance(first, Mapping) else "no object"
            raise UserError(
                f"{path}: not an evaluation set that can be read: its first row has {keys:.200}; expected question_id "
                "with text or turns, rows with question, prompt or instruction, a benchmark of ours, any format of "
                "`align convert`, or lines of text in *.txt"
            ) from None
        return [_question(record, gallery) for record in read_file(path, form=form.name, images=gallery)]
    entries = []
    for placed in read_rows(path):
        try:
            if placed.fault or not isinstance(placed.value, Mapping):
                raise RecordError(placed.fault or "expected an object")
            entry = read(placed.value, gallery)
            entries.append(entry if entry.id else replace(entry, id=f"row {placed.number}"))
        except RecordError as error:
            raise UserError(f"{path}:{placed.number}: {error}") from None
    return entries


def _reader(first: Any) -> Any:
    if not isinstance(first, Mapping):
        return None
    if {"suite", "prompt", "questions"} <= first.keys():
        return _bench
    if "question_id" in first:
        return _fastchat if "turns" in first else _asked if "text" in first else None
    return None


def _bench(row: Mapping[str, Any], gallery: Gallery) -> Entry:
    found = read_row(row)
    first = found.questions[0].text  # a follow-up ("Say that again") stands in many dialogues
    return _entry(found.id, (first,), found.prompt.images, gallery)


def _asked(row: Mapping[str, Any], gallery: Gallery) -> Entry:
    key, image = _asked_in(row), row.get("image")
    if not key or not isinstance(image, str | None):
        raise RecordError(f"expected {' or '.join(ASKED)}, and `image` where there is one, to be text")
    name = row.get("question_id", row.get("id", ""))
    return _entry(str(name), (row[key],), (gallery.named(image),) if image else (), gallery)


def _asked_in(row: Any) -> str | None:
    """The field that a row's question stands in."""
    return next((key for key in ASKED if isinstance(row, Mapping) and isinstance(row.get(key), str)), None)


def _is_format(path: Path) -> bool:
    try:
        format_of(path)
    except UserError:
        return False
    return True


def _fastchat(row: Mapping[str, Any], gallery: Gallery) -> Entry:
    turns = row.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise RecordError("expected `turns` to be a list of texts")
    return _entry(str(row.get("question_id")), tuple(turns), (), gallery)


def _lines(path: Path) -> Iterator[Entry]:
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield Entry(id=f"line {number}", texts=(line.strip(),))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as lines of text ({error})") from None


def _question(record: Prompt | Annotated | PreferencePair | Example, gallery: Gallery) -> Entry:
    prompt = record if isinstance(record, Prompt) else record.prompt
    texts = tuple(turn.text for turn in prompt.turns if turn.role == "user")
    return _entry(prompt.source_id or prompt.id, texts, prompt.images, gallery)


def _entry(name: str, texts: tuple[str, ...], images: tuple[Image, ...], gallery: Gallery) -> Entry:
    prints, unopened = [], []
    for image in images:
        found = gallery.print_of(image)
        if found is None:
            unopened.append(file_name(image.path))
        else:
            prints.append(replace(found, name=file_name(image.path)))
    return Entry(id=name, texts=texts, images=tuple(prints), n_images=len(images), unopened=tuple(unopened))
