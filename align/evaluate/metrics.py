"""The cells of the table: each measure of each suite for each model, with its 95% interval.

An unparsed answer is in no measure; `n_failed` counts them. Where more than a fifth could not be read the value is
None: what is left would be a selection made by the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from align.evaluate.judge import RUBRIC_MEASURE, judge_name
from align.evaluate.plan import Exam
from align.evaluate.suite import Measure
from align.settings import Judge
from align.stats import Interval, bootstrap_interval, bootstrap_statistic
from annotate.records import Item, Metric

LEAST_COVERAGE = 0.8


def readable(items: Sequence[Item]) -> bool:
    """Whether enough of a model's answers to a suite have a score to speak of it."""
    return sum(item.state == "ok" for item in items) >= LEAST_COVERAGE * len(items) > 0


def suite_metrics(
    exam: Exam, model: str, items: Sequence[Item], graded: Sequence[Item], seed: int, judge: Judge | None
) -> Iterator[Metric]:
    """All measures of one model on one suite, and the judge's score where there is one."""
    clusters = {row.id: row.cluster for row in exam.rows}
    for measure in exam.suite.measures:
        yield _metric(measure, model, exam.suite.name, items, clusters, seed)
    if judge and graded:
        yield _metric(RUBRIC_MEASURE, model, exam.suite.name, graded, clusters, seed, judge_name(judge))


def _metric(
    measure: Measure,
    model: str,
    suite: str,
    items: Sequence[Item],
    clusters: Mapping[str, str],
    seed: int,
    judge: str = "",
) -> Metric:
    ok = [item for item in items if item.state == "ok"]
    failed = len(items) - len(ok)
    found = None
    if readable(items):
        found = estimate(measure, [item.value for item in ok], [clusters[item.id] for item in ok], seed)
    return Metric(
        suite=suite,
        name=measure.name,
        model=model,
        value=None if found is None else found.value,
        low=_bound(found, lambda f: f.low),
        high=_bound(found, lambda f: f.high),
        n=len(ok),
        n_failed=failed,
        judge=judge,
    )


def estimate(
    measure: Measure, values: Sequence[Mapping[str, float]], clusters: Sequence[str], seed: int
) -> Interval | None:
    """The ratio of two sums over items, items of one cluster drawn together; None where it is 0 / 0 (no yes at all)."""
    top = np.array([measure.of(value) for value in values])
    bottom = np.array([measure.per(value) for value in values])
    if (bottom == 1).all():
        return bootstrap_interval(top.tolist(), clusters, seed=seed)
    if not bottom.any():
        return None

    def ratio(rows: np.ndarray) -> float:
        total = rows[:, 1].sum()
        return float(rows[:, 0].sum() / total) if total else math.nan

    return bootstrap_statistic(np.stack([top, bottom], axis=1), ratio, clusters, seed=seed)


def _bound(found: Interval | None, which: Callable[[Interval], float]) -> float | None:
    """An end of the interval; one question has none."""
    return which(found) if found is not None and math.isfinite(which(found)) else None
