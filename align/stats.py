"""Intervals, paired tests and the verdict; numpy only, the same numbers for the same seed.

    difference = paired_difference(dpo, vlm)      # question id -> score, per model
    Difference(mean=0.12, low=0.05, high=0.19, p=0.0013, n=200)

Questions, not answers, are the sample: two models are compared on the questions both answered, and questions that share
an image or a dialogue are drawn together (`clusters`). The verdict (does visual tuning worsen text, is it repaired) is
one function for demo, compare, audit and report: `verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
DRAWS = 8000
"""Bounds then vary by 3% of a standard error from seed to seed."""
PERMUTATIONS = 10_000
MANY_CLUSTERS = 10_000
"""Above, resamples are counted one at a time: several times faster, and small in memory."""
EXACT_UP_TO = 13
"""Up to so many clusters that differ, all 2^n sign flips are counted instead of drawn."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval; without bounds (infinite) where fewer than two clusters were seen."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of paired differences, its interval, and p of a two-sided sign-flip test that it is 0."""

    mean: float
    low: float
    high: float
    p: float
    n: int

    @property
    def se(self) -> float:
        """Standard error, read off the width of the 95% interval."""
        return (self.high - self.low) / (2 * _z(LEVEL))

    @property
    def mde(self) -> float:
        """The smallest true difference that so many questions would show in 8 of 10 tries."""
        return minimum_detectable_effect(self.se)

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL


# ------------------------------------------------------------------------------------------------------- intervals


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """The mean with its percentile bootstrap interval; whole clusters are resampled where they are given.

    Percentiles are taken of deviations widened by sqrt(g / (g - 1)), g clusters, since a resample varies that much less
    than a fresh sample would (Hesterberg 2015, section 4.1); bounds never leave the range of the values.
    """
    x = _checked(values)
    sums, sizes = _by_cluster(x, clusters)
    mean = float(x.mean())
    g = len(sums)
    if g < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf, n=len(x))
    rng = _rng(seed)
    if g > MANY_CLUSTERS:
        drawn = _resampled(np.stack([sums, sizes], axis=1), draws, rng)
        means = drawn[:, 0] / drawn[:, 1]
    else:
        means = np.empty(draws)
        for start in range(0, draws, 500):  # in pieces, to stay small in memory
            chosen = rng.integers(0, g, size=(min(500, draws - start), g), dtype=np.int32)
            means[start : start + 500] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    low, high = np.quantile(mean + (means - mean) * math.sqrt(g / (g - 1)), _tails(level))
    return Interval(value=mean, low=max(float(low), float(x.min())), high=min(float(high), float(x.max())), n=len(x))


def bootstrap_statistic(
    rows: NDArray[Any],
    statistic: Callable[[NDArray[Any]], float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = LEVEL,
) -> Interval:
    """Any statistic of rows with its percentile bootstrap interval, for ratios such as F1 that are no mean.

    For the difference of two models give rows with the columns of both. Resamples in which the statistic is undefined
    (NaN: F1 without one positive) are left out.
    """
    rows = np.asarray(rows)
    if not len(rows):
        raise ValueError("no rows: nothing to estimate from")
    members = _members(len(rows), clusters)
    value = float(statistic(rows))
    if len(members) < 2:
        return Interval(value=value, low=-math.inf, high=math.inf, n=len(rows))
    rng = _rng(seed)
    drawn = np.empty(draws)
    for i in range(draws):
        chosen = rng.integers(0, len(members), size=len(members))
        drawn[i] = statistic(rows[chosen if clusters is None else np.concatenate([members[c] for c in chosen])])
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value=value, low=-math.inf, high=math.inf, n=len(rows))
    low, high = np.quantile(defined, _tails(level))
    return Interval(value=value, low=float(low), high=float(high), n=len(rows))


def bootstrap_sums(
    table: Floats,
    combine: Callable[[Floats], Floats],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = LEVEL,
) -> Interval:
    """A number made of the sums of columns (F1, a ratio of means, a macro average), with its percentile interval.

    `combine` takes sums of shape (draws, columns) and returns (draws,), NaN where undefined: those draws are left out.
    A draw costs one count per cluster, whatever the number of rows; draws are those of `bootstrap_statistic`.
    """
    if not len(table):
        raise ValueError("no rows: nothing to estimate from")
    members = _numbered(len(table), clusters)
    g = int(members.max()) + 1
    by_cluster: Floats = np.stack([np.bincount(members, weights=c, minlength=g) for c in table.T], axis=1, dtype=float)
    value = float(combine(by_cluster.sum(axis=0, keepdims=True))[0])
    unbounded = Interval(value=value, low=-math.inf, high=math.inf, n=len(table))
    if g < 2:
        return unbounded
    drawn = combine(_resampled(by_cluster, draws, _rng(seed)))
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return unbounded
    low, high = np.quantile(defined, _tails(level))
    return Interval(value=value, low=float(low), high=float(high), n=len(table))


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    clusters: Mapping[str, Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
    scale: float = 1.0,
) -> Difference:
    """`a` minus `b` over the questions that both have, in the order of their ids, so that input order is no matter.

    A resample cannot hold what the sample does not: of 8 questions without a difference it makes an interval of no
    width. Where no cluster lies on one side of 0, the bound on that side is at least so far from the mean as clusters
    that were not seen could move it: with g clusters, their share is below 1 - (1 - level)^(1/g) (the "rule of three",
    Hanley and Lippman-Hand 1983), each by `scale`, the most that a score can be.
    """
    ids = sorted(a.keys() & b.keys())
    if not ids:
        raise ValueError("the two models share no question: nothing to compare")
    differences = [a[i] - b[i] for i in ids]
    groups = None if clusters is None else [clusters[i] for i in ids]
    interval = bootstrap_interval(differences, groups, seed=seed, draws=draws, level=level)
    p = sign_flip_p(differences, groups, seed=seed)
    sums, _ = _by_cluster(_checked(differences), groups)
    room = unseen(len(sums), scale, level)
    low = interval.low if (sums < 0).any() else min(interval.low, interval.value - room)
    high = interval.high if (sums > 0).any() else max(interval.high, interval.value + room)
    return Difference(mean=interval.value, low=low, high=high, p=p, n=interval.n)


def unseen(clusters: int, scale: float = 1.0, level: float = LEVEL) -> float:
    """How far clusters that the sample does not hold could move a mean (the rule of three, see `paired_difference`)."""
    share: float = 1 - (1 - level) ** (1 / clusters)
    return scale * share


def sign_flip_p(differences: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0) -> float:
    """Two-sided p: how often the sum would be as far from 0 if each cluster's sign were a coin toss.

    Exact up to 13 clusters that differ; above, (1 + as extreme) / (1 + drawn), which is never 0.
    """
    sums, _ = _by_cluster(_checked(differences), clusters)
    sizes = np.abs(sums[sums != 0])
    if not len(sizes):
        return 1.0
    reach = abs(float(sums.sum())) - 1e-9 * float(sizes.sum())  # equal sums may differ in the last bits
    if len(sizes) <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1)
        return float(np.mean(np.abs(signs @ sizes) >= reach))
    rng = _rng(seed)
    extreme = 0
    for _ in range(PERMUTATIONS // 1000):
        signs = 1 - 2 * rng.integers(0, 2, size=(1000, len(sizes)), dtype=np.int8)
        extreme += int(np.sum(np.abs(signs @ sizes) >= reach))
    return (1 + extreme) / (1 + PERMUTATIONS)


def holm(pvalues: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (Holm 1979): the k-th smallest of m times m - k + 1, never below the one before."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for k, name in enumerate(sorted(pvalues, key=lambda name: (pvalues[name], name))):
        least = max(least, min(1.0, pvalues[name] * (len(pvalues) - k)))
        adjusted[name] = least
    return {name: adjusted[name] for name in pvalues}


def holm_over(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same differences with p adjusted for their number."""
    adjusted = holm({name: d.p for name, d in differences.items()})
    return {name: replace(d, p=adjusted[name]) for name, d in differences.items()}


