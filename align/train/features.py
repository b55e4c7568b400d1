"""What a frozen vision tower makes of each image, computed once and kept: later epochs and runs never run it.

    runs/<name>/rejection/work/features/3f09c1d2a4b5c6d7/91ab….safetensors     some hundred images each

A folder is named by what makes the numbers: the tower's weights and configuration, the layers that are read, precision,
torch's version. An image in it is named by its pixels as the processor made them, so another processor, or another
picture of the same name, is never mistaken for it. Each image is run alone, so that what comes out does not hang on
what else is in its batch. It is the output before the projector, which may learn.

Files are written beside and renamed; a kill loses what was not written yet, and that is computed again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.modeling_outputs import BaseModelOutputWithPooling

from align.train.packing import FAMILIES
from annotate.errors import UserError
from annotate.records import sha256_of

SHARD_BYTES = 256 << 20
"""Of features in memory, at which a file is written: some hundred images of LLaVA-1.5."""


class Kept(TrainerCallback):
    """The features of one tower in one folder; writes what is new with every checkpoint, and at the end."""

    def __init__(self, folder: Path, made_by: str) -> None:
        self._folder, self._made_by = folder, made_by
        self._new: dict[str, torch.Tensor] = {}
        self._held = 0
        self._places: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def __contains__(self, key: str) -> bool:
        return key in self._new or key in self._places

    def __getitem__(self, key: str) -> torch.Tensor:
        found: torch.Tensor = self._new[key] if key in self._new else self._places[key].get_tensor(key)
        return found

    def add(self, key: str, features: torch.Tensor) -> None:
        self._new[key] = features
        self._held += features.nbytes
        if self._held >= SHARD_BYTES:
            self.write()

    def write(self) -> None:
        """What is new, in a file that is whole or not there."""
        if not self._new:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{sha256_of(sorted(self._new))[:16]}.safetensors"
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(self._new, beside, metadata={"made_by": self._made_by})
        beside.replace(path)
        self._new, self._held = {}, 0
        self._open(path)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write()

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
            if (file.metadata() or {}).get("made_by") != self._made_by:
                raise ValueError("it is of another tower, precision or torch")
            self._places |= dict.fromkeys(file.keys(), file)
        except (OSError, ValueError, SafetensorError) as error:
            told = f"features: {path} is left out ({error}); its images are computed again"
            print(told, file=sys.stderr, flush=True)


def keep_features_of(trainer: Any, folder: Path) -> dict[str, str]:
    """Keep what the frozen tower makes of each image, and say so for the card."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UserError("features: cache does not go with FSDP or ZeRO; use recipes/accelerate/ddp.yaml")
    model = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model
    trainer.add_callback(keep_features(model, folder, precision=f"{model.dtype}, {trainer.args.mixed_precision}"))
    return {"features": "of the frozen tower, computed once for each image"}


def keep_features(model: Any, folder: Path, *, precision: str) -> Kept:
    """Let the model's frozen tower answer from `folder`, where it can; `precision`: of the arithmetic."""
    if model.config.model_type not in FAMILIES:
        raise UserError(f"features: cache is for models of type {', '.join(FAMILIES)}, not {model.config.model_type}")
    tower = model.get_encoder(modality="image")
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise UserError("features: cache is for a frozen tower, and something in it is trained; features: off")
    layer = model.config.vision_feature_layer
    layers = [layer] if isinstance(layer, int) else list(layer)
    made_by = sha256_of(
        {
            "weights": _weights_sha256(tower),
            "config": tower.config.to_json_string(),
            "layers": layers,
            "precision": precision,
            "torch": torch.__version__,
        }
    )
    others = [path.name for path in folder.glob("*/") if path.name != made_by[:16]]
    if others and not (folder / made_by[:16]).exists():
        told = f"features: what is in {folder} is of another tower, precision or torch; all is computed anew"
        print(told, file=sys.stderr, flush=True)
    kept = Kept(folder / made_by[:16], made_by)
    tower.forward = _from(kept, tower.forward, layers)
    return kept


def _from(kept: Kept, run: Callable[..., Any], layers: Sequence[int]) -> Callable[..., Any]:
    """The tower's forward, of which each image is run alone, and once."""

    @functools.wraps(run)
    @torch.no_grad()
    def forward(pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        asked = {**kwargs, "output_hidden_states": True, "return_dict": True}
        found = []
        for image in pixel_values:
            key = hashlib.sha256(image.detach().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
            if key not in kept:
                states = run(image[None], **asked).hidden_states
                kept.add(key, torch.stack([states[layer][0] for layer in layers]).cpu().contiguous())
            found.append(kept[key])
        stacked = torch.stack(found).to(pixel_values.device)  # image, layer, token, width
        states = {layer: stacked[:, n] for n, layer in enumerate(layers)}
        return BaseModelOutputWithPooling(last_hidden_state=states[layers[-1]], hidden_states=states)

    return forward


def _weights_sha256(tower: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
