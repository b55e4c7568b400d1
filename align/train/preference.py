"""What a DPO training computes only once: the prompts of a batch, and the reference's log-probabilities.

    shortcuts = Shortcuts.of(loaded, settings, args, folder)      # what is possible with this model and recipe
    trainer = PreferenceTrainer(..., sharing=shortcuts.sharing, has_reference=shortcuts.reference is not None)
    shortcuts.fill(trainer, rows, loaded.encoder, progress)       # before the first step

Needs torch and trl; imported when a training begins.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from accelerate.utils import gather_object

from align.models.digest import TEMPLATE_SHA256
from align.models.encode import Encoder
from align.models.load import LoadedModel
from align.settings import Train
from align.train.lora_rows import Reference, Size, Spoken, TrainRow, batch_of, spoken
from align.train.packing import why_not_shared
from align.train.reference import Crew, MadeBy, ReferenceCache, asked_of
from align.train.sampled import Sampled
from align.train.trainers import is_spread, score
from annotate.errors import UserError
from annotate.records import sha256_of
from annotate.stage import Progress

LARGER = 4
"""The reference's batches hold so many times the completions of a training batch: nothing is kept for a backward."""


@dataclass(frozen=True)
class Shortcuts:
    """What is computed once in this training, and why not where not."""

    why_not_shared: str
    reference: ReferenceCache | None
    why_live: str = ""
    sampled: Sampled | None = None

    @classmethod
    def of(
        cls, loaded: LoadedModel, settings: Train, args: Any, folder: Path, sampled: Sampled | None = None
    ) -> Shortcuts:
        """`folder`: where the reference's log-probabilities are kept, unless the settings name another."""
        if args.neftune_noise_alpha:
            raise UserError("dpo.trl.neftune_noise_alpha: noise would be in the policy and not in its reference")
        off = "switched off in the recipe" if settings.sharing == "off" else ""
        why_live = "as the recipe says" if settings.reference == "live" else _why_live(args)
        reference = None
        if not why_live:
            reference = ReferenceCache(
                Path(settings.reference_folder) if settings.reference_folder else folder,
                made_by(loaded, args),
                ld_alpha=args.ld_alpha,
            )
        if settings.quantize != "none":
            sampled = None  # it was sampled from the whole weights
        return cls(off or why_not_shared(loaded.model), reference, why_live, None if why_live else sampled)

    @property
    def sharing(self) -> bool:
        return not self.why_not_shared

    @property
    def notes(self) -> dict[str, str]:
        """For the card."""
        return {
            "completions of one prompt": f"one row each, as TRL computes them ({self.why_not_shared})"
            if self.why_not_shared
            else "share its image and question (the loss is TRL's)",
            "reference log-probabilities": f"computed at every step ({self.why_live})"
            if self.why_live
            else f"computed once, before the first step{', where the sampler did not keep them' * bool(self.sampled)}",
        }

    @property
    def source(self) -> Path | None:
        """The file that the reference's log-probabilities come from."""
        if self.reference is None:
            return None
        return self.sampled.path if self.sampled else self.reference.path

    @property
    def stand_in(self) -> Reference | None:
        """For a rehearsal, which learns nothing: zeros instead of the reference's numbers, which come after it."""
        return None if self.reference is None else _zeros

    def fill(self, trainer: Any, rows: Sequence[tuple[TrainRow, Size]], encoder: Encoder, progress: Progress) -> None:
        """Compute the reference's log-probabilities that are not known yet."""
        if self.reference is None:
            return
        if self.sampled is not None:
            self.reference.take(rows, self.sampled)

        def scored(batch: Sequence[tuple[TrainRow, str]]) -> list[array[float]]:
            try:
                return _score(trainer, [spoken(row, text, encoder) for row, text in batch], encoder, self.sharing)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UserError("not even one completion of the reference fits into this GPU's memory") from None
            torch.cuda.empty_cache()
            half = len(batch) // 2
            return scored(batch[:half]) + scored(batch[half:])

        args = trainer.args
        self.reference.fill(
            asked_of(rows),
            scored,
            size=LARGER * 2 * args.per_device_train_batch_size,
            progress=progress,
            crew=Crew(args.process_index, args.world_size, gather_object),
        )


def made_by(loaded: LoadedModel, args: Any) -> MadeBy:
    """The reference of a new adapter: the model as it was loaded."""
    processor = loaded.processor
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    software = f"transformers {transformers.__version__}, trl {trl.__version__}"
    if getattr(loaded.model, "is_loaded_in_4bit", False):
        dtype = f"nf4, {dtype}"
        software += f", bitsandbytes {version('bitsandbytes')}"
    return MadeBy(
        model=loaded.digest,
        adapter="",
        processor=sha256_of(processor.image_processor.to_json_string() if processor is not None else ""),
        template=TEMPLATE_SHA256,
        precision=f"{dtype}, computed in bfloat16" if args.bf16 else dtype,
        software=software,
    )


def _zeros(rows: Sequence[TrainRow], sequences: Sequence[Spoken]) -> dict[str, torch.Tensor]:
    return {f"ref_{side}_logps": torch.zeros(len(rows)) for side in ("chosen", "rejected")}


def _why_live(args: Any) -> str:
    if is_spread(args):
        return "the model is spread over several processes"
    return ""


def _score(trainer: Any, rows: Sequence[Spoken], encoder: Encoder, sharing: bool) -> list[array[float]]:
    log_probs = score(trainer, batch_of(rows, encoder, sharing=sharing))
    starts = [len(row.prompt.ids) - 1 for row in rows]
    return [
        array("f", log_probs[n, start : start + len(row.after)].tolist())
        for n, (start, row) in enumerate(zip(starts, rows, strict=True))
    ]
