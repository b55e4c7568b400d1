"""Measures over outcomes, each with its interval: sums over items, and what is made of them.

    estimate(mean("accuracy"), outcomes)                       the share of right answers
    estimate(within(F1, "random"), outcomes)                   F1 of one category
    estimate(total("perception", [score_of(t) for t in TASKS]), outcomes)

A measure is a function of sums, so that accuracy, F1, LLaVA-Bench's ratio of means and MME's sum of ratios are
resampled by one code, whole clusters (a dialogue, an image) at a time. What could not be scored is in no
measure and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from align.stats import Interval, bootstrap_interval, bootstrap_statistic, bootstrap_sums

Value = Mapping[str, float]
Floats = NDArray[np.float64]
LEAST_COVERAGE = 0.8
"""Below this share of scored answers there is no number: what is left is a selection that the model itself made."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One question and what became of its answer, as statistics see it."""

    id: str
    value: Value
    """Empty unless `state` is ok."""
    state: Literal["ok", "unparsed", "judge_failed", "unanswered"] = "ok"
    cluster: str = ""
    """Outcomes of one cluster are not independent (one image, one dialogue): drawn together. Empty: its own."""
    category: str = ""
    group: str = ""
    """Rows that the benchmark counts together (MMBench's circular passes, MME's two questions about an image)."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of a table. Of `columns` sums are taken over the outcomes; `combine` makes the number of the sums."""

    name: str
    columns: tuple[Callable[[Outcome], float], ...]
    combine: Callable[[Floats], Floats] | None = None
    """Sums of shape (draws, columns) -> (draws,), NaN where it is not defined. None: the mean of the one column."""
    only: Callable[[Outcome], bool] | None = None
    """Which outcomes the measure is about; others are neither counted nor failed."""
    statistic: Callable[[Floats], float] | None = None
    """In place of sums: a number of the whole table (outcomes, columns), such as a fit; slower."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measure with its 95% interval; `value` None where too few outcomes could be scored, or it is not defined."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    """Outcomes with a score."""
    n_failed: int
    """Outcomes without: unparsed, judge failed, unanswered."""


# ------------------------------------------------------------------------------------------------------ kinds of them


def mean(name: str, key: str = "", *, times: float = 1.0) -> Measure:
    """The average of one value (of the same name, if `key` is not given)."""
    key = key or name
    return Measure(name=name, columns=(lambda o: o.value[key] * times,))


def ratio(name: str, of: Callable[[Value], float], per: Callable[[Value], float], *, times: float = 1.0) -> Measure:
    """One sum over another: F1 is `2 yes truth` over `yes + truth`."""

    def combine(sums: Floats) -> Floats:
        return times * _divided(sums[:, 0], sums[:, 1])

    return Measure(name=name, columns=(lambda o: of(o.value), lambda o: per(o.value)), combine=combine)


def within(measure: Measure, category: str, name: str = "") -> Measure:
    """The same measure over one category; called `<measure>_<category>` if no name is given."""
    return replace(measure, name=name or f"{measure.name}_{category}", only=lambda o: o.category == category)


def total(name: str, parts: Sequence[Measure], *, times: float = 1.0) -> Measure:
    """The sum of other measures, each over its own outcomes."""
    return made_of(name, parts, lambda values: times * values.sum(axis=1))


def spread(name: str, parts: Sequence[Measure]) -> Measure:
    """The standard deviation between other measures, such as one measure in each run of a judge."""
    return made_of(name, parts, lambda values: values.std(axis=1, ddof=1))


def made_of(name: str, parts: Sequence[Measure], fold: Callable[[Floats], Floats]) -> Measure:
    """A number made of other measures: `fold` takes the parts' values, (draws, parts), and returns (draws,)."""
    columns: list[Callable[[Outcome], float]] = []
    for part in parts:
        counted = part.columns if part.combine else (*part.columns, lambda o: 1.0)
        columns += [_masked(column, part.only) for column in counted]

    def combine(sums: Floats) -> Floats:
        found, at = [], 0
        for part in parts:
            width = len(part.columns) if part.combine else 2
            mine = sums[:, at : at + width]
            found.append(part.combine(mine) if part.combine else _divided(mine[:, 0], mine[:, 1]))
            at += width
        return fold(np.stack(found, axis=1))

    about = [part.only for part in parts]
    only = None if None in about else (lambda o: any(one(o) for one in about if one))
    return Measure(name=name, columns=tuple(columns), combine=combine, only=only)


def average(name: str, parts: Sequence[Measure]) -> Measure:
    """The unweighted mean of other measures (macro average)."""
    return total(name, parts, times=1 / len(parts))


def _masked(column: Callable[[Outcome], float], only: Callable[[Outcome], bool] | None) -> Callable[[Outcome], float]:
    return column if only is None else (lambda o: column(o) if only(o) else 0.0)


def _divided(top: Floats, bottom: Floats) -> Floats:
    out: Floats = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom != 0)
    return out


# ---------------------------------------------------------------------------------------------------------- estimates


def readable(states: Sequence[str], least: float = LEAST_COVERAGE) -> bool:
    """Whether enough answers have a score to speak of the rest."""
    return sum(state == "ok" for state in states) >= least * len(states) > 0


def estimate(
    measure: Measure,
    outcomes: Sequence[Outcome],
    *,
    seed: int = 0,
    draws: int | None = None,
    least: float = LEAST_COVERAGE,
) -> Figure:
    """The measure with its bootstrap interval; `draws`: 8000 for means, 2000 for other measures, if not given."""
    asked = [o for o in outcomes if measure.only is None or measure.only(o)]
    ok = [o for o in asked if o.state == "ok"]
    found = None
    if readable([o.state for o in asked], least):
        found = _interval(measure, ok, seed, draws)
        found = found if math.isfinite(found.value) else None
    return Figure(
        name=measure.name,
        value=found.value if found else None,
        low=_bound(found.low, found.value, min) if found else None,
        high=_bound(found.high, found.value, max) if found else None,
        n=len(ok),
        n_failed=len(asked) - len(ok),
    )


def _interval(measure: Measure, ok: Sequence[Outcome], seed: int, draws: int | None) -> Interval:
    clusters = [o.cluster or o.id for o in ok]
    table = np.array([[column(o) for column in measure.columns] for o in ok], dtype=np.float64)
    given: dict[str, Any] = {"seed": seed} | ({} if draws is None else {"draws": draws})
    if measure.statistic:
        return bootstrap_statistic(table, measure.statistic, clusters, **given)
    if measure.combine is None:
        found = bootstrap_interval(table[:, 0].tolist(), clusters, **given)
        return found if len(np.unique(table[:, 0])) > 1 else _alike(found, len(set(clusters)))
    return bootstrap_sums(table, measure.combine, clusters, **given)


def _alike(found: Interval, clusters: int) -> Interval:
    """Of answers that are all worth the same a resample tells nothing.

    All right or all wrong: the exact bounds of a share (Clopper and Pearson 1934). Of another scale: none.
    """
    if found.value not in (0.0, 1.0) or clusters < 2:
        return replace(found, low=-math.inf, high=math.inf)
    reach = 0.025 ** (1 / clusters)
    return replace(found, low=reach) if found.value else replace(found, high=1 - reach)


def _bound(end: float, value: float, outermost: Callable[[float, float], float]) -> float | None:
    """An end of the interval, or None: one question has none.

    Percentiles of a biased number (a standard deviation) may leave it out: the interval reaches at least to it.
    """
    return outermost(end, value) if math.isfinite(end) else None
