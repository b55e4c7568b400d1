"""The cells of the table: each measure of each suite for each model, with its 95% interval.

An unparsed answer is in no measure; `n_failed` counts them. Where more than a fifth could not be read the value is
None: what is left would be a selection made by the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.benchmarks.changes import relative_change
from align.benchmarks.measures import Measure, Outcome, estimate, mean
from align.evaluate.judge import RUBRIC_MEASURE, judge_name
from align.evaluate.plan import Exam
from align.settings import Judge
from annotate.records import Item, Metric


def outcomes(exam: Exam, items: Sequence[Item], *, pooled: bool = True) -> Sequence[Outcome]:
    """Items as statistics see them; rows that the benchmark counts together are one (unless `pooled` is false)."""
    rows = {row.id: row for row in exam.rows}
    found = [
        Outcome(
            id=item.id,
            value=item.value,
            state=item.state,
            cluster=rows[item.id].cluster,
            category=rows[item.id].category,
            group=rows[item.id].group,
        )
        for item in items
    ]
    return exam.suite.pool(found) if exam.suite.pool and pooled else found


def suite_metrics(
    exam: Exam, model: str, items: Sequence[Item], graded: Sequence[Item], seed: int, judge: Judge | None
) -> Iterator[Metric]:
    """All measures of one model on one suite, and the judge's score where there is one."""
    scored = outcomes(exam, items)
    judged, by = exam.suite.judged if judge else None, ""
    measures = exam.suite.measures
    if judge and judged:
        by = judge_name(judge)
        measures += (judged.spread(judge.repeats, exam.suite.headline),) if judge.repeats > 1 else ()
    for measure in measures:
        yield _metric(measure, model, exam.suite.name, scored, seed, by)
    if judge and graded:
        grades = outcomes(exam, graded, pooled=False)
        yield _metric(RUBRIC_MEASURE, model, exam.suite.name, grades, seed, judge_name(judge))


def change_metric(
    exam: Exam, clean: Exam, model: str, items: Sequence[Item], clean_items: Sequence[Item], seed: int
) -> Metric:
    """How much of the headline is lost to corrupted images, of what it is on clean ones."""
    suite = exam.suite
    headline = next((m for m in suite.measures if m.name == suite.headline and not m.statistic), mean(suite.headline))
    found = relative_change(headline, outcomes(exam, items), outcomes(clean, clean_items), seed=seed)
    return Metric(suite=suite.name, model=model, judge="", **vars(found))


def _metric(measure: Measure, model: str, suite: str, scored: Sequence[Outcome], seed: int, judge: str = "") -> Metric:
    found = estimate(measure, scored, seed=seed)
    return Metric(
        suite=suite,
        name=found.name,
        model=model,
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        n_failed=found.n_failed,
        judge=judge,
    )
