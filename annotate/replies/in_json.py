"""Ratings in JSON, in whatever way it nests them.

{"ratings": [{"completion": 1, "helpfulness": 3}, ...]}      the form asked for
{"completion 1": {"helpfulness": 3}, ...}                    keyed by completion
{"helpfulness": {"completion 1": 3, ...}, ...}               keyed by attribute; also with a list of scores
[{"attribute": "helpfulness", "score": 3}, ...]              one object per attribute
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from annotate.replies.loose_json import BrokenJson, Found, Pairs, json_values
from annotate.replies.words import (
    CRITERIA,
    LISTS,
    REASONS,
    VALUES,
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
)
from annotate.rubric import spelling


def read_json(text: str, names: Names) -> Reading | None:
    rows: list[Row] = []
    thoughts: list[str] = []
    after, rest = 0, ""
    for start, end, value in values_in(text):
        found = list(_rows(value, None, names))
        if len(found) == 1 and (found[0].label is None or not found[0].label.certain):
            found[0].label = one_label([found[0].label, heading_above(text[after:start])])
        after = end
        if not found:
            continue
        if not rows:
            thoughts.append(text_before(text, start))
        if isinstance(value, Pairs) and any(spelling(k) in LISTS for k, _ in value):
            thoughts += reasons_in(value)
        rows += found
        rest = text[end:]
    return Reading(join(*thoughts), rows, rest) if rows else None


def values_in(text: str) -> Iterator[Found]:
    try:
        yield from json_values(text)
    except BrokenJson as error:
        raise ReplyError(str(error)) from None


def without_quotations(text: str, completions: Sequence[str]) -> str:
    """A reply without the JSON that it quotes from the completions."""
    quotable = [spelling(completion) for completion in completions if "{" in completion]
    if not quotable:
        return text
    kept, after = [], 0
    for start, end, _ in values_in(text):
        quoted = spelling(text[start:end])
        if any(quoted in completion for completion in quotable):
            kept.append(text[after:start])
            after = end
    return "[quoted]".join([*kept, text[after:]])


def text_before(text: str, start: int) -> str:
    """What stands before a value, without the fence that it stands in."""
    return re.sub(r"`{3}\w*\s*\Z", "", text[:start])


def reasons_in(pairs: Pairs) -> list[str]:
    return [v for k, v in pairs if spelling(k) in REASONS and isinstance(v, str) and v]


def _rows(value: Any, label: Label | None, names: Names) -> Iterator[Row]:
    """The rows that a JSON value holds; `label` is what the values around it say."""
    if isinstance(value, Pairs):
        label = one_label([label, *(label_under(k, v) for k, v in value if not name_in(k, names))])
        if any(name_in(k, names) for k, _ in value):
            yield from _rated_object(value, label, names)
            return
        for key, inner in value:
            if not isinstance(inner, list):
                continue
            if spelling(key) in LISTS:
                # `{"model": "x", "ratings": [...]}` tells nothing of the single ratings.
                tells = isinstance(inner, Pairs) or len(inner) == 1 or label is None or label.certain
                for row in _rows(inner, label if tells else None, names):
                    row.reasons = row.reasons or (reasons_in(value) if label else [])
                    yield row
            elif (keyed := label_of(key)).position is not None:
                yield from _rows(inner, one_label([label, keyed]), names)
    elif isinstance(value, list):
        criteria = _criteria(value, names)
        if criteria:
            yield from _rated_object(criteria, label, names)
            return
        for inner in value:
            yield from _rows(inner, label, names)


def _criteria(items: Sequence[Any], names: Names) -> Pairs:
    """`[{"attribute": "helpfulness", "score": 3}, ...]` as one object; empty where it is something else."""
    found = Pairs()
    for item in items:
        named = [v for k, v in item if spelling(k) in CRITERIA] if isinstance(item, Pairs) else []
        if len(named) != 1 or not isinstance(named[0], str) or not name_in(named[0], names):
            return Pairs()
        found.append((named[0], Pairs((k, v) for k, v in item if spelling(k) not in CRITERIA)))
    return found


def _rated_object(pairs: Pairs, label: Label | None, names: Names) -> Iterator[Row]:
    """An object that names attributes: of one completion, or with the scores of all of them under each."""
    whole = Row(label, reasons=reasons_in(pairs))
    columns: dict[Label, Row] = {}
    for key, value in pairs:
        name = name_in(key, names)
        if name is None:
            continue
        if label is None and (of_all := _scores_of_all(value)):
            for whose, score in of_all:
                columns.setdefault(whose, Row(whose)).values.append((name, _score(score)))
            continue
        whole.values.append((name, _score(value)))
        if isinstance(value, Pairs):
            whole.reasons += [f"{name}: {reason}" for reason in reasons_in(value)]
    if whole.values:
        yield whole
    yield from columns.values()


def _scores_of_all(value: Any) -> list[tuple[Label, Any]]:
    """`[4, 1]` or `{"completion 1": 4, "completion 2": 1}` below an attribute; empty where it is one score."""
    if isinstance(value, Pairs):
        keyed = [(label_of(key), score) for key, score in value]
        return keyed if all(label.position is not None for label, _ in keyed) else []
    if not isinstance(value, list):
        return []
    told = [one_label(label_under(k, v) for k, v in item) if isinstance(item, Pairs) else None for item in value]
    return [(label or Label(place), item) for place, (label, item) in enumerate(zip(told, value, strict=True), 1)]


def _score(value: Any) -> Any:
    """The score within `{"score": 3, "reason": "..."}`; anything else as it is."""
    scores = [v for k, v in value if spelling(k) in VALUES] if isinstance(value, Pairs) else []
    return scores[0] if len(scores) == 1 else value
