r"""What a judge's reply says, read by each benchmark's own rule, or None: the judge failed, and there is no number.

    read_rating("Clear and correct. Rating: [[7]]")                    ->  7.0          MT-Bench, 1 to 10
    read_verdict("Both are alike. [[C]]")                              ->  "tie"        MT-Bench, pairs
    read_pair("8 10\nAssistant 2 is more detailed.")                   ->  (8.0, 10.0)  LLaVA-Bench
    read_pair("Assistant 1 deserves 8 and Assistant 2 deserves 6")     ->  None
    read_grade("0.4")                                                  ->  0.4          MM-Vet, 0 to 1

A stored -1, an empty reply and a gateway's web page are None as well. Each rule has a name with a version, which is
recorded beside what it read, so that two ways of reading cannot be mixed up.
"""

from __future__ import annotations

import re
from typing import Literal

MT_BENCH_RATING = "mt-bench-rating/1"
MT_BENCH_VERDICT = "mt-bench-verdict/1"
LLAVA_BENCH_PAIR = "llava-bench-pair/1"
MM_VET_GRADE = "mm-vet-grade/1"

Verdict = Literal["first", "second", "tie"]

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BARE_RATING = re.compile(r"\[(\d+\.?\d*)\]")
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_VERDICTS: dict[str, Verdict] = {"A": "first", "B": "second", "C": "tie"}
_PAIR = re.compile(r"(\d+(?:\.\d*)?)(?:\s*,\s*|\s+)(\d+(?:\.\d*)?)")
_GRADE = re.compile(r"[01](?:\.\d*)?|\.\d+")
_WEB_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)


def read_rating(reply: str) -> float | None:
    """MT-Bench's grade of one answer: the first `[[7]]`, else the first `[7]` (arXiv:2306.05685, FastChat's judge).

    What is not on the scale of 1 to 10 that the judge was asked for is no grade.
    """
    found = None if is_web_page(reply) else _RATING.search(reply) or _BARE_RATING.search(reply)
    return _on_scale(found.group(1), 1, 10) if found else None


def read_verdict(reply: str) -> Verdict | None:
    """MT-Bench's comparison of two answers, `[[A]]`, `[[B]]` or `[[C]]`.

    A reply that names two of them (it repeats the instruction) is no verdict; FastChat would count it for A.
    """
    said = set() if is_web_page(reply) else set(_VERDICT.findall(reply))
    return _VERDICTS[said.pop()] if len(said) == 1 else None


def read_pair(reply: str) -> tuple[float, float] | None:
    """LLaVA-Bench's two grades: the first line holds two numbers up to 10, a space or a comma between, nothing else."""
    lines = reply.strip().splitlines()
    found = _PAIR.fullmatch(lines[0].strip()) if lines else None
    if found is None:
        return None
    first, second = (_on_scale(text, 0, 10) for text in found.groups())
    return None if first is None or second is None else (first, second)


def read_grade(reply: str) -> float | None:
    """MM-Vet's grade: the first word is a number from 0 to 1.

    The official evaluator writes 0.0 where it is none after some tries: a failure that lowers the model's score.
    """
    words = reply.split(maxsplit=1)
    word = words[0].strip("*|`\"'").removesuffix(".") if words else ""
    return _on_scale(word, 0, 1) if _GRADE.fullmatch(word) else None


def is_web_page(reply: str) -> bool:
    """Whether a gateway answered in the judge's place; such a page may hold brackets with numbers in them."""
    return _WEB_PAGE.match(reply) is not None


def _on_scale(text: str, low: float, high: float) -> float | None:
    value = float(text)
    return value if low <= value <= high else None
