"""Before the first step: what the rows are, what memory they need, and whether the longest of them fit.

    ahead = look_ahead(folder)                                  # processor and configuration, no weights
    needs = memory_needed(folder, ahead.config, settings, ...)  # "about 17.9 GB: weights 14.1 GB, adapter and …"
    rehearse(trainer, tokens, ids)                              # one pass over the longest batch, nothing learnt

Rows are checked by `align.train.lora_rows.measure_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.models.encode import Encoder
from align.models.load import check_folder, load_processor
from align.settings import Train
from align.train.lora_rows import Collator, Size, TrainRow
from align.train.modules import tensors
from align.train.parts import part_of
from align.train.reference import asked_of
from annotate.errors import UserError

if TYPE_CHECKING:
    import torch

KEPT_PER_TOKEN = {4: 20.8, 2: 25.0}
"""Numbers kept for the backward per token, layer and unit of width: a Llama layer with adapters on all projections.
In 2 bytes they are more: norms are computed in 4, and adapters, which are in 4, are given copies of their own."""
KEPT_BY_DROPOUT = {4: 5.4, 2: 1.0}
"""Bytes per token and input of an adapter with dropout: what was not dropped, and which; in 2 bytes such a copy."""
ADAPTER_BYTES = 16
"""Per trained number, in float32: itself, its gradient, and Adam's two."""
HEADROOM = 0.9
"""Share of the free memory that an estimate may fill."""
TEMPLATE_END = 8
"""Tokens at most between the last turn's text and the answer."""
NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Per weight: four bits, and per 64 weights a constant of 8 bits, which has one of 32 bits per 256 of its kind."""
TOLD_FROM = 10**9
"""Bytes; smaller trainings need no telling."""


@dataclass(frozen=True)
class Ahead:
    """A model without its weights."""

    config: Any
    processor: Any
    encoder: Encoder

    @property
    def n_positions(self) -> int | None:
        """The longest sequence the language model was built for, where its configuration says."""
        limit: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return limit


def look_ahead(folder: Path) -> Ahead:
    """What the folder says of its model: seconds, where the weights would take minutes."""
    check_folder(folder)
    from transformers import AutoConfig

    processor = load_processor(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its configuration cannot be loaded ({str(error).splitlines()[0]})") from error
    return Ahead(config, processor, Encoder(processor.tokenizer, processor))


# ------------------------------------------------------------------------------------------------------------ memory


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a training needs at its longest batch, by rule of thumb."""

    weights: int
    adapter: int
    """And what is trained whole, with gradients and the optimizer's two numbers each."""
    kept: int
    """Activations for the backward pass, all of them."""
    kept_checkpointed: int
    """The same with gradient checkpointing: the input of every layer, and one layer whole."""

    def total(self, *, checkpointing: bool) -> int:
        return self.weights + self.adapter + (self.kept_checkpointed if checkpointing else self.kept)

    def told(self, *, checkpointing: bool) -> str:
        kept = self.kept_checkpointed if checkpointing else self.kept
        how = ", gradient checkpointing" if checkpointing else ""
        return (
            f"about {_gb(self.total(checkpointing=checkpointing))}: weights {_gb(self.weights)}, adapter and optimizer "
            f"{_gb(self.adapter)}, activations of the longest batch {_gb(kept)}{how}"
        )


def costs(measured: Sequence[tuple[TrainRow, Size]], *, by_prompt: bool, sharing: bool) -> list[int]:
    """Tokens that are computed for each item of `as_dataset(rows, by_prompt=by_prompt)`."""
    if not by_prompt:
        return [size.shared if sharing else size.apart for _, size in measured]
    prompts: dict[str, list[tuple[TrainRow, Size]]] = {}
    for row, size in measured:
        prompts.setdefault(row.question, []).append((row, size))
    if not sharing:
        return [sum(size.apart for _, size in members) for members in prompts.values()]
    return [one.tokens for members in prompts.values() for one in asked_of(members)]


def costs_of_questions(measured: Sequence[tuple[TrainRow, Size]]) -> list[int]:
    """As `costs`, where rows of one question share what they begin with: at most so many tokens, by their letters.

    SteerLM's rows differ from the first score on; a letter is a token at most, or nearly so.
    """
    questions: dict[str, list[tuple[TrainRow, Size]]] = {}
    for row, size in measured:
        questions.setdefault(row.question, []).append((row, size))
    return [_together(members) for members in questions.values()]


