"""The agreement report as HTML: a page of its own that asks nobody for anything. Standard library only.

    agreement_page(report)    ->  '<!doctype html> …', the heat map of Figure 3, shares and kappas with intervals

Names of models and attributes come from files that somebody else wrote; `pieces.py` escapes all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.agreement.words import (
    ANNOTATORS,
    NOTHING_SHARED,
    PASSES,
    PEOPLE,
    counts_text,
    direction_text,
    joined_text,
    shares,
    twins_text,
)
from align.calibration.figure import is_known
from align.report.pieces import cell, counts, document, facts, heat_map, missing, note, panel, table, text
from align.report.strips import Strip, strips

Json = Mapping[str, Any]
LEDE = (
    "An annotator stands in for people. What follows is how often it does as they do, as itself when asked again, and "
    "as another annotator. Intervals are 95%, by bootstrap over prompts; n counts prompts. A dash: it is not defined, "
    "and is not 0."
)
PAPER = (
    "In Multi-Modal Preference Alignment, section 5 and Figure 3, no attribute of Gemini's correlates with people's "
    "preference by more than 0.1, on 500 pairs of LLaVA-RLHF."
)
ORDERS = {"same_order": "Asked again in the same order", "other_order": "Asked again in another order"}


def agreement_page(report: Json) -> str:
    """agreement.html."""
    who = [(f"{w['backend']} {w['model']}", f"{w['annotations']:,} annotations") for w in report["annotators"]]
    known = [*who, ("prompts", f"{report['prompts']:,}"), ("preference score", " + ".join(report["score"]) or "–")]
    called = f" Made by <code>{text(report['command'])}</code>." if "command" in report else ""
    body = (
        '<section id="agreement" class="calibration">\n<h1>Whom does the annotator agree with?</h1>\n'
        f'<p class="lede">{text(LEDE)}{called}</p>\n<div class="figures">\n'
        + panel("The annotator", facts(known))
        + _human(report["human"])
        + _itself(report["itself"])
        + _other(report["other"])
        + "</div>\n</section>\n"
    )
    return document(", ".join(["agreement", *report.get("files", ())]), body)


def _human(found: Json) -> str:
    title = "The annotator and people"
    if "heat_map" not in found:
        return panel(title, missing(found["why"]), *_missed(found))
    said = [note(joined_text(found["joined"])), note(direction_text(found))]
    if found["judged_more_than_once"]:
        said.append(note(f"{found['judged_more_than_once']:,} pairs were judged more than once: the majority counts"))
    drawn = found["heat_map"]
    undefined = dict.fromkeys(c["why"] for c in drawn["cells"] if not is_known(c))
    figures = {(c["a"], c["b"]): c for c in drawn["cells"]}
    made = panel(
        "Correlation of differences between two responses: Pearson's r",
        heat_map(drawn["names"], figures),
        *map(note, undefined),
        note(PAPER),
        *said,
        wide=True,
    )
    prefers = [
        [name, *(f"{found[key][answer]:,}" for answer in ("first", "tie", "second"))]
        for name, key in (("people", "human"), ("annotator", "annotator"))
    ]
    answers = table(["prefers", "first", "neither", "second"], prefers)
    return made + _preferences("Do they prefer the same response?", found["preferences"], PEOPLE, answers)


def _missed(found: Json) -> list[str]:
    if "joined" not in found:
        return []
    missed = found["joined"]["missed"]
    return [note(joined_text(found["joined"])), counts(missed, small=True)]


def _preferences(title: str, found: Json, who: tuple[str, str], *more: str) -> str:
    if not found["pairs"]:
        return panel(title, missing(found["answer"]["why"]), *more)
    rows = [(name, figure, form) for name, figure, form in shares(found)]
    parts = [Strip(_brief(name), figure, form) for name, figure, form in rows if form.endswith("%")]
    kappas = [Strip(_brief(name), figure, form) for name, figure, form in rows if not form.endswith("%")]
    return panel(
        title,
        strips(parts, low=0.0, high=1.0, mark=0.5, label="share of pairs with the same verdict"),
        strips(kappas, low=-1.0, high=1.0, mark=0.0, label="Cohen's kappa"),
        note(counts_text(found, who)),
        *more,
    )


def _brief(name: str) -> str:
    """As long as a strip has room for."""
    return {
        "agree, where both prefer one": "both prefer one",
        "agree, a tie counts half": "tie counts half",
        "agree, a tie is an answer": "tie is an answer",
        "Cohen's κ, three answers": "κ, with ties",
        "Cohen's κ, where both prefer one": "κ, both prefer",
    }[name]


def _itself(found: Json) -> str:
    if "preferences" not in found:
        return panel("The annotator and itself", missing(found["why"]))
    made = _measures("The annotator and itself: pass by pass", found["measures"])
    for name, title in ORDERS.items():
        section = found[name]
        made += _preferences(title, section, PASSES) if "pairs" in section else panel(title, missing(section["why"]))
    return made


def _other(found: Json) -> str:
    title = "The annotator and another"
    if "preferences" not in found:
        told = [note(twins_text(found["joined"]))] if "joined" in found else []
        return panel(title, missing(found["why"]), *told)
    who = ", ".join(f"{w['backend']} {w['model']}" for w in found["who"])
    made = _measures(f"{title}: {who}", found["measures"], note(twins_text(found["joined"])))
    return made + _preferences("Do both annotators prefer the same?", found["preferences"], ANNOTATORS)


def _measures(title: str, measures: Json, *more: str) -> str:
    names = {
        "kappa": ("quadratic κ", ".2f"),
        "alpha_ordinal": ("α, ordinal", ".2f"),
        "tau_b": ("τ-b within prompt", ".2f"),
        "mean_absolute_difference": ("mean difference, points", ".2f"),
    }
    rows = [
        [name, *(cell(figures[key], form) for key, (_, form) in names.items())] for name, figures in measures.items()
    ]
    head = ["", *(label for label, _ in names.values())]
    drawn = table(head, rows) if rows else missing(NOTHING_SHARED)
    return panel(title, drawn, *more, wide=True)
