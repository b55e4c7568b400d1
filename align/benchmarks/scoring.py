"""What an answer is worth, from its text alone: is it exactly right, and is it in the stated form?

    exactness("The last word is MAP", {"word": "map", "sentence": "The last word is map."})   ->  1.0
    has_form("The last word is map.", "sentence")                                             ->  1.0

Exactness is an exact match against the true answers in any form, after case, punctuation and white space are ignored
(as SQuAD's EM, arXiv:1606.05250, section 4.2); it cannot be raised by style, length or hedging. Form looks at shape
alone and knows no truth. The headline asks for both. Nothing here is shared with the annotators: a model that was
aligned to please a rubric is measured by other means.

Open answers are never "unparsed": an empty or garbled one is simply not the true answer, so its exactness is 0. Yes/no
answers can be; see `read_yes_no`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

EXACT_FORM = "exact+form/1"
STRICT_YES_NO = "yes-no-first-word/1"
OFFICIAL_YES_NO = "yes-no-official/1"

_NOT_WORD = re.compile(r"[^\w\s]+")
_ENDS = re.compile(r"[.!](?=\s|$)|\n|\?(?=\s|$)")
_NUMBERED = re.compile(r"(?:^|\s)(\d+)[.)]\s+(?=\S)")


def normal(text: str) -> str:
    """Lower case, no punctuation, single spaces; what exactness compares."""
    return " ".join(_NOT_WORD.sub(" ", text.casefold()).split())


def n_words(text: str) -> float:
    return float(len(text.split()))


def exactness(text: str, accepted: Mapping[str, str]) -> float:
    """1 if the text is one of the true answers, in whichever form."""
    return float(normal(text) in {normal(answer) for answer in accepted.values()})


def has_form(text: str, form: Literal["sentence", "word", "list"] | None) -> float:
    """1 if the text has the shape the question asked for; a question that states none is content with any."""
    text = text.strip()
    if form is None:
        return 1.0
    if form == "word":
        return float(len(normal(text).split()) == 1)
    numbers = [int(n) for n in _NUMBERED.findall(text)]
    if form == "list":
        return float(numbers == list(range(1, len(numbers) + 1)) and bool(numbers) and text.startswith("1"))
    begins = text[:1] == text[:1].upper() and len(text.split()) >= 3
    return float(begins and not numbers and _ENDS.findall(text) == [text[-1:]])


def read_yes_no(text: str, parser: str = STRICT_YES_NO) -> bool | None:
    """Yes, no, or None where the text says neither.

    `STRICT_YES_NO`: the first word decides, and must be yes or no. `OFFICIAL_YES_NO`: POPE's own reading
    (arXiv:2305.10355): the first sentence says no if it has the word no or not, and yes otherwise, whatever it says.
    """
    if parser == STRICT_YES_NO:
        first = normal(text).split(" ", 1)[0]
        return {"yes": True, "no": False}.get(first)
    if parser == OFFICIAL_YES_NO:
        words = text.split(".", 1)[0].replace(",", "").split(" ")
        return not {"No", "not", "no"} & set(words)
    raise ValueError(f"no parser {parser!r} for yes/no answers")
