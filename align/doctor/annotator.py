"""What the annotator's scores depend on: the place in which a completion is shown, and each other.

The test of places is the calibration card's (`align/calibration/position.py`), over prompts or, beyond 4,096 of them,
over groups of prompts: to turn all orders of a group together is one of the draws that chance might have made.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from align.calibration.figure import Figure, left_out, plain
from align.calibration.position import ONE, rotation_p
from align.doctor.margins import NO_SCORES
from align.doctor.sampling import groups
from align.doctor.scored import weighted
from align.stats import sign_flip_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from align.doctor.collect import Column, Keys, Tables
    from align.doctor.sampling import Clusters
    from align.doctor.scored import Scored
    from align.stats import Floats

LENGTH = "characters"
"""Stands among the attributes in the heat map."""
BY_PEOPLE = "people's ratings do not say in which order they saw the completions"
CHANCES = 1000
"""Draws of what places differ by through chance alone."""
CONSTANT = "one of the two is the same everywhere"


def position_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """`effect` is the headline: points between the best and the worst place; pairwise, share of "first" beyond half.

    `by_chance`: what `effect` comes to where the place means nothing.
    `skipped`: annotations by people, whose ratings come without the order in which they saw the completions.
    """
    first = tables.ratings["size"][tables.ratings["slot"] == 0]
    skipped = int((first == 0).sum())
    return {**_of_places(tables, first[first > 0], skipped, scored, clusters), "skipped": skipped}


def _of_places(tables: Tables, sizes: Column, skipped: int, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    if len(tables.votes["vote"]):
        return _pairwise(tables, clusters)
    sizes, counts = np.unique(sizes, return_counts=True)
    if not len(sizes):
        return left_out(BY_PEOPLE if skipped else "cannot be known without annotations")
    if sizes.max() < 2:
        return left_out("each completion is shown alone: there is no place to favour")
    size = int(max((n, size) for size, n in zip(sizes, counts, strict=True) if size > 1)[1])
    return _listwise(tables, scored, size, clusters)


def _listwise(tables: Tables, scored: Scored, size: int, clusters: Clusters) -> dict[str, Any]:
    prompts, shown = _shown(tables, scored.weights, size)
    why = "no annotation has scores of all the completions it was shown"
    if not len(shown):
        return left_out(why)
    centred = shown - shown.mean(axis=1, keepdims=True)
    effects = [clusters.mean(prompts, centred[:, slot], why) for slot in range(size)]
    sums = clusters.sums(prompts, np.hstack([centred, np.ones((len(shown), 1))]))
    n = len(np.unique(prompts))
    same = "all completions of a prompt always have the same preference score"
    totals = sums[sums[:, -1] > 0, :-1]
    apart = float(np.ptp(totals.sum(axis=0))) / len(shown)
    p = rotation_p(totals, seed=clusters.seed) if n > 1 and np.any(centred) else None
    return {
        "mode": "listwise",
        "n": n,
        "n_annotations": len(shown),
        "effect": plain(apart, n, why),
        "by_chance": plain(_by_chance(totals, clusters.seed) / len(shown), n, why),
        "slots": [
            {"slot": i + 1, "mean": clusters.mean(prompts, shown[:, i], why), "effect": e}
            for i, e in enumerate(effects)
        ],
        "first_minus_last": clusters.mean(prompts, centred[:, 0] - centred[:, -1], why),
        "p": plain(p, n, ONE if n < 2 else same),
    }


def _by_chance(totals: Floats, seed: int) -> float:
    """How far the best and the worst place lie apart, in sums, where every prompt begins at a random place.

    It is never 0, and an interval of the effect could not meet 0 either: this, and p, is what the effect is held to.
    """
    rng, n = np.random.Generator(np.random.PCG64(seed)), len(totals)
    turned = np.stack([np.roll(totals, shift, axis=1) for shift in range(totals.shape[1])])
    drawn = (turned[rng.integers(0, len(turned), size=n), np.arange(n)].sum(axis=0) for _ in range(CHANCES))
    return float(np.mean([np.ptp(sums) for sums in drawn]))


def _shown(tables: Tables, weights: Mapping[str, float], size: int) -> tuple[Keys, Floats]:
    """Prompt, and preference scores by place, of each annotation that showed and scored so many completions."""
    ratings = tables.ratings
    score = weighted({name: tables.scores[name] for name in weights}, weights)
    use = (ratings["size"] == size) & ~np.isnan(score)
    call = ratings["prompt"][use] * np.uint64(0x9E3779B97F4A7C15) ^ ratings["annotation"][use]
    order = np.lexsort([ratings["slot"][use], call])
    call, prompt, score = call[order], ratings["prompt"][use][order], score[use][order]
    whole = [rows for _, rows in groups(call) if rows.shape[1] == size]
    rows: NDArray[np.intp] = np.concatenate(whole) if whole else np.zeros((0, size), dtype=np.intp)
    return prompt[rows[:, 0]], score[rows]


def _pairwise(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    votes = tables.votes
    decided = votes["vote"] != 0
    keys, vote = votes["prompt"][decided], votes["vote"][decided].astype(np.float64)
    why = "every preference is a tie"
    n = len(np.unique(keys))
    first = clusters.share(keys, vote > 0, np.ones(len(vote)), why)
    sums = clusters.sums(keys, vote[:, None])[:, 0]
    beyond = {e: None if first[e] is None else first[e] - 0.5 for e in ("value", "low", "high")}
    return {
        "mode": "pairwise",
        "n": n,
        "n_preferences": len(vote),
        "effect": _size_of({**first, **beyond}),
        "first": first,
        "p": plain(sign_flip_p(list(sums), seed=clusters.seed) if n > 1 else None, n, ONE if n == 1 else why),
    }


def _size_of(figure: Figure) -> Figure:
    """How far a figure is from 0, in either direction, with the interval of that."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return figure
    if low is None or high is None:
        return {**figure, "value": round(abs(value), 4)}
    ends = sorted((abs(low), abs(high)))
    least = 0.0 if low <= 0 <= high else ends[0]
    return {**figure, "value": round(abs(value), 4), "low": round(least, 4), "high": round(ends[1], 4)}


