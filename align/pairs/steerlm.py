r"""Attribute-conditioned examples (SteerLM): the prompt says how good the answer is, the answer follows.

    "What is on the mat?"  +  "\nPlease answer ... Helpfulness:4,Correctness:3,Coherence:4,Complexity:1,Verbosity:1"
    ->  "A cat."

Every rated completion is an example, also bad ones: that is how the model learns what the attributes mean. Multi-Modal
Preference Alignment, section 3.2, does not say whether all four are used; `pairs.steerlm: best` takes one. At inference
the string asks for the highest of each attribute: `conditioning`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from align.pairs.score import ATTRIBUTES, Rated, check_settings, failure, first_of_each, in_fraction, pick, usable
from align.settings import Pairs
from annotate.records import Annotated, Example, Failure, Prompt, Reason, replace


def build_steerlm_examples(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[Example | Failure]:
    """Stream through the prompts: their examples by index of completion, or one Failure in their place."""
    check_settings(settings)
    for row in annotated:
        yield from _examples_of(row, settings, seed)


def conditioning(scores: Mapping[str, float], settings: Pairs) -> str:
    """The text appended to a prompt that is to be answered so.

    For inference give the rubric's highest value of each attribute (section 3.2: all at 4).
    """
    named = sorted(scores, key=lambda name: (_rank(name), name))
    rendered = ",".join(f"{_title(name)}:{_round_half_up(scores[name])}" for name in named)
    return settings.steerlm_template.replace("{attributes}", rendered)


def _rank(name: str) -> int:
    return ATTRIBUTES.index(name) if name in ATTRIBUTES else len(ATTRIBUTES)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _round_half_up(value: float) -> int:
    """2.5 -> 3: the mean of several passes as a point of the scale (Python's own `round` would give 2)."""
    return math.floor(value + 0.5)


def _examples_of(row: Annotated, settings: Pairs, seed: int) -> list[Example] | list[Failure]:
    rated = usable(row, settings.score)
    if isinstance(rated, Failure):
        return [rated]
    if not in_fraction(row.prompt.id, settings.fraction, seed):
        return [failure(row, Reason.FILTERED, f"outside the fraction {settings.fraction:g}")]
    if settings.steerlm == "best":
        top = max(r.score for r in rated)
        rated = [pick([r for r in rated if r.score == top], seed, "chosen", row.prompt.id)]
    # two completions may say the same and be rated the same: one example
    return first_of_each((_example(row.prompt, r, settings) for r in rated), lambda e: e.id)


def _example(prompt: Prompt, rated: Rated, settings: Pairs) -> Example:
    *before, last = prompt.turns
    turns = (*before, replace(last, text=last.text + conditioning(rated.scores, settings)))
    return Example.of(
        prompt=Prompt.of(
            turns, source=prompt.source, source_id=prompt.source_id, reference=prompt.reference, meta=prompt.meta
        ),
        completion=rated.completion.text,
        source="steerlm",
        meta={"prompt_id": prompt.id, "completion_id": rated.completion.id, "score": rated.score},
    )
