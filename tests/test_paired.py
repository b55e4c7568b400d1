"""Paired tests against values worked out by hand; correlation against the paper's own figure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from align.benchmarks.compared import compare
from align.benchmarks.measures import Outcome, mean, ratio
from align.correlation import line, pearson, student_p
from align.paired import difference_json, mcnemar_p, statistic_difference, sums_difference
from align.stats import Difference

F1 = ratio("f1", lambda v: 2 * v["yes"] * v["truth"], lambda v: v["yes"] + v["truth"])


def f1(sums):
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 32),  # both tails of five equal tosses
        (1, 5, 14 / 64),  # 2 * (1 + 6) / 2^6
        (3, 3, 1.0),
    ],
)
def test_mcnemar_counts_only_where_the_two_differ(only_first, only_second, p):
    assert mcnemar_p(only_first, only_second) == p == mcnemar_p(only_second, only_first)


def test_the_difference_of_a_ratio_by_hand():
    # columns: right yes twice, yes + truth. First system: 2*2/(2+2) = 1; second: 2*1/(3+2) = 0.4
    first = np.array([[2.0, 2.0], [2.0, 2.0], [0.0, 0.0]])
    second = np.array([[2.0, 2.0], [0.0, 2.0], [0.0, 1.0]])
    found = sums_difference(first, second, f1)
    assert found is not None
    assert found.mean == pytest.approx(1 - 2 / 5)
    # two of the three questions differ, four exchanges: |0.6| as it was and with all swapped; with one swapped,
    # (2+0)/(2+2+0) - 2... = 2/4 - 4/5 = -0.3 and 4/5 - 2/4 = 0.3
    assert found.p == 2 / 4
    assert found.n == 3


def test_copies_of_a_question_are_no_evidence():
    rng = np.random.default_rng(0)
    first, second = (np.stack([np.ones(40), rng.integers(1, 4, 40).astype(float)], axis=1) for _ in range(2))
    alone = sums_difference(first, second, f1)
    copied = sums_difference(np.repeat(first, 9, 0), np.repeat(second, 9, 0), f1, [i // 9 for i in range(360)])
    assert alone is not None and copied is not None
    assert (alone.mean, alone.p) == (pytest.approx(copied.mean), pytest.approx(copied.p, abs=0.02))
    assert (alone.low, alone.high) == (pytest.approx(copied.low), pytest.approx(copied.high))


def test_a_number_that_one_system_has_not_is_no_difference():
    nothing = np.array([[0.0, 0.0], [0.0, 0.0]])
    something = np.array([[2.0, 2.0], [2.0, 2.0]])
    assert sums_difference(nothing, something, f1) is None
    assert statistic_difference(nothing, something, lambda t: float(f1(t.sum(0, keepdims=True))[0])) is None


def test_a_statistic_of_the_whole_table_agrees_with_its_sums():
    rng = np.random.default_rng(1)
    yes = rng.integers(0, 2, (2, 200))
    truth = rng.integers(0, 2, 200)
    first, second = (np.stack([2.0 * y * truth, y + truth.astype(float)], axis=1) for y in yes)
    sums = sums_difference(first, second, f1)
    whole = statistic_difference(first, second, lambda t: float(f1(t.sum(0, keepdims=True))[0]))
    assert sums is not None and whole is not None
    assert whole.mean == pytest.approx(sums.mean)
    assert whole.low == pytest.approx(sums.low, abs=0.02)
    assert whole.p == pytest.approx(sums.p, abs=0.05)


def test_swapping_finds_a_difference_no_more_often_than_it_says():
    # two systems that are one: p below 0.1 in about a tenth of 200 tries
    rng = np.random.default_rng(2)
    low = 0
    for _ in range(200):
        tables = [np.stack([rng.random(30), 1 + rng.random(30)], axis=1) for _ in range(2)]
        found = sums_difference(*tables, f1, swaps=500, draws=10)
        assert found is not None
        low += found.p < 0.1
    assert 8 <= low <= 34  # 20 +- 3.3 standard deviations


def outcome(key: str, value: dict[str, float] | None, cluster: str = "") -> Outcome:
    return Outcome(id=key, value=value or {}, state="ok" if value else "unparsed", cluster=cluster)


def test_questions_are_joined_and_what_is_left_over_is_counted():
    right, wrong = {"accuracy": 1.0}, {"accuracy": 0.0}
    first = [outcome(str(i), right) for i in range(9)] + [outcome("9", None), outcome("alone", right)]
    second = [outcome(str(i), wrong if i < 5 else right) for i in range(10)]
    found = compare(mean("accuracy"), first, second)
    assert (found.first.value, found.second.value, found.first.n) == (1.0, 4 / 9, 9)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(5 / 9)
    assert (found.test, found.difference.p) == ("McNemar", 2 / 32)
    assert (found.first.n_failed, found.second.n_failed, found.n_only_second, found.n_only_first) == (1, 0, 1, 0)


def test_questions_about_one_image_are_not_tested_as_if_they_were_many():
    right, wrong = {"accuracy": 1.0}, {"accuracy": 0.0}
    first = [outcome(str(i), right, cluster="one image") for i in range(10)] + [outcome("x", right)]
    second = [outcome(str(i), wrong, cluster="one image") for i in range(10)] + [outcome("x", right)]
    found = compare(mean("accuracy"), first, second)
    assert (found.test, found.difference and found.difference.p) == ("sign-flip", 1.0)


def test_a_system_that_answers_too_little_gets_no_difference():
    first = [outcome(str(i), {"accuracy": 1.0}) for i in range(10)]
    second = [outcome(str(i), {"accuracy": 0.0} if i < 7 else None) for i in range(10)]
    found = compare(mean("accuracy"), first, second)
    assert found.difference is None
    assert found.why == "too many answers of the second have no score"
    assert compare(mean("accuracy"), first, []).why == "no question in common"


def test_ratios_are_compared_by_swaps():
    yes = [{"yes": 1.0, "truth": float(i % 2)} for i in range(20)]
    true = [{"yes": float(i % 2), "truth": float(i % 2)} for i in range(20)]
    found = compare(
        F1, [outcome(str(i), v) for i, v in enumerate(true)], [outcome(str(i), v) for i, v in enumerate(yes)]
    )
    assert found.difference is not None
    assert (found.test, found.difference.mean) == ("swap", pytest.approx(1 - 2 / 3))
    assert found.difference.p == 2 / 2**10  # ten questions differ, all in one direction


def test_the_smallest_difference_that_could_be_shown_stands_beside_each():
    # half an interval of 0.098 is 1.96 standard errors of 0.05; 2.8016 of them are found in 8 of 10 tries
    found = difference_json(Difference(mean=0.1, low=0.002, high=0.198, p=0.04, n=80))
    assert found == {"mean": 0.1, "low": 0.002, "high": 0.198, "p": 0.04, "n": 80, "mde": 0.140082}
    assert difference_json(Difference(mean=0.1, low=-math.inf, high=math.inf, p=1.0, n=1))["mde"] is None


# ---------------------------------------------------------------------------------------------------------- correlation


def test_the_papers_correlation_of_two_benchmarks():
    # Multi-Modal Preference Alignment, Table 2: LLaVA, RLHF, SFT, SteerLM, rejection sampling, DPO. Section 4.3 says
    # 0.73 and p = 0.1 (and n = 7, but the language model has no MM-Vet score)
    mm_vet = [36.3, 37.2, 36.5, 35.2, 38.0, 41.2]
    mt_bench = [5.99, 6.18, 5.01, 5.70, 6.22, 6.73]
    found = pearson(mm_vet, mt_bench)
    assert found.r == pytest.approx(0.734, abs=5e-4)
    assert found.p == pytest.approx(0.0966, abs=5e-5)
    assert found.r2 == pytest.approx(0.539, abs=5e-4)
    # Fisher: artanh(.7342) = .9377 +- 1.96 / sqrt(3) = 1.1316
    assert (found.low, found.high) == (
        pytest.approx(math.tanh(0.9377 - 1.1316), abs=2e-3),
        pytest.approx(0.9686, abs=5e-4),
    )
    assert (found.r2_low, found.n) == (0.0, 6)


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    [(1.0, 1, 0.5), (math.sqrt(2), 2, 1 - 1 / math.sqrt(2)), (2.228139, 10, 0.05), (2.262157, 9, 0.05), (0.0, 5, 1.0)],
)
def test_students_t(t, degrees, p):
    # 1 degree is Cauchy's, 2 has a closed form, 9 and 10 are the tables' 97.5% points
    assert student_p(t, degrees) == pytest.approx(p, abs=1e-6) == student_p(-t, degrees)


def test_few_or_equal_points_leave_it_open():
    assert pearson([1, 2], [1, 2]).r is None
    assert pearson([1, 1, 1], [1, 2, 3]).r is None
    three = pearson([1, 2, 4], [1, 2, 3])
    assert three.r is not None and three.low is None  # no interval from three points
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]).p == 0.0
    assert line([1, 2, 3], [3, 5, 7]) == pytest.approx((2.0, 1.0))
    assert line([1, 1], [0, 2]) is None


def test_systems_that_are_alike_on_six_questions_are_not_shown_to_be_equal():
    """On MT-Bench's scale of 10 a mean, and LLaVA-Bench's ratio in per cent: bounds leave room for other questions."""
    graded = [Outcome(id=str(i), value={"grade": 7.0, "of": 8.0}) for i in range(6)]
    room = 1 - 0.05 ** (1 / 6)
    for measure, scale in (
        (mean("grade"), 10.0),
        (ratio("score", lambda v: v["grade"], lambda v: v["of"], times=100), 100.0),
    ):
        found = compare(measure, graded, graded, scale=scale).difference
        assert found is not None and found.mean == 0.0
        assert (found.low, found.high) == pytest.approx((-room * scale, room * scale))
