"""The calibration card as HTML: a section of the report, and a page of its own. Standard library only.

    card_html(card)    ->  '<section id="calibration" …>…</section>', figures as inline SVG, all text escaped
    card_page(card)    ->  a whole document around it that asks nobody for anything

Names of models, versions, reasons and rubrics come from services and users; nothing is put into the page unescaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.calibration.figure import is_known
from align.calibration.words import cost, findings, headline, number, p_text, short
from align.report.pieces import cell, document, facts, missing, note, panel, table, text
from align.report.pieces import counts as counted
from align.report.strips import Strip, bars, strips

Json = Mapping[str, Any]
LEDE = (
    "Scores are one annotator's. What follows was found by asking it again, in another order, about planted "
    "completions or other images, and by counting. Intervals are 95%, by bootstrap over prompts; n counts prompts."
)
COEFFICIENTS = {
    "kappa": "quadratic κ",
    "alpha_ordinal": "α, ordinal",
    "alpha_interval": "α, interval",
    "tau_b": "τ-b within prompt",
    "mean_absolute_difference": "mean difference, points",
}
CHECKS = {
    "duplicate": "One completion shown twice",
    "wrong_image": "Another prompt's image",
    "blind": "The image withheld",
}
COLUMNS = {
    "equal": ("equal", ".0%"),
    "mean_absolute_difference": ("mean difference", ".2f"),
    "later_minus_earlier": ("later − earlier place", "+.2f"),
    "mean_change": ("mean change", "+.2f"),
    "mean_absolute_change": ("mean size of a change", ".2f"),
}


def card_page(card: Json) -> str:
    """calibration.html: the section as a document of its own."""
    return document("calibration", card_html(card))


def card_html(card: Json) -> str:
    """The section. It carries no style of its own; without the page's it is plain but readable."""
    made = "".join(f'<li class="{f.level}"><b>{text(f.topic)}</b> {text(f.text)}</li>\n' for f in findings(card))
    parts = (_outcomes, _annotator, _scores, _position, _length, _consistency, _checks)
    return (
        '<section id="calibration" class="calibration">\n<h2>How far can the annotator be trusted?</h2>\n'
        f'<p class="lede"><b>{text(headline(card))}.</b> {text(LEDE)}</p>\n'
        f'<ul class="findings">\n{made}</ul>\n<div class="figures">\n'
        + "".join(part(card) for part in parts)
        + f'</div>\n<p class="note">{text(cost(card))}</p>\n</section>\n'
    )


# --------------------------------------------------------------------------------------------------------- the parts


def _outcomes(card: Json) -> str:
    found = card["outcomes"]
    counts = {"answered": found["answered"], **{r["reason"].replace("_", " "): r["count"] for r in found["reasons"]}}
    steps = {f["step"]: f["count"] for f in found["funnel"]}
    prompts = found["prompts"]
    said = f"prompts: {prompts['annotated']:,} annotated, {prompts['in_part']:,} in part, {prompts['lost']:,} lost"
    return panel(
        f"What became of {found['n']:,} questions",
        counted(counts),
        note(said),
        counted(steps, small=True) if steps else "",
    )


def _scores(card: Json) -> str:
    found = card["scores"]
    if "why" in found:
        return panel("Scores", missing(found["why"]))
    made = []
    for name, measure in found["measures"].items():
        equal = number(measure["saturated"], ".0%")
        said = f"mean {number(measure['mean'], '.2f')}; all completions equal in {equal} of prompts"
        drawn = bars(
            [(str(row["level"]), row["count"]) for row in measure["levels"]], f"how often each score of {name}"
        )
        made.append(f"<div><h4>{text(name)} <small>n={measure['mean']['n']}</small></h4>{drawn}{note(said)}</div>")
    summed = note("preference score: " + " + ".join(found["preference_score"]))
    return panel("Scores given", f'<div class="levels">{"".join(made)}</div>', summed, wide=True)


