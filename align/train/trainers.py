"""TRL's trainers as we use them: silent, watched at every step, and with checkpoints that are whole or not at all.

Imported only when a training begins; needs torch, transformers, trl.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import DPOTrainer, SFTTrainer

from align.settings import Train
from align.train.batches import Batches
from align.train.checkpoints import marker_of, seal
from align.train.meter import Meter
from align.train.packing import share_prefixes
from align.train.parts import split_groups
from align.train.saved import kind
from annotate.errors import UserError
from annotate.stage import Progress

WEIGHTS = "weights.safetensors"
DPO_START_TOLERANCE = 1e-3
DPO_START_TOLERANCE_BF16 = 0.05
"""Where the reference was computed before, in batches of other shapes: what bfloat16 rounds away in 100 tokens."""
DPO_USUAL_BETA = 0.1
"""For which these are meant: a reward is a sum of log-probabilities times beta."""
LOGISTIC = ("sigmoid", "robust", "aot", "aot_unpaired", "sigmoid_norm")
"""Losses of TRL that are ln 2 where policy and reference are one."""


class _Silent:
    """No usage report, no model card of theirs in every checkpoint (`align.train.card` writes ours)."""

    def _send_telemetry(self) -> None:
        return None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        return None

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        self.is_fsdp_enabled = self.is_fsdp_enabled or _spread_on_cpus(self.accelerator.state)  # type: ignore[attr-defined,has-type]


class _Planned:
    """Batches as `align.train.batches` plans them, where there is a plan; else the trainer's own.

    The plan is shared out by accelerate as any batch sampler is: of every `processes` batches, one to each process.
    """

    plan: Batches | None = None

    def follow(self, plan: Batches) -> None:
        self.plan = plan
        self.add_callback(_Epochs(plan))  # type: ignore[attr-defined]

    def get_train_dataloader(self) -> Any:
        if self.plan is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        args: Any = self.args  # type: ignore[attr-defined]
        loader = DataLoader(
            self.train_dataset,  # type: ignore[attr-defined]
            batch_sampler=self.plan,
            collate_fn=self.data_collator,  # type: ignore[attr-defined]
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)  # type: ignore[attr-defined]


class _Epochs(TrainerCallback):
    """Tells the plan which epoch begins: after a resume on several processes transformers does not reach it."""

    def __init__(self, plan: Batches) -> None:
        self._plan = plan

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._plan.epoch = int(state.epoch)  # 1.4 in the middle of the second, where a training is resumed


def _spread_on_cpus(state: Any) -> bool:
    """Let FSDP spread the model over processes without GPUs, too, where the launcher says FSDP.

    accelerate would go on with whole models there and not say so; to torch it makes no difference.
    """
    if state.distributed_type != DistributedType.MULTI_CPU or os.environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        return False
    state.fsdp_plugin = FullyShardedDataParallelPlugin()
    state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return True


class _Paced:
    """Parts of the model with a learning rate of their own, each rate in the log beside the others'."""

    rates: Mapping[str, float] = {}
    _used: Mapping[str, float] = {}

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)  # type: ignore[misc]
        split_groups(optimizer, self.model if model is None else model, self.rates)  # type: ignore[attr-defined]
        return optimizer

    def _get_learning_rate(self) -> float:
        """Asked for between a step and the schedule's next one: what the step was taken with."""
        groups = self.optimizer.param_groups  # type: ignore[attr-defined]
        self._used = {f"learning_rate/{group['part']}": group["lr"] for group in groups if "part" in group}
        return float(super()._get_learning_rate())  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self._used} if "loss" in logs else logs, start_time)  # type: ignore[misc]


class _Sporadic:
    """Checkpoints of a model spread by FSDP of which a part has seen no batch yet, e.g. the projector after text alone.

    Its optimizer knows nothing of that part's parameters, and torch refuses to go on from a checkpoint that lacks them.
    """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:  # type: ignore[attr-defined]
            state, groups = self.optimizer.state, self.optimizer.param_groups  # type: ignore[attr-defined]
            learning = [parameter for group in groups for parameter in group["params"]]
            known = next(parameter for parameter in learning if state.get(parameter))
            for parameter in learning:
                if not state.get(parameter):  # as it is before the first step: nothing counted, no momentum
                    state[parameter] = {
                        name: torch.zeros_like(parameter if value.shape == known.shape else value)
                        for name, value in state[known].items()
                    }
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]


