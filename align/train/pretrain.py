"""Stage `pretrain`: a LLaVA out of a language model, a CLIP tower and a new projector; the projector alone learns.

In: `backbone`, `pretrain.tower` and the rows that the block names, images with captions. Out: see
`align.train.lora_stage`; `model/`. Run it with `align pretrain RECIPE`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from align.context import Context
from align.train.file_rows import FileRows, read_file_rows
from align.train.lora_stage import LoraWork
from annotate.records import sha256_of

if TYPE_CHECKING:
    from align.recipe import Recipe


def rows_of(recipe: Recipe) -> FileRows:
    """What the stage trains on."""
    settings = recipe.pretrain
    assert settings is not None
    return read_file_rows(
        Path(settings.rows), Path(settings.image_root), stage="pretrain", seed=recipe.seed, n=settings.n
    )


def work(context: Context) -> LoraWork:
    recipe, settings, backbone = context.recipe, context.recipe.pretrain, context.backbone
    assert settings is not None and backbone is not None
    found = rows_of(recipe)

    def build(workspace: Path) -> Path:
        """The model to train, put together once."""
        from align.models.joined import join
        from align.models.quiet import quiet

        folder = workspace / "joined" / made_of[:16]
        if not folder.is_dir():
            with quiet():
                join(
                    backbone,
                    context.tower,
                    folder,
                    projector=settings.projector,
                    feature_layer=settings.feature_layer,
                    seed=recipe.seed,
                )
        return folder

    made_of = sha256_of(
        [context.backbone_sha256, context.tower_sha256, settings.projector, settings.feature_layer, recipe.seed]
    )
    return LoraWork(
        context,
        counted=True,
        stage="pretrain",
        method="sft",
        rows=found.rows,
        start=(build, made_of),
        left_out=found.failures,
        funnel={"rows of the file": found.read},
    )
