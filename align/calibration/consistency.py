"""Whether the annotator says the same when it is asked again, in another order: needs two passes of a prompt.

Readings of the same completions in different passes are compared two by two, within the prompt. Coefficients over all
completions (kappa, alpha) also reward telling good prompts from bad ones; Kendall's tau and the flip rate look within
the prompt, as pairs do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align.calibration.figure import Figure, figure, left_out
from align.calibration.readings import PREFERENCE, Read, Readings
from align.calibration.scores import NOTHING
from align.reliability import (
    Metric,
    Resamples,
    alpha_of,
    coincidences,
    each_two,
    kappa_of,
    kendall_tau_b,
    mean_of,
    moments,
    per_prompt,
    reversals,
    signs,
)
from align.stats import Floats, Interval

SAME = "all scores are the same: agreement beyond chance is not defined"
TIED = "in no prompt do the completions differ in both passes"
NO_PAIR = "no two completions were compared in two passes"
ONE_PASS = "every prompt has one pass (annotate.passes: 2 or more tells)"


def consistency_section(readings: Readings, resamples: Resamples) -> dict[str, Any]:
    """Agreement between passes, per attribute and of the preference score, and how often preferences flip."""
    if not readings.annotations:
        return left_out(NOTHING)
    passes = Counter(len({a.pass_index for a in read.annotations}) for read in readings.prompts)
    repeated = sum(count for n, count in passes.items() if n > 1)
    if not repeated:
        return left_out(ONE_PASS)
    return {
        "n": repeated,
        "passes": [{"passes": n, "prompts": passes[n]} for n in sorted(passes)],
        "measures": {name: _measure(name, readings, resamples) for name in readings.measures},
        "preferences": _flips(readings, resamples),
    }


# ----------------------------------------------------------------------------------------------------------- scores


def _measure(name: str, readings: Readings, resamples: Resamples) -> dict[str, Figure]:
    width = 1 + max(number for read in readings.prompts for number in read.passes)
    tables = [_table(name, read, width) for read in readings.prompts]
    taus = [_mean_tau(table) for table in tables]
    differences = [_absolute_differences(table) for table in tables]
    ordinal, interval = _alphas(tables, resamples)
    return {
        "kappa": figure(_kappa(tables, width, resamples), SAME),
        "alpha_ordinal": ordinal,
        "alpha_interval": interval,
        "tau_b": figure(resamples.coefficient(per_prompt(taus), mean_of), TIED),
        "mean_absolute_difference": figure(resamples.mean(per_prompt(differences)), NO_PAIR),
    }


def _table(name: str, read: Read, width: int) -> Floats:
    """The prompt's scores: a row per completion, a column per pass number, NaN where there is none."""
    table = np.full((len(read.lengths), width), np.nan)
    for number, by_completion in read.passes.items():
        for row, completion in enumerate(read.lengths):
            table[row, number] = by_completion.get(completion, {}).get(name, np.nan)
    return table


def _both(table: Floats, first: int, second: int) -> tuple[Floats, Floats]:
    """Two passes' scores of the completions that both have."""
    there = ~np.isnan(table[:, first]) & ~np.isnan(table[:, second])
    return table[there, first], table[there, second]


def _kappa(tables: Sequence[Floats], width: int, resamples: Resamples) -> Interval:
    """Quadratic kappa of each two passes, averaged over them (Light 1971)."""
    pairs = each_two(width)
    sums = [np.concatenate([moments(*_both(table, *pair)) for pair in pairs]) for table in tables]

    def mean_kappa(summed: Floats) -> Floats:
        kappas = kappa_of(summed.reshape(len(summed), len(pairs), -1))
        known = ~np.isnan(kappas)
        return mean_of(np.stack([np.where(known, kappas, 0.0).sum(axis=1), known.sum(axis=1)], axis=1))

    return resamples.coefficient(np.array(sums), mean_kappa)


def _alphas(tables: Sequence[Floats], resamples: Resamples) -> tuple[Figure, Figure]:
    """Alpha with the ordinal and with the interval metric."""
    seen = np.unique(np.concatenate([table[~np.isnan(table)] for table in tables]))
    levels = [float(v) for v in seen]
    sums = np.array([coincidences(table, levels).ravel() for table in tables])

    def alpha(metric: Metric) -> Figure:
        def of(summed: Floats) -> Floats:
            return alpha_of(summed.reshape(-1, len(levels), len(levels)), levels, metric)

        return figure(resamples.coefficient(sums, of), SAME)

    return alpha("ordinal"), alpha("interval")


def _mean_tau(table: Floats) -> tuple[float, float]:
    """Mean tau of each two passes, and 1; or nothing, where no two passes tell the completions apart."""
    found = [kendall_tau_b(*_both(table, *pair)) for pair in each_two(table.shape[1])]
    known = [tau for tau in found if not math.isnan(tau)]
    return (sum(known) / len(known), 1.0) if known else (0.0, 0.0)


def _absolute_differences(table: Floats) -> tuple[float, float]:
    both = [_both(table, *pair) for pair in each_two(table.shape[1])]
    return sum(float(np.abs(a - b).sum()) for a, b in both), float(sum(len(a) for a, _ in both))


# ------------------------------------------------------------------------------------------------------ preferences


def _flips(readings: Readings, resamples: Resamples) -> dict[str, Figure]:
    """How often the better of two completions is the worse one in another pass.

    `flip_rate` is of all pairs of completions, `flip_rate_decided` of those that are no tie in either pass.
    """
    rows = []
    for read in readings.prompts:
        said = _preferences(read)
        found = np.zeros(3)
        for first, second in each_two(len(said)):
            shared = sorted(said[first].keys() & said[second].keys())
            found += reversals([said[first][s] for s in shared], [said[second][s] for s in shared])
        rows.append(found)
    sums = per_prompt(rows, columns=3)
    decided = "no two completions differ in both passes"
    return {
        "flip_rate": figure(resamples.share(sums[:, [0, 2]]), NO_PAIR),
        "flip_rate_decided": figure(resamples.share(sums[:, [0, 1]]), decided),
        "decided": figure(resamples.share(sums[:, [1, 2]]), NO_PAIR),
    }


def _preferences(read: Read) -> list[Mapping[tuple[str, str], int]]:
    """Per pass: two completions -> 1 if the first is better, -1 if the second is, 0 if neither."""
    found: dict[int, dict[tuple[str, str], int]] = {}
    for number, by_completion in read.passes.items():
        scored = {c: scores[PREFERENCE] for c, scores in by_completion.items() if PREFERENCE in scores}
        ids = sorted(scored)
        pairs = [(ids[i], ids[j]) for i, j in each_two(len(ids))]
        found[number] = dict(zip(pairs, map(int, signs([scored[c] for c in ids])), strict=True))
    for annotation in read.annotations:
        if annotation.preference is not None:
            one, other = annotation.shown_order
            sign = {"first": 1, "second": -1, "tie": 0}[annotation.preference]
            key, sign = ((one, other), sign) if one < other else ((other, one), -sign)
            found.setdefault(annotation.pass_index, {})[key] = sign
    return [found[number] for number in sorted(found)]
