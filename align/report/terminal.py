"""table.txt: the verdict table for a terminal, at most 120 columns wide; the account of a run without evaluation."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from align.report.contamination import overlap_lines
from align.report.table import Cell, Column, Table
from align.report.words import (
    BETTER,
    MODELS,
    SUITES,
    WORSE,
    mde_text,
    p_text,
    points,
    sentence,
    short,
    signed,
    taxes,
    verdict_text,
)

WIDTH = 120
BESIDE = {
    "accuracy": "acc.",
    "cider_d": "CIDEr",
    "relative_change": "vs clean",
    "f1": "F1",
    "yes_ratio": "yes",
    "rubric": "judge",
    "n_words": "words",
    "perception": "perception",
    "cognition": "cognition",
}
"""What stands beside the headline, where a suite has it."""
_WIDE = ("n_words", "rubric", "perception", "cognition")
"""These are no shares."""


def render_text(
    title: str, base: str, verdicts: Mapping[str, Any], table: Table, overlap: Mapping[str, Any] | None = None
) -> str:
    """table.txt."""
    out = [title, *([f"model: {base}"] if base else []), "", *_wrap(sentence(verdicts)), ""]
    out += _headline_rows(table)
    out += ["", *_beside_rows(table)]
    out += ["", *_legend(table, verdicts["margin"]), ""]
    out += _verdict_lines(verdicts)
    if overlap:
        out += ["", *(line for told in overlap_lines(overlap) for line in _wrap(told, "    "))]
    if verdicts["warnings"]:
        out += ["", *(line for w in verdicts["warnings"] for line in _wrap(f"! {w}", "  "))]
    broken = [c for c in verdicts["controls"] if c["ok"] is False]
    out += [""] if broken else []
    for c in broken:
        label = SUITES.get(c["suite"], c["suite"])
        out += _wrap(f"! control not met: {label}: {c['name']} is {c['value']:.2f}, should be {c['bound']}", "  ")
    return "\n".join(out).rstrip() + "\n"


def render_account(title: str, base: str, funnel: Mapping[str, int], failures: Mapping[str, int]) -> str:
    """table.txt of a run that evaluates nothing: how many prompts went how far."""
    out = [title, *([f"model: {base}"] if base else []), "", "no `evaluate` block: nothing to compare"]
    out += ["", *(f"{count:8,d}  {step}" for step, count in funnel.items())] if funnel else []
    out += ["", *(f"{count:8,d}  lost at {what}" for what, count in failures.items())] if failures else []
    return "\n".join(out) + "\n"


def _headline_rows(table: Table) -> list[str]:
    return _blocks(table.suites, lambda columns: _block(table.models, columns))


def _blocks(columns: Sequence[Column], made: Callable[[Sequence[Column]], list[str]]) -> list[str]:
    """As many columns side by side as fit the width, the rest below."""
    out: list[str] = []
    while columns:
        sizes = range(len(columns), 1, -1)
        fitting = next((n for n in sizes if max(map(len, made(columns[:n])), default=0) <= WIDTH), 1)
        out += ([""] if out else []) + made(columns[:fitting])
        columns = columns[fitting:]
    return out


def _cell(cell: Cell) -> str:
    """`.81 [.76,.86]▲`"""
    if cell.value is None:
        return "unreadable"
    bounds = "" if cell.low is None or cell.high is None else f" [{short(cell.low)},{short(cell.high)}]"
    return f"{short(cell.value)}{bounds}{cell.mark}{'*' if cell.n_failed else ''}"


def _block(models: Sequence[str], columns: Sequence[Column]) -> list[str]:
    head = [
        ["", *(c.label for c in columns)],
        ["", *(c.measure for c in columns)],
        ["", *(f"n={c.n}" for c in columns)],
    ]
    body = [[MODELS.get(m, m), *(_cell(c.cells[m]) if m in c.cells else "–" for c in columns)] for m in models]
    lines = _aligned([*head, *body])
    return [*lines[:3], "-" * max(map(len, lines)), *lines[3:]]


def _beside_rows(table: Table) -> list[str]:
    """F1 and yes-ratio of yes/no suites, the judge's score, how long answers are, controls and corrupted."""
    columns = [c for c in table.columns if _further(c)]
    return _blocks(columns, lambda some: _beside_block(table.models, some))


