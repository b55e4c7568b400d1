"""The analyses for the reader: a table for the terminal, and a page with the figure (`align.analyses.scores`)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from align.report import diversity
from align.report.compare import suite_name, value_text
from align.report.figures import _INK, _drawn
from align.report.pieces import Cell, document, note, table, text
from align.report.words import MODELS, mark, p_text, short, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 120
Found = Mapping[str, Any]
_MARKS = "osD^vPX*"
NAMED = 8
"""Up to so many points of a scatter have their names beside them; the table has all."""


def render_text(found: Found) -> str:
    """What the terminal shows."""
    head, rows = _TABLES[found["schema"]](found)
    written = [head, *([_joined(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in written) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in written]
    said = [line for told in _said(found) for line in textwrap.wrap(told, WIDTH, subsequent_indent="  ")]
    first = [textwrap.fill(_first(found), WIDTH), ""] if _first(found) else []
    return "\n".join([*first, lines[0], "-" * max(map(len, lines)), *lines[1:], "", *said]).rstrip() + "\n"


def render_page(found: Found) -> str:
    """WHAT.html: self-contained."""
    head, rows = _TABLES[found["schema"]](found)
    figure = _FIGURES.get(found["schema"])
    drawn = f'<figure class="wide">{figure(found)}</figure>' if figure else ""
    title = _TITLES[found["schema"]]
    header = f"<header><p class='kicker'>analysis</p><h1>{text(title)}</h1></header>"
    first = note(_first(found)) if _first(found) else ""
    return document(title, "".join([header, first, drawn, table(head, rows), *map(note, _said(found))]))


def _first(found: Found) -> str:
    """What has to be known before the numbers."""
    return diversity.embedder_line(found) if found["schema"] == "diversity/1" else ""


def _joined(cell: Cell) -> str:
    return cell if isinstance(cell, str) else " ".join(filter(None, cell))


_TITLES = {
    "correlation/1": "Two benchmarks over systems",
    "scaling/1": "Score against data",
    "trajectory/1": "Score over checkpoints",
    "grid/1": "Models by suites",
    "capabilities/1": "What a suite is made of",
    "diversity/1": diversity.TITLE,
}


# -------------------------------------------------------------------------------------------------------------- tables


def _name(model: str) -> str:
    return MODELS.get(model, model)


def _value(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return "–"
    shown, _, bounds = value_text({"low": None, "n_failed": 0, **found}).partition(" ")
    return (shown, bounds) if bounds else shown


def _correlation(found: Found) -> tuple[list[str], list[list[Cell]]]:
    head = ["", suite_name(found["x"]), suite_name(found["y"])]
    return head, [[p["system"], _value(p["x"]), _value(p["y"])] for p in found["points"]]


def _curves(found: Found, key: str, head: str) -> tuple[list[str], list[list[Cell]]]:
    rows: list[list[Cell]] = []
    for one in found["series"]:
        if one.get("start"):
            rows.append([_name(one["model"]), suite_name(one["suite"]), "0", _value(one["start"]), one["start"]["run"]])
        for p in one["points"]:
            rows.append([_name(one["model"]), suite_name(one["suite"]), f"{p[key]:,g}", _value(p), p["run"]])
    return ["", "suite", head, "score", "run"], rows


def _grid(found: Found) -> tuple[list[str], list[list[Cell]]]:
    several = len({row["run"] for row in found["rows"]}) > 1
    head = ["", *(suite_name(s["suite"]) for s in found["suites"])]
    rows: list[list[Cell]] = []
    for row in found["rows"]:
        name = _name(row["model"]) + (f" ({row['run']})" if several else "")
        rows.append([name, *(_delta(row["cells"][s["suite"]]) for s in found["suites"])])
    return head, rows


def _delta(found: Mapping[str, Any] | None) -> Cell:
    """`.68 (+.16▲, −.20▼)`: the value, its differences to the VLM and to the backbone."""
    if found is None or found["value"] is None:
        return "–"
    told = [_short(found[key]) for key in ("minus_vlm", "minus_backbone") if found[key]]
    return (short(found["value"]), f"({', '.join(told)})") if told else short(found["value"])


def _short(difference: Mapping[str, Any]) -> str:
    mean = round(difference["mean"], 2) + 0.0
    return f"{'−' if mean < 0 else '+'}{short(abs(mean))}{mark(difference)}"


def _capabilities(found: Found) -> tuple[list[str], list[list[Cell]]]:
    who = list(dict.fromkeys((b["run"], b["model"]) for b in found["bars"]))
    several = len({run for run, _ in who}) > 1
    at = {(b["part"], b["run"], b["model"]): b for b in found["bars"]}
    head = ["", *(_name(model) + (f" ({run})" if several else "") for run, model in who)]
    return head, [[part, *(_value(at.get((part, *one))) for one in who)] for part in found["parts"]]


_TABLES: dict[str, Callable[[Found], tuple[list[str], list[list[Cell]]]]] = {
    "correlation/1": _correlation,
    "scaling/1": lambda found: _curves(found, "rows", "rows"),
    "trajectory/1": lambda found: _curves(found, "step", "step"),
    "grid/1": _grid,
    "capabilities/1": _capabilities,
    "diversity/1": diversity.rows,
}


def _said(found: Found) -> Iterator[str]:
    """What goes with the numbers, in sentences."""
    if found["schema"] == "correlation/1":
        yield _correlated(found)
        if found["n"] < 10:
            yield f"{found['n']} systems that somebody chose are no sample: the interval says how little they show"
        for one in found["left_out"]:
            yield f"left out: {one['system']} ({one['why']})"
    elif found["schema"] == "grid/1":
        yield (
            "(difference to the VLM, to the backbone of the same run); ▲ ▼: p < 0.05, paired, one by one; intervals, n "
            "and p stand in the JSON; a dash: no run has it"
        )
    elif found["schema"] == "diversity/1":
        yield from diversity.said(found)
    else:
        yield "[95% interval] over the questions of each run"


def _correlated(found: Found) -> str:
    if found["r"] is None:
        return f"no correlation: the scores of the {found['n']} systems do not differ"
    said = f"R2 {found['r2']:.2f}"
    said += f" [{found['r2_low']:.2f}, {found['r2_high']:.2f}]" if found["r2_low"] is not None else ""
    between = {"mean": found["r"], "low": found["low"], "high": found["high"]}
    return f"{said}, Pearson {signed(between)}, {p_text(found['p'])}, n={found['n']}"


# ------------------------------------------------------------------------------------------------------------- figures


def _ink(model: str) -> str:
    return _INK.get(model.partition("_")[0], _INK["ink"])


def _scatter(found: Found) -> str:
    with _drawn("correlation", 1, 1, 6.0, 4.2) as (axes, out):
        ax = axes[0, 0]
        for point in found["points"]:
            ink = _ink(point["system"].rpartition("/")[2])
            x, y = point["x"]["value"], point["y"]["value"]
            ax.plot(_reach(point["x"]), [y, y], color=ink, linewidth=0.9, alpha=0.6)
            ax.plot([x, x], _reach(point["y"]), color=ink, linewidth=0.9, alpha=0.6)
            ax.plot([x], [y], "o", color=ink)
            if len(found["points"]) <= NAMED:
                ax.annotate(point["system"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
        if found["line"]:
            slope, height = found["line"]
            ends = [min(p["x"]["value"] for p in found["points"]), max(p["x"]["value"] for p in found["points"])]
            ax.plot(ends, [slope * x + height for x in ends], color=_INK["soft"], linewidth=1, linestyle=(0, (4, 3)))
        ax.set_xlabel(suite_name(found["x"]))
        ax.set_ylabel(suite_name(found["y"]))
        if found["r"] is not None:
            ax.set_title(f"R2 {found['r2']:.2f}, Pearson {found['r']:.2f}, n={found['n']}")
    return out[0]


def _reach(found: Mapping[str, Any]) -> list[float]:
    low, high = found.get("low"), found.get("high")
    return [found["value"] if low is None else low, found["value"] if high is None else high]


def _lines(found: Found, key: str, label: str) -> str:
    suites = list(dict.fromkeys(one["suite"] for one in found["series"]))
    across = min(3, len(suites))
    down = -(-len(suites) // across)
    with _drawn(found["schema"].replace("/", "-"), down, across, 3.6 * across, 2.6 * down) as (axes, out):
        for i, ax in enumerate(axes.flat):
            if i >= len(suites):
                ax.set_visible(False)
                continue
            mine = [one for one in found["series"] if one["suite"] == suites[i]]
            for k, one in enumerate(mine):
                _curve(ax, one, key, _MARKS[k % len(_MARKS)])
            ax.set_title(suite_name(suites[i]))
            ax.set_xlabel(label)
            if not i:
                ax.legend(fontsize=8)
    return out[0]


def _curve(ax: Axes, one: Mapping[str, Any], key: str, shape: str) -> None:
    points = [{key: 0, **one["start"]}, *one["points"]] if one.get("start") else one["points"]
    known = [p for p in points if p["value"] is not None]
    ink = _ink(one["model"])
    for p in known:
        ax.plot([p[key], p[key]], _reach(p), color=ink, linewidth=1, alpha=0.7)
    ax.plot([p[key] for p in known], [p["value"] for p in known], f"-{shape}", color=ink, label=_name(one["model"]))


def _bars(found: Found) -> str:
    who = list(dict.fromkeys((b["run"], b["model"]) for b in found["bars"]))
    step = 0.8 / len(who)
    with _drawn("capabilities", 1, 1, 9.6, 0.9 + 0.16 * len(who) * len(found["parts"])) as (axes, out):
        ax = axes[0, 0]
        for bar in found["bars"]:
            if bar["value"] is not None:
                k = who.index((bar["run"], bar["model"]))
                y = len(found["parts"]) - 1 - found["parts"].index(bar["part"]) + 0.4 - step * (k + 0.5)
                first = bar["part"] == found["parts"][0]
                label = _name(bar["model"]) if first else None
                ax.barh(y, bar["value"], height=step * 0.9, color=_ink(bar["model"]), label=label)
                ax.plot(_reach(bar), [y, y], color=_INK["ink"], linewidth=1)
        ax.set_yticks(range(len(found["parts"])), list(reversed(found["parts"])))
        ax.tick_params(length=0)
        ax.grid(axis="y", visible=False)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return out[0]


def _differences(found: Found) -> str:
    """The grid as bars would repeat the report; its differences to the VLM are what is drawn."""
    rows = [row for row in found["rows"] if any(c and c["minus_vlm"] for c in row["cells"].values())]
    suites, named = [s["suite"] for s in found["suites"]], set[str]()
    with _drawn("grid", 1, 1, 9.6, 0.9 + 0.16 * max(1, len(rows)) * len(suites)) as (axes, out):
        ax = axes[0, 0]
        step = 0.8 / max(1, len(rows))
        scales = {s["suite"]: s["scale"] for s in found["suites"]}
        for k, row in enumerate(rows):
            for i, suite in enumerate(suites):
                difference = (row["cells"][suite] or {}).get("minus_vlm")
                if difference:
                    y = len(suites) - 1 - i + 0.4 - step * (k + 0.5)
                    name = _name(row["model"]) if row["model"] not in named else None
                    named.add(row["model"])
                    if (low := difference["low"]) is not None:
                        ends = [low / scales[suite], difference["high"] / scales[suite]]
                        ax.plot(ends, [y, y], color=_ink(row["model"]), linewidth=1.4)
                    ax.plot(
                        [difference["mean"] / scales[suite]],
                        [y],
                        "o",
                        markersize=4,
                        color=_ink(row["model"]),
                        label=name,
                    )
        ax.axvline(0, color=_INK["soft"], linewidth=1)
        ax.set_yticks(range(len(suites)), [suite_name(s) for s in reversed(suites)])
        ax.set_xlabel("difference to the VLM, as a share of the suite's scale")
        if named:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        ax.tick_params(length=0)
        ax.grid(axis="y", visible=False)
    return out[0]


_FIGURES: dict[str, Callable[[Found], str]] = {
    "correlation/1": _scatter,
    "scaling/1": lambda found: _lines(found, "rows", "rows trained on"),
    "trajectory/1": lambda found: _lines(found, "step", "step"),
    "grid/1": _differences,
    "capabilities/1": _bars,
    "diversity/1": diversity.histograms,
}
