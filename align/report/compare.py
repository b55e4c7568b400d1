"""Two runs for the reader: a table for the terminal and one page, both made of `align.analyses.compare` alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align.report.figures import _INK, _drawn
from align.report.pieces import document, missing, note, panel, table, text
from align.report.words import MODELS, SUITES, p_text, points, short, signed

WIDTH = 120
Found = Mapping[str, Any]


def render_text(found: Found) -> str:
    """What the terminal shows."""
    out = [f"{mark}  {run['name']}  ({run['folder']})" for mark, run in _runs(found)]
    for models, rows in _blocks(found):
        head = [_pair(models), "A", "B", "B − A", "p", "MDE", "n", "verdict"]
        lines = _aligned([head, *(_line(row) for row in rows)])
        out += ["", lines[0], "-" * max(map(len, lines)), *lines[1:]]
    for line in [_legend(found), *_left_out(found), *(f"! {warning}" for warning in found["warnings"])]:
        out += ["", *textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
    return "\n".join(out) + "\n"


def _runs(found: Found) -> list[tuple[str, Mapping[str, Any]]]:
    return [("A", found["first"]), ("B", found["second"])]


def _blocks(found: Found) -> list[tuple[tuple[str, str], list[Mapping[str, Any]]]]:
    """The rows of each pair of models."""
    blocks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found["rows"]:
        blocks.setdefault((row["models"][0], row["models"][1]), []).append(row)
    return list(blocks.items())


def _pair(models: tuple[str, str]) -> str:
    a, b = (MODELS.get(m, m) for m in models)
    return a if a == b else f"A: {a}, B: {b}"


def suite_name(suite: str) -> str:
    base, _, judge = suite.partition(":")
    return SUITES.get(base, base.replace("_", " ")) + (", judge" if judge else "")


def _line(row: Mapping[str, Any]) -> list[str]:
    name = suite_name(row["suite"])
    if row["measure"] not in ("headline", "rubric"):
        name += f": {row['measure']}"
    d = row["difference"]
    verdict = row["verdict"] or ("" if d else "not compared")
    if row["same_weights"] and d and not d["mean"] and d["p"] == 1:
        verdict = "same weights"
    values = [value_text(row[side]) for side in ("first", "second")]
    return [name, *values, signed(d), _p(row), _mde(d), f"{row['first']['n']:,}", verdict]


def value_text(figure: Mapping[str, Any]) -> str:
    """`.81 [.76,.86]`"""
    if figure["value"] is None:
        return "–"
    bounds = "" if figure["low"] is None else f" [{short(figure['low'])},{short(figure['high'])}]"
    return f"{short(figure['value'])}{bounds}{'*' if figure['n_failed'] else ''}"


def _p(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return "–"
    return p_text(row["difference"]["p"]) + " (bare)" if row["p_holm"] is None else p_text(row["p_holm"])


def _mde(difference: Mapping[str, Any] | None) -> str:
    return "–" if difference is None or difference["mde"] is None else f"{difference['mde']:.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _legend(found: Found) -> str:
    said = (
        "[95% interval] over the questions that both answered; p of a paired test, Holm-adjusted over the suites of a "
        "model; MDE: the smallest true difference that so many questions would show in 8 of 10 tries; equal: surely "
        f"within {points(found['margin'])} points of the scale; not shown: too few questions to say"
    )
    failed = any(row[side]["n_failed"] for row in found["rows"] for side in ("first", "second"))
    return said + ("; * some answers have no score" if failed else "")


def _left_out(found: Found) -> Iterator[str]:
    """What is in no number, counted."""
    for key, names in found["not_compared"].items():
        if names:
            what, _, side = key.partition("_only_")
            yield f"only in {'A' if side == 'first' else 'B'}: {what} {', '.join(names)}"
    counted = []
    for row in found["rows"]:
        left = {
            "of A alone": row["only_first"],
            "of B alone": row["only_second"],
            "shown differently": row["other_input"],
        }
        left |= {"scored in A alone": row["scored_only_first"], "scored in B alone": row["scored_only_second"]}
        told = ", ".join(f"{n} {name}" for name, n in left.items() if n)
        if told and row["headline"]:
            counted.append(f"{row['suite']} ({row['models'][1]}): {told}")
    if counted:
        yield f"questions in no number: {'; '.join(counted)}"
    reasons = {f"{row['suite']} ({row['models'][1]}): {row['why']}" for row in found["rows"] if row["why"]}
    for reason in sorted(reasons):
        yield f"not compared: {reason}"


# ---------------------------------------------------------------------------------------------------------------- page


def render_page(found: Found) -> str:
    """compare.html: self-contained."""
    a, b = (run["name"] for _, run in _runs(found))
    parts = [f"<header><p class='kicker'>two runs</p><h1>{text(b)} against {text(a)}</h1></header>"]
    for models, rows in _blocks(found):
        head = ["", f"A: {a}", f"B: {b}", "B − A", "p", "MDE", "n", "verdict"]
        body = [_cells(_line(row)) for row in rows]
        shown = [row for row in rows if row["headline"] and row["difference"]]
        figure = (
            panel("B − A with 95% intervals, as shares of each suite's scale", _forest(models, shown))
            if shown
            else missing("nothing")
        )
        parts.append(f"<section><h2>{text(_pair(models))}</h2>{table(head, body)}{figure}</section>")
    parts.append(note(_legend(found)))
    parts += [note(line) for line in _left_out(found)]
    if found["warnings"]:
        listed = "".join(f"<li>{text(warning)}</li>" for warning in found["warnings"])
        parts.append(f'<ul class="warnings">{listed}</ul>')
    return document(f"{b} against {a}", "".join(parts))


def _cells(line: Sequence[str]) -> list[Any]:
    """A value in its cell, its interval small beside it."""
    split = [cell.partition(" [") for cell in line]
    return [value if not bounds else (value, f"[{bounds}") for value, _, bounds in split]


def _forest(models: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    with _drawn(f"forest-{models[0]}-{models[1]}", 1, 1, 7.2, 0.34 * len(rows) + 0.9) as (axes, out):
        ax = axes[0, 0]
        for y, row in enumerate(reversed(rows)):
            d, scale = row["difference"], row["scale"]
            ink = _INK[{"better": "good", "worse": "bad"}.get(row["verdict"], "vlm")]
            if d["low"] is not None and d["high"] is not None:
                ax.plot([d["low"] / scale, d["high"] / scale], [y, y], color=ink, linewidth=2)
            ax.plot([d["mean"] / scale], [y], "o", color=ink, markersize=5)
        ax.axvline(0, color=_INK["soft"], linewidth=1)
        ax.set_yticks(range(len(rows)), [suite_name(row["suite"]) for row in reversed(rows)])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.tick_params(length=0)
        ax.grid(axis="y", visible=False)
    return out[0]
