"""The doctor's report as HTML: a section of the run's report, and a page of its own. Standard library only.

    doctor_html(report)    ->  '<section id="doctor" …>…</section>', figures as inline SVG, all text escaped
    doctor_page(report)    ->  a whole document around it that asks nobody for anything

Words, sources, ids and file names come from data that somebody else wrote; `pieces.py` escapes all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.calibration.figure import is_known
from align.calibration.words import number, p_text
from align.doctor.words import apart_text, findings, headline, skipped_text
from align.report.pieces import cell, counts, document, facts, heat_map, missing, note, panel, table, text
from align.report.strips import Strip, bars, strips

Json = Mapping[str, Any]
LEDE = (
    "What training on these data would teach beside what is meant. Intervals are 95%, by bootstrap over prompts; n "
    "counts prompts. A dash: it cannot be known from the records, and is not 0."
)


def doctor_page(report: Json) -> str:
    """doctor.html: the section as a document of its own."""
    return document(", ".join(["doctor", *report.get("files", ())]), doctor_html(report))


def doctor_html(report: Json) -> str:
    """The section. It carries no style of its own; without the page's it is plain but readable."""
    made = "".join(f'<li class="{f.level}"><b>{text(f.topic)}</b> {text(f.text)}</li>\n' for f in findings(report))
    parts = (
        _size, _margins, _ties, _length, _scores_and_length, _drift, _position, _saturation, _duplicates, _polarity,
        _attributes, _vocabulary, _leakage, _bad_rows,
    )  # fmt: skip
    return (
        '<section id="doctor" class="calibration doctor">\n<h2>What is wrong with the data?</h2>\n'
        f'<p class="lede"><b>{text(headline(report))}.</b> {text(LEDE)}{_called(report)}</p>\n'
        f'<ul class="findings">\n{made}</ul>\n<div class="figures">\n'
        + "".join(part(report) for part in parts)
        + "</div>\n</section>\n"
    )


def _called(report: Json) -> str:
    return f" Made by <code>{text(report['command'])}</code>." if "command" in report else ""


# --------------------------------------------------------------------------------------------------------- the parts


def _size(report: Json) -> str:
    size = report["size"]
    steps = {row["step"]: row["count"] for row in report["funnel"]}
    if not steps:
        scored = {"completions": size["completions"], "of these scored": size["completions_scored"]}
        steps = {"prompts": size["n"], **(scored if size["annotated"] else {}), "pairs": size["pairs"]}
    by_path = size["images_known_by_path"]
    rows = [
        ("annotations", f"{size['annotations']:,}" if size["annotated"] else "– (no annotated rows)"),
        ("prompts with images", f"{size['prompts_with_images']:,}"),
        ("distinct images", f"{size['images']:,}" + (f", {by_path:,} known by path only" if by_path else "")),
    ]
    head = ["source", "prompts", "annotated", "pairs", "examples"]
    sources = [
        [s["source"] or "(none)", f"{s['distinct_prompts']:,}", *(f"{s[kind]:,}" for kind in head[2:])]
        for s in size["sources"]
    ]
    return panel("How much there is", counts(steps), facts(rows), table(head, sources))


def _margins(report: Json) -> str:
    pairs, prompts = report["margins"]["pairs"], report["margins"]["best_minus_worst"]
    if "bins" not in pairs:
        said = missing(pairs["why"])
    else:
        unknown = f", {pairs['n_unknown']:,} without" if pairs["n_unknown"] else ""
        said = note(f"mean {number(pairs['mean'], '.2f')}, {pairs['n_pairs']:,} pairs{unknown}")
        said = _histogram(pairs["bins"], "margins of the pairs") + said
    made = panel("Margins: chosen − rejected, points", said)
    if "bins" in prompts:
        told = note(f"mean {number(prompts['mean'], '.2f')}, n={prompts['n']:,}")
        made += panel("Best − worst completion, points", _histogram(prompts["bins"], "best minus worst"), told)
    return made


def _histogram(found: Sequence[Json], label: str) -> str:
    return bars([(f"{b['low']:g}", b["count"]) for b in found], label)


def _ties(report: Json) -> str:
    found = report["ties"]
    rows = []
    titles = {"pairs": "pairs, margin 0", "scores": "equal scores", "preferences": "said “tie”"}
    for name, title in titles.items():
        if "share" in found[name]:
            rows.append(Strip(title, found[name]["share"], ".1%"))
    if "several_best" in found["scores"]:
        rows.append(Strip("several best", found["scores"]["several_best"], ".1%"))
    if not rows:
        return panel("Ties", missing(found["why"]))
    return panel("Ties", strips(rows, low=0.0, high=1.0, mark=0.0, label="shares of ties"))


