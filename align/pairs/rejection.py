"""Rejection sampling: the best of the n completions of a prompt becomes an example of plain fine-tuning.

    Annotated  scores of helpfulness + correctness + coherence: a 11, b 11, c 9, d 4
    ->  Example(completion=a or b by a seeded draw, ...)

The score is that of the preference pairs (Multi-Modal Preference Alignment, section 3.2: helpfulness + correctness +
coherence). What the paper leaves open is an option: `min_score`, since no lowest score is named, so none is asked for;
`rejection_ties`, since several best are not spoken of: one is drawn, the one that DPO would choose, or none is taken
(`skip`), or each (`all`). `min_score: 12, rejection_ties: all` is the set of all perfect answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.pairs.score import Group, Rated, Rule, failure, group_of, in_fraction, once_each, pick, too_few
from align.settings import Pairs
from annotate.records import Annotated, Example, Failure, Prompt, Reason


def build_rejection_examples(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[Example | Failure]:
    """Stream through the prompts: one example each (more with `rejection_ties: all`), or one Failure in its place."""
    rule = Rule(settings, seed=seed)
    for row in annotated:
        yield from best_of(group_of(row, rule), rule)


def best_of(group: Group, rule: Rule) -> list[Example] | list[Failure]:
    """The example of one prompt, or why there is none."""
    lacking = too_few(group, rule, 1) or unscored(group, rule)
    if lacking:
        return [lacking]
    row, settings = group.row, rule.settings
    top = max([r.score for r in group.rated])
    if settings.min_score is not None and top < settings.min_score:
        return [failure(row, Reason.FILTERED, f"best score {top:g}, wanted {settings.min_score:g}")]
    if not in_fraction(row.prompt.id, settings.fraction, rule.seed):
        return [failure(row, Reason.FILTERED, f"outside the fraction {settings.fraction:g}")]
    best = [r for r in group.rated if r.score == top]
    if len(best) > 1 and settings.rejection_ties != "random":
        best = once_each(best)
        if len(best) > 1 and settings.rejection_ties == "skip":
            return [failure(row, Reason.TIED, f"{len(best)} completions score {top:g}")]
        return [_example(row.prompt, r) for r in best]
    return [_example(row.prompt, pick(best, rule.seed, "chosen", row.prompt.id))]


def unscored(group: Group, rule: Rule) -> Failure | None:
    """With `basis: preferences` nothing is known of how good a completion is by itself."""
    if rule.compares:
        return failure(group.row, Reason.UNRATED, "basis is preferences: no completion has a score")
    return None


def _example(prompt: Prompt, best: Rated) -> Example:
    meta = {"completion_id": best.completion.id, "score": best.score}
    return Example.of(prompt=prompt, completion=best.completion.text, source="rejection", meta=meta)
