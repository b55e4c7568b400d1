r"""Reading an answer out of what a model wrote: the last line that says "the direct answer is: …".

    read_answer("It froze.\nPut simply, the direct answer is: 3.5.")          ->  text "3.5", how "line"
    read_answer("(B) lead", "multiple_choice", ["tin", "lead"])               ->  text "lead", index 1, how "bare"
    read_answer("Hard to say.\nIt depends.", "true_false")                    ->  text None, how "none"

MLAN (Appendix A) appends the line to every target so that answers are easy to extract. Its published code cuts at the
first full stop, which turns 3.5 into 3 and U.S. into U; here the line to its end is the answer, and one closing stop is
taken off where it is no part of it. What cannot be read is a failure to be counted (`tally`), never a wrong answer.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.benchmarks.scoring import read_yes_no

AnswerType = Literal["multiple_choice", "short_answer", "true_false"]
LETTERS = string.ascii_uppercase

_LINE = re.compile(r"the direct answer is\s*:?", re.IGNORECASE)
_PHRASE = re.compile(r"\banswer(?: is|:)\s*:?", re.IGNORECASE)
_DOTTED = re.compile(r"(?:^|[^\w.])(?:[^\W\d_]\.)+[^\W\d_]$")
"""Ends in letters with stops between them: U.S, a.m, J.R.R"""
_SHORTENED = frozenset({"mr", "mrs", "dr", "st", "mt", "jr", "sr", "inc", "ltd", "corp", "etc", "vs", "prof", "approx"})
_MARKS = ".!?…"
_AROUND = "\"'“”‘’«»*`"
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d,]*\d)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_LETTER = re.compile(
    r"(?i:(?:the )?(?:option|choice|answer)(?: is)?:? +)?[*(\[]*([A-Z])(?:[*)\].:,]+(?:\s+(.*))?)?", re.S
)
_BOTH = re.compile(r"yes\s*(?:or|and|/)\s*no\b", re.IGNORECASE)
_TRUTH = {"true": "yes", "false": "no"}
_NEGATED = re.compile(r"\b(?:not|neither|nor|except|isn't|aren't|no)\b")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read. `how`: from the line, after another "answer is", the only line as it stands, or not at all."""

    text: str | None
    index: int | None = None
    """Of the option, in multiple choice."""
    how: Literal["line", "phrase", "bare", "none"]


FAILED = Reading(text=None, how="none")


def read_answer(text: str, kind: AnswerType = "short_answer", choices: Sequence[str] = ()) -> Reading:
    """The answer in `text`; `FAILED` where there is none, or several things could be meant."""
    said, how = _said(text)
    if not said:
        return FAILED
    if kind == "multiple_choice":
        index = read_choice(said, choices)
        return FAILED if index is None else Reading(text=one_line(choices[index]), index=index, how=how)
    if kind == "true_false":
        verdict = _verdict(said)
        return FAILED if verdict is None else Reading(text=verdict, how=how)
    return Reading(text=without_stop(said), how=how)


