"""Where every prompt went: the funnel beside the training sets.

    {"total": {"annotated": 4, "rated": 4, "margin": 3, "kept": 3}, "sources": {"charts": {...}},
     "failures": {"no_margin": 1}, "widest_difference": {"0": 1, "5": 3},
     "sets": {"preference": {"rows": 3, "prompts": 3, "failures": {"no_margin": 1}}, "steerlm": {...}, ...}}

`rated`: two completions or more can be compared. `margin`: two that say different things differ by the margin. `kept`:
not left out by `ties: skip` or `fraction`. `widest_difference`: whole points between best and worst -> prompts. The
difference between two neighbours is explained by `failures`. `pairs`: those that the rule gives, less those that
`max_pairs` and `length_gap` take away, are those made; with `flip` how many of them are turned round, with
`length_gap` between which bounds (those that were found, where it is balanced).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from align.pairs.sets import LOST_BEFORE, STEPS, Made
from align.settings import Pairs
from annotate.errors import UserError
from annotate.records import Failure, PreferencePair, Reason

REMEDIES: Mapping[Reason, str] = {
    Reason.COMPLETIONS_MISSING: "Have two completions or more of a prompt (sample.n)",
    Reason.UNRATED: "Have two completions or more of a prompt rated for all of pairs.score",
    Reason.COMPLETION_EMPTY: "Sample again those that are empty",
    Reason.INVALID_INPUT: "Sample again, or mend, those that contain <image>",
    Reason.CUT_OFF: "Sample with more new tokens, or keep what was cut off (pairs.cut_off: keep)",
    Reason.NO_MARGIN: "Lower pairs.min_margin, or sample completions that differ more",
    Reason.IDENTICAL: "Sample completions that differ (a higher temperature)",
    Reason.TIED: "Let one of the best be drawn (pairs.ties: random)",
    Reason.FILTERED: "Widen pairs.fraction, max_length_ratio or length_gap",
}
"""What to do where a reason left no pair at all."""


class Account:
    """Fed one prompt at a time; accounts of parts of a file add up by `update`."""

    def __init__(self, settings: Pairs, *, prompts: Mapping[str, int] | None = None) -> None:
        self.settings = settings
        self.prompts = prompts
        """Prompts per source before annotation, where known."""
        self.ended: Counter[tuple[str, Reason | None]] = Counter()
        """(source, why there is no pair) -> prompts."""
        self.widest: Counter[int] = Counter()
        self.rows: Counter[str] = Counter()
        self.fruitful: Counter[str] = Counter()
        """Set -> prompts that gave it rows."""
        self.failed: Counter[tuple[str, Reason]] = Counter()
        self.left_out: Counter[str] = Counter()
        """Option -> pairs that the rule gives and it takes away."""
        self.flipped = Counter[str]()
        """Pairs of the set of preferences that were turned round, below "flipped"."""
        self.rated_for: set[str] = set()
        """What the prompts are rated for that are not rated for the score."""

    def add(self, made: Made) -> None:
        """Count what a `Maker` made of one prompt."""
        lost = None
        for name, rows in made.sets.items():
            first = rows[0]
            if isinstance(first, Failure):
                self.failed[name, first.reason] += 1
                if name == "preference":
                    lost = first.reason
            else:
                self.rows[name] += len(rows)
                if name == "preference" and self.settings.flip:
                    turned = (isinstance(row, PreferencePair) and row.rule.endswith(", flipped") for row in rows)
                    self.flipped["flipped"] += sum(turned)
                self.fruitful[name] += 1
        self.ended[made.source, lost] += 1
        if made.rated_for:
            self.rated_for |= made.rated_for
        if made.left_out:
            self.left_out.update(made.left_out)
        if made.widest is not None:
            self.widest[math.floor(made.widest)] += 1

    def update(self, part: Account) -> None:
        """Add the account of another part of the same file."""
        for name in ("ended", "widest", "rows", "fruitful", "failed", "left_out", "flipped", "rated_for"):
            getattr(self, name).update(getattr(part, name))

    @property
    def failures(self) -> dict[str, int]:
        """Reason -> prompts without a pair."""
        return self._failures("preference")

    @property
    def pairs(self) -> int:
        return self.rows["preference"]

    def total(self) -> dict[str, int]:
        """The funnel over all sources."""
        return self._counts(self._sources())

    def to_json(self) -> dict[str, Any]:
        gap = self.settings.length_gap
        return {
            "total": self.total(),
            "sources": {source: self._counts({source}) for source in sorted(self._sources())},
            "failures": self.failures,
            "pairs": {
                "by_rule": self.pairs + self.left_out.total(),
                **self.left_out,
                "made": self.pairs,
                **({"flipped": self.flipped["flipped"]} if self.settings.flip else {}),
                **({"length_gap_bounds": list(gap)} if isinstance(gap, tuple) else {}),
            },
            "widest_difference": {str(points): n for points, n in sorted(self.widest.items())},
            "sets": {
                name: {"rows": self.rows[name], "prompts": self.fruitful[name], "failures": self._failures(name)}
                for name in self.settings.sets
            },
        }

    def _sources(self) -> set[str]:
        return {*(source for source, _ in self.ended), *(self.prompts or ())}

    def _failures(self, name: str) -> dict[str, int]:
        return dict(sorted((reason.value, n) for (of, reason), n in self.failed.items() if of == name))

    def _counts(self, sources: set[str]) -> dict[str, int]:
        known = {} if self.prompts is None else {"prompts": sum(self.prompts.get(source, 0) for source in sources)}
        steps = dict.fromkeys(STEPS, 0)
        for (source, lost), n in self.ended.items():
            if source in sources:
                for step in STEPS if lost is None else STEPS[: STEPS.index(LOST_BEFORE[lost])]:
                    steps[step] += n
        return {**known, **steps}

    def require_pairs(self) -> None:
        """Raise `UserError` if no prompt gave a pair: there would be nothing to train on."""
        if self.pairs:
            return
        annotated = self.total()["annotated"]
        if not annotated:
            see = "; see the failures of `annotate`" if self.prompts is not None else ""
            raise UserError(f"no pair: not one prompt was annotated{see}")
        if self.failures.get(Reason.UNRATED.value) == annotated:
            raise UserError(f"no pair: {self._unrated()}")
        why = ", ".join(f"{n} {reason}" for reason, n in self.failures.items())
        none = f"none of {annotated} annotated prompt(s) gave a pair ({why})"
        if Reason.NO_MARGIN.value in self.failures:
            spread = ", ".join(f"{points}: {n}" for points, n in sorted(self.widest.items()))
            none = (
                f"no pair above the margin: pairs.min_margin is {self.settings.min_margin:g}, and {none}. "
                f"Points between the best and the worst completion of a prompt: {spread} (points: prompts)"
            )
        else:
            none = f"no pair: {none}"
        most = sorted(self.failures, key=lambda reason: -self.failures[reason])
        raise UserError(f"{none}. {'. '.join(REMEDIES[Reason(reason)] for reason in most)}")

    def _unrated(self) -> str:
        """What to do where no prompt has two completions rated for the score, or compared."""
        if self.settings.basis == "preferences":
            rated = (
                f"; they are rated for {', '.join(sorted(self.rated_for))} (basis: scores)" if self.rated_for else ""
            )
            return f"no two completions of a prompt were compared, and basis: preferences takes pairwise ones{rated}"
        wanted = ", ".join(self.settings.score)
        if not self.rated_for:
            return (
                f"no two completions of a prompt are rated for all of {wanted}; pairwise ones only compare. Annotate "
                "with mode listwise or pointwise, or pair by what was preferred (basis: preferences)"
            )
        if set(self.settings.score) <= self.rated_for:
            return f"no two completions of a prompt are rated for all of {wanted}. {REMEDIES[Reason.UNRATED]}"
        known = ", ".join(sorted(self.rated_for))
        return (
            f"completions are not rated for all of {wanted} but for {known}; name those that count: score='[{known}]'"
        )


def in_words(funnel: Mapping[str, Any]) -> str:
    """The funnel in a few lines, for people."""
    total, pairs = funnel["total"], funnel["pairs"]
    words = {"annotated": "prompts annotated", "rated": "rated", "margin": "apart by the margin", "kept": "kept"}
    lines = [" -> ".join(f"{total[step]:,} {word}" for step, word in words.items())]
    if funnel["failures"]:
        lost = ", ".join(f"{n:,} {reason}" for reason, n in funnel["failures"].items())
        lines.append(f"without a pair: {lost} (failures.jsonl)")
    made = [f"{pairs['made']:,} pairs"]
    if "flipped" in pairs:
        made.append(f"{pairs['flipped']:,} of them flipped")
    made += [f"{pairs[name]:,} more left out by {name}" for name in ("max_pairs", "length_gap") if pairs.get(name)]
    if "length_gap_bounds" in pairs:
        low, high = pairs["length_gap_bounds"]
        ends = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        made.append(f"chosen minus rejected is {' and '.join(ends) or 'any number of'} characters")
    lines.append("; ".join(made))
    sets = (f"{name} {of['rows']:,} rows of {of['prompts']:,} prompts" for name, of in funnel["sets"].items())
    return "\n".join([*lines, ", ".join(sets)])
