"""Two systems on the same questions, whatever the measure: F1, ratios, CIDEr, sums of sums.

    sums_difference(table_b, table_a, combine, images)     # rows: questions, columns: what the measure sums
    Difference(mean=0.031, low=0.012, high=0.049, p=0.0018, n=3000)

Whole clusters (an image, a dialogue) are resampled once for both systems, so that the interval is that of the
difference. p comes from swapping the two systems' answers cluster by cluster: were they one system, any of these
exchanges would have been as likely as what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.stats import EXACT_UP_TO, LEVEL, Difference

Floats = NDArray[np.float64]
DRAWS = 2000
SWAPS = 10_000
_PIECE = 500
"""Draws that are held in memory at once."""


def difference_json(difference: Difference) -> dict[str, Any]:
    """Rounded to what is printed at most, with the smallest difference that could have been shown; no bound is null."""
    row = asdict(difference) | {"mde": difference.mde}
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in row.items()}


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p that neither of two systems is right more often (McNemar 1947, by the binomial).

    In: how many questions only the first, and only the second system answered rightly.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail: int = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << n))


def sums_difference(
    first: Floats,
    second: Floats,
    combine: Callable[[Floats], Floats],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    swaps: int = SWAPS,
) -> Difference | None:
    """`first` minus `second` of a number made of sums of columns; None where it is defined for neither or only one.

    Both tables hold the same questions in the same order, shape (questions, columns); `combine` as in
    `align.stats.bootstrap_sums`. Draws in which the difference is undefined are left out.
    """
    places = _numbered(len(first), clusters)
    g = int(places.max()) + 1
    a, b = _by_cluster(first, places, g), _by_cluster(second, places, g)
    mean = float((combine(a.sum(axis=0, keepdims=True)) - combine(b.sum(axis=0, keepdims=True)))[0])
    if math.isnan(mean):
        return None
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn: list[Floats] = []
    for start in range(0, draws, _PIECE) if g > 1 else ():
        counts = _resampled(rng, min(_PIECE, draws - start), g)
        drawn.append(combine(counts @ a) - combine(counts @ b))
    low, high = _bounds(drawn)
    p = _swap_p(a, b, combine, mean, seed=seed, swaps=swaps)
    return Difference(mean=mean, low=low, high=high, p=p, n=len(first))


def statistic_difference(
    first: Floats,
    second: Floats,
    statistic: Callable[[Floats], float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Difference | None:
    """The same for a number of the whole table, such as a fit: slower, hence fewer draws, and as many swaps."""
    places = _numbered(len(first), clusters)
    members = [np.flatnonzero(places == c) for c in range(int(places.max()) + 1)]
    mean = float(statistic(first) - statistic(second))
    if math.isnan(mean):
        return None
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn, extreme, tried = [], 0, 0
    for _ in range(draws if len(members) > 1 else 0):
        rows = np.concatenate([members[c] for c in rng.integers(0, len(members), size=len(members))])
        drawn.append(statistic(first[rows]) - statistic(second[rows]))
        swapped = (rng.random(len(members)) < 0.5)[places][:, None]
        found = statistic(np.where(swapped, second, first)) - statistic(np.where(swapped, first, second))
        tried += not math.isnan(found)
        extreme += abs(found) >= abs(mean) * (1 - 1e-9)
    low, high = _bounds([np.array(drawn)])
    return Difference(mean=mean, low=low, high=high, p=(1 + extreme) / (1 + tried), n=len(first))


def _swap_p(a: Floats, b: Floats, combine: Callable[[Floats], Floats], mean: float, *, seed: int, swaps: int) -> float:
    """How often the two would be as far apart if each cluster's answers were dealt to them by a coin toss.

    Exact up to 13 clusters that differ; above, (1 + as extreme) / (1 + drawn), which is never 0.
    """
    middle, half = (a + b).sum(axis=0) / 2, (a - b) / 2
    half = half[np.any(half != 0, axis=1)]
    if not len(half):
        return 1.0
    reach = abs(mean) * (1 - 1e-9)  # equal sums may differ in the last bits

    def extreme(signs: NDArray[Any]) -> tuple[int, int]:
        moved = signs @ half
        found = np.abs(combine(middle + moved) - combine(middle - moved))
        return int(np.sum(found >= reach)), int(np.sum(~np.isnan(found)))

    if len(half) <= EXACT_UP_TO:
        far, tried = extreme(1.0 - 2 * ((np.arange(2 ** len(half))[:, None] >> np.arange(len(half))) & 1))
        return far / tried
    rng = np.random.Generator(np.random.PCG64(seed))
    counted = [
        extreme(1.0 - 2 * rng.integers(0, 2, size=(_PIECE, len(half)), dtype=np.int8)) for _ in range(swaps // _PIECE)
    ]
    return (1 + sum(far for far, _ in counted)) / (1 + sum(tried for _, tried in counted))


def _resampled(rng: np.random.Generator, draws: int, g: int) -> Floats:
    """How often each of g clusters is drawn, per draw: shape (draws, g)."""
    chosen = rng.integers(0, g, size=(draws, g)) + np.arange(draws)[:, None] * g
    return np.bincount(chosen.ravel(), minlength=draws * g).reshape(draws, g).astype(np.float64)


def _bounds(drawn: Sequence[Floats]) -> tuple[float, float]:
    """The 95% percentile interval of the draws that are defined; infinite where there are none."""
    found = np.concatenate(drawn) if drawn else np.empty(0)
    found = found[~np.isnan(found)]
    if not len(found):
        return -math.inf, math.inf
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _numbered(n: int, clusters: Sequence[Hashable] | None) -> NDArray[np.intp]:
    """The number of each row's cluster, clusters in the order in which they first appear."""
    if not n:
        raise ValueError("no rows: nothing to compare")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters or range(n)], dtype=np.intp)


def _by_cluster(table: Floats, places: NDArray[np.intp], g: int) -> Floats:
    return np.stack([np.bincount(places, weights=column, minlength=g) for column in table.T], axis=1)
