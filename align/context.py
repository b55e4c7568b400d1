"""What a stage is handed: the recipe, the checked prompts, and the finished outputs of earlier stages.

Each stage module exposes `work(context) -> Work` (see `annotate.stage`). It opens no files of its own: records come
from here, results leave through `Compiled`.

What each stage leaves in `runs/<name>/<stage>/`:

    language   model/ log.jsonl                       the language model alone (only the demo trains one)
    connect    model/ log.jsonl                       tower + projector joined to it
    tune       model/ log.jsonl                       after visual instruction tuning
    pretrain   model/ log.jsonl failures.jsonl card.md    a VLM whose projector has learnt
    instruct   model/ log.jsonl failures.jsonl card.md [adapter/ snapshots/step-N/]
    sample     completions.jsonl failures.jsonl       Completion, n per prompt
    annotate   annotated.jsonl failures.jsonl         Annotated; replies.jsonl keeps the raw texts (for `replay`)
               calibration.json calibration.html      how far the annotator can be trusted [checks.jsonl]
    teach      completions.jsonl failures.jsonl       Completion, one per prompt, by the annotator
    pairs      preference.jsonl steerlm.jsonl rejection.jsonl failures.jsonl funnel.json
               conditioning.json card.md
    dpo, steerlm, rejection, sft
               adapter/ log.jsonl failures.jsonl card.md [conditioning.txt: appended to prompts at inference]
               model/ in place of adapter/ where the recipe's parts.language is not lora
    evaluate   items.jsonl metrics.jsonl verdicts.json failures.jsonl questions.json
    report     report.html report.json table.txt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from annotate.records import Failure, Image, Prompt, Record

if TYPE_CHECKING:
    from align.base import Resolved
    from align.recipe import Recipe

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts of a recipe, checked whole: every image exists, opens and has the hash its record says."""

    prompts: tuple[Prompt, ...]
    failures: tuple[Failure, ...]
    """Rows left out under `prompts.invalid: skip`."""
    duplicates: int
    """Rows with the content of an earlier one; counted, kept once."""
    root: Path

    def image_path(self, image: Image) -> Path:
        return self.root / image.path


class Context(Protocol):
    """Made by the runner, one per stage."""

    recipe: Recipe
    stage: str

    @property
    def model(self) -> Path:
        """Folder of the vision-language model to sample and align (a hub name is resolved to its snapshot)."""
        ...

    @property
    def model_sha256(self) -> str: ...

    @property
    def model_note(self) -> str:
        """Which model was taken, for the reader: "shipped, trained by recipes/demo_base.yaml with seed 0"."""
        ...

    @property
    def start(self) -> Path:
        """Folder of the model that visual instruction tuning begins with."""
        ...

    @property
    def start_sha256(self) -> str: ...

    @property
    def tower(self) -> Path:
        """Folder of the vision tower that a VLM is built with."""
        ...

    @property
    def tower_sha256(self) -> str: ...

    @property
    def backbone(self) -> Path | None:
        """Folder of the language model before visual tuning, where the recipe names one."""
        ...

    @property
    def backbone_sha256(self) -> str | None: ...

    @property
    def also(self) -> Mapping[str, Resolved]:
        """The further models that `evaluate` compares, by the name of their row."""
        ...

    def prompts(self) -> PromptSet: ...

    def has(self, stage: str) -> bool:
        """Whether the recipe has this stage."""
        ...

    def records(self, stage: str, file: str, kind: type[R]) -> Sequence[R]: ...

    def path(self, stage: str, name: str) -> Path:
        """A finished output of an earlier stage."""
        ...
