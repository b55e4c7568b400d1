"""A paper's tables and figures, made of recorded runs by its layout (`align.analyses.layout`).

    {"schema": "paper/1", "paper": "…", "parts": [
      {"key": "table_1", "kind": "table", "title": "…", "columns": [{"key": "ethics", "label": "Ethics", …}],
       "rows": [{"key": "llama2-ft", "label": "MM-ft", "group": "base", "at": null, "cells": {
          "ethics": {"number": {"run": "sbt-llama2-ft", "sha256": "9b1c…", "model": "vlm", "value": 65.4, "low": 64.6,
                                "high": 66.2, "n": 19000, "n_failed": 3, "exact": false},
                     "why": "", "delta": {"to": "llama2", "mean": 19.6, "low": …, "high": …, "n": …, "p": …,
                                          "paired": true}, "why_no_delta": "", "drop": null}}}],
       "reference": {"rows": [{"key": "llama2-ft", "label": "MM-ft", "values": [65.4], "deltas": [19.6]}]},
       "contradictions": ["…"], "notes": ["…"]}]}

A cell without a number is a dash and says why. The paper's numbers stand in `reference` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.analyses.cells import Book, Place
from align.analyses.layout import Layout, Part, Row
from align.analyses.outside import read_lm_eval, read_scores
from align.analyses.reference import contradictions, reference_rows
from align.analyses.runs import read_run
from align.analyses.sources import RunSource, Source
from align.correlation import line, pearson
from align.digest import file_sha256
from align.state import read_manifest
from annotate.errors import UserError

Json = dict[str, Any]


def make_paper(layout: Layout, folder: Path) -> Json:
    """All parts; `folder` is where runs lie. Raises `UserError` where something recorded cannot be read."""
    shelf = _Shelf(folder, layout)
    book = Book(layout)
    parts = []
    for kind, group in (("table", layout.tables), ("figure", layout.figures)):
        for key, part in group.items():
            made = {"key": key, "kind": kind, "title": part.title or key, "draw": part.draw, "over": part.over}
            if part.draw == "histogram":
                parts.append(made | _histogram(folder / part.file, part))
            else:
                parts.append(made | _part(layout, part, shelf, book))
    return {
        "schema": "paper/1",
        "paper": layout.paper,
        "seed": layout.seed,
        "parts": parts,
        "runs": shelf.told(),
        "warnings": [
            *dict.fromkeys(w for source in shelf.sources.values() for w in source.warnings),
            *_not_shown(layout),
        ],
    }


def _not_shown(layout: Layout) -> Iterator[str]:
    """Which parts have reference numbers that are nobody's, in a sentence: left out, and not in silence."""
    parts = {**layout.tables, **layout.figures}
    without = [key for key, part in parts.items() if (part.reference or part.printed) and not layout.paper]
    if without:
        yield f"{', '.join(without)}: reference numbers are not shown: `paper` does not say whose they are"


# ------------------------------------------------------------------------------------------------------------- sources


class _Shelf:
    """What rows name, each read once."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder, self._layout = folder, layout
        self.sources: dict[str, Source] = {}
        self._missing: dict[str, str] = {}

    def find(self, row: Row) -> Source | str:
        """Where a row's numbers are recorded, or that nothing is there yet."""
        name = f"run {row.run}" if row.run else f"results {row.results} {' '.join(row.scores or ())}"
        if name not in self.sources and name not in self._missing:
            found = self._run(row.run) if row.run else self._files(row)
            if isinstance(found, str):
                self._missing[name] = found
            else:
                self.sources[name] = found
        return self.sources.get(name) or self._missing[name]

    def _run(self, name: str) -> Source | str:
        path = Path(name) if name.endswith((".yaml", ".yml")) else self._folder / name
        if path.suffix in (".yaml", ".yml"):
            from align.recipe import load_recipe

            folder = load_recipe(path).folder
        else:
            folder = path
        if read_manifest(folder / "evaluate") is None:
            return f"{folder} is not evaluated" if folder.is_dir() else f"no run {folder}"
        return RunSource(read_run(str(path)))

    def _files(self, row: Row) -> Source | str:
        paths = [self._folder / name for name in ([row.results] if row.results else row.scores or ())]
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            return f"no {', '.join(missing)}"
        return read_lm_eval(paths[0]) if row.results else read_scores(paths)

    def told(self) -> Json:
        return {
            source.name: {"sha256": source.sha256, "models": list(source.models)} for source in self.sources.values()
        }


# --------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A row of a table as it stands there: a star is one line for each checkpoint."""

    key: str
    row: Row
    label: str
    at: float | None
    place: Place | None
    why: str = ""


