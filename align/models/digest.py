"""What a model is, as one hash: so that a completion, an adapter or a score can say which weights it came from.

Takes a folder in Hugging Face layout, gives sha256 over the names and hashes of all files that decide what the model
does: weights, configuration, tokenizer, processor. Torch-free.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from align.models.template import render
from annotate.records import Turn, sha256_of

DECIDING = ("*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt")
"""Everything else in the folder (READMEs, logs) says nothing about the outputs."""

_PROBE = (
    Turn(role="system", text="s"),
    Turn(role="user", text="q"),
    Turn(role="assistant", text="a"),
    Turn(role="user", text="q"),
)
TEMPLATE_SHA256 = sha256_of(render(_PROBE, "a"))
"""Changes with the bytes of the template, and so makes everything stale that was sampled or trained with them."""


def model_sha256(folder: Path, adapter: Path | None = None) -> str:
    """The digest of the model in `folder`, with the adapter in `adapter` on top where one is given."""
    parts = _files(folder)
    return sha256_of(parts if adapter is None else [parts, _files(adapter)])


def _files(folder: Path) -> list[list[str]]:
    found = sorted({path for pattern in DECIDING for path in folder.glob(pattern)})
    return [[path.name, file_sha256(path)] for path in found]


def file_sha256(path: Path) -> str:
    """The sha256 of a file; read once per process as long as size and time of change stay as they are."""
    status = path.stat()
    return _hash_file(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
