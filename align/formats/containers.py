"""Rows of a file, whatever it is: a JSON list, JSON Lines (also gzipped), or parquet; told apart by the first bytes.

    for placed in read_rows(path): placed.number, placed.value, placed.fault
    with write_rows(path, "parquet") as put: put({"question": ...})

All stream. A JSON list is mapped into memory, which the system takes back at will, and cut into rows before any is
decoded. What is written appears under its name when it is whole, or not at all.
"""

from __future__ import annotations

import gzip
import json
import math
import mmap
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from align.formats.format import Container
from align.scratch import scratch
from annotate.errors import UserError

Progress = Callable[[int, int], None]
"""Called now and then with bytes read and bytes in all."""
Put = Callable[[Any], None]
"""Takes a row; in JSON Lines also a finished line, as bytes."""
ROWS_PER_BATCH = 256
"""Rows decoded at once from parquet; with an image in each, some 50 MB."""
SUFFIXES: dict[str, Container] = {".json": "json", ".jsonl": "jsonl", ".parquet": "parquet"}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Placed:
    """One row and where it stands; `fault` says why there is no value."""

    number: int
    """Line of JSON Lines, row of the others, from 1."""
    value: Any = None
    fault: str = ""


def no_file(path: Path) -> str:
    """What stands under a name that is neither file nor folder nor free: `a pipe`, `a device`, `a socket`."""
    try:
        return _NO_FILE.get(stat.S_IFMT(path.stat().st_mode), "")
    except OSError:
        return ""


_NO_FILE = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def check_input(path: Path) -> None:
    """Raise `UserError` for what can be read only once, before anything is taken from it."""
    other = "the standard input" if str(path) == "-" and not path.exists() else no_file(path)
    if other:
        raise UserError(f"{path}: is {other}; save it to a file first, files are read more than once")


def container_of(path: Path) -> Container:
    """Raises `UserError` where the file cannot be read, or is empty."""
    check_input(path)
    try:
        with _opened(path) as stream, _whole(path):
            head = stream.read(4096).removeprefix(_BOM).lstrip()
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)  # a gzip cut short has no strerror
        raise UserError(f"{path}: cannot be read ({reason}); is the path right?") from None
    if not head:
        raise UserError(f"{path}: empty; expected a JSON list, JSON Lines or parquet")
    return "parquet" if head.startswith(b"PAR1") else "json" if head.startswith(b"[") else "jsonl"


def placed_at(path: Path, container: Container, number: int) -> str:
    """How a row's place is told: `file.jsonl:12`, `file.json row 12`."""
    return f"{path}:{number}" if container == "jsonl" else f"{path} row {number}"


def read_rows(path: Path, *, progress: Progress = lambda done, total: None) -> Iterator[Placed]:
    """Every row, bad ones with their fault. Raises `UserError` where the file as a whole cannot be read."""
    container = container_of(path)
    if container == "parquet":
        return _parquet_rows(path, progress)
    return _list_rows(path, progress) if container == "json" else _line_rows(path, progress)


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb")


def _line_rows(path: Path, progress: Progress) -> Iterator[Placed]:
    size, done = path.stat().st_size, 0
    with _opened(path) as stream, _whole(path):
        for number, line in enumerate(stream, start=1):
            done += len(line)
            if number % 1000 == 0:
                progress(done, max(size, done))
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                yield decoded(number, text)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """A gzip cut short as an error of its own."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip ({error}); fetch it again") from None


def _list_rows(path: Path, progress: Progress) -> Iterator[Placed]:
    with _opened(path) as stream:
        # never closed by hand: the rows that are cut out of it keep it open as long as they live
        zipped = isinstance(stream, gzip.GzipFile)
        with _whole(path):
            data: Any = stream.read() if zipped else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        view = memoryview(data)[3 if data[:3] == _BOM else 0 :]
        rows: list[msgspec.Raw] = msgspec.json.decode(view, type=list[msgspec.Raw])
    except msgspec.MsgspecError as error:
        at = re.search(r"byte (\d+)", str(error))
        line = data[: int(at[1]) if at else len(data)].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not a whole JSON list ({error}); cut in half, not UTF-8, or half of a surrogate pair?"
        ) from None
    if not rows:
        raise UserError(f"{path}: the list is empty")
    for number, raw in enumerate(rows, start=1):
        if number % 1000 == 0:
            progress(number, len(rows))
        yield decoded(number, bytes(raw))


def decoded(number: int, data: bytes) -> Placed:
    """One row of JSON; what is wrong with it is its fault."""
    try:
        return Placed(number, msgspec.json.decode(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Python's own reader takes some of what msgspec does not, and says better what is wrong with the rest.
        try:
            value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
            json.dumps(value, ensure_ascii=False).encode("utf-8")
            return Placed(number, value)
        except UnicodeDecodeError as error:
            at = f"byte 0x{error.object[error.start]:02x} at {error.start + 1}"
            return Placed(number, fault=f"not UTF-8 ({at}); save it as UTF-8")
        except UnicodeEncodeError:
            return Placed(number, fault="holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
        except (ValueError, RecursionError) as error:
            return Placed(number, fault=f"not JSON ({error}); cut in half?")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is greater than any number that can be kept")
    return value


def pyarrow_parquet() -> Any:
    """The module pyarrow.parquet. Raises `UserError` with the remedy where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("parquet files need pyarrow: pip install 'mmalign[formats]'") from None
    return pyarrow.parquet


