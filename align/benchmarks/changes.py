"""How much worse a model is under other circumstances, of what it was: the same questions, paired.

relative_change(mean("accuracy"), corrupted, clean)  ->  Figure(value=-0.29, low=-0.36, high=-0.22, n=500, …)

Both measures are taken over the questions that have a score in both, and the same images are drawn for both: what makes
a question hard is in both and cancels, so the interval is narrower than that of two tables side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from align.benchmarks.measures import LEAST_COVERAGE, Figure, Floats, Measure, Outcome, readable
from align.stats import bootstrap_sums

NAME = "relative_change"


def relative_change(measure: Measure, changed: Sequence[Outcome], clean: Sequence[Outcome], *, seed: int = 0) -> Figure:
    """`(changed - clean) / clean` with its interval; no value where too few have both scores, or the clean is 0."""
    if measure.statistic:
        raise ValueError(f"{measure.name} is no function of sums")
    before = {o.id: o for o in clean if measure.only is None or measure.only(o)}
    asked = [(o, before[o.id]) for o in changed if o.id in before]
    both = [(o, was) for o, was in asked if o.state == was.state == "ok"]
    nothing = Figure(name=NAME, value=None, low=None, high=None, n=len(both), n_failed=len(asked) - len(both))
    if not readable(["ok"] * len(both) + ["unparsed"] * (len(asked) - len(both)), LEAST_COVERAGE):
        return nothing
    width = len(measure.columns)
    table = np.array([[column(o) for o in pair for column in measure.columns] for pair in both], dtype=np.float64)
    # As many questions on both sides: of two means the ratio is that of the sums.
    made = measure.combine or (lambda sums: sums[:, 0])

    def combine(sums: Floats) -> Floats:
        now, was = made(sums[:, :width]), made(sums[:, width:])
        out: Floats = np.divide(now - was, was, out=np.full(len(was), np.nan), where=was != 0)
        return out

    found = bootstrap_sums(table, combine, [o.cluster or o.id for o, _ in both], seed=seed)
    if math.isnan(found.value):
        return nothing
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return Figure(name=NAME, value=found.value, low=low, high=high, n=nothing.n, n_failed=nothing.n_failed)
