"""Stage `instruct`: visual instruction tuning of any VLM, whole or by LoRA, and its ablations.

In: the rows that the block names, and the model of `pretrain`, or what `model` names. Out: see
`align.train.lora_stage`; `model/` always, with the adapter merged into it where one was trained. Run it with
`align instruct RECIPE`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from align.context import Context
from align.train.file_rows import FileRows, read_file_rows
from align.train.lora_stage import LoraWork

if TYPE_CHECKING:
    from align.recipe import Recipe


def rows_of(recipe: Recipe) -> FileRows:
    """What the stage trains on."""
    settings = recipe.instruct
    assert settings is not None
    return read_file_rows(
        Path(settings.rows),
        Path(settings.image_root),
        stage="instruct",
        seed=recipe.seed,
        images=settings.images,
        select=settings.select,
        n=settings.n,
        whole=settings.learn == "all_answers",
    )


def work(context: Context) -> LoraWork:
    found = rows_of(context.recipe)
    return LoraWork(
        context,
        counted=True,
        stage="instruct",
        method="sft",
        rows=found.rows,
        start=(context.start, context.start_sha256),
        left_out=found.failures,
        funnel={"rows of the file": found.read, "rows that fit": found.fitting},
        merged=True,
    )
