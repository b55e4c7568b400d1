"""The figures of the page: matplotlib, as SVG text that stands in the HTML itself.

Same input, same bytes: element ids come from a fixed salt, no date is written. Colours are names of the page's own
colours (`var(--vlm)`), so that figures follow its light and dark dress; text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from align.report.table import Column, Table
from align.report.words import MODELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INKS = {
    "#010101": "var(--ink)",
    "#020202": "var(--soft)",
    "#030303": "var(--line)",
    "#040404": "var(--backbone)",
    "#050505": "var(--vlm)",
    "#060606": "var(--sft)",
    "#070707": "var(--steerlm)",
    "#080808": "var(--rejection)",
    "#090909": "var(--dpo)",
    "#0a0a0a": "var(--good)",
    "#0b0b0b": "var(--bad)",
    "#0c0c0c": "var(--other)",
}
"""What a figure is drawn with -> what stands in the page. matplotlib knows no CSS variables, hence the stand-ins."""
_INK = {value[6:-1]: key for key, value in INKS.items()}


def ink_of(model: str) -> str:
    """The colour of a model; one that is asked in another way (`steerlm_brief`) has that of its weights."""
    return _INK[model.partition("_")[0] if model in MODELS else "other"]


def _strength(model: str) -> float:
    return 0.5 if "_" in model and model in MODELS else 0.85


_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _INK["line"],
    "axes.labelcolor": _INK["soft"],
    "axes.titlecolor": _INK["ink"],
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _INK["line"],
    "grid.linewidth": 0.7,
    "xtick.color": _INK["soft"],
    "ytick.color": _INK["soft"],
    "text.color": _INK["ink"],
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@contextmanager
def _drawn(name: str, rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; on leaving, the second value holds the SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    out: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
        yield figure.subplots(rows, columns, squeeze=False), out
        out.append(_svg(figure))


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    for ink, variable in INKS.items():
        text = text.replace(ink, variable)
    text = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?)px [^;\"]*", r"font: \g<1>\g<2>px var(--font)", text)
    # The page sizes it; the view box keeps its shape.
    return re.sub(r'<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1).strip()


def suite_bars(table: Table) -> str:
    """One panel per suite: a bar per model with its 95% interval, and a line at the VLM."""
    columns = [c for c in table.columns if c.cells]
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    models = [m for m in table.models if any(m in c.cells for c in columns)][::-1]
    with _drawn("suites", down, across, 3.4 * across, (0.34 * len(models) + 0.75) * down) as (axes, out):
        for i, ax in enumerate(axes.flat):
            if i < len(columns):
                _bars(ax, columns[i], models, labels=i % across == 0)
            else:
                ax.set_visible(False)
    return out[0]


def _bars(ax: Axes, column: Column, models: Sequence[str], *, labels: bool) -> None:
    for y, model in enumerate(models):
        cell = column.cells.get(model)
        if cell is None or cell.value is None:
            ax.text(0.01, y, "–" if cell is None else "unreadable", va="center", color=_INK["soft"], fontsize=9)
            continue
        ax.barh(y, cell.value, height=0.62, color=ink_of(model), alpha=_strength(model))
        if cell.low is not None and cell.high is not None:
            ax.plot([cell.low, cell.high], [y, y], color=_INK["ink"], linewidth=1.1, solid_capstyle="butt")
    vlm = column.cells.get("vlm")
    if vlm is not None and vlm.value is not None:
        ax.axvline(vlm.value, color=_INK["vlm"], linewidth=1, linestyle=(0, (3, 3)))
    ax.set_title(f"{column.label}: {column.measure}" if column.measure != "headline" else column.label)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    ax.set_ylim(-0.6, len(models) - 0.4)
    ax.set_yticks(range(len(models)), [MODELS.get(m, m) for m in models] if labels else [""] * len(models))
    ax.tick_params(length=0)
    ax.grid(axis="y", visible=False)


def histogram(name: str, values: Sequence[float], *, label: str, mark: float | None = None, colour: str = "dpo") -> str:
    """How often each whole number occurs; a dashed line at `mark`."""
    low, high = int(min(values)), int(max(values))
    with _drawn(name, 1, 1, 3.6, 2.2) as (axes, out):
        ax = axes[0, 0]
        counts = [sum(round(v) == x for v in values) for x in range(low, high + 1)]
        ax.bar(range(low, high + 1), counts, width=0.84, color=_INK[colour], alpha=0.85)
        if mark is not None:
            ax.axvline(mark - 0.5, color=_INK["ink"], linewidth=1, linestyle=(0, (3, 3)))
        ax.set_xlabel(label)
        _whole(ax)
        ax.grid(axis="x", visible=False)
        ax.tick_params(length=0)
    return out[0]


def compared_histograms(name: str, groups: Mapping[str, Sequence[float]], colours: Sequence[str], *, label: str) -> str:
    """Shares of each whole number, one stepped line per group; the longest twentieth stands together at the end."""
    together = sorted(v for values in groups.values() for v in values)
    top = max(1, int(together[int(0.98 * (len(together) - 1))]))
    with _drawn(name, 1, 1, 3.6, 2.2) as (axes, out):
        ax = axes[0, 0]
        for (group, values), colour in zip(groups.items(), colours, strict=True):
            shares = [sum(min(round(v), top) == x for v in values) / len(values) for x in range(top + 1)]
            ax.stairs(shares, [x - 0.5 for x in range(top + 2)], color=_INK[colour], linewidth=1.8, label=group)
            ax.stairs(shares, [x - 0.5 for x in range(top + 2)], color=_INK[colour], alpha=0.14, fill=True)
        ax.set_xlabel(label)
        ax.yaxis.set_major_formatter(_percent)
        ax.legend(loc="upper right", fontsize=9)
        ax.grid(axis="x", visible=False)
        ax.tick_params(length=0)
    return out[0]


def _whole(ax: Axes) -> None:
    """Whole numbers only below the axis."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _percent(value: float, _: int) -> str:
    return f"{value:.0%}"


