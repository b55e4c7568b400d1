"""Planted questions whose right answer is known beforehand.

    {"kind": "duplicate", "prompt_id": "91ab…", "shown": ["6f0c…", "a2d1…", "6f0c…"], "scores": [{…}, {…}, {…}]}

duplicate     one completion stands in two places: it should get the same scores in both
wrong_image   the prompt's image is another one: correctness should fall
blind         the image is withheld: scores should change, unless they never depended on it

The last two are compared with the scores that pass 0 gave the same completions. A mean that stays where it was does
not yet show that the image does not matter, since scores may rise and fall; so the size of the changes is compared with
what changes from one pass to the next anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.calibration.figure import Figure, figure, is_bounded, is_known, left_out
from align.calibration.readings import PREFERENCE, Readings, with_preference
from align.reliability import Resamples, per_prompt
from annotate.errors import RecordError

KINDS = ("duplicate", "wrong_image", "blind")
NOT_ASKED = "not asked for (annotate.checks.{kind})"
FEWEST = 10
"""Prompts below which no verdict is given."""
SITUATION = {"wrong_image": "with another one", "blind": "without it"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of checks.jsonl; `scores` in the order of `shown`."""

    kind: str
    prompt_id: str
    shown: tuple[str, ...]
    scores: tuple[Mapping[str, float], ...]


def read_check(line: Mapping[str, Any], summed: Sequence[str]) -> Check:
    """The line as a check, with preference scores. Raises `RecordError` where it does not hold together."""
    kind, shown, scores = line["kind"], tuple(line["shown"]), line["scores"]
    where = f"check of prompt {line['prompt_id']}"
    if kind not in KINDS:
        raise RecordError(f"{where}: kind {kind!r} is none of {', '.join(KINDS)}")
    if len(shown) != len(scores):
        raise RecordError(f"{where}: {len(scores)} scores for {len(shown)} completions")
    twice = len(shown) - len(set(shown))
    if twice != (kind == "duplicate"):
        raise RecordError(f"{where}: {twice} completions are shown twice in a check of kind {kind}")
    scored = tuple(with_preference(s, summed) for s in scores)
    return Check(kind=kind, prompt_id=line["prompt_id"], shown=shown, scores=scored)


def checks_section(
    lines: Sequence[Mapping[str, Any]], readings: Readings, consistency: Mapping[str, Any], *, seed: int
) -> dict[str, Any]:
    """What each kind of check found."""
    checks = [read_check(line, readings.summed) for line in lines]
    checks.sort(key=lambda c: (c.kind, c.prompt_id, c.shown, [sorted(s.items()) for s in c.scores]))
    by_kind = {kind: _by_prompt([c for c in checks if c.kind == kind]) for kind in KINDS}
    found: dict[str, Any] = {}
    for kind, by_prompt in by_kind.items():
        if not by_prompt:
            found[kind] = left_out(NOT_ASKED.format(kind=kind))
        elif kind == "duplicate":
            found[kind] = _duplicates(by_prompt, readings, Resamples(len(by_prompt), seed=seed))
        else:
            found[kind] = _changes(kind, by_prompt, readings, consistency, seed)
    return found


def _by_prompt(checks: Sequence[Check]) -> list[list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.prompt_id, []).append(check)
    return list(found.values())


# ------------------------------------------------------------------------------------------------------- duplicates


def _duplicates(by_prompt: Sequence[Sequence[Check]], readings: Readings, resamples: Resamples) -> dict[str, Any]:
    """How the two places of one text compare: share of equal scores, how far apart, whether the later one gets more."""
    measures: dict[str, dict[str, Figure]] = {}
    for name in readings.measures:
        gaps = [[gap for check in checks if (gap := _gap(check, name)) is not None] for checks in by_prompt]
        equal = per_prompt([(float(found.count(0.0)), float(len(found))) for found in gaps])
        apart = per_prompt([(sum(map(abs, found)), float(len(found))) for found in gaps])
        later = per_prompt([(sum(found), float(len(found))) for found in gaps])
        why = f"no duplicate has two scores for {name}"
        measures[name] = {
            "equal": figure(resamples.share(equal), why),
            "mean_absolute_difference": figure(resamples.mean(apart), why),
            "later_minus_earlier": figure(resamples.mean(later), why),
        }
    return {"n": len(by_prompt), "n_checks": sum(map(len, by_prompt)), "measures": measures}


