"""What a batch backend keeps on disk, so that no job is ever paid for twice.

In its workspace:

    jobs.jsonl            one synced line per step of a job, locked against other processes
    requests/NAME.jsonl   requests on their way to the service; of no use after a kill, when they are asked again
    results/NAME-0.jsonl  answers as the service wrote them, one JSON object per line

Three lines of jobs.jsonl are the life of one job, shortened:

    {"key":"mmalign-5c…/intent","line":{"keys":["91ab…","77f0…"],"uploaded":"files/abc"},"seconds":0.1}
    {"key":"mmalign-5c…/job","line":{"id":"batches/xyz"},"seconds":0.2}
    {"key":"mmalign-5c…/ended","line":{"results":["mmalign-5c…-0.jsonl"]},"seconds":7204.1}

The intent is written before the job is created: a job whose id was lost by a kill is found again by its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.journal import Journal

KeyOf = Callable[[Any], str | None]


@dataclass(frozen=True)
class OpenJob:
    """A job that has not ended as far as this machine knows; without an id it may never have been created."""

    name: str
    keys: Sequence[str]
    """Those that were not put into a later job."""
    uploaded: str
    job_id: str | None


class Ledger:
    """Jobs and answers of one workspace. `key_of` reads the key of a row, None where it has none."""

    def __init__(self, workspace: Path, key_of: KeyOf) -> None:
        self.requests = workspace / "requests"
        self.results = workspace / "results"
        self._key_of = key_of
        self._journal = Journal(workspace / "jobs.jsonl")
        self._exit = ExitStack()
        self._rows: dict[str, tuple[Path, int]] = {}

    def open(self) -> list[OpenJob]:
        """The jobs left by earlier processes, oldest first. `UserError` where another process has the workspace."""
        self.requests.mkdir(parents=True, exist_ok=True)
        self.results.mkdir(exist_ok=True)
        self._exit.enter_context(self._journal)
        for leftover in [*self.requests.iterdir(), *self.results.glob("*.part")]:
            leftover.unlink()
        lines = self._journal.lines
        latest: dict[str, str] = {}
        for entry, line in lines.items():
            name, _, step = entry.rpartition("/")
            if step == "intent":
                latest.update(dict.fromkeys(line["keys"], name))
            elif step == "ended":
                self._index(line["results"])
            elif step == "settled":
                for key in line["keys"]:
                    self.forget(key)
        left: dict[str, list[str]] = {}
        for key, name in latest.items():
            if f"{name}/ended" not in lines:
                left.setdefault(name, []).append(key)
        return [
            OpenJob(name, keys, lines[f"{name}/intent"]["uploaded"], lines.get(f"{name}/job", {}).get("id"))
            for name, keys in left.items()
        ]

    def close(self) -> None:
        self._exit.close()

    def intend(self, keys: Sequence[str], uploaded: str) -> str:
        """Write down that a job with these keys is about to be created; its name, which no other job has."""
        digest = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        name = f"mmalign-{digest}-{os.urandom(4).hex()}"
        self._journal.append(f"{name}/intent", {"keys": list(keys), "uploaded": uploaded})
        return name

    def created(self, name: str, job_id: str) -> None:
        self._journal.append(f"{name}/job", {"id": job_id})

    def ended(self, name: str, results: Iterable[Path]) -> None:
        """The job is over and these files, in `results`, hold all the answers there will be."""
        names = [path.name for path in results]
        self._journal.append(f"{name}/ended", {"results": names})
        self._index(names)

    def settle(self, keys: Iterable[str]) -> None:
        """The runner knows that these were refused: who asks for them from now on wants them asked anew."""
        if named := sorted(keys):
            self._journal.append(f"{os.urandom(8).hex()}/settled", {"keys": named})

    def row(self, key: str) -> Mapping[str, Any] | None:
        """The answer to `key` as the service wrote it."""
        if key not in self._rows:
            return None
        path, offset = self._rows[key]
        with path.open("rb") as stream:
            stream.seek(offset)
            row: Mapping[str, Any] = json.loads(stream.readline())
        return row

    def forget(self, key: str) -> None:
        """The answer to `key` is of no use: it is to be asked anew."""
        self._rows.pop(key, None)

    def whole(self, path: Path) -> bool:
        """Whether every line of a file of answers can be read."""
        return all(row is not None for row, _ in _rows(path))

    def _index(self, names: Iterable[str]) -> None:
        """Where each key's answer stands: in the last job that had it, and within a job the first."""
        found: dict[str, tuple[Path, int]] = {}
        for path in (self.results / name for name in names):
            for row, offset in _rows(path) if path.exists() else ():
                if row is not None and (key := self._key_of(row)) is not None:
                    found.setdefault(key, (path, offset))
        self._rows.update(found)


def _rows(path: Path) -> Iterator[tuple[Any, int]]:
    """Each row, None where a line is cut or broken, and where it begins."""
    offset = 0
    with path.open("rb") as stream:
        for raw in stream:
            if raw.strip():
                try:
                    yield json.loads(raw), offset
                except ValueError:
                    yield None, offset
            offset += len(raw)
