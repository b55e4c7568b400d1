"""The dataset card written beside the training sets: what they were made of and by which rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from align.pairs.sets import SETS
from align.settings import Pairs

CARD = """\
---
tags: [preference, mmalign]
---

# Training sets from annotated completions

Made by the rule of Multi-Modal Preference Alignment, section 3.2, with the options below. One JSON record per line; the
records are described in `annotate/records.py`.

| file | rows | prompts | for |
|-|-|-|-|
{sets}
`failures.jsonl` says of every prompt without a pair why there is none{conditioning}.

## From prompts to pairs

| source | {steps} |
|-|{rules}
{sources}
## Options

| | |
|-|-|
{options}
## Limits

The scores are one annotator's, under one rubric; the texts are the sampled model's own. Both carry their makers' biases
and licences. Before training, look at how often the longer completion is the chosen one.
"""
CONDITIONING = "; `conditioning.json` holds what the\nSteerLM model is prompted with at inference"


def dataset_card(funnel: Mapping[str, Any], settings: Pairs) -> str:
    """The card as Markdown, from `funnel.json`. Holds no time and no path: the same on every run."""
    steps = list(funnel["total"])
    counts = {**funnel["sources"], "all": funnel["total"]}
    return CARD.format(
        sets="".join(
            f"| `{name}.jsonl` | {made['rows']} | {made['prompts']} | {SETS[name].purpose} |\n"
            for name, made in funnel["sets"].items()
        ),
        conditioning=CONDITIONING if "steerlm" in funnel["sets"] else "",
        steps=" | ".join(steps),
        rules="-|" * len(steps),
        sources="".join(
            f"| {_cell(source or '(none)')} | {' | '.join(str(by[step]) for step in steps)} |\n"
            for source, by in counts.items()
        ),
        options="".join(
            f"| {name} | {'none' if value is None else f'`{_cell(value)}`'} |\n"
            for name, value in asdict(settings).items()
            if value != ()
        ),
    )


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        value = tuple(f"{name}: {weight:g}" for name, weight in value.items())
    text = ", ".join("open" if one is None else str(one) for one in value) if isinstance(value, tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", "\\n")
