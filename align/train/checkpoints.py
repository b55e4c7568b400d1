"""Checkpoints of a training that are whole, or do not count: sealed when they are written, checked when it goes on.

    work/5c1e…/checkpoint-50/         adapter, optimizer, scheduler, random numbers, trainer_state.json
    work/5c1e…/checkpoint-50.done     {"step": 50, "files": {"optimizer.pt": {"bytes": 1840, "sha256": "9f2c…"}, …}}

transformers goes on without a word from a checkpoint that has lost its optimizer, and ends with other weights; so what
is missing or changed is told, and the checkpoint before is taken. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPLETE = "complete"
"""The seal of a checkpoint of the base stages, which lies inside of it."""
HASHED_BELOW = 1 << 30
"""Bytes. Larger files, whole models and their optimizers, are known by size alone: hashing them takes minutes."""
_NEEDED = {
    "trainer_state.json": ("trainer_state.json",),
    "adapter_model.safetensors": ("*.safetensors", "pytorch_model*", "global_step*"),
    "optimizer.pt": ("optimizer*", "global_step*"),
    "scheduler.pt": ("scheduler.pt", "global_step*"),
    "rng_state.pth": ("rng_state*.pth",),
}
"""What a checkpoint must hold whose seal lists no files, and under which names: of one process, FSDP or DeepSpeed."""


def marker_of(checkpoint: Path) -> Path:
    """The seal beside a checkpoint."""
    return checkpoint.with_name(checkpoint.name + ".done")


def seal(checkpoint: Path, marker: Path) -> None:
    """Sync all files of the checkpoint, then rename its marker into place, with their sizes and hashes."""
    files: dict[str, Any] = {}
    for path in sorted(checkpoint.rglob("*")):
        _sync(path)
        if path.is_file():
            files[path.relative_to(checkpoint).as_posix()] = _entry(path)
    _sync(checkpoint)
    temporary = marker.with_suffix(".tmp")
    text = json.dumps({"step": step_of(checkpoint), "files": files}, indent=1)
    temporary.write_text(text + "\n", encoding="utf-8")
    _sync(temporary)
    temporary.replace(marker)


def damage(checkpoint: Path, marker: Path, *, hashes: bool = True) -> str:
    """What is wrong with a checkpoint that was sealed, e.g. `optimizer.pt is missing`; empty where nothing is.

    Without `hashes` only names and sizes are looked at.
    """
    try:
        told = json.loads(marker.read_text(encoding="utf-8"))
        files = told.get("files") if isinstance(told, dict) else None
    except (OSError, ValueError):
        return f"{marker.name} cannot be read"
    if files is None:  # of a run that began when seals held the step alone
        missing = [name for name, known in _NEEDED.items() if not any(any(checkpoint.glob(one)) for one in known)]
        return f"{missing[0]} is missing" if missing else ""
    for name, entry in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, not {entry['bytes']:,}"
        if hashes and "sha256" in entry and _entry(path) != entry:
            return f"{name} was changed"
    return ""


def last_whole(folder: Path, tell: Callable[[str], None], *, inside: bool = False) -> Path | None:
    """The newest checkpoint in `folder` that is sealed and as it was then; all that are not are deleted.

    `tell` hears of damaged ones, and from where the training goes on instead. `inside`: seals lie in the checkpoints.
    """
    for marker in folder.glob("checkpoint-*.done"):
        if not marker.with_suffix("").is_dir():
            marker.unlink()
    damaged: list[str] = []
    whole = None
    found = (path for path in folder.glob("checkpoint-*") if path.is_dir())
    for checkpoint in sorted(found, key=step_of, reverse=True):
        marker = checkpoint / COMPLETE if inside else marker_of(checkpoint)
        if not marker.is_file():  # a kill cut it short
            shutil.rmtree(checkpoint)
        elif whole is None and (why := damage(checkpoint, marker)):
            damaged.append(f"{checkpoint.name} is damaged: {why}")
            marker.unlink()
            shutil.rmtree(checkpoint)
        elif whole is None:
            whole = checkpoint
    if damaged:
        tell("; ".join([*damaged, f"goes on from {whole.name}" if whole else "starts at step 1"]))
    return whole


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def remove(folder: Path) -> None:
    """Delete all checkpoints of a training that has ended."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _entry(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size >= HASHED_BELOW:
        return {"bytes": size}
    with path.open("rb") as stream:
        return {"bytes": size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
