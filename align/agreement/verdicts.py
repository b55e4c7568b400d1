"""Which of two completions someone prefers, and how often two agree on it: counts, three shares, two kappas.

Ties can be dealt with in three ways, none of which is right; all are told:

    decided     of the pairs that neither calls a tie, how many have the same winner
    half        of all pairs: a tie against a winner counts a half, a tie against a tie one
    answer      of all pairs: a tie is an answer like the others, right only where the other says tie too
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align.doctor.sampling import Clusters
from align.pairs.score import mean_scores
from align.reliability import nominal_kappa_of
from align.stats import Floats
from annotate.records import Annotated

ONE_ANSWER = "both always give one and the same answer: agreement beyond chance is not defined"
NO_PAIR = "no pair has both verdicts"
NEVER_BOTH = "in no pair do both prefer one"
_SIGNS = {"first": 1, "second": -1, "tie": 0}


class Reading:
    """What an annotator says of the completions of one prompt, all passes together; `row` holds no one else's."""

    def __init__(self, row: Annotated, summed: Sequence[str]) -> None:
        votes: dict[tuple[str, str], int] = defaultdict(int)
        for annotation in row.annotations:
            if annotation.preference is not None:
                first, second = annotation.shown_order
                votes[first, second] += _SIGNS[annotation.preference]
                votes[second, first] -= _SIGNS[annotation.preference]
        self.votes: Mapping[tuple[str, str], int] = votes
        self.scores: Mapping[str, Mapping[str, float]] = mean_scores(row.annotations)
        self.totals: Mapping[str, float] = {
            # rounded, as pairs are scored: sums of thirds and sevenths that are equal must come out equal
            c: round(sum(scores[name] for name in summed), 6)
            for c, scores in self.scores.items()
            if summed and all(name in scores for name in summed)
        }

    def preferred(self, first: str, second: str) -> float:
        """1 the first, -1 the second, 0 neither, NaN where nothing is said; scores go before preferences."""
        if first in self.totals and second in self.totals:
            return float(np.sign(self.totals[first] - self.totals[second]))
        return float(np.sign(self.votes[first, second])) if (first, second) in self.votes else np.nan


def agreement_of(keys: Any, ours: Floats, theirs: Floats, clusters: Clusters, *, mirrored: bool) -> dict[str, Any]:
    """How often two verdicts on the same pairs agree, as the module's docstring says.

    `mirrored`: which completion comes first means nothing, so that each pair is counted both ways in kappa.
    """
    there = ~np.isnan(ours) & ~np.isnan(theirs)
    keys, x, y = keys[there], ours[there], theirs[there]
    one = np.ones(len(x))
    decided = (x != 0) & (y != 0)
    half = np.where(x == y, 1.0, np.where(x * y == 0, 0.5, 0.0))
    cells = _cells(x, y, mirrored)
    counts = _table(x, y)
    return {
        "n": len(np.unique(keys)),
        "pairs": len(x),
        "decided_pairs": int(decided.sum()),
        "counts": counts,
        "decided": clusters.share(keys, (x == y) & decided, decided, NEVER_BOTH if len(x) else NO_PAIR),
        "half": clusters.share(keys, half, one, NO_PAIR),
        "answer": clusters.share(keys, x == y, one, NO_PAIR),
        "kappa": clusters.coefficient(keys, cells, nominal_kappa_of, ONE_ANSWER if len(x) else NO_PAIR),
        "kappa_decided": clusters.coefficient(
            keys[decided], cells[decided], nominal_kappa_of, ONE_ANSWER if decided.any() else NEVER_BOTH
        ),
    }


def _cells(x: Floats, y: Floats, mirrored: bool) -> Floats:
    """Per pair, its cell of the 3 x 3 table of answers, laid flat: first, tie, second by the same."""
    made = np.zeros((len(x), 3, 3))
    if len(x):
        rows = np.arange(len(x))
        made[rows, 1 - x.astype(int), 1 - y.astype(int)] += 1
        if mirrored:
            made[rows, 1 + x.astype(int), 1 + y.astype(int)] += 1
    return made.reshape(len(x), 9)


def _table(x: Floats, y: Floats) -> dict[str, int]:
    return {
        "same_winner": int(((x == y) & (x != 0)).sum()),
        "other_winner": int((x * y < 0).sum()),
        "only_we_tie": int(((x == 0) & (y != 0)).sum()),
        "only_they_tie": int(((x != 0) & (y == 0)).sum()),
        "both_tie": int(((x == 0) & (y == 0)).sum()),
    }
