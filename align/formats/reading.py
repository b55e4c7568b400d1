"""A file of any format, as records.

    for record in read_file(Path("pairs.parquet"), images=ImageStore(root=None, folder=Path("images"))): ...

Which format it is, is told by the keys of the first row that reads, or by `form`. Bad rows are `UserError`s that name
file, line or row, field and remedy; give `faults` to gather them instead and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from align.formats import format_named, formats
from align.formats.containers import Placed, Progress, container_of, decoded, placed_at, read_rows
from align.formats.format import KINDS, Format, Images, Kind, Made
from align.formats.own import SCHEMAS, kind_of
from align.formats.store import ImageStore
from annotate.errors import RecordError, UserError
from annotate.jsonl import read_lines

EXPECTED = "a JSON list of objects, JSON Lines, or parquet"
HELD: Mapping[Kind, str] = {
    "pairs": "holds preference pairs already; `align doctor` or `align convert` take them",
    "examples": "holds examples of fine-tuning, one answer a prompt; `align convert` takes them",
    "prompts": "holds prompts without rated answers; `align run RECIPE` samples and annotates some",
    "annotated": "holds annotated prompts; `align pairs` makes training sets of them",
}
"""What is told of a file that holds something else than is wanted."""
WHOLE_BYTES = 16 << 20
"""Files up to this size are looked at once more, to say what they are."""


class UnknownFormat(UserError):
    """A file whose format cannot be told by its first row; `what` says so, without the remedy of the command line."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one row: where it stands, and the words."""

    where: str
    text: str
    number: int = 0
    """Of the row, where it is known."""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def format_of(path: Path, form: str = "auto", *, kind: Kind | None = None) -> Format:
    """The format of a file, by its name or by its first row. Raises `UserError` where no format knows its keys.

    `kind`: what is wanted of the file, so that only formats that hold it are proposed.
    """
    chosen = _recognised(path, kind) if form == "auto" else format_named(form)
    held = None if kind is None else _held(path, chosen)
    if held is not None and held != kind:
        raise UserError(f"{path}: {HELD[held]}")
    return chosen


def _recognised(path: Path, kind: Kind | None) -> Format:
    fault, first = "", None
    for placed in read_rows(path):
        fault, first = fault or placed.fault, placed.value
        if not placed.fault:
            break
    if not isinstance(first, dict):
        raise UserError(f"{path}: {_no_rows(path, first, fault)}; expected rows: {EXPECTED}")
    found = [f for f in formats().values() if f.recognises(first)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownFormat(f"{path}: could be any of {', '.join(f.name for f in found)}", "say which with --from")
    usable = [f.name for f in formats().values() if (f.read or f.read_group) and (kind is None or kind in f.kinds)]
    keys = ", ".join(map(str, first))
    raise UnknownFormat(
        f"{path}: no format has the keys of its first row ({keys:.200})",
        f"say with --from which it is of those that are read: {', '.join(usable)}",
    )


def _no_rows(path: Path, first: object, fault: str) -> str:
    """What a file is that holds no row with keys."""
    if path.stat().st_size <= WHOLE_BYTES and isinstance(decoded(1, path.read_bytes()).value, dict):
        return "is one JSON object over several lines, not rows"
    if fault:
        return f"its first row: {fault}"
    return f"its first row is {type(first).__name__}, not an object"


def _held(path: Path, chosen: Format) -> Kind | None:
    """What a file holds, by its first record; None where that cannot be told without reading all."""
    if chosen.name == "mmalign":
        first = next((placed.value for placed in read_rows(path) if not placed.fault), None)
        schema = SCHEMAS.get(str(first.get("schema"))) if isinstance(first, dict) else None
        return KINDS[schema] if schema else None
    if "annotated" in chosen.kinds or chosen.read is None:
        return None
    try:
        return next((KINDS[type(record)] for record in read_file(path, form=chosen.name)), None)
    except UserError:  # its first row is at fault besides
        return chosen.kinds[0]


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
        fault = Fault(where=placed_at(path, container, number), text=str(error), number=number)
        if faults is None:
            raise UserError(str(fault))
        faults.append(fault)

    if chosen.name == "mmalign" and container == "jsonl" and path.suffix != ".gz":
        yield from _own_lines(path, told, progress)
        return
    if chosen.read_group is not None:
        from align.formats.grouping import read_grouped

        before = len(faults or ())
        yield from read_grouped(path, chosen, store, told, progress)
        if faults:  # the rows of a prompt were looked at together, wherever they stand
            faults[before:] = sorted(faults[before:], key=lambda fault: fault.number)
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
