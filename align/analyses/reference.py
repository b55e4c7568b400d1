"""The numbers that a paper prints: shown apart, with differences taken again, and told where the paper disagrees.

A printed difference is compared with that of the two numbers it is of, all of them rounded: what is beyond the rounding
is a contradiction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from align.analyses.layout import Layout, Numbers, Part

Json = dict[str, Any]


def reference_rows(layout: Layout, part: Part) -> list[Json]:
    """Row by row the paper's numbers, and what they differ by."""
    made = []
    for key in part.rows or ():
        if key in (part.reference or {}):
            deltas = [None if bounds is None else bounds[1] for bounds in _deltas(layout, part, key)]
            row = layout.rows[key]
            values = list((part.reference or {})[key])
            made.append({"key": key, "label": row.label or key, "group": row.group, "values": values, "deltas": deltas})
    return made


def contradictions(layout: Layout, part: Part) -> list[str]:
    """Where a printed difference or mean is not that of the printed numbers, in sentences."""
    said = list(_means(layout, part))
    for key, printed in (part.printed or {}).items():
        for i, (told, bounds) in enumerate(zip(printed, _deltas(layout, part, key), strict=True)):
            if told is None or bounds is None:
                continue
            column = layout.columns[(part.columns or ())[i]]
            unit = 0.01 if column.count else 0.1
            if not bounds[0] - unit / 2 - 1e-9 <= told <= bounds[2] + unit / 2 + 1e-9:
                digits = 2 if column.count else 1
                sign = "%" if column.count or column.drop_from else ""
                where = f"{layout.rows[key].label or key}, {column.label or (part.columns or ())[i]}"
                theirs, ours = (f"{n:+.{digits}f}{sign}".replace("-", "−") for n in (told, bounds[1]))
                said.append(f"{where}: the paper prints {theirs}, its numbers give {ours}")
    return said


def _means(layout: Layout, part: Part) -> Iterator[str]:
    columns = list(part.columns or ())
    for key, values in (part.reference or {}).items():
        by_name = dict(zip(columns, values, strict=True))
        for name in columns:
            parts = [by_name.get(inner) for inner in layout.columns[name].mean_of or ()]
            known = [value for value in parts if value is not None]
            told, unit = by_name[name], 10 ** -layout.columns[name].digits
            if told is None or not parts or len(known) < len(parts):
                continue
            ours = sum(known) / len(known)
            if abs(ours - told) > unit + 1e-9:  # half of it by rounding the mean, half by rounding the parts
                where = f"{layout.rows[key].label or key}, {layout.columns[name].label or name}"
                yield f"{where}: the paper prints {told:g}, its numbers give {ours:.2f}"


def _deltas(layout: Layout, part: Part, key: str) -> Iterator[tuple[float, float, float] | None]:
    """Least, nominal and greatest difference of numbers that were rounded."""
    reference = part.reference or {}
    columns = list(part.columns or ())
    mine: Numbers = reference.get(key, (None,) * len(columns))
    theirs = reference.get(layout.rows[key].minus)
    for i, name in enumerate(columns):
        column, value = layout.columns[name], mine[i]
        if column.drop_from:
            base = mine[columns.index(column.drop_from)] if column.drop_from in columns else None
        else:
            base = theirs[i] if theirs and part.deltas else None
        if value is None or base is None:
            yield None
            continue
        half = 0.0 if column.count else 10**-column.digits / 2
        if column.count or column.drop_from:
            ends = (value - half) / (base + half), value / base, (value + half) / (base - half)
            low, mean, high = (100 * (end - 1) for end in ends)
        else:
            low, mean, high = value - base - 2 * half, value - base, value - base + 2 * half
        yield low, mean, high