def _further(column: Column) -> dict[str, Mapping[str, Cell]]:
    measures = {**column.beside, **({column.measure: column.cells} if column.control else {})}
    return {name: measures[name] for name in BESIDE if name in measures}


def _beside_block(models: Sequence[str], columns: Sequence[Column]) -> list[str]:
    shown = [(column, name, cells) for column in columns for name, cells in _further(column).items()]
    # Names of suites are long, numbers here short: the name stands over the first of its columns only.
    firsts = {column.suite: i for i, (column, _, _) in reversed(list(enumerate(shown)))}
    names = [column.suite if firsts[column.suite] == i else "" for i, (column, _, _) in enumerate(shown)]
    head = [["beside it", *names], ["", *(BESIDE[name] for _, name, _ in shown)]]
    body = [[MODELS.get(m, m), *(_beside(cells.get(m), name) for _, name, cells in shown)] for m in models]
    return _merged(head, body)


def _beside(cell: Cell | None, name: str) -> str:
    if cell is None or cell.value is None:
        return "–"
    if name == "relative_change":
        return _cell(cell)
    return f"{cell.value:.1f}" if name in _WIDE else short(cell.value)


def _merged(head: list[list[str]], body: list[list[str]]) -> list[str]:
    """Narrow columns in groups, each group under its suite's name."""
    widths = [max(len(row[i]) for row in [head[1], *body]) for i in range(len(body[0]))]
    widths[0] = max(widths[0], len(head[0][0]))
    starts = [i for i, name in enumerate(head[0]) if i and name] + [len(widths)]
    for start, end in pairwise(starts):
        room = sum(widths[start:end]) + 2 * (end - start - 1)
        widths[end - 1] += max(0, len(head[0][start]) - room)
    lines = [_line(row, widths) for row in [head[1], *body]]
    names = head[0][0].ljust(widths[0])
    for start, end in pairwise(starts):
        room = sum(widths[start:end]) + 2 * (end - start - 1)
        names += "  " + head[0][start].rjust(room)
    return [names.rstrip(), *lines]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _legend(table: Table, margin: float) -> list[str]:
    said = (
        f"[95% interval]  {BETTER} {WORSE} significantly better, worse than the VLM (paired sign-flip test, Holm, 5%)"
    )
    said += f"  kept: surely no loss of {points(margin)} points or more  not shown: too few questions to say"
    said += "  MDE: the smallest true difference that so many questions show in 8 of 10 tries"
    cells = [cell for c in table.columns for cell in c.cells.values()]
    if any(cell.value is not None and cell.low is None for cell in cells):
        said += "  a value alone has no interval: its questions are about one image, or all its values are alike"
    if any(cell.n_failed for cell in cells):
        said += "  * some answers could not be read"
    return _wrap(said)


def _verdict_lines(verdicts: Mapping[str, Any]) -> list[str]:
    """One line per verdict, aligned."""
    rows: list[list[str]] = []
    for row in verdicts["regression"]:
        d = row["vlm_minus_backbone"]
        label = SUITES.get(row["suite"], row["suite"])
        rows.append([label, "VLM − backbone", signed(d), p_text(d["p"]), mde_text(d), f"regression: {row['verdict']}"])
    for row in verdicts["comparisons"]:
        d = row["minus_vlm"]
        label, name = SUITES.get(row["suite"], row["suite"]), MODELS.get(row["model"], row["model"])
        rows.append([label, f"{name} − VLM", signed(d), p_text(d["p"]), mde_text(d), verdict_text(verdicts, row)])
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    last = ""
    for row in rows:
        label = row[0] if row[0] != last else ""
        last = row[0]
        cells = (text.ljust(w) for text, w in zip([label, *row[1:5]], widths, strict=True))
        lines.append(("  ".join(cells) + "  " + row[5]).rstrip())
    tax = taxes(verdicts)
    lines += [f"{name}: a further model, {note}" for name, note in verdicts.get("also", {}).items()]
    return [*lines, *(["", "alignment tax:"] if tax else []), *(line for t in tax for line in _wrap(f"  {t}", "    "))]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)
