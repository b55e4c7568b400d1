"""Completions with their scores: the mean of each attribute over annotations, and the preference score."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from align.calibration.readings import DESCRIPTIONS, MERITS, PREFERENCE, preference_of

if TYPE_CHECKING:
    from align.doctor.collect import Keys, Tables
    from align.stats import Floats


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Every completion that is annotated, sorted by prompt; scores are NaN where there are none."""

    prompt: Keys
    completion: Keys
    chars: Floats
    yes: NDArray[Any]
    polarity: NDArray[Any]
    folded: Keys
    measures: Mapping[str, Floats]
    """Attribute -> mean score; the preference score last. Empty where nothing is scored."""
    weights: Mapping[str, float]
    """The attributes that are summed into the preference score, with their weights."""

    @property
    def attributes(self) -> list[str]:
        return [name for name in self.measures if name != PREFERENCE]

    def of(self, prompt: Keys, completion: Keys) -> dict[str, Floats]:
        """The scores of completions named by prompt and id, NaN where they are not known."""
        ours, theirs = answer(self.prompt, self.completion), answer(prompt, completion)
        order = np.argsort(ours)
        place = np.searchsorted(ours[order], theirs)
        found = order[np.minimum(place, len(ours) - 1)] if len(ours) else np.zeros(len(theirs), dtype=np.intp)
        there = ours[found] == theirs if len(ours) else np.zeros(len(theirs), dtype=bool)
        return {
            name: np.where(there, values[found] if len(ours) else np.nan, np.nan)
            for name, values in self.measures.items()
        }


def answer(prompt: Keys, completion: Keys) -> Keys:
    """One key for a completion of a prompt: ids of completions made elsewhere may repeat from prompt to prompt."""
    mixed = prompt * np.uint64(0x9E3779B97F4A7C15) ^ completion
    return np.asarray(mixed, dtype=np.uint64)


def scored(tables: Tables, score: Sequence[str] | Mapping[str, float] | None = None) -> Scored:
    """The completions; `score` names the attributes to be summed (default: as the calibration card has it)."""
    attributes = in_order(tables.scores)
    known = attributes or in_order(tables.differences)
    if score is None or not all(name in known for name in score):
        score = preference_of(known)
    weights = dict(score) if isinstance(score, Mapping) else dict.fromkeys(score, 1.0)
    c = tables.completions
    ours = answer(c["prompt"], c["completion"])
    order = np.argsort(ours, kind="stable")
    rated = answer(tables.ratings["prompt"], tables.ratings["completion"])
    row = order[np.searchsorted(ours[order], rated)] if len(ours) else np.zeros(0, dtype=np.intp)
    measures = {name: _means(row, tables.scores[name], len(ours)) for name in attributes}
    if attributes:
        measures[PREFERENCE] = weighted(measures, weights)
    return Scored(
        prompt=c["prompt"],
        completion=c["completion"],
        chars=c["chars"].astype(np.float64),
        yes=c["yes"],
        polarity=c["polarity"],
        folded=c["folded"],
        measures=measures,
        weights=weights,
    )


def in_order(names: Collection[str]) -> list[str]:
    """Attributes as tables show them: merits, descriptions, others."""
    first = [name for name in (*MERITS, *DESCRIPTIONS) if name in names]
    return first + [name for name in names if name not in first]


def _means(row: NDArray[np.intp], values: Floats, n: int) -> Floats:
    """As `align.pairs.score.mean_scores` has it, for columns: not rounded, since only sums of means are."""
    known = ~np.isnan(values)
    total = np.bincount(row[known], weights=values[known], minlength=n)
    count = np.bincount(row[known], minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def weighted(scores: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The preference score; NaN where one of its parts is not known.

    Rounded, as pairs are scored: sums of thirds and sevenths that are equal must come out equal.
    """
    parts = [weight * scores[name] for name, weight in weights.items()]
    return np.round(np.sum(parts, axis=0), 6) if parts else np.zeros(0)
