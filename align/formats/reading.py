"""A file of any format, as records.

    for record in read_file(Path("pairs.parquet"), images=ImageStore(root=None, folder=Path("images"))): ...

Which format it is, is told by the keys of the first row that reads, or by `form`. Bad rows are `UserError`s that name
file, line or row, field and remedy; give `faults` to gather them instead and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from align.formats import format_named, formats
from align.formats.containers import Placed, Progress, container_of, placed_at, read_rows
from align.formats.format import Format, Images, Kind, Made
from align.formats.own import SCHEMAS, kind_of
from align.formats.store import ImageStore
from annotate.errors import RecordError, UserError
from annotate.jsonl import read_lines


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one row: where it stands, and the words."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def format_of(path: Path, form: str = "auto", *, kind: Kind | None = None) -> Format:
    """The format of a file, by its name or by its first row. Raises `UserError` where no format knows its keys.

    `kind`: what is wanted of the file, so that only formats that hold it are proposed.
    """
    if form != "auto":
        return format_named(form)
    first = next((placed.value for placed in read_rows(path) if not placed.fault), None)
    keys = ", ".join(map(str, first)) if isinstance(first, dict) else "no object"
    found = [f for f in formats().values() if isinstance(first, dict) and f.recognises(first)]
    if len(found) == 1:
        return found[0]
    usable = [f for f in formats().values() if (f.read or f.read_group) and (kind is None or kind in f.kinds)]
    names = ", ".join(f.name for f in found or usable)
    said = "could be any of" if found else f"no format has the keys of its first row ({keys:.200});"
    raise UserError(f"{path}: {said} {names}; say which with --from")


def read_file(
    path: Path,
    *,
    form: str = "auto",
    images: Images | None = None,
    faults: list[Fault] | None = None,
    progress: Progress = lambda done, total: None,
) -> Iterator[Made]:
    """Every record of a file, in its order; those of a flat format (one completion a row) by prompt.

    Raises `UserError` for the first bad row, or, with `faults`, only where the file as a whole cannot be read.
    """
    chosen = format_of(path, form)
    container = container_of(path)
    store = images or ImageStore(root=None)

    def told(number: int, error: object) -> None:
        fault = Fault(where=placed_at(path, container, number), text=str(error))
        if faults is None:
            raise UserError(str(fault))
        faults.append(fault)

    if chosen.name == "mmalign" and container == "jsonl" and path.suffix != ".gz":
        yield from _own_lines(path, told, progress)
        return
    if chosen.read_group is not None:
        from align.formats.grouping import read_grouped

        yield from read_grouped(path, chosen, store, told, progress)
        return
    if chosen.read is None:
        raise UserError(f"{path}: {chosen.name} is only written, not read")
    for placed in read_rows(path, progress=progress):
        yield from _records(placed, chosen, store, told)


def _records(placed: Placed, form: Format, images: Images, told: Callable[[int, object], None]) -> Iterator[Made]:
    assert form.read is not None
    if placed.fault:
        told(placed.number, placed.fault)
        return
    if not isinstance(placed.value, dict):
        told(placed.number, f"expected an object, got {type(placed.value).__name__}")
        return
    try:
        yield from form.read(placed.value, images)
    except RecordError as error:
        told(placed.number, error)


class _Schema(msgspec.Struct):
    schema: str = ""


def _own_lines(path: Path, told: Callable[[int, object], None], progress: Progress) -> Iterator[Made]:
    """Lines of records without the way through rows: the schema of the line before is tried first."""
    size, done = path.stat().st_size, 0
    kind = next(iter(SCHEMAS.values()))
    for number, line in read_lines(path):
        done += len(line)
        if number % 1000 == 0:
            progress(done, size)
        if not line.strip():
            continue
        try:
            if kind.SCHEMA.encode() not in line[:64]:
                kind = kind_of(msgspec.json.decode(line, type=_Schema).schema)
            yield kind.from_line(line)
        except (RecordError, msgspec.ValidationError) as error:
            told(number, error)
        except (ValueError, RecursionError) as error:
            told(number, f"not a line of JSON ({error}); cut in half, or not UTF-8?")
