"""Ratings in Markdown tables, with a line or a column per completion, and in plain `Helpfulness: 3` lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

from annotate.replies.words import (
    HEADING,
    REASONS,
    UNCLEAR,
    Label,
    Names,
    Reading,
    ReplyError,
    Row,
    heading_above,
    join,
    label_of,
    label_under,
    name_in,
    one_label,
    remark,
)
from annotate.rubric import spelling

_OTHER_FIRST_COLUMNS = {"rank", "ranking", "place", "order"}


def read_tables(text: str, names: Names) -> Reading | None:
    rows: list[Row] = []
    before = rest = ""
    heading: Label | None = None
    for is_table, lines in groupby(text.splitlines(keepends=True), key=lambda line: "|" in line):
        block = "".join(lines)
        found = _table_rows(_cells(block), heading, names) if is_table else []
        heading = heading if is_table else heading_above(block) or heading
        if found:
            rows += found
            rest = ""
        elif rows:
            rest += block
        else:
            before += block
    return Reading(join(before), rows, rest) if rows else None


def _cells(block: str) -> list[list[str]]:
    """The cells of each line, without the line of dashes."""
    bare = [re.sub(r"^\s*\||\|\s*$", "", line) for line in block.splitlines()]
    table = [[cell.strip(" \t*_`") for cell in re.split(r"(?<!\\)\|", line)] for line in bare]
    return [cells for cells in table if not all(re.fullmatch(r":?-*:?", cell) for cell in cells)]


def _table_rows(table: Sequence[list[str]], heading: Label | None, names: Names) -> list[Row]:
    if len(table) < 2:
        return []
    header, *body = table
    if any(name_in(title, names) for title in header):
        rows = [_row_of_line(header, cells, heading if len(body) == 1 else None, names) for cells in body]
    else:
        rows = _rows_of_columns(header, body, heading, names)
    if rows and any(len(cells) != len(header) for cells in body):
        raise ReplyError("a table has lines with more or fewer cells than its first")
    return rows


def _row_of_line(header: Sequence[str], cells: Sequence[str], heading: Label | None, names: Names) -> Row:
    row = Row(heading)
    for place, (title, cell) in enumerate(zip(header, cells, strict=False)):
        name = name_in(title, names)
        if name:
            row.values.append((name, cell))
        elif spelling(title) in REASONS:
            row.reasons.append(cell)
        elif (
            place == 0 and spelling(title) not in _OTHER_FIRST_COLUMNS
        ):  # whatever its title, it says of whom the line is
            row.label = label_of(cell)
        else:
            row.label = one_label([row.label, label_under(title, cell)])
    return row


def _rows_of_columns(
    header: Sequence[str], body: Sequence[list[str]], heading: Label | None, names: Names
) -> list[Row]:
    rows: list[Row] = []
    for place, title in enumerate(header[1:], 1):
        cells = [(name_in(line[0], names), line[place]) for line in body if place < len(line)]
        values = [(name, cell) for name, cell in cells if name]
        if values and spelling(title) not in REASONS:
            rows.append(Row(label_of(title), [*values]))
    if len(rows) == 1 and rows[0].label == UNCLEAR:
        rows[0].label = heading
    return rows


def read_lines(text: str, names: Names) -> Reading | None:
    """`Completion 1:` and below it `Helpfulness: 3 because ...`, or all attributes on one line."""
    entry = _entry(tuple(sorted(names, key=len, reverse=True)))
    rows: dict[Label | None, Row] = {}
    before: list[str] = []
    label: Label | None = None
    for line in text.splitlines():
        heading = HEADING.match(line)
        if heading:
            label = label_of(heading.group(1))
        found = _entries(entry, (heading.group(2) or "") if heading else line, names)
        if found:
            row = rows.setdefault(label, Row(label))
            row.values += found
            row.reasons += [reason for _, amount in found if (reason := remark(amount))]
        elif not rows:
            before.append(line)
    return Reading(join("\n".join(before)), list(rows.values()), "") if rows else None


@lru_cache(maxsize=16)
def _entry(names: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for `**Helpfulness** (0-4): `, the longest names first."""
    words = "|".join(r"[\s_-]?".join(map(re.escape, name)) for name in names)
    note = r"(?:\s*\([^()\n]{0,30}\))?"
    sign = r"""[\s*_`"']{0,6}(?:[:=]|\s[-–—→]\s)[\s*_`"'(\[]{0,6}"""
    return re.compile(rf"(?<![^\W_])({words}){note}{sign}", re.IGNORECASE)


def _entries(entry: re.Pattern[str], line: str, names: Names) -> list[tuple[str, str]]:
    """The attributes that a line gives numbers for, if that is how it begins."""
    matches = list(entry.finditer(line))
    if not matches or not re.fullmatch(r"\W*(?:\d{1,2}[.)]\W*)?", line[: matches[0].start()]):
        return []
    ends = [match.start() for match in matches[1:]] + [len(line)]
    stated = [
        (names[spelling(match.group(1))], line[match.end() : end].strip(" \t,;|"))
        for match, end in zip(matches, ends, strict=True)
    ]
    return [(name, amount) for name, amount in stated if amount[:1].isdecimal()]
