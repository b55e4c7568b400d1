"""What the builders share: the score of a completion, seeded draws, and why a prompt gives nothing.

Every draw is a hash of (seed, purpose, prompt id, ...): it depends neither on the order of the prompts, nor on that of
the completions, nor on what else is in the file. That also makes subsets nested: who is in a fraction of 0.25 is in
every larger one (the data-scaling curve of Multi-Modal Preference Alignment, Figure 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from align.settings import Pairs
from annotate.errors import UserError
from annotate.records import Annotated, Completion, Failure, Reason

T = TypeVar("T")
STAGE = "pairs"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""HelpSteer's attributes in the paper's order (Table 1); those of other rubrics follow in alphabetical order."""


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A completion with its mean score per attribute, and the sum over those that `pairs.score` names."""

    completion: Completion
    scores: dict[str, float]
    score: float

    @property
    def text(self) -> str:
        """What two completions are compared by."""
        return self.completion.text.strip()


def check_settings(settings: Pairs) -> None:
    """Raise `UserError` listing every impossible value."""
    faults = []
    if not settings.score or len(set(settings.score)) != len(settings.score):
        faults.append(f"pairs.score: {list(settings.score)}; name at least one attribute, each once")
    if settings.min_margin < 0:
        faults.append(f"pairs.min_margin: {settings.min_margin:g}; chosen minus rejected cannot be below 0")
    if not 0 < settings.fraction <= 1:
        faults.append(f"pairs.fraction: {settings.fraction:g}; expected a share above 0, at most 1")
    if not 0 <= settings.flip <= 1:
        faults.append(f"pairs.flip: {settings.flip:g}; expected a share from 0 to 1")
    if "{attributes}" not in settings.steerlm_template or "<image>" in settings.steerlm_template:
        faults.append("pairs.steerlm_template: must hold {attributes}, and no <image>")
    if faults:
        raise UserError(*faults)


def draw(seed: int, *names: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256("\x1f".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def pick(candidates: Sequence[Rated], seed: int, purpose: str, prompt_id: str) -> Rated:
    """One of `candidates`, each as likely as the next, whatever their order."""
    return min(candidates, key=lambda c: (draw(seed, purpose, prompt_id, c.completion.id), c.completion.id))


def first_of_each(items: Iterable[T], key: Callable[[T], str]) -> list[T]:
    """The items in their order, without those whose key came before."""
    found: dict[str, T] = {}
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())


def in_fraction(prompt_id: str, fraction: float, seed: int) -> bool:
    """Whether a prompt belongs to the seeded, nested subset; the same for every training set made of it."""
    return draw(seed, "fraction", prompt_id) < fraction


def usable(annotated: Annotated, score: Sequence[str], *, at_least: int = 1) -> list[Rated] | Failure:
    """The rated completions that hold any text, by index; or why there are fewer than `at_least`."""
    scores = annotated.scores()
    rated = [
        Rated(completion=c, scores=scores[c.id], score=_score(scores[c.id], score, annotated.prompt.id))
        for c in sorted(annotated.completions, key=lambda c: (c.index, c.id))
        if c.id in scores
    ]
    kept = [r for r in rated if r.text]
    if len(kept) >= at_least:
        return kept
    if len(rated) >= at_least:
        reason, detail = Reason.COMPLETION_EMPTY, f"{len(rated) - len(kept)} of {len(rated)} completions are empty"
    elif len(annotated.completions) >= at_least:
        reason, detail = Reason.UNRATED, f"{len(rated)} of {len(annotated.completions)} completions are rated"
    else:
        reason, detail = Reason.COMPLETIONS_MISSING, f"{len(annotated.completions)} completion(s)"
    return failure(annotated, reason, detail)


def _score(scores: dict[str, float], attributes: Sequence[str], prompt_id: str) -> float:
    missing = [name for name in attributes if name not in scores]
    if missing:
        from difflib import get_close_matches  # only to word an error

        near = get_close_matches(missing[0], scores, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"pairs.score: prompt {prompt_id} is not rated for {missing[0]!r} but for {', '.join(sorted(scores))}{hint}"
        )
    # means of several passes are thirds and sevenths: without rounding a margin of 2 would come out as 1.9999999
    return round(sum(scores[name] for name in attributes), 6)


def difference(better: Rated, worse: Rated) -> float:
    """Points between two completions."""
    return round(better.score - worse.score, 6)


def failure(annotated: Annotated, reason: Reason, detail: str) -> Failure:
    return Failure(stage=STAGE, record_id=annotated.prompt.id, reason=reason, detail=detail)
