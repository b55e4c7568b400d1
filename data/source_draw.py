"""Which rows are taken, and what is made of them: a draw that does not depend on the order of the files.

Each row gets a number from sha256 over the seed, the source, its id and its turns; the rows with the smallest numbers
are taken, smallest first. So the first 1,000 lines of 3,000 are the 1,000 that `--n 1000` takes, whatever order or
number of files the rows came in, and a row that is added to the source displaces at most one other.

Rows that may still be taken lie in a temporary file, not in memory: a row may carry its image.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any

import msgspec
from PIL import Image as Pillow
from sources import Excluded, Row, Source, made_unique

from align.formats.images import FORMATS, CheckedImage, check_images
from annotate.errors import RecordError, UserError
from annotate.records import IMAGE_PLACEHOLDER, Failure, Image, Prompt, Reason, Turn, replace

_ENCODE = msgspec.msgpack.Encoder()
_DECODE = msgspec.msgpack.Decoder(Row)
_SURROGATE = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
CHUNK = 256
"""So many rows have their images looked at together."""


def number_of_draw(seed: int, source: str, row: Row) -> int:
    """The place of a row in the draw: 8 bytes of a hash, uniform and without memory of the file."""
    what = msgspec.json.encode([seed, source, row.id, row.turns])
    return int.from_bytes(hashlib.sha256(what).digest()[:8], "big")


@dataclass
class Counts:
    """Where every row went. `available` = excluded + malformed + eligible; `eligible` = the rest together."""

    excluded: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    eligible: Counter[str] = field(default_factory=Counter)
    """By type."""
    duplicates: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    """Drawn, but not to be made a prompt: by reason."""
    taken: Counter[str] = field(default_factory=Counter)
    """By type."""
    renamed: int = 0
    """Taken rows whose id another, taken before, already had."""
    failures: list[Failure] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        eligible, taken = self.eligible.total(), self.taken.total()
        return {
            "available": self.excluded.total() + self.malformed.total() + eligible,
            "excluded": dict(sorted(self.excluded.items())),
            "malformed": dict(sorted(self.malformed.items())),
            "eligible": eligible,
            "duplicates": self.duplicates,
            "unusable": dict(sorted(self.unusable.items())),
            "not_drawn": eligible - self.duplicates - self.unusable.total() - taken,
            "taken": taken,
            "ids_made_unique": self.renamed,
        }


class Candidates:
    """The rows with the smallest numbers, at most `capacity` of each group; the rest is forgotten as it comes."""

    def __init__(self, spill: IO[bytes], capacity: int | None, grouped: bool) -> None:
        self._spill, self._capacity, self._grouped = spill, capacity, grouped
        self._heaps: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self._copies: Counter[tuple[str, int]] = Counter()
        """(group, number) of every row kept -> how often it came."""

    def offer(self, number: int, row: Row) -> None:
        group = row.type if self._grouped else ""
        heap = self._heaps[group]
        full = self._capacity is not None and len(heap) >= self._capacity
        if (group, number) in self._copies:
            self._copies[group, number] += 1
        elif not full or number < -heap[0][0]:
            entry = (-number, self._spill.tell(), self._spill.write(_ENCODE.encode(row)))
            self._copies[group, number] = 1
            if full:
                gone = heapq.heappushpop(heap, entry)
                del self._copies[group, -gone[0]]
            else:
                heapq.heappush(heap, entry)

    def in_order(self) -> Iterator[tuple[Row, int]]:
        """Each row and how often it came, smallest number first; groups take turns."""
        groups = [
            [(group, entry) for entry in sorted(heap, reverse=True)] for group, heap in sorted(self._heaps.items())
        ]
        for turn in zip_longest(*groups):
            for group, (number, start, length) in filter(None, turn):
                self._spill.seek(start)
                yield _DECODE.decode(self._spill.read(length)), self._copies[group, -number]


def collect(
    source: Source,
    rows: Iterable[tuple[str, str, Any]],
    candidates: Candidates,
    counts: Counts,
    *,
    types: tuple[str, ...],
    seed: int,
) -> None:
    """Read every (place, type of the part, raw row) and offer what is eligible."""
    for place, part_type, raw in rows:
        try:
            if isinstance(raw, RecordError):
                raise raw
            if not isinstance(raw, dict):
                raise RecordError(f"a row must be an object, this is {type(raw).__name__}")
            made = list(source.read(raw, part_type))
            for row in made:
                _check(row)
        except (RecordError, UnicodeEncodeError) as error:
            why = str(error) if isinstance(error, RecordError) else _SURROGATE
            counts.malformed[why[:120]] += 1
            counts.failures.append(_failure(place, Reason.INVALID_INPUT, why))
            continue
        for row in made:
            if isinstance(row, Excluded):
                counts.excluded[row.reason] += 1
            elif types and row.type not in types:
                counts.excluded[f"type {row.type or 'unknown'} is not asked for"] += 1
            else:
                counts.eligible[row.type] += 1
                candidates.offer(number_of_draw(seed, source.name, row), row)


def _check(row: Row | Excluded) -> None:
    """What would fail only once the images are known is said before the draw, so that it is counted for every row."""
    if isinstance(row, Excluded):
        return
    msgspec.json.encode((row.turns, row.meta))  # as it will be written; raises on half of a surrogate pair
    shown = sum(text.count(IMAGE_PLACEHOLDER) for _, text in row.turns)
    held = len(row.image_files) + len(row.image_bytes)
    if shown != held:
        raise RecordError(f"{shown} {IMAGE_PLACEHOLDER} in the text but {held} image(s)")
    if any(role == "assistant" and IMAGE_PLACEHOLDER in text for role, text in row.turns):
        raise RecordError(f"an answer holds {IMAGE_PLACEHOLDER}")
    images = tuple(Image(path=str(i), sha256="") for i in range(held))
    asked, _, _ = cut(row, "last")
    Prompt.of(_turns(asked, images))


def _failure(place: str, reason: Reason, detail: str) -> Failure:
    return Failure(stage="prepare", record_id=place, reason=reason, detail=detail)


# --------------------------------------------------------------------------------------------------- rows to prompts


def cut(row: Row, turn: str) -> tuple[list[tuple[str, str]], str | None, list[tuple[str, str]]]:
    """A dialogue as (what is asked, the answer to it, what came after): at the first question, or at the last."""
    users = [i for i, (role, _) in enumerate(row.turns) if role == "user"]
    if not users:
        raise RecordError("no turn of a user")
    at = users[0] if turn == "first" else users[-1]
    asked, after = list(row.turns[: at + 1]), list(row.turns[at + 1 :])
    answer = after.pop(0)[1] if after and after[0][0] == "assistant" else None
    return asked, answer, after


def _turns(asked: list[tuple[str, str]], images: tuple[Image, ...]) -> tuple[Turn, ...]:
    rest = iter(images)
    return tuple(
        Turn(role=role, text=text, images=tuple(islice(rest, text.count(IMAGE_PLACEHOLDER))))  # type: ignore[arg-type]
        for role, text in asked
    )


def prompt_of(source: Source, row: Row, turn: str, images: tuple[Image, ...]) -> Prompt:
    """The record of a row whose images are known."""
    asked, answer, after = cut(row, turn)
    meta = {
        **({"type": row.type} if row.type else {}),
        "modality": "image" if images else "text",
        **row.meta,
        **({"later_turns": [[role, text] for role, text in after]} if after else {}),
    }
    return Prompt.of(
        _turns(asked, images),
        source=source.name,
        source_id=row.id,
        reference=(answer or "").strip() or None,
        meta=dict(sorted(meta.items())),
    )


class Store:
    """Where the images of the rows are: files below a root, or bytes that are written below it once all is well."""

    def __init__(self, root: Path | None, *, inside: bool, prefix: str, max_pixels: int) -> None:
        self.root, self._inside, self._prefix, self._max_pixels = root, inside, prefix.strip("/"), max_pixels
        self._incoming: Path | None = None
        self._known: dict[str, CheckedImage] = {}

    def check(self, rows: Iterable[Row]) -> Callable[[Row], tuple[list[str], list[CheckedImage]]]:
        """Look at the images of these rows at once; the answer gives a row's paths and the verdicts on them."""
        for row in rows:
            self._refuse_the_other_kind(row)
        paths = {id(row): [self._path(name) for name in row.image_files] for row in rows}
        if named := {path for some in paths.values() for path in some}:
            self._look(self._root(), named)
        for row in rows:
            paths[id(row)] += [self._keep(data) for data in row.image_bytes]
        if self._incoming:
            self._look(self._incoming, {p for some in paths.values() for p in some if (self._incoming / p).is_file()})
        return lambda row: (paths[id(row)], [self._known[path] for path in paths[id(row)]])

    def _refuse_the_other_kind(self, row: Row) -> None:
        """Images inside rows are never written into a folder that was named as holding the images."""
        if row.image_bytes and not self._inside:
            raise UserError("the rows bring their images: say with --image-dir where to write them, not --image-root")
        if row.image_files and self._inside:
            raise UserError(f"the rows name image files ({row.image_files[0]}): give their folder as --image-root")

    def _root(self) -> Path:
        if self.root is None:
            raise AssertionError("image rows without a root are refused before")
        return self.root

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _look(self, root: Path, paths: set[str]) -> None:
        new = paths - set(self._known)
        if new:
            self._known |= check_images(root, new, max_pixels=self._max_pixels)

    def _keep(self, data: bytes | None) -> str:
        """Put the bytes into a folder of ours, under the name they will have: `3f/3f9a….png`."""
        if data is None:
            self._known["no bytes"] = CheckedImage(fault="the row holds no bytes", reason=Reason.IMAGE_MISSING)
            return "no bytes"
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"{sha256[:2]}/{sha256}.{_suffix(data)}"
        if self._incoming is None:
            self._incoming = self._root() / f".incoming-{os.getpid()}"
            shutil.rmtree(self._incoming, ignore_errors=True)
        file = self._incoming / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return path

    def settle(self, wanted: set[str]) -> int:
        """Move the images of the rows taken to their place; returns how many were new."""
        new = 0
        for path in sorted(wanted) if self._incoming else []:
            assert self._incoming is not None
            here, there = self._incoming / path, self._root() / path
            if here.is_file() and not there.is_file():
                there.parent.mkdir(exist_ok=True)
                here.replace(there)
                new += 1
        self.clear()
        return new

    def clear(self) -> None:
        if self._incoming:
            shutil.rmtree(self._incoming, ignore_errors=True)


