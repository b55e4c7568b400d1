"""What a pairwise reply prefers: `{"preference": "first"}`, or a line `Preference: first`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from annotate.replies.in_json import reasons_in, text_before, values_in, without_quotations
from annotate.replies.loose_json import Pairs
from annotate.replies.words import ReplyError, join
from annotate.rubric import spelling

Preference = Literal["first", "second", "tie"]

_MEANT: dict[str, Preference] = {
    **dict.fromkeys(("first", "1", "completion1", "response1", "firstcompletion", "thefirst"), "first"),
    **dict.fromkeys(("second", "2", "completion2", "response2", "secondcompletion", "thesecond"), "second"),
    **dict.fromkeys(("tie", "equal", "neither", "both"), "tie"),
}
_KEYS = {"preference", "preferred", "winner", "better", "verdict"}
_LINE = re.compile(
    r"^[^\w\n]*(?:final\s+)?(?:preference|winner|verdict)[^\w\n]*[:=][^\w\n]*(\w+(?: \w+)*)[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)


def preferences(text: str, completions: Sequence[str] = (), *, cut_off: bool = False) -> tuple[str, list[Preference]]:
    """The reasoning and every preference that a reply states, in JSON or, behind it or without any, in lines."""
    text = without_quotations(text, completions)
    found: list[Preference] = []
    thoughts: list[str] = []
    after = 0
    for start, end, value in values_in(text):
        stated = list(_stated(value))
        if stated:
            thoughts += [] if found else [text_before(text, start)]
            thoughts += reasons_in(value) if isinstance(value, Pairs) else []
            found += [_meant(v) for v in stated]
            after = end
    lines = list(_LINE.finditer(text, after, text.rfind("\n") + 1 if cut_off else len(text)))
    if lines and not found:
        if any(_LINE.search(completion) for completion in completions):
            raise ReplyError("a completion holds a preference itself, and this one is not told apart from it")
        thoughts.append(text[: lines[0].start()])
    return join(*thoughts), found + [_meant(line.group(1)) for line in lines]


def _stated(value: Any) -> Iterator[Any]:
    """The preferences in a JSON value, however deep."""
    if isinstance(value, Pairs):
        for key, inner in value:
            if spelling(key) in _KEYS:
                yield inner
            else:
                yield from _stated(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _stated(inner)


def _meant(raw: Any) -> Preference:
    stated = _MEANT.get(spelling(str(raw)))
    if stated is None:
        raise ReplyError(f"preference is {raw!r:.40}, not first, second or tie")
    return stated
