"""The card in words: its findings, worst news first, and the dozen lines that the terminal shows.

A finding is `bad` where a figure is beyond the threshold named below, `mind` where it is near it or nothing could be
shown, `good` where it is fine, and `info` where nothing is to be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from align.calibration.figure import is_bounded, is_known
from align.calibration.readings import PREFERENCE

Level = Literal["bad", "mind", "good", "info"]
LEVELS: tuple[Level, ...] = ("bad", "mind", "good", "info")
SIGNS: Mapping[Level, str] = {"bad": "!!", "mind": "! ", "good": "ok", "info": "  "}
WIDTH = 120
LINES = 12

FAILED = 0.05
"""Share of questions without an answer from which on it is bad news."""
FOLLOWS_LENGTH = 0.3
SATURATED = 0.5
RELIABLE, TENTATIVE = 0.8, 0.667
"""Krippendorff's alpha (Krippendorff 2004): to be relied on, fit for tentative conclusions."""
FLIPS = 0.1
EQUAL = 0.9
"""Share of duplicates that should get the same preference score."""
SIGNIFICANT = 0.05
SPREAD, LEAN = 0.25, 0.05
"""A significant effect of place that is also large: points between places, a share of "first" away from a half."""


@dataclass(frozen=True)
class Finding:
    level: Level
    topic: str
    text: str


def findings(card: Mapping[str, Any]) -> list[Finding]:
    """What the card says, worst news first; sections that were not asked for say nothing."""
    parts = (_outcomes, _image_checks, _position, _length, _consistency, _duplicates, _saturation, _versions)
    found = [finding for part in parts for finding in part(card)]
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def card_text(card: Mapping[str, Any]) -> str:
    """At most a dozen lines for a terminal."""
    found = findings(card)
    room = LINES - 2
    kept = found if len(found) <= room else found[:room]
    width = max((len(f.topic) for f in kept), default=0)
    lines = [
        f"calibration: {headline(card)}",
        *(f"{SIGNS[f.level]} {f.topic:<{width}}  {f.text}" for f in kept),
        "   " + cost(card),
    ]
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in map(_plain, lines)) + "\n"


def headline(card: Mapping[str, Any]) -> str:
    """How much was rated, and by whom."""
    annotator, outcomes = card["annotator"], card["outcomes"]
    prompts = outcomes["prompts"]["annotated"] + outcomes["prompts"]["in_part"]
    if not annotator["n"]:
        return f"nothing is annotated, {outcomes['failed']:,} failures"
    who = ", ".join(" ".join(filter(None, (b["backend"], b["model"]))) for b in annotator["backends"])
    modes = ", ".join(m["mode"] for m in annotator["modes"])
    return f"{prompts:,} prompts, {annotator['n']:,} {modes} annotations by {who}"


def cost(card: Mapping[str, Any]) -> str:
    """Calls, money, tokens."""
    paid = card["cost"]
    parts = [f"{paid['calls']:,} calls"]
    if not is_known(paid["usd"]):
        parts.append("cost unknown")
    else:
        each = paid["usd_per_prompt"]
        parts.append(f"${paid['usd']['value']:,.2f}" + (f" (${each['value']:.4f} a prompt)" if is_known(each) else ""))
    parts += [f"{short(t['total'])} {t['kind'].replace('_', ' ')}" for t in paid["tokens"]]
    return "cost: " + ", ".join(parts)


def number(figure: Mapping[str, Any] | None, form: str = "+.2f") -> str:
    """`+0.41 [+0.33, +0.48]`; a dash where there is none."""
    if not is_known(figure) or figure is None:
        return "–"
    value, low, high = (None if figure.get(k) is None else _form(figure[k], form) for k in ("value", "low", "high"))
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"


def short(count: float) -> str:
    """1234 -> 1,234; 12345 -> 12.3k; 1234567 -> 1.23M."""
    if count < 10_000:
        return f"{count:,.0f}"
    return f"{count / 1000:.1f}k" if count < 999_950 else f"{count / 1e6:,.2f}M"


def _form(value: float, form: str) -> str:
    digits = 2 if form.endswith("%") else 0
    places = int(form[form.index(".") + 1 : -1]) + digits
    # rounded before it is signed: no -0.00
    return format(round(value, places) + 0.0, form).replace("-", "−")


def p_text(p: Mapping[str, Any]) -> str:
    if not is_known(p):
        return "no test"
    return "p<0.001" if p["value"] < 0.001 else f"p={p['value']:.3f}"


# -------------------------------------------------------------------------------------------------------- one by one


