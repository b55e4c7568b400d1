"""Yes/no questions about what an image shows, half of them with the truth no (POPE, arXiv:2305.10355).

Accuracy, precision, recall and F1 of "yes", and the share of yes, which tells a model that says yes to everything from
one that looks. The first word decides; an answer that is neither is `unparsed`: it is no wrong answer and no right one,
it lowers the coverage. POPE's own reading, for which every other answer is a yes, is in `scoring.read_yes_no`.

`pope_blank` is the control: the same questions about uniform grey. A model that still does better than chance has
learnt the questions, not to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from align.benchmarks.measures import Measure, within
from align.benchmarks.pope_files import SPLITS, read_pope_rows
from align.benchmarks.rows import Row
from align.benchmarks.scoring import STRICT_YES_NO, n_words, read_yes_no
from align.benchmarks.suite import Score, Suite, mean, ratio


def score_yes_no(row: Row, outputs: Sequence[str], parser: str = STRICT_YES_NO) -> Score:
    """`yes`: it said so; `truth`: the right answer is yes; `accuracy`: the two agree."""
    said = read_yes_no(outputs[0], parser)
    if said is None:
        return Score(value={}, state="unparsed")
    truth = row.questions[0].polarity == "positive"
    return Score(
        value={
            "accuracy": float(said == truth),
            "yes": float(said),
            "truth": float(truth),
            "n_words": n_words(outputs[0]),
        }
    )


def _polarity(row: Row) -> str:
    return "" if row.questions[0].polarity else "question.polarity: a yes/no item needs positive or negative"


MEASURES = (
    mean("accuracy"),
    ratio("f1", lambda v: 2 * v["yes"] * v["truth"], lambda v: v["yes"] + v["truth"]),
    ratio("precision", lambda v: v["yes"] * v["truth"], lambda v: v["yes"]),
    ratio("recall", lambda v: v["yes"] * v["truth"], lambda v: v["truth"]),
    mean("yes_ratio", "yes"),
    mean("truth_ratio", "truth"),
    mean("n_words"),
)


def measures_of(categories: Sequence[str]) -> tuple[Measure, ...]:
    """Of POPE's own splits each measure once more, split by split."""
    return (*MEASURES, *(within(MEASURES[i], split) for split in SPLITS if split in categories for i in range(5)))


POPE = Suite(
    name="pope",
    file="pope",
    text=False,
    parser=STRICT_YES_NO,
    score=score_yes_no,
    measures=MEASURES,
    measured=measures_of,
    headline="accuracy",
    needs=_polarity,
    read=read_pope_rows,
    roles={"questions": False, "labels": True, "images": True},
)

POPE_BLANK = replace(POPE, name="pope_blank", images="blank")
