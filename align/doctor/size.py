"""How much there is; what is there twice; pairs that say nothing, and pairs that say the opposite of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from align.calibration.figure import left_out
from align.doctor.collect import KINDS, name_of

if TYPE_CHECKING:
    from align.doctor.collect import Column, Keys, Tables
    from align.doctor.sampling import Clusters
    from align.doctor.scored import Scored

NO_PAIRS = "there are no pairs in the file"
NO_COMPLETIONS = "there are no annotated completions in the file"
EXAMPLES = 5


def size_section(tables: Tables, scored: Scored) -> dict[str, Any]:
    """Counts, in all and by source."""
    records = tables.records
    rated = np.zeros(len(scored.prompt), dtype=bool)
    for values in scored.measures.values():
        rated |= ~np.isnan(values)
    sources = []
    for code, name in enumerate(tables.sources):
        of_source = records["source"] == code
        kinds = {kind: int((of_source & (records["kind"] == i)).sum()) for i, kind in enumerate(KINDS)}
        sources.append({"source": name, "distinct_prompts": len(np.unique(records["prompt"][of_source])), **kinds})
    with_images = records["prompt"][records["images"] > 0]
    annotated, paired = (records["prompt"][records["kind"] == KINDS.index(k)] for k in ("annotated", "pairs"))
    return {
        "n": len(tables.prompts),
        **{kind: tables.n(kind) for kind in KINDS},
        "completions": len(scored.prompt),
        "completions_scored": int(rated.sum()),
        "annotations": tables.counts["annotations"],
        "annotated_and_paired": len(np.intersect1d(annotated, paired)),
        "prompts_with_images": len(np.unique(with_images)),
        "images": tables.counts["images"] + tables.counts["images_unopened"],
        "images_known_by_path": tables.counts["images_unopened"],
        "sources": sources,
    }


def duplicates_section(tables: Tables, scored: Scored, clusters: Clusters) -> dict[str, Any]:
    """What repeats: annotated prompts, completions of one prompt, completions across prompts, pairs."""
    kind = KINDS.index("annotated")
    annotated = tables.records["prompt"][tables.records["kind"] == kind]
    distinct, first = np.unique(tables.records["prompt"], return_index=True)
    folded = tables.records["folded"][first]
    return {
        "n": tables.n("pairs") or tables.n("annotated"),
        "prompts": {
            "repeated": len(annotated) - len(np.unique(annotated)),
            "differ_in_spacing_or_case_only": len(distinct) - len(np.unique(folded)),
        },
        "completions": _completions(scored, clusters),
        "pairs": _pairs(tables, clusters),
    }


def _completions(scored: Scored, clusters: Clusters) -> dict[str, Any]:
    if not len(scored.prompt):
        return left_out(NO_COMPLETIONS)
    order = np.lexsort([scored.folded, scored.prompt])
    prompt, text = scored.prompt[order], scored.folded[order]
    again = np.zeros(len(prompt), dtype=bool)
    again[1:] = (prompt[1:] == prompt[:-1]) & (text[1:] == text[:-1])
    pairs = np.unique(np.stack([text, prompt]), axis=1)
    texts, counts = np.unique(pairs[0], return_counts=True)
    most = np.lexsort([texts, -counts])[:EXAMPLES]
    widest = [
        {"prompts": int(counts[i]), "prompt": name_of(pairs[1][np.searchsorted(pairs[0], texts[i])])}
        for i in most
        if counts[i] > 1
    ]
    return {
        "n": len(prompt),
        "share": clusters.share(prompt, again, np.ones(len(prompt)), NO_COMPLETIONS),
        "texts_of_several_prompts": int((counts > 1).sum()),
        "most_repeated": widest,
    }


def _pairs(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    pairs = tables.pairs
    n = len(pairs["prompt"])
    if not n:
        return left_out(NO_PAIRS)
    again = _repeats(pairs["prompt"], pairs["chosen_text"], pairs["rejected_text"])
    differ = pairs["chosen_text"] != pairs["rejected_text"]
    contrary = _contradicted(pairs) & differ
    ones = np.ones(n)
    return {
        "n": n,
        "share": clusters.share(pairs["prompt"], again, ones, NO_PAIRS),
        "repeated": int(again.sum()),
        "repeated_examples": _examples(pairs["id"][again]),
        "contradictory_share": clusters.share(pairs["prompt"], contrary, ones, NO_PAIRS),
        "contradictory": int(contrary.sum()),
        "contradictory_examples": _examples(pairs["id"][contrary]),
    }


def identical_section(tables: Tables, clusters: Clusters) -> dict[str, Any]:
    """Pairs whose two completions are the same text, byte for byte or but for spacing and case."""
    pairs = tables.pairs
    n = len(pairs["prompt"])
    if not n:
        return left_out(NO_PAIRS)
    exact = pairs["chosen_text"] == pairs["rejected_text"]
    folded = pairs["chosen_folded"] == pairs["rejected_folded"]
    return {
        "n": n,
        "exact": int(exact.sum()),
        "share": clusters.share(pairs["prompt"], folded, np.ones(n), NO_PAIRS),
        "folded": int(folded.sum()),
        "examples": _examples(pairs["id"][folded]),
    }


def _repeats(*columns: Keys) -> Column:
    """Whether a row is like an earlier one in all columns."""
    order = np.lexsort(columns)
    same = np.ones(len(order) - 1, dtype=bool) if len(order) else np.zeros(0, dtype=bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    again = np.zeros(len(order), dtype=bool)
    again[order[1:]] = same
    return again


def _contradicted(pairs: dict[str, Column] | Any) -> Column:
    """Whether the same two completions of a prompt also stand the other way round."""
    forward = np.stack([pairs["prompt"], pairs["chosen_text"], pairs["rejected_text"]], axis=1)
    back = np.stack([pairs["prompt"], pairs["rejected_text"], pairs["chosen_text"]], axis=1)
    _, place = np.unique(np.concatenate([forward, back]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    return np.isin(place[: len(forward)], place[len(forward) :])


def _examples(ids: Keys) -> list[str]:
    return [name_of(key) for key in np.unique(ids)[:EXAMPLES]]
