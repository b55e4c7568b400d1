"""What finished runs scored, as the papers' figures and tables take it: five analyses, each a plain JSON value.

    correlation(read_systems(runs, x, y), …)   two benchmarks over systems: R2, Pearson, interval, p, n
    scaling(runs, …)                           score against the rows that were trained on, over the runs of a sweep
    trajectory(runs, …)                        score of checkpoints, by their steps
    grid(runs, …)                              models by suites, with differences to VLM and backbone of the same run
    capabilities(runs, …)                      one suite by what its questions ask for

Every number carries its run, n and interval; what a run does not have is null.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.analyses.runs import JUDGED, Run, read_run, renamed
from align.benchmarks.compared import compare
from align.benchmarks.measures import estimate, mean, within
from align.correlation import line, pearson
from align.paired import difference_json
from align.state import read_manifest
from annotate.errors import UserError

BASES = ("backbone", "vlm")
TRAININGS = ("sft", "steerlm", "rejection", "dpo")
DRAWS = 2000
"""Of the intervals of a grid's differences: a bound varies by 6% of a standard error from seed to seed."""
NO_PARTS = frozenset(
    "n_words chance yes_ratio truth_ratio exact form precision recall f1 accuracy_plus vanilla_accuracy rubric".split()
)
"""Measures that are no capability."""
Json = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------- reading


def read_runs(names: Sequence[str], bench: Path | None = None) -> list[Run]:
    """Runs by folder or recipe; a run with a sweep (or its folder `sweep`) stands for the sweep's finished points."""
    found: list[Run] = []
    for name in names:
        points = sorted(_points(Path(name)))
        found += [read_run(str(point), bench) for point in points] if points else [read_run(name, bench)]
    return renamed(found)


def _points(path: Path) -> Iterator[Path]:
    for folder in (path, path / "sweep"):
        if (folder / "table.json").is_file():
            yield from (made.parent.parent for made in folder.glob("*/evaluate/manifest.json"))


def cell(run: Run, model: str, suite: str, measure: str = "") -> Json | None:
    """The recorded value of a model on a suite with its interval; None where the run has none."""
    name = measure or run.headlines.get(suite, "")
    base = suite.removesuffix(JUDGED)
    for m in run.metrics:
        if (m.suite, m.model, m.name, bool(m.judge)) == (base, model, name, suite.endswith(JUDGED)):
            figure = {"value": m.value, "low": m.low, "high": m.high, "n": m.n, "n_failed": m.n_failed}
            return {"run": run.name, "model": model, "suite": suite, "measure": name, **figure}
    return None


def suites_in(runs: Sequence[Run], asked: Sequence[str]) -> list[str]:
    """The suites that were asked for, or all but controls and a judge's grades; `UserError` for one that no run has."""
    known = dict.fromkeys(s for r in runs for s in r.headlines if s not in r.controls and not s.endswith(JUDGED))
    every = dict.fromkeys(s for run in runs for s in run.headlines)
    faults = [f"--suites: no run has {s!r}; they have {', '.join(every)}" for s in asked if s not in every]
    if faults:
        raise UserError(*faults)
    return list(asked) or list(known)


# --------------------------------------------------------------------------------------------------------- correlation


@dataclass(frozen=True, kw_only=True)
class System:
    """One point of a correlation; `x` or `y` None: it has no score there."""

    name: str
    x: Json | None
    y: Json | None


def read_systems(runs: Sequence[Run], x: str, y: str) -> list[System]:
    """Every model of every run; a model that several runs have with the same weights counts once."""
    suites_in(runs, [x, y])
    found: dict[tuple[str, Any, Any], System] = {}
    for run in runs:
        for model, digest in run.verdicts["models"].items():
            a, b = cell(run, model, x), cell(run, model, y)
            name = model if len(runs) == 1 else f"{run.name}/{model}"
            asked = model if run.verdicts.get("asked_with", {}).get(model) else ""
            found.setdefault((digest + asked, _value(a), _value(b)), System(name=name, x=a, y=b))
    return list(found.values())


