"""As long chosen as rejected: a bound on chosen minus rejected, searched for over a whole set of pairs.

    gaps   chosen minus rejected, in characters:  -30 -10 0 +5 +20 +200      mean +30.8
    ->     length_gap [null, 20]: the +200 goes,  -30 -10 0 +5 +20            mean -3.0

Annotators like length, and what is trained on longer chosen answers learns to be long. RLAIF-V removes pairs from the
end of the heavy side until the mean lengths of chosen and rejected are alike; it counts words. So does this, in
characters: they are counted without splitting text, and mean the same in languages that put no spaces between words.

`Gaps` is a histogram: it knows no ids and no texts, takes pairs in any order, and the histograms of parts of a set add
up. So the search takes two passes over a file, or over the parts of one, and always the memory of the histogram.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise

from align.pairs.preference import build_preference_pairs
from align.settings import Pairs
from annotate.errors import UserError
from annotate.records import Annotated, PreferencePair, replace

Bounds = tuple[int | None, int | None]


def gap(pair: PreferencePair) -> int:
    """Characters of chosen minus rejected, white space at their ends aside."""
    return len(pair.chosen.text.strip()) - len(pair.rejected.text.strip())


class Gaps:
    """How many pairs have which gap."""

    def __init__(self, gaps: Iterable[int] | Mapping[int, int] = ()) -> None:
        self.count = Counter(gaps)
        """Gap -> pairs."""

    def __add__(self, other: Gaps) -> Gaps:
        return Gaps(self.count + other.count)

    def mean(self, bounds: Bounds = (None, None)) -> float:
        """Of the pairs within the bounds."""
        low, high = bounds
        kept = {g: n for g, n in self.count.items() if (low is None or low <= g) and (high is None or g <= high)}
        return sum(g * n for g, n in kept.items()) / sum(kept.values())

    def bounds(self) -> Bounds:
        """The bound on the heavy side whose pairs have the mean nearest to 0; of two as near, the one that keeps more.

        Raises `UserError` where one side is the longer in every pair: then no bound evens them out.
        """
        total = sum(g * n for g, n in self.count.items())
        if not total:
            return None, None
        heavy = 1 if total > 0 else -1
        outermost_first = sorted(self.count, key=lambda g: -heavy * g)
        if heavy * outermost_first[-1] > 0:
            side = "chosen" if heavy > 0 else "rejected"
            raise UserError(
                f"pairs.length_gap: balance is out of reach: the {side} text is the longer in all "
                f"{self.count.total()} pairs. Give bounds, e.g. [-200, 200], or a max_length_ratio"
            )
        pairs = self.count.total()
        nearest, kept_to = abs(Fraction(total, pairs)), outermost_first[0]
        for outer, inner in pairwise(outermost_first):
            total -= outer * self.count[outer]
            pairs -= self.count[outer]
            off = abs(Fraction(total, pairs))
            if off < nearest:
                nearest, kept_to = off, inner
            if heavy * total <= 0:
                break
        return (None, kept_to) if heavy > 0 else (kept_to, None)


def balanced(annotated: Iterable[Annotated], settings: Pairs, *, seed: int) -> Pairs:
    """The settings with `length_gap: balance` become bounds; one pass over the annotations, which then are read again.

    Any other settings come back as they are, and nothing is read.
    """
    if settings.length_gap != "balance":
        return settings
    loose = replace(settings, length_gap=None)
    made = build_preference_pairs(annotated, loose, seed=seed)
    found = Gaps(gap(pair) for pair in made if isinstance(pair, PreferencePair))
    return replace(settings, length_gap=found.bounds())
