"""What pages are put together from: panels, notes, tables, a heat map, a document. Every text is escaped here.

panel("Ties", note("of 4,870 pairs"))   ->  '<figure><figcaption>Ties</figcaption><p class="note">…</p></figure>'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from align.calibration.figure import is_bounded, is_known
from align.calibration.words import number

STYLE = Path(__file__).parent / "templates" / "style.css"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
Cell = str | tuple[str, str]
"""What stands in a cell, and what stands small beside it."""


def text(value: Any) -> str:
    return escape(str(value), quote=True)


def panel(title: str, *inside: str, wide: bool = False) -> str:
    size = ' class="across"' if wide else ""
    return f"<figure{size}><figcaption>{text(title)}</figcaption>{''.join(inside)}</figure>\n"


def note(words: str) -> str:
    return f'<p class="note">{text(words)}</p>'


def missing(why: str) -> str:
    """What stands where a figure cannot be known."""
    return f'<p class="none">– {text(why)}</p>'


def counts(rows: Mapping[str, int], *, small: bool = False) -> str:
    """Counts as bars, each as long as its share of the greatest."""
    most = max([1, *rows.values()])
    made = "".join(
        f'<li><span style="width:{100 * count / most:.1f}%"></span><b>{count:,}</b> {text(name)}</li>'
        for name, count in rows.items()
    )
    return f'<ol class="funnel{" small" if small else ""}">{made}</ol>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    made = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{made}</dl>'


def cell(figure: Mapping[str, Any], form: str) -> Cell:
    """The value, and its interval or the reason why there is none."""
    if not is_known(figure):
        return "–", str(figure.get("why", ""))
    value, _, bounds = number(figure, form).partition(" ")
    return value, bounds if is_bounded({"low": None, "high": None, **figure}) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    columns = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(_cell(row, place) for place, row in enumerate(line))}</tr>" for line in rows)
    made = f'<table class="plain"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{made}</div>'


def _cell(found: Cell, place: int) -> str:
    if isinstance(found, tuple):
        small = f" <small>{text(found[1])}</small>" if found[1] else ""
        return f"<td>{text(found[0])}{small}</td>"
    return f'<th scope="row">{text(found)}</th>' if not place else f"<td>{text(found)}</td>"


def heat_map(names: Sequence[str], figures: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """A square table of coefficients from -1 to 1 with intervals and n; the deeper the colour, the further from 0."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    lines = []
    for a in names:
        cells = "".join(_heat(None if a == b else figures.get((a, b)) or figures.get((b, a))) for b in names)
        lines.append(f'<tr><th scope="row">{text(a)}</th>{cells}</tr>')
    made = f'<table class="plain"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll">{made}</div>'


def _heat(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return '<td class="none">1</td>'
    if not is_known(figure):
        return f'<td class="none" title="{text(figure.get("why", ""))}">–</td>'
    value, _, bounds = number(figure, "+.2f").partition(" ")
    ink = "--good" if figure["value"] >= 0 else "--bad"
    depth = round(min(1.0, abs(figure["value"])) * 45)
    style = f"background:color-mix(in srgb, var({ink}) {depth}%, transparent)"
    small = f'<small style="color:inherit">{text(bounds)}</small>'
    return f'<td style="{style}" title="n={figure["n"]:,} prompts"><b>{value}</b><br>{small}</td>'


def document(title: str, body: str) -> str:
    """A page that asks nobody for anything: scripts and outside requests are forbidden to it."""
    style = STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{text(title)} · mmalign</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
