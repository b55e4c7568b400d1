"""Whether longer is chosen, and what else drifts between chosen and rejected.

Length is in characters. A pair of two equal lengths says nothing of who wins, and is left out of the win rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from align.calibration.figure import Figure, left_out
from align.calibration.readings import DESCRIPTIONS, PREFERENCE
from align.doctor.margins import NO_SCORES, NO_VOTES
from align.doctor.sampling import groups
from align.doctor.scored import in_order, weighted
from align.doctor.size import NO_PAIRS
from align.reliability import signs, spearman

if TYPE_CHECKING:
    from align.doctor.collect import Keys, Tables
    from align.doctor.sampling import Clusters
    from align.doctor.scored import Scored
    from align.stats import Floats

ONE_LENGTH = "no two completions that are told apart differ in length"
NOTHING_COMPARED = "there are no pairs, scores or preferences in the file"
UNSCORED_PAIRS = "cannot be known from pairs without scores; give the annotated file as well"


def length_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """`win_rate` is the headline: how often the longer one is chosen; without pairs, scored higher, or preferred."""
    parts = {
        "pairs": _pairs(tables, clusters),
        "scores": _scores(scored, clusters),
        "preferences": _votes(tables, clusters),
    }
    of = next((name for name, part in parts.items() if "win_rate" in part), None)
    if of is None:
        return {**left_out(NOTHING_COMPARED), **parts}
    rate = parts[of]["win_rate"]
    return {"n": rate["n"], "unit": "characters", "of": of, "win_rate": rate, **parts}


def _votes(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    votes = tables.votes
    if not len(votes["vote"]):
        return left_out(NO_VOTES)
    agree = votes["vote"] * votes["longer"]
    return {"n": len(agree), "win_rate": clusters.share(votes["prompt"], agree > 0, agree != 0, ONE_LENGTH)}


def _pairs(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    pairs = tables.pairs
    n = len(pairs["prompt"])
    if not n:
        return left_out(NO_PAIRS)
    chosen, rejected = pairs["chosen_chars"].astype(np.float64), pairs["rejected_chars"].astype(np.float64)
    both = (chosen > 0) & (rejected > 0)
    ratio = np.full(n, np.nan)
    ratio[both] = np.log(chosen[both] / rejected[both])
    return {
        "n": n,
        "win_rate": clusters.share(pairs["prompt"], chosen > rejected, chosen != rejected, ONE_LENGTH),
        "longer": int((chosen > rejected).sum()),
        "shorter": int((chosen < rejected).sum()),
        "equal": int((chosen == rejected).sum()),
        "ratio": _exp(clusters.mean(pairs["prompt"], ratio, "one side of every pair is empty")),
        "chosen_words": clusters.mean(pairs["prompt"], pairs["chosen_words"], NO_PAIRS),
        "rejected_words": clusters.mean(pairs["prompt"], pairs["rejected_words"], NO_PAIRS),
    }


def _exp(figure: Figure) -> Figure:
    """The geometric mean ratio of the mean of logarithms."""
    ends = ("value", "low", "high")
    return {**figure, **{e: None if figure[e] is None else round(math.exp(figure[e]), 3) for e in ends}}


def _scores(scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """Within each prompt: rank correlation of score and length, and whether the longer of two is scored higher."""
    if not scored.measures:
        return left_out(NO_SCORES)
    correlations: dict[str, Figure] = {}
    for name, values in scored.measures.items():
        keys, rho = _within(scored, values, spearman)
        correlations[name] = clusters.mean_coefficient(keys, rho, "in no prompt do both score and length differ")
    keys, won = _within(scored, scored.measures[PREFERENCE], _longer_won)
    won = won.reshape(-1, 2)
    rate = clusters.share(keys, won[:, 0], won[:, 1], ONE_LENGTH)
    return {"n": len(np.unique(keys)), "win_rate": rate, "spearman": correlations}


def _within(scored: Scored, values: Floats, statistic: Any) -> tuple[Keys, Floats]:
    """A statistic of scores and lengths of each prompt with two scored completions or more."""
    known = ~np.isnan(values)
    score, chars = values[known], scored.chars[known]
    found = [(keys, statistic(score[rows], chars[rows])) for keys, rows in groups(scored.prompt[known])]
    if not found:
        return np.zeros(0, dtype=np.uint64), np.zeros(0)
    return np.concatenate([keys for keys, _ in found]), np.concatenate([made for _, made in found])


def _longer_won(scores: Floats, chars: Floats) -> Floats:
    """Of each two completions that differ in score and length: how often the longer is scored higher, of how many."""
    agree = signs(scores) * signs(chars)
    return np.stack([(agree > 0).sum(axis=1), (agree != 0).sum(axis=1)], axis=1).astype(np.float64)


# ------------------------------------------------------------------------------------------------------------ drift


def drift_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """Mean difference in each attribute: chosen minus rejected; without pairs, best minus worst completion.

    Scores are those of annotated rows; where there are none, those that the pairs carry (`scored_in`: "pairs").
    Complexity and verbosity describe a completion; where they drift, training teaches them with the rest.
    """
    pairs = tables.pairs
    if not scored.measures and not tables.differences:
        return left_out(UNSCORED_PAIRS if len(pairs["prompt"]) else NO_SCORES)
    if not scored.measures:
        of, keys, differences = "chosen_minus_rejected", pairs["prompt"], _carried(tables, scored)
        why = "no pair has it for both completions"
    elif len(pairs["prompt"]):
        of, keys, differences = "chosen_minus_rejected", pairs["prompt"], _pair_differences(tables, scored)
        why = "the scores of no pair's completions are in the file"
    else:
        of, (keys, differences) = "best_minus_worst", _prompt_differences(scored)
        why = "in no prompt do the preference scores differ"
    measures = {name: clusters.mean(keys, values, why) for name, values in differences.items()}
    n = max((f["n"] for f in measures.values()), default=0)
    where = "annotated rows" if scored.measures else "pairs"
    return {
        "n": n,
        "of": of,
        "scored_in": where,
        "descriptive": [n for n in DESCRIPTIONS if n in measures],
        "measures": measures,
    }


def _pair_differences(tables: Tables, scored: Scored) -> dict[str, Floats]:
    pairs = tables.pairs
    chosen, rejected = (scored.of(pairs["prompt"], pairs[side]) for side in ("chosen", "rejected"))
    return {name: chosen[name] - rejected[name] for name in scored.measures}


def _carried(tables: Tables, scored: Scored) -> dict[str, Floats]:
    """By the scores in the pairs themselves; the preference score is a sum, and so is its difference."""
    made = {name: tables.differences[name] for name in in_order(tables.differences)}
    return {**made, PREFERENCE: weighted(made, scored.weights)} if scored.weights else made


def _prompt_differences(scored: Scored) -> tuple[Keys, dict[str, Floats]]:
    """Mean over the best minus mean over the worst completions by preference score; NaN where all are equal."""
    known = ~np.isnan(scored.measures[PREFERENCE])
    found = list(groups(scored.prompt[known]))
    keys = np.concatenate([k for k, _ in found]) if found else np.zeros(0, dtype=np.uint64)
    made: dict[str, Floats] = {}
    for name, values in scored.measures.items():
        parts = []
        for _, rows in found:
            score, x = scored.measures[PREFERENCE][known][rows], values[known][rows]
            best, worst = score == score.max(axis=1, keepdims=True), score == score.min(axis=1, keepdims=True)
            gap = _mean_where(x, best) - _mean_where(x, worst)
            parts.append(np.where(best.all(axis=1), np.nan, gap))
        made[name] = np.concatenate(parts) if parts else np.zeros(0)
    return keys, made


def _mean_where(x: Floats, there: Any) -> Floats:
    return np.asarray(np.where(there, x, 0.0).sum(axis=1) / there.sum(axis=1))
