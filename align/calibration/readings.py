"""Annotated prompts as the card reads them: for each prompt, pass and completion, the scores.

Everything is put into an order of its own, so that the order of the input, and of what is in it, changes nothing.

The *preference score* is the sum that tells the better of two completions: helpfulness + correctness + coherence where
the rubric has these three (Multi-Modal Preference Alignment, section 3.2); for another rubric the sum of all its
attributes but complexity and verbosity, which describe a completion and for which more is not better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from align.stats import Floats
from annotate.records import Annotated, Annotation, Rubric

PREFERENCE = "preference score"
"""Stands among the attributes as one more thing that is measured."""
MERITS = ("helpfulness", "correctness", "coherence")
DESCRIPTIONS = ("complexity", "verbosity")
Scores = Mapping[str, float]
"""Attribute -> score, with `PREFERENCE` among them."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """One prompt."""

    prompt_id: str
    lengths: Mapping[str, int]
    """Completion id -> characters, by id."""
    passes: Mapping[int, Mapping[str, Scores]]
    """Pass -> completion id -> scores; a pass whose reply could not be read is absent."""
    annotations: Sequence[Annotation]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """All prompts, by id; and their scores as arrays of prompts by completions by passes, NaN where there is none."""

    prompts: Sequence[Read]
    attributes: Sequence[str]
    """In the order of the rubric; none where only preferences were asked for."""
    summed: Sequence[str]
    """The attributes that make the preference score."""
    rubric: Rubric | None

    @property
    def measures(self) -> tuple[str, ...]:
        """Every attribute, and the preference score."""
        return (*self.attributes, PREFERENCE) if self.attributes else ()

    @cached_property
    def annotations(self) -> list[Annotation]:
        return [a for read in self.prompts for a in read.annotations]

    @cached_property
    def tables(self) -> dict[str, Floats]:
        """Measure -> prompts x completions x passes."""
        numbers = sorted({number for read in self.prompts for number in read.passes})
        column = {number: i for i, number in enumerate(numbers)}
        shape = (len(self.prompts), self._most, len(numbers))
        made = {name: np.full(shape, np.nan) for name in self.measures}
        for i, read in enumerate(self.prompts):
            row = {completion: k for k, completion in enumerate(read.lengths)}
            for number, by_completion in read.passes.items():
                for completion, scores in by_completion.items():
                    for name, value in scores.items():
                        made[name][i, row[completion], column[number]] = value
        return made

    @cached_property
    def means(self) -> dict[str, Floats]:
        """Measure -> prompts x completions, mean over passes: what pairs are built from."""
        made = {}
        for name, table in self.tables.items():
            there = ~np.isnan(table)
            n = there.sum(axis=-1)
            total = np.where(there, table, 0.0).sum(axis=-1)
            # rounded: thirds and sevenths that are equal must come out equal
            made[name] = np.where(n > 0, np.round(total / np.maximum(n, 1), 6), np.nan)
        return made

    @cached_property
    def lengths(self) -> Floats:
        """Prompts x completions: characters."""
        made = np.full((len(self.prompts), self._most), np.nan)
        for row, read in zip(made, self.prompts, strict=True):
            row[: len(read.lengths)] = list(read.lengths.values())
        return made

    @property
    def _most(self) -> int:
        return max((len(read.lengths) for read in self.prompts), default=0)

    def margin(self, measure: str) -> float:
        """The change of a mean that is too small to matter: a sixteenth of the scale, 0.25 points of 0 to 4."""
        names = self.summed if measure == PREFERENCE else (measure,)
        return sum(self._range(name) for name in names) / 16

    def _range(self, name: str) -> float:
        if self.rubric is None or name not in self.rubric.attributes:
            return 4.0
        scale = self.rubric.attributes[name]
        return float(scale.high - scale.low)


def read_all(
    annotated: Sequence[Annotated], rubric: Rubric | None = None, summed: Sequence[str] | None = None
) -> Readings:
    """The readings of all prompts; `rubric` tells the scales, which the records do not, `summed` the preference score
    where it is not the usual one.
    """
    ratings = [r for record in annotated for a in record.annotations for r in a.ratings]
    found = {name for r in ratings for name in r.scores}
    first = tuple(rubric.attributes) if rubric else (*MERITS, *DESCRIPTIONS)
    attributes = (*(name for name in first if name in found), *sorted(found - set(first)))
    summed = tuple(summed) if summed else preference_of(attributes)
    prompts = [_read(record, summed) for record in annotated]
    prompts.sort(key=lambda read: (read.prompt_id, [a.id for a in read.annotations]))
    return Readings(prompts=prompts, attributes=attributes, summed=summed, rubric=rubric)


def preference_of(attributes: Sequence[str]) -> tuple[str, ...]:
    """The attributes whose sum says which completion is better."""
    if all(name in attributes for name in MERITS):
        return MERITS
    return tuple(name for name in attributes if name not in DESCRIPTIONS) or tuple(attributes)


def with_preference(scores: Mapping[str, int], summed: Sequence[str]) -> dict[str, float]:
    """Scores with the preference score beside them, if all it is made of is there."""
    made = {name: float(value) for name, value in scores.items()}
    if summed and all(name in made for name in summed):
        made[PREFERENCE] = sum(made[name] for name in summed)
    return made


def _read(record: Annotated, summed: Sequence[str]) -> Read:
    annotations = sorted(record.annotations, key=lambda a: (a.pass_index, a.shown_order, a.id))
    passes: dict[int, dict[str, Scores]] = {}
    for annotation in annotations:
        of_pass = passes.setdefault(annotation.pass_index, {})
        for rating in annotation.ratings:
            of_pass.setdefault(rating.completion_id, with_preference(rating.scores, summed))
    return Read(
        prompt_id=record.prompt.id,
        lengths={c.id: len(c.text) for c in sorted(record.completions, key=lambda c: c.id)},
        passes={number: dict(sorted(by.items())) for number, by in sorted(passes.items()) if by},
        annotations=annotations,
    )
