"""A sweep for the reader: a table for the terminal, and one page with the figure.

Both are made of what `align.sweep.table.sweep_table` gives and of nothing else. The figure is that of data scaling
(Multi-Modal Preference Alignment, Figure 2), whatever is varied: the headline of each suite against the first axis, a
line per model and per setting of the other axes, 95% intervals, and the untouched model and its backbone as lines
across.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.report.figures import _INK, _drawn, ink_of
from align.report.pieces import Cell, document, facts, missing, note, panel, table, text
from align.report.words import MODELS, SUITES, short
from align.sweep.grid import short_key, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 120
BASELINES = ("vlm", "backbone")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MARKS = "osD^vPX*"
Table = Mapping[str, Any]


def _suites(found: Table) -> list[Mapping[str, Any]]:
    """What models are compared by: not the controls of a benchmark."""
    return [suite for suite in found["suites"] if not suite["control"]]


def _label(suite: str) -> str:
    return SUITES.get(suite, suite.replace("_", " "))


def _values(found: Table, row: Mapping[str, Any]) -> list[str]:
    return [shown(row["values"][key]) if key in row["values"] else "·" for key in found["axes"]]


def _keys(found: Table) -> list[str]:
    return [short_key(key, list(found["axes"])) for key in found["axes"]]


def _cell(cell: Mapping[str, Any] | None) -> tuple[str, str]:
    """`.63` and `[.58,.68]`"""
    if cell is None:
        return "–", ""
    if cell["value"] is None:
        return "unreadable", ""
    bounds = "" if cell["low"] is None or cell["high"] is None else f"[{short(cell['low'])},{short(cell['high'])}]"
    return short(cell["value"]), bounds


def _chosen(found: Table, model: str, row: Mapping[str, Any], suite: str) -> str:
    """The mark of the point that was chosen, in the column it was chosen by."""
    best = found["best"].get(model)
    return " ◀" if best and best["point"] == row["point"] and best["suite"] == suite else ""


def _constant(found: Table, model: str) -> bool:
    """Whether the sweep does not touch this model: it has the same numbers at every point."""
    if any(_is_of(model, axis) for axis in found["axes"]):
        return False
    cells = [row["cells"][model] for row in found["points"] if model in row["cells"]]
    return len(cells) > 1 and all(other == cells[0] for other in cells)


def _is_of(model: str, axis: str) -> bool:
    """Whether the axis is the round, or an option of this model's own training: equal numbers are chance then."""
    return axis == "round" or model.partition("_")[0] == axis.partition(".")[0]


def _touching(found: Table, model: str) -> list[str]:
    """The axes that this model depends on: SteerLM knows no beta, rejection sampling no turned label."""
    touching = []
    for axis in found["axes"]:
        groups: dict[str, list[Any]] = {}
        for row in found["points"]:
            if model in row["cells"]:
                others = {key: value for key, value in row["values"].items() if key != axis}
                groups.setdefault(json.dumps(others), []).append(row["cells"][model])
        compared = [group for group in groups.values() if len(group) > 1]
        if _is_of(model, axis) or not compared or any(cells != group[0] for group in compared for cells in group):
            touching.append(axis)
    return touching


def _rows(found: Table, model: str) -> list[Mapping[str, Any]]:
    """A model's rows, each with the values that it depends on; rows that then are one are shown once."""
    touching = _touching(found, model)
    rows: dict[str, Mapping[str, Any]] = {}
    for row in found["points"]:
        values = {key: value for key, value in row["values"].items() if key in touching or row["state"] == "failed"}
        if model in row["cells"] or row["state"] == "failed":
            rows.setdefault(json.dumps(values), {**row, "values": values})
    return list(rows.values())


def _varied(found: Table) -> list[str]:
    """The models that differ from point to point; all of them where none does."""
    return [model for model in found["models"] if not _constant(found, model)] or list(found["models"])


def _across(found: Table) -> dict[str, Mapping[str, Any]]:
    """What is the same at every point: the baselines, and models that the sweep does not touch."""
    made = {name: found["baselines"][name] for name in BASELINES if name in found["baselines"]}
    for model in found["models"]:
        if model not in _varied(found):
            made[model] = next(row["cells"][model] for row in found["points"] if model in row["cells"])
    return made


# ----------------------------------------------------------------------------------------------------------- terminal


def render_text(found: Table) -> str:
    """table.txt."""
    out = [f"{found['name']}: {len(found['points'])} points"]
    if found["fixed"]:
        out.append("at all of them: " + ", ".join(f"{key}={shown(value)}" for key, value in found["fixed"].items()))
    for model in _varied(found):
        out += ["", *_block(found, model)]
    if not found["models"]:
        out += ["", *_trainings(found)]
    out += ["", *_conclusions(found)]
    return "\n".join(line.rstrip() for line in out).rstrip() + "\n"


