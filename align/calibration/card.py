"""The calibration card: what is known, after a run, of how far the annotator can be trusted.

    card = calibration_card(annotated, failures, checks, funnel=..., cost_usd=..., calls=...)

A pure function from records to JSON. It holds neither times nor paths, its lists are sorted, and it depends on nothing
but what it is given and the seed: the same records in another order make the same bytes. Each figure is as
`figure.py` says, with an interval by bootstrap over prompts where it is an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align.calibration.checks import checks_section
from align.calibration.consistency import consistency_section
from align.calibration.figure import plain
from align.calibration.position import position_section
from align.calibration.readings import Readings, read_all
from align.calibration.scores import NOTHING, length_section, scores_section
from align.reliability import Resamples
from annotate.records import Annotated, Failure, Rubric

SCHEMA = "calibration/1"


def calibration_card(
    annotated: Sequence[Annotated],
    failures: Sequence[Failure],
    checks: Sequence[Mapping[str, Any]],
    *,
    funnel: Mapping[str, int],
    cost_usd: float | None,
    calls: int,
    rubric: Rubric | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The card as JSON.

    `checks` are the lines of checks.jsonl (`checks.py`); `calls` counts every request that was sent and `cost_usd` is
    what they all cost, None where no price is known. `rubric` says which levels there are; without it the card knows
    only those that were given.
    """
    readings = read_all(annotated, rubric)
    resamples = Resamples(len(readings.prompts), seed=seed)
    consistency = consistency_section(readings, resamples)
    return {
        "schema": SCHEMA,
        "seed": seed,
        "annotator": _annotator(readings),
        "outcomes": _outcomes(readings, failures, funnel, planted=len(checks)),
        "scores": scores_section(readings, resamples),
        "position": position_section(readings, resamples, seed=seed),
        "length": length_section(readings, resamples, seed=seed),
        "consistency": consistency,
        "checks": checks_section(checks, readings, consistency, seed=seed),
        "cost": _cost(readings, cost_usd, calls),
    }


def _annotator(readings: Readings) -> dict[str, Any]:
    """Who rated, as the service named it, by which rubric; with the number of annotations."""
    annotations = readings.annotations
    return {
        "n": len(annotations),
        "backends": _counted(("backend", "model"), [(a.backend, a.model) for a in annotations]),
        "versions": _counted(("version",), [(a.model_version or None,) for a in annotations]),
        "rubrics": _counted(("rubric", "sha256"), [(a.rubric, a.rubric_sha256) for a in annotations]),
        "modes": _counted(("mode",), [(a.mode,) for a in annotations]),
    }


def _counted(names: Sequence[str], found: Sequence[tuple[str | None, ...]]) -> list[dict[str, Any]]:
    """Each kind with how often it was found, the most frequent first."""
    counts = Counter(found)
    order = sorted(counts, key=lambda key: (-counts[key], [part or "" for part in key]))
    return [{**dict(zip(names, key, strict=True)), "annotations": counts[key]} for key in order]


def _outcomes(
    readings: Readings, failures: Sequence[Failure], funnel: Mapping[str, int], *, planted: int
) -> dict[str, Any]:
    """What became of every question: how many were answered, how many failed and why; and of the prompts."""
    answered = len(readings.annotations) + planted
    reasons = Counter(f.reason.value for f in failures)
    total = answered + len(failures)
    there = {read.prompt_id for read in readings.prompts}
    failed = {f.record_id for f in failures}
    return {
        "n": total,
        "answered": answered,
        "answered_checks": planted,
        "failed": len(failures),
        "failed_share": plain(len(failures) / total if total else None, total, "nothing was asked"),
        "reasons": [{"reason": r, "count": reasons[r]} for r in sorted(reasons, key=lambda r: (-reasons[r], r))],
        "prompts": {
            "annotated": len(there - failed),
            "in_part": len(there & failed),
            "lost": len(failed - there),
        },
        "funnel": [{"step": step, "count": count} for step, count in funnel.items()],
    }


def _cost(readings: Readings, cost_usd: float | None, calls: int) -> dict[str, Any]:
    """What was paid, and for which tokens; tokens are of the annotations (of replies that could be read)."""
    prompts = len(readings.prompts)
    with_usage = [a.usage for a in readings.annotations if a.usage]
    tokens: Counter[str] = Counter()
    for usage in with_usage:
        tokens.update(usage)
    per_prompt = None if cost_usd is None or not prompts else cost_usd / prompts
    unknown = "no price is known for this model"
    return {
        "calls": calls,
        "usd": plain(cost_usd, calls, unknown),
        "usd_per_prompt": plain(per_prompt, prompts, unknown if prompts else NOTHING),
        "tokens": [
            {
                "kind": kind,
                "total": tokens[kind],
                "per_annotation": plain(tokens[kind] / len(with_usage), len(with_usage), NOTHING),
            }
            for kind in sorted(tokens)
        ],
        "annotations_with_tokens": len(with_usage),
    }
