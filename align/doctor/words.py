"""What was found, in words: worst news first, and the dozen lines that the terminal shows.

`bad`: beyond the bound named below, or a broken limit. `mind`: near it, or significant but small. `good`: fine.
`info`: nothing to be judged, or what cannot be known from this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from align.calibration.figure import is_bounded, is_known
from align.calibration.readings import PREFERENCE
from align.calibration.words import LEVELS, SIGNS, Finding, Level, number, p_text
from align.doctor.thresholds import THRESHOLDS

Json = Mapping[str, Any]
WIDTH = 120
LINES = 16
LONGER_WINS = 0.6
"""Share of pairs in which the longer one is chosen from which on training mostly teaches to write more."""
LONGER = 1.25
"""Chosen over rejected length."""
FOLLOWS_LENGTH = 0.3
SATURATED = 0.5
TIED = 0.05
DRIFT = 0.5
"""Points of verbosity or complexity between chosen and rejected."""
PLACE = 0.25
FIRST = 0.05
"""Pairwise: share preferred first, away from a half."""
SAME = 0.9
"""Correlation from which on two attributes say the same."""
UNEVEN = 0.6
REPEATED = 0.25
"""Share of completions that repeat another of their prompt: as much of sampling and rating was in vain."""
TELLS = 10.0
SIGNIFICANT = 0.05
APART = "no prompt of the annotated rows is among the pairs, so that no score is known of any pair"
APART_REMEDY = "give the two files of one run, and the --image-root that `align pairs` had"
FEWEST = 10
"""Prompts below which no estimate is judged."""


def findings(report: Json) -> list[Finding]:
    """All findings, worst first."""
    parts = (
        _limits, _bad_rows, _joined, _leakage, _pairs, _completions, _length, _drift, _ties, _margins, _saturation,
        _position, _attributes, _polarity, _vocabulary, _unknown,
    )  # fmt: skip
    found = [finding for part in parts for finding in part(report)]
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def verdict_text(report: Json) -> str:
    """A few lines for a terminal."""
    found = findings(report)
    width = max((len(f.topic) for f in found[:LINES]), default=0)
    lines = wrap(headline(report), WIDTH, max_lines=1, placeholder=" …")
    for told_before, finding in enumerate(found):
        line = "".join(c if c.isprintable() else "?" for c in f"{finding.topic:<{width}}  {finding.text}")
        told = wrap(
            f"{SIGNS[finding.level]} {line}", WIDTH, subsequent_indent=" " * (width + 5), max_lines=2,
            placeholder=" …", break_on_hyphens=False,
        )  # fmt: skip
        if len(lines) + len(told) > LINES + 1:
            lines.append(f"   {len(found) - told_before} more in doctor.html")
            break
        lines += told
    return "\n".join(lines) + "\n"


def headline(report: Json) -> str:
    """How much was examined."""
    size = report["size"]
    kinds = [f"{size[kind]:,} {name}" for kind, name in _KINDS.items() if size[kind]]
    return f"{size['n']:,} prompt{'' if size['n'] == 1 else 's'}: {', '.join(kinds) or 'nothing'}"


_KINDS = {"annotated": "annotated", "pairs": "pairs", "examples": "examples", "prompts": "without answers"}


def limit_text(checked: Json) -> str:
    """As a line: `max_ties=0.05 broken by 12.0% [10.1%, 14.2%]: share of …; raise pairs.min_margin, …`."""
    known = is_known(checked["figure"])
    found = number(checked["figure"], THRESHOLDS[checked["name"]].form) if known else "not known"
    found += f" ({checked['why']})" if checked["why"] else ""
    sign = "broken by" if checked["broken"] else "kept by"
    remedy = f"; {checked['remedy']}" if checked["broken"] and not checked["why"] else ""
    return f"{checked['name']}={checked['limit']:g} {sign} {found}: {checked['what']}{remedy}"


# -------------------------------------------------------------------------------------------------------- one by one


def _limits(report: Json) -> Iterator[Finding]:
    for checked in report["limits"]:
        yield Finding("bad" if checked["broken"] else "good", "limit", limit_text(checked))


def _bad_rows(report: Json) -> Iterator[Finding]:
    bad = report["bad_rows"]
    if bad["count"]:
        yield Finding("bad", "bad rows", f"{bad['count']:,} could not be read and are left out: {bad['first'][0]}")


def _joined(report: Json) -> Iterator[Finding]:
    size = report["size"]
    if size["annotated"] and size["pairs"] and not size["annotated_and_paired"]:
        yield Finding("bad", "not joined", f"{APART}: {APART_REMEDY}")


def _leakage(report: Json) -> Iterator[Finding]:
    for found in report["leakage"].get("sets", []):
        leaked, shared = found["leaked"], found["images"]["shared"]
        level: Level = "good"
        parts = []
        if leaked.get("unknown") or not is_known(leaked):
            level = "mind"
            parts.append(leaked["why"] if leaked.get("unknown") else f"not known: {leaked['why']}")
        if is_known(leaked):
            level = "bad" if leaked["value"] else level
            rest = "of the other " if leaked.get("unknown") else "of "
            parts.append(f"{leaked['value']:.1%} {rest}{leaked['n']:,} questions stand in the data")
        if found["images"]["name"]:
            parts.append(f"the images of {found['images']['name']:,} are known by their file names only")
        if is_known(shared) and shared["value"]:
            level = "mind" if level == "good" else level
            parts.append(f"{shared['value']:.1%} of {shared['n']:,} share an image with it")
        yield Finding(level, f"leakage {found['name']}", "; ".join(parts))


def _pairs(report: Json) -> Iterator[Finding]:
    same, pairs = report["identical"], report["duplicates"]["pairs"]
    if "why" in pairs:
        return
    if same["folded"]:
        text = f"{same['folded']:,} of {same['n']:,} pairs: chosen is rejected ({same['exact']:,} to the letter)"
        yield Finding("bad", "chosen = rejected", text)
    if pairs["contradictory"]:
        text = f"{pairs['contradictory']:,} of {pairs['n']:,} pairs: the opposite is there too"
        yield Finding("bad", "contradictions", text)
    if pairs["repeated"]:
        yield Finding("mind", "duplicates", f"{pairs['repeated']:,} of {pairs['n']:,} pairs repeat an earlier one")
    if not (same["folded"] or pairs["contradictory"] or pairs["repeated"]):
        yield Finding("good", "duplicates", f"none among {pairs['n']:,} pairs; no contradictions, no equal texts")


def _completions(report: Json) -> Iterator[Finding]:
    share = report["duplicates"]["completions"].get("share")
    if is_known(share) and share is not None and share["value"] > REPEATED:
        text = f"{number(share, '.0%')} say the same as another one of their prompt, n={share['n']:,}"
        yield Finding("mind", "completions", text)


def _length(report: Json) -> Iterator[Finding]:
    found = report["length"]
    rate = found.get("win_rate")
    if is_known(rate):
        did = {"pairs": "is chosen", "scores": "is scored higher", "preferences": "is preferred"}[found["of"]]
        text = f"the longer one {did} in {number(rate, '.0%')}, n={rate['n']:,}"
        ratio = found["pairs"].get("ratio")
        if is_known(ratio):
            text += f"; chosen is {number(ratio, '.2f')} times as long"
        wins = rate["value"] > LONGER_WINS and _apart(rate, 0.5)
        beyond = wins or (is_known(ratio) and ratio["value"] > LONGER and _apart(ratio, 1))
        yield _estimate("bad" if beyond else "mind" if _apart(rate, 0.5) else "good", "length", text, rate["n"])
    rho = found["scores"].get("spearman", {}).get(PREFERENCE)
    if is_known(rho):
        level: Level = "good" if not _apart(rho, 0) else "bad" if rho["value"] >= FOLLOWS_LENGTH else "mind"
        text = f"rank correlation {number(rho)} within prompts, n={rho['n']:,}"
        yield _estimate(level, "score ~ length", text, rho["n"])


def _drift(report: Json) -> Iterator[Finding]:
    found = report["drift"]
    for name in found.get("descriptive", []):
        figure = found["measures"][name]
        if is_known(figure):
            level: Level = "good" if not _apart(figure, 0) else "bad" if abs(figure["value"]) >= DRIFT else "mind"
            between = found["of"].replace("_", " ").replace("minus", "−")
            yield _estimate(level, name, f"{between} {number(figure)} points, n={figure['n']:,}", figure["n"])


def _ties(report: Json) -> Iterator[Finding]:
    share = report["ties"].get("share")
    if is_known(share) and share is not None:
        of = {
            "pairs": "of pairs have margin 0",
            "scores": "of completions of one prompt have equal scores",
            "preferences": "of preferences are a tie",
        }[report["ties"]["of"]]
        level: Level = "info" if report["ties"]["of"] != "pairs" else "bad" if share["value"] > TIED else "good"
        yield Finding(level, "ties", f"{number(share, '.1%')} {of}, n={share['n']:,}")


def _margins(report: Json) -> Iterator[Finding]:
    found = report["margins"]["pairs"]
    if "mean" not in found:
        return
    if found["negative"]:
        text = f"{found['negative']:,} of {found['n_pairs']:,} pairs: rejected has the higher score"
        yield Finding("bad", "margins below 0", text)
    yield Finding(
        "info", "margin", f"mean {number(found['mean'], '.2f')}, median {found['median']:g}, n={found['n']:,}"
    )


def _saturation(report: Json) -> Iterator[Finding]:
    share = report["saturation"].get("measures", {}).get(PREFERENCE)
    if is_known(share):
        text = f"all completions score the same in {number(share, '.0%')} of prompts, n={share['n']:,}"
        yield _estimate("bad" if share["value"] > SATURATED else "good", "no preference", text, share["n"])


def _position(report: Json) -> Iterator[Finding]:
    found = report["position"]
    effect = found.get("effect")
    if not is_known(effect) or not is_known(found["p"]):
        return
    if found["mode"] == "pairwise":
        bound, text = FIRST, f"the first one is preferred in {number(found['first'], '.0%')}"
    else:
        bound, text = PLACE, f"best and worst place {apart_text(found)}"
    level: Level = "good" if found["p"]["value"] >= SIGNIFICANT else "bad" if effect["value"] >= bound else "mind"
    left = f"; {skipped_text(found)}" if found["skipped"] else ""
    yield _estimate(level, "place shown", f"{text}, {p_text(found['p'])}, n={found['n']:,}{left}", found["n"])


def apart_text(position: Json) -> str:
    """`0.20 points apart (0.35 by chance alone)`: the effect has no interval, since it is never below 0."""
    return f"{number(position['effect'], '.2f')} points apart ({number(position['by_chance'], '.2f')} by chance alone)"


def skipped_text(position: Json) -> str:
    """Which annotations say nothing of places."""
    n = position["skipped"]
    return f"{n:,} annotation{'' if n == 1 else 's'} by people left out: the order they saw is not known"


def _attributes(report: Json) -> Iterator[Finding]:
    cells = [c for c in report["attributes"].get("cells", []) if is_known(c["all"])]
    same = [c for c in cells if abs(c["all"]["value"]) >= SAME]
    if same:
        pairs = ", ".join(f"{c['a']} and {c['b']} r={c['all']['value']:.2f}" for c in same)
        yield _estimate("mind", "attributes", f"nearly the same: {pairs}", report["attributes"]["n"])


def _polarity(report: Json) -> Iterator[Finding]:
    found = report["polarity"]
    largest = found["largest_share"]
    if not is_known(largest):
        return
    counts = ", ".join(f"{v['polarity']} {v['prompts']:,}" for v in found["values"])
    wins = ", ".join(
        f"{number(v['yes_wins'], '.0%')} of {v['polarity']}" for v in found["values"] if is_known(v["yes_wins"])
    )
    level: Level = "mind" if largest["value"] > UNEVEN else "good"
    yield _estimate(level, "polarity", counts + (f"; yes wins {wins}" if wins else ""), found["n"])


def _vocabulary(report: Json) -> Iterator[Finding]:
    found = report["vocabulary"]
    if not is_known(found.get("largest_z")):
        return
    rows = (*found["in_chosen"][:3], *found["in_rejected"][:3])
    words = [f"“{row['word']}” {row['z']:+.1f}".replace("-", "−") for row in rows]
    level: Level = "mind" if found["largest_z"]["value"] >= TELLS else "good"
    text = f"words that tell (z): {', '.join(words)}" if words else "no word tells chosen from rejected"
    yield Finding(level, "vocabulary", text)


def _unknown(report: Json) -> Iterator[Finding]:
    """What this file cannot say, each reason once."""
    reasons: dict[str, list[str]] = {}
    for topic in ("margins", "ties", "length", "drift", "saturation", "position", "attributes", "polarity", "leakage"):
        found = report["margins"]["pairs"] if topic == "margins" else report[topic]
        if "why" in found:
            reasons.setdefault(found["why"], []).append(topic)
    for why, topics in reasons.items():
        yield Finding("info", ", ".join(topics), why)


def _estimate(level: Level, topic: str, text: str, n: int) -> Finding:
    """A finding about what the data were drawn from, which few prompts say nothing of."""
    return Finding(level, topic, text) if n >= FEWEST else Finding("info", topic, f"{text}: too few prompts to say")


def _apart(figure: Json, from_: float) -> bool:
    return is_bounded(figure) and not figure["low"] <= from_ <= figure["high"]
