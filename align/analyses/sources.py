"""Where a row's numbers are recorded, whatever left them: a run, what lm-eval wrote, the JSON of `align score`.

    source.leaf("vlm", "pope", "f1_random")     Leaf(value=0.87, low=0.85, high=0.89, n=3000, …), or why there is none
    joined(a, "vlm", b, "vlm", "pope")          the answers of both to the same questions, or why they cannot be joined

A number without n or bounds is no leaf. What is not there is a reason in words, which becomes a dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from align.analyses.compare import join
from align.analyses.runs import Run, suite_of
from align.analyses.scores import cell
from align.benchmarks.measures import Measure, Outcome, mean
from align.digest import file_sha256
from align.stats import unseen


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One measure of one suite, as it was recorded."""

    value: float
    low: float
    high: float
    n: int
    n_failed: int
    measure: Measure | None = None
    """Its arithmetic, where answers were recorded too: for differences and means."""


class Source(Protocol):
    """A row's numbers."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def leaf(self, model: str, suite: str, measure: str) -> Leaf | str:
        """The recorded number, or why there is none."""
        ...

    def outcomes(self, model: str, suite: str) -> Sequence[Outcome]:
        """The answers; none where only numbers were recorded."""
        ...


@dataclass(frozen=True)
class RunSource:
    """A finished run of ours."""

    run: Run
    _outcomes: dict[tuple[str, str], Sequence[Outcome]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def sha256(self) -> str:
        return self.run.manifest.identity_sha256

    @property
    def models(self) -> tuple[str, ...]:
        return self.run.models

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What one should know before believing its numbers."""
        told, folder = self.run.manifest.outputs, self.run.folder / "evaluate"
        edited = list(self.run.edited)
        if "metrics.jsonl" in told and file_sha256(folder / "metrics.jsonl") != told["metrics.jsonl"]:
            edited.append("metrics.jsonl")
        said = []
        if edited:
            said.append(
                f"{self.name}: {', '.join(edited)} changed since the evaluation wrote it: not what was measured"
            )
        if not self.run.places:
            said.append(f"{self.name}: which questions share an image is not recorded (an older run): as independent")
        return tuple(said)

    def leaf(self, model: str, suite: str, measure: str) -> Leaf | str:
        run = self.run
        if model not in run.models:
            return f"{run.name} has no model {model!r}; it has {', '.join(run.models)}"
        if suite not in run.headlines:
            return f"{run.name}: not asked {suite}"
        found = cell(run, model, suite, measure)
        if found is None:
            if not any((m.suite, m.model) == (suite.partition(":")[0], model) for m in run.metrics):
                return f"{run.name}: {model} was not asked {suite}"
            return f"{run.name}: {suite} has no measure {measure!r} here"
        if found["value"] is None:
            return f"{run.name}: too many answers of {model} to {suite} have no score ({found['n_failed']})"
        if found["low"] is None or found["high"] is None:
            return f"{run.name}: {suite} has no interval (n={found['n']})"
        bounds = with_width(found["value"], found["low"], found["high"], found["n"])
        given = {"n": found["n"], "n_failed": found["n_failed"], "measure": self._measure(suite, found["measure"])}
        return Leaf(value=found["value"], low=bounds[0], high=bounds[1], **given)

    def _measure(self, suite: str, name: str) -> Measure | None:
        """By name; a suite may have further measures for what its questions are about (POPE's splits, MME's tasks)."""
        known = list(self.run.measures(suite))
        ours = suite_of(suite)
        if ours and ours.measured and suite in self.run.places:
            known += ours.measured(list(dict.fromkeys(p.category for p in self.run.places[suite].values())))
        found = next((measure for measure in known if measure.name == name), None)
        values = next((item.value for item in self.run.items if item.suite == suite and item.state == "ok"), {})
        return found or (mean(name) if name in values else None)

    def outcomes(self, model: str, suite: str) -> Sequence[Outcome]:
        if (model, suite) not in self._outcomes:
            self._outcomes[model, suite] = self.run.outcomes(suite, model)
        return self._outcomes[model, suite]


def with_width(value: float, low: float, high: float, n: int) -> tuple[float, float]:
    """Bounds without a width are those of a sample in which nothing varied, not of certainty: room is left."""
    if low < high:
        return low, high
    room = unseen(n)
    return (low if value == 0 else low - room), (high if value == 1 else high + room)


def joined(
    first: Source, mine: str, second: Source, theirs: str, suite: str
) -> tuple[Sequence[Outcome], Sequence[Outcome]] | str:
    """The answers of two models to the same questions, or why there are no such."""
    if isinstance(first, RunSource) and isinstance(second, RunSource) and first.run.folder != second.run.folder:
        return _across(first.run, mine, second.run, theirs, suite)
    a, b = first.outcomes(mine, suite), second.outcomes(theirs, suite)
    if not a or not b:
        return "only numbers were recorded, no answers"
    return (a, b) if {o.id for o in a} & {o.id for o in b} else "no question in common"


def _across(
    first: Run, mine: str, second: Run, theirs: str, suite: str
) -> tuple[Sequence[Outcome], Sequence[Outcome]] | str:
    """Of two runs, joined by all that was shown (`align compare`)."""
    found = join(first, second, suite, mine, theirs)
    if found.refused or not found.first:
        return found.refused or "no question in common"
    known = second if suite in second.places else first
    return known.outcomes(suite, mine, items=found.first), known.outcomes(suite, theirs, items=found.second)


def of_suite(outcomes: Sequence[Outcome], suite: str) -> list[Outcome]:
    """With ids that say of which suite they are, so that several suites can stand in one table."""
    return [
        Outcome(
            id=f"{suite}\t{o.id}", value=o.value, state=o.state, cluster=o.cluster, category=o.category, group=o.group
        )
        for o in outcomes
    ]


def only_suite(measure: Measure, suite: str) -> Measure:
    """The measure over the outcomes of one suite among several."""
    about = measure.only
    return replace(measure, only=lambda o: o.id.startswith(f"{suite}\t") and (about is None or about(o)))


def standard_error(low: float, high: float) -> float:
    """Of a 95% interval."""
    return (high - low) / (2 * 1.959964)


def normal_p(mean: float, se: float) -> float:
    """Two-sided p that a normal number of this mean and standard error is 0."""
    return math.erfc(abs(mean) / se / math.sqrt(2)) if se else float(mean == 0)
