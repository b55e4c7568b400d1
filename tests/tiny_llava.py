"""A real LLaVA with random weights, built in a second: what the tests of sampling, training and evaluation run on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from align.building import ConnectSettings, LanguageSettings
from align.context import PromptSet
from align.digest import model_digest
from align.models.tiny import build_language_model, build_processor, build_tokenizer, build_vlm, token_ids
from align.recipe import Recipe
from annotate.records import Completion, Image, PreferencePair, Prompt, Turn
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


OTHER_TEMPLATE = """{% for m in messages %}[{{ m['role'] }}] {% for c in m['content'] %}\
{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}\
{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"""


def save_tiny_llava_next(folder: Path, *, seed: int = 0) -> Path:
    """A VLM of another family, with a chat template of its own: it cuts images into patches as large as it needs."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(CORPUS, 400)
    language = build_language_model(LanguageSettings(width=32, layers=2, heads=2, init_std=0.2), tokenizer)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=48,
        patch_size=16,
    )
    grids = [[48, 96], [96, 48], [96, 96]]
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=language.config,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
        image_seq_length=9,
        tie_word_embeddings=False,
        **token_ids(tokenizer),
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=grids
    )
    LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=OTHER_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def save_image(root: Path, name: str, *, seed: int, size: tuple[int, int] = (48, 48)) -> Image:
    """A picture of coloured noise below `root`; it is never seen half-written by another process that saves it too."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    new = (root / name).with_suffix(f".{os.getpid()}{Path(name).suffix}")
    PILImage.fromarray(pixels).save(new)
    new.replace(root / name)
    return Image(path=name, sha256=hashlib.sha256((root / name).read_bytes()).hexdigest())


def ask_about(*images: Image, text: str = "Which digit is blue?") -> Prompt:
    """One user turn with the images before the text."""
    return Prompt.of((Turn(role="user", text="<image>\n" * len(images) + text, images=images),))


def pair(prompt: Prompt, chosen: str = "The 4 is blue, I am sure.", rejected: str = "No") -> PreferencePair:
    better, worse = (
        Completion.of(prompt_id=prompt.id, model="m", index=i, text=text) for i, text in enumerate((chosen, rejected))
    )
    return PreferencePair(id=prompt.id, prompt=prompt, chosen=better, rejected=worse, margin=3.0, rule="test")


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
    also: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_sha256(self) -> str:
        return model_digest(self.model)

    @property
    def backbone_sha256(self) -> str | None:
        return model_digest(self.backbone) if self.backbone else None

    @property
    def start(self) -> Path:
        return self.model

    @property
    def start_sha256(self) -> str:
        return model_digest(self.model)

    @property
    def tower(self) -> Path:
        raise AssertionError("no stage that is tested so builds a model")

    @property
    def tower_sha256(self) -> str:
        raise AssertionError("no stage that is tested so builds a model")

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
