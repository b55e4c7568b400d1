"""Which parts of a model learn, and how fast: its vision tower, its projector, its language model.

    choose(model, parts)                   before the trainer is built: all that is not to learn is frozen
    modules_to_save(parts)                 what PEFT trains and saves beside LoRA: ["multi_modal_projector"]
    split_groups(optimizer, model, rates)  the projector's own learning rate, as the paper's code has one

The parts are told by the names that LLaVA and its relatives give them. torch is imported by nobody here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from align.settings import Parts

Part = Literal["tower", "projector", "language"]

MODULES: Mapping[Part, str] = {"tower": "vision_tower", "projector": "multi_modal_projector"}
_BESIDE = {"image_newline": "projector"}
"""Parameters of LLaVA-NeXT that stand beside these modules."""


def part_of(name: str) -> Part:
    """Of a parameter, by its name in the model, with PEFT around it, or in a file of weights."""
    pieces = name.split(".")
    for part, module in MODULES.items():
        if module in pieces:
            return part
    return "projector" if pieces[-1] in _BESIDE else "language"


def faults(parts: Parts, method: str, *, quantize: str) -> list[str]:
    """What makes no sense, each beginning with the option's name."""
    found = []
    if method == "dpo" and parts.language != "lora":
        found.append(
            f"parts.language: {parts.language} is not for dpo, whose reference is the model without its adapter; "
            "lora (the projector and the tower can be trained beside it)"
        )
    if (parts.language, parts.projector, parts.tower) == ("frozen",) * 3:
        found.append("parts: nothing would learn; set language, projector or tower")
    if quantize != "none" and parts.language != "lora":
        found.append("parts.language: 4 bits cannot be trained, only an adapter on them; lora, or quantize: none")
    for part, rate in rates(parts).items():
        if getattr(parts, part) == "frozen":
            found.append(f"parts.{part}_learning_rate: {rate:g} for what does not learn; set parts.{part}: full")
    return found


def rates(parts: Parts) -> dict[str, float]:
    """The parts that have a learning rate of their own."""
    named = {"projector": parts.projector_learning_rate, "tower": parts.tower_learning_rate}
    return {part: rate for part, rate in named.items() if rate is not None}


def modules_to_save(parts: Parts) -> list[str] | None:
    """For LoRA's configuration: what is trained whole beside the adapter, and lies with it."""
    return [module for part, module in MODULES.items() if getattr(parts, part) == "full"] or None


def choose(model: Any, parts: Parts) -> None:
    """Let learn what is to learn whole, and nothing else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(getattr(parts, part_of(name)) == "full")
    keep_single(model)


def keep_single(model: Any) -> None:
    """A projector of one layer (`align.models.joined`) stays one: the identity behind it does not learn."""
    if getattr(model.config, "projector_hidden_act", "") == "linear":
        for name, parameter in model.named_parameters():
            if part_of(name) == "projector" and ".linear_2." in name:
                parameter.requires_grad_(False)


def trained(model: Any) -> dict[Part, list[str]]:
    """Names of the tensors that learn, by part."""
    found: dict[Part, list[str]] = {"tower": [], "projector": [], "language": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[part_of(name)].append(name)
    return found


def split_groups(optimizer: Any, model: Any, rates: Mapping[str, float]) -> None:
    """Give the parts that have a rate of their own groups of their own; all else of a group stays as it was."""
    parts = {id(parameter): part_of(name) for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        apart: dict[str, list[Any]] = {}
        for parameter in group["params"]:
            its = parts[id(parameter)]
            apart.setdefault(its if its in rates else "", []).append(parameter)
        for part, parameters in apart.items():
            own = {"lr": rates[part], "part": part} if part else {}
            groups.append({**group, "params": parameters, **own})
    optimizer.param_groups[:] = sorted(groups, key=lambda group: "part" in group)  # the first one's rate is logged
