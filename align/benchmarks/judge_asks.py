"""Suites whose answers a judge grades: what it is asked about one row, how its reply is read, what the row is worth.

    row, outputs ── asks ──> Ask(name="turn_1", prompt="single-v1", texts={…}), …   each put `repeats` times
    reply        ── read ──> a grade, or None: the judge failed
    grades       ── value ─> {"score": 6.5, "turn_1": 8.0, "turn_2": 5.0, "n_words": 120.0}, or None

A row is worth nothing, and is `judge_failed`, where one of its asks has no readable reply in any repeat; there is no
default grade. All of it is pure, so that recorded replies can be read again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.benchmarks.measures import Floats, Measure, Outcome
from align.benchmarks.rows import Row

Grades = Mapping[str, Sequence[Any]]
"""By ask: what each repeat said, None where it could not be had."""
Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question to the judge about one row."""

    name: str
    """Within the row: turn_1, as_first, ..."""
    prompt: str
    """The instruction's name (`judge_prompts.py`)."""
    texts: Mapping[str, str]
    """What goes into it."""
    system: str | None = None
    """In place of the instruction's own (LLaVA-Bench's rules are the user's file)."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One settled ask, as the files of a suite show it."""

    row: Row
    ask: Ask
    repeat: int
    text: str
    """The instruction as it was sent, without the system's."""
    reply: str
    """Empty: none came."""
    grade: Any
    judge: str
    """The model as the service named it."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One row as a model answered it, with all that the judge said of it."""

    row: Row
    outputs: Sequence[str]
    judgements: Sequence[Judgement]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What a suite's files are made of."""

    judge: str
    """As it is to stand in names of files."""
    repeats: int
    models: Mapping[str, Sequence[Answered]]
    """By name, each in the order of the benchmark."""

    def judgements(self, model: str, repeat: int) -> list[Judgement]:
        """What the judge said of a model in one repeat."""
        return [j for answered in self.models[model] for j in answered.judgements if j.repeat == repeat]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a suite is judged."""

    prompts: tuple[str, ...]
    """Names of the instructions it may use."""
    parser: str
    """Name and version of `read`."""
    asks: Callable[[Row, Sequence[str]], Sequence[Ask]]
    read: Callable[[str], Any]
    """A reply's grade, or None."""
    value: Callable[[Row, Sequence[str], Mapping[str, Sequence[Any]]], Values]
    """What a row is worth by the grades that could be had, at least one of each ask; empty: they say nothing."""
    files: Callable[[Writing], Mapping[str, str]]
    """Answers and judgments in the benchmark's own layouts: path -> text."""
    runs: tuple[str, ...] = ()
    """Values whose spread over the repeats tells how steady the judge is; the suite's headline if none are named."""
    run_value: Callable[[Floats], float] = lambda columns: float(np.nanmean(columns[:, 0]))
    """The benchmark's number by one repeat, from a table of (rows, `runs`)."""
    told: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: ()
    """What a reader must know of these rows (whose references are they?)."""

    def worth(self, row: Row, outputs: Sequence[str], grades: Grades, headline: str) -> Values | None:
        """The value of a row over all repeats, and of each repeat by itself; None where the judge failed."""
        had = {name: [g for g in of if g is not None] for name, of in grades.items()}
        if not all(had.values()):
            return None
        values = self.value(row, outputs, had)
        if not values:
            return None
        n = max(map(len, grades.values()))
        for k in range(n) if n > 1 else ():
            one = {name: [of[k]] for name, of in grades.items() if of[k] is not None}
            if len(one) == len(grades):
                alone = self.value(row, outputs, one)
                values |= {f"{key}@{k + 1}": alone[key] for key in self.runs or (headline,) if alone}
        return values

    def spread(self, repeats: int, headline: str) -> Measure:
        """The standard deviation of the benchmark's number over the repeats of the judge."""
        keys = self.runs or (headline,)

        def column(name: str) -> Callable[[Outcome], float]:
            return lambda outcome: outcome.value.get(name, math.nan)

        def statistic(table: Floats) -> float:
            numbers = [self.run_value(table[:, k * len(keys) : (k + 1) * len(keys)]) for k in range(repeats)]
            return float(np.std(numbers, ddof=1))

        columns = tuple(column(f"{key}@{k + 1}") for k in range(repeats) for key in keys)
        return Measure(name="judge_sd", columns=columns, statistic=statistic)


def mean_of(grades: Sequence[float]) -> float:
    return sum(grades) / len(grades)


def words_of(outputs: Sequence[str]) -> float:
    """Words of an answer, on average over the turns: length is reported beside every grade."""
    return mean_of([float(len(text.split())) for text in outputs])


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def number_or_text(key: str) -> int | str:
    """An id as the benchmark's own files have it."""
    return int(key) if key.isdecimal() and str(int(key)) == key else key