def _position(card: Json) -> str:
    found = card["position"]
    title = "Does the place matter?"
    if "mode" not in found:
        return panel(title, missing(found["why"]))
    if found["mode"] == "pairwise":
        rows = [Strip("first preferred", found["first"], ".0%"), Strip("tie", found["tie"], ".0%")]
        said = f"{p_text(found['p'])} (sign flips by prompt), {found['n_preferences']:,} preferences"
        return panel(title, strips(rows, low=0.0, high=1.0, mark=0.5, label="share preferred"), note(said))
    rows = [Strip(f"place {slot['slot']}", slot["effect"], "+.2f") for slot in found["slots"]]
    ends = [slot["effect"][key] for slot in found["slots"] for key in ("value", "low", "high")]
    reach = max([0.25, *(abs(end) for end in ends if end is not None)])
    eta = f", η² {found['eta_squared']['value']:.4f}" if is_known(found["eta_squared"]) else ""
    means = ", ".join(number(slot["mean"], ".2f") for slot in found["slots"])
    said = (
        f"preference score above the prompt's own mean, by place; {p_text(found['p'])} (rotations within the prompt)"
        f"{eta}; first − last {number(found['first_minus_last'])}; mean scores by place {means}"
    )
    return panel(title, strips(rows, low=-reach, high=reach, mark=0.0, label="effect of place"), note(said))


def _length(card: Json) -> str:
    found = card["length"]
    title = "Is longer better?"
    if "why" in found:
        return panel(title, missing(found["why"]))
    if "longer_preferred" in found:
        rows = [Strip("longer preferred", found["longer_preferred"], ".0%")]
        said = f"{p_text(found['p'])}, {found['n_preferences']:,} preferences"
        return panel(title, strips(rows, low=0.0, high=1.0, mark=0.5, label="longer preferred"), note(said))
    rows = [Strip(name, rho, "+.2f") for name, rho in found["spearman"].items()]
    gap = number(found["best_minus_worst"], "+.0f")
    said = f"Spearman with the number of characters, within the prompt; best − worst completion {gap} characters"
    return panel(title, strips(rows, low=-1.0, high=1.0, mark=0.0, label="correlation with length"), note(said))


def _consistency(card: Json) -> str:
    found = card["consistency"]
    title = "The same again?"
    if "preferences" not in found:
        return panel(title, missing(found["why"]))
    flips = found["preferences"]
    said = (
        f"{number(flips['flip_rate'], '.1%')} of pairs of completions flip from pass to pass; of those that are no tie "
        f"in either, {number(flips['flip_rate_decided'], '.1%')}; n={flips['flip_rate']['n']}"
    )
    head = ["", *COEFFICIENTS.values(), "n"]
    rows = [
        [name, *(cell(measure[key], ".2f") for key in COEFFICIENTS), str(measure["mean_absolute_difference"]["n"])]
        for name, measure in found["measures"].items()
    ]
    return panel(title, table(head, rows) if rows else "", note(said), wide=bool(rows))


def _checks(card: Json) -> str:
    found = card["checks"]
    asked = "".join(_check(title, found[kind]) for kind, title in CHECKS.items() if "measures" in found[kind])
    rest = "".join(note(f"{t}: – {found[k]['why']}") for k, t in CHECKS.items() if "measures" not in found[k])
    return asked + (panel("Not checked", rest) if rest else "")


def _check(title: str, found: Json) -> str:
    keys = [key for key in COLUMNS if any(key in measure for measure in found["measures"].values())]
    head = ["", *(COLUMNS[key][0] for key in keys)]
    rows = [[name, *(cell(m[key], COLUMNS[key][1]) for key in keys)] for name, m in found["measures"].items()]
    notes = [f"n={found['n']}"]
    if "verdict" in found:
        changed = f"{number(found['changed'], '.0%')} of completions have another score than in pass 0"
        notes = [found["verdict"]["text"], changed, f"n={found['n']}"]
    if found.get("n_unmatched"):
        notes.append(f"{found['n_unmatched']} prompts without scores of pass 0 to compare with")
    return panel(title, table(head, rows), note("; ".join(notes)))


def _annotator(card: Json) -> str:
    found = card["annotator"]
    told: list[tuple[str, str]] = []
    for row in found["backends"]:
        told.append(("annotator", f"{row['backend']} {row['model']} ({row['annotations']:,})"))
    for row in found["versions"]:
        told.append(("version returned", f"{row['version'] or '(none told)'} ({row['annotations']:,})"))
    for row in found["rubrics"]:
        told.append(("rubric", f"{row['rubric']} {row['sha256'][:12]} ({row['annotations']:,})"))
    paid = card["cost"]
    for name, key, form in (("cost", "usd", ",.2f"), ("cost of a prompt", "usd_per_prompt", ",.4f")):
        known = is_known(paid[key])
        told.append((name, f"${paid[key]['value']:{form}}" if known else f"– ({paid[key]['why']})"))
    told.append(("calls", f"{paid['calls']:,}"))
    for row in paid["tokens"]:
        each = row["per_annotation"]
        told.append((row["kind"].replace("_", " "), f"{short(row['total'])} ({each['value']:,.0f} an annotation)"))
    return panel("Who, and at what price", facts(told))
