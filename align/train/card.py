"""The card written beside every adapter or model: what it was made of and how; nothing that was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from align.settings import Parts, Train

WHAT = {
    "pretrain": "a VLM out of a language model, a vision tower and a new projector, which alone has learnt "
    "(arXiv:2304.08485, section 4.2)",
    "instruct": "visual instruction tuning (arXiv:2304.08485, section 4.2)",
    "dpo": "Direct Preference Optimization (arXiv:2305.18290) on pairs of the model's own completions, ranked by an "
    "annotator",
    "steerlm": "SteerLM (arXiv:2310.05344): fine-tuning on the model's own completions with their scores written into "
    "the prompt; at inference append `conditioning.txt` to the last user turn",
    "rejection": "rejection sampling: fine-tuning on the best-scored of the model's own completions",
    "sft": "plain fine-tuning on the annotator's own answers (baseline)",
}

MEASURES = ("loss", "rewards/margins", "rewards/accuracies", "mean_token_accuracy", "grad_norm")

ADAPTER = {
    "library": "peft",
    "tags": "lora, ",
    "kind": "LoRA adapter",
    "made": "adapter",
    "loaded": "load_vlm(base_folder, adapter=adapter_folder)",
}
MODEL = {
    "library": "transformers",
    "tags": "",
    "kind": "Model",
    "made": "model",
    "loaded": "load_vlm(model_folder)",
}
"""Words of the card, of an adapter and of a model that was trained without one."""

HEAD = """\
---
library_name: {library}
tags: [{tags}mmalign, {stage}]
---

# {kind}: {stage}

{what}. See Multi-Modal Preference Alignment, section 3.2.

## Made of

| | |
|-|-|
| base model, sha256 over its files | `{model}` |
| {made} weights, sha256 | `{weights}` |
| training rows, sha256 | `{rows}` |
| rows given / trained on | {n_rows} / {n_trained} |
| optimizer steps | {steps} |
| seed | {seed} |
"""

TAIL = """
## Use

    from align.models.load import load_vlm
    model = {loaded}

Prompts must be rendered by `align.models.template`; the {made} was trained on those bytes.

## Limits

The {made} inherits the base model's licence and limits, and the annotator's taste. What it does to the base model's
skills is in the run's `evaluate/`, not here: the figures above are of the training rows.
"""


def adapter_card(
    *,
    stage: str,
    model_sha256: str,
    weights_sha256: str,
    rows_sha256: str,
    n_rows: int,
    n_trained: int,
    settings: Train,
    seed: int,
    log: Sequence[Mapping[str, Any]],
    notes: Mapping[str, str] | None = None,
) -> str:
    """The card as Markdown. Holds no time and no path, so that it is the same on every run.

    `notes`: more rows of its first table.
    """
    words = ADAPTER if settings.parts.language == "lora" else MODEL
    head = HEAD.format(
        **words,
        stage=stage,
        what=WHAT[stage],
        model=model_sha256,
        weights=weights_sha256,
        rows=rows_sha256,
        n_rows=n_rows,
        n_trained=n_trained,
        steps=len(log),
        seed=seed,
    )
    head += "".join(f"| {name} | {_cell(value)} |\n" for name, value in (notes or {}).items())
    return head + _options(settings) + _curves(log) + TAIL.format(**words)


def _options(settings: Train) -> str:
    lora = settings.lora
    rows = {
        **(
            {f"lora.{name}": value for name, value in asdict(lora).items()} if settings.parts.language == "lora" else {}
        ),
        **_parts(settings),
        "max_length": settings.max_length,
        **({"quantize": settings.quantize} if settings.quantize != "none" else {}),
        **{f"trl.{name}": value for name, value in sorted(settings.trl.items())},
    }
    lines = [f"| {name} | `{_cell(value)}` |\n" for name, value in rows.items()]
    return "\n## Options (all others: TRL's defaults)\n\n| | |\n|-|-|\n" + "".join(lines)


def _parts(settings: Train) -> dict[str, Any]:
    """What the recipe says of them beyond the usual, LoRA alone."""
    chosen, usual = asdict(settings.parts), asdict(Parts())
    return {f"parts.{name}": value for name, value in chosen.items() if value != usual[name]}


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text.replace("|", "\\|")


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    """First and last step, and the mean of the last tenth, of the measures that the log has."""
    if not log:
        return ""
    tail = log[-max(1, len(log) // 10) :]
    lines = []
    for name in MEASURES:
        if name in log[0]:
            mean = sum(entry[name] for entry in tail) / len(tail)
            lines.append(f"| {name} | {log[0][name]:.4f} | {log[-1][name]:.4f} | {mean:.4f} |\n")
    header = "\n## Training\n\n| | first step | last step | mean of the last tenth |\n|-|-|-|-|\n"
    return header + "".join(lines)
