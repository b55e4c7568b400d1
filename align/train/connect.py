"""Stage `connect`: CLIP tower and projector from nothing, the language model untouched. Patches rows in, a VLM out.

Each projected patch is drawn, by cosine, to the language model's own embeddings of the words that say what the patch
shows (its colour, its digit), against the other words of that slot: contrastive like CLIP (arXiv:2103.00020), but in
the word space that LLaVA's first stage aims at (arXiv:2304.08485, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from align.building import ConnectSettings
from align.models.tiny import build_processor, build_vlm, pixel_values, save_small
from align.train.base import IGNORED, Progress, fit, passes
from align.train.rows import Patches
from annotate.errors import MmalignError
from annotate.pixels import rgb

NORM_WEIGHT = 0.1


@dataclass(frozen=True)
class Slot:
    """One kind of thing that a patch can show (first word of each patch: colour; second: digit), and its words."""

    words: list[str]
    embeddings: torch.Tensor
    """One row per word, from the language model."""


def read_pixels(path: Path) -> np.ndarray:
    return np.array(rgb(path))


def build_slots(rows: Sequence[Patches], tokenizer: PreTrainedTokenizerFast, table: torch.Tensor) -> list[Slot]:
    """The words of every slot over all rows; each must be one token, else it has no single embedding."""
    n = max(len(patch) for row in rows for patch in row.words)
    slots = []
    for k in range(n):
        words = sorted({patch[k] for row in rows for patch in row.words if len(patch) > k})
        ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
        split = [word for word, tokens in zip(words, ids, strict=True) if len(tokens) != 1]
        if split:
            raise MmalignError(f"connect: {', '.join(split)} is not one token; name it more often in the language rows")
        slots.append(Slot(words, table[[tokens[0] for tokens in ids]].clone()))
    return slots


def targets(row: Patches, slots: Sequence[Slot]) -> list[list[int]]:
    """Word number per slot and patch; background is ignored."""
    return [
        [slot.words.index(patch[k]) if len(patch) > k else IGNORED for patch in row.words]
        for k, slot in enumerate(slots)
    ]


def match_loss(features_BPD: torch.Tensor, targets_BSP: torch.Tensor, slots: Sequence[Slot], scale: float) -> Any:
    """Cross-entropy over scaled cosines, summed over slots, and a pull towards the length that words have."""
    unit_BPD = functional.normalize(features_BPD, dim=-1)
    total = torch.zeros(())
    for k, slot in enumerate(slots):
        logits_BPW = scale * unit_BPD @ functional.normalize(slot.embeddings, dim=-1).T
        total = total + functional.cross_entropy(
            logits_BPW.flatten(0, 1), targets_BSP[:, k].flatten(), ignore_index=IGNORED
        )
    length = torch.stack([slot.embeddings.norm(dim=-1).mean() for slot in slots]).mean()
    return total + NORM_WEIGHT * ((features_BPD.norm(dim=-1) / length - 1) ** 2).mean()


def train_connect(
    rows: Sequence[Patches],
    language: Path,
    image_root: Path,
    settings: ConnectSettings,
    seed: int,
    workspace: Path,
    out: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Join a new tower and projector to the model in `language`; save the VLM and its processor to `out`."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(language)
    backbone = LlamaForCausalLM.from_pretrained(language, dtype=torch.float32)
    set_seed(seed)
    model = build_vlm(backbone, settings, tokenizer)
    processor = build_processor(tokenizer)
    for parameter in (*model.model.language_model.parameters(), *model.lm_head.parameters()):
        parameter.requires_grad_(False)
    slots = build_slots(rows, tokenizer, model.get_input_embeddings().weight)
    data = [(read_pixels(image_root / row.image.path), targets(row, slots)) for row in rows]

    def collate(batch: Sequence[Any]) -> dict[str, Any]:
        return {
            "pixel_values": pixel_values([pixels for pixels, _ in batch], processor),
            "targets": torch.tensor([wanted for _, wanted in batch]),
        }

    def loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        features = model.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        return match_loss(torch.stack(list(features)), inputs["targets"], slots, settings.cosine_scale)

    log = fit(
        model,
        data,
        passes(len(data), settings.steps * settings.batch_size, seed),
        collate=collate,
        loss=loss,
        settings=settings,
        seed=seed,
        workspace=workspace,
        progress=progress,
    )
    save_small(model, out, processor)
    return log