def lengths(table: Table) -> str:
    """Mean words per answer of each model, one panel per suite in which answers are written."""
    columns = [c for c in table.columns if "n_words" in c.beside]
    models = [m for m in table.models if any(m in c.beside["n_words"] for c in columns)]
    with _drawn("lengths", 1, 1, 9.6, 2.7) as (axes, out):
        ax = axes[0, 0]
        step = 0.82 / len(models)
        for k, model in enumerate(models):
            found = [
                (i, c.beside["n_words"][model].value) for i, c in enumerate(columns) if model in c.beside["n_words"]
            ]
            shown = [(i, v) for i, v in found if v is not None]
            places = [i - 0.41 + step * (k + 0.5) for i, _ in shown]
            label, alpha = MODELS.get(model, model), _strength(model)
            ax.bar(places, [v for _, v in shown], width=step * 0.9, color=ink_of(model), alpha=alpha, label=label)
        ax.set_xticks(range(len(columns)), [c.label for c in columns])
        ax.set_ylabel("words per answer")
        ax.grid(axis="x", visible=False)
        ax.tick_params(length=0)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return out[0]


def training_curve(stage: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Loss over steps; for preferences also how often the chosen completion is ahead, and by how much."""
    wanted = {"loss": "loss", "rewards/accuracies": "chosen ahead", "rewards/margins": "reward margin"}
    shown = [key for key in wanted if any(key in row for row in rows)]
    with _drawn(f"training-{stage}", 1, len(shown), 3.2 * len(shown), 2.1) as (axes, out):
        for ax, key in zip(axes[0], shown, strict=True):
            steps = [row["step"] for row in rows if key in row]
            values = [row[key] for row in rows if key in row]
            colour = _INK.get(stage, _INK["vlm"])
            ax.plot(steps, values, color=colour, alpha=0.35, linewidth=1)
            ax.plot(steps, _smoothed(values), color=colour)
            ax.set_title(wanted[key])
            ax.set_xlabel("step")
            _whole(ax)
            ax.grid(axis="x", visible=False)
            ax.tick_params(length=0)
    return out[0]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a tenth of the run, unbiased at its beginning."""
    keep = 1 - 1 / max(1.0, len(values) / 10)
    total = weight = 0.0
    out = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(total / weight)
    return out
