"""One training with TRL, resumable at the optimizer step: what `dpo`, `steerlm`, `rejection` and `sft` share.

    train_lora(method="dpo", rows=rows, model=folder, settings=recipe.dpo, seed=0, folder=workspace, ...)
      -> Trained(log=[{"step": 1, "loss": 0.6931, …}, …], failures=[…], adapter=folder/adapter)

Killed at any moment and called again with the same arguments, it ends with the same bytes: on one machine, with one
torch build and one number of threads.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.models.load import LoadedModel, load_vlm
from align.models.quiet import quiet
from align.settings import Lora, Train
from align.train import checkpoints, parts, ranks, saved
from align.train.batches import plan_batches
from align.train.lora_rows import (
    Size,
    TrainRow,
    as_dataset,
    check_images,
    collate_examples,
    collate_preferences,
    measure_rows,
)
from align.train.modules import model_faults
from align.train.preflight import (
    TOLD_FROM,
    Ahead,
    Memory,
    costs,
    costs_of_questions,
    free_memory,
    look_ahead,
    memory_needed,
    rehearse,
    wants_checkpointing,
)
from align.train.sampled import Sampled
from align.train.trl_fields import OWNED
from annotate.errors import UserError
from annotate.records import Failure
from annotate.stage import Progress

if TYPE_CHECKING:
    from align.train.meter import Measured as Counts

Method = Literal["dpo", "sft"]
Measured = Sequence[tuple[TrainRow, Size]]
"""The rows that are trained on, with their tokens."""

GPU_ALONE = ("activation_offloading", "fp16", "tf32")
"""Options of TRL that end in an error of torch's on a CPU."""

