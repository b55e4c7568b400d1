"""What a user may set a limit to, so that a build fails: `--fail-on max_length_win_rate=0.6`.

A limit is compared with the estimate: the same file then passes or fails on every machine, and what fails is the figure
that the page shows. Nothing stands between a small file and bad luck, though; with `--fail-by interval` a limit is
broken only where the whole 95% interval lies beyond it, which a file of few prompts seldom does. A limit itself is
still allowed: 0.6 passes `max_length_win_rate=0.6`. A figure that cannot be known breaks its limit, since a check that
silently checks nothing is no check; nor can one that is known in part, where what was left out is suspicious (questions
asked in the data beside images that could not be compared). The message says what is missing.

    {"name": "max_length_win_rate", "limit": 0.6, "figure": {"value": 0.71, "low": 0.68, "high": 0.74, "n": 4870},
     "broken": true, "why": "", "remedy": "…"}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from align.calibration.figure import Figure, is_bounded, is_known, plain
from align.calibration.readings import PREFERENCE
from annotate.errors import UserError

By = Literal["estimate", "interval"]
Report = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One name of `--fail-on`; `max_` and `min_` say in which direction it is broken."""

    what: str
    figure: Callable[[Report], Figure]
    remedy: str
    form: str = ".1%"
    """How its value is written."""


def _at(*path: str) -> Callable[[Report], Figure]:
    """The figure or count at a path of the report, or the reason that stands there, or above it, in its place."""

    def found(report: Report) -> Figure:
        part: Any = report
        for key in path:
            if key not in part:
                return plain(None, part.get("n", 0), part.get("why", "cannot be known from this file"))
            part = part[key]
        return dict(part) if isinstance(part, Mapping) else {"value": part, "n": report["size"]["n"]}

    return found


def _worst(*path: str) -> Callable[[Report], Figure]:
    """The largest share over all named evaluation sets; not known where one of them is not, or not wholly known."""

    def found(report: Report) -> Figure:
        sets = report["leakage"].get("sets", [])
        figures = [_at(*path)(one) for one in sets]
        unknown = next((f for f in figures if not is_known(f)), None)
        if unknown or not figures:
            return unknown or plain(None, 0, report["leakage"]["why"])
        left: Figure = next((f for f in figures if f.get("unknown")), {})
        return {**left, **max(figures, key=lambda f: f["value"])}

    return found


def _drift(name: str) -> Callable[[Report], Figure]:
    return _at("drift", "measures", name)


def _balance(report: Report) -> Figure:
    return dict(report["polarity"]["largest_share"])


