"""The stages in the order in which they run: what each needs, what decides its result, where its work is.

One word per stage: recipe block = verb = make target = module = folder below `runs/<name>/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from annotate.records import Completion

if TYPE_CHECKING:
    from align.context import Context
    from annotate.stage import Work


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the table. What it needs is written `stage` or `stage/output`."""

    name: str
    work: str
    """`module:function` of what makes the stage's `Work` from its context."""
    requires: tuple[str, ...] = ()
    """Outputs of stages without which this one makes no sense."""
    reads: tuple[str, ...] = ()
    """Further outputs that it reads where the recipe has their stage."""
    options: tuple[str, ...] = ()
    """Single options of other blocks that decide its result too."""
    seeded: bool = True
    uses_prompts: bool = False
    uses_model: bool = False
    uses_backbone: bool = False
    uses_start: bool = False
    """Works on the model that visual instruction tuning begins with."""
    uses_tower: bool = False
    tensors: bool = False
    """Needs torch; then `threads` decides the result too."""


MODEL_MADE_BY = ("instruct", "tune")
"""Stages that make the model of the recipe; the first that the recipe has."""
START_MADE_BY = ("pretrain", "tune", "connect")
"""Stages that make the model which `instruct` begins with, likewise."""
_BUILT = ("language", "connect", "tune", "pretrain", "instruct")
_TRAINED = ("dpo", "steerlm", "rejection", "sft")
_TABLE = (
    Stage(name="language", work="align.train.built:language", tensors=True),
    Stage(
        name="connect", work="align.train.built:connect", reads=("language/model",), uses_backbone=True, tensors=True
    ),
    Stage(name="tune", work="align.train.built:tune", requires=("connect/model",), tensors=True),
    Stage(name="pretrain", work="align.train.pretrain:work", uses_backbone=True, uses_tower=True, tensors=True),
    Stage(name="instruct", work="align.train.instruct:work", uses_start=True, tensors=True),
    Stage(name="sample", work="align.sample.stage:work", uses_prompts=True, uses_model=True, tensors=True),
    Stage(
        name="annotate",
        work="align.stages:annotate_work",
        requires=("sample/completions.jsonl",),
        uses_prompts=True,
    ),
    Stage(name="teach", work="align.stages:teach_work", uses_prompts=True),
    Stage(
        name="pairs",
        work="align.pairs.stage:work",
        requires=("annotate/annotated.jsonl",),
        options=("annotate.rubric",),
        uses_prompts=True,
    ),
    Stage(
        name="dpo",
        work="align.train.dpo:work",
        requires=("pairs/preference.jsonl",),
        reads=("sample/logprobs.jsonl",),
        uses_model=True,
        tensors=True,
    ),
    Stage(
        name="steerlm",
        work="align.train.steerlm:work",
        requires=("pairs/steerlm.jsonl", "pairs/conditioning.json"),
        uses_model=True,
        tensors=True,
    ),
    Stage(
        name="rejection",
        work="align.train.rejection:work",
        requires=("pairs/rejection.jsonl",),
        uses_model=True,
        tensors=True,
    ),
    Stage(
        name="sft",
        work="align.train.sft:work",
        requires=("teach/completions.jsonl",),
        uses_prompts=True,
        uses_model=True,
        tensors=True,
    ),
    Stage(
        name="evaluate",
        work="align.evaluate.stage:work",
        reads=(
            *(f"{name}/{made}" for name in _TRAINED for made in ("adapter", "model")),
            "steerlm/conditioning.txt",
            "instruct/snapshots",
        ),
        options=("annotate.backend", "annotate.model"),
        uses_model=True,
        uses_backbone=True,
        tensors=True,
    ),
    Stage(
        name="report",
        work="align.report.stage:work",
        reads=(
            "language",
            "connect",
            "tune",
            "pretrain",
            "instruct",
            "sample",
            "annotate",
            "teach",
            "pairs",
            *_TRAINED,
            "evaluate",
        ),
        seeded=False,
    ),
)
STAGES = {stage.name: stage for stage in _TABLE}


def make_work(stage: Stage, context: Context) -> Work:
    """Import the stage and let it plan."""
    module, _, function = stage.work.partition(":")
    work: Work = getattr(import_module(module), function)(context)
    return work


def annotate_work(context: Context) -> Work:
    """What `annotate` has to do: rate the completions of stage `sample`."""
    from align.calibrated import CalibratedWork

    assert context.recipe.annotate is not None
    found = context.prompts()
    return CalibratedWork(
        prompts=found.prompts,
        completions=context.records("sample", "completions.jsonl", Completion),
        settings=context.recipe.annotate,
        seed=context.recipe.seed,
        read_image=lambda image: found.image_path(image).read_bytes(),
    )


def teach_work(context: Context) -> Work:
    """What `teach` has to do: let the annotator answer the prompts itself."""
    from annotate.teach import TeachWork

    assert context.recipe.teach is not None
    found = context.prompts()
    return TeachWork(
        prompts=found.prompts,
        settings=context.recipe.teach,
        seed=context.recipe.seed,
        read_image=lambda image: found.image_path(image).read_bytes(),
    )
