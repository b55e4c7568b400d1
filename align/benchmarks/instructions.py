"""Text instructions, as MT-Bench asks them: two turns, the model's own first answer stays in the context.

`text_noisy_image` asks the very same questions with an irrelevant image before the first, one fixed image per item
(Multi-Modal Preference Alignment, section 4.3, "noisy image"): a model whose language leans on an image gets worse.
One item is one dialogue; its value is the mean over its turns, so that items are independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from align.benchmarks.rows import Row
from align.benchmarks.scoring import EXACT_FORM, exactness, has_form, n_words
from align.benchmarks.suite import Score, Suite, mean


def score_dialogue(row: Row, outputs: Sequence[str]) -> Score:
    """Mean over turns of exactness, form and both; `turn_1`, `turn_2` are the headline of each."""
    turns = []
    for question, output in zip(row.questions, outputs, strict=True):
        exact, form = exactness(output, question.accepted), has_form(output, question.form)
        turns.append({"headline": exact * form, "exact": exact, "form": form, "n_words": n_words(output)})
    value = {name: sum(turn[name] for turn in turns) / len(turns) for name in turns[0]}
    if len(turns) > 1:
        value |= {f"turn_{i}": turn["headline"] for i, turn in enumerate(turns, 1)}
    return Score(value=value)


MEASURES = tuple(map(mean, ("headline", "exact", "form", "n_words")))

TEXT_INSTRUCTIONS = Suite(
    name="text_instructions",
    file="text_instructions",
    text=True,
    images="none",
    parser=EXACT_FORM,
    score=score_dialogue,
    measures=MEASURES,
    headline="headline",
    turns=None,
)

TEXT_NOISY_IMAGE = replace(TEXT_INSTRUCTIONS, name="text_noisy_image", images="noise")
