"""Ratings made elsewhere, as an `Annotated`: one annotation over all completions of a prompt that were rated.

    {"helpfulness": 3, "correctness": 4, ...}  ->  Rating(completion_id="6f0c…", scores={"helpfulness": 3, ...})

A file of ratings does not say whether its raters saw one completion at a time (HelpSteer's did) or all of them: the
annotation is `listwise` as one that covers them all, in the file's order. That order was shown to nobody, and where
people rated (`backend` "human") nothing is made of places in it (`align/doctor/annotator.py`).

A completion without scores stays among the completions, unrated: that is data, not a score of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import msgspec

from annotate.errors import RecordError
from annotate.records import Annotated, Annotation, Completion, Prompt, Rating, Rubric, content_id, content_sha256
from annotate.rubric import load_rubric


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One completion as a file has it."""

    text: str
    model: str
    scores: dict[str, int] = {}  # a struct has its own each time
    """Empty where it was not rated."""
    rationale: str = ""


@cache
def shipped_rubric(name: str) -> Rubric:
    """Scales and sha256 of a rubric of ours: what raters elsewhere read said the same of its attributes and ranges."""
    return load_rubric(name)[0]


def annotated_of(
    prompt: Prompt, answers: Sequence[Answer], *, rubric: Rubric, backend: str, model: str, checked: bool = False
) -> Annotated:
    """The prompt with its answers. Raises `RecordError` where a score is outside of the rubric, unless `checked`."""
    prompt_id, completions, ratings = prompt.id, [], []
    for index, answer in enumerate(answers):
        try:
            id = content_id([prompt_id, answer.model, index, answer.text])
        except UnicodeEncodeError:
            half = "half of a surrogate pair (\\ud800 to \\udfff), which is no text"
            raise RecordError(f"an answer holds {half}") from None
        completions.append(Completion(id=id, prompt_id=prompt_id, index=index, text=answer.text, model=answer.model))
        if answer.scores:
            if not checked:
                rubric.check(answer.scores, f"completions[{index}]")
            ratings.append(Rating(completion_id=id, scores=answer.scores, rationale=answer.rationale))
    if not ratings:
        return Annotated(prompt=prompt, completions=tuple(completions), annotations=())
    said = content_sha256([backend, model, rubric.name, prompt_id, [[r.completion_id, r.scores] for r in ratings]])
    annotation = Annotation(
        id=content_id(["annotation", said]),
        prompt_id=prompt_id,
        mode="listwise",
        pass_index=0,
        shown_order=tuple([rating.completion_id for rating in ratings]),
        ratings=tuple(ratings),
        backend=backend,
        model=model,
        rubric=rubric.name,
        rubric_sha256=rubric.sha256,
        request_sha256=said,
    )
    return Annotated(prompt=prompt, completions=tuple(completions), annotations=(annotation,))


def whole_scores(record: Annotated, form: str) -> list[dict[str, int]]:
    """The scores of each completion as points of the scale: means of several passes are rounded, half up.

    That is how HelpSteer2 came from its several raters (arXiv:2406.08673, section 2). Raises `RecordError` where a
    completion was not rated, which a flat row cannot say.
    """
    by_id = record.scores()
    for completion in record.completions:
        if completion.id not in by_id:
            raise RecordError(
                f"completion {completion.index} is not rated, and every row of {form} has scores; annotate it again, "
                "or leave the prompt out"
            )
    return [{name: math.floor(mean + 0.5) for name, mean in by_id[c.id].items()} for c in record.completions]