LOGGED = ("loss", "learning_rate", "grad_norm", "epoch", "entropy", "mean_token_accuracy", "rewards/", "logps/")
"""Beginnings of the measures that go into log.jsonl: no times, no counters that start anew after a resume."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    log: list[dict[str, float]]
    """One line per optimizer step."""
    failures: list[Failure]
    n_rows: int
    """Rows trained on."""
    adapter: Path
    """Or the model, where it was trained without one."""
    notes: dict[str, str]
    """How it was computed: "shared prefixes" and "reference log-probabilities", for the card."""
    measured: Counts | None
    """What it put through the model; None for DPO, and where a part of it was not counted."""


def train_lora(
    *,
    method: Method,
    stage: str,
    rows: Sequence[TrainRow],
    model: Path,
    settings: Train,
    seed: int,
    folder: Path,
    progress: Progress,
    reference_folder: Path | None = None,
    sampled: Sampled | None = None,
) -> Trained:
    """Train `model` on `rows`; leaves `folder/adapter`, or `folder/model`. Goes on from the last checkpoint.

    `reference_folder`: where the reference's log-probabilities are kept, unless the settings name a place; `sampled`:
    those that are known from the sampler.
    """
    check_options(settings, stage, method)
    with quiet():
        ahead = look_ahead(model)
    limit = settings.max_length or ahead.n_positions
    measured, failures = measure_rows(rows, ahead.encoder, limit=limit, stage=stage, built_for=ahead.n_positions)
    if not measured:
        reasons = ", ".join(sorted({f.reason.value for f in failures})) or "none were built"
        first = f": row {failures[0].record_id}: {failures[0].detail}" if failures else ""
        raise UserError(f"{stage}: no row to train on ({reasons}){first}")
    if settings.parts.language == "frozen":
        check_images([row for row, _ in measured], stage)
    if faults := model_faults(model, settings):
        raise UserError(*(f"{stage}.{fault}" for fault in faults))
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        from align.train import trainers
        from align.train.features import keep_features_of

        tokens = _tokens(method, settings, measured, ahead)
        computed = costs_of_questions(measured) if _shares_questions(method, settings, ahead) else tokens
        needed = _memory_needed(method, model, ahead, settings, computed)
        args = _training_arguments(method, settings, seed, folder, needed)
        if settings.quantize != "none" and trainers.is_spread(args):
            raise UserError(f"{stage}.quantize: does not go with FSDP or ZeRO; use recipes/accelerate/ddp.yaml")
        ranks.tell(stage, args)
        ranks.agree(stage, args, [row.id for row, _ in measured])
        # what was encoded to be checked is not encoded again
        loaded = load_vlm(model, quantize=settings.quantize)
        loaded = replace(loaded, tokenizer=ahead.encoder.tokenizer, encoder=ahead.encoder)
        with args.main_process_first(local=False):
            checkpoint = checkpoints.last_whole(folder, lambda text: print(text, file=sys.stderr, flush=True))
        kept = reference_folder or folder / "reference"
        build = partial(_build_dpo, sampled=sampled) if method == "dpo" else _build_sft
        trainer, notes = build(loaded, measured, tokens, settings, args, kept, progress)
        if settings.features == "cache":
            notes |= keep_features_of(trainer, Path(settings.features_folder or kept.parent / "features"))
        if steps := getattr(settings, "snapshots", ()):
            keep = partial(_save, trainer, model, digest=loaded.digest)
            trainer.add_callback(trainers.Snapshots(f"{stage}.snapshots", steps, folder / "snapshots", keep, settings))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        final = folder / saved.kind(settings)
        _save(trainer, model, final, digest=loaded.digest)
        counted = trainer.meter.total(trainer.accelerator) if method == "sft" else None
    log = _log(trainer.state.log_history)
    return Trained(log=log, failures=failures, n_rows=len(measured), adapter=final, notes=notes, measured=counted)


def check_options(settings: Train, stage: str, method: Method) -> None:
    """Raise `UserError` for options that would break resuming or the bytes of a row.

    Torch-free, unless an option is among them that only a GPU makes sense of.
    """
    faults = [f"{stage}.trl.{name}: cannot be set; {OWNED[name]}" for name in sorted(set(settings.trl) & set(OWNED))]
    asked = [name for name in GPU_ALONE if settings.trl.get(name)]
    if asked and not _on_gpu():
        faults += [f"{stage}.trl.{name}: needs a GPU, and there is none; delete it" for name in asked]
    if method != "dpo":
        faults += [
            f"{stage}.{name}: means nothing here; it is an option of dpo"
            for name in ("reference", "reference_folder")
            if getattr(settings, name) != getattr(Train(), name)
        ]
    faults += [f"{stage}.{fault}" for fault in parts.faults(settings.parts, method, quantize=settings.quantize)]
    if settings.order != "random" and settings.batches == "mixed":
        faults.append(f"{stage}.order: {settings.order} needs batches of one kind; batches: unimodal, or leave it out")
    if settings.features == "cache" and settings.parts.tower != "frozen":
        faults.append(f"{stage}.features: cache is for a frozen tower; parts.tower: frozen, or features: off")
    if faults:
        raise UserError(*faults)


def _on_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _build_dpo(
    loaded: LoadedModel,
    measured: Measured,
    tokens: list[int],
    settings: Train,
    args: Any,
    folder: Path,
    tell: Progress,
    *,
    sampled: Sampled | None = None,
) -> tuple[Any, dict[str, str]]:
    """TRL's DPOTrainer, ready to train, and what the card says of how it computes."""
    from align.train.preference import Shortcuts
    from align.train.trainers import PreferenceTrainer, Watch

    rows = [row for row, _ in measured]
    shortcuts = Shortcuts.of(loaded, settings, args, folder, sampled)
    if shortcuts.why_not_shared and settings.sharing == "auto":
        print(f"dpo: one row per completion, as TRL computes it: {shortcuts.why_not_shared}", file=sys.stderr)
    collate = partial(collate_preferences, rows, loaded.encoder, sharing=shortcuts.sharing)
    trainer = _build(
        PreferenceTrainer,
        loaded,
        settings,
        args=args,
        train_dataset=as_dataset(rows, by_prompt=settings.batch_by == "prompts"),
        data_collator=collate(reference=shortcuts.reference),
        sharing=shortcuts.sharing,
        has_reference=shortcuts.reference is not None,
    )
    rehearse(trainer, tokens, [row.id for row in rows], collate(reference=shortcuts.stand_in))
    shortcuts.fill(trainer, measured, loaded.encoder, tell)
    notes = shortcuts.notes | plan_batches(trainer, rows, tokens, settings)
    trainer.add_callback(Watch(tell, check_dpo_start=True, reference=shortcuts.source))
    return trainer, notes


