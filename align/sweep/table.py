"""What came of a sweep, as data: one row per point, from the recorded outputs of its run.

    {"schema": "sweep/1", "name": "demo", "axes": {"dpo.trl.beta": [0.1, 0.2]}, "fixed": {}, "select": "open_visual",
     "suites": [{"suite": "open_visual", "measure": "headline", "held_out": false, …}],
     "baselines": {"vlm": {"open_visual": {"value": 0.39, "low": 0.32, "high": 0.45, "n": 240, "n_failed": 0}}},
     "points": [{"point": "beta-0.1", "values": {"dpo.trl.beta": 0.1}, "state": "done", "why": "",
                 "cells": {"dpo": {"open_visual": {…}}}, "training": {"dpo": {"rows": 212, "steps": 54, …}}}],
     "best": {"dpo": {"suite": "open_visual", "point": "beta-0.2", "cell": {…}, "not_worse": ["beta-0.1"]}},
     "warnings": ["…"]}

Nothing is best unless the recipe says by which suite (`sweep.select`): a number that a choice was made by is no
measurement any more. Such a suite is not `held_out`, nor are those that ask the same questions, and if the report of
the recipe shows the same file, the warning says so. (Multi-Modal Preference Alignment, section 4.1, chose its options
on LLaVA-Bench and reports it.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.benchmarks.suites import find_suites
from align.benchmarks.text_rows import headline_of, load_text, text_files
from align.digest import file_sha256
from align.settings import Evaluate
from align.stats import holm_over, paired_difference
from align.sweep.grid import read_sweep
from align.sweep.run import Outcome, Plan, Run
from annotate.jsonl import read_records, read_rows
from annotate.records import Item, Metric, sha256_of

BASELINES = ("backbone", "vlm")
TRAINED = ("dpo", "steerlm", "rejection", "sft")
Cells = dict[str, dict[str, dict[str, Any]]]
"""Model -> suite -> value with its interval."""


def sweep_table(plan: Plan, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The whole of table.json."""
    sweep = read_sweep(plan.recipe.sweep)
    read = {run.point.name: _cells(run) for run in plan.runs}
    baselines = {m: next((cells[m] for cells in read.values() if m in cells), {}) for m in BASELINES}
    aligned = dict.fromkeys(m for cells in read.values() for m in cells if m not in BASELINES)
    rows = []
    for run in plan.runs:
        name = run.point.name
        cells = {m: c for m, c in read[name].items() if m not in BASELINES}
        if run.point.untouched and read[name].get("vlm"):  # what is not trained is the model as it was
            cells |= {m: read[name]["vlm"] for m in aligned if m not in cells}
        rows.append(
            {
                "point": name,
                "values": dict(run.point.values),
                "state": "failed" if outcomes[name].why else "untouched" if run.point.untouched else "done",
                "why": outcomes[name].why,
                "cells": cells,
                "training": {} if outcomes[name].why else dict(_trainings(run)),
            }
        )
    suites = list(_suites(plan, sweep.select))
    return {
        "schema": "sweep/1",
        "name": plan.recipe.name,
        "axes": {key: list(values) for key, values in sweep.axes.items()},
        "fixed": dict(sweep.fixed),
        "select": sweep.select,
        "suites": suites,
        "models": list(aligned),
        "baselines": {m: cells for m, cells in baselines.items() if cells},
        "points": rows,
        "best": _best(plan, rows, list(aligned), sweep.select) if sweep.select else {},
        "warnings": list(_warnings(plan, suites, rows, sweep.select)),
    }


# ------------------------------------------------------------------------------------------------------ one point


def _output(run: Run, name: str) -> Path | None:
    """A file of the point's evaluation, where it is finished."""
    folder = run.recipe.folder / "evaluate"
    return folder / name if run.recipe.evaluate and (folder / "manifest.json").is_file() else None


def _cells(run: Run) -> Cells:
    metrics, verdicts = _output(run, "metrics.jsonl"), _output(run, "verdicts.json")
    if metrics is None or verdicts is None:
        return {}
    headline = {s["suite"]: s["headline"] for s in _json(verdicts)["suites"]}
    found: Cells = {}
    for m in read_records(metrics, Metric):
        if not m.judge and m.name == headline[m.suite]:
            cell = {"value": m.value, "low": m.low, "high": m.high, "n": m.n, "n_failed": m.n_failed}
            found.setdefault(m.model, {})[m.suite] = cell
    return found


