"""Reading benchmark files: rows with the place they came from, fields with words that name the place.

for row in read_table(path):                  # JSONL, a JSON list, TSV, CSV or XLSX by its ending
question = row.text("text")                   # UserError: answers.jsonl:12: `text`: expected text, found 3
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.errors import RecordError, UserError
from annotate.jsonl import no_json, read_lines

csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True)
class Line:
    """One row of a file."""

    path: Path
    number: int
    """Line of a file by lines, else the row's place in its list, from 1."""
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.path}:{self.number}"

    def fault(self, what: str) -> RecordError:
        return RecordError(f"{self.where}: {what}")

    def get(self, *names: str) -> Any:
        """The field of the first of these names that there is; layouts differ in spelling."""
        for name in names:
            if name in self.fields:
                return self.fields[name]
        raise self.fault(f"no field {' or '.join(f'`{n}`' for n in names)}; it has {', '.join(self.fields) or 'none'}")

    def text(self, *names: str) -> str:
        """A text; may be empty."""
        value = self.get(*names)
        if not isinstance(value, str):
            raise self.fault(f"`{names[0]}`: expected text, found {_shown(value)}")
        return value

    def key(self, *names: str) -> str:
        """An id: a number or a text, as text; `7`, `7.0`, `"7"` and `"7.0"` are one."""
        value = self.get(*names)
        if isinstance(value, str) and value.endswith(".0") and value[:-2].isdecimal():
            value = value[:-2]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.fault(f"`{names[0]}`: expected an id (text or a whole number), found {_shown(value)}")
        return str(value)

    def number_of(self, *names: str) -> float:
        """A number; some files hold it as text."""
        found = number(value := self.get(*names))
        if found is None:
            raise self.fault(f"`{names[0]}`: expected a number, found {_shown(value)}")
        return found


def number(value: Any) -> float | None:
    """The finite number that a value is, or that its text says; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def is_missing(value: Any) -> bool:
    """Whether nothing stands there: null, or the NaN that pandas writes in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def read_table(path: Path) -> Iterator[Line]:
    """Rows of a JSONL, JSON (a list of objects), TSV, CSV or XLSX file. Raises `UserError` naming file and line.

    Whether there are lines or a list is seen from the first character: both endings are in use for both.
    """
    ending = path.suffix.lower()
    if ending in (".tsv", ".csv"):
        yield from _separated(path, "\t" if ending == ".tsv" else ",")
    elif ending == ".xlsx":
        yield from _workbook(path)
    elif _is_list(path):
        yield from _objects(path, enumerate(load_json(path), 1))
    else:
        yield from _objects(path, _json_lines(path))


def load_json(path: Path) -> Any:
    """One JSON value. Raises `UserError` naming file and place."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; is it the right file?") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); was it cut off, or is it a web page?") from None


def once(lines: Iterable[Line], *names: str) -> dict[str, Line]:
    """Rows by id; an id that occurs twice is a fault. Raises `UserError` with all of them."""
    found: dict[str, Line] = {}
    faults: list[str] = []
    for line in lines:
        key = line.key(*names)
        if key in found:
            faults.append(f"{line.where}: `{names[0]}` {key} occurs twice, first in line {found[key].number}")
        found.setdefault(key, line)
    if faults:
        raise UserError(*faults)
    return found


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Values by line; an empty line is none."""
    for number, line in read_lines(path):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(no_json(path, number, error)) from None


def _is_list(path: Path) -> bool:
    """POPE's `.json` files are JSON Lines; others' are lists."""
    try:
        with path.open("rb") as stream:
            return stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None


def _objects(path: Path, values: Iterable[tuple[int, Any]]) -> Iterator[Line]:
    for number, value in values:
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: expected an object with fields, found {_shown(value)}")
        yield Line(path, number, value)


def _separated(path: Path, separator: str) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=separator, restkey="", strict=True)
            for row in reader:
                if None in row.values() or "" in row:
                    raise UserError(f"{path}:{reader.line_num}: has other columns than the first line says")
                yield Line(path, reader.line_num, row)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no table of UTF-8 text ({error}); is it the right file?") from None


def _workbook(path: Path) -> Iterator[Line]:
    """The first sheet of a workbook; an empty cell is an empty text."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise UserError(f"{path}: reading it needs openpyxl: pip install 'mmalign[formats]'") from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    except Exception as error:  # the library has no type of its own for a file that is none
        raise UserError(f"{path}: is no workbook ({error}); is it the right file?") from None
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        names = [str(name) for name in next(rows, ()) if name is not None]
        for number, row in enumerate(rows, 2):
            cells = ["" if cell is None else cell for cell in row]
            if any(cell != "" for cell in cells):
                yield Line(path, number, dict(zip(names, cells, strict=False)))
    finally:
        book.close()


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
