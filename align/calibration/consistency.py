"""Whether the annotator says the same when it is asked again, in another order: needs two passes of a prompt.

Readings of the same completions in different passes are compared two by two, within the prompt. Coefficients over all
completions (kappa, alpha) also reward telling good prompts from bad ones; Kendall's tau and the flip rate look within
the prompt, as pairs do.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from align.calibration.figure import Figure, figure, left_out
from align.calibration.readings import PREFERENCE, Readings
from align.calibration.scores import NOTHING, totals
from align.reliability import (
    Metric,
    Resamples,
    alpha_of,
    coincidences,
    each_two,
    kappa_of,
    kendall_tau_b,
    levels_of,
    mean_of,
    moments,
    reversals,
    signs,
)
from align.stats import Floats

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
        "measures": {name: measure(readings.tables[name], resamples) for name in readings.measures},
        "preferences": flips(readings, resamples),
    }


# ----------------------------------------------------------------------------------------------------------- scores


def measure(table: Floats, resamples: Resamples) -> dict[str, Figure]:
    """All coefficients of one attribute; `table` is prompts x completions x passes."""
    readings = np.moveaxis(table, -1, 0)
    pairs = [(readings[i], readings[j]) for i, j in each_two(len(readings))]
    taus = np.stack([kendall_tau_b(a, b) for a, b in pairs], axis=-1)
    differences = np.stack([np.abs(a - b) for a, b in pairs], axis=-1)
    return {
        "kappa": _kappa(np.stack([moments(a, b) for a, b in pairs], axis=1), resamples),
        "alpha_ordinal": _alpha(table, "ordinal", resamples),
        "alpha_interval": _alpha(table, "interval", resamples),
        "tau_b": figure(resamples.coefficient(totals(taus), mean_of), TIED),
        "mean_absolute_difference": figure(resamples.mean(totals(differences)), NO_PAIR),
    }


def _kappa(sums: Floats, resamples: Resamples) -> Figure:
    """Quadratic kappa of each two passes, averaged over them (Light 1971)."""
    shape = sums.shape[1:]

    def mean_kappa(summed: Floats) -> Floats:
        return mean_of(totals(kappa_of(summed.reshape(-1, *shape))))

    return figure(resamples.coefficient(sums.reshape(len(sums), -1), mean_kappa), SAME)


def _alpha(table: Floats, metric: Metric, resamples: Resamples) -> Figure:
    levels = levels_of(table)

    def alpha(summed: Floats) -> Floats:
        return alpha_of(summed.reshape(-1, len(levels), len(levels)), levels, metric)

    sums = coincidences(table, levels).reshape(len(table), -1)
    return figure(resamples.coefficient(sums, alpha), SAME)


# ------------------------------------------------------------------------------------------------------ preferences


def flips(readings: Readings, resamples: Resamples) -> dict[str, Figure]:
    """How often the better of two completions is the worse one in another pass.

    `flip_rate` is of all pairs of completions, `flip_rate_decided` of those that are no tie in either pass.
    """
    by_pass = _scored(readings) if readings.measures else _preferred(readings)
    pairs = each_two(len(by_pass))
    sums = np.zeros((len(readings.prompts), 3))
    for first, second in pairs:
        sums += reversals(by_pass[first], by_pass[second])
    return {
        "flip_rate": figure(resamples.share(sums[:, [0, 2]]), NO_PAIR),
        "flip_rate_decided": figure(resamples.share(sums[:, [0, 1]]), "no two completions differ in both passes"),
        "decided": figure(resamples.share(sums[:, [1, 2]]), NO_PAIR),
    }


def _scored(readings: Readings) -> list[Floats]:
    """Per pass: prompts x pairs of completions, which of them has the higher preference score."""
    return [signs(scores) for scores in np.moveaxis(readings.tables[PREFERENCE], -1, 0)]


def _preferred(readings: Readings) -> list[Floats]:
    """The same from pairwise annotations: 1 the completion that comes first by id, -1 the other, 0 neither."""
    numbers = sorted({a.pass_index for a in readings.annotations})
    most = max(len(read.lengths) for read in readings.prompts)
    column = {pair: i for i, pair in enumerate(each_two(most))}
    made = np.full((len(numbers), len(readings.prompts), len(column)), np.nan)
    for i, read in enumerate(readings.prompts):
        place = {completion: k for k, completion in enumerate(read.lengths)}
        for annotation in read.annotations:
            if annotation.preference is not None:
                one, other = (place[c] for c in annotation.shown_order)
                sign = {"first": 1.0, "second": -1.0, "tie": 0.0}[annotation.preference]
                pair, sign = ((one, other), sign) if one < other else ((other, one), -sign)
                made[numbers.index(annotation.pass_index), i, column[pair]] = sign
    return list(made)
