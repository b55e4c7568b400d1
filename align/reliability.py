"""How far ratings can be relied on: agreement coefficients, and their intervals by bootstrap over prompts.

    quadratic_kappa([0, 4, 2], [0, 3, 2])                    ->  0.923…
    krippendorff_alpha([[1, 1], [2, 3], [3, nan]])           ->  one row per unit, one column per rater
    Resamples(n_prompts, seed=0).interval(sums, kappa_of)    ->  Interval(value, low, high, n)

Numpy only. Each coefficient is NaN where it is not defined (every value the same), never 0. The ratings of one prompt
belong together, so the prompt is what is resampled. Every coefficient here is a function of sums over prompts (`*_of`),
hence one set of resamples serves all figures of a card: a resample of a coefficient is a resample of its sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from align.stats import LEVEL, Floats, Interval

DRAWS = 2000
Metric = Literal["ordinal", "interval"]
Statistic = Callable[[Floats], Floats]
"""Sums of columns, one row per resample -> the figure of each; NaN where it is not defined."""


# ---------------------------------------------------------------------------------------------------- two raters


def moments(a: ArrayLike, b: ArrayLike) -> Floats:
    """What `kappa_of` needs of two raters' scores of the same things: n, sums, sums of squares, of squared differences.

    They add up: the moments of two prompts are the sum of the moments of each.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), ((x - y) ** 2).sum()])


def kappa_of(summed: Floats) -> Floats:
    """Quadratic-weighted Cohen's kappa from `moments`, over the last axis.

    Cohen 1968 with weights (i - j)^2: 1 - observed / expected disagreement, expected where each rater keeps his own
    marginals. With these weights both are mean squares, expected = var(a) + var(b) + (mean(a) - mean(b))^2 (Fleiss and
    Cohen 1973), so no table is needed, and neither is the number of levels.
    """
    n, a, b, aa, bb, dd = np.moveaxis(summed, -1, 0)
    return 1 - _ratio(n * dd, n * (aa + bb) - 2 * a * b)


def quadratic_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Agreement of two raters beyond chance on an ordered scale: 1 perfect, 0 as by chance."""
    return float(kappa_of(moments(a, b)))


def kendall_tau_b(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b (Kendall 1945): concordant minus discordant pairs, ties of either rater taken out of its norm."""
    x, y = signs(a), signs(b)
    norm = math.sqrt(int((x * x).sum()) * int((y * y).sum()))
    return float((x * y).sum()) / norm if norm else math.nan


def signs(scores: ArrayLike) -> NDArray[np.int64]:
    """For each two of `scores`, which is the greater one: 1 the first, -1 the second, 0 neither."""
    x = np.asarray(scores, dtype=np.float64)
    first, second = _each_two(len(x))
    return np.sign(x[first] - x[second]).astype(np.int64)


def reversals(a: ArrayLike, b: ArrayLike) -> Floats:
    """How preferences (as `signs`) fare from one reading to the next: reversed, decided in both readings, all."""
    x, y = np.asarray(a), np.asarray(b)
    return np.array([float((x * y < 0).sum()), float((x * y != 0).sum()), float(len(x))])


def flip_rate(a: ArrayLike, b: ArrayLike) -> float:
    """Share of all pairs of completions whose order by score reverses between two readings; a tie reverses nothing."""
    reversed_, _, pairs = reversals(signs(a), signs(b))
    return float(reversed_ / pairs) if pairs else math.nan


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation (Spearman 1904): Pearson's of the ranks, ties at the middle of theirs."""
    x, y = midranks(a), midranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    # one rounding error in the square root may not make a correlation of 1.0000000000000002
    return max(-1.0, min(1.0, float((x * y).sum()) / norm)) if norm else math.nan