def _gap(check: Check, name: str) -> float | None:
    """Score at the later place of the completion that is shown twice, minus that at the earlier one."""
    again = next(c for c in check.shown if check.shown.count(c) == 2)
    earlier, later = (scores for c, scores in zip(check.shown, check.scores, strict=True) if c == again)
    return later[name] - earlier[name] if name in earlier and name in later else None


# ----------------------------------------------------------------------------------------------------------- images


def _changes(
    kind: str,
    by_prompt: Sequence[Sequence[Check]],
    readings: Readings,
    consistency: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Scores under the check minus those of pass 0, completion by completion."""
    pass_0 = {read.prompt_id: read.passes.get(0, {}) for read in readings.prompts}
    pairs = [
        [
            (before, after)
            for check in checks
            for completion, after in zip(check.shown, check.scores, strict=True)
            if (before := pass_0.get(check.prompt_id, {}).get(completion)) is not None
        ]
        for checks in by_prompt
    ]
    matched = [found for found in pairs if found]
    if not matched:
        return left_out("pass 0 scored none of these completions", n=0) | {"n_unmatched": len(by_prompt)}
    resamples = Resamples(len(matched), seed=seed)
    measures: dict[str, dict[str, Figure]] = {}
    for name in readings.measures:
        moved = [[a[name] - b[name] for b, a in found if name in a and name in b] for found in matched]
        change = per_prompt([(sum(v), float(len(v))) for v in moved])
        size = per_prompt([(sum(map(abs, v)), float(len(v))) for v in moved])
        why = f"no completion has both scores for {name}"
        measures[name] = {
            "mean_change": figure(resamples.mean(change), why),
            "mean_absolute_change": figure(resamples.mean(size), why),
        }
    changed = [(float(sum(a != b for b, a in found)), float(len(found))) for found in matched]
    measure = "correctness" if "correctness" in readings.measures else PREFERENCE
    noise = consistency.get("measures", {}).get(measure, {}).get("mean_absolute_difference")
    return {
        "n": len(matched),
        "n_unmatched": len(by_prompt) - len(matched),
        "measures": measures,
        "changed": figure(resamples.share(per_prompt(changed)), ""),
        "verdict": image_verdict(
            kind, measure, measures[measure], margin=readings.margin(measure), noise=noise, n=len(matched)
        ),
    }


def image_verdict(
    kind: str,
    measure: str,
    found: Mapping[str, Figure],
    *,
    margin: float,
    noise: Mapping[str, Any] | None,
    n: int,
) -> dict[str, Any]:
    """Whether scores depend on the image: yes, hardly, no, or not shown; with a sentence that says why.

    `yes`     the mean changes significantly, or single scores move by more than from one pass to the next
    `hardly`  it changes significantly, but surely by less than the margin
    `no`      the mean surely changes by less than the margin, and single scores by no more than from pass to pass
              (by no more than the margin, where there is one pass)
    """
    change, size = found["mean_change"], found["mean_absolute_change"]
    depends, text = "not shown", "too few prompts to say whether scores depend on the image"
    if n >= FEWEST and is_bounded(change):
        depends, text = _judged(measure, SITUATION[kind], change, size, margin, noise)
    return {"depends": depends, "measure": measure, "margin": margin, "text": text}


def _judged(
    measure: str, without: str, change: Figure, size: Figure, margin: float, noise: Mapping[str, Any] | None
) -> tuple[str, str]:
    low, high = change["low"], change["high"]
    said = f"{measure} {without} {change['value']:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
    surely_small = -margin < low and high < margin
    if low > 0 or high < 0:
        if surely_small:
            return "hardly", f"scores hardly depend on the image ({said})"
        return "yes", f"scores depend on the image ({said})"
    if not surely_small:
        return "not shown", f"too few prompts to say whether scores depend on the image ({said})"
    if is_bounded(noise) and noise is not None:
        if size["low"] > noise["high"]:
            moves = f"each moves by {size['value']:.2f} {without}, by {noise['value']:.2f} from pass to pass"
            return "yes", f"scores depend on the image ({moves})"
        return "no", f"scores do not depend on the image ({said})"
    if is_known(size) and size["value"] <= margin:
        return "no", f"scores do not depend on the image ({said})"
    return "not shown", f"each moves by {size['value']:.2f} {without}: is it noise? Two passes would tell ({said})"
