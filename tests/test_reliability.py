"""Agreement coefficients against definitions, published examples, scikit-learn and scipy; intervals over prompts."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from align.reliability import (
    Resamples,
    alpha_of,
    coincidences,
    flip_rate,
    kappa_of,
    kendall_tau_b,
    krippendorff_alpha,
    mean_of,
    midranks,
    moments,
    per_prompt,
    quadratic_kappa,
    reversals,
    signs,
    spearman,
)

NAN = math.nan

# ------------------------------------------------------------------------------------------------------------- kappa


def test_kappa_by_hand():
    """Disagreement 0, 1, 0: mean square 1/3. By chance: var 8/3 + var 14/9 + (2 - 5/3)^2 = 13/3. 1 - 1/13."""
    assert quadratic_kappa([0, 4, 2], [0, 3, 2]) == pytest.approx(12 / 13)


@pytest.mark.parametrize(
    ("a", "b", "kappa"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 1.0),
        ([0, 4], [4, 0], -1.0),
        ([0, 0, 4, 4], [0, 4, 0, 4], 0.0),  # every combination once: as by chance
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.8),  # mean square 1; by chance 4 + 1 + 0 = 5
        ([2, 2, 2], [2, 2, 2], NAN),  # nothing to agree upon
    ],
)
def test_kappa_at_its_corners(a, b, kappa):
    assert quadratic_kappa(a, b) == pytest.approx(kappa, nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_kappa_is_that_of_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 5, size=40)
    b = np.clip(a + rng.integers(-1, 2, size=40), 0, 4)
    expected = metrics.cohen_kappa_score(a, b, weights="quadratic", labels=range(5))
    assert quadratic_kappa(a, b) == pytest.approx(expected)


def test_moments_of_parts_add_up():
    a, b = [0, 4, 2, 1], [1, 4, 1, 3]
    parts = moments(a[:1], b[:1]) + moments(a[1:], b[1:])
    assert kappa_of(parts) == pytest.approx(quadratic_kappa(a, b))


# ------------------------------------------------------------------------------------------------------------- alpha

PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
"""Four observers, twelve units: the reliability data of Krippendorff 2011, section C; his alphas in section E."""


def test_alpha_of_the_published_example():
    assert round(krippendorff_alpha(PUBLISHED, "ordinal"), 3) == 0.815
    assert round(krippendorff_alpha(PUBLISHED, "interval"), 3) == 0.849


def test_coincidences_of_the_published_example():
    """The matrix printed there; the twelfth unit has one value and counts nothing."""
    expected = [
        [7, 4 / 3, 1 / 3, 1 / 3, 0],
        [4 / 3, 10, 4 / 3, 1 / 3, 0],
        [1 / 3, 4 / 3, 8, 1 / 3, 0],
        [1 / 3, 1 / 3, 1 / 3, 4, 0],
        [0, 0, 0, 0, 3],
    ]
    assert coincidences(PUBLISHED, [1, 2, 3, 4, 5]) == pytest.approx(np.array(expected))


def alpha_by_definition(units: list[list[float]], metric: str) -> float:
    """1 - observed / expected disagreement, pair by pair; the ordinal distance as it is printed, not by mid-ranks."""
    units = [[v for v in unit if not math.isnan(v)] for unit in units]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]

    def distance(c: float, k: float) -> float:
        if metric == "interval":
            return (c - k) ** 2
        low, high = min(c, k), max(c, k)
        return (sum(low <= v <= high for v in values) - (values.count(c) + values.count(k)) / 2) ** 2

    observed = sum(sum(distance(c, k) for c, k in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(distance(c, k) for c, k in permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("metric", ["ordinal", "interval"])
@pytest.mark.parametrize("seed", range(10))
def test_alpha_is_its_definition(metric, seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 5, size=(15, 1)) + rng.integers(0, 2, size=(15, 3)).astype(float)
    ratings[rng.random(ratings.shape) < 0.25] = NAN
    assert krippendorff_alpha(ratings, metric) == pytest.approx(alpha_by_definition(ratings.tolist(), metric))


def test_alpha_where_there_is_nothing_to_say():
    assert math.isnan(krippendorff_alpha([[3, 3], [3, 3]]))  # no variation
    assert math.isnan(krippendorff_alpha([[3, NAN], [NAN, 1]]))  # no unit with two values
    assert krippendorff_alpha([[1, 1], [4, 4]]) == 1.0


def test_coincidences_of_parts_add_up():
    parts = coincidences(PUBLISHED[:5], range(1, 6)) + coincidences(PUBLISHED[5:], range(1, 6))
    assert alpha_of(parts, range(1, 6), "ordinal") == pytest.approx(krippendorff_alpha(PUBLISHED))


# ------------------------------------------------------------------------------------------------------------- ranks


def test_order_within_a_prompt():
    assert signs([3, 1, 3]).tolist() == [1, 0, -1]  # 1st > 2nd, 1st = 3rd, 2nd < 3rd
    assert midranks([10, 30, 10, 20]).tolist() == [1.5, 4, 1.5, 3]


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),  # five pairs alike, one not
        ([1, 1, 2], [1, 2, 3], 2 / math.sqrt(2 * 3)),  # one tie in the first
        ([1, 1, 1], [1, 2, 3], NAN),
        ([1], [1], NAN),
    ],
)
def test_tau_by_hand(a, b, tau):
    assert kendall_tau_b(a, b) == pytest.approx(tau, nan_ok=True)


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [([1, 2, 3], [10, 20, 90], 1.0), ([1, 2, 3], [3, 2, 1], -1.0), ([1, 2, 3], [1, 3, 2], 0.5), ([2, 2], [1, 3], NAN)],
)
def test_spearman_by_hand(a, b, rho):
    assert spearman(a, b) == pytest.approx(rho, nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_tau_and_spearman_are_those_of_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, size=(2, 12))  # with many ties
    assert kendall_tau_b(a, b) == pytest.approx(stats.kendalltau(a, b, variant="b").statistic)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_flips():
    assert flip_rate([1, 2, 3], [1, 2, 3]) == 0
    assert flip_rate([1, 2, 3], [3, 2, 1]) == 1
    assert flip_rate([1, 2, 3], [2, 2, 1]) == pytest.approx(2 / 3)  # 1-2 becomes a tie, which reverses nothing
    assert reversals([1, -1, 0, 1], [-1, -1, 1, 0]).tolist() == [1, 2, 4]  # reversed, decided in both, all
    assert math.isnan(flip_rate([1], [2]))


# --------------------------------------------------------------------------------------------------------- intervals


def means(values: list[float]) -> np.ndarray:
    return per_prompt([(v, 1.0) for v in values])


def test_the_same_seed_gives_the_same_interval():
    rows = means([1.07, 2.9, 3.3, 4.61, 5.2])
    assert Resamples(5, seed=3).mean(rows) == Resamples(5, seed=3).mean(rows)
    assert Resamples(5, seed=3).mean(rows) != Resamples(5, seed=4).mean(rows)


def test_an_interval_of_a_mean_is_as_wide_as_theory_has_it():
    values = np.random.default_rng(0).normal(10, 2, size=400)
    found = Resamples(400).mean(means(list(values)))
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(values.mean()) and found.n == 400
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.1 * half)


def test_few_prompts_are_not_taken_for_more_than_they_are():
    """A resample of five varies by 4/5 of the variance of a fresh sample of five; the interval makes up for that."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = Resamples(5, draws=40_000).interval(means(values), mean_of)
    drawn = Resamples(5, draws=40_000).times @ np.array(values) / 5
    plain = np.quantile(drawn, 0.975) - np.quantile(drawn, 0.025)
    assert (found.high - found.low) / plain == pytest.approx((5 / 4) ** 0.5)