def _suffix(data: bytes) -> str:
    try:
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            return {"JPEG": "jpg", "TIFF": "tif"}.get(str(image.format), str(image.format).lower())
    except Exception:  # whatever it is, the check that follows says so
        return "bin"


@dataclass(kw_only=True)
class Taking:
    """The second half: candidates in order, their images looked at, prompts until there are enough."""

    source: Source
    counts: Counts
    store: Store
    n: int | None
    turn: str
    skip: bool
    paths: set[str] = field(default_factory=set)
    tell: Callable[[int], None] = lambda taken: None

    def prompts(self, candidates: Candidates) -> Iterator[Prompt]:
        """The records. Raises `UserError` at the end if rows were unusable and none may be, or too few were left."""
        seen: set[str] = set()
        ids: set[str] = set()
        queue = candidates.in_order()
        while (left := self._left()) and (chunk := list(islice(queue, min(CHUNK, left)))):
            verdict = self.store.check([row for row, _ in chunk])
            for row, copies in chunk:
                self.counts.duplicates += copies - 1
                prompt = self._made(row, *verdict(row))
                if prompt is None:
                    continue
                if prompt.id in seen:  # another id, but the same words and pixels
                    self.counts.duplicates += 1
                    continue
                seen.add(prompt.id)
                if prompt.source_id in ids:  # one id with two contents is refused wherever prompts are read
                    self.counts.renamed += 1
                    prompt = replace(prompt, source_id=made_unique(prompt.source_id, prompt.id))
                ids.add(prompt.source_id)
                self.counts.taken[row.type] += 1
                self.paths.update(image.path for image in prompt.images)
                yield prompt
            self.tell(self.counts.taken.total())
        self._judge()

    def _left(self) -> int:
        """How many more are wanted; unusable ones count as taken where they will be refused anyway."""
        if self.n is None:
            return CHUNK
        done = self.counts.taken.total() + (0 if self.skip else self.counts.unusable.total())
        return self.n - done

    def _made(self, row: Row, paths: list[str], images: list[CheckedImage]) -> Prompt | None:
        for path, image in zip(paths, images, strict=True):
            if image.fault:
                self.counts.unusable[image.reason.value] += 1
                self.counts.failures.append(_failure(row.id, image.reason, f"image {path}: {_worded(image.fault)}"))
                return None
        known = tuple(Image(path=p, sha256=i.sha256) for p, i in zip(paths, images, strict=True))
        asked, _, _ = cut(row, self.turn)
        shown = sum(text.count(IMAGE_PLACEHOLDER) for _, text in asked)
        if shown != len(known):
            self.counts.unusable["image_after_the_question"] += 1
            self.counts.failures.append(_failure(row.id, Reason.INVALID_INPUT, "an image comes after the question"))
            return None
        return prompt_of(self.source, row, self.turn, known)

    def _judge(self) -> None:
        bad = [f"{failure.record_id}: {failure.detail}" for failure in self.counts.failures]
        if bad and not self.skip:
            head = f"{len(bad)} row(s) cannot be used; nothing was written. --invalid skip goes on without them"
            raise UserError(head, *bad)
        taken = self.counts.taken.total()
        why = "; ".join(f"{k} {reason}" for reason, k in self.counts.unusable.items())
        if not taken:
            left = f"none of {self.counts.eligible.total()} eligible rows could be taken"
            excluded = "; ".join(f"{k} {reason}" for reason, k in self.counts.excluded.items())
            advice = f" ({why}); check --image-root" if why else f" ({excluded})" if excluded else ""
            raise UserError(f"{left}{advice}; nothing was written", *bad[:5])
        if self.n is not None and taken < self.n:
            tried = taken + self.counts.unusable.total() + self.counts.duplicates
            advice = (
                f"{tried} were tried, then it was given up; is --image-root the right folder?"
                if tried < self.counts.eligible.total()
                else f"ask for fewer (--n {taken}, or --n all)"
            )
            raise UserError(
                f"only {taken} of {self.n} could be taken: {self.counts.eligible.total()} rows are eligible"
                f"{f', of those tried {why}' if why else ''}, {self.counts.duplicates} duplicates; {advice}",
                *bad[:5],
            )


def _worded(fault: str) -> str:
    """The shared check speaks of a recipe's settings; here they are options of a command."""
    return fault.replace("prompts.image_root", "--image-root").replace("prompts.max_image_pixels", "--max-image-pixels")
