r"""Attribute-conditioned examples (SteerLM): the prompt says how good the answer is, the answer follows.

    "What is on the mat?"  +  "\nPlease answer ... Helpfulness:4,Correctness:3,Coherence:4,Complexity:1,Verbosity:1"
    ->  "A cat."

Every rated completion is an example, also bad ones: that is how the model learns what the attributes mean. Multi-Modal
Preference Alignment, section 3.2, does not say whether all four are used; `pairs.steerlm: best` takes one. At inference
the string asks for the highest of each attribute: `conditioning`.

`pairs.steerlm_template` is the paper's sentence, or `nvidia`, the form of NeMo-Aligner (examples/nlp/data/steerlm at
aa5b06f), "<extra_id_2>helpfulness:4,correctness:3,...", or a text of one's own with {attributes} or {labels}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from align.pairs.rejection import unscored
from align.pairs.score import ATTRIBUTES, Group, Rated, Rule, failure, group_of, in_fraction, pick, too_few
from align.settings import Pairs
from annotate.records import Annotated, Example, Failure, Prompt, Reason, Turn

NVIDIA = "\n<extra_id_2>{labels}"


def build_steerlm_examples(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[Example | Failure]:
    """Stream through the prompts: their examples by index of completion, or one Failure in their place."""
    rule = Rule(settings, seed=seed)
    for row in annotated:
        yield from conditioned(group_of(row, rule), rule)


def conditioning(scores: Mapping[str, float], settings: Pairs) -> str:
    """The text appended to a prompt that is to be answered so.

    For inference give the rubric's highest value of each attribute (section 3.2: all at 4).
    """
    return _rendered(tuple(scores.items()), settings.steerlm_template)


@lru_cache(maxsize=50_000)  # five attributes from 0 to 4 have 3,125 values together
def _rendered(scores: tuple[tuple[str, float], ...], template: str) -> str:
    template = NVIDIA if template == "nvidia" else template
    rounded = [(name, _round_half_up(value)) for name, value in sorted(scores, key=lambda s: (_rank(s[0]), s[0]))]
    titles = ",".join(f"{_title(name)}:{value}" for name, value in rounded)
    labels = ",".join(f"{name}:{value}" for name, value in rounded)
    return template.replace("{attributes}", titles).replace("{labels}", labels)


def _rank(name: str) -> int:
    return ATTRIBUTES.index(name) if name in ATTRIBUTES else len(ATTRIBUTES)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _round_half_up(value: float) -> int:
    """2.5 -> 3: the mean of several passes as a point of the scale (Python's own `round` would give 2)."""
    return math.floor(value + 0.5)


def conditioned(group: Group, rule: Rule) -> list[Example] | list[Failure]:
    """The examples of one prompt, or why there are none."""
    lacking = too_few(group, rule, 1) or unscored(group, rule)
    if lacking:
        return [lacking]
    row, settings, rated = group.row, rule.settings, group.rated
    if not in_fraction(row.prompt.id, settings.fraction, rule.seed):
        return [failure(row, Reason.FILTERED, f"outside the fraction {settings.fraction:g}")]
    if settings.steerlm == "best":
        top = max([r.score for r in rated])
        rated = [pick([r for r in rated if r.score == top], rule.seed, "chosen", row.prompt.id)]
    made: dict[str, Example] = {}
    for one in rated:
        example = _example(row.prompt, one, settings)
        made.setdefault(example.id, example)  # two completions may say the same and be rated the same: one example
    return list(made.values())


def _example(prompt: Prompt, rated: Rated, settings: Pairs) -> Example:
    last = prompt.turns[-1]
    asked = Turn(role=last.role, text=last.text + conditioning(rated.scores, settings), images=last.images)
    return Example.of(
        prompt=Prompt.of(
            (*prompt.turns[:-1], asked),
            source=prompt.source,
            source_id=prompt.source_id,
            reference=prompt.reference,
            meta=prompt.meta,
        ),
        completion=rated.completion.text,
        source="steerlm",
        meta={"prompt_id": prompt.id, "completion_id": rated.completion.id, "score": rated.score},
    )
