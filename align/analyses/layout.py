"""A paper's tables and figures as a plain file: rows, columns, what is subtracted from what, the paper's own numbers.

    columns:
      ethics: {label: Ethics, suite: ethics, times: 100}
      mc1: {label: TruthfulQA-mc1, suite: truthfulqa_mc1, times: 100}
    rows:
      llama2: {label: LLaMA2, group: base, run: sbt-llama2-ft, model: backbone}
      llama2-ft: {label: MM-ft, group: base, run: sbt-llama2-ft, minus: llama2}
    tables:
      table_1:
        columns: [ethics, mc1]
        rows: [llama2, llama2-ft]
        reference: {llama2: [45.8, 25.2], llama2-ft: [65.4, 27.8]}

Reference numbers are those that a paper printed: they are shown beside our own, never among them. What is wrong with a
file is told with its line, all at once, before any run is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from align.analyses.runs import JUDGED
from align.benchmarks.suites import SUITES, suites_of
from align.benchmarks.text_tasks import KNOWN
from align.recipe_reader import Faults, did_you_mean, read_block
from align.settings import option
from align.yaml_lines import read_yaml
from annotate.errors import UserError

Numbers = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one number is: a measure of a suite, a mean of other columns, or a count of the training."""

    label: str = option("", "what stands over the column (default: its key)")
    under: str = option("", "a heading that columns side by side share")
    suite: str = option("", "the suite")
    measure: str = option("", "of the suite (default: the one that models are compared by)")
    suites: tuple[str, ...] | None = option(None, "the mean over several suites, each weighing alike")
    mean_of: tuple[str, ...] | None = option(None, "the mean of what other columns show, each weighing alike")
    drop_from: str = option("", "another column: the change from it is shown, in per cent of it")
    count: Literal["tokens", "flops", "seconds"] | None = option(None, "of `instruct`, in place of a score; all epochs")
    times: float = option(1.0, "what the recorded number is multiplied by to be shown", above=0)
    digits: int = option(1, "shown behind the point", low=0, high=6)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system, and where its numbers are recorded."""

    label: str = option("", "what stands before the row (default: its key)")
    group: str = option("", "rows of one group stand together: base, aligned")
    run: str = option("", "the folder of a run below --runs, or a recipe (*.yaml)")
    model: str = option("vlm", "its model there; `step-*`: every checkpoint that was evaluated, a row each")
    results: str = option("", "in place of a run: what the lm_eval command wrote, a file or folder below --runs")
    scores: tuple[str, ...] | None = option(None, "in place of a run: files of `align score ... --json` below --runs")
    minus: str = option("", "the row that differences are taken to")
    series: str = option("", "of a curve: which line the row is a point of")
    at: float | None = option(None, "of a curve: where the point stands")
    at_end: bool = option(False, "of a curve: the point stands at the last step of the training")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table, or one figure with the table that it is drawn of."""

    title: str = option("", "as the paper calls it")
    columns: tuple[str, ...] | None = option(None, "which columns, from left to right")
    rows: tuple[str, ...] | None = option(None, "which rows, downwards")
    deltas: bool = option(True, "show differences to the row of `minus` (of counts: in per cent of it)")
    draw: Literal["bars", "curve", "correlation", "histogram"] | None = option(None, "figures: what is drawn")
    dashed: str = option("", "bars: the row at which a dashed line stands")
    over: str = option("", "curve: what the points stand at, as text below the axis")
    x: tuple[str, ...] | None = option(None, "correlation: the columns to the right")
    y: tuple[str, ...] | None = option(None, "correlation: the columns upwards")
    file: str = option("", "histogram: the JSON of `align analyse diversity`, below --runs")
    notes: tuple[str, ...] | None = option(None, "sentences below it")
    reference: dict[str, tuple[float | None, ...]] | None = option(None, "the paper's numbers: row -> one per column")  # noqa: RUF009
    printed: dict[str, tuple[float | None, ...]] | None = option(None, "the differences that the paper prints")  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A whole paper."""

    paper: str = option(
        "", "whose layout it is; over the reference numbers (none: there is no paper, nor numbers of it)"
    )
    seed: int = option(0, "of intervals and tests", low=0)
    columns: dict[str, Column] = option(dict, "columns by key")  # noqa: RUF009
    rows: dict[str, Row] = option(dict, "rows by key")  # noqa: RUF009
    tables: dict[str, Part] = option(dict, "tables by key")  # noqa: RUF009
    figures: dict[str, Part] = option(dict, "figures by key")  # noqa: RUF009

    def times(self, name: str) -> float:
        """What the recorded numbers of a column are multiplied by; of a mean, as its parts."""
        column = self.columns.get(name, Column())
        return self.times(column.mean_of[0]) if column.mean_of else column.times


def read_layout(path: Path) -> Layout:
    """Raises `UserError` with every fault of the file, each with its line."""
    document = read_yaml(path)
    faults = Faults(str(path), document.lines)
    for line, key, what in document.faults:
        faults.add_at(line, key, what)
    layout = Layout(**read_block(Layout, document.values, "", faults))
    if not faults.texts:
        _check(layout, faults)
    if faults.texts:
        raise UserError(*faults.texts)
    return replace(layout, paper="") if layout.paper.strip().lower() == "none" else layout


# -------------------------------------------------------------------------------------------------------------- checks


def _check(layout: Layout, faults: Faults) -> None:
    for key, column in layout.columns.items():
        _check_column(layout, f"columns.{key}", column, faults)
    for key, row in layout.rows.items():
        _check_row(layout, f"rows.{key}", row, faults)
    for kind, parts in (("tables", layout.tables), ("figures", layout.figures)):
        for key, part in parts.items():
            _check_part(layout, f"{kind}.{key}", part, faults, figure=kind == "figures")
    if not (layout.tables or layout.figures):
        faults.add("", "neither `tables` nor `figures`: nothing to make")


def _unknown(names: Iterable[str], known: Mapping[str, Any], key: str, what: str, faults: Faults) -> None:
    for name in names:
        if name not in known:
            faults.add(key, f"no {what} {name!r}{did_you_mean(name, known)}")


def _check_column(layout: Layout, key: str, column: Column, faults: Faults) -> None:
    given = [name for name in ("suite", "suites", "mean_of", "count") if getattr(column, name)]
    if len(given) != 1:
        said = f"has {' and '.join(given)}" if given else "says nothing of what it holds"
        faults.add(key, f"{said}; one of suite, suites, mean_of, count")
    for name in (column.suite, *(column.suites or ())):
        if name and (wrong := _suite_fault(name)):
            faults.add(f"{key}.{'suite' if column.suite else 'suites'}", wrong)
    if column.measure and not (column.suite or column.suites):
        faults.add(f"{key}.measure", "is of `suite` or `suites`")
    _unknown(column.mean_of or (), layout.columns, f"{key}.mean_of", "column", faults)
    if column.drop_from:
        _unknown([column.drop_from], layout.columns, f"{key}.drop_from", "column", faults)
    if _is_circular(layout, key.partition(".")[2], ()):
        faults.add(f"{key}.mean_of", "is a mean of itself")
        return
    inner = {layout.times(n) for n in column.mean_of or () if n in layout.columns}
    if len(inner) > 1 or (inner and column.times != 1):
        faults.add(key, "a mean is of numbers on one scale: `times` alike in its parts, and none of its own")
    counted = [
        n for n in (*(column.mean_of or ()), column.drop_from) if n in layout.columns and layout.columns[n].count
    ]
    if counted:
        faults.add(key, f"{', '.join(counted)}: a count of the training goes into no mean and no drop")


def _is_circular(layout: Layout, name: str, seen: tuple[str, ...]) -> bool:
    if name in seen:
        return True
    column = layout.columns.get(name)
    return column is not None and any(_is_circular(layout, inner, (*seen, name)) for inner in column.mean_of or ())


def _suite_fault(name: str) -> str:
    clean = name.removesuffix(JUDGED)
    if clean in KNOWN:
        return ""
    try:
        suites_of(clean)
    except UserError as error:
        near = did_you_mean(name, [*SUITES, *KNOWN])
        return f"no suite {name!r}{near}" if near else str(error.faults[0])
    return ""


def _check_row(layout: Layout, key: str, row: Row, faults: Faults) -> None:
    given = [name for name in ("run", "results", "scores") if getattr(row, name)]
    if len(given) != 1:
        said = f"has {' and '.join(given)}" if given else "says nothing of where its numbers are recorded"
        faults.add(key, f"{said}; one of run, results, scores")
    if row.minus:
        _unknown([row.minus], layout.rows, f"{key}.minus", "row", faults)
        if row.minus == key.partition(".")[2]:
            faults.add(f"{key}.minus", "is the row itself")
        elif row.minus in layout.rows and "*" in layout.rows[row.minus].model:
            faults.add(f"{key}.minus", f"{row.minus!r} stands for several checkpoints; name one model")
    if "*" in row.model and not re.fullmatch(r"[\w.-]*-\*", row.model):
        faults.add(f"{key}.model", f"{row.model!r}: a star stands at the end, for the number of a checkpoint: step-*")
    if row.at is not None and (row.at_end or "*" in row.model):
        faults.add(f"{key}.at", "stands twice: at_end and checkpoints say it themselves")


def _check_part(layout: Layout, key: str, part: Part, faults: Faults, *, figure: bool) -> None:
    if figure != (part.draw is not None):
        faults.add(
            key, "a figure says what is drawn: draw" if figure else "a table draws nothing; put it below figures"
        )
    if part.draw == "histogram":
        if not part.file:
            faults.add(key, "a histogram is drawn of a `file`")
        return
    if not part.columns or not part.rows:
        faults.add(key, "needs `columns` and `rows`")
        return
    _unknown(part.columns, layout.columns, f"{key}.columns", "column", faults)
    _unknown(part.rows, layout.rows, f"{key}.rows", "row", faults)
    for name in ("x", "y"):
        _unknown(
            getattr(part, name) or (), dict.fromkeys(part.columns), f"{key}.{name}", "column of this figure", faults
        )
    if part.draw == "correlation" and not (part.x and part.y):
        faults.add(key, "a correlation needs the columns of `x` and of `y`")
    if part.dashed:
        _unknown([part.dashed], dict.fromkeys(part.rows), f"{key}.dashed", "row of this figure", faults)
    if part.draw == "curve":
        known = [(name, layout.rows[name]) for name in part.rows if name in layout.rows]
        for name in [n for n, row in known if row.at is None and not row.at_end and "*" not in row.model]:
            faults.add(f"{key}.rows", f"{name!r} does not say where it stands: at, at_end, or model: step-*")
    for block in ("reference", "printed"):
        for name, numbers in (getattr(part, block) or {}).items():
            _unknown([name], dict.fromkeys(part.rows), f"{key}.{block}.{name}", "row of this table", faults)
            if len(numbers) != len(part.columns):
                said = f"{len(numbers)} numbers for {len(part.columns)} columns; null where the paper has none"
                faults.add(f"{key}.{block}.{name}", said)
