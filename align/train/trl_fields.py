"""Which options TRL's trainers take, and of which type: what the `trl:` of a recipe is checked against, without torch.

The list lies beside this file, `trl_fields.json`, made from the pinned TRL; a test compares the two:

    python -m align.train.trl_fields --write

    {"trl": "1.16.0", "dpo": {"beta": ["float"], "loss_type": ["list", "str"], …}, "sft": {…},
     "choices": {"dpo": {"lr_scheduler_type": ["linear", "cosine", …], …}, "sft": {…}}}

Which numbers make sense is written below, in `NUMBERS`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("trl_fields.json")

_RUNNER = "the runner sees to it"
_WHOLE = "one row of the training set must stay one row of the batch"
_ANSWER = "the loss always falls on the answer alone"
_TEMPLATE = "the template is ours (align/models/template.py)"
_REFERENCE = "the reference is the model itself, without its adapter"
_LAUNCHER = "use accelerate launch --config_file recipes/accelerate/zero3.yaml (or ddp.yaml, fsdp2.yaml)"
_MANY = ("deepspeed", "fsdp", "fsdp_config", "accelerator_config", "parallelism_config", "local_rank", "ddp_backend")
OWNED = {
    **dict.fromkeys(_MANY, _LAUNCHER),
    "output_dir": _RUNNER,
    "logging_dir": _RUNNER,
    "resume_from_checkpoint": "a killed training resumes by itself",
    "seed": "write `seed:` at the top of the recipe",
    "data_seed": "write `seed:` at the top of the recipe",
    "max_length": "write `max_length:` beside `trl:`; longer rows are left out, into failures.jsonl, none is cut",
    "truncation_mode": "rows that are too long are left out and listed in failures.jsonl, none is cut",
    "packing": _WHOLE,
    "padding_free": _WHOLE,
    "assistant_only_loss": _ANSWER,
    "completion_only_loss": _ANSWER,
    "chat_template_path": _TEMPLATE,
    "eos_token": _TEMPLATE,
    "pad_token": _TEMPLATE,
    "train_sampling_strategy": "the order of rows is seeded and planned",
    "ignore_data_skip": "a resumed training sees the rows that an undisturbed one would",
    "remove_unused_columns": "the images would be dropped",
    "precompute_ref_log_probs": "write `reference: cache` beside `trl:`; TRL does not do it for images",
    "sync_ref_model": _REFERENCE,
    "model_init_kwargs": _RUNNER,
    "trust_remote_code": "no code is taken from a model's folder",
    "save_strategy": "write `checkpoint_every:` beside `trl:`",
    "save_steps": "write `checkpoint_every:` beside `trl:`",
    "save_total_limit": _RUNNER,
    "save_only_model": "a killed training could not resume",
    "load_best_model_at_end": "evaluation is a stage of its own",
    "do_train": "it always trains",
    "do_eval": "evaluation is a stage of its own",
    "do_predict": "evaluation is a stage of its own",
    "logging_steps": "every step is logged",
    "logging_strategy": "every step is logged",
    "logging_nan_inf_filter": "a NaN is to be seen",
    "report_to": "log.jsonl and the report hold everything",
    "disable_tqdm": _RUNNER,
    "push_to_hub": "nothing is uploaded by a stage",
    "hub_token": "nothing is uploaded by a stage, and a recipe holds no secrets",
    "eval_strategy": "evaluation is a stage of its own",
    "eval_on_start": "evaluation is a stage of its own",
}
"""Options that are TRL's but not the recipe's, and what to do instead."""

UNOFFERED = {
    "use_liger_kernel": "Liger's kernels are not offered: TRL 1.16 deprecates them, and what is computed once for all "
    "completions of a prompt has not been compared under them; delete it",
}
"""Options that may be off but not on, and why."""


class Limits(NamedTuple):
    """Which numbers make sense: `low` and `high` are allowed themselves, `above` and `below` are not."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def fault(self, value: float) -> str:
        """What is wrong with the number; empty where nothing is."""
        if not math.isfinite(value):
            return f"{value} is no number to work with"
        if (
            (self.low is not None and value < self.low)
            or (self.above is not None and value <= self.above)
            or (self.high is not None and value > self.high)
            or (self.below is not None and value >= self.below)
        ):
            named = {"at least": self.low, "above": self.above, "at most": self.high, "below": self.below}
            told = [f"{word} {limit}" for word, limit in named.items() if limit is not None]
            return f"{value} is impossible; it must be {' and '.join(told)}"
        return ""