def read_table(path: Path, x: str, y: str) -> list[System]:
    """The rows of a CSV file: a name in the first column, numbers below `x` and `y`; an empty cell is no score."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    reader = csv.DictReader(io.StringIO(text))
    columns = reader.fieldnames or []
    missing = [
        f"{path}: no column {name!r}; it has {', '.join(columns) or 'none'}" for name in (x, y) if name not in columns
    ]
    if missing:
        raise UserError(*missing)
    found, faults = [], []
    for row in reader:
        values: list[Json | None] = []
        for name in (x, y):
            written = (row[name] or "").strip()
            try:
                values.append({"value": float(written)} if written not in ("", "-", "–") else None)
            except ValueError:
                faults.append(f"{path}:{reader.line_num}: {name}: {written!r} is no number; leave it empty for none")
                values.append(None)
        found.append(System(name=row[columns[0]], x=values[0], y=values[1]))
    if faults:
        raise UserError(*faults)
    return found


def correlation(systems: Sequence[System], x: str, y: str) -> Json:
    """R2 and Pearson's r over the systems that have both scores. Raises `UserError` where fewer than three do."""
    both = [s for s in systems if _value(s.x) is not None and _value(s.y) is not None]
    if len(both) < 3:
        names = ", ".join(s.name for s in both) or "none"
        raise UserError(
            f"{x} and {y}: only {len(both)} system(s) have both scores ({names}); a correlation takes three"
        )
    a, b = [_value(s.x) for s in both], [_value(s.y) for s in both]
    found = pearson(a, b)
    left_out = [
        {"system": s.name, "why": f"no {x}" if _value(s.x) is None else f"no {y}"} for s in systems if s not in both
    ]
    return {
        "schema": "correlation/1",
        "x": x,
        "y": y,
        **{key: None if value is None else round(value, 6) for key, value in asdict(found).items()},
        "line": None if (fit := line(a, b)) is None else [round(v, 6) for v in fit],
        "points": [{"system": s.name, "x": s.x, "y": s.y} for s in both],
        "left_out": left_out,
    }


def _value(found: Mapping[str, Any] | None) -> Any:
    return None if found is None else found["value"]


# ------------------------------------------------------------------------------------------------- curves over several


def scaling(runs: Sequence[Run], suites: Sequence[str], models: Sequence[str]) -> Json:
    """Score against rows trained on (Multi-Modal Preference Alignment, Figure 2); 0 rows are the VLM as it was."""
    series = []
    for model in models or _aligned(runs):
        stage = next((t for t in TRAININGS if model == t or model.startswith(f"{t}_")), "")
        sized = [(run, size) for run in runs if (size := _rows_trained_on(run, stage)) is not None]
        for suite in suites:
            points = [{"rows": size, **found} for run, size in sized if (found := cell(run, model, suite)) is not None]
            start = next((found for run in runs if (found := cell(run, "vlm", suite)) is not None), None)
            if points:
                series.append({"model": model, "suite": suite, "start": start, "points": sorted(points, key=_by_rows)})
    if not series:
        raise UserError("no run trained a model that it evaluated: there is no size to show scores against")
    return {"schema": "scaling/1", "series": series}


def _by_rows(point: Mapping[str, Any]) -> tuple[int, str]:
    return point["rows"], point["run"]


def _rows_trained_on(run: Run, stage: str) -> int | None:
    manifest = read_manifest(run.folder / stage) if stage else None
    return None if manifest is None else manifest.funnel.get("rows trained on")


def trajectory(runs: Sequence[Run], suites: Sequence[str], models: Sequence[str], steps: Sequence[float]) -> Json:
    """Score of each run: checkpoints of one training. `steps`: where each stands, or 1, 2, 3, … as given."""
    if steps and len(steps) != len(runs):
        raise UserError(f"--steps: {len(steps)} for {len(runs)} runs; one each")
    places = list(steps) or [float(i) for i in range(1, len(runs) + 1)]
    series = []
    for model in models or dict.fromkeys(m for run in runs for m in run.models if m != "backbone"):
        for suite in suites:
            found = [
                (place, cell(run, model, suite)) for place, run in sorted(zip(places, runs, strict=True), key=_place)
            ]
            points = [{"step": place, **one} for place, one in found if one is not None]
            if points:
                series.append({"model": model, "suite": suite, "points": points})
    if not series:
        raise UserError(f"no run has a score of {', '.join(models)} on {', '.join(suites)}")
    return {"schema": "trajectory/1", "steps": places, "runs": [run.name for run in runs], "series": series}


