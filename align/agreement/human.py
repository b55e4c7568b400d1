"""The annotator against people: correlations of the differences between two responses, and who prefers which.

The paper (Multi-Modal Preference Alignment, section 5 and Figure 3) leaves open which way its differences go and what
becomes of ties. Here a difference is the first response minus the second, in the order of the human file; the human
preference is +1 for the first and -1 for the second, as it says. People's ties have no such number: they are left out
of the correlations, and counted. Ties of the annotator are differences of 0 and stay in. A file of chosen and rejected
has no first response; each of its pairs then counts both ways, which makes every mean 0 and favours no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from align.agreement.joining import Lookup, Opinion, match, plain
from align.agreement.verdicts import Reading, agreement_of
from align.calibration.figure import left_out
from align.calibration.readings import PREFERENCE
from align.doctor.sampling import Clusters
from align.reliability import pearson_of
from align.stats import Floats
from annotate.records import Annotated

HUMAN = "human preference"
OURS = "annotator's preference"
NO_FILE = "no human preferences were given (--human FILE)"
TOO_FEW = "too few pairs differ"
MISSED = ("no such prompt", "a completion is not there", "not rated by the annotator", "both texts are the same")


def human_section(
    opinions: Sequence[Opinion] | None, rows: Lookup[Annotated], attributes: Sequence[str], summed: Sequence[str],
    *, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Everything about people; `rows` are the annotated prompts that may be theirs."""
    if opinions is None:
        return left_out(NO_FILE)
    joined, counts = _join(opinions, rows, summed)
    if not joined:
        return {**left_out("no pair of the human file is among the annotated ones"), "joined": counts}
    keys = np.array([key for key, *_ in joined], dtype=np.uint64)
    clusters = Clusters(np.unique(keys), seed=seed)
    human = np.array([float(opinion.preferred) for _, opinion, _, _ in joined])
    ours = np.array([reading.preferred(*ids) for _, _, reading, ids in joined])
    mirrored = not all(opinion.ordered for _, opinion, _, _ in joined)
    decided = human != 0
    columns = {name: column[decided] for name, column in _differences(joined, attributes, ours).items()}
    return {
        "n": len(np.unique(keys)),
        "joined": counts,
        "both_ways": mirrored,
        "judged_more_than_once": sum(opinion.judgements > 1 for _, opinion, _, _ in joined),
        "human": {str(name): int((human == sign).sum()) for name, sign in _NAMES.items()},
        "annotator": {str(name): int((ours == sign).sum()) for name, sign in _NAMES.items()},
        "heat_map": _heat_map({**columns, HUMAN: human[decided]}, keys[decided], clusters, mirrored),
        "preferences": agreement_of(keys, ours, human, clusters, mirrored=mirrored),
    }


_NAMES: Mapping[str, int] = {"first": 1, "tie": 0, "second": -1}
_Joined = tuple[int, Opinion, Reading, tuple[str, str]]
"""Key of the prompt, the opinion, the annotator's reading, and the two completions by the annotator's ids."""


def _join(
    opinions: Sequence[Opinion], rows: Lookup[Annotated], summed: Sequence[str]
) -> tuple[list[_Joined], dict[str, Any]]:
    """The opinions with the annotator's reading of the same two completions; all others counted by what they lack."""
    joined: list[_Joined] = []
    missed: Counter[str] = Counter(dict.fromkeys(MISSED, 0))
    ways: Counter[str] = Counter({"by id": 0, "by text": 0})
    for opinion in sorted(opinions, key=lambda o: (o.prompt.id, o.first.id, o.second.id)):
        if plain(opinion.first.text) == plain(opinion.second.text):
            missed[MISSED[3]] += 1
            continue
        lack = MISSED[0]
        for row in rows.find(opinion.prompt):
            found, by_id = match((opinion.first, opinion.second), row.completions)
            if len(found) < 2:
                lack = max(lack, MISSED[1], key=MISSED.index)
                continue
            ids = (found[opinion.first.id], found[opinion.second.id])
            reading = Reading(row, summed)
            if np.isnan(reading.preferred(*ids)):
                lack = MISSED[2]
                continue
            joined.append((int(row.prompt.id[:16], 16), opinion, reading, ids))
            ways["by id" if by_id else "by text"] += 1
            break
        else:
            missed[lack] += 1
    return joined, {"pairs": len(opinions), "joined": len(joined), "ways": dict(ways), "missed": dict(missed)}


def _differences(joined: Sequence[_Joined], attributes: Sequence[str], ours: Floats) -> dict[str, Floats]:
    """Variable -> first minus second, NaN where a score is missing; preferences alone are a variable themselves."""
    made = {
        name: np.array([_difference(reading, ids, name) for _, _, reading, ids in joined])
        for name in (*attributes, PREFERENCE)
    }
    made = {name: column for name, column in made.items() if not np.isnan(column).all()}
    return made or {OURS: ours}


def _difference(reading: Reading, ids: tuple[str, str], name: str) -> float:
    if name == PREFERENCE:
        first, second = (reading.totals.get(id, np.nan) for id in ids)
    else:
        first, second = (reading.scores.get(id, {}).get(name, np.nan) for id in ids)
    return round(first - second, 6)


def _heat_map(columns: Mapping[str, Floats], keys: Any, clusters: Clusters, mirrored: bool) -> dict[str, Any]:
    """Pearson's r of each two variables."""
    cells = [{"a": a, "b": b, **_cell(a, b, columns, keys, clusters, mirrored)} for a, b in combinations(columns, 2)]
    return {"n": len(np.unique(keys)), "pairs": len(keys), "names": list(columns), "cells": cells}


def _cell(
    a: str, b: str, columns: Mapping[str, Floats], keys: Any, clusters: Clusters, mirrored: bool
) -> dict[str, Any]:
    both = ~np.isnan(columns[a]) & ~np.isnan(columns[b])
    x, y, keys = columns[a][both], columns[b][both], keys[both]
    n = np.ones(len(x))
    means = (0 * n, 0 * n) if mirrored else (x, y)
    sums = np.stack([n, *means, x * x, y * y, x * y], axis=1)
    why = next(filter(None, (_constant(name, values, mirrored) for name, values in ((a, x), (b, y)))), "")
    return {"pairs": len(x), **clusters.coefficient(keys, sums, pearson_of, why or TOO_FEW)}


def _constant(name: str, values: Floats, mirrored: bool) -> str:
    """What keeps a variable from correlating with anything, in words."""
    if not len(values):
        return f"no pair has both a {name} and the other"
    if not values.any():
        return f"{name} never differs between the two responses"
    if not mirrored and values.min() == values.max():
        return f"{name} differs by {values[0]:+g} in every pair"
    return ""
