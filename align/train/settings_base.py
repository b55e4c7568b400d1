"""Recipe blocks of the three stages that build a VLM from nothing: `language:`, `connect:`, `tune:`.

Plain frozen dataclasses, torch-free; every field but the places of files decides the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class LanguageSettings:
    """A Llama and its tokenizer from nothing, on text dialogues: the demo's "Vicuna"."""

    rows: str = _option("data/demo/language.jsonl", "training rows: conversation records")
    vocabulary: int = _option(512, "tokens of the byte-level BPE, special ones included")
    width: int = _option(128, "hidden size")
    layers: int = _option(3, "decoder layers")
    heads: int = _option(8, "attention heads")
    init_std: float = _option(0.08, "initial weights; at this width Llama's usual 0.02 learns far slower")
    steps: int = _option(1300, "optimizer steps")
    easy_steps: int = _option(350, "of these, the first on rows of level 0 alone (repeating what was said)")
    batch_size: int = _option(32, "dialogues per step")
    learning_rate: float = _option(3e-3, "peak; 5% warm-up, cosine to 5%")
    save_every: int = _option(200, "steps between checkpoints")


@dataclass(frozen=True, kw_only=True)
class ConnectSettings:
    """CLIP tower and MLP projector, so that each patch lands on the word embeddings of what it shows."""

    rows: str = _option("data/demo/connect.jsonl", "training rows: patches records")
    image_root: str = _option("data/demo/images", "folder that image paths are relative to")
    tower_layers: int = _option(2, "layers of the vision tower; its width and heads are the language model's")
    projector_std: float = _option(0.05, "initial weights of the projector")
    cosine_scale: float = _option(14.0, "sharpness of the match between patch and words")
    steps: int = _option(500, "optimizer steps")
    batch_size: int = _option(96, "images per step")
    learning_rate: float = _option(2e-3, "peak, of tower and projector alike")
    save_every: int = _option(200, "steps between checkpoints")


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Visual instruction tuning: projector and language model learn, the tower is frozen (LLaVA-1.5, stage 2)."""

    rows: str = _option("data/demo/tune.jsonl", "training rows: conversation records")
    image_root: str = _option("data/demo/images", "folder that image paths are relative to")
    steps: int = _option(1000, "optimizer steps")
    batch_size: int = _option(32, "conversations per step")
    curriculum_steps: int = _option(800, "steps over which the level of admitted rows rises from 1 to the highest")
    text_share: float = _option(0.06, "share of text-only conversations in each batch, on average")
    learning_rate: float = _option(1.5e-3, "peak; 5% warm-up, cosine to 5%")
    save_every: int = _option(250, "steps between checkpoints")