def tally(readings: Iterable[Reading]) -> dict[str, Any]:
    """How many were read in which way, and the share that could not be read at all."""
    counts = Counter(reading.how for reading in readings)
    n = counts.total()
    found = {how: counts[how] for how in ("line", "phrase", "bare", "none")}
    return {"n": n, **found, "failure_rate": counts["none"] / n if n else None}


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same but for case, quotes, closing marks and the writing of numbers."""
    return one == other or normal(one) == normal(other)


def normal(text: str) -> str:
    """What `same_answer` compares: "1,000.50." -> "1000.5", '"U.S."' -> "u.s"."""
    plain = one_line((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold())
    plain = plain.strip(_AROUND + _MARKS + ",;: ") or plain
    plain = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), plain)
    if plain.isascii() and _NUMBER.fullmatch(plain):
        return _number(plain)
    return plain


def _number(plain: str) -> str:
    """One text for a number, however many digits it has: "+07.50" -> "7.5", "-0" -> "0"."""
    whole, _, part = plain.lstrip("+-").partition(".")
    digits = f"{whole.lstrip('0') or '0'}.{part.rstrip('0')}".rstrip(".")
    return f"-{digits}" if plain.startswith("-") and digits != "0" else digits


def one_line(text: str) -> str:
    """Single spaces, no line breaks of any kind."""
    return " ".join(text.split())


def without_stop(text: str) -> str:
    """One closing full stop less, where it ends the sentence and not a shortened word: "3.5." -> "3.5"."""
    text = text.strip()
    bare = text[:-1]
    if not text.endswith(".") or not has_word(bare) or text.endswith("..."):
        return text
    if _DOTTED.search(bare) or re.split(r"[^\w]", bare)[-1].casefold() in _SHORTENED:
        return text
    return bare


def has_word(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


def _said(text: str) -> tuple[str, Literal["line", "phrase", "bare"]]:
    """The part of the text that is to be the answer, in one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    patterns: tuple[tuple[re.Pattern[str], Literal["line", "phrase"]], ...] = ((_LINE, "line"), (_PHRASE, "phrase"))
    for pattern, how in patterns:
        for number in reversed(range(len(lines))):
            if found := pattern.search(lines[number]):
                rest = one_line(lines[number][found.end() :])
                below = lines[number + 1] if number + 1 < len(lines) else ""
                return rest or one_line(below), how
    return (one_line(lines[0]) if len(lines) == 1 else ""), "bare"


def _verdict(said: str) -> str | None:
    """Yes or no, by the first word."""
    if _BOTH.match(said.lstrip(_AROUND)):
        return None
    first = normal(said).split(" ", 1)[0].strip(_MARKS + _AROUND + ",;:")
    answer = read_yes_no(_TRUTH.get(first, said))
    return None if answer is None else "yes" if answer else "no"


# ----------------------------------------------------------------------------------------------------- multiple choice


def read_choice(said: str, choices: Sequence[str]) -> int | None:
    """Which option is meant, by its text, by its letter, or by both. None where that is not certain.

    A letter that is some other option's text, and a text that two options have, are not certain by themselves.
    """
    said = one_line(said)
    texts = _by_text(said, choices)
    letter = _LETTER.fullmatch(said)
    index = LETTERS.index(letter[1]) if letter else len(choices)
    if letter and index < len(choices):
        tail = letter[2] or ""
        named = _by_text(tail, choices) if tail else {index}
        if named and index not in named and not texts:
            return None  # "B. tin", where B is lead
        if index in named:
            return index if texts <= {index} else None
        if not texts:
            return index
    if texts:
        return next(iter(texts)) if len(texts) == 1 else None
    return _contained(said, choices)


def looks_like_letter(text: str) -> bool:
    """Whether a text may be taken for the letter of an option, alone or with words behind it."""
    return _LETTER.fullmatch(text) is not None


def _by_text(said: str, choices: Sequence[str]) -> set[int]:
    """The options with this text: to the letter if there are such, else but for case, marks and numbers."""
    forms = {said, without_stop(said), said[:-1] if said.endswith(".") else said}
    exact = {i for i, choice in enumerate(choices) if one_line(choice) in forms}
    return exact or {i for i, choice in enumerate(choices) if normal(choice) == normal(said)}


def _contained(said: str, choices: Sequence[str]) -> int | None:
    """The one option whose text stands in a longer answer, as in "It must be lead, I think."."""
    text = normal(said)
    if _NEGATED.search(text):
        return None
    found = {
        i: plain
        for i, plain in enumerate(map(normal, choices))
        if re.search(rf"(?<![\w.,]){re.escape(plain)}(?!\w|[.,]\d)", text)
    }
    longest = [i for i, plain in found.items() if not any(plain in o for j, o in found.items() if j != i)]
    return longest[0] if len(longest) == 1 and len(found[longest[0]]) > 1 else None
