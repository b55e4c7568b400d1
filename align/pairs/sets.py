"""All training sets of one prompt, and the table of what sets there are: read by files, stage and dataset card alike.

    Maker(Pairs(), seed=0)(row)
    ->  Made(source="digits", widest=7.0, left_out={},
             sets={"preference": [PreferencePair], "steerlm": [Example, ...], "rejection": [Example]})

A set of a prompt is its records, or exactly one Failure that says why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from align.pairs.hindsight import in_hindsight
from align.pairs.preference import pairs_of
from align.pairs.rejection import best_of
from align.pairs.score import Group, Rule, attributes_of, group_of, widest_difference
from align.pairs.steerlm import conditioned
from align.settings import Pairs
from annotate.records import Annotated, Failure, PreferencePair, Reason, Record, replace


class TrainingSet(NamedTuple):
    """How the rows of one set are made from a prompt, and what they are for."""

    of: Callable[[Group, Rule], Sequence[Record]]
    purpose: str


SETS: Mapping[str, TrainingSet] = {
    "preference": TrainingSet(pairs_of, "preference optimization (chosen, rejected)"),
    "steerlm": TrainingSet(conditioned, "attribute-conditioned fine-tuning"),
    "rejection": TrainingSet(best_of, "fine-tuning on the best completion"),
    "hindsight": TrainingSet(in_hindsight, "Chain-of-Hindsight: a worse answer, then the better one"),
}
STEPS = ("annotated", "rated", "margin", "kept")
"""The funnel of prompts: annotated; two completions can be compared; two differ by the margin; there is a pair."""
LOST_BEFORE: Mapping[Reason, str] = {
    Reason.COMPLETIONS_MISSING: "rated",
    Reason.UNRATED: "rated",
    Reason.COMPLETION_EMPTY: "rated",
    Reason.CUT_OFF: "rated",
    Reason.INVALID_INPUT: "rated",
    Reason.NO_MARGIN: "margin",
    Reason.IDENTICAL: "margin",
    Reason.TIED: "kept",
    Reason.FILTERED: "kept",
}
"""The step of the funnel that a prompt without a preference pair did not reach."""


class Made(NamedTuple):
    """What one prompt gives."""

    source: str
    widest: float | None
    """Points between the best and the worst completion; None where fewer than two can be compared by score."""
    sets: Mapping[str, Sequence[Record]]
    """Name -> rows, for the sets that the settings name, in the order of `SETS`."""
    left_out: dict[str, int]
    """Option -> pairs that the rule gives and it takes away, where `max_pairs` or `length_gap` is set."""
    rated_for: frozenset[str] = frozenset()
    """Of a prompt that has no two completions rated for the score: what they are rated for."""


class Maker:
    """Makes all sets of a prompt; what they share is computed once. Raises `UserError` for impossible settings."""

    def __init__(self, settings: Pairs, *, seed: int) -> None:
        self.rule = Rule(settings, seed=seed)
        self.sets = {name: made.of for name, made in SETS.items() if name in settings.sets}
        self.looser = dict[str, Rule]()
        """Option -> the rule without it and without those that come after it."""
        if settings.max_pairs is not None:
            self.looser["max_pairs"] = Rule(replace(settings, max_pairs=None, length_gap=None), seed=seed)
        if settings.length_gap is not None:
            self.looser["length_gap"] = Rule(replace(settings, length_gap=None), seed=seed)

    def __call__(self, row: Annotated) -> Made:
        rule = self.rule
        group = group_of(row, rule)
        comparable = len(group.rated) >= 2 and not rule.compares
        sets: dict[str, Sequence[Record]] = {name: of(group, rule) for name, of in self.sets.items()}
        first = sets["preference"][0]
        unrated = type(first) is Failure and first.reason == Reason.UNRATED
        return Made(
            row.prompt.source,
            widest_difference(group.rated) if comparable else None,
            sets,
            self._left_out(group) if self.looser else {},
            attributes_of(row) if unrated else frozenset(),
        )

    def _left_out(self, group: Group) -> dict[str, int]:
        rules = (*self.looser.values(), self.rule)
        counts = [sum(isinstance(made, PreferencePair) for made in pairs_of(group, rule)) for rule in rules]
        return {option: more - fewer for option, (more, fewer) in zip(self.looser, pairwise(counts), strict=True)}