def _build_sft(
    loaded: LoadedModel, measured: Measured, tokens: list[int], settings: Train, args: Any, folder: Path, tell: Progress
) -> tuple[Any, dict[str, str]]:
    from align.train.meter import Meter
    from align.train.packing import score_trained_tokens_alone, why_not_shared
    from align.train.trainers import ExampleTrainer, Watch

    rows = [row for row, _ in measured]
    by_prompt = settings.batch_by == "prompts"
    why_not = why_not_shared(loaded.model)
    sharing = by_prompt and settings.sharing == "auto" and not why_not
    if by_prompt and settings.sharing == "auto" and why_not:
        print(f"one row per completion, as TRL computes it: {why_not}", file=sys.stderr)
    trainer = _build(
        ExampleTrainer,
        loaded,
        settings,
        args=args,
        train_dataset=as_dataset(rows, by_prompt=by_prompt),
        data_collator=collate_examples(rows, loaded.encoder, sharing=sharing),
        sharing=sharing,
    )
    if settings.parts.language == "frozen" and not sharing:
        score_trained_tokens_alone(trainer.model)
    rehearse(trainer, tokens, [row.id for row in rows])
    trainer.meter = Meter(loaded.model, loaded.encoder.image_id)
    trainer.add_callback(trainer.meter)  # before what seals a checkpoint
    trainer.add_callback(Watch(tell, check_dpo_start=False))
    shared = {"rows of one question": "share their image and what they begin with (the loss is TRL's)"}
    return trainer, (shared if sharing else {}) | plan_batches(trainer, rows, tokens, settings)


def _build(trainer_class: Any, loaded: LoadedModel, settings: Train, *, args: Any, **rest: Any) -> Any:
    """A trainer that trains what the settings say, a frozen tower outside the graph, and no printing."""
    from transformers import PrinterCallback, set_seed

    from align.train import trainers

    set_seed(args.seed)  # before the adapter is made: TRL makes it before it seeds
    lora = settings.parts.language == "lora"
    if not lora:
        parts.choose(loaded.model, settings.parts)
    try:
        trainer: Any = trainer_class(
            model=loaded.model,
            args=args,
            processing_class=loaded.processor,
            peft_config=_lora_config(settings) if lora else None,
            **rest,
        )
    except ValueError as error:
        raise UserError(f"the training cannot be set up: {str(error).splitlines()[0]}") from error
    parts.keep_single(trainer.model)
    _check_placement(trainer.model, settings)
    trainer.rates = parts.rates(settings.parts)
    if settings.quantize != "none" or not trainer.is_deepspeed_enabled:  # which has float32 of its own
        trainers.learn_in_float32(trainer.model)
    trainers.keep_tower_out_of_the_graph(trainer.model.get_base_model() if lora else trainer.model)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _tokens(method: Method, settings: Train, measured: Measured, ahead: Ahead) -> list[int]:
    """What is computed for each item of the dataset."""
    from align.train.packing import why_unlike

    shares = method == "dpo" and settings.sharing == "auto" and not why_unlike(ahead.config)
    return costs(measured, by_prompt=settings.batch_by == "prompts", sharing=shares)


def _shares_questions(method: Method, settings: Train, ahead: Ahead) -> bool:
    """Whether rows of one question, which need not have one prompt, are computed together."""
    from align.train.packing import why_unlike

    by_prompt = method == "sft" and settings.batch_by == "prompts"
    return by_prompt and settings.sharing == "auto" and not why_unlike(ahead.config)


