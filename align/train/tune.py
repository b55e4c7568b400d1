"""Stage `tune`: visual instruction tuning of projector and language model. Conversation rows in, the finished VLM out.

Rows about images and text-only rows alternate in the planned order; rows of a higher level (more things in the image)
are admitted step by step, since a look-up among one is learned before a look-up among four.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, set_seed

from align.building import TuneSettings
from align.models.tiny import pixel_values, save_small
from align.train.base import Progress, answer_loss, encode, fit, pad
from align.train.connect import read_pixels
from align.train.rows import Conversation


def plan_order(rows: Sequence[Conversation], settings: TuneSettings, seed: int) -> list[int]:
    """Row numbers, steps x batch_size of them: levels up to the admitted one, text rows at their share."""
    generator = torch.Generator().manual_seed(seed)
    text = [i for i, row in enumerate(rows) if not row.images]
    highest = max(row.level for row in rows)
    order: list[int] = []
    streams: dict[tuple[str, int], list[int]] = {}

    def draw(name: str, level: int, pool: list[int]) -> int:
        stream = streams.setdefault((name, level), [])
        if not stream:
            stream += [pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()]
        return stream.pop()

    admitted = [[i for i, row in enumerate(rows) if row.images and row.level <= level] for level in range(highest + 1)]
    for step in range(settings.steps):
        level = min(highest, 1 + step * highest // max(1, settings.curriculum_steps))
        is_text = torch.rand(settings.batch_size, generator=generator) < settings.text_share
        for wants_text in is_text.tolist():
            order.append(draw("text", 0, text) if wants_text and text else draw("image", level, admitted[level]))
    return order


def train_tune(
    rows: Sequence[Conversation],
    connected: Path,
    image_root: Path,
    settings: TuneSettings,
    seed: int,
    workspace: Path,
    out: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Tune the VLM in `connected` on `rows`; save it with its processor to `out`."""
    processor = AutoProcessor.from_pretrained(connected, backend="pil")
    set_seed(seed)
    model = LlavaForConditionalGeneration.from_pretrained(connected, dtype=torch.float32)
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    image_tokens = model.config.image_seq_length
    pixels: dict[str, np.ndarray] = {}
    data: list[dict[str, Any]] = []
    for row in rows:
        for image in row.images:
            if image.path not in pixels:
                pixels[image.path] = read_pixels(image_root / image.path)
        data.append({**encode(row, processor.tokenizer, image_tokens), "images": [i.path for i in row.images]})

    def collate(batch: Sequence[Any]) -> dict[str, Any]:
        inputs: dict[str, Any] = pad(batch, processor.tokenizer.pad_token_id)
        shown = [pixels[path] for row in batch for path in row["images"]]
        return {**inputs, "pixel_values": pixel_values(shown, processor)} if shown else inputs

    log = fit(
        model,
        data,
        plan_order(rows, settings, seed),
        collate=collate,
        loss=answer_loss,
        settings=settings,
        seed=seed,
        workspace=workspace,
        progress=progress,
    )
    save_small(model, out, processor)
    return log
