"""The verdict table as data: a row per model, a column per suite, a cell with its interval and its mark.

table = build_table(verdicts, metrics)
table.suites[0].cells["dpo"]      ->  Cell(value=0.63, low=0.58, high=0.68, n=320, n_failed=0, mark="▲")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.report.words import label, mark
from annotate.records import Metric


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model on one suite; `value` None: too little could be read to say."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int
    mark: str = ""
    """Significantly better or worse than the VLM (paired, Holm-adjusted)."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One suite of the table."""

    suite: str
    label: str
    measure: str
    n: int
    text: bool
    control: bool
    """Says whether the benchmark can be trusted, not how good a model is; stands apart."""
    cells: Mapping[str, Cell]
    """By model; a model that cannot take the suite is absent."""
    beside: Mapping[str, Mapping[str, Cell]]
    """Further measures of the suite, by name, then model."""


@dataclass(frozen=True, kw_only=True)
class Table:
    models: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def suites(self) -> tuple[Column, ...]:
        """The columns that compare models."""
        return tuple(c for c in self.columns if not c.control)


def build_table(verdicts: Mapping[str, Any], metrics: Sequence[Metric]) -> Table:
    """The table of a finished evaluation."""
    marks = {(row["suite"], row["model"]): mark(row["minus_vlm"]) for row in verdicts["comparisons"]}
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for m in metrics:
        cell = Cell(
            value=m.value, low=m.low, high=m.high, n=m.n, n_failed=m.n_failed, mark=marks.get((m.suite, m.model), "")
        )
        found.setdefault((m.suite, m.name), {})[m.model] = cell
    columns = []
    for suite in verdicts["suites"]:
        name, headline = suite["suite"], suite["headline"]
        beside = {measure: cells for (s, measure), cells in found.items() if s == name and measure != headline}
        columns.append(
            Column(
                suite=name,
                label=label(name),
                measure=headline,
                n=suite["n"],
                text=suite["text"],
                control=suite["control"],
                cells=found.get((name, headline), {}),
                beside=beside,
            )
        )
    return Table(models=tuple(verdicts["models"]), columns=tuple(columns))