def _together(members: Sequence[tuple[TrainRow, Size]]) -> int:
    texts = ["".join(turn.text for turn in row.prompt.turns) for row, _ in members]
    common = len(commonprefix(texts))  # noqa: RUF071 - letters are what is meant
    apart = [
        min(size.prompt, len(text) - common + TEMPLATE_END) for text, (_, size) in zip(texts, members, strict=True)
    ]
    shared = max(size.prompt - own for own, (_, size) in zip(apart, members, strict=True))
    return shared + sum(own + max(size.completions) for own, (_, size) in zip(apart, members, strict=True))


def memory_needed(
    folder: Path,
    config: Any,
    settings: Train,
    tokens: Sequence[int],
    *,
    batch_size: int,
    itemsize: int,
    dropout: bool = False,
) -> Memory:
    """From the shapes in the weights' headers and the tokens of each item.

    `itemsize`: bytes of a number while computing; `dropout`: whether the adapter's is active.
    """
    text = config.get_text_config()
    shapes = list(tensors(folder))
    target = re.compile(settings.lora.target)
    adapted = [shape for name, shape in shapes if len(shape) == 2 and target.fullmatch(name.removesuffix(".weight"))]
    longest = max(tokens) * min(batch_size, len(tokens))  # rows are padded to the longest of the batch
    layer = KEPT_PER_TOKEN[itemsize] * text.hidden_size * itemsize
    if dropout:
        layer += KEPT_BY_DROPOUT[itemsize] * sum(shape[1] for shape in adapted) / text.num_hidden_layers
    layer = int(layer * longest)
    nf4 = settings.quantize == "nf4"
    sizes = {n: prod(shape) * (NF4_BYTES if nf4 and _is_quantized(n, shape) else itemsize) for n, shape in shapes}
    whole = {name: prod(shape) for name, shape in shapes if getattr(settings.parts, part_of(name)) == "full"}
    learnt = sum(whole.values())
    if settings.parts.language == "lora":
        learnt += sum(settings.lora.r * sum(shape) for shape in adapted)
        whole = {}  # what is trained whole beside an adapter is a copy
    return Memory(
        weights=int(sum(sizes[name] for name, _ in shapes if name not in whole)),
        adapter=learnt * ADAPTER_BYTES,
        kept=layer * text.num_hidden_layers,
        kept_checkpointed=text.hidden_size * longest * itemsize * text.num_hidden_layers + layer,
    )


def wants_checkpointing(needed: Memory, free: int | None) -> bool:
    """Whether gradient checkpointing is worth its second forward pass: only where the activations do not fit."""
    return free is not None and needed.total(checkpointing=False) > HEADROOM * free


def free_memory(*, on_gpu: bool) -> int | None:
    """Bytes of the device that are free now; None where the system does not tell."""
    if on_gpu:
        import torch

        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _is_quantized(name: str, shape: Sequence[int]) -> bool:
    """Whether `load_vlm(..., quantize="nf4")` keeps this tensor in 4 bits: matrices of the language model's layers."""
    return len(shape) == 2 and "language_model" in name and not name.endswith(("embed_tokens.weight", "lm_head.weight"))


def _gb(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= TOLD_FROM / 10 else f"{n / 1e6:.1f} MB"


# --------------------------------------------------------------------------------------------------------- rehearsal


def rehearse(trainer: Any, tokens: Sequence[int], ids: Sequence[str], collate: Collator | None = None) -> None:
    """Forward and backward of the longest batch, so that memory ends in the first minute or not at all.

    `tokens`: of each item of the trainer's dataset; `ids`: of the rows; `collate`: instead of the trainer's. Nothing is
    learnt: no optimizer, no random number and no measure is touched.
    """
    import torch

    args, model = trainer.args, trainer.model
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return  # the model is not spread yet
    items = sorted(range(len(tokens)), key=lambda i: -tokens[i])[: args.per_device_train_batch_size]
    was_training = model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            batch = (collate or trainer.data_collator)([trainer.train_dataset[i] for i in items])
            inputs = trainer._prepare_inputs(batch)
            model.train()
            if args.gradient_checkpointing:
                model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
            with trainer.accelerator.autocast():
                loss: torch.Tensor = trainer.compute_loss(model, inputs)
            loss.backward()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            numbers = [trainer.train_dataset[i]["row"] for i in items[:3]]
            named = [ids[number if isinstance(number, int) else number[0]] for number in numbers]
            raise UserError(
                f"the longest batch does not fit into memory (rows {', '.join(named)}); lower "
                "trl.per_device_train_batch_size, set trl.gradient_checkpointing: true, or lower max_length"
            ) from None
        except ValueError as error:
            if not str(error).startswith("Unknown "):  # TRL looks at the names of losses and divergences only here
                raise
            raise UserError(f"the training cannot be set up: {error}") from None
        finally:
            model.zero_grad(set_to_none=True)
            model.train(was_training)
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