def _outcomes(card: Mapping[str, Any]) -> Iterator[Finding]:
    found = card["outcomes"]
    if not found["failed"]:
        return
    share = found["failed"] / found["n"]
    reasons = ", ".join(f"{r['reason'].replace('_', ' ')} {r['count']:,}" for r in found["reasons"])
    text = f"{found['failed']:,} of {found['n']:,} ({share:.1%}): {reasons}"
    yield Finding("bad" if share > FAILED else "mind", "without an answer", text)


def _image_checks(card: Mapping[str, Any]) -> Iterator[Finding]:
    levels: Mapping[str, Level] = {"no": "bad", "hardly": "bad", "not shown": "mind", "yes": "good"}
    for kind, topic in (("blind", "image withheld"), ("wrong_image", "wrong image")):
        check = card["checks"][kind]
        if "verdict" in check:
            yield Finding(levels[check["verdict"]["depends"]], topic, f"n={check['n']}: {check['verdict']['text']}")
        elif check.get("n_unmatched"):
            yield Finding("mind", topic, check["why"])


def _position(card: Mapping[str, Any]) -> Iterator[Finding]:
    found = card["position"]
    if "mode" not in found or not is_known(found["p"]):
        return
    if found["mode"] == "pairwise":
        large = abs(found["first"]["value"] - 0.5) >= LEAN
        text = f"the first one is preferred in {number(found['first'], '.0%')}, {p_text(found['p'])}, n={found['n']}"
    else:
        large = found["spread"]["value"] >= SPREAD
        text = (
            f"first minus last place {number(found['first_minus_last'])} points, {p_text(found['p'])}, n={found['n']}"
        )
    level: Level = "good" if found["p"]["value"] >= SIGNIFICANT else "bad" if large else "mind"
    yield Finding(level, "place shown", text)


def _length(card: Mapping[str, Any]) -> Iterator[Finding]:
    found = card["length"]
    if "longer_preferred" in found and is_known(found["longer_preferred"]):
        share = found["longer_preferred"]
        text = f"the longer one is preferred in {number(share, '.0%')}, {p_text(found['p'])}, n={share['n']}"
        yield Finding("mind" if found["p"]["value"] < SIGNIFICANT else "good", "length", text)
    rho = found.get("spearman", {}).get(PREFERENCE)
    if not is_known(rho):
        return
    apart = is_bounded(rho) and (rho["low"] > 0 or rho["high"] < 0)
    level: Level = "good" if not apart else "bad" if abs(rho["value"]) >= FOLLOWS_LENGTH else "mind"
    gap = f"best − worst {number(found['best_minus_worst'], '+.0f')} characters"
    yield Finding(level, "length", f"correlation {number(rho)} with the score, {gap}, n={rho['n']}")


def _consistency(card: Mapping[str, Any]) -> Iterator[Finding]:
    found = card["consistency"]
    if "preferences" not in found:
        yield Finding("info", "consistency", f"unknown: {found['why']}")
        return
    alpha = found["measures"].get(PREFERENCE, {}).get("alpha_ordinal")
    if is_known(alpha):
        value = alpha["value"]
        level: Level = "good" if value >= RELIABLE else "mind" if value >= TENTATIVE else "bad"
        yield Finding(level, "same scores again", f"alpha {number(alpha, '.2f')} over passes, n={alpha['n']}")
    flips = found["preferences"]["flip_rate"]
    if is_known(flips):
        text = f"{number(flips, '.1%')} of pairs flip from pass to pass, n={flips['n']}"
        yield Finding("bad" if flips["value"] > FLIPS else "good", "same order again", text)


def _duplicates(card: Mapping[str, Any]) -> Iterator[Finding]:
    equal = card["checks"]["duplicate"].get("measures", {}).get(PREFERENCE, {}).get("equal")
    if is_known(equal):
        text = f"{number(equal, '.0%')} get the same score in both places, n={equal['n']}"
        yield Finding("good" if equal["value"] >= EQUAL else "mind", "duplicates", text)


def _saturation(card: Mapping[str, Any]) -> Iterator[Finding]:
    share = card["scores"].get("measures", {}).get(PREFERENCE, {}).get("saturated")
    if is_known(share):
        text = f"all completions score the same in {number(share, '.0%')} of prompts, n={share['n']}"
        yield Finding("bad" if share["value"] > SATURATED else "good", "no preference", text)


def _versions(card: Mapping[str, Any]) -> Iterator[Finding]:
    told = [v for v in card["annotator"]["versions"] if v["version"] is not None]
    if len(told) > 1:
        text = "several: " + ", ".join(f"{v['version']} ({v['annotations']:,})" for v in told)
        yield Finding("mind", "model version", text)
    elif told:
        yield Finding("info", "model version", told[0]["version"])


def _plain(line: str) -> str:
    """Names come from services and users: nothing in them may steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in line)
