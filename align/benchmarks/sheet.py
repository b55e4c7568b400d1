"""Answers that somebody already has, scored: what `align score` reads, without a model and without torch.

A benchmark's `read_<layout>` function takes the files in the benchmark's own published layout and returns sheets: one
per set of answers, every question that was asked in it once. `SCORERS` in `scorers.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.benchmarks.measures import Figure, Measure, Outcome, estimate

FEW = 20_000
"""Up to so many outcomes the intervals take the draws of the evaluate stage, above `MANY_DRAWS`."""
MANY_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Files:
    """What stands on the command line; a benchmark names what it misses."""

    answers: tuple[Path, ...] = ()
    questions: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()
    judgments: tuple[Path, ...] = ()
    parser: str = ""
    """How answers are read, where a benchmark has several ways; empty: its default."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One set of answers, read and scored; the measures are not yet taken."""

    outcomes: Sequence[Outcome]
    measures: Sequence[Measure]
    headline: str
    """The measure that is printed first."""
    name: str = ""
    """Which set, where the files hold several; goes behind each measure's name."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """One benchmark of `align score`."""

    name: str
    read: Callable[[Files], Sequence[Sheet]]
    """Raises `UserError` with every fault of the files as `file:line: what`."""
    needs: tuple[str, ...]
    """Options without which it cannot go on: answers, questions, labels, judgments."""
    takes: tuple[str, ...] = ()
    """Options that it may be given as well."""
    parsers: tuple[str, ...] = ()
    """Ways to read an answer, the default first; empty: one."""
    help: str = ""
    """Each file's layout, a line each, for `--help`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The numbers of all sheets of one call."""

    benchmark: str
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...] = field(default=())


def take(scorer: Scorer, files: Files, *, seed: int = 0, draws: int | None = None, least: float = 0.8) -> Result:
    """Read, score, and put an interval on each measure."""
    figures: list[Figure] = []
    warnings: list[str] = []
    for sheet in scorer.read(files):
        warnings += sheet.warnings
        ordered = sorted(sheet.measures, key=lambda measure: measure.name != sheet.headline)
        for measure in ordered:
            if draws is None and len(sheet.outcomes) > FEW:
                draws = MANY_DRAWS
            figure = estimate(measure, sheet.outcomes, seed=seed, draws=draws, least=least)
            name = f"{figure.name} [{sheet.name}]" if sheet.name else figure.name
            figures.append(Figure(**{**vars(figure), "name": name}))
            if figure.value is None and figure.n + figure.n_failed and measure.name == sheet.headline:
                warnings.append(
                    f"{name}: no number: {figure.n_failed} of {figure.n + figure.n_failed} answers have no score "
                    f"(--least-coverage {least:g} asks for more)"
                    if figure.n < least * (figure.n + figure.n_failed)
                    else f"{name}: not defined for these answers (nothing to divide by)"
                )
    return Result(benchmark=scorer.name, figures=tuple(figures), warnings=tuple(dict.fromkeys(warnings)))
