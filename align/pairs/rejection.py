"""Rejection sampling: the best of the n completions of a prompt becomes an example of plain fine-tuning.

The score is that of the preference pairs (Multi-Modal Preference Alignment, section 3.2: helpfulness + correctness +
coherence), ties are drawn alike. Whether the paper asks for a lowest score is not said: `pairs.min_score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.pairs.score import check_settings, failure, in_fraction, pick, usable
from align.settings import Pairs
from annotate.records import Annotated, Example, Failure, Reason


def build_rejection_examples(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[Example | Failure]:
    """Stream through the prompts: one example each, or one Failure in its place."""
    check_settings(settings)
    for row in annotated:
        yield _best_of(row, settings, seed)


def _best_of(row: Annotated, settings: Pairs, seed: int) -> Example | Failure:
    rated = usable(row, settings.score)
    if isinstance(rated, Failure):
        return rated
    top = max(r.score for r in rated)
    if settings.min_score is not None and top < settings.min_score:
        return failure(row, Reason.FILTERED, f"best score {top:g}, wanted {settings.min_score:g}")
    if not in_fraction(row.prompt.id, settings.fraction, seed):
        return failure(row, Reason.FILTERED, f"outside the fraction {settings.fraction:g}")
    best = pick([r for r in rated if r.score == top], seed, "chosen", row.prompt.id)
    return Example.of(
        prompt=row.prompt,
        completion=best.completion.text,
        source="rejection",
        meta={"completion_id": best.completion.id, "score": best.score},
    )