def minimum_detectable_effect(se: float, *, level: float = LEVEL, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at this standard error finds with this power."""
    return (_z(level) + NormalDist().inv_cdf(power)) * se


# ------------------------------------------------------------------------------------------------------ the verdict

Regression = Literal["none", "present", "not shown"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an aligned model did to a regression; `share` of the loss regained, where it was partly repaired."""

    text: str
    share: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteVerdict:
    """One suite: what visual tuning did to it, and what each aligned model did about that. p is Holm-adjusted."""

    suite: str
    margin: float
    vlm_minus_backbone: Difference
    regression: Regression
    aligned_minus_vlm: dict[str, Difference]
    aligned_minus_backbone: dict[str, Difference]
    repair: dict[str, Verdict]


def regression_verdict(vlm_minus_backbone: Difference, margin: float) -> Regression:
    """`none` if the loss is surely below the margin, `present` if there surely is one, else `not shown`."""
    if vlm_minus_backbone.low > -margin:
        return "none"
    return "present" if vlm_minus_backbone.high < 0 and vlm_minus_backbone.significant else "not shown"


def repair_verdict(
    aligned_minus_vlm: Difference, aligned_minus_backbone: Difference, vlm_minus_backbone: Difference, margin: float
) -> Verdict:
    """`repaired`, `partly repaired (x% [low, high])`, `worse` or `not shown`.

    Where no regression is present: `worse`, `nothing to repair` (there is none) or `not shown` (there may be one).
    """
    gain = aligned_minus_vlm
    if gain.significant and gain.high < 0:
        return Verdict(text="worse")
    regression = regression_verdict(vlm_minus_backbone, margin)
    if regression != "present":
        return Verdict(text="nothing to repair" if regression == "none" else "not shown")
    if not (gain.significant and gain.low > 0):
        return Verdict(text="not shown")
    if aligned_minus_backbone.low > -margin:
        return Verdict(text="repaired")
    share, low, high = _share(gain, aligned_minus_backbone, vlm_minus_backbone)
    text = f"partly repaired ({share:.0%} [{_percent(low)}, {_percent(high)}])"
    return Verdict(text=text, share=share, low=low, high=high)


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0%}"


