"""The folder of a run on disk: its lock, the outputs of its stages, their receipts, and what was superseded.

    runs/<name>/.lock                      held by the one process that works on it, says which
    runs/<name>/<stage>/                   outputs, manifest.json; journal.jsonl and work/ outlive a kill
    runs/<name>/superseded/<stage>-5c1e…-1/    outputs of an earlier identity; never overwritten

Outputs are made in a hidden folder, synced and renamed into place; the manifest comes last, so a stage with a manifest
has all its outputs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from align.digest import file_sha256
from align.state import ATTEMPT, read_attempt
from annotate.errors import UserError
from annotate.jsonl import dump_line, write_text
from annotate.records import Manifest, Record
from annotate.stage import Compiled

PRIVATE = {"journal.jsonl", "manifest.json", "work"}
"""What a stage's folder holds besides its outputs; and whatever begins with a dot."""
_NEW = ".new"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's folder. Raises `UserError` saying who has it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # below /proc, say
        raise UserError(f"{run}: no folder can be made there; give another place, e.g. runs=runs") from None
    with (run / ".lock").open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise UserError(f"{run} is in use by {_holder(stream.read())}; wait for it, or stop it first") from None
        stream.truncate(0)
        command = shlex.join(["align", *sys.argv[1:]])
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command}, stream)
        stream.flush()
        yield


def _holder(text: str) -> str:
    try:
        held = json.loads(text)
        return f"process {held['pid']} on {held['host']} since {held['since']} ({held['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


class StageFolder:
    """One stage's folder, opened for work by whoever holds the run's lock."""

    def __init__(self, run: Path, stage: str) -> None:
        self.run, self.stage = run, stage
        self.path = run / stage
        self.journal = self.path / "journal.jsonl"
        self.workspace = self.path / "work"

    def begin(self, units: int, training: tuple[str, str] | None = None) -> None:
        """Note that there is work under way; `training`: its `training_sha256` and its folder below `work`."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        trainings = read_attempt(self.path).get("trainings", {})
        if training is not None:
            trainings = {known: folder for known, folder in trainings.items() if known != training[0]}
            trainings[training[0]] = training[1]
        self._attempt(units, "", trainings)

    def failed(self, error: str) -> None:
        """Note why the work did not end, for `align status`; nothing where even that cannot be written."""
        try:
            attempt = read_attempt(self.path)
            line = error.splitlines()[0][:300] if error else ""
            self._attempt(attempt["units"], line, attempt.get("trainings", {}))
        except (OSError, KeyError):
            return

    def _attempt(self, units: int, error: str, trainings: Mapping[str, str]) -> None:
        told = {"units": units, "error": error} | ({"trainings": trainings} if trainings else {})
        write_text(self.path / ATTEMPT, json.dumps(told))

    def stage_outputs(self, compiled: Compiled) -> dict[str, str]:
        """Write all files into the hidden folder, synced; returns file -> sha256."""
        new = self.path / _NEW
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(parents=True)
        for name, content in compiled.files.items():
            if Path(name).parts[0] in PRIVATE or name.startswith((".", "/")) or ".." in Path(name).parts:
                raise AssertionError(f"{self.stage}: an output cannot be called {name!r}")
            _write(new / name, content)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        return {path.relative_to(new).as_posix(): file_sha256(path) for path in files}

    def publish(self, manifest: Manifest, before: Manifest | None, keep_old: bool) -> Path | None:
        """Rename the staged outputs into place, then write the manifest; returns where older outputs went, if any."""
        kept = None
        if before is not None and keep_old and self._to_keep(before, manifest):
            kept = self._supersede(before)
        (self.path / "manifest.json").unlink(missing_ok=True)
        for old in self._visible():
            _remove(old)
        for path in sorted((self.path / _NEW).iterdir()):
            path.rename(self.path / path.name)
        (self.path / _NEW).rmdir()
        text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_text(self.path / "manifest.json", text)
        _sync_folder(self.path)
        (self.path / ATTEMPT).unlink(missing_ok=True)
        return kept

    def _visible(self) -> list[Path]:
        return [p for p in sorted(self.path.iterdir()) if p.name not in PRIVATE and not p.name.startswith(".")]

    def _to_keep(self, before: Manifest, now: Manifest) -> bool:
        """Whether other bytes than the new ones lie there: of an earlier identity, or edited by hand."""
        if before.outputs != now.outputs:
            return True
        there = {name: self.path / name for name in now.outputs if (self.path / name).is_file()}
        return any(file_sha256(path) != now.outputs[name] for name, path in there.items())

    def _supersede(self, before: Manifest) -> Path:
        """Move the old outputs aside, the manifest last: a kill in between is made good by the next run."""
        target = self._superseded_folder(before.identity_sha256[:8])
        target.mkdir(parents=True, exist_ok=True)
        for path in self._visible():
            path.rename(target / path.name)
        (self.path / "manifest.json").rename(target / "manifest.json")
        return target

    def _superseded_folder(self, identity: str) -> Path:
        """The next free one; one without a manifest is a move that was cut short, and is gone on with."""
        number = 1
        while True:
            folder = self.run / "superseded" / f"{self.stage}-{identity}-{number}"
            if not (folder / "manifest.json").exists():
                return folder
            number += 1


def _write(path: Path, content: Iterable[Record | Mapping[str, Any]] | Mapping[str, Any] | str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        if content.is_dir():
            shutil.copytree(content, path)
        else:
            shutil.copyfile(content, path)
        for file in [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if p.is_file()]:
            _sync(file)
        return
    if isinstance(content, Mapping):
        content = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    lines = [content] if isinstance(content, str) else (dump_line(row) for row in content)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(lines)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def commit() -> str:
    """The commit of this checkout, `+` behind it where files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if changed.returncode else "")