def _length(report: Json) -> str:
    found = report["length"]
    if "win_rate" not in found:
        return panel("Is longer better?", missing(found["why"]))
    rows = [Strip("longer wins", found["win_rate"], ".0%")]
    drawn = strips(rows, low=0.0, high=1.0, mark=0.5, label="how often the longer completion wins")
    pairs = found["pairs"]
    if "ratio" not in pairs:
        did = "has the higher score" if found["of"] == "scores" else "is preferred"
        return panel("Is longer better?", drawn, note(f"how often the longer of two completions of a prompt {did}"))
    said = (
        f"chosen is the longer one in {pairs['longer']:,} pairs, the shorter one in {pairs['shorter']:,}, as long in "
        f"{pairs['equal']:,}; geometric mean ratio {number(pairs['ratio'], '.2f')}; words of chosen "
        f"{number(pairs['chosen_words'], '.1f')}, of rejected {number(pairs['rejected_words'], '.1f')}"
    )
    return panel("Is longer chosen?", drawn, note(said))


def _scores_and_length(report: Json) -> str:
    found = report["length"]["scores"]
    title = "Do scores follow length?"
    if "spearman" not in found:
        return panel(title, missing(found["why"]))
    rows = [Strip(name, rho, "+.2f") for name, rho in found["spearman"].items()]
    said = note("Spearman with the number of characters, within the prompt")
    return panel(title, strips(rows, low=-1.0, high=1.0, mark=0.0, label="correlation with length"), said)


def _drift(report: Json) -> str:
    found = report["drift"]
    title = "What drifts between chosen and rejected"
    if "measures" not in found:
        return panel(title, missing(found["why"]))
    ends = [f[key] for f in found["measures"].values() for key in ("value", "low", "high") if f.get(key) is not None]
    reach = max([0.5, *map(abs, ends)])
    rows = [Strip(name, figure, "+.2f") for name, figure in found["measures"].items()]
    said = "points, chosen − rejected" if found["of"] == "chosen_minus_rejected" else "points, best − worst completion"
    said += ", by the scores that the pairs carry" if found["scored_in"] == "pairs" else ""
    return panel(title, strips(rows, low=-reach, high=reach, mark=0.0, label="differences in score"), note(said))


def _position(report: Json) -> str:
    found = report["position"]
    title = "Does the place matter?"
    if "mode" not in found:
        return panel(title, missing(found["why"]))
    left = [note(skipped_text(found))] if found["skipped"] else []
    if found["mode"] == "pairwise":
        rows = [Strip("first preferred", found["first"], ".0%")]
        said = f"{p_text(found['p'])} (sign flips by prompt), {found['n_preferences']:,} preferences"
        return panel(title, strips(rows, low=0.0, high=1.0, mark=0.5, label="share preferred"), note(said), *left)
    rows = [Strip(f"place {slot['slot']}", slot["effect"], "+.2f") for slot in found["slots"]]
    ends = [slot["effect"].get(key) for slot in found["slots"] for key in ("value", "low", "high")]
    reach = max([0.25, *(abs(end) for end in ends if end is not None)])
    said = (
        f"preference score above the prompt's own mean, by place; best and worst {apart_text(found)}; "
        f"{p_text(found['p'])} (rotations within the prompt)"
    )
    return panel(title, strips(rows, low=-reach, high=reach, mark=0.0, label="effect of place"), note(said), *left)


def _saturation(report: Json) -> str:
    found = report["saturation"]
    title = "Prompts whose completions all score the same"
    if "measures" not in found:
        return panel(title, missing(found["why"]))
    rows = [Strip(name, figure, ".0%") for name, figure in found["measures"].items()]
    said = note(f"preference score: {found['score']}")
    return panel(title, strips(rows, low=0.0, high=1.0, mark=0.5, label="share of saturated prompts"), said)


def _duplicates(report: Json) -> str:
    found, same = report["duplicates"], report["identical"]
    rows = {
        "annotated prompts that repeat an earlier one": found["prompts"]["repeated"],
        "prompts that differ in spacing or case only": found["prompts"]["differ_in_spacing_or_case_only"],
    }
    notes = []
    if "share" in found["completions"]:
        completions = found["completions"]
        rows["texts that answer several prompts"] = completions["texts_of_several_prompts"]
        notes.append(
            f"{number(completions['share'], '.1%')} of completions repeat another of their prompt; the most repeated "
            f"text answers {completions['most_repeated'][0]['prompts']:,} prompts, e.g. "
            f"{completions['most_repeated'][0]['prompt']}"
            if completions["most_repeated"]
            else f"{number(completions['share'], '.1%')} of completions repeat another of their prompt"
        )
    if "share" in found["pairs"]:
        pairs = found["pairs"]
        rows["pairs that repeat an earlier one"] = pairs["repeated"]
        rows["pairs whose opposite is there too"] = pairs["contradictory"]
        rows["pairs with chosen = rejected, to the letter"] = same["exact"]
        rows["pairs with chosen = rejected, but for spacing and case"] = same["folded"]
        for name, ids in (
            ("repeated", pairs["repeated_examples"]),
            ("contradictory", pairs["contradictory_examples"]),
            ("chosen = rejected", same["examples"]),
        ):
            notes += [f"{name}, e.g. {', '.join(ids)}"] if ids else []
    made = panel("What is there twice", counts(rows, small=True), *map(note, notes))
    return made


