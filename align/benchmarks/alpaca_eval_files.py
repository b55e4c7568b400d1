"""AlpacaEval as it writes annotations: which of two answers to an instruction the judge prefers, the baseline's first.

    judgments   [{"instruction":"Name …","output_1":"…","generator_1":"text_davinci_003","output_2":"…",
                  "generator_2":"m","annotator":"alpaca_eval_gpt4","preference":2.0}, …]

The preference is 1 for the baseline's answer, 2 for the model's, anything between by the judge's own probability; 1.5
and, in the first version, 0 are ties; null is a judge that failed. Judges prefer long answers, so the lengths of both
and a length-controlled win rate (arXiv:2404.04475) stand beside the win rate:

    logit P(model preferred) = length · tanh(Δ / sd(Δ)) + model,     Δ = baseline's characters - model's

taken at Δ = 0. The published method has a third term, the instruction's difficulty, with values that come with its
leaderboard; without them the number is not the leaderboard's, and it is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from align.benchmarks.files import Line, is_missing, number, read_table
from align.benchmarks.judged import CHARS, last_of, length_of, over_runs, said
from align.benchmarks.measures import Floats, Measure, Outcome, mean
from align.benchmarks.sheet import Files, Scorer, Sheet
from annotate.errors import UserError

_RIDGE = 0.01
"""Keeps the fit finite where a model wins always; of no weight beside a handful of preferences."""
_N_QUESTIONS = 805
_LIKELIHOOD = ("slope_length", "slope_model", "curve_length", "curve_both", "curve_model")
"""In an outcome's value: what it adds to the first and second derivatives of the fit."""


@dataclass(frozen=True)
class _Annotated:
    run: int
    key: tuple[str, str, str]
    """Instruction, baseline's answer, model's answer."""
    win: float | None
    """The model's share of the preference; None: the judge failed."""
    stored: bool
    """Whether there was a preference at all."""
    names: tuple[str, str, str]
    """Baseline, model, judge."""
    where: str


def read_alpaca_eval(files: Files) -> list[Sheet]:
    """One sheet: one model, one baseline, one judge. Several files are runs of the judge."""
    rows, repeated = last_of(
        (_row(line, n) for n, path in enumerate(files.judgments, 1) for line in _annotations(path)),
        lambda row: (row.run, row.key),
    )
    if not rows:
        raise UserError(f"{' '.join(map(str, files.judgments))}: no annotation in it; is it the right file?")
    baseline, model, judge = _one_of_each(rows)
    outcomes, effect = _outcomes(rows)
    against = f"{model or 'a model without a name'} against {baseline or 'one without a name'}"
    warnings = [f"{judge or 'a judge without a name'} judges {against}"]
    warnings += said(repeated, len(rows) + repeated, "annotations came again; the last one counts")
    strange = sum(row.stored and row.win is None for row in rows)
    warnings += said(strange, len(rows), "preferences are neither 0 nor from 1 to 2; they count as failed")
    n_asked = len({row.key for row in rows})
    if n_asked != _N_QUESTIONS:
        warnings.append(f"{n_asked} of AlpacaEval's {_N_QUESTIONS} instructions; published rates are of all")
    warnings.append(
        "length_controlled_win_rate: of length and model alone; the published one also has each instruction's "
        "difficulty, whose values are not here"
    )
    measures = over_runs(
        [mean("win_rate", "win", times=100), mean("discrete_win_rate", "wins", times=100), _STANDARD_ERROR],
        outcomes,
    )
    measures += [_length_controlled(*effect), length_of("answer_chars"), length_of("baseline_chars", "baseline_chars")]
    return [Sheet(outcomes=outcomes, measures=measures, headline="win_rate", warnings=tuple(warnings))]


def _annotations(path: Path) -> Iterable[Line]:
    """A list, or one object whose `annotations` are the list."""
    rows = list(read_table(path))
    within = rows[0].fields.get("annotations") if len(rows) == 1 else None
    if not isinstance(within, list):
        return rows
    if not all(isinstance(row, dict) for row in within):
        raise UserError(f"{path}: `annotations`: expected a list of objects")
    return [Line(path, number, row) for number, row in enumerate(within, 1)]


def _row(line: Line, run: int) -> _Annotated:
    preference = line.get("preference")
    stored, said = not is_missing(preference), number(preference)
    return _Annotated(
        run=run,
        key=(line.text("instruction"), line.text("output_1"), line.text("output_2")),
        win=0.5 if said == 0 else said - 1 if said is not None and 1 <= said <= 2 else None,
        stored=stored,
        names=(_name(line, "generator_1"), _name(line, "generator_2"), _name(line, "annotator")),
        where=line.where,
    )


