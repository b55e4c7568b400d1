"""One measure of two systems on the same questions: both values, their difference, its p.

    compare(F1, of_run_b, of_run_a)
    Compared(first=Figure(value=0.87, …), second=Figure(value=0.85, …), difference=Difference(mean=0.02, …), …)

Questions are joined by id. Those that only one system has a score for are in no number and are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from align.benchmarks.measures import Figure, Measure, Outcome, estimate, readable
from align.paired import mcnemar_p, statistic_difference, sums_difference
from align.stats import Difference, paired_difference, unseen


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`first` minus `second`, over the questions that both have a score for."""

    first: Figure
    second: Figure
    difference: Difference | None
    """None: see `why`."""
    test: str
    """`sign-flip`, `McNemar` (right or wrong, independent questions) or `swap` (numbers that are no mean)."""
    why: str
    n_only_first: int
    """Joined questions to which only the first has an answer with a score."""
    n_only_second: int


def compare(
    measure: Measure,
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    *,
    seed: int = 0,
    draws: int | None = None,
    scale: float = 1.0,
) -> Compared:
    """Compare two systems on the questions that both were asked (ids in common); `scale`: the most a score can be."""
    asked = [{o.id: o for o in side if measure.only is None or measure.only(o)} for side in (first, second)]
    ids = sorted(asked[0].keys() & asked[1].keys())
    pairs = [(asked[0][i], asked[1][i]) for i in ids]
    scored = [(a, b) for a, b in pairs if a.state == b.state == "ok"]
    sides = [estimate(measure, [pair[i] for pair in scored], seed=seed, draws=draws) for i in (0, 1)]
    sides = [_counting_failures(f, [pair[i] for pair in pairs]) for i, f in enumerate(sides)]
    why = _fault([[pair[i].state for pair in pairs] for i in (0, 1)])
    difference, test = (None, "") if why else _difference(measure, scored, seed, draws, scale)
    return Compared(
        first=sides[0],
        second=sides[1],
        difference=difference,
        test=test,
        why=why or ("" if difference else "not defined for these answers (nothing to divide by)"),
        n_only_first=sum(a.state == "ok" != b.state for a, b in pairs),
        n_only_second=sum(b.state == "ok" != a.state for a, b in pairs),
    )


def _counting_failures(found: Figure, asked: Sequence[Outcome]) -> Figure:
    """The value on the questions that both answered, the failures of this one system."""
    return replace(found, n_failed=sum(o.state != "ok" for o in asked))


def _fault(states: Sequence[Sequence[str]]) -> str:
    if not states[0]:
        return "no question in common"
    broken = [name for name, mine in zip(("the first", "the second"), states, strict=True) if not readable(mine)]
    return f"too many answers of {' and '.join(broken)} have no score" if broken else ""


def _difference(
    measure: Measure, pairs: Sequence[tuple[Outcome, Outcome]], seed: int, draws: int | None, scale: float
) -> tuple[Difference | None, str]:
    if not pairs:
        return None, ""
    clusters = [a.cluster or a.id for a, _ in pairs]
    first, second = (_table(measure, [pair[i] for pair in pairs]) for i in (0, 1))
    given = {"seed": seed} | ({} if draws is None else {"draws": draws})
    g = len(set(clusters))
    if measure.statistic:
        return _with_room(statistic_difference(first, second, measure.statistic, clusters, **given), g, scale), "swap"
    if measure.combine:
        return _with_room(sums_difference(first, second, measure.combine, clusters, **given), g, scale), "swap"
    ids = [a.id for a, _ in pairs]
    values = [dict(zip(ids, side[:, 0].tolist(), strict=True)) for side in (first, second)]
    found = paired_difference(values[0], values[1], dict(zip(ids, clusters, strict=True)), scale=scale, **given)
    right = {v: first[:, 0] == v for v in (0.0, 1.0)}, {v: second[:, 0] == v for v in (0.0, 1.0)}
    alone = g == len(clusters)
    if alone and all((side[0.0] | side[1.0]).all() for side in right):
        p = mcnemar_p(int((right[0][1.0] & right[1][0.0]).sum()), int((right[0][0.0] & right[1][1.0]).sum()))
        return replace(found, p=p), "McNemar"
    return found, "sign-flip"


def _with_room(found: Difference | None, clusters: int, scale: float) -> Difference | None:
    """An interval without width is that of a sample in which nothing varies, not of certainty."""
    if found is None or found.high - found.low > 1e-12 * scale:
        return found
    room = unseen(clusters, scale)
    return replace(found, low=found.low - room, high=found.high + room)


def _table(measure: Measure, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    return np.array([[column(o) for column in measure.columns] for o in outcomes], dtype=np.float64)
