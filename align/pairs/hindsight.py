"""Chain-of-Hindsight: a dialogue in which a worse answer is followed by a better one (Liu et al., arXiv:2302.02676).

    user "What is on the mat?"  assistant "A dog."  user "That answer can be improved. ..."   ->   "A cat."

The worse answer stands in the prompt, so that no loss falls on it: an Example trains on its completion alone. The two
answers are those of the preference pairs, by the same rule and draws. Multi-Modal Preference Alignment does not report
the method; `pairs.sets: [preference, hindsight]` makes the set, `pairs.hindsight_template` is what the user says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.pairs.preference import pairs_of
from align.pairs.score import Group, Rule, group_of
from align.settings import Pairs
from annotate.records import Annotated, Example, Failure, PreferencePair, Prompt, Turn


def build_hindsight_examples(
    annotated: Iterable[Annotated], settings: Pairs, *, seed: int
) -> Iterator[Example | Failure]:
    """Stream through the prompts: an example for each preference pair, or one Failure in their place."""
    rule = Rule(settings, seed=seed)
    for row in annotated:
        yield from in_hindsight(group_of(row, rule), rule)


def in_hindsight(group: Group, rule: Rule) -> list[Example] | list[Failure]:
    """The examples of one prompt, or why there are none."""
    made = list[Example]()
    for pair in pairs_of(group, rule):
        if isinstance(pair, Failure):
            return [pair]
        made.append(_example(pair, rule.settings))
    return made


def _example(pair: PreferencePair, settings: Pairs) -> Example:
    asked = pair.prompt
    turns = (
        *asked.turns,
        Turn(role="assistant", text=pair.rejected.text),
        Turn(role="user", text=settings.hindsight_template),
    )
    return Example.of(
        prompt=Prompt.of(
            turns, source=asked.source, source_id=asked.source_id, reference=asked.reference, meta=asked.meta
        ),
        completion=pair.chosen.text,
        source="hindsight",
        meta={"prompt_id": asked.id, "pair_id": pair.id, "margin": pair.margin},
    )
