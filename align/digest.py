"""Hashes of files and models, remembered by size and time of change so that a 26 GB checkpoint is read once.

What is remembered lies in `~/.cache/mmalign/digests.json` (or `$XDG_CACHE_HOME`); losing it costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path

from align.models.digest import DECIDING
from annotate.records import sha256_of

_LARGE = 1 << 20
"""Smaller files are hashed anew sooner than looked up."""


def file_sha256(path: Path) -> str:
    """sha256 of the file's bytes, in hex."""
    status = path.stat()
    if status.st_size < _LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    key = str(path.resolve())
    known = _remembered()
    stamp = [status.st_size, status.st_mtime_ns]
    if key not in known or known[key][:2] != stamp:
        with path.open("rb") as stream:
            known[key] = [*stamp, hashlib.file_digest(stream, "sha256").hexdigest()]
        _remember(known)
    return str(known[key][2])


def model_digest(folder: Path) -> str:
    """What a model is: names and hashes of its weights, configuration and tokenizer."""
    # CLIP towers of the hub have their weights in this format alone; beside safetensors it is not read
    weights = () if any(folder.glob("*.safetensors")) else ("*.bin",)
    found = sorted({path for pattern in (*DECIDING, *weights) for path in folder.glob(pattern)})
    return sha256_of([[path.name, file_sha256(path)] for path in found])


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "mmalign" / "digests.json"


@cache
def _remembered() -> dict[str, list[int | str]]:
    try:
        known: dict[str, list[int | str]] = json.loads(_cache_file().read_text(encoding="utf-8"))
        return known
    except (OSError, ValueError):
        return {}


def _remember(known: dict[str, list[int | str]]) -> None:
    path = _cache_file()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