_ANY = Limits()
NUMBERS: Mapping[str, Limits] = {
    "adam_beta1": Limits(low=0, below=1),
    "adam_beta2": Limits(low=0, below=1),
    "adam_epsilon": Limits(above=0),
    "beta": Limits(above=0),
    "dataloader_num_workers": Limits(low=0),
    "dataloader_prefetch_factor": Limits(low=1),
    "ddp_bucket_cap_mb": Limits(above=0),
    "ddp_timeout": Limits(above=0),
    "discopop_tau": Limits(above=0),
    "gradient_accumulation_steps": Limits(low=1),
    "label_smoothing": Limits(low=0, below=0.5),
    "label_smoothing_factor": Limits(low=0, below=1),
    "ld_alpha": Limits(low=0, high=1),
    "learning_rate": Limits(above=0),
    "max_grad_norm": Limits(low=0),
    "max_steps": Limits(low=-1),
    "neftune_noise_alpha": Limits(above=0),
    "num_train_epochs": Limits(above=0),
    "pad_to_multiple_of": Limits(low=1),
    "per_device_train_batch_size": Limits(low=1),
    "torch_empty_cache_steps": Limits(low=1),
    "warmup_steps": Limits(low=0),
    "weight_decay": Limits(low=0),
}
"""Numbers that TRL would refuse late, once everything before the training is done, or take and then train nonsense."""


def value_fault(trainer: str, name: str, value: Any) -> str:
    """What is wrong with the value of an option that has the right type; empty where nothing is."""
    if name in UNOFFERED and value:
        return UNOFFERED[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name == "max_steps" and value == 0:
            return "0 steps train nothing; leave it out to train num_train_epochs"
        return NUMBERS.get(name, _ANY).fault(value)
    known = choices(trainer).get(name)
    if known is None:
        return ""
    for word in value if isinstance(value, list) else [value]:
        if word not in known:
            near = difflib.get_close_matches(str(word), known, n=1)
            return f"{word!r} is none of {', '.join(known)}{f'; did you mean {near[0]!r}?' if near else ''}"
    return ""


def fields(trainer: str) -> dict[str, list[str]]:
    """Option -> the kinds it takes (bool, int, float, str, list, dict, null), for `dpo` or `sft`."""
    table: dict[str, list[str]] = _table()[trainer]
    return table


def choices(trainer: str) -> dict[str, list[str]]:
    """Option -> the words it takes, where there are only so many."""
    table: dict[str, list[str]] = _table()["choices"][trainer]
    return table


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return table


def generate() -> dict[str, Any]:
    """The table of the installed TRL."""
    import dataclasses

    import trl
    from transformers.training_args import OptimizerNames, SchedulerType

    def words(config: Any) -> dict[str, list[str]]:
        """Of enums their values; of losses and divergences what their help names as possible."""
        helps = {f.name: str(f.metadata.get("help", "")) for f in dataclasses.fields(config)}
        found = {
            "lr_scheduler_type": [one.value for one in SchedulerType],
            "optim": [one.value for one in OptimizerNames],
        }
        for name in ("loss_type", "f_divergence_type"):
            told = helps.get(name, "").partition("Possible values are")[2].split(". ")[0]
            found[name] = re.findall(r"`'?(\w+)'?`", told)
        return {name: known for name, known in sorted(found.items()) if known}

    def kinds(config: Any) -> dict[str, list[str]]:
        table = {f.name: _kinds(str(f.type)) for f in dataclasses.fields(config)}
        return {name: found for name, found in sorted(table.items()) if found}

    table = {"trl": trl.__version__, "dpo": kinds(trl.DPOConfig), "sft": kinds(trl.SFTConfig)}
    table["dpo"]["loss_type"] = ["list", "str"]  # its __post_init__ puts one name into a list
    table["choices"] = {"dpo": words(trl.DPOConfig), "sft": words(trl.SFTConfig)}
    return table


def to_text(table: dict[str, Any]) -> str:
    """The file's text: one option a line, so that a new TRL shows as a readable difference."""
    rows = {
        t: ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table[t].items())
        for t in ("dpo", "sft", "choices")
    }
    parts = [f'"{t}": {{\n{rows[t]}\n}}' for t in rows]
    return "{\n" + ",\n".join([f'"trl": {json.dumps(table["trl"])}', *parts]) + "\n}\n"


def _kinds(annotation: str) -> list[str]:
    """JSON kinds of a type as it is written; an enum is given by its name, an object cannot be given at all."""
    found = set()
    inner = annotation.removeprefix("typing.Union[").removeprefix("<class '").removesuffix("'>")
    for part in inner.replace(", NoneType", " | None").replace(", typing.Literal[False]]", " | bool").split(" | "):
        name = part.split("[")[0]
        if name in ("bool", "int", "float", "str", "list", "dict"):
            found.add(name)
        elif name == "None":
            found.add("null")
    return [] if found == {"null"} else sorted(found)


if __name__ == "__main__":
    text = to_text(generate())
    if "--write" in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
