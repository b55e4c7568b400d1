"""The words of a reply: which attribute a name means, which completion a label means, which number an amount is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from annotate.records import Rubric, Scale
from annotate.rubric import spelling


class ReplyError(ValueError):
    """A reply whose meaning is not certain; the message is the reason, for the Failure's detail."""


class Label(NamedTuple):
    """Which completion something is said to be of."""

    position: int | None
    """From 1, in the order shown; None where the words are no number."""
    certain: bool = True
    """Not so where it is a letter, or a number that may as well be a quotation: `{"answer": "2"}`."""


UNCLEAR = Label(None, certain=False)


@dataclass
class Row:
    """What a reply says of one completion: raw values by attribute, none checked yet."""

    label: Label | None = None
    """None where nothing is said."""
    values: list[tuple[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def rationale(self) -> str:
        return " ".join(self.reasons)


class Reading(NamedTuple):
    """The ratings that one reader found, and the text before and behind them."""

    reasoning: str
    rows: list[Row]
    rest: str


def join(*texts: str) -> str:
    return "\n".join(t.strip() for t in texts if t.strip())


# ------------------------------------------------------------------------------------------------------------- numbers

_AMOUNT = re.compile(
    r"(\d{1,3})(?:\.0{1,2})?(?:\s*(?:/|out of|of)\s*(\d{1,3}))?(?![\w/])(.*)", re.DOTALL | re.IGNORECASE
)
_REMARK = re.compile(  # a reason that is set off from the number, and does not begin with another one
    r"\s*(?!-\w|\.\w)(?:(?:[-–—:;,.…(|]|\b(?:because|since|as|points?)\b)[-–—:;,.…(|\s\"']*(?:[^\W\d].*)?)?", re.DOTALL
)
_HEDGE = re.compile(r"\b(?:or|maybe|perhaps|possibly|could be|might be)\W{0,3}\d", re.IGNORECASE)
_AROUND = " \t\n\"'()[]{},;|"


def integer(raw: Any, scale: Scale, where: str) -> int:
    """A whole number within `scale`: 3, 3.0, "3", "3/4" (of the highest) or "3 - because"; else a `ReplyError`."""
    value = int(raw) if type(raw) is int or (type(raw) is float and raw.is_integer()) else None
    if isinstance(raw, str) and (amount := _AMOUNT.fullmatch(_plain(raw))):
        number, of, remark = amount.groups()
        sure = _REMARK.fullmatch(remark) and not _HEDGE.search(remark)
        value = int(number) if sure and of in (None, str(scale.high)) else None
    if value is None or not scale.low <= value <= scale.high:
        raise ReplyError(f"{where} is {raw!r:.40}, not a whole number from {scale.low} to {scale.high}")
    return value


def remark(raw: str) -> str:
    """The reason given with an amount: `3 - because` -> `because`."""
    amount = _AMOUNT.fullmatch(_plain(raw))
    return amount.group(3).strip(_AROUND + "-–—:.…") if amount else ""


def _plain(text: str) -> str:
    return re.sub(r"[*_`]", "", text).strip(_AROUND)


# ----------------------------------------------------------------------------------------------------- names of things

Names = dict[str, str]
"""Every spelling of an attribute -> the attribute."""

REASONS = {
    "rationale",
    "reason",
    "reasons",
    "reasoning",
    "explanation",
    "justification",
    "comment",
    "comments",
    "notes",
}
VALUES = {"score", "rating", "value"}
CRITERIA = {"attribute", "criterion", "aspect", "dimension", "metric", "name"}
LISTS = {"ratings", "rating", "scores", "completions", "responses", "results", "result", "annotations", "finalratings"}
LISTS |= {"evaluations", "evaluation", "assessments", "assessment"}
_OTHER_ORDER = {"rank", "ranking", "place", "order", "label", "name", "letter", "model", "assistant"}


def names_of(rubric: Rubric) -> Names:
    names = {spelling(word): name for name, s in rubric.attributes.items() for word in (name, *s.aliases)}
    return {word + kind: name for kind in ("score", "rating") for word, name in names.items()} | names


def name_in(words: str, names: Names) -> str | None:
    """The attribute that `**Helpfulness** (0-4)` names."""
    return names.get(spelling(re.sub(r"\([^()]*\)", "", words)))


# -------------------------------------------------------------------------------------------------------------- labels

_THING = r"(?:completion|response|answer|candidate|option)"
_NUMBERED = re.compile(rf"(?:\W*{_THING}[\W_]*|[\s#(\[*_\"'.]*)(\d{{1,3}})[\s.:)\]*_\"']*", re.IGNORECASE)
_LETTERED = re.compile(rf"\W*(?:{_THING}[\W_]*)?([A-Z])\W*", re.IGNORECASE)
_POSITION_KEY = re.compile(rf"({_THING}?)(id|number|no|index|position)?")
HEADING = re.compile(
    rf"\W*(?:\d{{1,2}}[.)]\W*)?(?:(?:final\s+)?(?:rating|score|evaluation|assessment)s?\s+(?:for|of)\s+)?"
    rf"{_THING}[\W_]*(\d{{1,3}}|(?-i:[A-Z]))(?!\w)\W*?(?:$|[:(|–—-]\W*(.*))",
    re.IGNORECASE,
)
"""`### Completion 2: ...`; its number and what stands behind it."""


def label_of(raw: Any) -> Label:
    """2, "2", "Completion 2", "B"; anything else is unclear."""
    if type(raw) is int or (type(raw) is float and raw.is_integer()):
        return Label(int(raw))
    if isinstance(raw, str) and len(raw) < 40:
        if number := _NUMBERED.fullmatch(raw):
            return Label(int(number.group(1)))
        if letter := _LETTERED.fullmatch(raw):
            return Label(ord(letter.group(1).upper()) - ord("A") + 1, certain=False)
    return UNCLEAR


def label_under(key: str, value: Any) -> Label | None:
    """What `"completion": 2` says; None where the key is of something else."""
    word = spelling(key)
    if word in _OTHER_ORDER:
        return UNCLEAR
    match = _POSITION_KEY.fullmatch(word)
    if match is None or not word:
        return None
    label = label_of(value)
    # "completion" is the word that was asked for; `{"answer": "2"}` may be what the completion says.
    asked = match.group(2) or match.group(1) == "completion" or any(c.isalpha() for c in str(value))
    return label if asked else label._replace(certain=False)


def one_label(labels: Iterable[Label | None]) -> Label | None:
    """What several statements say together: those that are certain count, if they agree."""
    said = [label for label in labels if label is not None]
    best = [label for label in said if label.certain] or [label for label in said if label.position is not None]
    if not said:
        return None
    return best[0] if len(set(best)) == 1 else UNCLEAR


def heading_above(text: str) -> Label | None:
    """The `Completion 2:` line that the end of `text` stands below, with nothing or with prose in between."""
    lines = [line for line in text.splitlines() if line.strip(" \t`").casefold() not in ("", "json", "python")]
    found = {i: label_of(match.group(1)) for i, line in enumerate(lines) if (match := HEADING.match(line))}
    return found.get(len(lines) - 1) or one_label(found.values())