def _polarity(report: Json) -> str:
    found = report["polarity"]
    head = ["", "prompts", "completions: yes / no / other", "chosen", "rejected", "yes wins"]

    def line(name: str, row: Json) -> list[Any]:
        said = [row[key].values() for key in ("completions", "chosen", "rejected")]
        told = [" / ".join(f"{count:,}" for count in counted) if any(counted) else "–" for counted in said]
        return [name, f"{row['prompts']:,}", *told, cell(row["yes_wins"], ".0%")]

    rows = [line(v["polarity"], v) for v in found["values"]] + [line("all", found["all"])]
    said = [missing(found["why"])] if "why" in found else []
    return panel("Yes and no", *said, table(head, rows), wide=True)


def _attributes(report: Json) -> str:
    found = report["attributes"]
    if "cells" not in found:
        return panel("Do attributes say the same?", missing(found["why"]))
    made = ""
    for key, title in (("all", "Correlation of attributes, all completions"), ("within", "… within each prompt")):
        figures = {(c["a"], c["b"]): c[key] for c in found["cells"]}
        n = max((c["n_completions"] for c in found["cells"]), default=0)
        said = note(f"Pearson, {n:,} completions, n={found['n']:,} prompts")
        made += panel(title, heat_map(found["names"], figures), said, wide=True)
    return made


def _vocabulary(report: Json) -> str:
    found = report["vocabulary"]
    title = "Words that tell chosen from rejected"
    if "in_chosen" not in found:
        return panel(title, missing(found["why"]))
    head = ["word", "z", "chosen", "rejected", "pairs with it in chosen", "in rejected"]
    made = ""
    for key, side in (("in_chosen", "chosen"), ("in_rejected", "rejected")):
        rows = [[r["word"], f"{r['z']:+.1f}".replace("-", "−"), *(f"{r[c]:,}" for c in _COUNTS)] for r in found[key]]
        inside = table(head, rows) if rows else missing(f"no word stands out in {side}")
        made += panel(f"{title}: in {side}", inside)
    return made


_COUNTS = ("chosen", "rejected", "chosen_pairs", "rejected_pairs")


def _leakage(report: Json) -> str:
    found = report["leakage"]
    if "sets" not in found:
        return panel("Leakage of evaluation sets", missing(found["why"]))
    return "".join(_leaked(one) for one in found["sets"])


def _leaked(found: Json) -> str:
    words, images = found["text"], found["images"]
    rows = {
        "questions": found["n"],
        "text equal": words["exact"],
        "text contained": words["contained"],
        "some words in common": words["touched"],
        "image the same": images["same"],
        "image near": images["near"],
        "image of the same file name, not opened": images["name"],
        "text there, image not compared": found["n_unknown"],
    }
    notes = []
    for title, figure in (("in the data", found["leaked"]), ("image in the data", images["shared"])):
        value = f"{figure['value']:.1%} of {figure['n']:,}" if is_known(figure) else f"– {figure['why']}"
        notes.append(f"{title}: {value}" + (f"; {figure['why']}" if is_known(figure) and "why" in figure else ""))
    if images["flat"]:
        notes.append(f"{images['flat']:,} questions have a flat image, which is compared with nothing")
    if images["n_by_bytes_only"]:
        notes.append(f"{images['n_by_bytes_only']:,} images are known by sha256 only: changed copies are not found")
    if images["n_records_unreadable"]:
        notes.append(f"{images['n_records_unreadable']:,} images of the data could not be read")
    if words["exact_only"]:
        notes.append(
            f"{words['exact_only']:,} questions are too short, or too much alike, for n-grams: equal text only"
        )
    head = ["question", "record, by its prompt’s id", "text", "share", "image", "words"]
    lines = [
        [f["item"], f["record"] or "–", f["text"] or "–", f"{f['share']:.0%}", _image(f), f["evidence"]]
        for f in found["findings"][:25]
    ]
    inside = [counts(rows, small=True), *map(note, notes), table(head, lines) if lines else ""]
    return panel(f"Leakage: {found['name']}", *inside, wide=True)


def _image(finding: Json) -> str:
    return finding["image"] or ("not compared" if finding["leaked"] is None else "–")


def _bad_rows(report: Json) -> str:
    bad = report["bad_rows"]
    if not bad["count"]:
        return ""
    return panel(f"Rows that could not be read: {bad['count']:,}", *map(note, bad["first"]), wide=True)
