"""The figures of a paper's layout, drawn of the same cells as the tables: what has no run behind it is not drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.analyses.printed import Number, number_of
from align.report import diversity
from align.report.figures import _INK, _drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[str, Any]
_COLOURS = ("dpo", "sft", "rejection", "steerlm", "vlm", "backbone", "good", "bad")
_MARKS = "osD^vPX*"
NAMED = 8
"""Up to so many points of a scatter have their names beside them; the table has all."""


def draw(part: Found) -> str:
    """SVG, or nothing where nothing is known."""
    if part["draw"] == "histogram":
        return diversity.histograms(part["diversity"]) if part["diversity"] else ""
    if not part["draw"] or not any(c["number"] for row in part["rows"] for c in row["cells"].values()):
        return ""
    if part["draw"] == "correlation":
        return _scatter(part)
    return _curves(part) if part["draw"] == "curve" else _bars(part)


def _number(row: Found, column: str) -> Number | None:
    found = row["cells"][column]["number"]
    return number_of(found) if found else None


def _label(column: Found) -> str:
    return " ".join(filter(None, (column["under"], column["label"])))


def _ink(i: int) -> str:
    return _INK[_COLOURS[i % len(_COLOURS)]]


def _bars(part: Found) -> str:
    """A panel per column: a bar per row with its interval, a dashed line at the row it is told of."""
    columns, rows = part["columns"], [row for row in part["rows"] if row["key"] != part["dashed"]]
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    with _drawn(part["key"], down, across, 3.4 * across, (0.34 * len(rows) + 0.9) * down) as (axes, out):
        for i, ax in enumerate(axes.flat):
            if i >= len(columns):
                ax.set_visible(False)
                continue
            _bar_panel(ax, part, columns[i], rows, labels=i % across == 0)
    return out[0]


def _bar_panel(ax: Axes, part: Found, column: Found, rows: Sequence[Found], *, labels: bool) -> None:
    for y, row in enumerate(reversed(rows)):
        number = _number(row, column["key"])
        if number is None:
            ax.text(0.01, y, "–", va="center", color=_INK["soft"], fontsize=9, transform=ax.get_yaxis_transform())
            continue
        series = list(dict.fromkeys(r["series"] or r["group"] for r in rows))
        ax.barh(y, number.value, height=0.62, color=_ink(series.index(row["series"] or row["group"])), alpha=0.85)
        ax.plot([number.low, number.high], [y, y], color=_INK["ink"], linewidth=1.1, solid_capstyle="butt")
    dashed = next((_number(row, column["key"]) for row in part["rows"] if row["key"] == part["dashed"]), None)
    if dashed:
        ax.axvline(dashed.value, color=_INK["bad"], linewidth=1.2, linestyle=(0, (4, 3)))
    ax.set_title(_label(column))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_yticks(range(len(rows)), [row["label"] if labels else "" for row in reversed(rows)])
    ax.tick_params(length=0)
    ax.grid(axis="y", visible=False)


def _curves(part: Found) -> str:
    """A panel per column, a line per series with the band of its intervals."""
    columns = part["columns"]
    series = list(dict.fromkeys(row["series"] for row in part["rows"]))
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    with _drawn(part["key"], down, across, 3.6 * across, 2.7 * down) as (axes, out):
        for i, ax in enumerate(axes.flat):
            if i >= len(columns):
                ax.set_visible(False)
                continue
            for k, name in enumerate(series):
                _curve(ax, [row for row in part["rows"] if row["series"] == name], columns[i]["key"], name, k)
            ax.set_title(_label(columns[i]))
            ax.set_xlabel(part["over"])
            if not i and any(series):
                ax.legend(fontsize=8)
    return out[0]


def _curve(ax: Axes, rows: Sequence[Found], column: str, name: str, k: int) -> None:
    known = sorted((row["at"], number) for row in rows if row["at"] is not None and (number := _number(row, column)))
    if not known:
        return
    x = [at for at, _ in known]
    ax.fill_between(x, [n.low for _, n in known], [n.high for _, n in known], color=_ink(k), alpha=0.15, linewidth=0)
    ax.plot(x, [n.value for _, n in known], f"-{_MARKS[k % len(_MARKS)]}", color=_ink(k), markersize=4, label=name)


def _scatter(part: Found) -> str:
    """A panel per pair of benchmarks, a point per system."""
    labels = {c["key"]: _label(c) for c in part["columns"]}
    panels = part["correlations"]["panels"]
    across = len({p["x"] for p in panels})
    rows = {row["key"]: row for row in part["rows"]}
    down = -(-len(panels) // across)
    with _drawn(part["key"], down, across, 3.6 * across, 2.8 * down) as (axes, out):
        for ax, p in zip(axes.flat, panels, strict=True):
            for key in p["rows"]:
                x, y = _number(rows[key], p["x"]), _number(rows[key], p["y"])
                if x and y:
                    ax.plot([x.low, x.high], [y.value, y.value], color=_INK["dpo"], linewidth=0.8, alpha=0.5)
                    ax.plot([x.value, x.value], [y.low, y.high], color=_INK["dpo"], linewidth=0.8, alpha=0.5)
                    ax.plot([x.value], [y.value], "o", color=_INK["dpo"], markersize=4)
                    if len(p["rows"]) <= NAMED:
                        place = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 7}
                        ax.annotate(rows[key]["label"], (x.value, y.value), **place)
            if p["line"]:
                values = [x.value for key in p["rows"] if (x := _number(rows[key], p["x"]))]
                ends = [min(values), max(values)]
                ax.plot(ends, [p["line"][0] * x + p["line"][1] for x in ends], color=_INK["soft"], linewidth=1)
            if p["r2"] is not None:
                ax.set_title(f"R2 {p['r2']:.2f}, n={p['n']}")
            ax.set_xlabel(labels[p["x"]])
            ax.set_ylabel(labels[p["y"]])
    return out[0]
