"""Statistics against values worked out by hand, against scipy where it is installed, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.stats import (
    Difference,
    Verdict,
    bootstrap_interval,
    bootstrap_statistic,
    holm,
    holm_over,
    minimum_detectable_effect,
    paired_difference,
    regression_verdict,
    repair_verdict,
    sign_flip_p,
    verdicts,
)


def by_id(values: list[float]) -> dict[str, float]:
    return {f"q{i:03}": value for i, value in enumerate(values)}


def difference(mean: float, half: float, p: float = 0.001, n: int = 100) -> Difference:
    """A difference with a symmetric interval."""
    return Difference(mean=mean, low=mean - half, high=mean + half, p=p, n=n)


# ------------------------------------------------------------------------------------------------------- intervals


def test_a_mean_of_two_values_by_hand():
    # resamples of {0, 1}: mean 0 (1/4), 1/2 (1/2), 1 (1/4); widened by sqrt(2) and cut to the range: 0 and 1
    interval = bootstrap_interval([0.0, 1.0])
    assert (interval.value, interval.low, interval.high, interval.n) == (0.5, 0.0, 1.0, 2)


def test_a_large_sample_agrees_with_the_normal_interval():
    # 400 answers, 300 right: .75 +- 1.96 * sqrt(.75 * .25 / 400) = .75 +- .0424; a bootstrap bound errs by ~.001
    interval = bootstrap_interval([1.0] * 300 + [0.0] * 100)
    assert interval.low == pytest.approx(0.7076, abs=0.005)
    assert interval.high == pytest.approx(0.7924, abs=0.005)


def test_a_copied_question_is_no_new_evidence():
    # ten copies of each of 40 questions, drawn together, tell as much as the 40
    values = [float(i % 4 == 0) for i in range(40)]
    alone = bootstrap_interval(values)
    copied = bootstrap_interval(values * 10, clusters=list(range(40)) * 10)
    naive = bootstrap_interval(values * 10)
    assert (copied.low, copied.high) == (alone.low, alone.high)
    assert (alone.high - alone.low) / (naive.high - naive.low) == pytest.approx(math.sqrt(10), rel=0.15)


def test_without_two_clusters_there_are_no_bounds():
    for interval in (bootstrap_interval([0.3]), bootstrap_interval([0.2, 0.4], clusters=["a", "a"])):
        assert interval.value == pytest.approx(0.3)
        assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_no_values_or_a_missing_one_is_refused():
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="a failed question is no score"):
            bootstrap_interval(values)
    with pytest.raises(ValueError, match="3 values but 2 clusters"):
        bootstrap_interval([1.0, 2.0, 3.0], clusters=["a", "b"])


@pytest.mark.parametrize(
    ("n", "draw", "truth"),
    [
        (30, lambda rng, n: rng.normal(size=n), 0.0),
        (60, lambda rng, n: (rng.random(n) < 0.8).astype(float), 0.8),
        (60, lambda rng, n: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=n), 0.2),
    ],
    ids=["normal", "accuracy", "difference of accuracies"],
)
def test_intervals_hold_the_truth_in_about_95_of_100_samples(n, draw, truth):
    # 400 samples at a true coverage of .95: standard deviation .011
    held = 0
    for s in range(400):
        interval = bootstrap_interval(draw(np.random.default_rng(s), n), seed=s, draws=500)
        held += interval.low <= truth <= interval.high
    assert 0.915 <= held / 400 <= 0.985


def test_clustered_intervals_hold_the_truth_where_naive_ones_do_not():
    # 30 images, 5 questions each that are right or wrong together
    held = {"clustered": 0, "naive": 0}
    clusters = [i // 5 for i in range(150)]
    for s in range(200):
        values = np.repeat(np.random.default_rng(s).random(30) < 0.6, 5).astype(float)
        for name, groups in (("clustered", clusters), ("naive", None)):
            interval = bootstrap_interval(values, groups, seed=s, draws=500)
            held[name] += interval.low <= 0.6 <= interval.high
    assert held["clustered"] >= 0.9 * 200 and held["naive"] <= 0.75 * 200


def f1(rows: np.ndarray) -> float:
    """Columns: said yes, is yes."""
    said, truth = rows[:, 0] == 1, rows[:, 1] == 1
    both = (said & truth).sum()
    return float(2 * both / (said.sum() + truth.sum())) if said.sum() + truth.sum() else math.nan


def test_f1_has_an_interval_too():
    # 40 true positives, 10 false positives, 10 false negatives, 40 true negatives: F1 = 80 / 100
    rows = np.array([(1, 1)] * 40 + [(1, 0)] * 10 + [(0, 1)] * 10 + [(0, 0)] * 40)
    interval = bootstrap_statistic(rows, f1)
    assert (interval.value, interval.n) == (0.8, 100)
    # delta method: F1 = 2 tp / (2 tp + e) with tp = .4, e = .2; dF/dtp = .4, dF/de = -.8
    # variance = (.16 * .4 * .6 + .64 * .2 * .8 + 2 * .4 * .8 * .4 * .2) / 100 = .192 / 100, deviation .0438
    assert interval.low == pytest.approx(0.8 - 1.96 * 0.0438, abs=0.015)
    assert interval.high == pytest.approx(0.8 + 1.96 * 0.0438, abs=0.015)


def test_resamples_without_a_positive_are_left_out():
    rows = np.array([(1, 1), (0, 0), (0, 0)])  # in (2/3)^3 of the resamples F1 is undefined, in all others 1
    interval = bootstrap_statistic(rows, f1)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_a_statistic_of_clusters_draws_them_whole():
    rows = np.array([[0.0], [1.0]] * 20)  # each cluster holds one of both: every resample has mean 1/2
    clusters = [i // 2 for i in range(40)]
    interval = bootstrap_statistic(rows, lambda r: float(r.mean()), clusters)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


# ---------------------------------------------------------------------------------------------------- paired tests


def test_p_by_hand():
    # 5 differences, all +1: of 2^5 sign flips two (all +, all -) are as extreme: 2 / 32
    assert sign_flip_p([1.0] * 5) == 2 / 32
    # questions answered alike tell nothing
    assert sign_flip_p([1.0] * 5 + [0.0] * 50) == 2 / 32
    # +3, -1: sums 2, -2, 4, -4: all four are as extreme as 2
    assert sign_flip_p([3.0, -1.0]) == 1.0
    # +3, +1: only 4 and -4 of the four
    assert sign_flip_p([3.0, 1.0]) == 0.5
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_a_cluster_flips_as_one():
    # three dialogues of four turns, all better by .1: 2 / 2^3, however many turns
    assert sign_flip_p([0.1] * 12, clusters=[i // 4 for i in range(12)]) == 0.25


def test_many_differences_are_sampled_and_agree_with_the_exact_sign_test():
    # 20 differ, 15 of them for the better: P(X <= 5 or X >= 15), X ~ Binomial(20, 1/2) = 2 * 21700 / 2^20 = .0414
    p = sign_flip_p([1.0] * 15 + [-1.0] * 5)
    assert p == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20, abs=0.006)


def test_p_is_uniform_where_there_is_no_difference():
    # 400 comparisons of a model with itself under noise: 5% below .05, standard deviation 1.1%
    below = sum(sign_flip_p(np.random.default_rng(s).normal(size=12), seed=s) < 0.05 for s in range(400))
    assert 0.015 <= below / 400 <= 0.085


def test_paired_difference_joins_on_the_question():
    a = {"q1": 1.0, "q2": 1.0, "q3": 0.0, "only a": 1.0}
    b = {"only b": 1.0, "q3": 0.0, "q2": 0.0, "q1": 0.0}
    d = paired_difference(a, b)
    assert (d.mean, d.n) == (pytest.approx(2 / 3), 3)
    assert d.p == 0.5  # two that differ, both +1: 2 / 2^2
    with pytest.raises(ValueError, match="share no question"):
        paired_difference({"q1": 1.0}, {"q2": 1.0})


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20), st.randoms())
def test_order_does_not_matter_and_swapping_the_models_swaps_the_sign(scores, random):
    a, b = (by_id([float(s[i]) for s in scores]) for i in (0, 1))
    ids = list(a)
    random.shuffle(ids)
    d = paired_difference(a, b, draws=200)
    assert d == paired_difference({i: a[i] for i in ids}, b, draws=200)
    swapped = paired_difference(b, a, draws=200)
    assert (swapped.mean, swapped.p) == (pytest.approx(-d.mean), pytest.approx(d.p))
    assert swapped.low == pytest.approx(-d.high) and swapped.high == pytest.approx(-d.low)
    assert d.low <= d.mean <= d.high


def test_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.5, 1, size=9), rng.normal(0.2, 1, size=200)
    ours = [sign_flip_p(x.tolist()) for x in (few, many)]
    exact = stats.permutation_test((few, np.zeros(9)), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert ours[0] == pytest.approx(exact.pvalue)
    assert ours[1] == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.01)
    theirs = stats.bootstrap((many,), np.mean, method="percentile", rng=1).confidence_interval
    assert (bootstrap_interval(many).low, bootstrap_interval(many).high) == (
        pytest.approx(theirs.low, abs=0.01),
        pytest.approx(theirs.high, abs=0.01),
    )


def test_holm_by_hand():
    # sorted .01 .02 .04 -> x3 .03, x2 .04, x1 .04
    assert holm({"b": 0.02, "a": 0.01, "c": 0.04}) == {"b": 0.04, "a": 0.03, "c": 0.04}
    # .03 x2 = .06; .04 x1 = .04 may not fall below it
    assert holm({"a": 0.03, "b": 0.04}) == {"a": 0.06, "b": 0.06}
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    assert holm_over({"a": difference(1, 1, p=0.03), "b": difference(2, 1, p=0.5)}) == {
        "a": difference(1, 1, p=0.06),
        "b": difference(2, 1, p=0.5),
    }


def test_minimum_detectable_effect_by_hand():
    # (1.960 + 0.842) * .05
    assert minimum_detectable_effect(0.05) == pytest.approx(0.1401, abs=1e-4)
    # and a test at that effect has that power: 80 of 100, standard deviation 2 of 400
    effect = minimum_detectable_effect(1 / math.sqrt(50))
    found = sum(
        paired_difference(
            by_id(np.random.default_rng(s).normal(effect, 1, size=50).tolist()), by_id([0.0] * 50), draws=50
        ).significant
        for s in range(200)
    )
    assert 0.7 <= found / 200 <= 0.9


# ------------------------------------------------------------------------------------------------------ the verdict


@pytest.mark.parametrize(
    ("vlm_minus_backbone", "verdict"),
    [
        (difference(0.00, 0.01), "none"),  # [-.01, .01]: a loss of .02 is excluded
        (difference(-0.012, 0.005), "none"),  # a loss, surely, but surely below the margin
        (difference(-0.30, 0.05), "present"),
        (difference(-0.03, 0.02), "present"),  # [-.05, -.01]
        (difference(-0.03, 0.04), "not shown"),  # [-.07, .01]: may be nothing, may be much
        (difference(-0.03, 0.02, p=0.06), "not shown"),  # one of several suites: Holm says no
        (difference(0.10, 0.02), "none"),  # better than before
        (Difference(mean=-1.0, low=-math.inf, high=math.inf, p=1.0, n=1), "not shown"),
    ],
)
def test_is_there_a_regression(vlm_minus_backbone, verdict):
    assert regression_verdict(vlm_minus_backbone, margin=0.02) == verdict


LOST = difference(-0.40, 0.05)


@pytest.mark.parametrize(
    ("aligned_minus_vlm", "aligned_minus_backbone", "text"),
    [
        (difference(0.41, 0.05), difference(0.01, 0.02), "repaired"),
        (difference(0.20, 0.05), difference(-0.20, 0.05), "partly repaired (50% ["),
        (difference(0.39, 0.05), difference(-0.01, 0.03), "partly repaired (98% ["),  # -.04 is below the margin
        (difference(0.20, 0.05, p=0.2), difference(-0.20, 0.05), "not shown"),
        (difference(0.01, 0.05), difference(-0.39, 0.05), "not shown"),
        (difference(-0.20, 0.05), difference(-0.60, 0.05), "worse"),
        (difference(-0.20, 0.05, p=0.2), difference(-0.60, 0.05), "not shown"),
    ],
)
def test_what_alignment_did_about_it(aligned_minus_vlm, aligned_minus_backbone, text):
    verdict = repair_verdict(aligned_minus_vlm, aligned_minus_backbone, LOST, margin=0.02)
    assert verdict.text.startswith(text)


def test_without_a_regression_there_is_nothing_to_repair_but_harm_is_told():
    none, unsure = difference(0, 0.01), difference(-0.03, 0.04)
    up, down, same = difference(0.1, 0.05), difference(-0.1, 0.05), difference(0, 0.05, p=0.9)
    assert repair_verdict(up, up, none, margin=0.02) == Verdict(text="nothing to repair")
    assert repair_verdict(up, up, unsure, margin=0.02) == Verdict(text="not shown")
    assert repair_verdict(same, same, none, margin=0.02) == Verdict(text="nothing to repair")
    assert repair_verdict(down, down, none, margin=0.02) == Verdict(text="worse")


def test_the_share_repaired_has_fiellers_interval():
    # gain g = .2, loss l = .4, half-widths .05 = 1.96 se; the rest's half-width .05 * sqrt(2) means cov(g, l) = 0.
    # (l^2 - w^2) r^2 - 2 g l r + (g^2 - w^2) = 0 with w = .05: .1575 r^2 - .16 r + .0375 = 0 -> r = .3669 and .6490
    gain, loss, remaining = difference(0.2, 0.05), difference(-0.4, 0.05), difference(-0.2, 0.05 * math.sqrt(2))
    verdict = repair_verdict(gain, remaining, loss, margin=0.02)
    assert verdict.text == "partly repaired (50% [37%, 65%])"
    assert (verdict.share, verdict.low, verdict.high) == (
        pytest.approx(0.5),
        pytest.approx(0.3669, abs=1e-4),
        pytest.approx(0.6490, abs=1e-4),
    )


def test_the_share_agrees_with_a_bootstrap_of_the_ratio():
    rng = np.random.default_rng(4)
    backbone = (rng.random(300) < 0.9).astype(float)
    vlm = backbone * (rng.random(300) < 0.5)
    aligned = np.maximum(vlm, backbone * (rng.random(300) < 0.5))
    models = {"backbone": by_id(backbone), "vlm": by_id(vlm), "dpo": by_id(aligned)}
    (suite,) = verdicts({"text": models}, vlm="vlm", backbone="backbone")
    verdict = suite.repair["dpo"]

    def share(rows: np.ndarray) -> float:
        b, v, a = rows.mean(axis=0)
        return float((a - v) / (b - v))

    interval = bootstrap_statistic(np.column_stack([backbone, vlm, aligned]), share)
    assert verdict.share == pytest.approx(interval.value)
    assert verdict.low == pytest.approx(interval.low, abs=0.02)
    assert verdict.high == pytest.approx(interval.high, abs=0.02)


def test_verdicts_over_suites_are_corrected_together():
    # 8 questions, all lost: p = 2 / 2^8 = .0078 alone, .0156 as one of two; 6 of 8 lost: 2 / 2^6 = .03125
    right, wrong = by_id([1.0] * 8), by_id([0.0] * 8)
    six_lost = by_id([0.0] * 6 + [1.0] * 2)
    values = {
        "one": {"backbone": right, "vlm": wrong, "dpo": right},
        "two": {"backbone": right, "vlm": six_lost, "dpo": wrong},
        "no backbone": {"vlm": right, "dpo": right},
    }
    one, two = verdicts(values, vlm="vlm", backbone="backbone")
    assert (one.suite, one.regression, one.vlm_minus_backbone.p) == ("one", "present", pytest.approx(2 * 2 / 2**8))
    assert (two.suite, two.regression, two.vlm_minus_backbone.p) == ("two", "present", pytest.approx(2 / 2**6))
    # all regained, but a rest of the loss cannot be ruled out with 8 questions
    assert one.repair["dpo"].share == 1 and one.repair["dpo"].text.startswith("partly repaired (100% [")
    # two questions lost: 2 / 2^2
    assert (two.aligned_minus_vlm["dpo"].mean, two.repair["dpo"].text) == (-0.25, "not shown")
    alone = verdicts({"one": values["one"]}, vlm="vlm", backbone="backbone")
    assert alone[0].vlm_minus_backbone.p == pytest.approx(2 / 2**8)


def test_the_margin_is_a_share_of_the_suites_scale():
    same = by_id([5.0, 7.0, 6.0] * 60)
    values = {"judged": {"backbone": same, "vlm": same}, "exact": {"backbone": by_id([1.0, 0.0]), "vlm": by_id([1.0])}}
    judged, exact = verdicts(values, vlm="vlm", backbone="backbone", scale={"judged": 10, "exact": 1})
    assert (judged.margin, exact.margin) == (0.2, 0.02)
    assert judged.regression == "none" and exact.regression == "not shown"  # one question in common tells nothing


def test_many_clusters_are_resampled_one_draw_at_a_time_with_the_same_interval():
    values = [float(i % 4) for i in range(20_000)]  # variance 1.25
    found = bootstrap_interval(values, draws=500)
    half = 1.96 * (1.25 / 20_000) ** 0.5
    assert (found.value, found.n) == (1.5, 20_000)
    assert found.low == pytest.approx(1.5 - half, abs=0.003) and found.high == pytest.approx(1.5 + half, abs=0.003)
    twice = bootstrap_interval([v for v in values for _ in "ab"], [i // 2 for i in range(40_000)], draws=500)
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high))


def test_a_difference_that_was_never_seen_may_still_be_there():
    """Rule of three: of 8 questions without a difference, up to 1 - 0.05^(1/8) of all may have one."""
    same = {str(i): 1.0 for i in range(8)}
    found = paired_difference(same, same)
    assert (found.mean, found.p) == (0.0, 1.0)
    assert (found.low, found.high) == pytest.approx((-0.3123, 0.3123), abs=1e-4)
    assert minimum_detectable_effect(found.se) > 0.3
    tenfold = paired_difference(same, same, scale=10)
    assert tenfold.low == pytest.approx(10 * found.low)
    # One question won and none lost: the bound on the side that was not seen does not stop at 0.
    won = paired_difference(same | {"0": 1.0}, same | {"0": 0.0})
    assert won.low == pytest.approx(0.125 - 0.3123, abs=1e-4) and won.high < 0.6
    # Where both sides were seen nothing changes.
    mixed = paired_difference(same | {"0": 1.0, "1": 0.0}, same | {"0": 0.0})
    assert mixed.low == bootstrap_interval([1.0, -1.0] + [0.0] * 6).low
