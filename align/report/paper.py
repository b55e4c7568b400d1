"""A paper's tables for the reader (`align.analyses.paper`): for the terminal, and as a page with its figures.

A cell is printed only through `printed.number_of`: JSON that lacks a run, n or bounds makes no page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align.analyses.printed import Delta, Number, delta_of, number_of
from align.report import diversity
from align.report.paper_figures import draw
from align.report.pieces import document, missing, note, table, text
from align.report.words import mark, p_text

WIDTH = 120
DASH = "–"
Found = Mapping[str, Any]
LEGEND = (
    "(difference to the row it is compared with); ▲ ▼: p < 0.05, one by one; ° not paired; a dash: no run behind it. "
    "95% intervals, n and the identity of each run stand in the JSON, and on the page behind each number"
)

COUNTED = "tokens and FLOPs are all that `instruct` read, as it was measured: every epoch, padding not counted"


def shown(number: Number, column: Found) -> str:
    """`65.4`, or of a count `10,110,681`."""
    if column["count"] and number.value >= 1000:
        return f"{number.value:,.0f}"
    return f"{round(number.value, column['digits']) + 0.0:.{column['digits']}f}".replace("-", "−")


def delta_text(delta: Delta, column: Found, *, percent: bool = False) -> str:
    """`+19.6▲`, `−16.1%`."""
    digits = 2 if column["count"] else 1 if percent else column["digits"]
    sign = "%" if percent or column["count"] else ""
    value = f"{round(delta.mean, digits) + 0.0:+.{digits}f}{sign}".replace("-", "−")
    found = {"mean": delta.mean, "p": 1.0 if delta.p is None else delta.p}
    return f"{value}{mark(found)}{'' if delta.paired else '°'}"


def cell_text(cell: Found, column: Found) -> str:
    if cell["number"] is None:
        return DASH
    return " ".join([shown(number_of(cell["number"]), column), *_beside(cell, column)])


def _beside(cell: Found, column: Found) -> list[str]:
    told = []
    if cell["delta"]:
        told.append(f"({delta_text(delta_of(cell['delta']), column)})")
    if cell["drop"]:
        told.append(f"({delta_text(delta_of(cell['drop']), column, percent=True)})")
    return told


def run_of(row: Found) -> str:
    """The run behind a row, and its model."""
    numbers = [number_of(c["number"]) for c in row["cells"].values() if c["number"]]
    return f"{numbers[0].run} {numbers[0].model}" if numbers else ""


# ------------------------------------------------------------------------------------------------------------ terminal


def render_text(found: Found) -> str:
    """What the terminal shows: every table, and the table of every figure."""
    blocks = [_part_text(part, found) for part in found["parts"]]
    legend = textwrap.wrap(LEGEND, WIDTH)
    warnings = [line for w in found["warnings"] for line in textwrap.wrap(f"! {w}", WIDTH, subsequent_indent="  ")]
    return "\n\n".join([*blocks, "\n".join([*legend, *warnings])]) + "\n"


def _part_text(part: Found, found: Found) -> str:
    out = [part["title"]]
    if part["draw"] == "histogram":
        out += [*_diversity(part)]
    else:
        body = [
            [row["label"], *(cell_text(row["cells"][c["key"]], c) for c in part["columns"]), run_of(row)]
            for row in part["rows"]
        ]
        heads = [[*line, last] for line, last in zip(_heads(part), ("", "run"), strict=True)]
        out += _grid(heads, body, [row["group"] for row in part["rows"]])
    for said in _said(part):
        out += textwrap.wrap(said, WIDTH, subsequent_indent="  ")
    if part["reference"]:
        out += ["", f"    {_reference_head(found)}"]
        rows = part["reference"]["rows"]
        body = [[row["label"], *_reference_cells(row, part)] for row in rows]
        out += [f"    {line}" for line in _grid(_heads(part), body, [row["group"] for row in rows])]
    return "\n".join(out)


def _heads(part: Found) -> list[list[str]]:
    """Two lines: what columns side by side share, and their own names."""
    over = [c["under"] for c in part["columns"]]
    first = ["" if i and name == over[i - 1] else name for i, name in enumerate(over)]
    return [["", *first], ["", *(c["label"] for c in part["columns"])]]


def _reference_head(found: Found) -> str:
    return f"the paper's own numbers, for reference: {found['paper']}"


def _reference_cells(row: Found, part: Found) -> list[str]:
    cells = []
    for column, value, delta in zip(part["columns"], row["values"], row["deltas"], strict=True):
        if value is None:
            cells.append(DASH)
            continue
        shown_value = f"{value:,.0f}" if column["count"] else f"{value:.{column['digits']}f}"
        percent = column["count"] or column["drop_from"]
        digits = 2 if column["count"] else 1
        beside = "" if delta is None else f" ({delta:+.{digits}f}{'%' if percent else ''})".replace("-", "−")
        cells.append(shown_value + beside)
    return cells


def _grid(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], groups: Sequence[str]) -> list[str]:
    """Aligned lines; a group's name stands before its first row."""
    every = [*heads, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(heads[-1]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in every]
    out = [*filter(None, lines[: len(heads)]), "-" * max(map(len, lines))]
    for i, line in enumerate(lines[len(heads) :]):
        if groups[i] and (not i or groups[i] != groups[i - 1]):
            out.append(f"[{groups[i]}]")
        out.append(line)
    return out


def _said(part: Found) -> Iterator[str]:
    """What goes with the numbers, in sentences."""
    labels = {c["key"]: " ".join(filter(None, (c["under"], c["label"]))) for c in part["columns"]}
    for one in part.get("best", ()):
        number = number_of(one["number"])
        column = next(c for c in part["columns"] if c["key"] == one["column"])
        yield (
            f"best of {one['of']} points of {one['series'] or 'the curve'} on {labels[one['column']]}: {one['at']:,g} "
            f"({shown(number, column)}); chosen on the questions it is shown for, hence flattering"
        )
    if "correlations" in part:
        found = part["correlations"]
        if found["mean_r2"] is None:
            yield "no correlation: fewer than three systems have both scores"
        else:
            yield f"R2 on average over {found['n_panels']} pairs of benchmarks: {found['mean_r2']:.3f}"
        for p in found["panels"]:
            if p["r2"] is not None:
                bounds = "" if p["r2_low"] is None else f" [{p['r2_low']:.2f}, {p['r2_high']:.2f}]"
                said = f"R2 {p['r2']:.3f}{bounds}, {p_text(p['p'])}, n={p['n']}"
                yield f"{labels[p['y']]} against {labels[p['x']]}: {said}"
    if part.get("diversity"):
        yield diversity.embedder_line(part["diversity"])
        yield from diversity.said(part["diversity"])
        yield f"file {part['file']} ({part['sha256'][:12]})"
    if any(c["count"] in ("tokens", "flops") for c in part["columns"]):
        yield COUNTED
    yield from part["notes"]
    yield from part["contradictions"]
    yield from _dashes(part)


def _dashes(part: Found) -> Iterator[str]:
    """Why there are dashes: runs that are not there are counted, other reasons are said, each once."""
    whole = [row["cells"][c["key"]] for row in part["rows"] for c in part["columns"] if not c["mean_of"]]
    means = [row["cells"][c["key"]] for row in part["rows"] for c in part["columns"] if c["mean_of"]]
    none = sum(cell["why"].startswith("no ") for cell in [*whole, *means])
    if none:
        yield f"{none} of {len(whole) + len(means)} cells have no run behind them"
    whys = {cell["why"] for cell in whole if not cell["why"].startswith("no ")}
    unasked: dict[str, list[str]] = {}
    for why in dict.fromkeys(cell["why"] for cell in whole if cell["why"] in whys):
        who, asked, suite = why.partition(" was not asked ")
        unasked.setdefault(who if asked else why, []).extend([suite] if asked else [])
    for who, suites in unasked.items():
        if who:
            yield f"{who} was not asked {', '.join(suites)}" if suites else who
    for why in dict.fromkeys(cell["why_no_delta"] for cell in whole):
        if why and why not in whys and " was not asked " not in why:
            yield f"no difference: {why}"


def _diversity(part: Found) -> list[str]:
    if part["diversity"] is None:
        return [f"{DASH} {part['why']}"]
    head, rows = diversity.rows(part["diversity"])
    body = [[cell if isinstance(cell, str) else " ".join(filter(None, cell)) for cell in row] for row in rows]
    return _grid([head], body, [""] * len(body))


# ---------------------------------------------------------------------------------------------------------------- page


def render_page(found: Found) -> str:
    """paper.html: self-contained."""
    title = found["paper"] or "Tables and figures"
    parts = [f"<header><p class='kicker'>tables and figures of recorded runs</p><h1>{text(title)}</h1></header>"]
    parts.append(note(LEGEND))
    for part in found["parts"]:
        inside = [f"<h2>{text(part['title'])}</h2>"]
        figure = draw(part)
        if figure:
            inside.append(f'<figure class="wide">{figure}</figure>')
        elif part["draw"]:
            inside.append(missing(part.get("why") or "nothing to draw yet: no run behind it"))
        if part["rows"]:
            inside.append(_table(part))
        elif part.get("diversity"):
            inside.append(table(*diversity.rows(part["diversity"])))
        inside += map(note, _said(part))
        if part["reference"]:
            inside.append(_reference_table(part, found))
        parts.append(f"<section id='{text(part['key'])}'>{''.join(inside)}</section>")
    if found["warnings"]:
        listed = "".join(f"<li>{text(warning)}</li>" for warning in found["warnings"])
        parts.append(f'<ul class="warnings">{listed}</ul>')
    return document(title, "".join(parts))


def _table(part: Found) -> str:
    body = []
    for i, row in enumerate(part["rows"]):
        body.append(_group_line(row, part["rows"][i - 1] if i else None, len(part["columns"]) + 2))
        cells = "".join(_cell(row["cells"][c["key"]], c) for c in part["columns"])
        run = run_of(row)
        body.append(
            f'<tr><th scope="row">{text(row["label"])}</th>{cells}<td><small>{text(run or DASH)}</small></td></tr>'
        )
    return _framed(_head(part["columns"], "run"), "".join(body))


def _framed(head: str, body: str) -> str:
    return f'<div class="scroll"><table class="plain"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _group_line(row: Found, before: Found | None, width: int) -> str:
    if not row["group"] or (before and before["group"] == row["group"]):
        return ""
    return f'<tr><th scope="rowgroup" colspan="{width}"><small>{text(row["group"])}</small></th></tr>'


def _head(columns: Sequence[Found], *more: str) -> str:
    """Two lines where columns share a heading."""
    names = "".join(f'<th scope="col">{text(c["label"])}</th>' for c in columns)
    last = "".join(f'<th scope="col">{text(name)}</th>' for name in more)
    lines = f'<tr><th scope="col"></th>{names}{last}</tr>'
    if not any(c["under"] for c in columns):
        return lines
    spans: list[list[Any]] = []
    for c in columns:
        if spans and spans[-1][0] == c["under"]:
            spans[-1][1] += 1
        else:
            spans.append([c["under"], 1])
    top = "".join(f'<th scope="colgroup" colspan="{n}">{text(name)}</th>' for name, n in spans)
    return f"<tr><th></th>{top}{'<th></th>' * len(more)}</tr>{lines}"


def _cell(cell: Found, column: Found) -> str:
    if cell["number"] is None:
        return f'<td class="none" title="{text(cell["why"])}">{DASH}</td>'
    number = number_of(cell["number"])
    beside = " ".join(_beside(cell, column))
    small = f"n={number.n:,}" if number.exact else f"{_bounds(number, column)} n={number.n:,}"
    shown_beside = f" <small>{text(beside)}</small>" if beside else ""
    return (
        f'<td title="{text(_title(number, cell, column))}"><b>{text(shown(number, column))}</b>{shown_beside}<br>'
        f"<small>{text(small)}</small></td>"
    )


def _bounds(number: Number | Delta, column: Found) -> str:
    low, high = (f"{value:.{column['digits']}f}".replace("-", "−") for value in (number.low, number.high))
    return f"[{low}, {high}]"


def _title(number: Number, cell: Found, column: Found) -> str:
    """All that is known of a number, behind it."""
    told = [f"run {number.run} ({number.sha256[:12]}), model {number.model}"]
    told.append("counted" if number.exact else f"95% interval {_bounds(number, column)}")
    told.append(f"n={number.n:,}, without a score {number.n_failed:,}")
    for name in ("delta", "drop"):
        if cell[name]:
            delta = delta_of(cell[name])
            p = "" if delta.p is None else f", {p_text(delta.p)}"
            paired = "paired" if delta.paired else "not paired"
            told.append(f"to {delta.to}: {_bounds(delta, column)}{p}, n={delta.n:,}, {paired}")
    return "; ".join(told)


def _reference_table(part: Found, found: Found) -> str:
    rows = part["reference"]["rows"]
    body = []
    for i, row in enumerate(rows):
        body.append(_group_line(row, rows[i - 1] if i else None, len(part["columns"]) + 1))
        cells = "".join(f"<td>{text(cell)}</td>" for cell in _reference_cells(row, part))
        body.append(f'<tr><th scope="row">{text(row["label"])}</th>{cells}</tr>')
    return f"<h4>{text(_reference_head(found))}</h4>{_framed(_head(part['columns']), ''.join(body))}"