def _name(line: Line, field: str) -> str:
    """Some files lack the names of the answers or of the judge."""
    return line.text(field) if field in line.fields else ""


def _one_of_each(rows: Sequence[_Annotated]) -> tuple[str, str, str]:
    faults = []
    for i, (field, what) in enumerate((("generator_1", "baseline"), ("generator_2", "model"), ("annotator", "judge"))):
        first: dict[str, str] = {}
        for row in rows:
            first.setdefault(row.names[i], row.where)
        if len(first) > 1:
            found = ", ".join(f"{name!r} ({where})" for name, where in first.items())
            faults.append(f"`{field}`: more than one {what}: {found}; score them apart")
    if faults:
        raise UserError(*faults)
    return rows[0].names


# ------------------------------------------------------------------------------------------------- without the length


def _outcomes(rows: Sequence[_Annotated]) -> tuple[list[Outcome], tuple[float, float]]:
    """The outcomes, with what each adds to the fit's slope and curvature, and the fit: (length, model)."""
    wins = np.array([math.nan if row.win is None else row.win for row in rows])
    ok = ~np.isnan(wins)
    x = _features(rows, ok)
    effect = fit_logistic(x[ok], wins[ok])
    likely = _share(x @ effect)
    slope = (wins - likely)[:, None] * x
    curve = (likely * (1 - likely))[:, None] * np.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], axis=1)
    outcomes = []
    for row, likelihood in zip(rows, np.hstack([slope, curve]).tolist(), strict=True):
        known = row.win is not None
        outcomes.append(
            Outcome(
                id=f"{row.run}:{row.where}",
                value=_value(row) | dict(zip(_LIKELIHOOD, likelihood, strict=True)) if known else {},
                state="ok" if known else "judge_failed",
                cluster=row.key[0],
                group=str(row.run),
            )
        )
    return outcomes, (float(effect[0]), float(effect[1]))


def _value(row: _Annotated) -> dict[str, float]:
    _, baseline, answer = row.key
    win = math.nan if row.win is None else row.win
    wins = float(win > 0.5) + 0.5 * (win == 0.5)
    return {"win": win, "wins": wins, CHARS: float(len(answer)), "baseline_chars": float(len(baseline))}


def _features(rows: Sequence[_Annotated], ok: np.ndarray) -> Floats:
    """Of each row the squashed difference in length, and 1."""
    longer = np.array([len(row.key[1]) - len(row.key[2]) for row in rows], dtype=np.float64)
    sd = float(longer[ok].std(ddof=1)) if ok.sum() > 1 else 0.0
    return np.stack([np.tanh(longer / sd) if sd else np.zeros(len(rows)), np.ones(len(rows))], axis=1)


def fit_logistic(x: Floats, share: Floats) -> Floats:
    """Weights of a logistic model of shares between 0 and 1, by Newton's method; 0 where there is no row."""
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        likely = _share(x @ weights)
        slope = x.T @ (share - likely) - _RIDGE * weights
        curve = (x * (likely * (1 - likely))[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
        step = np.linalg.solve(curve, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _share(logit: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(logit / 2))


def _length_controlled(length: float, model: float) -> Measure:
    """The win rate at equal length.

    A resample takes one step of Newton's method from the fit to all rows, so that it is made of sums (the one-step
    bootstrap: Davidson and MacKinnon 1999).
    """
    columns = tuple(_column(key) for key in _LIKELIHOOD)

    def combine(sums: Floats) -> Floats:
        slope_length, slope_model = sums[:, 0] - _RIDGE * length, sums[:, 1] - _RIDGE * model
        a, b, c = sums[:, 2] + _RIDGE, sums[:, 3], sums[:, 4] + _RIDGE
        step = (a * slope_model - b * slope_length) / (a * c - b * b)
        return 100 * _share(model + step)

    return Measure(name="length_controlled_win_rate", columns=columns, combine=combine)


def _column(key: str) -> Callable[[Outcome], float]:
    return lambda o: o.value[key]


def _standard_error(sums: Floats) -> Floats:
    n, total, squares = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (squares - total**2 / n) / (n - 1)
        error: Floats = 100 * np.sqrt(np.maximum(variance, 0) / n)
    return error


_STANDARD_ERROR = Measure(
    name="standard_error",
    columns=(lambda o: 1.0, lambda o: o.value["win"], lambda o: o.value["win"] ** 2),
    combine=_standard_error,
)
"""As the leaderboard prints it."""

ALPACA_EVAL_SCORER = Scorer(
    name="alpaca_eval",
    read=read_alpaca_eval,
    needs=("judgments",),
    help="--judgments annotations.json (instruction, output_1, generator_1, output_2, generator_2, annotator, "
    "preference), several files: runs of the judge",
)
