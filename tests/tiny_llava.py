"""A real LLaVA with random weights, built in a second: what the tests of sampling, training and evaluation run on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from align.context import PromptSet
from align.digest import model_digest
from align.models.tiny import build_language_model, build_processor, build_tokenizer, build_vlm
from align.recipe import Recipe
from align.train.settings_base import ConnectSettings, LanguageSettings
from annotate.records import Image, Prompt, Turn
from annotate.stage import Compiled

CORPUS = [
    "USER: Is there a red digit in the picture? ASSISTANT: Yes, the 7 is red.",
    "USER: Which digit is blue? ASSISTANT: The blue digit is 4.",
    "USER: Name three fruits. ASSISTANT: Apple, pear, plum.",
] * 4


def save_tiny_llava(folder: Path, *, seed: int = 0) -> Path:
    """A LLaVA in `folder`, in Hugging Face layout."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(CORPUS, 400)
    language = build_language_model(LanguageSettings(width=32, layers=2, heads=2, init_std=0.2), tokenizer)
    build_vlm(language, ConnectSettings(), tokenizer).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def save_tiny_language_model(folder: Path, *, seed: int = 0) -> Path:
    """The language model of the above before it could see."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(CORPUS, 400)
    build_language_model(LanguageSettings(width=32, layers=2, heads=2, init_std=0.2), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_image(root: Path, name: str, *, seed: int, size: tuple[int, int] = (48, 48)) -> Image:
    """A picture of coloured noise below `root`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(root / name)
    return Image(path=name, sha256=hashlib.sha256((root / name).read_bytes()).hexdigest())


def ask_about(*images: Image, text: str = "Which digit is blue?") -> Prompt:
    """One user turn with the images before the text."""
    return Prompt.of((Turn(role="user", text="<image>\n" * len(images) + text, images=images),))


@dataclass(frozen=True)
class FolderContext:
    """What a stage is handed, made from a model folder, prompts and records at hand."""

    recipe: Recipe
    stage: str
    model: Path
    prompt_set: PromptSet
    inputs: Mapping[tuple[str, str], Sequence[Any]] = field(default_factory=dict)
    """(stage, file) -> its records."""
    files: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    backbone: Path | None = None

    @property
    def model_sha256(self) -> str:
        return model_digest(self.model)

    def prompts(self) -> PromptSet:
        return self.prompt_set

    def has(self, stage: str) -> bool:
        return self.recipe.block(stage) is not None

    def records(self, stage: str, file: str, kind: type[Any]) -> Sequence[Any]:
        return self.inputs[stage, file]

    def path(self, stage: str, name: str) -> Path:
        return self.files[stage, name]


def run_stage(work: Any, workspace: Path) -> tuple[Compiled, list[str]]:
    """Plan, execute, compile, as the runner does; returns the outputs and the notes of progress."""
    lines: dict[str, Any] = {}
    notes: list[str] = []
    work.execute(work.units, lines.__setitem__, workspace, lambda done, total, note="": notes.append(note))
    return work.compile(json.loads(json.dumps(lines)), workspace), notes
