"""Which option of a multiple choice an answer names.

    read_letter("(B)", ["red", "blue"])                          ->  1
    read_letter("The answer is B.", ["red", "blue"])             ->  1
    read_letter("Blue", ["red", "blue"])                         ->  1
    read_letter("Red or blue", ["red", "blue"])                  ->  None

Nothing is guessed: an answer that names no option, or two, is read as none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from align.benchmarks.scoring import normal

LETTER = "option-letter/1"
LLAVA_LETTER = "option-letter-llava/1"
LETTERS = ascii_uppercase

_ALONE = re.compile(r"[\(\[]?([A-Za-z])[\)\]]?\s*[.:]?")
_LEADS = re.compile(r"(?:[\(\[]([A-Za-z])[\)\]]|([A-Za-z])[.):])(?=\s|$)")
_IS = re.compile(
    r"\b(?:answer|option|choice)(?:\s+(?:is|would be|should be))?\s*:?\s*(?:option\s+)?[*\(\[\"']*([A-Z])\b(?!['’])",
    re.IGNORECASE,
)
_LLAVA_IS = re.compile(r"The answer is ([A-Z]).")


def read_letter(text: str, options: Sequence[str], parser: str = LETTER) -> int | None:
    """Index of the option that the text names, or None.

    `LETTER`: the letter alone or in front (`B`, `(b)`, `B. blue`), else the one letter that "the answer is ..." names,
    else an option's text word for word (case, punctuation and articles aside). `LLAVA_LETTER`: as LLaVA's ScienceQA
    evaluation reads (arXiv:2304.08485): a capital letter alone, in front as `B. `, or in one "The answer is B.".
    """
    if parser == LLAVA_LETTER:
        return _placed(_as_llava(text), options)
    text = text.strip()
    if alone := _ALONE.fullmatch(text):
        return _placed(alone[1], options)
    named = {_placed(letter, options) for letter in _named(text)} - {None}
    if named:
        return named.pop() if len(named) == 1 else None
    said = _bare(text)
    same = [i for i, option in enumerate(options) if _bare(option) == said and said]
    return same[0] if len(same) == 1 else None


def _named(text: str) -> list[str]:
    """Letters that stand in front or behind "the answer is"; two different ones in front are a list of options."""
    letters = []
    if leads := _LEADS.match(text):
        letters.append(leads[1] or leads[2])
    return letters + [found[1] for found in _IS.finditer(text) if found[1] != "a"]


def _as_llava(text: str) -> str:
    if len(text) == 1 or text[1:3] == ". ":
        return text[:1]
    found: list[str] = _LLAVA_IS.findall(text)
    return found[0] if len(found) == 1 else ""


def _placed(letter: str, options: Sequence[str]) -> int | None:
    at = LETTERS.find(letter.upper()) if letter else -1
    return at if 0 <= at < len(options) else None


def _bare(text: str) -> str:
    words = normal(text).split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
