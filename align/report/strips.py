"""Two small drawings as inline SVG, in the page's own colours; standard library only.

strips([Strip("place 1", {"value": 0.2, "low": 0.1, "high": 0.3, "n": 80}, "+.2f")], low=-1, high=1, mark=0, label=…)
bars([("0", 12), ("1", 30)], "how often each score was given")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from align.calibration.figure import is_bounded, is_known
from align.calibration.words import number

ROW, LABEL, PLOT, VALUE = 24, 112, 190, 218
INK, SOFT, LINE, DOT = "var(--ink, #1c1e22)", "var(--soft, #626873)", "var(--line, #d5d2ca)", "var(--dpo, #2c5fd4)"


@dataclass(frozen=True)
class Strip:
    """One figure of the card on a line; `form` is how its value is written."""

    label: str
    figure: Mapping[str, Any]
    form: str


def strips(rows: Sequence[Strip], *, low: float, high: float, mark: float, label: str) -> str:
    """A dot with its interval for each row, between `low` and `high`, with a line at `mark`."""
    height = ROW * len(rows) + 6
    x = _place(mark, low, high)
    inside = [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="{SOFT}" stroke-dasharray="3 3"/>']
    for i, row in enumerate(rows):
        inside.append(_strip(row, ROW * i + ROW / 2 + 3, low, high))
    return _svg(LABEL + PLOT + VALUE, height, label, inside)


def _strip(row: Strip, y: float, low: float, high: float) -> str:
    made = _words(row.label, 0, y, INK)
    if not is_known(row.figure):
        return made + _words(f"– {row.figure.get('why', '')}", LABEL, y, SOFT)
    if is_bounded(row.figure):
        left, right = (_place(row.figure[end], low, high) for end in ("low", "high"))
        made += f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{DOT}" stroke-width="3"/>'
    made += f'<circle cx="{_place(row.figure["value"], low, high):.1f}" cy="{y:.1f}" r="4.5" fill="{DOT}"/>'
    said = f"{number(row.figure, row.form)}, n={row.figure['n']}"
    return made + _words(said, LABEL + PLOT + 12, y, INK)


def bars(counts: Sequence[tuple[str, int]], label: str) -> str:
    """A bar per level with its count above it and its name below."""
    width, height = 34 * max(1, len(counts)), 84
    most = max([1, *(count for _, count in counts)])
    total = max(1, sum(count for _, count in counts))
    inside = []
    for i, (name, count) in enumerate(counts):
        tall = 50 * count / most
        inside.append(
            f'<rect x="{34 * i + 4}" y="{66 - tall:.1f}" width="26" height="{tall:.1f}" fill="{DOT}" opacity="0.8">'
            f"<title>{escape(name)}: {count:,}</title></rect>"
            + _words(name, 34 * i + 17, 76, SOFT, anchor="middle", size=10)
            + _words(f"{count / total:.0%}", 34 * i + 17, 60 - tall, SOFT, anchor="middle", size=9)
        )
    inside.append(f'<line x1="0" x2="{width}" y1="66" y2="66" stroke="{LINE}"/>')
    return _svg(width, height, label, inside)


def _svg(width: float, height: float, label: str, inside: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(label)}">'
        f"{''.join(inside)}</svg>"
    )


def _words(text: str, x: float, y: float, ink: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" text-anchor="{anchor}" font-size="{size}" fill="{ink}">'
        f"{escape(text)}</text>"
    )


def _place(value: float, low: float, high: float) -> float:
    """Where a value stands in the plot; beyond its ends, at its end."""
    share = (value - low) / (high - low)
    return LABEL + PLOT * min(1.0, max(0.0, share))