LENGTH = "build pairs with a bound on length (pairs.max_length_ratio, pairs.length_gap=balance), or rate again"
THRESHOLDS: Mapping[str, Threshold] = {
    "max_bad_rows": Threshold(
        what="rows that are no record", form=",.0f",
        figure=_at("bad_rows", "count"), remedy="`align validate FILE` names each with its remedy"),
    "min_prompts": Threshold(
        what="distinct prompts", form=",.0f", figure=_at("size", "n"), remedy="add prompts"),
    "min_pairs": Threshold(
        what="pairs", form=",.0f", figure=_at("size", "pairs"), remedy="add prompts, or lower pairs.min_margin"),
    "min_margin_mean": Threshold(
        what="mean margin of the pairs, in points", form=".2f",
        figure=_at("margins", "pairs", "mean"), remedy="raise pairs.min_margin"),
    "max_ties": Threshold(
        what="share of pairs with margin 0; without pairs, of completions of one prompt with equal scores",
        figure=_at("ties", "share"), remedy="raise pairs.min_margin, or sample more different completions"),
    "max_saturation": Threshold(
        what="share of prompts whose completions all have the same preference score",
        figure=_at("saturation", "measures", PREFERENCE),
        remedy="sample at a higher temperature, ask harder questions, or use a rubric with more levels"),
    "max_duplicates": Threshold(
        what="share of pairs that repeat an earlier one",
        figure=_at("duplicates", "pairs", "share"), remedy="keep one of each"),
    "max_contradictions": Threshold(
        what="share of pairs whose opposite (a over b, b over a) is there too",
        figure=_at("duplicates", "pairs", "contradictory_share"), remedy="drop both, or let a third vote decide"),
    "max_identical": Threshold(
        what="share of pairs whose two texts are equal but for spacing and case",
        figure=_at("identical", "share"), remedy="drop them: there is nothing to prefer"),
    "max_repeated_completions": Threshold(
        what="share of completions that repeat another of their prompt",
        figure=_at("duplicates", "completions", "share"), remedy="sample at a higher temperature"),
    "max_length_win_rate": Threshold(
        what="how often the longer completion is chosen; without pairs, scored higher or preferred",
        figure=_at("length", "win_rate"), remedy=LENGTH),
    "min_length_win_rate": Threshold(
        what="the same, where shorter ones must not be favoured either",
        figure=_at("length", "win_rate"), remedy=LENGTH),
    "max_length_ratio": Threshold(
        what="geometric mean of the length of chosen over that of rejected", form=".2f",
        figure=_at("length", "pairs", "ratio"), remedy=LENGTH),
    "max_length_correlation": Threshold(
        what="rank correlation of preference score and length within prompts", form="+.2f",
        figure=_at("length", "scores", "spearman", PREFERENCE), remedy="tell the annotator that length is no merit"),
    "max_verbosity_drift": Threshold(
        what="verbosity of chosen minus rejected, in points", form="+.2f",
        figure=_drift("verbosity"), remedy=LENGTH),
    "max_complexity_drift": Threshold(
        what="complexity of chosen minus rejected, in points", form="+.2f",
        figure=_drift("complexity"), remedy="balance it, or condition on it (SteerLM)"),
    "max_position_effect": Threshold(
        what="between the best and the worst place, in points; pairwise: share preferred first, away from a half",
        form=".2f", figure=_at("position", "effect"),
        remedy="show each prompt in several orders (annotate.passes) and take the mean"),
    "max_polarity_share": Threshold(
        what="share of the more frequent polarity among the prompts that say theirs",
        figure=_balance, remedy="choose as many negative as positive questions"),
    "max_vocabulary_z": Threshold(
        what="z of the word that tells chosen from rejected best", form=".1f",
        figure=_at("vocabulary", "largest_z"), remedy="look at the pairs that hold it: is it style or substance?"),
    "max_leakage": Threshold(
        what="share of an evaluation set's questions that stand in the data (with their image, where they have one)",
        figure=_worst("leaked"), remedy="take the named records out"),
    "max_shared_images": Threshold(
        what="share of an evaluation set's questions with an image whose image is in the data, whatever is asked",
        figure=_worst("images", "shared"), remedy="take the records of these images out"),
}  # fmt: skip


FILE_FIRST = "is a file, not NAME=LIMIT; FILE goes before --fail-on: align doctor FILE --fail-on NAME=LIMIT"


def read_limits(options: Sequence[str]) -> dict[str, float]:
    """`["max_ties=0.1"]` -> {"max_ties": 0.1}. Raises `UserError` with every unknown name and every bad number."""
    limits: dict[str, float] = {}
    faults = []
    for option in options:
        name, equals, text = option.partition("=")
        if not equals and (Path(option).exists() or Path(option).suffix):
            faults.append(f"--fail-on {option}: {FILE_FIRST}")
            continue
        if name not in THRESHOLDS:
            near = get_close_matches(name, THRESHOLDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            faults.append(f"--fail-on {option}: no threshold {name!r}{hint}  Thresholds: {', '.join(THRESHOLDS)}")
            continue
        try:
            limits[name] = float(text)
        except ValueError:
            limits[name] = math.nan
        if not equals or not math.isfinite(limits[name]):
            faults.append(f"--fail-on {option}: write a number after it, e.g. {name}=0.6")
    if faults:
        raise UserError(*faults)
    return limits


def check_limits(report: Report, limits: Mapping[str, float], by: By = "estimate") -> list[dict[str, Any]]:
    """Each limit with the figure it is set to, and whether it is broken."""
    checked = []
    for name, limit in limits.items():
        threshold = THRESHOLDS[name]
        figure = threshold.figure(report)
        broken, why = True, str(figure.get("why", "cannot be known from this file"))
        if is_known(figure):
            least = name.startswith("min_")
            end = "value"
            if by == "interval" and is_bounded({"low": None, "high": None, **figure}):
                end = "high" if least else "low"
            broken, why = (figure[end] < limit if least else figure[end] > limit), ""
            if figure.get("unknown"):  # what was left out may be what the limit is for
                broken, why = True, str(figure["why"])
        checked.append(
            {
                "name": name,
                "limit": limit,
                "what": threshold.what,
                "figure": figure,
                "broken": broken,
                "why": why,
                "remedy": threshold.remedy,
            }
        )
    return checked


def table_text() -> str:
    """The names and what they mean, for --help."""
    width = max(map(len, THRESHOLDS))
    return "\n".join(f"  {name:<{width}}  {threshold.what}" for name, threshold in THRESHOLDS.items())
