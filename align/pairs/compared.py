"""Pairs from annotations that compare without scores, such as a human's: `basis: preferences`.

    shown a, b: first     shown b, a: second     shown b, c: tie     ->  (a, b); b and c make none

Rows of LLaVA-Human-Preference are of this kind: two answers and which of them a human likes better. No score is known,
so the margin of such a pair is None, and `score`, `chosen`, `rejected`, `ties` and `min_margin` have nothing to say;
`max_pairs`, `max_length_ratio`, `length_gap`, `cut_off`, `fraction` and `flip` work as ever. Two completions compared
several times are paired if one of them is preferred more often.
"""

from __future__ import annotations

from collections import Counter

from align.pairs.score import Group, Rated, failure
from annotate.records import Failure, Reason


def preferred(group: Group) -> list[tuple[Rated, Rated]] | Failure:
    """(better, worse) of all that were compared, by index; or why there is none."""
    leads: Counter[tuple[str, str]] = Counter()
    for annotation in group.row.annotations:
        if annotation.mode == "pairwise":
            first, second = annotation.shown_order
            won = {"first": 1, "tie": 0, "second": -1}[annotation.preference or "tie"]
            leads[first, second] += won
            leads[second, first] -= won
    by_id = {rated.completion.id: rated for rated in group.rated}
    compared = [(by_id[a], by_id[b]) for a, b in leads if a in by_id and b in by_id]
    couples = [(a, b) for a, b in compared if leads[a.completion.id, b.completion.id] > 0]
    if not compared:
        return failure(group.row, Reason.UNRATED, "no two completions with a text were compared")
    if not couples:
        return failure(group.row, Reason.TIED, "no completion was preferred more often than another")
    place = {rated.completion.id: i for i, rated in enumerate(group.rated)}
    apart = {
        (a.text, b.text): (a, b)
        for a, b in sorted(couples, key=lambda c: (place[c[0].completion.id], place[c[1].completion.id]), reverse=True)
        if a.text != b.text
    }
    kept = [couple for (one, other), couple in apart.items() if (other, one) not in apart]
    return kept[::-1] or failure(group.row, Reason.IDENTICAL, "the completions that were compared say the same")
