"""Preference pairs for DPO: of each prompt the best completion against a worse one.

    Annotated  scores of helpfulness + correctness + coherence: a 11, b 11, c 9, d 4
    ->  PreferencePair(chosen=a or b by a seeded draw, rejected=c or d by a seeded draw, margin=2 or 7, ...)

Where Multi-Modal Preference Alignment, section 3.2, says two things, an option says which is meant:

- `score`: "summing Helpfulness, and Correctness", then helpfulness + correctness + coherence; the default is all three.
- `rejected`: "the worst response", then "randomly selecting another from the four"; the default draws among those that
  are worse by the margin, `worst` takes the lowest, `all_below_margin` pairs the best with each of them.
- `min_margin`: the text has the preferred response "at least 2 points lower", its sign reversed; here chosen minus
  rejected is at least 2.
- `ties`: several best are not spoken of; taking the first would favour a position, so one is drawn, or none (`skip`).
- `fraction`, `flip`: the seeded, nested subsets of Figure 2, and label noise.

Prompts without a pair come out as Failures, so that prompts = prompts with pairs + failures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.pairs.score import Rated, check_settings, difference, draw, failure, first_of_each, in_fraction, pick, usable
from align.settings import Pairs
from annotate.records import Annotated, Failure, PreferencePair, Reason, content_id


def build_preference_pairs(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[PreferencePair | Failure]:
    """Stream through the prompts: the pairs of one prompt adjacent, or one Failure in their place."""
    check_settings(settings)
    for row in annotated:
        yield from _pairs_of(row, settings, seed)


def _pairs_of(row: Annotated, settings: Pairs, seed: int) -> list[PreferencePair] | list[Failure]:
    rated = usable(row, settings.score, at_least=2)
    if isinstance(rated, Failure):
        return [rated]
    best, worse = _divide(rated, settings.min_margin)
    # a best one counts only if something else was said among the worse
    against = {r.completion.id: [w for w in worse if w.text != r.text] for r in best}
    eligible = [r for r in best if against[r.completion.id]]
    if not eligible:
        return [_why_none(row, rated, worse, settings)]
    if settings.ties == "skip" and len({r.text for r in best}) > 1:
        return [failure(row, Reason.TIED, f"{len(best)} completions score {best[0].score:g}")]
    if not in_fraction(row.prompt.id, settings.fraction, seed):
        return [failure(row, Reason.FILTERED, f"outside the fraction {settings.fraction:g}")]
    chosen = pick(eligible, seed, "chosen", row.prompt.id)
    rejected = _rejected(against[chosen.completion.id], settings, seed, row.prompt.id)
    return [_pair(row, chosen, r, settings, seed) for r in rejected]


def _divide(rated: list[Rated], min_margin: float) -> tuple[list[Rated], list[Rated]]:
    """Those that share the highest score, and those worse than it by the margin (and worse at all)."""
    top = max(rated, key=lambda r: r.score)
    best = [r for r in rated if r.score == top.score]
    return best, [r for r in rated if r.score < top.score and difference(top, r) >= min_margin]


def _why_none(row: Annotated, rated: list[Rated], worse: list[Rated], settings: Pairs) -> Failure:
    if worse or len({r.text for r in rated}) == 1:
        return failure(row, Reason.IDENTICAL, "the completions that could be paired say the same")
    widest = widest_difference(rated)
    return failure(row, Reason.NO_MARGIN, f"scores differ by {widest:g} at most, wanted {settings.min_margin:g}")


def widest_difference(rated: list[Rated]) -> float:
    """Points between the best and the worst of a prompt."""
    return difference(max(rated, key=lambda r: r.score), min(rated, key=lambda r: r.score))


def _rejected(candidates: list[Rated], settings: Pairs, seed: int, prompt_id: str) -> list[Rated]:
    if settings.rejected == "all_below_margin":
        return first_of_each(candidates, lambda r: r.text)
    if settings.rejected == "worst":
        lowest = min(r.score for r in candidates)
        candidates = [r for r in candidates if r.score == lowest]
    return [pick(candidates, seed, "rejected", prompt_id)]


def _pair(row: Annotated, chosen: Rated, rejected: Rated, settings: Pairs, seed: int) -> PreferencePair:
    ids = (chosen.completion.id, rejected.completion.id)
    evidence = sorted((a.pass_index, a.id) for a in row.annotations if any(r.completion_id in ids for r in a.ratings))
    flipped = draw(seed, "flip", row.prompt.id, *ids) < settings.flip
    first, second = (rejected, chosen) if flipped else (chosen, rejected)
    return PreferencePair(
        id=content_id([row.prompt.id, first.completion.id, second.completion.id]),
        prompt=row.prompt,
        chosen=first.completion,
        rejected=second.completion,
        margin=difference(first, second),
        rule=_rule(settings) + (", flipped" if flipped else ""),
        evidence=tuple(id for _, id in evidence),
    )


def _rule(settings: Pairs) -> str:
    """The rule in one line; a flipped pair says so, and its margin is negative."""
    return (
        f"score={'+'.join(settings.score)}, chosen={settings.chosen}, ties={settings.ties}, "
        f"rejected={settings.rejected}, min_margin={settings.min_margin:g}"
    )