def test_the_prompt_is_the_sample_and_not_the_rating():
    """Ten ratings each that all say the same are no more evidence than one."""
    values = list(np.random.default_rng(1).normal(size=50))
    once = Resamples(50).mean(means(values))
    tenfold = Resamples(50).mean(per_prompt([(10 * v, 10.0) for v in values]))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_intervals_hold_what_they_promise():
    """Of 200 samples of 30 prompts, the interval of kappa misses the truth in about 5%."""
    rng = np.random.default_rng(5)

    def sample(prompts: int) -> np.ndarray:
        quality = rng.normal(2, 1, size=(prompts, 4))
        a, b = (np.clip(np.round(quality + rng.normal(0, 0.6, size=quality.shape)), 0, 4) for _ in range(2))
        return moments(a, b)

    truth = float(kappa_of(sample(40_000).sum(axis=0)))
    resamples = Resamples(30, draws=400)
    found = [resamples.coefficient(sample(30), kappa_of) for _ in range(200)]
    assert 0.01 <= np.mean([not f.low <= truth <= f.high for f in found]) <= 0.1


def test_prompts_that_say_nothing_do_not_count():
    rows = per_prompt([(1.0, 1.0), (0.0, 0.0), (3.0, 1.0)])
    assert (Resamples(3).mean(rows).value, Resamples(3).mean(rows).n) == (2.0, 2)
    nothing = Resamples(2).mean(per_prompt([(0.0, 0.0), (0.0, 0.0)]))
    assert math.isnan(nothing.value) and nothing.n == 0
    assert math.isnan(Resamples(0).mean(per_prompt([])).value)


def test_one_prompt_has_no_interval():
    found = Resamples(1).mean(means([2.0]))
    assert (found.value, found.low, found.high, found.n) == (2.0, -math.inf, math.inf, 1)


def test_never_in_ten_is_no_proof_of_never():
    """The rule: (1 - 0.308)^10 = 0.025."""
    never = Resamples(10).share(per_prompt([(0.0, 6.0)] * 10))
    always = Resamples(10).share(per_prompt([(6.0, 6.0)] * 10))
    assert (never.low, round(never.high, 3)) == (0.0, 0.308) and (round(always.low, 3), always.high) == (0.692, 1.0)


def test_bounds_stay_where_the_figure_can_be():
    rows = per_prompt([(1.0, 1.0)] * 9 + [(0.0, 1.0)])
    assert Resamples(10).share(rows).high == 1.0
    assert mean_of(np.array([3.0, 4.0])) == 0.75
