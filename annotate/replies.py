"""The shapes in which ratings are written: JSON in its variants, Markdown tables, plain `Helpfulness: 3` lines.

A reader turns text into rows, without judging them; `prompting.parse_reply` then insists on their meaning.

    '{"ratings": [{"completion": 1, "helpfulness": 3}]}'  ->  [Row(position=1, values=[("helpfulness", 3)])]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from annotate.records import Rubric, Scale
from annotate.rubric import spelling


class ReplyError(ValueError):
    """A reply whose meaning is not certain; the message is the reason, for the Failure's detail."""


@dataclass
class Row:
    """What a reply says of one completion: raw values by attribute, none checked yet."""

    position: int | None
    """From 1, in the order shown; None where the reply does not say."""
    unclear: bool = False
    """It names its completion, but not by the number that it was shown with."""
    values: list[tuple[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def rationale(self) -> str:
        return " ".join(self.reasons)


_THING = r"(?:completion|response|answer|candidate|option)"
_POSITION = re.compile(rf"\W*{_THING}?[\W_]*(\d{{1,3}})\W*", re.IGNORECASE)
_HEADING = re.compile(
    rf"\W*(?:(?:rating|score|evaluation|assessment)s?\s+(?:for|of)\s+)?{_THING}[\W_]*(\d{{1,3}})\W*?"
    r"(?:$|[:(|–—-]\W*(.*))",
    re.IGNORECASE,
)
_INTEGER = re.compile(r"(\d{1,3})(?:\s*(?:/|out of)\s*(\d{1,3}))?", re.IGNORECASE)
_THOUGHTS = re.compile(r"<think(?:ing)?>(.*?)(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_POSITION_KEYS = {"completion", "response", "answer", "candidate", "option", "id", "number", "index", "position"}
_OTHER_ORDER_KEYS = {"rank", "ranking", "place", "label", "name"}
_REASON_KEYS = {"rationale", "reason", "reasons", "reasoning", "explanation", "justification", "comment"}
_VALUE_KEYS = {"score", "rating", "value"}
_LIST_KEYS = {"ratings", "scores", "completions", "responses", "evaluations", "results", "rating", "annotations"}
_MOST_VALUES = 2000  # starts of JSON values tried in one reply


def without_thoughts(text: str) -> tuple[str, str]:
    """Some models think aloud in <think> tags; (those thoughts, the rest)."""
    return "\n".join(m.group(1).strip() for m in _THOUGHTS.finditer(text)), _THOUGHTS.sub("", text)


def integer(raw: Any, scale: Scale, where: str) -> int:
    """A whole number within `scale`, written as 3, "3" or "3/4" (of the highest); anything else is a `ReplyError`."""
    value = raw if type(raw) is int else None
    if isinstance(raw, str) and (match := _INTEGER.fullmatch(raw.strip(" \t*_`"))):
        of = match.group(2)
        value = int(match.group(1)) if of is None or int(of) == scale.high else None
    if value is None or not scale.low <= value <= scale.high:
        raise ReplyError(f"{where} is {raw!r:.40}, not a whole number from {scale.low} to {scale.high}")
    return value


def ratings_in(text: str, rubric: Rubric) -> tuple[str, list[Row]]:
    """The reasoning and the rows of a reply, by the first reader that finds any."""
    names = _names(rubric)
    for reader in (_read_json, _read_tables, _read_lines):
        reasoning, rows = reader(text, names)
        if rows:
            return reasoning, rows
    raise ReplyError("no ratings found")


def _names(rubric: Rubric) -> dict[str, str]:
    """Every spelling of an attribute -> the attribute."""
    return {spelling(word): name for name, s in rubric.attributes.items() for word in (name, *s.aliases)}


def _position(raw: Any) -> int | None:
    if type(raw) is int:
        return raw
    match = _POSITION.fullmatch(raw) if isinstance(raw, str) and len(raw) < 40 else None
    return int(match.group(1)) if match else None


# --------------------------------------------------------------------------------------------------------------- JSON


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs: a key given twice is seen twice."""


def _json_values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Every JSON object or list that stands in `text`, with its start and end."""
    decoder = json.JSONDecoder(object_pairs_hook=_Object, strict=False)  # line breaks within strings are forgiven
    end = 0
    for match, _ in zip(re.finditer(r"[{\[]", text), range(_MOST_VALUES), strict=False):
        if match.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield match.start(), end, value


def _read_json(text: str, names: dict[str, str]) -> tuple[str, list[Row]]:
    text = re.sub(r",(\s*[}\]])", r"\1", text)  # a comma before a closing bracket is forgiven
    rows: list[Row] = []
    thoughts: list[str] = []
    after = 0
    for start, end, value in _json_values(text):
        found = list(_rows(value, None, names))
        heading, after = _heading_in(text[after:start]), end
        if len(found) == 1 and found[0].position is None and heading is not None:
            found[0].position, found[0].unclear = heading, False
        if found and not rows:
            thoughts.append(re.sub(r"`{3}\w*\s*\Z", "", text[:start]))
        if found and isinstance(value, _Object) and any(spelling(k) in _LIST_KEYS for k, _ in value):
            thoughts += _reasons(value)
        rows += found
    return _lines(thoughts), rows


def _heading_in(text: str) -> int | None:
    """The number of the last `Completion 2:` line, for blocks that stand below such lines."""
    numbers = [int(m.group(1)) for line in text.splitlines() if (m := _HEADING.match(line))]
    return numbers[-1] if numbers else None


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(t.strip() for t in texts if t.strip())


def _reasons(pairs: Any) -> list[str]:
    return [v for k, v in pairs if spelling(k) in _REASON_KEYS and isinstance(v, str) and v]


def _rows(value: Any, position: int | None, names: dict[str, str]) -> Iterator[Row]:
    """The rows that a JSON value holds, however it nests them."""
    if isinstance(value, _Object):
        told = [p for k, v in value if spelling(k) in _POSITION_KEYS and (p := _position(v)) is not None]
        position = told[0] if told else position
        if any(spelling(k) in names for k, _ in value):
            yield from _rated_object(value, position, names)
            return
        for key, inner in value:
            if isinstance(inner, list):
                if spelling(key) in _LIST_KEYS:
                    for row in _rows(inner, position, names):
                        row.reasons = row.reasons or (_reasons(value) if told else [])
                        yield row
                elif (keyed := _position(key)) is not None:
                    yield from _rows(inner, keyed, names)
    elif isinstance(value, list):
        for inner in value:
            yield from _rows(inner, position, names)


def _rated_object(pairs: _Object, position: int | None, names: dict[str, str]) -> Iterator[Row]:
    """An object that names attributes: of one completion, or one list of scores per attribute for all of them."""
    named = any(spelling(k) in _POSITION_KEYS | _OTHER_ORDER_KEYS for k, _ in pairs)
    whole = Row(position, unclear=named and position is None, reasons=_reasons(pairs))
    columns: dict[int, Row] = {}
    for key, value in pairs:
        name = names.get(spelling(key))
        if name is None:
            continue
        if isinstance(value, _Object):
            scores = [v for k, v in value if spelling(k) in _VALUE_KEYS]
            whole.values += [(name, v) for v in scores or [dict(value)]]
            whole.reasons += [f"{name}: {reason}" for reason in _reasons(value)]
        elif isinstance(value, list):
            for column, score in enumerate(value, 1):
                columns.setdefault(column, Row(column)).values.append((name, score))
        else:
            whole.values.append((name, value))
    if whole.values:
        yield whole
    yield from columns.values()


# ------------------------------------------------------------------------------------------------------------- tables


def _read_tables(text: str, names: dict[str, str]) -> tuple[str, list[Row]]:
    rows: list[Row] = []
    before: list[str] = []
    table: list[list[str]] = []
    heading: int | None = None
    for line in [*text.splitlines(), ""]:
        if line.count("|") >= 2:
            cells = [c.strip(" \t*_`") for c in line.strip().strip("|").split("|")]
            if not all(re.fullmatch(r":?-*:?", c) for c in cells):
                table.append(cells)
            continue
        rows += _table_rows(table, heading, names)
        table = []
        heading = _heading_in(line) or heading
        if not rows:
            before.append(line)
    return _lines(before), rows


def _table_rows(table: Sequence[list[str]], heading: int | None, names: dict[str, str]) -> list[Row]:
    """A table with a line per completion and a column per attribute, or the other way round."""
    if len(table) < 2:
        return []
    header, *body = table
    titles = [spelling(title) for title in header]
    if any(title in names for title in titles):
        return [_table_row(titles, cells, heading if len(body) == 1 else None, names) for cells in body]
    columns = {
        i: Row(heading if len(titles) == 2 and _position(header[i]) is None else _position(header[i]))
        for i, title in enumerate(titles)
        if i and title not in _REASON_KEYS
    }
    for first, *rest in body:
        for i, cell in enumerate(rest, 1):
            if spelling(first) in names and i in columns:
                columns[i].values.append((names[spelling(first)], cell))
    return [row for row in columns.values() if row.values]


def _table_row(titles: Sequence[str], cells: Sequence[str], heading: int | None, names: dict[str, str]) -> Row:
    row = Row(heading)
    for title, cell in zip(titles, cells, strict=False):
        if title in names:
            row.values.append((names[title], cell))
        elif title in _REASON_KEYS:
            row.reasons.append(cell)
        elif title in _POSITION_KEYS or not title:
            row.position = _position(cell)
            row.unclear = row.position is None
        elif title in _OTHER_ORDER_KEYS and row.position is None:
            row.unclear = True
    return row


# -------------------------------------------------------------------------------------------------------- plain lines


def _read_lines(text: str, names: dict[str, str]) -> tuple[str, list[Row]]:
    """`Completion 1:` and below it `Helpfulness: 3 because ...`, or all attributes on one line with commas."""
    words = "|".join(_loose(n) for n in sorted(names, key=len, reverse=True))
    quotes = r"[\s*_`\"'()\[\]]{0,6}?"
    entry = rf"({words})(?:\s+(?:score|rating))?{quotes}[:=]{quotes}"
    amount = r"(\d[^\s,;|]*(?:\s*(?:/|out of|or|to|and|–|-|→|->)\s*\d[^\s,;|]*)?)"
    single = re.compile(rf"\W*(?:\d+[.)]\W*)?{entry}{amount}(.*)", re.IGNORECASE)
    several = re.compile(rf"\W*(?:{entry}{amount}[\s,;|]*)+\W*", re.IGNORECASE)
    each = re.compile(entry + amount, re.IGNORECASE)
    rows: dict[int | None, Row] = {}
    before: list[str] = []
    position: int | None = None
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading:
            position, line = int(heading.group(1)), heading.group(2) or ""
        match = single.match(line)
        if match is None:
            if not rows and line.strip():
                before.append(line)
            continue
        row = rows.setdefault(position, Row(position))
        together = several.fullmatch(line) is not None
        for found in each.finditer(line) if together else [match]:
            row.values.append((names[spelling(found.group(1))], found.group(2).rstrip(".)*_`]")))
        if not together and match.group(3).strip(" \t*_-–—:.,;()"):
            row.reasons.append(match.group(3).strip(" \t*_-–—:,;"))
    return _lines(before), list(rows.values())


def _loose(name: str) -> str:
    """A pattern for a spelling without its spaces: `overallhelpfulness` also matches `Overall helpfulness`."""
    return r"[\s_-]?".join(name)


# -------------------------------------------------------------------------------------------------------- preferences

_PREFERENCES: dict[str, Literal["first", "second", "tie"]] = {
    **dict.fromkeys(("first", "1", "completion1", "response1", "firstcompletion"), "first"),
    **dict.fromkeys(("second", "2", "completion2", "response2", "secondcompletion"), "second"),
    **dict.fromkeys(("tie", "equal", "neither", "both"), "tie"),
}
_PREFERENCE_KEYS = {"preference", "preferred", "winner", "better", "verdict"}
_PREFERENCE_LINE = re.compile(r"^\W*(preference|winner|verdict)\W*[:=]\W*([\w ]+?)\W*$", re.IGNORECASE | re.MULTILINE)


def preferences(text: str) -> tuple[str, list[Literal["first", "second", "tie"]]]:
    """The reasoning and every preference that a pairwise reply states."""
    found: list[Literal["first", "second", "tie"]] = []
    thoughts: list[str] = []
    for start, _, value in _json_values(text):
        stated = [v for k, v in value if spelling(k) in _PREFERENCE_KEYS] if isinstance(value, _Object) else []
        if stated:
            thoughts += [re.sub(r"`{3}\w*\s*\Z", "", text[:start]), *_reasons(value)]
            found += [_preference(v) for v in stated]
    if found:
        return _lines(thoughts), found
    matches = list(_PREFERENCE_LINE.finditer(text))
    return text[: matches[0].start()].strip() if matches else "", [_preference(m.group(2)) for m in matches]


def _preference(raw: Any) -> Literal["first", "second", "tie"]:
    stated = _PREFERENCES.get(spelling(str(raw)))
    if stated is None:
        raise ReplyError(f"preference is {raw!r:.40}, not first, second or tie")
    return stated
