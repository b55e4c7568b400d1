"""Which options TRL's trainers take, and of which type: what the `trl:` of a recipe is checked against, without torch.

The list lies beside this file, `trl_fields.json`, made from the pinned TRL; a test compares the two:

    python -m align.train.trl_fields --write

    {"trl": "1.16.0", "dpo": {"beta": ["float"], "loss_type": ["list", "str"], …}, "sft": {…}}
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("trl_fields.json")

_RUNNER = "the runner sees to it"
_WHOLE = "one row of the training set must stay one row of the batch"
_ANSWER = "the loss always falls on the answer alone"
_TEMPLATE = "the template is ours (align/models/template.py)"
_REFERENCE = "the reference is the model itself, without its adapter"
OWNED = {
    "output_dir": _RUNNER,
    "logging_dir": _RUNNER,
    "resume_from_checkpoint": "a killed training resumes by itself",
    "seed": "write `seed:` at the top of the recipe",
    "data_seed": "write `seed:` at the top of the recipe",
    "max_length": "write `max_length:` beside `trl:`; longer rows are refused, not cut",
    "truncation_mode": "rows are refused, not cut",
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
}
"""Options that are TRL's but not the recipe's, and what to do instead."""

POSITIVE = ("beta", "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
"""Options that TRL itself would take at zero or below, and then train nonsense."""


@cache
def fields(trainer: str) -> dict[str, list[str]]:
    """Option -> the kinds it takes (bool, int, float, str, list, dict, null), for `dpo` or `sft`."""
    table: dict[str, dict[str, list[str]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return table[trainer]


def generate() -> dict[str, Any]:
    """The table of the installed TRL."""
    import dataclasses

    import trl

    def kinds(config: Any) -> dict[str, list[str]]:
        table = {f.name: _kinds(str(f.type)) for f in dataclasses.fields(config)}
        return {name: found for name, found in sorted(table.items()) if found}

    table = {"trl": trl.__version__, "dpo": kinds(trl.DPOConfig), "sft": kinds(trl.SFTConfig)}
    table["dpo"]["loss_type"] = ["list", "str"]  # its __post_init__ puts one name into a list
    return table


def to_text(table: dict[str, Any]) -> str:
    """The file's text: one option a line, so that a new TRL shows as a readable difference."""
    rows = {t: ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table[t].items()) for t in ("dpo", "sft")}
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
