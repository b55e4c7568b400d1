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
from dataclasses import dataclass, replace

import numpy as np

from align.analyses.counts import MADE, STAGE, Count, CountName, read_count
from align.analyses.layout import Column, Layout
from align.analyses.printed import Cell, Delta, Number, number_of
from align.analyses.sources import (
    Leaf,
    RunSource,
    Source,
    joined,
    normal_p,
    of_suite,
    only_suite,
    standard_error,
    with_width,
)
from align.benchmarks.compared import compare
from align.benchmarks.measures import Floats, Measure, Outcome, average, estimate, made_of

DRAWS = 2000
"""Of intervals that are not recorded: a bound varies by 6% of a standard error from seed to seed."""
Z = 1.959964
MANY = 5000
"""Questions from which on the errors of independent parts are added, not drawn."""
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
        self._figures: dict[tuple[int, str, Plan], Leaf | str] = {}
        self._differences: dict[tuple[int, str, int, str, Plan], Delta | str] = {}

    def cell(self, place: Place, name: str, base: Place | None) -> Cell:
        """The number of a row in a column, and its difference to another row."""
        column = self._columns[name]
        return _counted(place, column, base) if column.count else self._scored(place, name, base)

    def _scored(self, place: Place, name: str, base: Place | None) -> Cell:
        plan, times = self._plan(name), self._layout.times(name)
        found = self._figure(place, plan)
        if isinstance(found, str):
            return Cell(why=found)
        delta, why = None, ""
        if base is not None:
            made = self._difference(place, base, plan)
            delta, why = (None, made) if isinstance(made, str) else (_scaled(made, times, base.key), "")
        drop_from = self._columns[name].drop_from
        drop = self._drop(place, drop_from, name) if drop_from else None
        return Cell(number=_number(place, found, times), delta=delta, why_no_delta=why, drop=drop)

    def _plan(self, name: str) -> Plan:
        column = self._columns[name]
        if column.suite:
            return column.suite, column.measure
        if column.suites:
            return tuple((suite, column.measure) for suite in column.suites)
        return tuple(self._plan(inner) for inner in column.mean_of or ())

    def _figure(self, place: Place, plan: Plan) -> Leaf | str:
        """The number of a plan, or why there is none."""
        key = id(place.source), place.model, plan
        if key not in self._figures:
            self._figures[key] = self._new_figure(place, plan)
        return self._figures[key]

    def _new_figure(self, place: Place, plan: Plan) -> Leaf | str:
        if _is_leaf(plan):
            return place.source.leaf(place.model, *next(_leaves(plan)))
        leaves = {at: self._figure(place, at) for at in _leaves(plan)}
        lacking = [found for found in leaves.values() if isinstance(found, str)]
        if lacking:  # a mean lacks what one of its parts lacks
            return lacking[0] + (f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else "")
        known = {at: leaf for at, leaf in leaves.items() if isinstance(leaf, Leaf)}
        measure, outcomes = _measure(plan, known), self._outcomes(place, plan)
        if measure is None or not outcomes or _stand_apart(known, outcomes):
            return replace(_independent(plan, known), measure=measure)
        figure = estimate(measure, outcomes, seed=self._seed, draws=DRAWS)
        if figure.value is None or figure.low is None or figure.high is None:
            return f"{place.source.name}: no interval of the mean"
        low, high = with_width(figure.value, figure.low, figure.high, figure.n)
        return Leaf(value=figure.value, low=low, high=high, n=figure.n, n_failed=figure.n_failed, measure=measure)

    def _outcomes(self, place: Place, plan: Plan) -> Sequence[Outcome]:
        suites = dict.fromkeys(suite for suite, _ in _leaves(plan))
        return [o for suite in suites for o in of_suite(place.source.outcomes(place.model, suite), suite)]

    def _difference(self, place: Place, base: Place, plan: Plan) -> Delta | str:
        """To another row, in the numbers as they were recorded, or why there is none."""
        key = id(place.source), place.model, id(base.source), base.model, plan
        if key not in self._differences:
            self._differences[key] = self._new_difference(place, base, plan)
        return self._differences[key]

    def _new_difference(self, place: Place, base: Place, plan: Plan) -> Delta | str:
        mine, theirs = self._figure(place, plan), self._figure(base, plan)
        if isinstance(mine, str) or isinstance(theirs, str):
            return theirs if isinstance(theirs, str) else str(mine)
        if mine.measure is None or theirs.measure is None:
            return _unpaired(base, mine, theirs)
        sides: tuple[list[Outcome], list[Outcome]] = ([], [])
        for suite in dict.fromkeys(suite for suite, _ in _leaves(plan)):
            both = joined(place.source, place.model, base.source, base.model, suite)
            if isinstance(both, str):
                unlike = type(place.source) is not type(base.source)
                return _unpaired(base, mine, theirs) if unlike else f"{suite}: {both}"
            for side, answers in zip(sides, both, strict=True):
                side += answers if _is_leaf(plan) else of_suite(answers, suite)
        if not _is_leaf(plan):
            leaves = {at: leaf for at in _leaves(plan) if isinstance(leaf := self._figure(place, at), Leaf)}
            if _stand_apart(leaves, sides[0]):
                return _of_parts(base, plan, {at: self._difference(place, base, at) for at in leaves})
        found = compare(mine.measure, *sides, seed=self._seed, draws=DRAWS)
        d = found.difference
        if d is None or not (math.isfinite(d.low) and math.isfinite(d.high)):
            return found.why or "the difference has no interval"
        return Delta(to=base.key, mean=d.mean, low=d.low, high=d.high, n=d.n, p=d.p, paired=True)

    def _drop(self, place: Place, first: str, second: str) -> Delta | None:
        """The change from one column to another, in per cent."""
        plans = self._plan(first), self._plan(second)
        leaves = {at: self._figure(place, at) for at in _leaves(plans)}
        known = {at: leaf for at, leaf in leaves.items() if isinstance(leaf, Leaf)}
        outcomes = self._outcomes(place, plans)
        if len(known) < len(leaves) or not outcomes:
            return None
        parts = [part for plan in plans if (part := _measure(plan, known))]
        if len(parts) < len(plans):
            return None
        found = estimate(made_of("drop", parts, _change), outcomes, seed=self._seed, draws=DRAWS)
        if found.value is None or found.low is None or found.high is None:
            return None
        return Delta(to=first, mean=found.value, low=found.low, high=found.high, n=found.n, p=None, paired=True)


