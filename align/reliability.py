"""How far ratings can be relied on: agreement coefficients, and their intervals by bootstrap over prompts.

    quadratic_kappa([0, 4, 2], [0, 3, 2])                    ->  0.923…
    krippendorff_alpha([[1, 1], [2, 3], [3, nan]])           ->  one row per unit, one column per rater
    Resamples(n_prompts, seed=0).interval(sums, kappa_of)    ->  Interval(value, low, high, n)

Numpy only. Scores lie on the last axis; axes before it are as many prompts, done at once. NaN is a score that is
missing, and a coefficient that is not defined (every score the same); neither is ever 0.

The ratings of one prompt belong together, so the prompt is what is resampled. Every coefficient of a whole run is a
function of sums over prompts (`*_of`), so that one set of resamples serves all figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    x, y, there = _both(a, b)
    parts = [there.astype(np.float64), x, y, x * x, y * y, (x - y) ** 2]
    return np.stack([part.sum(axis=-1) for part in parts], axis=-1)


def kappa_of(summed: Floats) -> Floats:
    """Quadratic-weighted Cohen's kappa from `moments`, over the last axis.

    Cohen 1968 with weights (i - j)^2: 1 - observed / expected disagreement, expected where each rater keeps his own
    marginals. With these weights both are mean squares, expected = var(a) + var(b) + (mean(a) - mean(b))^2 (Fleiss and
    Cohen 1973), so no table is needed, and neither is the number of levels.
    """
    n, a, b, aa, bb, dd = np.moveaxis(summed, -1, 0)
    return 1 - _ratio(n * dd, n * (aa + bb) - 2 * a * b)


def quadratic_kappa(a: ArrayLike, b: ArrayLike) -> Floats:
    """Agreement of two raters beyond chance on an ordered scale: 1 perfect, 0 as by chance."""
    return kappa_of(moments(a, b))


def nominal_kappa_of(summed: Floats) -> Floats:
    """Cohen's kappa (Cohen 1960) over the last axis: a square table of how often each two answers met, laid flat.

    (observed - expected) / (1 - expected) agreement; expected as if each kept his own shares of answers.
    """
    k = math.isqrt(summed.shape[-1])
    table = summed.reshape(*summed.shape[:-1], k, k)
    n = summed.sum(axis=-1)
    agreed = np.trace(table, axis1=-2, axis2=-1)
    chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
    return _ratio(n * agreed - chance, n * n - chance)


def pearson_of(summed: Floats) -> Floats:
    """Pearson's correlation over the last axis: n, sum of x, of y, of x^2, of y^2, of xy.

    A variance that is nothing but the rounding of its sums is 0, and the correlation not defined.
    """
    n, x, y, xx, yy, xy = np.moveaxis(summed, -1, 0)
    spread_x, spread_y = (
        np.where(n * squares - total * total > 1e-9 * n * squares, n * squares - total * total, 0.0)
        for squares, total in ((xx, x), (yy, y))
    )
    return np.clip(_ratio(n * xy - x * y, np.sqrt(spread_x * spread_y)), -1.0, 1.0)


def signs(scores: ArrayLike) -> Floats:
    """For each two of `scores`, which is the greater one: 1 the first, -1 the second, 0 neither."""
    x = np.asarray(scores, dtype=np.float64)
    first, second = np.triu_indices(x.shape[-1], k=1)
    found: Floats = np.sign(x[..., first] - x[..., second])
    return found


def kendall_tau_b(a: ArrayLike, b: ArrayLike) -> Floats:
    """Kendall's tau-b (Kendall 1945): concordant minus discordant pairs, ties of either rater taken out of its norm."""
    x, y, _ = _both(signs(a), signs(b))
    return _ratio((x * y).sum(axis=-1), np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1)))


def reversals(a: ArrayLike, b: ArrayLike) -> Floats:
    """How preferences (as `signs`) fare from one reading to the next: reversed, decided in both readings, all."""
    x, y, there = _both(a, b)
    return np.stack([part.sum(axis=-1).astype(np.float64) for part in (x * y < 0, x * y != 0, there)], axis=-1)