def _block(found: Table, model: str) -> list[str]:
    suites = _suites(found)
    head = [MODELS.get(model, model), *_keys(found)[1:], *(_label(s["suite"]) for s in suites)]
    subhead = [_keys(found)[0], *[""] * (len(found["axes"]) - 1), *(s["measure"] for s in suites)]
    body = []
    for row in _rows(found, model):
        if row["state"] == "failed":
            body.append([*_values(found, row), "failed", *[""] * (len(suites) - 1)])
        else:
            cells = row["cells"][model]
            told = [
                " ".join(filter(None, _cell(cells.get(s["suite"])))) + _chosen(found, model, row, s["suite"])
                for s in suites
            ]
            body.append([*_values(found, row), *told])
    for name, cells in _across(found).items():
        blank = [""] * (len(found["axes"]) - 1)
        beside = [" ".join(filter(None, _cell(cells.get(s["suite"])))) for s in suites]
        body.append([MODELS.get(name, name), *blank, *beside])
    lines = _aligned([head, subhead, *body])
    return [*lines[:2], "-" * max(map(len, lines)), *lines[2:]]


def _trainings(found: Table) -> list[str]:
    """Without an evaluation: how each training ended."""
    stages = dict.fromkeys(stage for row in found["points"] for stage in row["training"])
    head = [*_keys(found), "state", *(f"{stage} {what}" for stage in stages for what in ("rows", "steps", "last loss"))]
    body = []
    for row in found["points"]:
        ends = [row["training"].get(stage, {}) for stage in stages]
        told = [_end(end.get(what)) for end in ends for what in ("rows", "steps", "loss")]
        body.append([*_values(found, row), row["state"], *told])
    return _aligned([head, *body])