def _memory_needed(method: Method, model: Path, ahead: Ahead, settings: Train, tokens: Sequence[int]) -> Memory:
    import torch

    batch_size = settings.trl.get("per_device_train_batch_size", 8)
    itemsize = 2 if torch.cuda.is_available() else 4
    drops = method != "dpo" or not settings.trl.get("disable_dropout", True)  # TRL's DPO switches all dropout off
    return memory_needed(
        model,
        ahead.config,
        settings,
        tokens,
        batch_size=batch_size,
        itemsize=itemsize,
        dropout=drops and settings.lora.dropout > 0,
    )


def _training_arguments(method: Method, settings: Train, seed: int, folder: Path, needed: Memory) -> Any:
    """TRL's configuration: its own defaults, ours for the machine at hand, then the recipe's, then what must be."""
    import torch
    from trl import DPOConfig, SFTConfig

    on_gpu = torch.cuda.is_available()
    machine: dict[str, Any] = {"seed": seed, "bf16": on_gpu}
    # images are decoded beside the GPU, not before it
    machine |= {"dataloader_num_workers": 4} if on_gpu else {"use_cpu": True, "dataloader_pin_memory": False}
    if settings.lora.target == Lora().target and settings.parts.projector == settings.parts.tower == "frozen":
        machine["ddp_find_unused_parameters"] = False  # a batch of text alone uses all that learns, too
    machine["gradient_checkpointing"] = wants_checkpointing(needed, free_memory(on_gpu=on_gpu))
    chosen = {**machine, **settings.trl}
    if settings.quantize != "none" and not on_gpu:
        print("nf4 on a CPU: slower than without, good for a trial", file=sys.stderr, flush=True)
    if needed.total(checkpointing=False) >= TOLD_FROM:
        print(f"memory: {needed.told(checkpointing=chosen['gradient_checkpointing'])}", file=sys.stderr, flush=True)
    fixed: dict[str, Any] = {
        "output_dir": str(folder),
        "max_length": None,  # rows that are too long were refused before; none is cut
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,  # the last one may be half-written when the machine stops
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    config_class = {"dpo": DPOConfig, "sft": SFTConfig}[method]
    try:
        return config_class(**{**chosen, **fixed})
    except (TypeError, ValueError) as error:
        raise UserError(f"trl options are not accepted by {config_class.__name__}: {error}") from error


def _lora_config(settings: Train) -> Any:
    from peft import LoraConfig

    lora = settings.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target,
        modules_to_save=parts.modules_to_save(settings.parts),
        task_type="CAUSAL_LM",
    )


def _check_placement(model: Any, settings: Train) -> None:
    """What learns is what the settings say, unless the recipe's `lora.target` asks for more."""
    found = parts.trained(model)
    lora = settings.lora
    for part, names in found.items():
        wanted = getattr(settings.parts, part) != "frozen"
        if names and not wanted and lora.target == Lora().target:
            raise RuntimeError(f"{len(names)} trained tensor(s) of the {part}, which is frozen, e.g. {names[0]}")
        if not names and wanted and part in parts.MODULES:
            raise UserError(f"parts.{part}: this model has no {parts.MODULES[part]}; leave it frozen")
    if not any(found.values()):
        raise UserError(f"lora.target {lora.target!r} matches no module of this model")


def _save(trainer: Any, base: Path, final: Path, *, digest: str) -> None:
    """Leave the adapter or the model in `final`; every process takes part, the first one writes.

    `digest`: of the base.
    """
    from align.train.trainers import whole_weights

    weights = whole_weights(trainer)
    with trainer.args.main_process_first(local=False):
        if trainer.args.process_index != 0:
            return
        if final.name == "adapter":
            saved.save_adapter(trainer.model, final, trained_on=digest, weights=weights)
        else:
            saved.save_model(trainer.accelerator.unwrap_model(trainer.model), base, final, weights=weights)


def _log(history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    return [
        {"step": entry["step"], **{name: v for name, v in sorted(entry.items()) if name.startswith(LOGGED)}}
        for entry in history
        if "loss" in entry
    ]
