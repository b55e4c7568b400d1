"""Questions that are true and questions that are false, and who wins: yes or no.

LRV-Instruct asks about things that are in the image (positive) and things that are not (negative); `prompt.meta`
holds which under "polarity". A model that learns to say yes, or no, to everything shows in the win rates: where the
annotator is right, yes wins the positive questions and no the negative ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from align.calibration.figure import plain
from align.calibration.readings import PREFERENCE
from align.doctor.collect import NO, YES
from align.doctor.sampling import groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from align.doctor.collect import Tables
    from align.doctor.sampling import Clusters
    from align.doctor.scored import Scored
    from align.stats import Floats

UNKNOWN = 'cannot be known: no prompt says its polarity (meta: {"polarity": "positive"} or "negative")'
NEVER = "no {of} sets an answer of yes against one of no"


def polarity_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """Counts, balance and win rates, by polarity and for all prompts together (also those without)."""
    distinct, first = np.unique(tables.records["prompt"], return_index=True)
    code = tables.records["polarity"][first]
    blank = tables.polarities.index("") if "" in tables.polarities else -1
    known = code != blank
    values = []
    for i, name in enumerate(tables.polarities):
        of_it = code == i
        if i != blank and of_it.any():
            share = clusters.share(distinct[known], of_it[known], np.ones(int(known.sum())), UNKNOWN)
            values.append({"polarity": name, "share": share, **_answers(tables, scored, clusters, i)})
    n = int(known.sum())
    largest = max((v["share"]["value"] for v in values), default=None)
    return {
        "n": n,
        "n_unknown": len(distinct) - n,
        "largest_share": plain(largest, n, UNKNOWN),
        "values": values,
        "all": _answers(tables, scored, clusters, None),
        **({} if n else {"why": UNKNOWN}),
    }


def _answers(tables: Tables, scored: Scored, clusters: Clusters, code: int | None) -> dict[str, Any]:
    """How often yes and no are said, and how often yes wins against no."""

    def of(column: NDArray[Any]) -> NDArray[Any]:
        return np.ones(len(column), dtype=bool) if code is None else column == code

    records, pairs = tables.records, tables.pairs
    chosen_yes, rejected_yes = (pairs[f"{side}_yes"][of(pairs["polarity"])] for side in ("chosen", "rejected"))
    keys = pairs["prompt"][of(pairs["polarity"])]
    against = (chosen_yes * rejected_yes) < 0
    made = {
        "prompts": len(np.unique(records["prompt"][of(records["polarity"])])),
        "completions": _said(scored.yes[of(scored.polarity)]),
        "chosen": _said(chosen_yes),
        "rejected": _said(rejected_yes),
    }
    if len(pairs["prompt"]) or not scored.measures:
        won, of_what = clusters.share(keys, against & (chosen_yes == YES), against, NEVER.format(of="pair")), "pairs"
    else:
        won, of_what = _scored_higher(scored, of(scored.polarity), clusters), "scores"
    return {**made, "of": of_what, "yes_wins": won}


def _said(answers: NDArray[Any]) -> dict[str, int]:
    yes, no = int((answers == YES).sum()), int((answers == NO).sum())
    return {"yes": yes, "no": no, "other": len(answers) - yes - no}


def _scored_higher(scored: Scored, use: NDArray[Any], clusters: Clusters) -> dict[str, Any]:
    """Without pairs: of two completions of a prompt, a yes and a no, that differ in score, how often yes wins."""
    score = scored.measures[PREFERENCE]
    use = use & ~np.isnan(score) & (scored.yes != 0)
    found = [(keys, _wins(score[use][rows], scored.yes[use][rows])) for keys, rows in groups(scored.prompt[use])]
    keys = np.concatenate([k for k, _ in found]) if found else np.zeros(0, dtype=np.uint64)
    won = np.concatenate([w for _, w in found]) if found else np.zeros((0, 2))
    return clusters.share(keys, won[:, 0], won[:, 1], NEVER.format(of="prompt"))


def _wins(score: Floats, yes: NDArray[Any]) -> Floats:
    higher = np.sign(score[:, :, None] - score[:, None, :])
    yes_no = (yes[:, :, None] == YES) & (yes[:, None, :] == NO)
    return np.stack([(yes_no & (higher > 0)).sum(axis=(1, 2)), (yes_no & (higher != 0)).sum(axis=(1, 2))], axis=1)
