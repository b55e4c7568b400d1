"""Which scores are given, and whether they follow length.

A prompt is *saturated* in an attribute where all its completions get the same score: it tells the annotator's
preference nothing. Length is in characters; its correlation with the score is taken within each prompt (Spearman) and
averaged over prompts, so that prompts that call for long answers do not count as a liking for them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align.calibration.figure import Figure, figure, left_out, plain
from align.calibration.readings import PREFERENCE, Read, Readings
from align.reliability import Resamples, mean_of, per_prompt, spearman
from align.stats import sign_flip_p

NO_SCORES = "nothing is scored: pairwise annotations hold preferences, no scores"
NOTHING = "nothing is annotated"


def why_no_scores(readings: Readings) -> str:
    return NO_SCORES if readings.annotations else NOTHING


def scores_section(readings: Readings, resamples: Resamples) -> dict[str, Any]:
    """Per attribute: how often each level was given, the mean, the share of saturated prompts."""
    if not readings.measures:
        return left_out(why_no_scores(readings))
    means = [read.means for read in readings.prompts]
    return {
        "n": sum(map(bool, means)),
        "preference_score": list(readings.summed),
        "measures": {
            name: {
                "levels": _levels(name, readings),
                "n_ratings": sum(name in scores for scores in _ratings(readings)),
                "mean": _mean(name, readings, resamples),
                "saturated": _saturated(name, means, resamples),
            }
            for name in readings.measures
        },
    }


def _ratings(readings: Readings) -> list[Mapping[str, float]]:
    """The scores of every rating."""
    return [s for read in readings.prompts for of_pass in read.passes.values() for s in of_pass.values()]


def _levels(name: str, readings: Readings) -> list[dict[str, int]]:
    """How often each score was given, from the lowest of the scale (of those seen, where it is not known)."""
    counts = Counter(int(scores[name]) for scores in _ratings(readings) if name in scores)
    known = readings.rubric.attributes if readings.rubric else {}
    of = [known[n] for n in (readings.summed if name == PREFERENCE else (name,)) if n in known]
    low = min([sum(s.low for s in of), *counts] if of else counts)
    high = max([sum(s.high for s in of), *counts] if of else counts)
    return [{"level": level, "count": counts[level]} for level in range(low, high + 1)]


def _mean(name: str, readings: Readings, resamples: Resamples) -> Figure:
    given = [[s[name] for p in read.passes.values() for s in p.values() if name in s] for read in readings.prompts]
    return figure(resamples.mean(per_prompt([(sum(v), len(v)) for v in given])), NOTHING)


def _saturated(name: str, means: Sequence[Mapping[str, Mapping[str, float]]], resamples: Resamples) -> Figure:
    rows = []
    for by_completion in means:
        values = [scores[name] for scores in by_completion.values() if name in scores]
        rows.append((float(len(set(values)) == 1), 1.0) if len(values) > 1 else (0.0, 0.0))
    return figure(resamples.share(per_prompt(rows)), "no prompt has two scored completions")


# ----------------------------------------------------------------------------------------------------------- length


def length_section(readings: Readings, resamples: Resamples, *, seed: int) -> dict[str, Any]:
    """Whether the longer completion is scored higher; in pairwise mode, whether it is preferred."""
    if not readings.annotations:
        return left_out(NOTHING)
    if not readings.measures:
        return {"unit": "characters", **_longer_preferred(readings, resamples, seed)}
    means = [read.means for read in readings.prompts]
    correlations = {}
    for name in readings.measures:
        rows = [_correlation(name, scores, read) for scores, read in zip(means, readings.prompts, strict=True)]
        why = "in no prompt do both score and length differ"
        correlations[name] = figure(resamples.coefficient(per_prompt(rows), mean_of), why)
    gaps = [_best_minus_worst(scores, read) for scores, read in zip(means, readings.prompts, strict=True)]
    why = "in no prompt do the preference scores differ"
    return {
        "n": sum(map(bool, means)),
        "unit": "characters",
        "spearman": correlations,
        "best_minus_worst": figure(resamples.mean(per_prompt(gaps)), why),
    }


def _correlation(name: str, scores: Mapping[str, Mapping[str, float]], read: Read) -> tuple[float, float]:
    """A prompt's correlation as a row of sums: (value, 1), or (0, 0) where there is none."""
    rated = [c for c, by in scores.items() if name in by]
    if len(rated) < 2:
        return 0.0, 0.0
    found = spearman([scores[c][name] for c in rated], [read.lengths[c] for c in rated])
    return (0.0, 0.0) if math.isnan(found) else (found, 1.0)


def _best_minus_worst(scores: Mapping[str, Mapping[str, float]], read: Read) -> tuple[float, float]:
    """Length of the best minus length of the worst by preference score, means where several are equally good."""
    by_score: dict[float, list[int]] = {}
    for completion, by in scores.items():
        if PREFERENCE in by:
            by_score.setdefault(by[PREFERENCE], []).append(read.lengths[completion])
    if len(by_score) < 2:
        return 0.0, 0.0
    best, worst = by_score[max(by_score)], by_score[min(by_score)]
    return sum(best) / len(best) - sum(worst) / len(worst), 1.0


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
