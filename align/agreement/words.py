"""The report in words for a terminal: who was joined, the heat map as aligned numbers, the shares and kappas.

human: 492 of 500 pairs joined (480 by id, 12 by text), missed: 8 no such prompt
Pearson r of differences, first − second, 480 pairs of 480 prompts; 12 human ties left out
helpf.  correc.   …  human
helpfulness          1
…
human preference   +0.05    +0.04    …   1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.calibration.figure import is_known
from align.calibration.readings import PREFERENCE
from align.calibration.words import number

Json = Mapping[str, Any]
COLUMN = 8


def agreement_text(report: Json) -> str:
    """A page for a terminal."""
    who = ", ".join(f"{w['backend']} {w['model']} ({w['annotations']:,})" for w in report["annotators"])
    lines = [
        f"agreement of {who}: {report['prompts']:,} prompts",
        f"{PREFERENCE}: {' + '.join(report['score']) or 'none, preferences only'}",
        "",
        *_human(report["human"]),
        "",
        *_itself(report["itself"]),
        "",
        *_other(report["other"]),
    ]
    return "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)


def joined_text(counts: Json) -> str:
    """What became of the human pairs."""
    ways = ", ".join(f"{n:,} {way}" for way, n in counts["ways"].items() if n)
    missed = ", ".join(f"{n:,} {why}" for why, n in counts["missed"].items() if n)
    found = f"{counts['joined']:,} of {counts['pairs']:,} pairs joined"
    return found + (f" ({ways})" if ways else "") + (f"; missed: {missed}" if missed else "")


def twins_text(counts: Json) -> str:
    """What became of the prompts and completions of two annotators."""
    ways = ", ".join(f"{n:,} {way}" for way, n in counts["ways"].items() if n)
    completions = counts["completions"]
    return (
        f"{counts['joined']:,} of {counts['prompts']:,} prompts joined with its {counts['their_prompts']:,}"
        + (f" ({ways})" if ways else "")
        + f"; of their completions {completions['joined']:,} joined, {completions['missed']:,} not"
    )


def direction_text(found: Json) -> str:
    """Which way the differences go, and what is left out."""
    pairs, ties = found["heat_map"]["pairs"], found["human"]["tie"]
    way = (
        "not every pair says which response came first, so each counts both ways"
        if found["both_ways"]
        else "first response − second; people: +1 the first, −1 the second"
    )
    left = f"; {ties:,} human ties left out" if ties else ""
    return f"{pairs:,} pairs of {found['heat_map']['n']:,} prompts; {way}{left}"


def shares(found: Json) -> Iterator[tuple[str, Json, str]]:
    """Each figure of agreement with its name and form."""
    yield "agree, where both prefer one", found["decided"], ".1%"
    yield "agree, a tie counts half", found["half"], ".1%"
    yield "agree, a tie is an answer", found["answer"], ".1%"
    yield "Cohen's κ, three answers", found["kappa"], "+.2f"
    yield "Cohen's κ, where both prefer one", found["kappa_decided"], "+.2f"


NOTHING_SHARED = "no completion in common is scored by both for the same attribute"
PEOPLE = ("the annotator alone", "people alone")
PASSES = ("the earlier pass alone", "the later alone")
ANNOTATORS = ("this annotator alone", "the other alone")


def counts_text(found: Json, who: tuple[str, str]) -> str:
    """The pairs by how they came out; `who` are the two who answered."""
    c = found["counts"]
    return (
        f"{found['pairs']:,} pairs: {c['same_winner']:,} same winner, {c['other_winner']:,} another; "
        f"ties: {c['both_tie']:,} of both, {c['only_we_tie']:,} of {who[0]}, {c['only_they_tie']:,} of {who[1]}"
    )


# ---------------------------------------------------------------------------------------------------- the sections


def _human(found: Json) -> Iterator[str]:
    if "joined" in found:
        yield f"people: {joined_text(found['joined'])}"
    if "heat_map" not in found:
        yield f"people: – {found['why']}"
        return
    yield f"Pearson r of differences: {direction_text(found)}"
    yield from _heat_map(found["heat_map"])
    yield from _preferences(found["preferences"], PEOPLE)


def _heat_map(found: Json) -> Iterator[str]:
    """The lower half, then the last row once more with its intervals, then what is not defined."""
    names, cells = found["names"], {(c["a"], c["b"]): c for c in found["cells"]}
    wide = max(map(len, names))
    yield " " * wide + "".join(f"{_short(name):>{COLUMN}}" for name in names)
    for i, b in enumerate(names):
        row = "".join(f"{_r(cells[a, b]):>{COLUMN}}" for a in names[:i])
        yield f"{b:<{wide}}{row}{'1':>{COLUMN}}"
    last = names[-1]
    for a in names[:-1]:
        cell = cells[a, last]
        said = number(cell, "+.3f") if is_known(cell) else f"– {cell['why']}"
        yield f"  {last} ~ {a:<{wide}}  {said}, n={cell['pairs']:,} pairs"


def _short(name: str) -> str:
    return name if len(name) < COLUMN else name[: COLUMN - 2].rstrip() + "."


def _r(cell: Json) -> str:
    return number({**cell, "low": None}, "+.2f")


def _preferences(found: Json, who: tuple[str, str]) -> Iterator[str]:
    yield f"  {counts_text(found, who)}"
    if not found["pairs"]:
        yield f"  – {found['answer']['why']}"
        return
    for name, figure, form in shares(found):
        said = number(figure, form) if is_known(figure) else f"– {figure['why']}"
        yield f"  {name:<32}  {said}"


def _itself(found: Json) -> Iterator[str]:
    if "preferences" not in found:
        yield f"itself: – {found['why']}"
        return
    flips = found["preferences"]["flip_rate"]
    yield f"itself: {found['n']:,} prompts in several passes; {number(flips, '.1%')} of pairs flip between two"
    for name, title in (("same_order", "asked again in the same order"), ("other_order", "in another order")):
        section = found[name]
        if "pairs" not in section:
            yield f" {title}: – {section['why']}"
            continue
        yield f" {title}:"
        yield from _preferences(section, PASSES)


def _other(found: Json) -> Iterator[str]:
    if "joined" in found:
        yield f"another annotator: {twins_text(found['joined'])}"
    if "preferences" not in found:
        yield f"another annotator: – {found['why']}"
        return
    for name, figures in found["measures"].items():
        yield (
            f"  {name:<18} quadratic κ {number(figures['kappa'])}, τ-b within prompt {number(figures['tau_b'])}, "
            f"mean difference {number(figures['mean_absolute_difference'], '.2f')} points"
        )
    if not found["measures"]:
        yield f"  {NOTHING_SHARED}"
    yield from _preferences(found["preferences"], ANNOTATORS)
