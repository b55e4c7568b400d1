"""What a training really puts through its model, counted where it happens: at the language model and at the tower.

    trainer.meter = Meter(model, image_id);  trainer.train();  trainer.meter.total(trainer.accelerator)
      ->  Measured(tokens=Tokens(rows=64, lm=21044, padded=21760, ...), tower_calls=4, tower_calls_of_text=0, seconds=…)

Counts are kept in every checkpoint, so that a training that was killed counts no step twice; seconds are those of the
pieces that led to the end. Nothing else of the training is touched: no random number, no measure, no weight.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from align.tokens import Tokens
from align.train.lora_rows import IGNORED

COUNTED = (
    "rows", "with_images", "images", "views", "lm", "image", "trained", "squared", "padded", "tower_calls",
    "tower_calls_of_text",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of all steps of a training and all its processes."""

    tokens: Tokens
    tower_calls: int
    tower_calls_of_text: int
    """Of these, those in batches without an image."""
    seconds: float
    """Of the steps, on the first process."""


class Meter(TrainerCallback):
    """For one training. The trainer hands every batch to `batch`; the rest is seen by hooks while it trains."""

    def __init__(self, model: Any, image_id: int | None) -> None:
        """`model`: without an adapter around it; its parts are watched, not changed."""
        self._language, self._tower = _parts(model)
        self._image_id = image_id
        self._counts: dict[str, Any] = dict.fromkeys(COUNTED, 0)
        self._seconds, self._since = 0.0, 0.0
        self._known = True
        self._sees = False
        self._hooks: list[Any] = []

    def batch(self, inputs: Mapping[str, Any]) -> None:
        """One batch, as the collator made it."""
        pixels = inputs.get("pixel_values")
        self._sees = pixels is not None
        self._add("rows", len(inputs["input_ids"]))
        self._add("trained", (inputs["labels"] != IGNORED).sum())
        if self._sees:
            images = inputs["input_ids"] == self._image_id
            self._add("image", images.sum())
            self._add("with_images", images.any(dim=1).sum())
            self._add("images", len(inputs.get("image_grid_thw", pixels)))

    def total(self, accelerator: Any) -> Measured | None:
        """Of all processes together; None where the counts of an earlier piece are lost. Every process calls it."""
        counts = torch.tensor([int(self._counts[name]) for name in COUNTED] + [int(self._known)])
        if accelerator.num_processes > 1:
            counts = accelerator.gather(counts.to(accelerator.device).unsqueeze(0)).cpu()
            counts[0, -1] = counts[:, -1].min()
            counts = torch.cat([counts[:, :-1].sum(dim=0), counts[:1, -1]])
        found: dict[str, int] = dict(zip(COUNTED, counts.tolist()[:-1], strict=True))
        if not counts[-1]:
            return None
        calls = {name: found.pop(name) for name in ("tower_calls", "tower_calls_of_text")}
        return Measured(tokens=Tokens(**found), **calls, seconds=round(self._seconds, 3))

    # -------------------------------------------------------------------------------------------------- the training

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self._read(_file(args, state))
        self._hooks = [self._language.register_forward_pre_hook(self._read_by_language, with_kwargs=True)]
        if self._tower is not None:
            self._hooks.append(self._tower.register_forward_pre_hook(self._seen_by_tower, with_kwargs=True))
        self._since = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_the_clock()
        counts = {name: int(value) for name, value in self._counts.items()}
        path = _file(args, state)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"counts": counts, "seconds": self._seconds}) + "\n", encoding="utf-8")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_the_clock()
        for hook in self._hooks:
            hook.remove()

    def _stop_the_clock(self) -> None:
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now

    def _read(self, path: Path) -> None:
        """Go on from what the checkpoint counted; one that was written before trainings were counted has nothing."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            self._counts, self._seconds = dict(kept["counts"]), kept["seconds"]
        except OSError:
            self._known = False

    def _read_by_language(self, module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        given = kwargs.get("input_ids", args[0] if args else None) if given is None else given
        mask = kwargs.get("attention_mask")
        rows, width = given.shape[:2]
        lengths = mask.sum(dim=1) if mask is not None and mask.dim() == 2 else torch.full((rows,), width)
        self._add("padded", rows * width)
        self._add("lm", lengths.sum())
        self._add("squared", (lengths.long() ** 2).sum())

    def _seen_by_tower(self, module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        shown = kwargs.get("pixel_values", args[0] if args else ())
        self._add("views", len(shown))
        self._add("tower_calls", 1)
        self._add("tower_calls_of_text", not self._sees)

    def _add(self, name: str, more: Any) -> None:
        """Tensors stay where they are: to look at them at every step would make a GPU wait."""
        self._counts[name] = self._counts[name] + more


def _parts(model: Any) -> tuple[Any, Any]:
    """The language model without its head, and the tower, where there is one."""
    tower = model.get_encoder(modality="image")
    return model.get_decoder(), None if tower is model else tower


def _file(args: Any, state: Any) -> Path:
    """In the checkpoint of the step, one of each process."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / f"counted-{args.process_index}.json"