def _share(gain: Difference, remaining: Difference, loss: Difference) -> tuple[float, float | None, float | None]:
    """The gain as a share of the loss, with Fieller's interval (Fieller 1954), or no bounds if the loss may be 0.

    The three differences are of one set of questions, aligned - backbone = (aligned - vlm) + (vlm - backbone), so that
    their three variances tell the covariance that Fieller's theorem asks for.
    """
    lost = -loss.mean
    var_gain, var_lost = gain.se**2, loss.se**2
    covariance = (var_gain + var_lost - remaining.se**2) / 2  # of the gain and what was lost
    z2 = _z(LEVEL) ** 2
    a = lost**2 - z2 * var_lost
    b = gain.mean * lost - z2 * covariance
    c = gain.mean**2 - z2 * var_gain
    root = b * b - a * c
    if a <= 0 or root < 0:
        return gain.mean / lost, None, None
    return gain.mean / lost, (b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a


def verdicts(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    vlm: str,
    backbone: str,
    margin: float = 0.02,
    scale: float | Mapping[str, float] = 1.0,
    clusters: Mapping[str, Mapping[str, Hashable]] | None = None,
    seed: int = 0,
) -> list[SuiteVerdict]:
    """The verdict of every suite that the backbone has. `values` is suite -> model -> question -> score.

    `margin` is a share of the suite's `scale`. For each model, Holm's correction runs over the suites.
    """
    suites = [s for s, models in values.items() if models.get(vlm) and models.get(backbone)]
    others = list(dict.fromkeys(m for s in suites for m in values[s] if m not in (vlm, backbone)))

    def compare(first: str, second: str) -> dict[str, Difference]:
        found = {
            s: paired_difference(
                values[s][first], values[s][second], (clusters or {}).get(s), seed=seed, scale=_of(scale, s)
            )
            for s in suites
            if values[s].get(first)
        }
        return holm_over(found)

    loss = compare(vlm, backbone)
    gain = {m: compare(m, vlm) for m in others}
    remaining = {m: compare(m, backbone) for m in others}
    made = []
    for s in suites:
        m = margin * _of(scale, s)
        present = [o for o in others if s in gain[o]]
        made.append(
            SuiteVerdict(
                suite=s,
                margin=m,
                vlm_minus_backbone=loss[s],
                regression=regression_verdict(loss[s], m),
                aligned_minus_vlm={o: gain[o][s] for o in present},
                aligned_minus_backbone={o: remaining[o][s] for o in present},
                repair={o: repair_verdict(gain[o][s], remaining[o][s], loss[s], m) for o in present},
            )
        )
    return made


# ---------------------------------------------------------------------------------------------------------- helpers


def _of(scale: float | Mapping[str, float], suite: str) -> float:
    return scale if isinstance(scale, float | int) else scale[suite]


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _checked(values: Sequence[float]) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError("no values, or not all of them numbers: a failed question is no score, leave it out")
    return x


def _members(n: int, clusters: Sequence[Hashable] | None) -> list[NDArray[np.intp]]:
    """Row numbers of each cluster, clusters in the order in which they first appear."""
    found: dict[Hashable, list[int]] = {}
    for i, name in enumerate(range(n) if clusters is None else clusters):
        found.setdefault(name, []).append(i)
    return [np.array(rows, dtype=np.intp) for rows in found.values()]


def _resampled(by_cluster: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Sums of the columns over as many clusters, drawn with replacement; a row per draw."""
    g = len(by_cluster)
    sums = np.empty((draws, by_cluster.shape[1]))
    for i in range(draws):
        sums[i] = np.bincount(rng.integers(0, g, size=g), minlength=g) @ by_cluster
    return sums


def _numbered(n: int, clusters: Sequence[Hashable] | None) -> NDArray[np.intp]:
    """The number of each row's cluster, clusters in the order in which they first appear."""
    if clusters is None:
        return np.arange(n)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.intp)


def _by_cluster(x: Floats, clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Sum and size of each cluster."""
    if clusters is None:
        return x, np.ones(len(x))
    if len(clusters) != len(x):
        raise ValueError(f"{len(x)} values but {len(clusters)} clusters")
    numbers = _numbered(len(x), clusters)
    return np.bincount(numbers, weights=x).astype(np.float64), np.bincount(numbers).astype(np.float64)
