"""What a training leaves: an adapter in PEFT's layout, or, where it had none, the whole model as a folder.

    adapter/   adapter_config.json adapter_model.safetensors     (LoRA; projector and tower too where they were trained)
               trained_on                                        the model that it belongs to
    model/     *.safetensors, and configuration, tokenizer and processor of the base as they are

Both are written beside their place and renamed into it; neither says where or when it was made.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from align.digest import file_sha256, model_digest
from align.models.load import TRAINED_ON
from align.models.merge import copy_beside_weights
from align.settings import Train

WEIGHTS = "adapter_model.safetensors"


def kind(settings: Train) -> str:
    """The name of the folder: `adapter` or `model`."""
    return "adapter" if settings.parts.language == "lora" else "model"


def weights_sha256(folder: Path) -> str | None:
    """Of what is in an `adapter` or a `model`; None where it is not whole."""
    if folder.name == "model":
        return model_digest(folder) if (folder / "config.json").is_file() else None
    return file_sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else None


def save_adapter(model: Any, final: Path, *, trained_on: str, weights: Any = None) -> None:
    """The adapter as PEFT reads it, and the digest of the model it was `trained_on`.

    `weights`: where they are spread over processes, gathered.
    """
    temporary = _beside(final)
    model.save_pretrained(str(temporary), safe_serialization=True, save_embedding_layers=False, state_dict=weights)
    (temporary / "README.md").unlink(missing_ok=True)
    path = temporary / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None  # a path of this machine; the card names the base by digest
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (temporary / TRAINED_ON).write_text(f"{trained_on}\n", encoding="utf-8")
    _into_place(temporary, final)


def save_model(model: Any, base: Path, final: Path, *, weights: Any = None) -> None:
    """The whole model; `weights`: where they are spread over processes, gathered."""
    temporary = _beside(final)
    model.save_pretrained(str(temporary), state_dict=weights)
    # TRL changes a configuration for its training, and so do we
    copy_beside_weights(base, temporary, replace=True)
    _into_place(temporary, final)


def _beside(final: Path) -> Path:
    temporary = final.with_name(f"{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    return temporary


def _into_place(temporary: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
