"""The annotator against itself, asked again, and against another annotator of the same completions.

Its own passes are compared as in the calibration card (`align/calibration/consistency.py`), and once more apart: passes
that showed the completions in the same order (what chance in decoding does) and in another order (what the place does
besides). Another annotator is compared on the completions that both rated, each with the mean of its passes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from msgspec import Struct

from align.agreement.joining import match
from align.agreement.verdicts import Reading, agreement_of
from align.calibration.consistency import ONE_PASS, consistency_section, measure
from align.calibration.figure import left_out
from align.calibration.readings import PREFERENCE, Read, Readings, read_all
from align.doctor.sampling import Clusters
from align.reliability import Resamples
from annotate.records import Annotated

NO_FILE = "no other annotator was given (--with FILE)"
NO_ORDER = {
    "same_order": "no prompt was asked twice in the same order",
    "other_order": "no prompt was asked in two orders (annotate.passes: 2 or more shuffles them)",
}


# ------------------------------------------------------------------------------------------------------- itself


def itself_section(rows: Sequence[Annotated], summed: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Agreement between passes; `rows` are the prompts that have several."""
    if not rows:
        return left_out(ONE_PASS)
    readings = read_all(rows, summed=summed)
    found = consistency_section(readings, Resamples(len(readings.prompts), seed=seed))
    return {**found, **{name: _by_order(readings, name, seed) for name in NO_ORDER}}


def passes_of(row: Annotated) -> int:
    """How often the annotator was asked."""
    return len({a.pass_index for a in row.annotations})


def _by_order(readings: Readings, wanted: str, seed: int) -> dict[str, Any]:
    keys: list[int] = []
    verdicts: list[tuple[float, float]] = []
    for read in readings.prompts:
        orders: dict[int, list[tuple[str, ...]]] = defaultdict(list)
        for annotation in read.annotations:
            orders[annotation.pass_index].append(annotation.shown_order)
        said = {number: _verdicts(read, number) for number in orders}
        for one, other in combinations(sorted(orders), 2):
            if (sorted(orders[one]) == sorted(orders[other])) == (wanted == "same_order"):
                for pair in sorted(said[one].keys() & said[other].keys()):
                    keys.append(int(read.prompt_id[:16], 16))
                    verdicts.append((said[one][pair], said[other][pair]))
    if not keys:
        return left_out(NO_ORDER[wanted])
    column, both = np.array(keys, dtype=np.uint64), np.array(verdicts)
    clusters = Clusters(np.unique(column), seed=seed)
    return agreement_of(column, both[:, 0], both[:, 1], clusters, mirrored=True)


def _verdicts(read: Read, number: int) -> dict[tuple[str, str], float]:
    """Two completions, the lower id first -> which of them this pass prefers."""
    made: dict[tuple[str, str], float] = {}
    for annotation in read.annotations:
        if annotation.pass_index == number and annotation.preference is not None:
            sign = {"first": 1.0, "second": -1.0, "tie": 0.0}[annotation.preference]
            first, second = annotation.shown_order
            made[(first, second) if first < second else (second, first)] = sign if first < second else -sign
    totals = {c: scores[PREFERENCE] for c, scores in read.passes.get(number, {}).items() if PREFERENCE in scores}
    for first, second in combinations(sorted(totals), 2):
        made[first, second] = float(np.sign(totals[first] - totals[second]))
    return made


# ---------------------------------------------------------------------------------------------- another annotator


class Twin(Struct, frozen=True):
    """A prompt that both annotators have, with the ids of its completions there by those here."""

    ours: Annotated
    theirs: Annotated
    completions: dict[str, str]
    by_id: bool


def twin_of(ours: Annotated, candidates: Sequence[Annotated]) -> Twin | None:
    """The first candidate that has a completion in common."""
    for theirs in candidates:
        found, by_id = match(ours.completions, theirs.completions)
        if found:
            return Twin(ours, theirs, dict(found), by_id)
    return None