class _Whole:
    """Checkpoints of a model that is trained without an adapter.

    transformers writes a LLaVA under the names of its hub checkpoint and, resuming, silently finds none of them.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self._plain:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        folder = Path(output_dir or self.args.output_dir)  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._plain:
            load_model(model or self.model, Path(resume_from_checkpoint) / WEIGHTS)  # type: ignore[attr-defined]
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    @property
    def _plain(self) -> bool:
        """Neither an adapter nor spread over processes, whose checkpoints accelerate writes."""
        spread = self.is_fsdp_enabled or self.is_deepspeed_enabled  # type: ignore[attr-defined]
        return not (spread or isinstance(self.model, PeftModel))  # type: ignore[attr-defined]


class PreferenceTrainer(_Planned, _Paced, _Sporadic, _Silent, DPOTrainer):
    """TRL's DPOTrainer. Reference = the same model with its adapter switched off.

    `sharing`: the batches hold packed rows (`align.train.packing`); TRL's loss sees its own layout all the same.
    `has_reference`: they also hold the reference's log-probabilities.
    """

    def __init__(self, *, sharing: bool = False, has_reference: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # TRL refuses its own pre-pass for images, so the flag is raised where the refusal has been passed.
        self.precompute_ref_logps = has_reference
        if self.accelerator.num_processes > 1:  # TRL's measures are gathered as if every process had as many pairs
            self.accelerator.gather = partial(gather_uneven, self.accelerator.gather)
        if sharing:
            share_prefixes(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)
            if self.ref_model is not None:
                share_prefixes(self.ref_model)


def gather_uneven(gather: Callable[[Any], Any], value: Any) -> Any:
    """What the processes hold, one behind the other, also where one holds more than another.

    With `batch_by: prompts` a batch is as many pairs as its prompts have.
    """
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return gather(value)
    lengths = gather(torch.tensor([len(value)], device=value.device)).tolist()
    longest = max(lengths)
    filled = torch.cat([value, value.new_zeros(longest - len(value), *value.shape[1:])])
    return torch.cat([part[:n] for part, n in zip(gather(filled).split(longest), lengths, strict=True)])


class ExampleTrainer(_Planned, _Paced, _Sporadic, _Whole, _Silent, SFTTrainer):
    """TRL's SFTTrainer, fed with rows whose labels the collator has made.

    `sharing`: the batches hold packed rows (`align.train.packing`), as for `PreferenceTrainer`.
    """

    meter: Meter | None = None

    def __init__(self, *, sharing: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.is_fsdp_enabled:
            self.accelerator.prepare = partial(with_head_in_root, self.accelerator.prepare, self.model)
        if sharing:
            share_prefixes(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.meter is not None:
            self.meter.batch(inputs)
        return super().training_step(model, inputs, *args, **kwargs)


def with_head_in_root(prepare: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """`prepare(*args)` of accelerate, where FSDP2 gathers a head that learns with the whole model.

    Left to itself it gathers the head when its module runs, which never does: TRL's loss takes the matrix. TRL then
    gathers it itself, and each process keeps the gradient of its own rows alone.
    """
    head = model.get_output_embeddings()
    if not head.weight.requires_grad or head.weight is model.get_input_embeddings().weight:
        return prepare(*args, **kwargs)
    model.get_output_embeddings = lambda: None  # so that accelerate does not set it apart
    try:
        return prepare(*args, **kwargs)
    finally:
        del model.get_output_embeddings


class Watch(TrainerCallback):
    """Tells progress, stops a training that has gone wrong, and marks finished checkpoints.

    A checkpoint counts once `<checkpoint>.done` stands beside it, renamed there after everything in it was synced: a
    kill at any moment leaves either a whole checkpoint or one that is thrown away.
    """

    def __init__(self, progress: Progress, *, check_dpo_start: bool, reference: Path | None = None) -> None:
        """`reference`: the file that its log-probabilities were read from."""
        self._progress = progress
        self._check_dpo_start = check_dpo_start
        self._reference = reference

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step, loss = state.global_step, logs["loss"]
        if not math.isfinite(loss) or not math.isfinite(logs.get("grad_norm", 0.0)):
            raise UserError(f"step {step}: the loss is {loss}; the training diverged, lower trl.learning_rate")
        if self._check_dpo_start and step == 1:
            _assert_untrained_start(args, logs, self._reference)
        if state.is_world_process_zero:
            self._progress(step, state.max_steps, f"loss {loss:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # every process keeps a part of the checkpoint
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        seal(checkpoint, marker_of(checkpoint))


class Snapshots(TrainerCallback):
    """Keeps copies of what is trained, `step-100/adapter` or `step-100/model`, after the steps that were asked for."""

    def __init__(
        self, key: str, steps: Sequence[int], folder: Path, keep: Callable[[Path], None], settings: Train
    ) -> None:
        """`key`: of the option, for messages; `keep`: writes what is trained to a folder, called on every process."""
        self._key, self._steps, self._folder, self._keep, self._kind = key, set(steps), folder, keep, kind(settings)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if beyond := sorted(step for step in self._steps if step > state.max_steps):
            raise UserError(f"{self._key}: step {beyond[0]} is beyond the last step, {state.max_steps}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self._steps:
            made = self._folder / f"step-{state.global_step}" / self._kind
            made.parent.mkdir(parents=True, exist_ok=True)
            self._keep(made)


def _assert_untrained_start(args: Any, logs: dict[str, Any], reference: Path | None) -> None:
    """Before the first update policy and reference are one model: all rewards 0, and so a logistic loss is ln 2.

    Anything else means that the reference is another model, or that text, pixels or masks differ between the two.
    """
    tolerance = DPO_START_TOLERANCE_BF16 if args.bf16 and reference is not None else DPO_START_TOLERANCE
    tolerance *= max(1.0, args.beta / DPO_USUAL_BETA)
    rewards = [abs(logs[f"rewards/{side}"]) for side in ("chosen", "rejected", "margins")]
    weights = args.loss_weights or [1.0] * len(args.loss_type)
    # WPO weighs each pair by its probability, so its loss begins anywhere; as do losses that are no logistic ones
    known = set(args.loss_type) <= set(LOGISTIC) and not args.use_weighting
    start_loss = math.log(2) * sum(weights) if known else logs["loss"]
    if max(rewards) <= tolerance and abs(logs["loss"] - start_loss) <= tolerance:
        return
    found = (
        f"DPO did not start at its reference: loss {logs['loss']:.6f} (should be {start_loss:.6f}), "
        f"largest reward {max(rewards):.6f} (should be 0)"
    )
    if reference is not None:
        remedy = "delete that file, or set reference: live"
        raise UserError(f"{found}; the log-probabilities in {reference} are not this model's: {remedy}")
    raise RuntimeError(found)


def is_spread(args: Any) -> bool:
    """Whether each process will hold a part of the model only (FSDP, ZeRO), as the recipe or the launcher says."""
    told = (os.environ.get(f"ACCELERATE_USE_{name}", "false") == "true" for name in ("FSDP", "DEEPSPEED"))
    return bool(args.fsdp or args.deepspeed) or any(told)


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """All weights of a model that is spread, on the first process; None where each process has them anyway.

    Every process must call it.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights


def keep_tower_out_of_the_graph(model: Any) -> None:
    """Run the vision tower without gradients, if nothing in it is trained.

    With gradient checkpointing TRL makes the inputs of every sub-model differentiable, and the frozen tower would be
    recomputed and back-propagated through for nothing.
    """
    tower = model.get_encoder(modality="image")
    if tower is model or any(p.requires_grad for p in tower.parameters()):
        return
    forward: Callable[..., Any] = tower.forward
    tower.forward = torch.no_grad()(forward)


def learn_in_float32(model: Any) -> None:
    """Keep what learns in float32: the adapter beside a quantised model, and whatever is trained whole on a GPU.

    It would be bfloat16 there, whose steps (1/256 of a weight) are larger than most of Adam's at usual rates.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def score(trainer: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The reference's log-probabilities [rows, width - 1] of a batch of `batch_of`: the model without its adapter."""
    inputs = trainer._prepare_inputs(batch)
    completion_mask = inputs.pop("completion_mask")
    labels = inputs["input_ids"].masked_fill(completion_mask == 0, -100)
    model = trainer.model
    was_training = model.training
    model.eval()
    plain = model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
    with torch.no_grad(), plain, trainer.accelerator.autocast():
        out = model(**inputs, labels=labels, fused_lm_head=True, use_cache=False)
    model.train(was_training)
    log_probs: torch.Tensor = out.log_probs.float().cpu()
    return log_probs
