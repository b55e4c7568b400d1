"""One cell of a paper's table: a recorded number, a mean of several, and its differences, each with its interval.

column.suite        what the run recorded
column.mean_of      over the questions of all its parts, drawn together: MLAN's overall average is that of nine
                    data sets, one of which is the mean of its halves (Table 1; Appendix C.1)
column.drop_from    b / a - 1 in per cent, from one resample of both (Sight Beyond Text, Table 6)
row.minus           paired where the two rows answered the same questions, else of two independent numbers
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from align.analyses.counts import read_count
from align.analyses.layout import Column, Layout
from align.analyses.printed import Cell, Delta, Number
from align.analyses.sources import (
    Leaf,
    RunSource,
    Source,
    joined,
    normal_p,
    of_suite,
    only_suite,
    standard_error,
)
from align.benchmarks.compared import compare
from align.benchmarks.measures import Floats, Measure, Outcome, average, estimate, made_of

DRAWS = 2000
"""Of intervals that are not recorded: a bound varies by 6% of a standard error from seed to seed."""
Z = 1.959964
Plan = tuple[str, str] | tuple["Plan", ...]
"""A measure of a suite, or what a mean is taken of."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row's model."""

    key: str
    source: Source
    model: str


class Book:
    """Makes cells of columns; what was made is kept, since several tables show the same."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._columns, self._seed = layout, layout.columns, layout.seed
        self._made: dict[tuple[str, str, str], Cell] = {}

    def cell(self, place: Place, name: str, base: Place | None) -> Cell:
        """The number of a row in a column, and its difference to another row."""
        column = self._columns[name]
        key = place.key, place.model, f"{name} - {base.key if base else ''}"
        if key not in self._made:
            self._made[key] = self._counted(place, column, base) if column.count else self._scored(place, name, base)
        return self._made[key]

    # ---------------------------------------------------------------------------------------------------------- scores

    def _scored(self, place: Place, name: str, base: Place | None) -> Cell:
        column, plan = self._columns[name], self._plan(name)
        found = self._figure(place, plan)
        if isinstance(found, str):
            return Cell(why=found)
        times = self._layout.times(name)
        number = _number(place, found, times)
        delta: Delta | None = None
        why, drop = "", None
        if base is not None:
            other = self._figure(base, plan)
            made = other if isinstance(other, str) else self._delta(place, base, plan, times, (found, other))
            delta, why = (None, made) if isinstance(made, str) else (made, "")
        if column.drop_from:
            drop = self._drop(place, column.drop_from, name)
        return Cell(number=number, delta=delta, why_no_delta=why, drop=drop)

    def _plan(self, name: str) -> Plan:
        column = self._columns[name]
        if column.suite:
            return column.suite, column.measure
        if column.suites:
            return tuple((suite, column.measure) for suite in column.suites)
        return tuple(self._plan(inner) for inner in column.mean_of or ())

    def _figure(self, place: Place, plan: Plan) -> Leaf | str:
        """The number of a plan, or why there is none: a mean lacks what one of its parts lacks."""
        leaves = {at: place.source.leaf(place.model, *at) for at in _leaves(plan)}
        lacking = [found for found in leaves.values() if isinstance(found, str)]
        if lacking:
            return lacking[0] + (f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else "")
        known = {at: leaf for at, leaf in leaves.items() if isinstance(leaf, Leaf)}
        if _is_leaf(plan):
            return next(iter(known.values()))
        measure, outcomes = _measure(plan, known), self._outcomes(place, plan)
        if measure is None or not outcomes:
            return _independent(plan, known)
        figure = estimate(measure, outcomes, seed=self._seed, draws=DRAWS)
        if figure.value is None or figure.low is None or figure.high is None:
            return f"{place.source.name}: no interval of the mean"
        counts = {"n": figure.n, "n_failed": figure.n_failed}
        return Leaf(value=figure.value, low=figure.low, high=figure.high, measure=measure, **counts)

    def _outcomes(self, place: Place, plan: Plan) -> Sequence[Outcome]:
        suites = dict.fromkeys(suite for suite, _ in _leaves(plan))
        return [o for suite in suites for o in of_suite(place.source.outcomes(place.model, suite), suite)]

    def _delta(self, place: Place, base: Place, plan: Plan, times: float, numbers: tuple[Leaf, Leaf]) -> Delta | str:
        measure = numbers[0].measure if not _is_leaf(plan) else _in_suite(numbers[0].measure, plan)
        if measure is None or numbers[1].measure is None:
            return _unpaired(base, *numbers, times)
        sides: tuple[list[Outcome], list[Outcome]] = ([], [])
        for suite in dict.fromkeys(suite for suite, _ in _leaves(plan)):
            both = joined(place.source, place.model, base.source, base.model, suite)
            if isinstance(both, str):
                unlike = type(place.source) is not type(base.source)
                return _unpaired(base, *numbers, times) if unlike else f"{suite}: {both}"
            for side, answers in zip(sides, both, strict=True):
                side += of_suite(answers, suite)
        found = compare(measure, *sides, seed=self._seed, draws=DRAWS)
        d = found.difference
        if d is None or not (math.isfinite(d.low) and math.isfinite(d.high)):
            return found.why or "the difference has no interval"
        ends = (times * value for value in (d.mean, d.low, d.high))
        mean, low, high = ends
        return Delta(to=base.key, mean=mean, low=low, high=high, n=d.n, p=d.p, paired=True)

    def _drop(self, place: Place, first: str, second: str) -> Delta | None:
        """The change from one column to another, in per cent."""
        plans = self._plan(first), self._plan(second)
        figures = [self._figure(place, plan) for plan in plans]
        if any(isinstance(found, str) for found in figures):
            return None
        known = {
            at: leaf for plan in plans for at in _leaves(plan)
            if isinstance(leaf := place.source.leaf(place.model, *at), Leaf)
        }  # fmt: skip
        parts = [_measure(plan, known) for plan in plans]
        outcomes = self._outcomes(place, plans)
        if not outcomes or None in parts:
            return None
        measure = made_of("drop", [part for part in parts if part], _change)
        found = estimate(measure, outcomes, seed=self._seed, draws=DRAWS)
        if found.value is None or found.low is None or found.high is None:
            return None
        return Delta(to=first, mean=found.value, low=found.low, high=found.high, n=found.n, p=None, paired=True)

    # ---------------------------------------------------------------------------------------------------------- counts

    def _counted(self, place: Place, column: Column, base: Place | None) -> Cell:
        assert column.count is not None
        folder = place.source.run.folder if isinstance(place.source, RunSource) else None
        found = read_count(folder, column.count)
        if isinstance(found, str):
            return Cell(why=found)
        value = found.value * column.times
        number = Number(
            run=place.source.name,
            sha256=found.sha256,
            model=place.model,
            value=value,
            low=value,
            high=value,
            n=found.rows,
            exact=True,
        )
        delta, why = None, ""
        if base is not None:
            other = read_count(base.source.run.folder if isinstance(base.source, RunSource) else None, column.count)
            if isinstance(other, str):
                why = other
            else:
                more = 100 * (found.value / other.value - 1)
                delta = Delta(to=base.key, mean=more, low=more, high=more, n=other.rows, p=None, paired=True)
        return Cell(number=number, delta=delta, why_no_delta=why)


def _change(values: Floats) -> Floats:
    first, second = values[:, 0], values[:, 1]
    out: Floats = 100 * (np.divide(second, first, out=np.full(len(first), np.nan), where=first != 0) - 1)
    return out


def _number(place: Place, leaf: Leaf, times: float) -> Number:
    return Number(
        run=place.source.name,
        sha256=place.source.sha256,
        model=place.model,
        value=leaf.value * times,
        low=leaf.low * times,
        high=leaf.high * times,
        n=leaf.n,
        n_failed=leaf.n_failed,
    )


def _is_leaf(plan: Plan) -> bool:
    return isinstance(plan[0], str)


def _leaves(plan: Plan) -> Iterator[tuple[str, str]]:
    if _is_leaf(plan):
        suite, measure = plan
        assert isinstance(suite, str) and isinstance(measure, str)
        yield suite, measure
        return
    for inner in plan:
        assert not isinstance(inner, str)
        yield from _leaves(inner)


def _measure(plan: Plan, leaves: Mapping[tuple[str, str], Leaf]) -> Measure | None:
    """The arithmetic of a plan over the answers to all its suites; None where a part has none that can be summed."""
    if _is_leaf(plan):
        at = next(_leaves(plan))
        return _in_suite(leaves[at].measure, plan)
    parts = [_measure(inner, leaves) for inner in plan if not isinstance(inner, str)]
    known = [part for part in parts if part is not None and part.statistic is None]
    return average("mean", known) if len(known) == len(parts) else None


def _in_suite(measure: Measure | None, plan: Plan) -> Measure | None:
    return None if measure is None else only_suite(measure, next(_leaves(plan))[0])


def _independent(plan: Plan, leaves: Mapping[tuple[str, str], Leaf]) -> Leaf:
    """A mean of numbers without answers: as if they were of questions that have nothing in common."""
    weights = dict(_weights(plan, 1.0))
    value = sum(weight * leaves[at].value for at, weight in weights.items())
    errors = [weight * standard_error(leaves[at].low, leaves[at].high) for at, weight in weights.items()]
    reach = Z * math.sqrt(sum(error**2 for error in errors))
    counts = [(leaves[at].n, leaves[at].n_failed) for at in weights]
    n, n_failed = (sum(pair[i] for pair in counts) for i in (0, 1))
    return Leaf(value=value, low=value - reach, high=value + reach, n=n, n_failed=n_failed)


def _weights(plan: Plan, weight: float) -> Iterator[tuple[tuple[str, str], float]]:
    if _is_leaf(plan):
        yield next(_leaves(plan)), weight
        return
    for inner in plan:
        assert not isinstance(inner, str)
        yield from _weights(inner, weight / len(plan))


def _unpaired(base: Place, first: Leaf, second: Leaf, times: float) -> Delta:
    """Of two numbers whose answers cannot be joined: their errors add up."""
    mean = first.value - second.value
    se = math.hypot(standard_error(first.low, first.high), standard_error(second.low, second.high))
    ends = (times * value for value in (mean, mean - Z * se, mean + Z * se))
    value, low, high = ends
    n = min(first.n, second.n)
    return Delta(to=base.key, mean=value, low=low, high=high, n=n, p=normal_p(mean, se), paired=False)
