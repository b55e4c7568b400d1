"""Which scores are given, and whether they follow length.

A prompt is *saturated* in an attribute where all its completions get the same score: it tells the annotator's
preference nothing. Length is in characters; its correlation with the score is taken within each prompt (Spearman) and
averaged over prompts, so that prompts that call for long answers do not count as a liking for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align.calibration.figure import Figure, figure, left_out, plain
from align.calibration.readings import PREFERENCE, Readings
from align.reliability import Resamples, mean_of, per_prompt, spearman
from align.stats import Floats, sign_flip_p

NO_SCORES = "nothing is scored: pairwise annotations hold preferences, no scores"
NOTHING = "nothing is annotated"


def totals(values: Floats) -> Floats:
    """Sum and number of each prompt's values, missing ones (NaN) left out: a mean as `Resamples` takes it."""
    known = ~np.isnan(values)
    axes = tuple(range(1, values.ndim))
    return np.stack([np.where(known, values, 0.0).sum(axis=axes), known.sum(axis=axes)], axis=-1).astype(np.float64)


def scores_section(readings: Readings, resamples: Resamples) -> dict[str, Any]:
    """Per attribute: how often each level was given, the mean, the share of saturated prompts."""
    if not readings.measures:
        return left_out(NO_SCORES if readings.annotations else NOTHING)
    return {
        "n": sum(bool(read.passes) for read in readings.prompts),
        "preference_score": list(readings.summed),
        "measures": {
            name: {
                "levels": _levels(name, readings),
                "n_ratings": int((~np.isnan(readings.tables[name])).sum()),
                "mean": figure(resamples.mean(totals(readings.tables[name])), NOTHING),
                "saturated": _saturated(readings.means[name], resamples),
            }
            for name in readings.measures
        },
    }


def _levels(name: str, readings: Readings) -> list[dict[str, int]]:
    """How often each score was given, from the lowest of the scale (of those seen, where it is not known)."""
    table = readings.tables[name]
    counts = Counter(table[~np.isnan(table)].astype(int).tolist())
    known = readings.rubric.attributes if readings.rubric else {}
    scales = [known[n] for n in (readings.summed if name == PREFERENCE else (name,)) if n in known]
    ends = [*counts, *([sum(s.low for s in scales), sum(s.high for s in scales)] if scales else [])]
    return [{"level": level, "count": counts[level]} for level in range(min(ends), max(ends) + 1)] if ends else []


def _saturated(means: Floats, resamples: Resamples) -> Figure:
    several = (~np.isnan(means)).sum(axis=1) > 1
    lowest = np.where(np.isnan(means), np.inf, means).min(axis=1)
    highest = np.where(np.isnan(means), -np.inf, means).max(axis=1)
    return figure(
        resamples.share(np.stack([several & (lowest == highest), several], axis=-1).astype(np.float64)),
        "no prompt has two scored completions",
    )


# ----------------------------------------------------------------------------------------------------------- length


def length_section(readings: Readings, resamples: Resamples, *, seed: int) -> dict[str, Any]:
    """Whether the longer completion is scored higher; in pairwise mode, whether it is preferred."""
    if not readings.annotations:
        return left_out(NOTHING)
    if not readings.measures:
        return {"unit": "characters", **_longer_preferred(readings, resamples, seed)}
    undefined = "in no prompt do both score and length differ"
    correlations = {}
    for name in readings.measures:
        by_prompt = spearman(readings.means[name], readings.lengths)
        correlations[name] = figure(resamples.coefficient(totals(by_prompt[:, None]), mean_of), undefined)
    gaps = _best_minus_worst(readings.means[PREFERENCE], readings.lengths)
    return {
        "n": sum(bool(read.passes) for read in readings.prompts),
        "unit": "characters",
        "spearman": correlations,
        "best_minus_worst": figure(
            resamples.mean(totals(gaps[:, None])), "in no prompt do the preference scores differ"
        ),
    }


def _best_minus_worst(scores: Floats, lengths: Floats) -> Floats:
    """Length of the best minus length of the worst, means where several are equally good; NaN where all are."""
    made = np.full(len(scores), np.nan)
    for i, (row, long) in enumerate(zip(scores, lengths, strict=True)):
        known = row[~np.isnan(row)]
        if len(known) and known.min() < known.max():
            made[i] = long[row == known.max()].mean() - long[row == known.min()].mean()
    return made


def _longer_preferred(readings: Readings, resamples: Resamples, seed: int) -> dict[str, Any]:
    """Of the preferences between two lengths that are no tie: how often the longer one is preferred."""
    rows, votes, owners = [], [], []
    for read in readings.prompts:
        won = [w for a in read.annotations if (w := _longer_won(a.preference, a.shown_order, read.lengths))]
        rows.append((float(won.count(1)), float(len(won))))
        votes += won
        owners += [read.prompt_id] * len(won)
    why = "no preference between two completions of different length"
    share = figure(resamples.share(per_prompt(rows)), why)
    p = sign_flip_p([float(v) for v in votes], owners, seed=seed) if votes else None
    return {"n": share["n"], "n_preferences": len(votes), "longer_preferred": share, "p": plain(p, share["n"], why)}


def _longer_won(preference: str | None, shown: Sequence[str], lengths: Mapping[str, int]) -> int:
    """1 if the longer one is preferred, -1 if the shorter one is, 0 if nothing can be said."""
    difference = lengths[shown[0]] - lengths[shown[-1]]
    if preference not in ("first", "second") or not difference:
        return 0
    return 1 if (difference > 0) == (preference == "first") else -1