def midranks(values: ArrayLike) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    x = np.asarray(values, dtype=np.float64)
    ordered = np.sort(x)
    ranks: Floats = (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right") + 1) / 2
    return ranks


# -------------------------------------------------------------------------------------- any raters, values missing


def coincidences(ratings: ArrayLike, levels: Sequence[float]) -> Floats:
    """The coincidence matrix over `levels` of units (rows) by raters (columns), NaN where one is missing.

    Each two values of a unit with m of them count 1 / (m - 1); a unit with one value says nothing and counts nothing
    (Krippendorff 2011, section D). The matrices of several prompts add up.
    """
    values = np.asarray(ratings, dtype=np.float64)
    counts = (values[:, :, None] == np.asarray(levels, dtype=np.float64)).sum(axis=1).astype(np.float64)
    counts = counts[counts.sum(axis=1) >= 2]
    weighted = counts / (counts.sum(axis=1, keepdims=True) - 1)
    found: Floats = weighted.T @ counts - np.diag(weighted.sum(axis=0))
    return found


def alpha_of(matrix: Floats, levels: Sequence[float], metric: Metric) -> Floats:
    """Krippendorff's alpha from `coincidences`, over the last two axes.

    alpha = 1 - (n - 1) sum o_ck d_ck / sum n_c n_k d_ck (Krippendorff 2011, section E). Interval: d_ck = (c - k)^2.
    Ordinal: the values between c and k count, with half of those at c and k; that is the squared distance of the
    mid-ranks of c and k.
    """
    marginals = matrix.sum(axis=-1)
    if metric == "ordinal":
        places = np.cumsum(marginals, axis=-1) - marginals / 2
    else:
        places = np.broadcast_to(np.asarray(levels, dtype=np.float64), marginals.shape)
    distance = (places[..., :, None] - places[..., None, :]) ** 2
    observed = (matrix * distance).sum(axis=(-2, -1))
    expected = (marginals[..., :, None] * marginals[..., None, :] * distance).sum(axis=(-2, -1))
    return 1 - _ratio((marginals.sum(axis=-1) - 1) * observed, expected)


def krippendorff_alpha(ratings: ArrayLike, metric: Metric = "ordinal") -> float:
    """Agreement of any number of raters beyond chance, values missing or not: 1 perfect, 0 as by chance.

    From .8 upwards he takes data to be reliable, below .667 not even for tentative conclusions (Krippendorff 2004).
    """
    values = np.asarray(ratings, dtype=np.float64)
    levels = [float(v) for v in np.unique(values[~np.isnan(values)])]
    return float(alpha_of(coincidences(values, levels), levels, metric))


def each_two(n: int) -> list[tuple[int, int]]:
    """Each two of n things, the earlier first; the order of `signs`."""
    return list(combinations(range(n), 2))


@cache
def _each_two(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(n, k=1)


# -------------------------------------------------------------------------------------------------------- intervals


def mean_of(summed: Floats) -> Floats:
    """A mean from its two columns: the sum, and how many were summed."""
    return _ratio(summed[..., 0], summed[..., 1])


def per_prompt(rows: Sequence[Sequence[float] | Floats], columns: int = 2) -> Floats:
    """One row of sums per prompt, as `Resamples` takes them; also where there is no prompt."""
    return np.array(rows, dtype=np.float64).reshape(-1, columns)


class Resamples:
    """Resamples of n prompts, drawn once: how often each prompt is in each. Same seed, same resamples."""

    def __init__(self, n: int, *, seed: int = 0, draws: int = DRAWS) -> None:
        rng = np.random.Generator(np.random.PCG64(seed))
        self.times = np.zeros((draws, n), dtype=np.uint8)
        for row in self.times if n else ():
            row += np.bincount(rng.integers(0, n, size=n), minlength=n).astype(np.uint8)

    def interval(
        self, sums: Floats, statistic: Statistic, *, least: float = -math.inf, most: float = math.inf
    ) -> Interval:
        """A figure with its percentile bootstrap interval; `sums` has a row per prompt, zeros where it says nothing.

        `n` is the number of prompts that say something. As in `stats.bootstrap_interval`, deviations are widened by
        sqrt(n / (n - 1)); bounds stay within `least` and `most`, and are infinite below two prompts. Resamples in which
        the figure is undefined are left out.
        """
        n = int((sums != 0).any(axis=1).sum())
        value = float(statistic(sums.sum(axis=0)[None])[0])
        if n < 2 or math.isnan(value):
            return Interval(value=value, low=-math.inf, high=math.inf, n=n)
        pieces = [self.times[start : start + 100] @ sums for start in range(0, len(self.times), 100)]
        drawn = statistic(np.concatenate(pieces))
        drawn = value + (drawn[~np.isnan(drawn)] - value) * math.sqrt(n / (n - 1))
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(value=value, low=max(float(low), least), high=min(float(high), most), n=n)

    def mean(self, sums: Floats) -> Interval:
        """The mean of a quantity, from columns as `mean_of` has them."""
        return self.interval(sums, mean_of)

    def coefficient(self, sums: Floats, statistic: Statistic) -> Interval:
        """What is never below -1 or above 1."""
        return self.interval(sums, statistic, least=-1.0, most=1.0)

    def share(self, sums: Floats) -> Interval:
        """A share, from two columns: how often it was so, and of how many.

        Where it was so always or never no resample differs; the far bound is then the exact binomial one over prompts
        (Clopper and Pearson 1934): of 10 prompts without a flip, at most 31% have one.
        """
        found = self.interval(sums, mean_of, least=0.0, most=1.0)
        if found.n < 2 or found.value not in (0.0, 1.0):
            return found
        far = 1 - ((1 - LEVEL) / 2) ** (1 / found.n)
        bounds = (0.0, far) if found.value == 0 else (1 - far, 1.0)
        return Interval(value=found.value, low=bounds[0], high=bounds[1], n=found.n)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotients; NaN, without a warning, where the divisor is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    found: Floats = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
    return found