def other_section(
    twins: Sequence[Twin] | None, attributes: Sequence[str], summed: Sequence[str], their_summed: Sequence[str],
    *, prompts: int, their_prompts: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Everything about the other annotator; `prompts` and `their_prompts` are how many each file holds."""
    if twins is None:
        return left_out(NO_FILE)
    counts = _counts(twins, prompts, their_prompts)
    if not twins:
        return {**left_out("the files have no completion in common"), "joined": counts}
    reads: list[Read] = []
    keys: list[int] = []
    verdicts: list[tuple[float, float]] = []
    for twin in sorted(twins, key=lambda t: (t.ours.prompt.id, t.theirs.prompt.id)):
        ours, theirs = Reading(twin.ours, summed), Reading(twin.theirs, their_summed)
        reads.append(_read(twin, ours, theirs, attributes))
        for one, other in combinations(sorted(twin.completions), 2):
            keys.append(int(twin.ours.prompt.id[:16], 16))
            there = theirs.preferred(twin.completions[one], twin.completions[other])
            verdicts.append((ours.preferred(one, other), there))
    clusters = Clusters(np.unique(np.array(keys, dtype=np.uint64)), seed=seed)
    both = np.array(verdicts, dtype=np.float64).reshape(-1, 2)
    preferences = agreement_of(np.array(keys, dtype=np.uint64), both[:, 0], both[:, 1], clusters, mirrored=True)
    return {
        "n": len(twins),
        "joined": counts,
        "who": who(twin.theirs for twin in twins),
        "measures": _measures(reads, attributes, seed),
        "preferences": preferences,
    }


def who(rows: Any) -> list[dict[str, Any]]:
    """The annotators of some prompts, the most frequent first."""
    counts = Counter((a.backend, a.model) for row in rows for a in row.annotations)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return [{"backend": name[0], "model": name[1], "annotations": counts[name]} for name in order]


def _counts(twins: Sequence[Twin], prompts: int, their_prompts: int) -> dict[str, Any]:
    joined = sum(len(twin.completions) for twin in twins)
    of_joined = sum(len(twin.ours.completions) for twin in twins)
    by_id = sum(twin.by_id for twin in twins)
    return {
        "prompts": prompts,
        "their_prompts": their_prompts,
        "joined": len(twins),
        "ways": {"by id": by_id, "by text": len(twins) - by_id},
        "missed": prompts - len(twins),
        "completions": {"joined": joined, "missed": of_joined - joined},
    }


def _read(twin: Twin, ours: Reading, theirs: Reading, attributes: Sequence[str]) -> Read:
    """Both annotators as if they were two passes."""
    passes: dict[int, dict[str, dict[str, float]]] = {0: {}, 1: {}}
    for here, there in twin.completions.items():
        for number, reading, id in ((0, ours, here), (1, theirs, there)):
            scores = {n: v for n, v in reading.scores.get(id, {}).items() if n in attributes}
            if id in reading.totals:
                scores[PREFERENCE] = reading.totals[id]
            if scores:
                passes[number][here] = scores
    lengths = {c.id: len(c.text) for c in sorted(twin.ours.completions, key=lambda c: c.id)}
    return Read(prompt_id=twin.ours.prompt.id, lengths=lengths, passes=passes, annotations=())


def _measures(reads: Sequence[Read], attributes: Sequence[str], seed: int) -> dict[str, Any]:
    """Each attribute that both score, and the preference score, compared as two passes are."""
    readings = Readings(prompts=reads, attributes=tuple(attributes) or ("",), summed=(), rubric=None)
    resamples = Resamples(len(reads), seed=seed)
    shared = [name for name, table in readings.tables.items() if _both(table)]
    return {name: measure(readings.tables[name], resamples) for name in shared}


def _both(table: Any) -> bool:
    return bool((~np.isnan(table)).all(axis=-1).any())
