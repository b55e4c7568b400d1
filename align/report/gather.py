"""What a run has left, read once: the only thing the table, the page and report.json are made of.

A recipe without some stage leaves its part empty, and the report leaves that section out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.context import Context
from align.doctor import Collector, examine
from align.report.contamination import contamination
from annotate.jsonl import read_rows
from annotate.records import Annotated, Failure, Item, Metric, PreferencePair

BUILT = ("language", "connect", "tune", "pretrain", "instruct")
TRAININGS = (*BUILT, "sft", "steerlm", "rejection", "dpo")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A run's recorded outputs."""

    title: str
    name: str
    seed: int
    base: str = ""
    """Which model was aligned, in words."""
    score: tuple[str, ...] = ()
    """The attributes that are summed into the score of a completion."""
    min_margin: float = 0.0
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Metric] = ()
    items: Sequence[Item] = ()
    annotated: Sequence[Annotated] = ()
    pairs: Sequence[PreferencePair] = ()
    funnel: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    """`stage: reason` -> how many records."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """The calibration card of stage annotate, where it left one."""
    doctor: Mapping[str, Any] = field(default_factory=dict)
    """What is wrong with the annotated prompts and the pairs, where there are any."""
    contamination: Mapping[str, Any] = field(default_factory=dict)
    """What stands in the training sets and in the evaluation, by benchmark file."""
    logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    image_root: Path = Path()
    image_limit: int = 50_000_000


def gather(context: Context) -> Findings:
    """Read everything the recipe's finished stages left."""
    recipe = context.recipe
    pairs = recipe.pairs
    prompts = recipe.prompts
    evaluated = context.has("evaluate")
    annotated = context.records("annotate", "annotated.jsonl", Annotated) if context.has("annotate") else ()
    preferences = context.records("pairs", "preference.jsonl", PreferencePair) if context.has("pairs") else ()
    funnel = _json(context.path("pairs", "funnel.json")) if context.has("pairs") else {}
    return Findings(
        title=recipe.report.title if recipe.report and recipe.report.title else recipe.name,
        name=recipe.name,
        seed=recipe.seed,
        base=context.model_note if evaluated or context.has("sample") else "",
        score=tuple(pairs.score) if pairs else (),
        min_margin=pairs.min_margin if pairs else 0.0,
        verdicts=_json(context.path("evaluate", "verdicts.json")) if evaluated else {},
        metrics=context.records("evaluate", "metrics.jsonl", Metric) if evaluated else (),
        items=context.records("evaluate", "items.jsonl", Item) if evaluated else (),
        annotated=annotated,
        pairs=preferences,
        funnel=funnel,
        failures=_failures(context),
        calibration=_calibration(context),
        doctor=_doctor(annotated, preferences, funnel, score=pairs.score if pairs else None, seed=recipe.seed),
        contamination=contamination(context, annotated),
        logs={s: [row for _, row in read_rows(context.path(s, "log.jsonl"))] for s in TRAININGS if context.has(s)},
        image_root=Path(prompts.image_root) if prompts else Path(),
        image_limit=prompts.max_image_pixels if prompts else 50_000_000,
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _calibration(context: Context) -> dict[str, Any]:
    """The card, or nothing from a run that was annotated before there was one."""
    if not context.has("annotate") or not context.path("annotate", "calibration.json").exists():
        return {}
    return _json(context.path("annotate", "calibration.json"))


def _doctor(
    annotated: Sequence[Annotated],
    pairs: Sequence[PreferencePair],
    funnel: Mapping[str, Any],
    *,
    score: Sequence[str] | Mapping[str, float] | None,
    seed: int,
) -> dict[str, Any]:
    """The doctor's report of what the pairs were made of and became."""
    if not annotated and not pairs:
        return {}
    collector = Collector()
    for row in annotated:
        collector.add(row)
    for pair in pairs:
        collector.add(pair)
    return examine(collector.tables(), score=score, funnel=funnel.get("total"), seed=seed)


def _failures(context: Context) -> dict[str, int]:
    counted: dict[str, int] = {}
    for stage in ("sample", "annotate", "teach", "pairs", "pretrain", "instruct", *TRAININGS[len(BUILT) :], "evaluate"):
        if context.has(stage):
            for failure in context.records(stage, "failures.jsonl", Failure):
                key = f"{stage}: {failure.reason.value.replace('_', ' ')}"
                counted[key] = counted.get(key, 0) + 1
    return counted