def _part(layout: Layout, part: Part, shelf: _Shelf, book: Book) -> Json:
    columns = list(part.columns or ())
    lines = [one for key in part.rows or () for one in _lines(key, layout.rows[key], shelf, part)]
    rows = []
    for one in lines:
        base = _base(layout, one, shelf) if part.deltas else None
        cells = {name: book.cell(one.place, name, base).to_json() if one.place else _dash(one.why) for name in columns}
        rows.append({
            "key": one.key, "label": one.label, "group": one.row.group, "series": one.row.series, "at": one.at,
            "minus": one.row.minus if part.deltas else "", "cells": cells,
        })  # fmt: skip
    made: Json = {"columns": [_column(layout, name) for name in columns], "rows": rows, "notes": list(part.notes or ())}
    made["reference"] = {"rows": reference_rows(layout, part)} if part.reference and layout.paper else None
    made["contradictions"] = contradictions(layout, part) if layout.paper else []
    made["dashed"] = part.dashed
    if part.draw == "curve":
        made["best"] = list(_best(rows, columns))
    if part.draw == "correlation":
        made["correlations"] = _correlations(rows, part)
    return made


def _dash(why: str) -> Json:
    return {"number": None, "why": why, "delta": None, "why_no_delta": "", "drop": None}


def _column(layout: Layout, name: str) -> Json:
    column = layout.columns[name]
    return {
        "key": name,
        "label": column.label or name,
        "under": column.under,
        "suite": column.suite,
        "measure": column.measure,
        "mean_of": list(column.mean_of or ()),
        "drop_from": column.drop_from,
        "count": column.count,
        "times": layout.times(name),
        "digits": column.digits,
    }


def _lines(key: str, row: Row, shelf: _Shelf, part: Part) -> Iterator[_Line]:
    label, found = row.label or key, shelf.find(row)
    if isinstance(found, str):
        yield _Line(key=key, row=row, label=label, at=row.at, place=None, why=found)
        return
    if "*" in row.model:
        begin = row.model.rstrip("*")
        steps = sorted(
            int(m.removeprefix(begin)) for m in found.models if m.startswith(begin) and m[len(begin) :].isdigit()
        )
        for step in steps:
            place = Place(key=f"{key} {step}", source=found, model=f"{begin}{step}")
            yield _Line(key=place.key, row=row, label=f"{label}, {step}", at=float(step), place=place)
        if not steps:
            why = f"{found.name}: no model {row.model!r} was evaluated; it has {', '.join(found.models)}"
            yield _Line(key=key, row=row, label=label, at=None, place=None, why=why)
        return
    at = _last_step(found) if row.at_end and part.draw == "curve" else row.at
    yield _Line(key=key, row=row, label=label, at=at, place=_place(key, row, found))


def _place(key: str, row: Row, source: Source) -> Place:
    """Results from elsewhere are of one model, whatever it is called there."""
    return Place(key=key, source=source, model=row.model if row.run else source.models[0])


def _last_step(source: Source) -> float | None:
    """Of the instruct stage's log."""
    log = source.run.folder / "instruct" / "log.jsonl" if isinstance(source, RunSource) else None
    if log is None or not log.is_file():
        return None
    steps = [json.loads(text).get("step") for text in log.read_text(encoding="utf-8").splitlines() if text.strip()]
    return max((float(step) for step in steps if isinstance(step, int | float)), default=None)


def _base(layout: Layout, one: _Line, shelf: _Shelf) -> Place | None:
    if not one.row.minus or one.place is None:
        return None
    other = layout.rows[one.row.minus]
    found = shelf.find(other)
    return None if isinstance(found, str) else _place(one.row.minus, other, found)


# ------------------------------------------------------------------------------------------------------------- figures


def _best(rows: Sequence[Json], columns: Sequence[str]) -> Iterator[Json]:
    """The highest point of each line of a curve."""
    for series in dict.fromkeys(row["series"] for row in rows):
        for name in columns:
            known = [r for r in rows if r["series"] == series and r["cells"][name]["number"] and r["at"] is not None]
            if len(known) > 1:
                top = max(known, key=lambda row: (row["cells"][name]["number"]["value"], -row["at"]))
                number = top["cells"][name]["number"]
                yield {"series": series, "column": name, "row": top["key"], "at": top["at"], "of": len(known)} | {
                    "number": number
                }


def _correlations(rows: Sequence[Json], part: Part) -> Json:
    """Every pair of the columns of `x` and `y`, and the mean of R2 over those that have one."""
    panels = []
    for down in part.y or ():
        for across in part.x or ():
            both = [r for r in rows if r["cells"][across]["number"] and r["cells"][down]["number"]]
            x, y = ([r["cells"][name]["number"]["value"] for r in both] for name in (across, down))
            found = asdict(pearson(x, y))
            fit = line(x, y) if len(both) > 1 else None
            panels.append({"x": across, "y": down, "rows": [r["key"] for r in both], "line": fit} | found)
    known = [p["r2"] for p in panels if p["r2"] is not None]
    mean = sum(known) / len(known) if known else None
    return {"panels": panels, "mean_r2": mean, "n_panels": len(known)}


def _histogram(path: Path, part: Part) -> Json:
    """What `align analyse diversity` wrote, or why there is nothing."""
    made: Json = {"columns": [], "rows": [], "notes": list(part.notes or ()), "reference": None, "contradictions": []}
    if not path.is_file():
        return made | {"diversity": None, "why": f"no {path}: run `align analyse diversity` and --out there"}
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not str(found["schema"]).startswith("diversity/"):
            raise ValueError("no diversity/1")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as the result of `align analyse diversity` ({error})") from None
    return made | {"diversity": found, "why": "", "file": str(path), "sha256": file_sha256(path)}
