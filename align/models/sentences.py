"""Sentence embedders: models of the sentence-transformers library, from a folder or the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.digest import model_digest
from annotate.errors import UserError

_HOME = "sentence-transformers"
"""Whose model a name without an owner is."""
_NOT_NEEDED = ["onnx/*", "openvino/*", "*.bin", "*.h5", "*.ot", "*.msgpack"]
"""The same weights for other libraries."""


class Sentences:
    """One loaded model."""

    why = ""

    def __init__(self, name: str, sha256: str, model: Any) -> None:
        self.name, self.sha256, self.model = name, sha256, model

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A row of length 1 for each text."""
        made = self.model.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(made, dtype=np.float32)


def load_sentences(name: str, tell: Callable[[str], None]) -> Sentences:
    """The model in a folder, in the hub's cache or on the hub. Raises `UserError` where it cannot be had."""
    if find_spec("sentence_transformers") is None:
        raise UserError("sentence-transformers is not installed: pip install 'mmalign[diversity]'")
    folder = Path(name) if Path(name).is_dir() else _fetched(name if "/" in name else f"{_HOME}/{name}", tell)
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: is no model of sentence-transformers ({str(error).splitlines()[0]})") from None
    return Sentences(name, model_digest(folder), model)


def _fetched(name: str, tell: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except ValueError:  # no name of the hub
        raise UserError(f"{name} is no folder and no name of a model on the hub") from None
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise UserError(f"{name} is not in the cache and HF_HUB_OFFLINE is set; fetch it once, or name a folder")
    tell(f"downloading {name} from the hub")
    try:
        return Path(snapshot_download(name, ignore_patterns=_NOT_NEEDED))
    except LocalEntryNotFoundError:
        raise UserError(f"{name} is not in the cache and the hub is away; fetch it once, or name a folder") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the hub does not give {name} ({reason}); is the name right? hf auth login?") from None
