"""The append-only journal of a stage: one line of JSON per finished unit, synced before the next begins.

    {"key":"91ab…","seconds":0.412,"line":{"completions":[…]}}

A key hashes everything that decides its unit's result, so a line is good whenever its key is asked for again, also
under a later recipe. A process killed while it appends leaves half a line at the end: on opening, that half is cut off
and kept in `.<name>.torn`, and its unit is done again. Half a line anywhere else is damage, and is told.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from annotate.errors import UserError
from annotate.records import canonical_json
from annotate.stage import Line


def read_journal(path: Path) -> dict[str, Line]:
    """Key -> the last line written for it; half a line at the end is ignored. Empty where there is no journal."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    return {key: entry["line"] for key, entry in _entries(path, data[: data.rfind(b"\n") + 1]).items()}


class JournalInUse(UserError):
    """Another process is writing to it."""


class Journal:
    """The journal at `path`, open for appending and locked against every other process.

    `lines` maps each key to its last line, `seconds` to the time its unit took.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, Line] = {}
        self.seconds: dict[str, float] = {}
        self._mutex = threading.Lock()
        self._syncing = threading.Lock()
        self._synced = 0

    def __enter__(self) -> Self:
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except BlockingIOError:
            self._file.close()
            raise JournalInUse(f"{self.path}: another process is writing to it; wait for it to end") from None
        except BaseException:
            self._file.close()
            raise
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, key: str, line: Line) -> None:
        """Write one unit's line and sync it; on return it survives a kill. Any thread may call.

        Lines that arrive while another is being synced are synced together.
        """
        with self._mutex:
            now = time.monotonic()
            seconds = round(now - self._since, 3)
            text = canonical_json({"key": key, "seconds": seconds, "line": line}) + "\n"
            try:
                self._write(text.encode("utf-8"))
            except OSError:
                # A full disk: leave whole lines behind, so that whoever goes on finds a sound journal.
                with suppress(OSError):
                    os.ftruncate(self._file.fileno(), self._size)
                raise
            end = self._size
            # As it will be read back, so that a first run and a resumed one compile from the same values.
            self.lines[key] = json.loads(text)["line"]
            self.seconds[key] = seconds
            self._since = now
        with self._syncing:
            if self._synced < end:
                written = self._size
                os.fsync(self._file.fileno())
                self._synced = written

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file.fileno(), left) :]
        self._size += len(data)

    def _load(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        self._size = data.rfind(b"\n") + 1
        if torn := data[self._size :]:
            with self.path.with_name(f".{self.path.name}.torn").open("ab") as stream:
                stream.write(torn + b"\n")
            os.ftruncate(self._file.fileno(), self._size)
            os.fsync(self._file.fileno())
        for key, entry in _entries(self.path, data[: self._size]).items():
            self.lines[key] = entry["line"]
            self.seconds[key] = entry["seconds"]


def _entries(path: Path, data: bytes) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for number, raw in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(raw)
            found[entry["key"]] = {"line": entry["line"], "seconds": entry["seconds"]}
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}:{number}: not a line of this journal; was it edited or cut in half? "
                "Delete that line: its unit is then done again"
            ) from None
    return found