def _parquet_rows(path: Path, progress: Progress) -> Iterator[Placed]:
    parquet = pyarrow_parquet()
    import pyarrow

    numbers = count(1)
    try:
        # in small reads: by default a whole row group, often the whole file, is held
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
            total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                number = 0
                for row in _rows_of(batch):
                    number = next(numbers)
                    yield Placed(number, row, "" if row is not None else "holds text that is not UTF-8")
                progress(number, total)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged parquet ({str(error).splitlines()[0]}); fetch it again") from None


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose bytes are no text."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


# ---------------------------------------------------------------------------------------------------------- writing


@contextmanager
def write_rows(path: Path, container: Container, *, schema: Any = None) -> Iterator[Put]:
    """A function that takes rows; the file is there when the block ends well. `schema` is pyarrow's, for parquet."""
    if path.suffix == ".gz":
        raise UserError(f"{path}: is not compressed by us; leave .gz away")
    place = write_place(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch(place.parent, f".{place.name}.rows-") as folder:
            with _WRITERS[container](folder / place.name, schema) as put:
                yield put
            (folder / place.name).replace(place)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_place(path: Path) -> Path:
    """Where a file of that name is written: links stay, and lead there. Raises `UserError` where none can be."""
    other = no_file(path)
    if other:
        raise UserError(f"{path}: is {other}, which is not written over; name a file")
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise UserError(f"{path}: cannot be written (is a link to itself)") from None


@contextmanager
def _list_writer(path: Path, schema: Any) -> Iterator[Put]:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        before = "[\n"

        def put(row: dict[str, Any]) -> None:
            nonlocal before
            stream.write(before + json.dumps(row, ensure_ascii=False, allow_nan=False, default=_no_bytes))
            before = ",\n"

        yield put
        stream.write("[]\n" if before == "[\n" else "\n]\n")


@contextmanager
def _line_writer(path: Path, schema: Any) -> Iterator[Put]:
    with path.open("wb") as stream:

        def put(row: dict[str, Any] | bytes) -> None:
            if not isinstance(row, bytes):  # which is a line already
                text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_no_bytes)
                row = text.encode("utf-8") + b"\n"
            stream.write(row)

        yield put


def _no_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        raise UserError("this format embeds images, which JSON cannot hold: give OUT the ending .parquet")
    raise TypeError(f"{type(value).__name__} is not JSON")


@contextmanager
def _parquet_writer(path: Path, schema: Any) -> Iterator[Put]:
    parquet = pyarrow_parquet()
    import pyarrow

    pending: list[dict[str, Any]] = []
    writer: Any = None

    def flush(rows: list[dict[str, Any]]) -> None:
        nonlocal writer, schema
        try:
            if writer is None:
                schema = _widened(schema, rows)
                writer = parquet.ParquetWriter(path, schema)
            table = pyarrow.Table.from_pylist(rows, schema=schema)
        except (pyarrow.ArrowException, OverflowError, TypeError) as error:
            raise UserError(f"{path.name}: rows do not fit one parquet schema ({error}); write .jsonl") from None
        for row, kept in zip(rows, table.to_pylist(), strict=True):
            if _filled(row) != _filled(kept):
                raise UserError(f"{path.name}: a row has more keys than the first {ROWS_PER_BATCH}; write .jsonl")
        writer.write_table(table)

    def put(row: dict[str, Any]) -> None:
        pending.append(row)
        if len(pending) >= ROWS_PER_BATCH:
            flush(pending)
            pending.clear()

    try:
        yield put
        if pending or writer is None:
            flush(pending)
    finally:
        if writer is not None:
            writer.close()


def _widened(schema: Any, rows: Sequence[dict[str, Any]]) -> Any:
    """The schema, and pyarrow's guess of columns beyond it from all the rows given; by itself it looks at the first."""
    import pyarrow

    known = set() if schema is None else set(schema.names)
    names = dict.fromkeys(key for row in rows for key in row if key not in known)
    guessed = {name: pyarrow.array([row.get(name) for row in rows]).type for name in names}
    # nothing but nulls so far: text is the likeliest to come
    fields = [pyarrow.field(n, pyarrow.string() if pyarrow.types.is_null(t) else t) for n, t in guessed.items()]
    metadata = None if schema is None else schema.metadata
    return pyarrow.schema([*(schema or ()), *fields], metadata=metadata)


def _filled(value: Any) -> Any:
    """Without what is null: parquet knows no key that is not there."""
    if isinstance(value, dict):
        return {key: filled for key, inner in value.items() if (filled := _filled(inner)) not in (None, {})}
    return [_filled(inner) for inner in value] if isinstance(value, list | tuple) else value


_WRITERS = {"json": _list_writer, "jsonl": _line_writer, "parquet": _parquet_writer}
