"""Whether it matters in which place a completion is shown.

Each prompt's completions are shown in an order whose start is drawn at random (a row of a seeded Latin square, see
`annotate.run.shown_order`), so that places differ in their mean scores by chance alone, unless the annotator favours a
place. Listwise: the test turns each prompt's order at random, all its passes together, as the draw of its start would
have; nothing is assumed of how scores are distributed, nor that passes are independent. Pairwise: the test tosses a
coin for each prompt's preferences of "first" over "second" (`stats.sign_flip_p`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from align.calibration.figure import figure, left_out, plain
from align.calibration.readings import PREFERENCE, Read, Readings
from align.calibration.scores import NOTHING
from align.reliability import Resamples, per_prompt
from align.stats import Floats, sign_flip_p

DRAWS = 4000
ONE = "a test takes two prompts at least"


def position_section(readings: Readings, resamples: Resamples, *, seed: int) -> dict[str, Any]:
    """The effect of place, by the mode of the annotations."""
    if not readings.annotations:
        return left_out(NOTHING)
    if any(a.mode == "pairwise" for a in readings.annotations):
        return _first_preferred(readings, resamples, seed)
    sizes = Counter(len(a.shown_order) for a in readings.annotations)
    if max(sizes) < 2:
        return left_out("each completion is shown alone: there is no place to favour")
    # Almost always one size; a mixture would compare the fourth of four with the third of three.
    size = max((n for n in sizes if n > 1), key=lambda n: (sizes[n], n))
    return _by_slot(readings, size, resamples, seed)


# --------------------------------------------------------------------------------------------------------- listwise


def _by_slot(readings: Readings, size: int, resamples: Resamples, seed: int) -> dict[str, Any]:
    """Mean preference score per place, how far it is from the prompt's own mean, and the test."""
    shown = [_shown(read, size) for read in readings.prompts]
    raw = np.array([scores.sum(axis=0) for scores in shown])
    centred = np.array([(scores - scores.mean(axis=1, keepdims=True)).sum(axis=0) for scores in shown])
    calls = np.array([[float(len(scores))] for scores in shown])
    n_annotations, n = int(calls.sum()), int((calls > 0).sum())
    why = "no annotation has scores of all the completions it was shown"
    slots = [
        {
            "slot": slot + 1,
            "mean": figure(resamples.mean(np.hstack([raw[:, [slot]], calls])), why),
            "effect": figure(resamples.mean(np.hstack([centred[:, [slot]], calls])), why),
        }
        for slot in range(size)
    ]
    ends = centred[:, [0]] - centred[:, [-1]]
    effects = centred.sum(axis=0) / n_annotations if n_annotations else np.zeros(size)
    within = sum(float(((s - s.mean(axis=1, keepdims=True)) ** 2).sum()) for s in shown)
    same = "all completions of a prompt always have the same preference score"
    p = rotation_p(centred, seed=seed) if n > 1 and within > 0 else None
    return {
        "mode": "listwise",
        "n": n,
        "n_annotations": n_annotations,
        "n_left_out": len(readings.annotations) - n_annotations,
        "preference_score": list(readings.summed),
        "slots": slots,
        "first_minus_last": figure(resamples.mean(np.hstack([ends, calls])), why),
        "spread": plain(float(np.ptp(effects)) if n_annotations else None, n, why),
        "eta_squared": plain(n_annotations * float((effects**2).sum()) / within if within else None, n, same),
        "p": plain(p, n, ONE if n < 2 else same),
    }


def _shown(read: Read, size: int) -> Floats:
    """The prompt's preference scores, a row per annotation that showed so many, a column per place."""
    rows = []
    for annotation in read.annotations:
        scores = read.passes.get(annotation.pass_index, {})
        row = [scores.get(c, {}).get(PREFERENCE) for c in annotation.shown_order]
        if len(row) == size and None not in row:
            rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, size)


def rotation_p(totals: Floats, *, seed: int = 0, draws: int = DRAWS) -> float:
    """How often places would differ as much if each prompt (row) had begun at a random place of its order.

    The statistic is the sum over places (columns) of squared totals; of totals centred within each prompt it is the F
    statistic of place but for a constant. (1 + as extreme) / (1 + drawn), hence valid at any number of prompts.
    """
    n, size = totals.shape
    reach = float((totals.sum(axis=0) ** 2).sum())
    reach -= 1e-9 * max(1.0, reach)  # equal sums may differ in the last bits
    turned = np.stack([np.roll(totals, shift, axis=1) for shift in range(size)])
    rng = np.random.Generator(np.random.PCG64(seed))
    rows, extreme, done = np.arange(n), 0, 0
    while done < draws:
        piece = min(draws - done, max(1, 2_000_000 // (n * size)))  # in pieces, to stay small in memory
        moved = turned[rng.integers(0, size, size=(piece, n)), rows].sum(axis=1)
        extreme += int(((moved**2).sum(axis=1) >= reach).sum())
        done += piece
    return (1 + extreme) / (1 + draws)


# --------------------------------------------------------------------------------------------------------- pairwise


def _first_preferred(readings: Readings, resamples: Resamples, seed: int) -> dict[str, Any]:
    """How often the completion shown first is preferred, of the preferences that are no tie."""
    votes: list[float] = []
    owners: list[str] = []
    rows: list[Sequence[float]] = []
    tied: list[Sequence[float]] = []
    for read in readings.prompts:
        said = [a.preference for a in read.annotations if a.preference is not None]
        decided = [1.0 if s == "first" else -1.0 for s in said if s != "tie"]
        votes += decided
        owners += [read.prompt_id] * len(decided)
        rows.append((float(decided.count(1.0)), float(len(decided))))
        tied.append((float(said.count("tie")), float(len(said))))
    n = sum(decided > 0 for _, decided in rows)
    why = "every preference is a tie"
    p = sign_flip_p(votes, owners, seed=seed) if n > 1 else None
    return {
        "mode": "pairwise",
        "n": n,
        "n_preferences": len(votes),
        "first": figure(resamples.share(per_prompt(rows)), why),
        "tie": figure(resamples.share(per_prompt(tied)), NOTHING),
        "p": plain(p, n, ONE if n == 1 else why),
    }
