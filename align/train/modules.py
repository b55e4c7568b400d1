"""The modules of a model before its weights are read: are those among them that the recipe wants to train?

    model_faults(folder, recipe.dpo)   ->   ["lora.target: '.*qproj' matches no module of this model; …"]

Parts are looked for in the heads of the weights' files. What `lora.target` matches is known from the model itself,
built without weights: files and modules need not have the same names. Only a target of the recipe's own costs that.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.settings import Lora, Parts, Train
from align.train.parts import MODULES
from annotate.errors import UserError

ALL_LINEAR = "all-linear"
"""What PEFT takes instead of a regular expression."""
ADAPTABLE = ("Linear", "Embedding", "Conv1d", "Conv2d", "Conv3d", "Conv1D", "Linear4bit")
"""Classes of modules that PEFT puts an adapter on."""


def model_faults(folder: Path, settings: Train) -> list[str]:
    """What the recipe asks of a model that it does not have, each beginning with the option's name."""
    names = [name for name, _ in tensors(folder)]
    pieces = {piece for name in names for piece in name.split(".")}
    missing = [module for module in MODULES.values() if module not in pieces]
    if missing and settings.parts != Parts():
        return [
            f"parts: a model of type {_type_of(folder)} has no {' and no '.join(missing)}, by which its parts would be "
            "told; leave `parts` out, and its language model learns by LoRA"
        ]
    target = settings.lora.target
    if settings.parts.language != "lora" or target == ALL_LINEAR:
        return []
    usual = target == Lora().target
    if usual and any(re.fullmatch(target, name.removesuffix(".weight")) for name in names):
        return []
    wrong = _target_fault(target, folder)
    return [f"lora.target: {wrong}"] if wrong else []


def tensors(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor, from the heads of the safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > path.stat().st_size:
                    raise ValueError("its head is longer than the file")
                head = json.loads(stream.read(length))
            found = [(name, entry["shape"]) for name, entry in head.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise UserError(f"{path}: not a file of safetensors ({error}); was it copied whole?") from None
        yield from found


def _type_of(folder: Path) -> str:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config.get("model_type"))


def _target_fault(target: str, folder: Path) -> str:
    """What is wrong with the expression, empty where it matches modules that can have an adapter, and no others."""
    modules = _modules(folder)
    matched = {name: kind for name, kind in modules.items() if re.fullmatch(target, name)}
    if not matched:
        layers = (name for name, kind in modules.items() if kind == "Linear" and "layers" in name)
        called = next((name for name in layers if "vision" not in name and "visual" not in name), "")
        like = f"; its layers are called like {called}" * bool(called)
        return f"{target!r} matches no module of this model{like}. The expression is held against the whole name"
    wrong = {name: kind for name, kind in matched.items() if kind not in ADAPTABLE}
    if wrong:
        name, kind = next(iter(wrong.items()))
        called = name or "the model itself"
        return f"{target!r} also matches {called} ({kind}), which can have no adapter; be more exact"
    heads = [name for name in matched if name.endswith("lm_head")]
    if heads:
        return (
            f"{target!r} also matches {heads[0]}, whose matrix TRL's loss reads itself: nothing would be learnt there"
        )
    return ""


def _modules(folder: Path) -> dict[str, str]:
    """Name -> class of every module of the model, which is built without weights."""
    from align.models.quiet import quiet

    with quiet():
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from error
    return {name: type(module).__name__ for name, module in model.named_modules()}
