"""The blocks of a recipe that make a model, in the order in which their stages run (see `align.settings`).

`language`, `connect` and `tune` build the demo's from nothing, `pretrain` and `instruct` any VLM from a language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from align.settings import Parts, Train, option


@dataclass(frozen=True, kw_only=True)
class LanguageSettings:
    """A Llama and its tokenizer from nothing, on text dialogues: the demo's "Vicuna"."""

    rows: str = option("data/demo/language.jsonl", "training rows: conversation records", operational=True)
    vocabulary: int = option(512, "tokens of the byte-level BPE, special ones included", low=260)
    width: int = option(128, "hidden size", low=8)
    layers: int = option(3, "decoder layers", low=1)
    heads: int = option(8, "attention heads", low=1)
    init_std: float = option(0.08, "initial weights; at this width Llama's usual 0.02 learns far slower", above=0)
    steps: int = option(1300, "optimizer steps", low=1)
    easy_steps: int = option(350, "of these, the first on rows of level 0 alone (repeating what was said)", low=0)
    batch_size: int = option(32, "dialogues per step", low=1)
    learning_rate: float = option(3e-3, "peak; 5% warm-up, cosine to 5%", above=0)
    save_every: int = option(200, "steps between checkpoints", low=1, operational=True)


@dataclass(frozen=True, kw_only=True)
class ConnectSettings:
    """CLIP tower and MLP projector, so that each patch lands on the word embeddings of what it shows.

    The language model is that of `language`, or, where the recipe has none, the backbone it names.
    """

    rows: str = option("data/demo/connect.jsonl", "training rows: patches records", operational=True)
    image_root: str = option("data/demo/images", "folder that image paths are relative to", operational=True)
    tower_layers: int = option(2, "layers of the vision tower; its width and heads are the language model's", low=1)
    projector_std: float = option(0.05, "initial weights of the projector", above=0)
    cosine_scale: float = option(14.0, "sharpness of the match between patch and words", above=0)
    steps: int = option(500, "optimizer steps", low=1)
    batch_size: int = option(96, "images per step", low=1)
    learning_rate: float = option(2e-3, "peak, of tower and projector alike", above=0)
    save_every: int = option(200, "steps between checkpoints", low=1, operational=True)


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Visual instruction tuning: projector and language model learn, the tower is frozen (LLaVA-1.5, stage 2)."""

    rows: str = option("data/demo/tune.jsonl", "training rows: conversation records", operational=True)
    image_root: str = option("data/demo/images", "folder that image paths are relative to", operational=True)
    steps: int = option(1000, "optimizer steps", low=1)
    batch_size: int = option(32, "conversations per step", low=1)
    curriculum_steps: int = option(
        800, "steps over which the level of admitted rows rises from 1 to the highest", low=0
    )
    text_share: float = option(0.06, "share of text-only conversations in each batch, on average", low=0, high=1)
    learning_rate: float = option(1.5e-3, "peak; 5% warm-up, cosine to 5%", above=0)
    save_every: int = option(250, "steps between checkpoints", low=1, operational=True)


@dataclass(frozen=True, kw_only=True)
class PretrainParts(Parts):
    """Stage 1 trains the projector alone."""

    language: Literal["lora", "full", "frozen"] = option("frozen", "the language model")
    projector: Literal["frozen", "full"] = option("full", "between tower and language model")


@dataclass(frozen=True, kw_only=True)
class InstructParts(Parts):
    """Stage 2 trains projector and language model; `lora` is Sight Beyond Text's MM-lora, `full` its MM-ft."""

    language: Literal["lora", "full", "frozen"] = option("full", "the language model: whole, or by the adapter")
    projector: Literal["frozen", "full"] = option("full", "between tower and language model")


@dataclass(frozen=True, kw_only=True)
class Pretrain(Train):
    """Stage 1 of visual instruction tuning: a LLaVA out of a language model, a tower and a new projector, which learns.

    LLaVA (arXiv:2304.08485, section 4.2); Sight Beyond Text, section 2; MLAN, section 2.2.
    """

    tower: str = option("", "the vision tower, a CLIP: a folder or a hub name", operational=True)
    projector: Literal["mlp", "linear"] = option(
        "mlp", "two layers with GELU between them (LLaVA-1.5, MLAN), or one layer (LLaVA, Sight Beyond Text)"
    )
    feature_layer: int = option(-2, "which layer of the tower gives the features; -2 is the last but one")
    rows: str = option(
        "", "JSONL of examples, of prompts with a reference, or of conversations (data/prepare_*.py)", operational=True
    )
    image_root: str = option(".", "folder that image paths are relative to", operational=True)
    n: int | None = option(None, "so many of the rows: a seeded, nested draw", low=1)
    parts: PretrainParts = option(PretrainParts, "what learns, and at which rate")  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class Instruct(Train):
    """Stage 2: visual instruction tuning of projector and language model, whole or by LoRA; and its ablations."""

    rows: str = option(
        "", "JSONL of examples, of prompts with a reference, or of conversations (data/prepare_*.py)", operational=True
    )
    image_root: str = option(".", "folder that image paths are relative to", operational=True)
    images: Literal["keep", "strip"] = option(
        "keep",
        "strip: the same instructions without their images, the placeholder and its line break gone (Sight Beyond "
        "Text, section 3.3: text-only visual instruction tuning)",
    )
    select: Mapping[str, Any] = option(
        dict, "rows whose `meta` says so, e.g. {type: conversation} or {type: [detail, reasoning]}"
    )
    n: int | None = option(
        None, "so many of these rows: a seeded, nested draw, so that data sets can be compared at one size", low=1
    )
    learn: Literal["all_answers", "last_answer"] = option(
        "all_answers", "of a dialogue: on which answers the loss falls; LLaVA's falls on all"
    )
    snapshots: tuple[int, ...] = option(
        (), "optimizer steps after which a copy is kept and evaluated (Sight Beyond Text, Figure 4)"
    )
    parts: InstructParts = option(InstructParts, "what learns, and at which rate")  # noqa: RUF009
    batches: Literal["auto", "mixed", "unimodal"] = option(
        "unimodal",
        "unimodal: rows with images and rows of text alone never share a batch, nor a step of several processes, so "
        "that text never runs the tower and leaves the projector untouched (MLAN, section E.1); mixed; auto",
    )