def _end(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _conclusions(found: Table) -> Iterator[str]:
    import textwrap

    for line in conclusions(found):
        yield from textwrap.wrap(line, WIDTH, subsequent_indent="  ")
    for line in found["warnings"]:
        yield from textwrap.wrap(f"! {line}", WIDTH, subsequent_indent="  ")
    for row in found["points"]:
        if row["state"] == "failed":
            yield from textwrap.wrap(f"! {row['point']}: {row['why']}", WIDTH, subsequent_indent="  ")


def conclusions(found: Table) -> list[str]:
    """Which point is best by what, and how little that may say; or that nothing was chosen."""
    said = []
    for model, best in found["best"].items():
        shown_points = [row["point"] for row in _rows(found, model) if row["state"] != "failed"]
        others = len(shown_points) - 1
        line = f"{MODELS.get(model, model)}: best by {_label(best['suite'])} is {best['point']}"
        line += f" ({' '.join(filter(None, _cell(best['cell'])))})"
        near = [point for point in best["not_worse"] if point in shown_points]
        line += (
            f"; {len(near)} of {others} other points are not significantly worse"
            if near
            else f"; the {others} other points are significantly worse"
        )
        said.append(f"{line} (paired, Holm, 5%)")
    if not found["select"] and found["models"]:
        said.append("no point is called best: say by which suite in `sweep: {select: SUITE}`")
    held_out = [s["suite"] for s in _suites(found) if s["held_out"]]
    if found["best"] and held_out:
        said.append(f"held out, no choice was made by them: {', '.join(map(_label, held_out))}")
    return said


# --------------------------------------------------------------------------------------------------------------- page


def render_page(found: Table) -> str:
    """sweep.html: self-contained; asks nobody for anything."""
    parts = [f"<header><p class='kicker'>sweep</p><h1>{text(found['name'])}</h1></header>"]
    parts += [f'<p class="note mind">{text(line)}</p>' for line in found["warnings"]]
    parts += [note(line) for line in conclusions(found)]
    axes = [(key, ", ".join(map(shown, values))) for key, values in found["axes"].items()]
    parts.append(facts([*axes, *((key, shown(value)) for key, value in found["fixed"].items())]))
    figures = list(_figures(found))
    parts.append(f"<section><h2>Figure</h2>{''.join(figures)}</section>" if figures else "")
    parts.append(f"<section><h2>Points</h2>{''.join(_tables(found))}</section>")
    return document(f"sweep of {found['name']}", "\n".join(parts))


def _tables(found: Table) -> Iterator[str]:
    head = [*_keys(found), *(_head(suite) for suite in _suites(found))]
    for model in _varied(found):
        rows: list[list[Cell]] = []
        for row in _rows(found, model):
            if row["state"] == "failed":
                rows.append([*_values(found, row), ("failed", row["why"]), *[""] * (len(_suites(found)) - 1)])
            else:
                rows.append([*_values(found, row), *_marked(found, model, row)])
        for name, across in _across(found).items():
            cells = [_cell(across.get(s["suite"])) for s in _suites(found)]
            rows.append([MODELS.get(name, name), *[""] * (len(found["axes"]) - 1), *cells])
        yield f"<h4>{text(MODELS.get(model, model))}</h4>{table(head, rows)}"
    if not found["models"]:
        yield f"<pre>{text(chr(10).join(_trainings(found)))}</pre>"


def _marked(found: Table, model: str, row: Mapping[str, Any]) -> list[Cell]:
    made: list[Cell] = []
    for suite in _suites(found):
        value, bounds = _cell(row["cells"][model].get(suite["suite"]))
        made.append((value + _chosen(found, model, row, suite["suite"]), bounds))
    return made


def _head(suite: Mapping[str, Any]) -> str:
    return _label(suite["suite"]) + ("" if suite["held_out"] else " (chosen by)")


# ------------------------------------------------------------------------------------------------------------- figure


def _figures(found: Table) -> Iterator[str]:
    """One per axis that was varied alone; of a grid one, against its first axis."""
    axes = list(found["axes"])
    alone = all(len(row["values"]) == 1 for row in found["points"]) and len(axes) > 1
    if not found["models"] or not _suites(found):
        return
    for axis in axes if alone else axes[:1]:
        rows = [row for row in found["points"] if axis in row["values"] and row["cells"]]
        caption = f"Headline against {axis}, with 95% intervals; lines across: the untouched model and its backbone"
        yield panel(caption, _figure(found, axis) if rows else missing("no point is done"), wide=True)


def _figure(found: Table, axis: str) -> str:
    """One panel per suite."""
    suites = _suites(found)
    places, ticks = _places(found["axes"][axis])
    lines = _lines(found, axis)
    across = min(3, len(suites))
    down = -(-len(suites) // across)
    with _drawn(f"sweep-{axis}", down, across, 3.4 * across, 2.7 * down + 0.3) as (axes, out):
        for i, ax in enumerate(axes.flat):
            if i >= len(suites):
                ax.set_visible(False)
                continue
            _panel(ax, found, suites[i], axis, lines, places)
            ax.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
            ax.set_xlabel(short_key(axis, list(found["axes"])))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return out[0]


def _places(values: Sequence[Any]) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Where each value stands: numbers in proportion, or by magnitude where they span fifty-fold; else evenly."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers:
        places = {shown(v): float(i) for i, v in enumerate(values)}
    elif min(values) > 0 and max(values) / min(values) >= 50:
        places = {shown(v): math.log10(v) for v in values}
    else:
        places = {shown(v): float(v) for v in values}
    return places, [(place, name) for name, place in places.items()]


Line = tuple[str, str, list[Mapping[str, Any]]]
"""(model, the other axes in words, rows in the order of the axis)"""


def _lines(found: Table, axis: str) -> list[Line]:
    order = [shown(value) for value in found["axes"][axis]]
    keys = list(found["axes"])
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for model in _varied(found):
        for row in _rows(found, model):
            if model in row["cells"] and axis in row["values"]:
                others = [f"{short_key(k, keys)} {shown(v)}" for k, v in row["values"].items() if k != axis]
                groups.setdefault((model, ", ".join(others)), []).append(row)
    return [
        (model, others, sorted(mine, key=lambda row: order.index(shown(row["values"][axis]))))
        for (model, others), mine in groups.items()
    ]


def _panel(
    ax: Axes, found: Table, suite: Mapping[str, Any], axis: str, lines: Sequence[Line], places: Mapping[str, float]
) -> None:
    name = suite["suite"]
    kinds = list(dict.fromkeys(others for _, others, _ in lines))
    width = (max(places.values()) - min(places.values())) or 1.0
    for i, (model, others, rows) in enumerate(lines):
        shown_rows = [row for row in rows if row["cells"][model].get(name, {}).get("value") is not None]
        cells = [row["cells"][model][name] for row in shown_rows]
        # Beside each other, so that intervals do not cover each other.
        aside = (i - (len(lines) - 1) / 2) * 0.012 * width
        x = [places[shown(row["values"][axis])] + aside for row in shown_rows]
        y = [cell["value"] for cell in cells]
        low = [v - cell["low"] if cell["low"] is not None else 0.0 for v, cell in zip(y, cells, strict=True)]
        high = [cell["high"] - v if cell["high"] is not None else 0.0 for v, cell in zip(y, cells, strict=True)]
        kind = kinds.index(others)
        style: Any = _DASHES[kind % len(_DASHES)]
        ax.errorbar(
            x, y, yerr=[low, high], color=ink_of(model), linestyle=style,
            marker=_MARKS[kind % len(_MARKS)], markersize=4, elinewidth=1, capsize=2,
            alpha=1.0 if model.split("_")[0] == model else 0.5,
            label=", ".join(filter(None, [MODELS.get(model, model), others])),
        )  # fmt: skip
    for baseline in BASELINES:
        cell = found["baselines"].get(baseline, {}).get(name)
        if cell and cell["value"] is not None:
            ax.axhline(
                cell["value"], color=_INK[baseline], linewidth=1.2, linestyle=(0, (3, 3)), label=MODELS[baseline]
            )
            if cell["low"] is not None and cell["high"] is not None:
                ax.axhspan(cell["low"], cell["high"], color=_INK[baseline], alpha=0.12, linewidth=0)
    ax.set_title(_label(name) if suite["measure"] == "headline" else f"{_label(name)}: {suite['measure']}")
    ax.grid(axis="x", visible=False)
    ax.tick_params(length=0)
