r"""Formats with one completion a row, such as HelpSteer: the rows of a prompt brought together, on disk.

    {"prompt": "A?", "response": "a1", ...}          (1, {"prompt": "A?", "response": "a1", ...})
    {"prompt": "B?", "response": "b1", ...}    ->    (3, {"prompt": "A?", "response": "a2", ...})     one group,
    {"prompt": "A?", "response": "a2", ...}          (2, {"prompt": "B?", "response": "b1", ...})     another

Pass 1 (`Partition`) deals the rows into buckets, one file each, by a hash of what rows of a prompt have in common;
pass 2 (`records`) reads one bucket at a time and yields its groups in the order of the hash. So the groups come in an
order that does not depend on that of the rows, each row with its number in the file, and memory holds one bucket.
Both passes can be spread over processes: pass 1 over parts of the file, pass 2 over buckets.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypedDict
from zlib import crc32

import msgspec

from align.formats.containers import Progress, decoded, read_rows
from align.formats.format import Format, Images, Made, Row
from align.scratch import scratch
from annotate.errors import RecordError, UserError

Told = Callable[[int, object], None]
"""Called with the number of a row and what is wrong with it."""
Group = Sequence[tuple[int, Row]]
"""The rows of one prompt with their numbers, in the order of the file."""
BUCKET_BYTES = 8 << 20
"""Of the file, dealt into one bucket: decoded, some five times as much in memory."""
MOST_BUCKETS = 1024
_BUFFERED_BYTES = 8 << 20
_MOST_TOGETHER = 100
_NO_ROW = object()

Rows = list[tuple[int, Any]]
"""Rows that stand together, with their numbers in their part of the file; `bytes` are a line of JSON."""
Entry = tuple[int, str, int, int, msgspec.Raw]
"""(hash of the key, key, part of the file, number of the first, `Rows`): these are decoded one group at a time."""
_ENCODER = msgspec.msgpack.Encoder()
_ENTRIES = msgspec.msgpack.Decoder(list[Entry])
_JSON = msgspec.json.Decoder()
_ROWS = msgspec.msgpack.Decoder(Rows)
_BY_PLACE = itemgetter(0, 1, 2, 3)
_BY_KEY = itemgetter(1)


def buckets_for(size: int, bucket_bytes: int = BUCKET_BYTES) -> int:
    """How many buckets a file of so many bytes is dealt into."""
    return min(MOST_BUCKETS, max(1, -(-size // bucket_bytes)))


class Partition:
    """Pass 1, into the bucket files of a folder: `add` rows, then `flush`. Each process has its own files."""

    def __init__(self, folder: Path, buckets: int, key: Callable[[Row], str]) -> None:
        self.folder, self.buckets, self.key = folder, buckets, key
        self._held = [bytearray() for _ in range(buckets)]
        self._counts = [0] * buckets
        self._bytes = 0
        self._together: tuple[str, int, Rows] = "", 0, []
        """Key, part and rows of those that came last: mostly the rows of a prompt stand together."""
        self._last: Any = _NO_ROW
        """The key fields of the last line: of an equal one the key need not be made."""

    def add(self, part: int, number: int, row: Any, told: Told, line: bytes | None = None) -> None:
        """Deal out one row; one that has no key, or cannot be kept, is told. With its `line` the key fields will do."""
        if row != self._last or part != self._together[1]:
            if not isinstance(row, dict):
                told(number, f"expected an object, got {type(row).__name__}")
                return
            try:
                key = self.key(row)
            except RecordError as error:
                told(number, error)
                return
            self._last = row if line is not None else _NO_ROW
            if (key, part) != self._together[:2]:
                self._put(told)
                self._together = key, part, []
        key, _, rows = self._together
        rows.append((number, row if line is None else line))
        if len(rows) == _MOST_TOGETHER:
            self._put(told)
            self._together = key, part, []

    def _put(self, told: Told) -> None:
        key, part, rows = self._together
        if not rows:
            return
        self._together = "", 0, []
        digest = crc32(key.encode("utf-8", "surrogatepass"))
        bucket = digest * self.buckets >> 32  # their order is that of the hashes, however many there are
        held = self._held[bucket]
        before = len(held)
        try:
            _ENCODER.encode_into((digest, key, part, rows[0][0], rows), held, before)
        except (OverflowError, UnicodeEncodeError) as error:  # an integer of more than 64 bits, half a surrogate pair
            del held[before:]
            if len(rows) == 1:
                told(rows[0][0], f"holds what cannot be kept ({error})")
            else:
                for row in rows:
                    self._together = key, part, [row]
                    self._put(told)
            return
        self._counts[bucket] += 1
        self._bytes += len(held) - before
        if self._bytes >= _BUFFERED_BYTES:
            self._write()

    def flush(self, told: Told) -> None:
        """Everything into the files."""
        self._put(told)
        self._write()

    def _write(self) -> None:
        # opened anew each time: there may be more buckets than files may be open
        for bucket, held in enumerate(self._held):
            if held:
                with _file(self.folder, bucket, os.getpid()).open("ab") as stream:
                    # an array of msgpack: its mark, how many, and the entries as they are
                    stream.write(len(held).to_bytes(8, "big"))
                    stream.write(b"\xdd" + self._counts[bucket].to_bytes(4, "big"))
                    stream.write(held)
                held.clear()
                self._counts[bucket] = 0
        self._bytes = 0


def _file(folder: Path, bucket: int, process: int | str) -> Path:
    return folder / f"bucket-{bucket:04}.{process}"


def key_decoder(fields: Sequence[str]) -> Callable[[bytes], Any]:
    """Reads some fields of a line of JSON, as far as they are there, and passes over the others."""
    typed_dict: Any = TypedDict
    return msgspec.json.Decoder(typed_dict("Key", dict.fromkeys(fields, Any), total=False)).decode


def _groups(folder: Path, bucket: int, first_numbers: Sequence[int]) -> Iterator[Rows]:
    """The rows of each prompt of a bucket, as they were kept, with their numbers in the file."""
    entries: list[Entry] = []
    for file in folder.glob(_file(folder, bucket, "*").name):
        with file.open("rb") as stream:
            while size := int.from_bytes(stream.read(8), "big"):
                entries += _ENTRIES.decode(stream.read(size + 5))
    entries.sort(key=_BY_PLACE)
    for _, together in groupby(entries, _BY_KEY):
        yield [(first_numbers[part] + n, row) for _, _, part, _, rows in together for n, row in _ROWS.decode(rows)]


def records(
    folder: Path, bucket: int, first_numbers: Sequence[int], form: Format, images: Images, told: Told
) -> Iterator[tuple[int, Made]]:
    """Pass 2: the records of one bucket, each with the number of its first row.

    `first_numbers`: per part what its rows' numbers are counted from. Rows at fault are told, and the record of their
    prompt is that of the others.
    """
    for kept in _groups(folder, bucket, first_numbers):
        group, made = kept, _at_once(kept, form, images)
        if not made:
            group = list(_decoded(kept, told))
            made = _records_of(group, form, images, told) if group else ()
        for record in made:
            yield group[0][0], record


def _at_once(kept: Rows, form: Format, images: Images) -> Sequence[Made]:
    """The record of lines that are as most are; nothing where they have to be looked at one by one."""
    if form.read_lines is None or not all([type(row) is bytes for _, row in kept]):
        return ()
    try:
        return form.read_lines([line for _, line in kept], images)
    except RecordError:
        return ()


def _decoded(kept: Rows, told: Told) -> Iterator[tuple[int, Row]]:
    for number, row in kept:
        if type(row) is bytes:
            try:
                row = _JSON.decode(row)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                placed = decoded(number, row)  # which takes its time to say why
                if placed.fault:
                    told(placed.number, placed.fault)
                    continue
                row = placed.value
        yield number, row


def _records_of(group: Group, form: Format, images: Images, told: Told) -> Sequence[Made]:
    """The record of one group. Rows at fault are told, and the record is that of the others."""
    assert form.read_group is not None
    try:
        return form.read_group([row for _, row in group], images)
    except RecordError as error:
        sound = [(number, row) for number, row in group if not _fault(number, row, form, images, told)]
        if 0 < len(sound) < len(group):
            return _records_of(sound, form, images, told)
        if sound:  # each is sound by itself: together they are not
            told(group[-1][0], f"{error} (its prompt begins in row {group[0][0]})")
        return ()


def _fault(number: int, row: Row, form: Format, images: Images, told: Told) -> bool:
    assert form.read_group is not None
    try:
        form.read_group([row], images)
    except RecordError as error:
        told(number, error)
        return True
    return False


def read_grouped(path: Path, form: Format, images: Images, told: Told, progress: Progress) -> Iterator[Made]:
    """Every record of a file of a flat format; the buckets are kept in the system's folder for temporary files."""
    size = path.stat().st_size
    with _scratch(path) as folder:
        buckets = partition_rows(path, folder, form, told, lambda done, total: progress(done, 2 * total))
        for bucket in range(buckets):
            for _, made in records(folder, bucket, [0], form, images, told):
                yield made
            progress(size + size * (bucket + 1) // buckets, 2 * size)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder for the buckets. Raises `UserError` where they cannot be written."""
    try:
        with scratch(Path(tempfile.gettempdir()), "align-rows-") as folder:
            yield folder
    except OSError as error:
        near = tempfile.tempdir or "the folder for temporary files"
        raise UserError(
            f"{near}: cannot be written ({error.strerror}); the rows of {path.name} are sorted there: make room, or "
            "set TMPDIR to another folder"
        ) from None


def partition_rows(path: Path, folder: Path, form: Format, told: Told, progress: Progress) -> int:
    """Pass 1 over a whole file of any container, in this process. Returns the number of buckets."""
    assert form.group_key is not None
    buckets = buckets_for(path.stat().st_size)
    partition = Partition(folder, buckets, form.group_key)
    for placed in read_rows(path, progress=progress):
        if placed.fault:
            told(placed.number, placed.fault)
        else:
            partition.add(0, placed.number, placed.value, told)
    partition.flush(told)
    return buckets
