"""How alike the questions of a training set are, for the reader: table, sentences and histograms (`diversity/1`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.report.figures import _INK, _drawn
from align.report.pieces import Cell
from align.report.words import p_text

Found = Mapping[str, Any]
TITLE = "How alike the questions are"
_INKS = {"vision-vision": "vlm", "language-language": "backbone", "vision-language": "dpo"}
_LINES = {"vision-vision": "-", "language-language": "--", "vision-language": ":"}
_STARS = 0.001
"""Below this p a difference has the paper's three stars."""


def embedder_line(found: Found) -> str:
    """Which embedder made the numbers: what has to be known before any of them is read."""
    embedder = found["embedder"]
    if embedder["papers"]:
        return f"Embedder: {embedder['name']}, the one of MLAN (Figure 8)."
    why = f" ({embedder['why']})" if embedder["why"] else ""
    return f"Embedder: {embedder['name']}{why}. MLAN's is another: do not compare these numbers with the paper's."


def rows(found: Found) -> tuple[list[str], list[list[Cell]]]:
    head = ["pairs", "mean cosine", "sd", "n", "of", "questions"]
    return head, [
        [
            one["name"],
            _value(one["mean"], one["low"], one["high"]),
            "–" if one["sd"] is None else f"{one['sd']:.3f}",
            f"{one['n']:,}",
            f"{one['possible']:,}",
            f"{one['questions']:,}",
        ]
        for one in found["settings"]
    ]


def said(found: Found) -> Iterator[str]:
    """Comparisons first, then how they were made and what there was too little of."""
    for one in found["comparisons"]:
        yield f"{one['first']} minus {one['second']}: {_compared(one)}"
    if found["comparisons"]:
        yield (
            "z is the paper's two-sided test, which takes all pairs for independent (***: p < 0.001). Intervals of 95% "
            "and the p beside them are over questions, since one question stands in several pairs: they say what other "
            "questions of the same kind would show."
        )
    whole = "whole last turns, passage, instruction and options included"
    alone = "the questions alone, without passage, instruction and options where rows say which these are"
    yield f"Embedded: {found['embedded']:,} different texts; {alone if found['asked'] == 'question' else whole}."
    for one in found["settings"]:
        if one["n"] < found["pairs"]:
            yield f"{one['name']}: {one['n']:,} pairs are all there are; {found['pairs']:,} were wanted."
    for name in sorted({*_INKS} - {one["name"] for one in found["settings"]}):
        yield f"{name}: no pair of two different questions."
    if without := sum(file["without_question"] for file in found["files"]):
        yield f"{without:,} row(s) ask nothing in words and are left out."


def histograms(found: Found) -> str:
    """One outline per setting, as shares of its pairs, and a line at each mean."""
    edges = found["edges"]
    with _drawn("diversity", 1, 1, 8.4, 3.6) as (axes, out):
        ax = axes[0, 0]
        filled = [i for one in found["settings"] for i, count in enumerate(one["histogram"]) if count]
        first, last = min(filled), max(filled) + 1
        for one in found["settings"]:
            ink, line = _INK[_INKS[one["name"]]], _LINES[one["name"]]
            shares = [count / one["n"] for count in one["histogram"][first:last]]
            label = f"{one['name']}, mean {_number(one['mean'])}"
            ax.stairs(shares, edges[first : last + 1], color=ink, linestyle=line, linewidth=1.6, label=label)
            ax.axvline(one["mean"], color=ink, linestyle=line, linewidth=1)
        ax.set_xlabel("cosine similarity of two questions")
        ax.set_ylabel("share of pairs")
        ax.legend(fontsize=8)
    return out[0]


def _compared(one: Found) -> str:
    if one["z"] is None:
        return f"{_number(one['difference'], '+')}; no test: the cosines do not differ, or are too few"
    stars = " ***" if one["p_pairs"] < _STARS else ""
    between = _value(one["difference"], one["low"], one["high"], "+")
    over = " ".join([*between, p_text(one["p"])]) if isinstance(between, tuple) else between
    return f"{over}; z={_number(one['z'], '+', 1)}, {p_text(one['p_pairs'])}{stars}"


def _value(value: float, low: float | None, high: float | None, sign: str = "") -> Cell:
    if low is None or high is None:
        return _number(value, sign)
    return _number(value, sign), f"[{_number(low, sign)}, {_number(high, sign)}]"


def _number(value: float, sign: str = "", places: int = 3) -> str:
    return f"{round(value, places) + 0.0:{sign}.{places}f}".replace("-", "−")