def _trainings(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each training was made of, and how it ended."""
    for stage in TRAINED:
        folder = run.recipe.folder / stage
        if run.recipe.block(stage) is not None and (folder / "manifest.json").is_file():
            funnel = _json(folder / "manifest.json")["funnel"]
            log = [row for _, row in read_rows(folder / "log.jsonl")]
            last = log[-1] if log else {}
            yield (
                stage,
                {
                    "rows": funnel["rows trained on"],
                    "steps": len(log),
                    "loss": last.get("loss"),
                    **({"chosen_ahead": last["rewards/accuracies"]} if "rewards/accuracies" in last else {}),
                },
            )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


# ----------------------------------------------------------------------------------------------- what may be concluded


def _suites(plan: Plan, select: str | None) -> Iterator[dict[str, Any]]:
    settings = next((run.recipe.evaluate for run in plan.runs if run.recipe.evaluate), None)
    if settings is None:
        return
    chosen_by = _questions(settings, select) if select else None
    reported = plan.recipe.evaluate if plan.recipe.report else None
    for suite in find_suites(settings.suites):
        asked = _questions(settings, suite.name)
        yield {
            "suite": suite.name,
            "measure": suite.headline,
            "control": suite.images == "blank",
            "folder": settings.folder,
            "held_out": asked is None or asked != chosen_by,
            "reported": bool(
                reported and suite.name in reported.suites and asked and asked == _questions(reported, suite.name)
            ),
        }

    for name in settings.text.tasks if settings.text else ():
        asked = _questions(settings, name)
        yield {
            "suite": name,
            "measure": headline_of(name),
            "control": False,
            "folder": settings.text.folder if settings.text else "",
            "held_out": asked is None or asked != chosen_by,
            "reported": bool(
                reported and reported.text and name in reported.text.tasks and asked == _questions(reported, name)
            ),
        }


def _questions(settings: Evaluate, suite: str) -> str | None:
    """Hash of the file that a suite takes its questions from; two suites may ask the same ones."""
    if settings.text and suite in settings.text.tasks:
        files = text_files(replace(settings.text, tasks=(suite,)))
        if not files:
            return sha256_of(["hub", suite])
        return sha256_of([file_sha256(file) for file in files]) if all(file.is_file() for file in files) else None
    (found,) = find_suites([suite])
    path = Path(settings.folder) / f"{found.file}.jsonl"
    return file_sha256(path) if path.is_file() else None


def _best(plan: Plan, rows: Sequence[Mapping[str, Any]], models: Sequence[str], suite: str) -> dict[str, Any]:
    """Model -> the point with the highest headline on `suite`, and the points that are not significantly below it."""
    answers = {run.point.name: _headlines(run, suite) for run in plan.runs}
    best: dict[str, Any] = {}
    for model in models:
        scored = {
            row["point"]: row["cells"][model][suite]
            for row in rows
            if row["cells"].get(model, {}).get(suite, {}).get("value") is not None
        }
        if len({cell["value"] for cell in scored.values()}) < 2:
            continue  # no choice to make: the sweep does not touch this model
        top = max(scored, key=lambda point: scored[point]["value"])
        own = {p: answers[p].get(model) or answers[p].get("vlm", {}) for p in scored}
        others = {p: own[p] for p in scored if p != top and own[p].keys() & own[top].keys()}
        clusters = _clusters(plan, suite)
        below = holm_over({p: paired_difference(own[top], o, clusters, seed=0) for p, o in others.items()})
        best[model] = {
            "suite": suite,
            "point": top,
            "cell": scored[top],
            "not_worse": [p for p, difference in below.items() if not difference.significant],
        }
    return best


def _headlines(run: Run, suite: str) -> dict[str, dict[str, float]]:
    """Model -> question -> headline."""
    items, verdicts = _output(run, "items.jsonl"), _output(run, "verdicts.json")
    if items is None or verdicts is None:
        return {}
    measure = next(s["headline"] for s in _json(verdicts)["suites"] if s["suite"] == suite)
    found: dict[str, dict[str, float]] = {}
    for item in read_records(items, Item):
        if item.suite == suite and item.state == "ok":
            found.setdefault(item.model, {})[item.id] = item.value[measure]
    return found


def _clusters(plan: Plan, suite: str) -> dict[str, str]:
    """Question -> what it is drawn together with."""
    from align.benchmarks.rows import load_rows

    settings = next(run.recipe.evaluate for run in plan.runs if run.recipe.evaluate)
    if settings.text and suite in settings.text.tasks:
        (text,) = load_text(replace(settings.text, tasks=(suite,)))
        return {document.id: document.cluster for document in text.documents}
    (found,) = find_suites([suite])
    rows = load_rows(Path(settings.folder) / f"{found.file}.jsonl", suite=suite, limit=settings.limit)
    return {row.id: row.cluster for row in rows}


def _warnings(
    plan: Plan, suites: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], select: str | None
) -> Iterator[str]:
    spent = [s["suite"] for s in suites if s["reported"] and not s["held_out"]]
    if spent:
        yield (
            f"the best point is chosen by {select}, and the report of {plan.recipe.path} shows {' and '.join(spent)} "
            "on the same questions: what it shows for the chosen point is too good, as the best of many draws is. "
            "Choose on other questions (sweep: {evaluate.folder: …}), or report other suites"
        )
    failed = [row["point"] for row in rows if row["state"] == "failed"]
    if failed:
        yield f"{len(failed)} of {len(rows)} points failed: {', '.join(failed)}"
    unread = sorted(
        {f"{m} at {row['point']}" for row in rows for m, c in row["cells"].items() for x in c.values() if x["n_failed"]}
    )
    if unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        yield f"some answers could not be read: {', '.join(unread[:3])}{more}"


def csv_text(table: Mapping[str, Any]) -> str:
    """One line per point: its values, its trainings, and each model's headline on each suite with its interval."""
    import csv
    import io

    models, suites = table["models"], [s["suite"] for s in table["suites"] if not s["control"]]
    stages = [s for s in TRAINED if any(s in row["training"] for row in table["points"])]
    ends = ("value", "low", "high", "n")
    head = ["point", *table["axes"], "state", "best_for"]
    head += [f"{stage} {what}" for stage in stages for what in ("rows", "steps", "loss")]
    head += [f"{model} {suite} {end}" for model in models for suite in suites for end in ends]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in table["points"]:
        best_for = " ".join(m for m, best in table["best"].items() if best["point"] == row["point"])
        line = [row["point"], *(_written(row["values"].get(key)) for key in table["axes"]), row["state"], best_for]
        line += [row["training"].get(stage, {}).get(what) for stage in stages for what in ("rows", "steps", "loss")]
        cells = [row["cells"].get(m, {}).get(s, {}) for m in models for s in suites]
        line += [cell.get(end) for cell in cells for end in ends]
        writer.writerow(line)
    return out.getvalue()


def _written(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
