"""Open-ended questions about an image, each with a stated form: right, in the form, and both."""

from __future__ import annotations

from align.benchmarks.instructions import MEASURES, score_dialogue
from align.benchmarks.scoring import EXACT_FORM
from align.benchmarks.suite import Suite

OPEN_VISUAL = Suite(
    name="open_visual",
    file="open_visual",
    text=False,
    parser=EXACT_FORM,
    score=score_dialogue,
    measures=MEASURES,
    headline="headline",
)
