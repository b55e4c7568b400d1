"""Multiple choice by likelihood: the option whose text, as the whole answer, the model finds most probable.

    output   {"blue":-2.197225,"red":-0.105361}        summed log-probability of " blue</s>" and of " red</s>"

The options stand in the prompt. Nothing is generated, so there is nothing to parse, and style cannot matter. Equal
likelihoods go to the option that the prompt names first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from align.benchmarks.rows import Row
from align.benchmarks.suite import Score, Suite, mean
from annotate.records import canonical_json

OPTION_LIKELIHOOD = "option-likelihood/1"


def choice_output(options: Sequence[str], logps: Sequence[float]) -> str:
    """What is recorded of a choice: the summed log-probability of every option."""
    return canonical_json({o: round(p, 6) for o, p in zip(options, logps, strict=True)})


def score_choice(row: Row, outputs: Sequence[str]) -> Score:
    """`chance`: what guessing among this item's options would give."""
    (question,) = row.questions
    logps = json.loads(outputs[0])
    best = max(question.options, key=lambda option: float(logps[option]))
    return Score(value={"accuracy": float(best == question.answer), "chance": 1 / len(question.options)})


CHOICE = Suite(
    name="choice",
    file="choice",
    text=False,
    parser=OPTION_LIKELIHOOD,
    score=score_choice,
    measures=(mean("accuracy"), mean("chance")),
    headline="accuracy",
    chooses=True,
)
