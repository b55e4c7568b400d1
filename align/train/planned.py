"""`align estimate` of a training on the rows of a file: counted to the token before a weight is there, let alone read.

`instruct` need not wait for `pretrain`: the model that it begins with will have the tokenizer of the backbone, the
image processor of the tower, and their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.context import Context
from align.models.encode import Encoder
from align.models.lengths import Lengths
from align.models.quiet import quiet
from align.settings import Train
from align.tokens import training_flops
from align.train import instruct, pretrain
from align.train.counted import asked_of, count, model_of
from align.train.modules import tensors
from align.train.preflight import Ahead, look_ahead
from annotate.stage import Estimate, Progress, Reading

if TYPE_CHECKING:
    from align.recipe import Recipe

OTHER_HALF = ("text_model.", "text_projection", "visual_projection", "logit_scale")
"""Of a CLIP, what is no part of its tower."""
ROWS_OF = {"pretrain": pretrain.rows_of, "instruct": instruct.rows_of}


@dataclass(frozen=True)
class Start:
    """A model to begin with, as far as counting asks."""

    ahead: Ahead
    shapes: Sequence[tuple[str, Sequence[int]]]
    name: str


def estimate_training(context: Context, stage: str, *, progress: Progress) -> Estimate | None:
    """What the stage will read; None where the model it begins with is still to be trained, tokenizer and all."""
    recipe, settings = context.recipe, context.recipe.block(stage)
    start = _start(context)
    if start is None:
        return None
    rows, done = ROWS_OF[stage](recipe), 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        progress(done, len(rows.rows), "rows counted")

    limit = settings.max_length or start.ahead.n_positions
    found = count(asked_of(rows.rows), Lengths(start.ahead.encoder), limit=limit, progress=tell)
    left_out = dict(found.left_out)
    for failure in rows.failures:
        left_out[failure.reason.value] = left_out.get(failure.reason.value, 0) + 1
    tokens = found.tokens
    flops = training_flops(tokens, model_of(start.shapes, start.ahead.config, settings))
    reading = Reading(
        rows=tokens.rows,
        with_images=tokens.with_images,
        left_out=left_out,
        lm_tokens=tokens.lm,
        image_tokens=tokens.image,
        trained_tokens=tokens.trained,
        passes=passes(settings, tokens.rows),
        flops=flops.total,
        basis=f"counted with the tokenizer and processor of {start.name}, padding aside; operations from the shapes of "
        "the weights, formula: align tokens --help",
    )
    return Estimate(reading=reading)


def passes(settings: Train, rows: int) -> float:
    """How often the rows are gone through: epochs, or what `max_steps` makes of them on one process."""
    trl = settings.trl
    steps = trl.get("max_steps", -1)
    if steps <= 0 or not rows:
        return float(trl.get("num_train_epochs", 3.0))
    return float(steps * trl.get("per_device_train_batch_size", 8) * trl.get("gradient_accumulation_steps", 1) / rows)


def _start(context: Context) -> Start | None:
    recipe = context.recipe
    if recipe.pretrain is not None:
        if recipe.language is not None and not _is_there(recipe, "language"):
            return None
        assert context.backbone is not None
        return _joined(context.backbone, context.tower)
    if recipe.start_stage is not None and not _is_there(recipe, recipe.start_stage):
        return None
    with quiet():
        return Start(look_ahead(context.start), list(tensors(context.start)), context.start.name)


def _is_there(recipe: Recipe, stage: str) -> bool:
    return (recipe.folder / stage / "model" / "config.json").is_file()


def _joined(language: Path, tower: Path) -> Start:
    """Of the VLM that `pretrain` makes, before it does."""
    from align.models.joined import ROWS_IN, ahead_of_joining

    with quiet():
        config, processor = ahead_of_joining(language, tower)
    widened = -(-(processor.image_token_id + 1) // ROWS_IN) * ROWS_IN

    def joined(name: str, shape: Sequence[int]) -> Sequence[int]:
        """Embeddings and head grow where they have no row for the image token."""
        grows = name.endswith(("embed_tokens.weight", "lm_head.weight")) and shape[0] <= processor.image_token_id
        return [widened, *shape[1:]] if grows else shape

    wide, narrow = config.get_text_config().hidden_size, config.vision_config.hidden_size
    shapes: list[tuple[str, Any]] = [
        *((name, joined(name, shape)) for name, shape in tensors(language)),
        *((f"vision_tower.{name}", shape) for name, shape in tensors(tower) if not name.startswith(OTHER_HALF)),
        ("multi_modal_projector.linear_1.weight", [wide, narrow]),
        ("multi_modal_projector.linear_2.weight", [wide, wide]),
    ]
    ahead = Ahead(config, processor, Encoder(processor.tokenizer, processor))
    return Start(ahead, shapes, f"{language.name} and {tower.name}")