def _place(placed: tuple[float, Run]) -> float:
    return placed[0]


def _aligned(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(m for run in runs for m in run.models if m not in BASES))


# ---------------------------------------------------------------------------------------------------------------- grid


def grid(runs: Sequence[Run], suites: Sequence[str], *, seed: int = 0) -> Json:
    """Models by suites as Table 2 has them, each with its paired differences to the VLM and the backbone of its run."""
    rows: list[Json] = []
    for run in runs:
        for model, digest in run.verdicts["models"].items():
            cells = {suite: _cell_with_differences(run, model, suite, seed) for suite in suites}
            rows.append({"run": run.name, "model": model, "sha256": digest, "cells": cells})
    return {
        "schema": "grid/1",
        "suites": [
            {"suite": suite, "measure": run.headlines[suite], "scale": run.scale(suite)}
            for suite in suites
            for run in [next(run for run in runs if suite in run.headlines)]
        ],
        "rows": _once(rows),
        "seed": seed,
    }


def _cell_with_differences(run: Run, model: str, suite: str, seed: int) -> Json | None:
    found = cell(run, model, suite)
    if found is None:
        return None
    for base in BASES:
        found[f"minus_{base}"] = None
        if base != model and not (model == "backbone") and (suite, base) in run.answers:
            measure = run.measures(suite)[0]
            outcomes = run.outcomes(suite, model), run.outcomes(suite, base)
            difference = compare(measure, *outcomes, seed=seed, draws=DRAWS).difference
            found[f"minus_{base}"] = None if difference is None else difference_json(difference)
    return found


def _once(rows: Sequence[Json]) -> list[Json]:
    """A base model that several runs have, with the same weights and scores, stands once."""
    kept: dict[str, Json] = {}
    for row in rows:
        values = [None if c is None else (c["value"], c["n"]) for c in row["cells"].values()]
        key = f"{row['model']} {row['sha256']} {values}" if row["model"] in BASES else f"{row['run']} {row['model']}"
        kept.setdefault(key, row)
    return list(kept.values())


# -------------------------------------------------------------------------------------------------------- capabilities


def capabilities(runs: Sequence[Run], suite: str, parts: Sequence[str], *, seed: int = 0) -> Json:
    """One suite by category of its questions, or by the measures of its parts where a question has several."""
    suites_in(runs, [suite])
    bars = []
    for run in runs:
        for model in run.models:
            bars += [{"part": name, **found} for name, found in _parts(run, model, suite, parts, seed)]
    if not bars:
        raise UserError(f"{suite}: its questions have no categories here; name measures with --parts")
    return {
        "schema": "capabilities/1",
        "suite": suite,
        "parts": list(dict.fromkeys(b["part"] for b in bars)),
        "bars": bars,
    }


def _parts(run: Run, model: str, suite: str, asked: Sequence[str], seed: int) -> Iterator[tuple[str, Json]]:
    outcomes = run.outcomes(suite, model)
    categories = list(dict.fromkeys(o.category for o in outcomes if o.category))
    if not outcomes or suite not in run.headlines:
        return
    if asked or len(categories) < 2:
        named = dict.fromkeys(m.name for m in run.metrics if m.suite == suite and m.model == model and not m.judge)
        for name in asked or [n for n in named if n not in NO_PARTS and n != run.headlines[suite]]:
            if (found := cell(run, model, suite, name)) is not None:
                yield name, found
        return
    headline = run.headlines[suite]
    measure = next((m for m in run.measures(suite) if m.name == headline), mean(headline))
    for category in categories:
        figure = asdict(estimate(within(measure, category, category), outcomes, seed=seed, draws=DRAWS))
        del figure["name"]
        yield category, {"run": run.name, "model": model, "suite": suite, "measure": headline, **figure}