# ------------------------------------------------------------------------------------------------------- correlation


def attributes_section(scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """Pearson correlation of each two attributes, and with length, over completions; also within prompts.

    Attributes that say the same (halo) count double in their sum; the second figure takes out that some questions are
    easier than others.
    """
    if not scored.measures:
        return left_out(NO_SCORES)
    columns = {**{name: scored.measures[name] for name in scored.attributes}, LENGTH: scored.chars}
    cells = [
        {"a": a, "b": b, **_correlation(scored.prompt, columns[a], columns[b], clusters)}
        for a, b in combinations(columns, 2)
    ]
    rated = ~np.isnan(np.stack([scored.measures[name] for name in scored.attributes])).all(axis=0)
    return {"n": len(np.unique(scored.prompt[rated])), "names": list(columns), "cells": cells}


def _correlation(prompt: Keys, a: Floats, b: Floats, clusters: Clusters) -> dict[str, Any]:
    both = ~np.isnan(a) & ~np.isnan(b)
    keys, x, y = prompt[both], a[both], b[both]
    if not len(x):
        nothing = plain(None, 0, "no completion has both scores")
        return {"n_completions": 0, "all": nothing, "within": nothing}
    return {
        "n_completions": len(x),
        "all": _pearson(keys, x - x.mean(), y - y.mean(), clusters),
        "within": _pearson(keys, _centred(keys, x), _centred(keys, y), clusters),
    }


def _centred(keys: Keys, values: Floats) -> Floats:
    """Values less the mean of their prompt."""
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.round(values - (np.bincount(place, weights=values) / counts)[place], 9)


def _pearson(keys: Keys, x: Floats, y: Floats, clusters: Clusters) -> Figure:
    if not np.any(x) or not np.any(y):
        return {"value": None, "low": None, "high": None, "n": len(np.unique(keys)), "why": CONSTANT}
    columns = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
    return clusters.coefficient(keys, columns, pearson_of, CONSTANT)


def pearson_of(summed: Floats) -> Floats:
    """Pearson's correlation from n, sums, sums of squares and of products."""
    n, x, y, xx, yy, xy = np.moveaxis(summed, -1, 0)
    below = np.sqrt(np.maximum(n * xx - x * x, 0.0) * np.maximum(n * yy - y * y, 0.0))
    found = np.divide(n * xy - x * y, below, out=np.full(below.shape, np.nan), where=below > 1e-12)
    return np.asarray(np.clip(found, -1.0, 1.0))
