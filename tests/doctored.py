"""Data sets whose faults are known because they are written down, and what the doctor says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.calibration.readings import MERITS
from align.doctor import Collector, examine
from annotate.records import Annotated, Annotation, Completion, Example, PreferencePair, Prompt, Rating, Turn

Record = Prompt | Annotated | PreferencePair | Example


def prompt_of(number: int, **more: Any) -> Prompt:
    return Prompt.of((Turn(role="user", text=f"Question {number}?"),), **more)


def completion_of(prompt: Prompt, text: str) -> Completion:
    """The same text is the same completion, whether it stands in a pair or among the annotated ones."""
    return Completion.of(prompt_id=prompt.id, model="m", index=0, text=text)


def pair(number: int, chosen: str, rejected: str, *, margin: float | None = None, **more: Any) -> PreferencePair:
    prompt = prompt_of(number, **more)
    two = (completion_of(prompt, text) for text in (chosen, rejected))
    return PreferencePair.of(prompt=prompt, chosen=next(two), rejected=next(two), margin=margin, rule="written")


def rated(number: int, scores: Mapping[str, Mapping[str, int]], **more: Any) -> Annotated:
    """One call: text -> attribute -> score, shown in that order."""
    prompt = prompt_of(number, **more)
    completions = tuple(completion_of(prompt, text) for text in scores)
    ratings = tuple(Rating(completion_id=c.id, scores=dict(scores[c.text])) for c in completions)
    return Annotated(prompt=prompt, completions=completions, annotations=(call(prompt, completions, ratings=ratings),))


def thirds(number: int) -> Annotated:
    """Three passes. "a" gets a point for each attribute in one of them, "b" one for helpfulness in all: 1.0 each."""
    prompt = prompt_of(number)
    a, b = (completion_of(prompt, text) for text in "ab")
    passes = []
    for k in range(3):
        ratings = (
            Rating(completion_id=a.id, scores=dict.fromkeys(MERITS, int(k == 0))),
            Rating(completion_id=b.id, scores={name: int(name == "helpfulness") for name in MERITS}),
        )
        passes.append(call(prompt, (a, b), id=f"{prompt.id}-{k}", pass_index=k, ratings=ratings))
    return Annotated(prompt=prompt, completions=(a, b), annotations=tuple(passes))


def compared(number: int, texts: Sequence[str], preference: str) -> Annotated:
    """One pairwise call."""
    prompt = prompt_of(number)
    completions = tuple(completion_of(prompt, text) for text in texts)
    annotation = call(prompt, completions, mode="pairwise", preference=preference)
    return Annotated(prompt=prompt, completions=completions, annotations=(annotation,))


def call(prompt: Prompt, completions: Sequence[Completion], **more: Any) -> Annotation:
    made = {
        "id": f"{prompt.id}-0",
        "prompt_id": prompt.id,
        "mode": "listwise",
        "pass_index": 0,
        "shown_order": tuple(c.id for c in completions),
        "ratings": (),
        "backend": "written",
        "model": "out",
        "rubric": "r",
        "rubric_sha256": "0" * 64,
        "request_sha256": "0",
    }
    return Annotation(**made | more)


def points(**scores: int) -> dict[str, dict[str, int]]:
    """Texts that are scored for helpfulness alone."""
    return {text: {"helpfulness": score} for text, score in scores.items()}


def report_of(records: Sequence[Record], **options: Any) -> dict[str, Any]:
    collector = Collector()
    for record in records:
        collector.add(record)
    return examine(collector.tables(), **options)
