"""Preference pairs for DPO: of each prompt the best completion against a worse one.

    Annotated  scores of helpfulness + correctness + coherence: a 11, b 11, c 9, d 4
    ->  PreferencePair(chosen=a or b by a seeded draw, rejected=c or d by a seeded draw, margin=2 or 7, ...)

Where Multi-Modal Preference Alignment, section 3.2, says two things, an option says which is meant:

- `score`: "summing Helpfulness, and Correctness", then helpfulness + correctness + coherence; the default is all three.
- `rejected`: "the worst response", then "randomly selecting another from the four"; the default draws among those that
  are worse by the margin, `worst` takes the lowest, `all_below_margin` pairs the best with each of them, and
  `all_pairs` makes a pair of any two that differ by the margin, as VLFeedback does (without a margin).
- `min_margin`: the text has the preferred response "at least 2 points lower", its sign reversed; here chosen minus
  rejected is at least 2.
- `ties`: several best are not spoken of; taking the first would favour a position, so one is drawn, or none (`skip`).
  Where `all_pairs` makes all pairs there is nothing to draw, and equals make none.
- `fraction`, `flip`: the seeded, nested subsets of Figure 2, and label noise.

Not in the paper: `max_length_ratio` says which two may be paired at all, so that another is drawn where one is too
long; `max_pairs` then limits the pairs of a prompt; `length_gap` at last leaves out pairs of the finished set
(`lengths.py`).

Prompts without a pair come out as Failures, so that prompts = prompts with pairs + failures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.pairs.score import (
    Group,
    Rated,
    Rule,
    difference,
    draw,
    failure,
    group_of,
    in_fraction,
    once_each,
    pick,
    too_few,
    widest_difference,
)
from align.settings import Pairs
from annotate.errors import UserError
from annotate.records import Annotated, Failure, PreferencePair, Reason, content_id

Couple = tuple[Rated, Rated]
"""A better and a worse completion of one prompt."""


def build_preference_pairs(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[PreferencePair | Failure]:
    """Stream through the prompts: the pairs of one prompt adjacent, or one Failure in their place."""
    rule = Rule(settings, seed=seed)
    for row in annotated:
        yield from pairs_of(group_of(row, rule), rule)


def pairs_of(group: Group, rule: Rule) -> list[PreferencePair] | list[Failure]:
    """The pairs of one prompt, or why there are none."""
    lacking = too_few(group, rule, 2)
    if lacking:
        return [lacking]
    if rule.compares:
        from align.pairs.compared import preferred

        couples = preferred(group)
    elif rule.settings.rejected == "all_pairs":
        couples = _all_couples(group, rule)
    else:
        couples = _best_against_worse(group, rule)
    if isinstance(couples, Failure):
        return [couples]
    allowed = _of_like_length(couples, rule)
    if not allowed:
        detail = f"no pair within max_length_ratio {rule.settings.max_length_ratio:g}"
        return [failure(group.row, Reason.FILTERED, detail)]
    prompt_id, fraction = group.row.prompt.id, rule.settings.fraction
    if not in_fraction(prompt_id, fraction, rule.seed):
        return [failure(group.row, Reason.FILTERED, f"outside the fraction {fraction:g}")]
    chosen = _limited(_by_rule(allowed, rule, prompt_id), rule, prompt_id)
    made = [_pair(group, better, worse, rule) for better, worse in chosen]
    return made if rule.settings.length_gap is None else _within_gap(made, group, rule)


# -------------------------------------------------------------------------------------------- what may make a pair


def _best_against_worse(group: Group, rule: Rule) -> list[Couple] | Failure:
    """Each of the best with each that is worse by the margin and says something else."""
    rated, margin = group.rated, rule.settings.min_margin
    top = max([r.score for r in rated])
    best = [r for r in rated if r.score == top]
    worse = [r for r in rated if r.score < top and round(top - r.score, 6) >= margin]
    couples = [(b, w) for b in best for w in worse if w.text != b.text]
    if not couples:
        return _why_none(group, bool(worse), rule)
    if len(best) > 1 and rule.settings.ties == "skip" and len({r.text for r in best}) > 1:
        return failure(group.row, Reason.TIED, f"{len(best)} completions score {top:g}")
    return couples


def _all_couples(group: Group, rule: Rule) -> list[Couple] | Failure:
    """Any two that differ by the margin. Two texts that were each rated above the other make none."""
    margin, rated = rule.settings.min_margin, group.rated
    found: dict[tuple[str, str], Couple] = {}
    apart = False
    for better in rated:
        for worse in rated:
            if worse.score < better.score and difference(better, worse) >= margin:
                apart = True
                if worse.text != better.text:
                    found.setdefault((better.text, worse.text), (better, worse))
    couples = [couple for (one, other), couple in found.items() if (other, one) not in found]
    if found and not couples:
        return failure(group.row, Reason.IDENTICAL, "copies of one text are rated above and below those of another")
    return couples or _why_none(group, apart, rule)


def _why_none(group: Group, apart: bool, rule: Rule) -> Failure:
    """`apart`: whether any two differ by the margin."""
    if apart or len({r.text for r in group.rated}) == 1:
        return failure(group.row, Reason.IDENTICAL, "the completions that could be paired say the same")
    widest = widest_difference(group.rated)
    return failure(
        group.row, Reason.NO_MARGIN, f"scores differ by {widest:g} at most, wanted {rule.settings.min_margin:g}"
    )


def _of_like_length(couples: list[Couple], rule: Rule) -> list[Couple]:
    limit = rule.settings.max_length_ratio
    if limit is None:
        return couples
    lengths = ((couple, len(couple[0].text), len(couple[1].text)) for couple in couples)
    return [couple for couple, one, other in lengths if max(one, other) <= limit * min(one, other)]


# ------------------------------------------------------------------------------------------------ which are taken


def _by_rule(couples: list[Couple], rule: Rule, prompt_id: str) -> list[Couple]:
    """One draw among the best that have an opponent, then among its opponents; or all couples."""
    how = rule.settings.rejected
    if len(couples) == 1 or rule.compares or how == "all_pairs":
        return couples
    better = couples[0][0]
    if better is not couples[-1][0]:  # several best
        best = {b.completion.id: b for b, _ in couples}
        better = pick(list(best.values()), rule.seed, "chosen", prompt_id)
    worse = [w for b, w in couples if b is better]
    if how == "all_below_margin":
        return [(better, w) for w in once_each(worse)]
    if how == "worst":
        lowest = min([w.score for w in worse])
        worse = [w for w in worse if w.score == lowest]
    return [(better, pick(worse, rule.seed, "rejected", prompt_id))]


def _limited(couples: list[Couple], rule: Rule, prompt_id: str) -> list[Couple]:
    """`max_pairs` of them, each as likely as the next; nested: a larger limit keeps them all and adds some."""
    limit = rule.settings.max_pairs
    if limit is None or len(couples) <= limit:
        return couples

    def lot(couple: Couple) -> tuple[float, str, str]:
        ids = couple[0].completion.id, couple[1].completion.id
        return draw(rule.seed, "max_pairs", prompt_id, *ids), *ids

    last = sorted(map(lot, couples))[limit - 1]
    return [couple for couple in couples if lot(couple) <= last]


def _within_gap(pairs: list[PreferencePair], group: Group, rule: Rule) -> list[PreferencePair] | list[Failure]:
    """The last step: pairs of the finished set that one side outgrows."""
    from align.pairs.lengths import gap

    bounds = rule.settings.length_gap
    if not isinstance(bounds, tuple):
        raise UserError(
            "pairs.length_gap: balance is found over a whole set; take the settings that "
            "align.pairs.lengths.balanced(annotated, settings, seed=...) returns"
        )
    low, high = bounds
    kept = [p for p in pairs if (low is None or low <= gap(p)) and (high is None or gap(p) <= high)]
    if kept:
        return kept
    gaps = ", ".join(f"{gap(p):+d}" for p in pairs)
    bounds_in_words = rule.text.rpartition("length_gap=")[2]
    detail = f"chosen minus rejected is {gaps} characters, outside {bounds_in_words}"
    return [failure(group.row, Reason.FILTERED, detail)]


def _pair(group: Group, better: Rated, worse: Rated, rule: Rule) -> PreferencePair:
    prompt, flip = group.row.prompt, rule.settings.flip
    flipped = flip > 0 and draw(rule.seed, "flip", prompt.id, better.completion.id, worse.completion.id) < flip
    first, second = (worse, better) if flipped else (better, worse)
    chosen, rejected = first.completion, second.completion
    return PreferencePair(
        id=content_id([prompt.id, chosen.id, rejected.id]),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        margin=None if rule.compares else round(first.score - second.score, 6),
        rule=rule.text + ", flipped" if flipped else rule.text,
        evidence=_evidence(group.row, (chosen.id, rejected.id), rule),
        meta={} if rule.compares else {"scores": {"chosen": first.scores, "rejected": second.scores}},
    )


def _evidence(row: Annotated, ids: tuple[str, str], rule: Rule) -> tuple[str, ...]:
    """The annotations that a pair rests on, by pass."""
    annotations = row.annotations
    if len(annotations) == 1:
        return (annotations[0].id,)
    if rule.compares:
        behind = [a for a in annotations if a.mode == "pairwise" and set(a.shown_order) == set(ids)]
    else:
        behind = [a for a in annotations if any([r.completion_id in ids for r in a.ratings])]
    return tuple([id for _, id in sorted([(a.pass_index, a.id) for a in behind])])