def _counted(place: Place, column: Column, base: Place | None) -> Cell:
    """A count of the training: exact, and its difference in per cent."""
    assert column.count is not None
    found = _count(place, column.count)
    if isinstance(found, str):
        return Cell(why=found)
    value = found.value * column.times
    exact = {"value": value, "low": value, "high": value}
    run = {"run": place.source.name, "sha256": found.sha256, "model": place.model}
    number = number_of(run | exact | {"n": found.rows, "n_failed": 0, "exact": True})
    if base is None:
        return Cell(number=number)
    other = _count(base, column.count)
    if isinstance(other, str):
        return Cell(number=number, why_no_delta=other)
    more = 100 * (found.value / other.value - 1)
    delta = Delta(to=base.key, mean=more, low=more, high=more, n=other.rows, p=None, paired=True)
    return Cell(number=number, delta=delta)


def _count(place: Place, name: CountName) -> Count | str:
    """The count of a row's model, or why there is none: alike for all models and counts of a run, to be said once."""
    if not isinstance(place.source, RunSource):
        return read_count(None, name)
    if place.model != MADE:
        return f"{place.source.name}: what {STAGE} took is told of {MADE} alone, the model that it made"
    return read_count(place.source.run.folder, name)


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


def _stand_apart(leaves: Mapping[tuple[str, str], Leaf], outcomes: Sequence[Outcome]) -> bool:
    """Whether the parts of a mean have so many questions, and none that are drawn together with another part's, that
    their errors may as well be added: what is resampled then gives the same, only later.
    """
    if len(outcomes) <= MANY:
        return False
    seen: set[str] = set()
    for (suite, _), leaf in leaves.items():
        measure = _in_suite(leaf.measure, (suite, ""))
        about = measure.only if measure else None
        mine = {o.cluster or o.id for o in outcomes if about is None or about(o)}
        if mine & seen:
            return False
        seen |= mine
    return True


def _of_parts(base: Place, plan: Plan, parts: Mapping[tuple[str, str], Delta | str]) -> Delta | str:
    """The difference of a mean, of the differences of its parts."""
    lacking = [why for why in parts.values() if isinstance(why, str)]
    if lacking:
        return lacking[0]
    weighed = [(weight, d) for at, weight in _weights(plan, 1.0) if isinstance(d := parts[at], Delta)]
    mean = sum(weight * d.mean for weight, d in weighed)
    se = math.sqrt(sum((weight * standard_error(d.low, d.high)) ** 2 for weight, d in weighed))
    p, n = normal_p(mean, se), sum(d.n for _, d in weighed)
    paired = all(d.paired for _, d in weighed)
    return Delta(to=base.key, mean=mean, low=mean - Z * se, high=mean + Z * se, n=n, p=p, paired=paired)


def _scaled(delta: Delta, times: float, to: str) -> Delta:
    return replace(delta, to=to, mean=delta.mean * times, low=delta.low * times, high=delta.high * times)


def _unpaired(base: Place, first: Leaf, second: Leaf) -> Delta:
    """Of two numbers whose answers cannot be joined: their errors add up."""
    mean = first.value - second.value
    se = math.hypot(standard_error(first.low, first.high), standard_error(second.low, second.high))
    p, n = normal_p(mean, se), min(first.n, second.n)
    return Delta(to=base.key, mean=mean, low=mean - Z * se, high=mean + Z * se, n=n, p=p, paired=False)