def flip_rate(a: ArrayLike, b: ArrayLike) -> Floats:
    """Share of all pairs of completions whose order by score reverses between two readings; a tie reverses nothing."""
    found = reversals(signs(a), signs(b))
    return _ratio(found[..., 0], found[..., 2])


def spearman(a: ArrayLike, b: ArrayLike) -> Floats:
    """Spearman's rank correlation (Spearman 1904): Pearson's of the ranks, ties at the middle of theirs."""
    x, y, there = _both(a, b)
    x, y = (midranks(np.where(there, values, np.nan)) for values in (x, y))
    middle = (there.sum(axis=-1, keepdims=True) + 1) / 2
    x, y = np.where(there, x - middle, 0.0), np.where(there, y - middle, 0.0)
    rho = _ratio((x * y).sum(axis=-1), np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1)))
    return np.clip(rho, -1.0, 1.0)  # a rounding error may not make it 1.0000000000000002


def midranks(values: ArrayLike) -> Floats:
    """Ranks from 1; equal values share the mean of theirs. Meant for few values: compares each with each."""
    x = np.asarray(values, dtype=np.float64)
    below = (x[..., :, None] > x[..., None, :]).sum(axis=-1)
    equal = (x[..., :, None] == x[..., None, :]).sum(axis=-1)
    return np.where(np.isnan(x), np.nan, below + (equal + 1) / 2)


# -------------------------------------------------------------------------------------- any raters, values missing


def coincidences(ratings: ArrayLike, levels: Sequence[float]) -> Floats:
    """The coincidence matrix over `levels` of units (last axis but one) by raters (last axis).

    Each two values of a unit with m of them count 1 / (m - 1); a unit with one value says nothing and counts nothing
    (Krippendorff 2011, section D). The matrices of several prompts add up.
    """
    values = np.asarray(ratings, dtype=np.float64)
    counts = (values[..., None] == np.asarray(levels, dtype=np.float64)).sum(axis=-2).astype(np.float64)
    others = counts.sum(axis=-1, keepdims=True) - 1
    weighted = np.divide(counts, others, out=np.zeros_like(counts), where=others > 0)
    with_itself = np.eye(len(levels)) * weighted.sum(axis=-2)[..., None, :]
    paired = np.where(others > 0, counts, 0.0)
    found: Floats = np.swapaxes(weighted, -2, -1) @ paired - with_itself
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


def krippendorff_alpha(ratings: ArrayLike, metric: Metric = "ordinal") -> Floats:
    """Agreement of any number of raters beyond chance, values missing or not: 1 perfect, 0 as by chance.

    From .8 upwards he takes data to be reliable, below .667 not even for tentative conclusions (Krippendorff 2004).
    """
    levels = levels_of(ratings)
    return alpha_of(coincidences(ratings, levels), levels, metric)


def levels_of(ratings: ArrayLike) -> list[float]:
    """The values that occur, in order."""
    values = np.asarray(ratings, dtype=np.float64)
    return [float(v) for v in np.unique(values[~np.isnan(values)])]


def each_two(n: int) -> list[tuple[int, int]]:
    """Each two of n things, the earlier first; the order of `signs`."""
    return list(combinations(range(n), 2))


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
        for start in range(0, draws if n else 0, 100):  # in pieces, to stay small in memory
            piece = self.times[start : start + 100]
            for row, drawn in zip(piece, rng.integers(0, n, size=piece.shape), strict=True):
                row[:] = np.bincount(drawn, minlength=n)

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


def _both(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Both raters' values, 0 where one is missing, and where none is."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    there = ~np.isnan(x) & ~np.isnan(y)
    return np.where(there, x, 0.0), np.where(there, y, 0.0), there


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """Quotients; NaN, without a warning, where the divisor is 0."""
    x, y = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    found: Floats = np.divide(x, y, out=np.full(y.shape, np.nan), where=y != 0)[()]
    return found
