"""What judged benchmarks share: a judge asked several times, rows of a file that come again, counts in words.

An outcome's `group` is the run of the judge that it is of. A measure is taken in each run and averaged, since the runs
are of the same answers; the standard deviation between runs says what the judge alone adds to the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from align.benchmarks.measures import Measure, Outcome, average, spread

T = TypeVar("T")
CHARS = "chars"
"""In an outcome's value: the length of the judged answer, where it is known."""


def over_runs(measures: Sequence[Measure], outcomes: Sequence[Outcome]) -> list[Measure]:
    """Each measure as the mean over the runs; behind the first, the headline, the judge's own noise.

    A run of which nothing could be read has no mean; its failures count all the same.
    """
    runs = list(dict.fromkeys(o.group for o in outcomes if o.state == "ok"))
    if len(runs) < 2:
        return list(measures)
    first, *rest = ([_in_run(measure, run) for run in runs] for measure in measures)
    averaged = [replace(average(m.name, p), only=m.only) for m, p in zip(measures, (first, *rest), strict=True)]
    return [averaged[0], replace(spread("judge_sd", first), only=measures[0].only), *averaged[1:]]


def _in_run(measure: Measure, run: str) -> Measure:
    about = measure.only
    return replace(measure, only=lambda o: o.group == run and (about is None or about(o)))


def length_of(name: str, key: str = CHARS) -> Measure:
    """The mean length of the answers whose length is known."""
    return Measure(name=name, columns=(lambda o: o.value[key],), only=lambda o: key in o.value)


def length_measures(outcomes: Sequence[Outcome]) -> list[Measure]:
    """The length beside the score; empty where no answer is at hand."""
    return [length_of("answer_chars")] if any(CHARS in o.value for o in outcomes) else []


def last_of(rows: Iterable[T], key: Callable[[T], Hashable]) -> tuple[list[T], int]:
    """Of rows with one key the last, and how many rows another one replaced."""
    found: dict[Hashable, T] = {}
    n = 0
    for row in rows:
        n += 1
        found[key(row)] = row
    return list(found.values()), n - len(found)


def said(count: int, of: int, what: str) -> list[str]:
    """A warning with its count, or none where there is nothing to warn of."""
    return [f"{count:,} of {of:,} {what}"] if count else []
