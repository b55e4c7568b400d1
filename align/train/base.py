"""What the three base stages share: batches in a planned order, exact resume, one log row per few steps.

A stage hands in tensors per row and the order in which rows are used (steps x batch size long); transformers' Trainer
walks through it. A checkpoint counts once its marker file is renamed in, so that a kill while one is written costs
only the steps since the one before. A run that was killed and started again ends with the weights of one that was not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments, set_seed

from align.models.template import render_completion, render_prompt
from align.train.checkpoints import COMPLETE, last_whole, seal
from align.train.rows import Conversation

WEIGHTS = "weights.safetensors"
IGNORED = -100
Progress = Callable[[int, int, float], None]
"""Called with (step, steps, loss)."""


class Ordered(Dataset[Any]):
    """Rows in the planned order; row k of step s is order[s * batch_size + k]."""

    def __init__(self, rows: Sequence[Any], order: Sequence[int]) -> None:
        self.rows, self.order = rows, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Any:
        return self.rows[self.order[position]]


def passes(count: int, needed: int, seed: int) -> list[int]:
    """Row numbers for `needed` places: one shuffled pass over all rows after another."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < needed:
        order += torch.randperm(count, generator=generator).tolist()
    return order[:needed]


def by_length(order: Sequence[int], lengths: Sequence[int], batch_size: int, seed: int, pool: int = 16) -> list[int]:
    """The same rows, those of like length in one batch: sorted within pools of batches, then batches shuffled."""
    generator = torch.Generator().manual_seed(seed)
    planned: list[int] = []
    for start in range(0, len(order), pool * batch_size):
        chunk = sorted(order[start : start + pool * batch_size], key=lambda i: lengths[i])
        batches = [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
        for b in torch.randperm(len(batches), generator=generator).tolist():
            planned += batches[b]
    return planned


def encode(conversation: Conversation, tokenizer: PreTrainedTokenizerFast, image_tokens: int) -> dict[str, Any]:
    """Token ids of the rendered conversation, and labels that are the answers alone (their EOS included)."""
    ids: list[int] = []
    labels: list[int] = []
    for end in range(1, len(conversation.turns), 2):
        turns = conversation.turns[: end + 1]
        earlier = render_prompt(turns[:-2]) if end > 1 else ""
        asked = render_prompt(turns[:-1])[len(earlier) :]
        marker = "<image>"
        asked_ids = tokenizer(asked.replace(marker, marker * image_tokens), add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(render_completion(turns[-1].text), add_special_tokens=False)["input_ids"]
        ids += asked_ids + answer_ids
        labels += [IGNORED] * len(asked_ids) + answer_ids
    return {"input_ids": ids, "labels": labels}


def pad(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded input_ids, attention_mask and labels."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids_BT = torch.full((len(rows), longest), pad_id)
    labels_BT = torch.full((len(rows), longest), IGNORED)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids_BT[i, :n] = torch.tensor(row["input_ids"])
        labels_BT[i, :n] = torch.tensor(row["labels"])
        mask_BT[i, :n] = 1
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


class StageTrainer(Trainer):
    """Trainer with the loss of a stage, and checkpoints that are whole or do not count."""

    def __init__(self, *, loss: Callable[[Any, dict[str, Any]], torch.Tensor], **rest: Any) -> None:
        super().__init__(**rest)
        self.stage_loss = loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        loss = self.stage_loss(model, inputs)
        return (loss, None) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Plain names: a LLaVA is saved under its hub names, which Trainer, resuming, would silently not find."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        (model or self.model).load_state_dict(load_file(Path(resume_from_checkpoint) / WEIGHTS), strict=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        seal(folder, folder / COMPLETE)


class _Log(TrainerCallback):
    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.progress and logs and "loss" in logs:
            self.progress(state.global_step, state.max_steps, float(logs["loss"]))


def fit(
    model: Any,
    rows: Sequence[Any],
    order: Sequence[int],
    *,
    collate: Callable[[Sequence[Any]], dict[str, Any]],
    loss: Callable[[Any, dict[str, Any]], torch.Tensor],
    settings: Any,
    seed: int,
    workspace: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place over `order`; returns the log rows {"step", "loss", "learning_rate", "grad_norm"}."""
    workspace.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(workspace),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=0.05,
        adam_beta2=0.98,
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=seed,
        use_cpu=True,
        logging_steps=max(1, settings.steps // 50),
        save_steps=settings.save_every,
        save_total_limit=2,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=Ordered(rows, order),
        data_collator=collate,
        loss=loss,
        callbacks=[_Log(progress)],
    )
    trainer.remove_callback(_printer())
    resume = last_whole(workspace, lambda text: print(text, file=sys.stderr, flush=True), inside=True)
    set_seed(seed)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    wanted = ("step", "loss", "learning_rate", "grad_norm")
    return [{k: row[k] for k in wanted if k in row} for row in trainer.state.log_history if "loss" in row]


def _printer() -> type[TrainerCallback]:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def write_log(log: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")


def answer_loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of the batch; each answer token weighs the same."""
    labels_BT = inputs["labels"][:, 1:]
    outputs = model(**{k: v for k, v in inputs.items() if k != "labels"})
    logits_NV = outputs.logits[:, :-1][labels_BT != IGNORED]
    return torch.nn.functional.cross_entropy(logits_NV, labels_BT[labels_BT != IGNORED])
