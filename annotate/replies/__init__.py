"""The shapes in which ratings are written: JSON in its variants, Markdown tables, plain `Helpfulness: 3` lines.

A reader turns text into rows, without judging them; `prompting.parse_reply` then insists on their meaning.

    'So: {"ratings": [{"completion": 1, "helpfulness": 3}]}'
        ->  Reading(reasoning="So:", rows=[Row(label=Label(1), values=[("helpfulness", 3)])], rest="")

JSON counts before tables, and tables before lines: people think in lines and answer in the form that was asked for.
What stands before the ratings is reasoning; what stands behind them is the `rest`, which may not say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from annotate.records import Rubric
from annotate.replies.in_json import read_json, without_quotations
from annotate.replies.in_text import read_lines, read_tables
from annotate.replies.preferences import Preference, preferences
from annotate.replies.words import Reading, ReplyError, Row, integer, join, names_of

__all__ = ["Preference", "ReplyError", "Row", "integer", "join", "preferences", "read_ratings", "without_thoughts"]

_TAG = r"think|thinking|thought|thoughts|reasoning|scratchpad|reflection"
_CLOSED = re.compile(rf"(.*)</(?:{_TAG})>", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(rf"<(?:{_TAG})>", re.IGNORECASE)


def without_thoughts(text: str) -> tuple[str, str]:
    """Some models think aloud in <think> tags, of which the first may be missing; (those thoughts, the rest)."""
    closed = _CLOSED.match(text)
    thoughts, rest = (closed.group(1), text[closed.end() :]) if closed else ("", text)
    if _OPENED.search(rest):
        raise ReplyError("the reply is cut off within its thoughts")
    return _OPENED.sub("", thoughts), rest


def read_ratings(
    text: str, rubric: Rubric, completions: Sequence[str] = (), *, cut_off: bool = False
) -> Reading | None:
    """What the first reader finds that finds any ratings.

    `completions` are the texts that were rated: what stands in one of them word for word is a quotation, no rating.
    Of a text that was `cut_off` the last line may be half of one.
    """
    names = names_of(rubric)
    text = without_quotations(text, completions)
    found = read_json(text, names)
    if found is not None:
        return found
    text = text[: text.rfind("\n") + 1] if cut_off else text
    for reader in (read_tables, read_lines):
        found = reader(text, names)
        if found is not None and any(reader(completion, names) for completion in completions):
            raise ReplyError("a completion holds ratings itself, and these are not told apart from it")
        if found is not None:
            return found
    return None
