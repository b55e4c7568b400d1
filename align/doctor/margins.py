"""How far apart the two completions of a pair are, and where nothing tells them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align.calibration.figure import Figure, left_out
from align.calibration.readings import PREFERENCE
from align.doctor.sampling import groups
from align.doctor.size import NO_PAIRS
from align.reliability import signs

if TYPE_CHECKING:
    from align.doctor.collect import Keys, Tables
    from align.doctor.sampling import Clusters
    from align.doctor.scored import Scored
    from align.stats import Floats

NO_SCORES = "there are no annotated rows with scores in the file"
NO_VOTES = "there are no pairwise annotations in the file"
NO_MARGINS = "cannot be known from pairs without margins"
BINS = 24


def margins_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """Margins of the pairs; and of annotated prompts, what lies between the best and the worst completion."""
    return {"pairs": _of_pairs(tables, clusters), "best_minus_worst": _of_prompts(scored, clusters)}


def _of_pairs(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    margin = tables.pairs["margin"]
    known = ~np.isnan(margin)
    if not known.any():
        return left_out(NO_MARGINS if len(margin) else NO_PAIRS)
    keys, values = tables.pairs["prompt"][known], margin[known]
    return {
        "n": len(np.unique(keys)),
        "n_pairs": len(values),
        "n_unknown": int((~known).sum()),
        "mean": clusters.mean(keys, values, NO_MARGINS),
        "median": round(float(np.median(values)), 4),
        "negative": int((values < 0).sum()),
        "bins": bins(values),
    }


def _of_prompts(scored: Scored, clusters: Clusters) -> dict[str, Any]:
    if not scored.measures:
        return left_out(NO_SCORES)
    prompts, values = by_prompt(scored, PREFERENCE)
    if not prompts:
        return left_out("no prompt has two scored completions")
    keys = np.concatenate(prompts)
    widest = np.concatenate([np.round(v.max(axis=1) - v.min(axis=1), 6) for v in values])
    return {
        "n": len(keys),
        "mean": clusters.mean(keys, widest, NO_SCORES),
        "median": round(float(np.median(widest)), 4),
        "bins": bins(widest),
    }


def by_prompt(scored: Scored, measure: str) -> tuple[list[Keys], list[Floats]]:
    """Scores of all prompts with two or more scored completions: prompts and their scores, a line each, by size."""
    values = scored.measures[measure]
    known = ~np.isnan(values)
    found = list(groups(scored.prompt[known]))
    return [keys for keys, _ in found], [values[known][rows] for _, rows in found]


def bins(values: Floats) -> list[dict[str, Any]]:
    """A histogram: whole numbers where all are, and not too far apart; otherwise steps of 1, 2 or 5 times 10^k.

    [{"low": 2.0, "high": 3.0, "count": 17}, …]    low is in, high is not
    """
    low, high = float(values.min()), float(values.max())
    step = 1.0 if np.all(values == np.round(values)) else 0.0
    if not step or high - low >= BINS:
        rough = max(high - low, 1e-9) / (BINS - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = max(step, next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9)))
    place = np.floor(np.round(values / step, 6)).astype(np.int64)
    first = int(place.min())
    return [
        {"low": round((first + i) * step, 6), "high": round((first + i + 1) * step, 6), "count": int(count)}
        for i, count in enumerate(np.bincount(place - first))
    ]


def ties_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """`share` is the headline: of pairs with a margin of 0; without pairs of equal scores; without scores of "tie"."""
    parts = {
        "pairs": _tied_pairs(tables, clusters),
        "scores": _tied_scores(scored, clusters),
        "preferences": _tied_votes(tables, clusters),
    }
    of = next((name for name, part in parts.items() if "share" in part), None)
    if of is None:
        why = NO_MARGINS if len(tables.pairs["prompt"]) else NO_SCORES
        return {**left_out(why), **parts}
    return {"n": parts[of]["share"]["n"], "of": of, "share": parts[of]["share"], **parts}


def _tied_pairs(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    margin = tables.pairs["margin"]
    known = ~np.isnan(margin)
    if not known.any():
        return left_out(NO_MARGINS if len(margin) else NO_PAIRS)
    keys, tied = tables.pairs["prompt"][known], margin[known] == 0
    return {"n": int(known.sum()), "share": clusters.share(keys, tied, np.ones(len(keys)), NO_MARGINS)}


def _tied_scores(scored: Scored, clusters: Clusters) -> dict[str, Any]:
    if not scored.measures:
        return left_out(NO_SCORES)
    prompts, values = by_prompt(scored, PREFERENCE)
    if not prompts:
        return left_out("no prompt has two scored completions")
    keys = np.concatenate(prompts)
    decided = [signs(v) for v in values]
    of = np.concatenate([np.full(len(s), s.shape[1]) for s in decided])
    tied = np.concatenate([(s == 0).sum(axis=1) for s in decided])
    best = np.concatenate([(v == v.max(axis=1, keepdims=True)).sum(axis=1) > 1 for v in values])
    return {
        "n": int(of.sum()),
        "share": clusters.share(keys, tied, of, NO_SCORES),
        "several_best": clusters.share(keys, best, np.ones(len(keys)), NO_SCORES),
    }


def _tied_votes(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    votes = tables.votes
    n = len(votes["vote"])
    if not n:
        return left_out(NO_VOTES)
    return {"n": n, "share": clusters.share(votes["prompt"], votes["vote"] == 0, np.ones(n), "")}


def saturation_section(scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """Share of prompts all of whose completions get the same score, by attribute and for the preference score."""
    if not scored.measures:
        return left_out(NO_SCORES)
    measures: dict[str, Figure] = {}
    for name in scored.measures:
        prompts, values = by_prompt(scored, name)
        keys = np.concatenate(prompts) if prompts else np.zeros(0, dtype=np.uint64)
        equal = np.concatenate([_all_equal(v) for v in values]) if values else np.zeros(0)
        measures[name] = clusters.share(keys, equal, np.ones(len(keys)), "no prompt has two scored completions")
    return {"n": measures[PREFERENCE]["n"], "measures": measures, "score": _spelled(scored)}


def _all_equal(values: Floats) -> Sequence[Any] | Any:
    return values.min(axis=1) == values.max(axis=1)


def _spelled(scored: Scored) -> str:
    """As a sum: helpfulness + 0.5 × coherence."""
    return " + ".join(n if w == 1 else f"{w:g} × {n}" for n, w in scored.weights.items())
