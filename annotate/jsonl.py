"""JSON Lines in and out: strict reading that names file and line, writing that is whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jsonlines

from annotate.errors import RecordError, UserError
from annotate.records import Record

R = TypeVar("R", bound=Record)


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line of `path` as (line number from 1, JSON value). Raises `UserError` naming file and line."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    with stream, jsonlines.Reader(stream) as reader:
        number = 0
        while True:
            number += 1
            try:
                yield number, reader.read()
            except EOFError:
                return
            except jsonlines.InvalidLineError as error:
                reason = str(error).split(" (line")[0]
                raise UserError(no_json(path, error.lineno, reason)) from None


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Each line of `path` as a record. Raises `UserError` naming file, line and field."""
    for number, line in read_lines(path):
        try:
            yield kind.from_line(line)
        except RecordError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(no_json(path, number, error)) from None


def read_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Each line of `path` as (line number from 1, bytes). Raises `UserError` where there is no such file.

    Of a part of a file, the lines that begin from byte `start` on and before `end`, counted from 1 as well: parts that
    meet have every line once.
    """
    try:
        stream = path.open("rb", buffering=_BUFFER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    with stream:
        if start:
            stream.seek(start - 1)
            start += len(stream.readline()) - 1
        left = None if end is None else end - start
        for number, line in enumerate(stream, start=1):
            if left is not None:
                if left <= 0:
                    return
                left -= len(line)
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 and not start else line


_BUFFER = 1 << 20


def no_json(path: Path, number: int, reason: object) -> str:
    """The words for a line that is not JSON."""
    return f"{path}:{number}: not a line of JSON ({reason}); cut in half, or not UTF-8?"


def dump_line(value: Record | Mapping[str, Any]) -> str:
    """One line, with its newline."""
    if isinstance(value, Record):
        return value.to_line().decode("utf-8")
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a file whole or not at all: a temporary neighbour, synced, then renamed into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines([text] if isinstance(text, str) else text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_records(path: Path, records: Iterable[Record | Mapping[str, Any]]) -> None:
    """Write records as JSON Lines, whole or not at all."""
    write_text(path, (dump_line(r) for r in records))
