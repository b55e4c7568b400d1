"""Annotators whose faults are known because they are written down: prompts graded by a function, and their cards."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from align.calibration import calibration_card
from align.calibration.words import findings
from annotate.records import Annotated, Annotation, Completion, Failure, Prompt, Rating, Reason, Turn
from annotate.run import shown_order

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SUM = "preference score"
TEXTS = ("x" * 10, "x" * 200, "x" * 30, "x" * 4)
Grade = Callable[[int, int, int], int]
"""Completion index, place from 0, pass -> the score, of every attribute alike."""


def prompt_of(number: int) -> Prompt:
    return Prompt.of((Turn(role="user", text=f"Question {number}?"),))


def completions_of(prompt: Prompt, texts: Sequence[str]) -> tuple[Completion, ...]:
    return tuple(Completion.of(prompt_id=prompt.id, model="m", index=i, text=t) for i, t in enumerate(texts))


def annotation(prompt: Prompt, shown: Sequence[Completion], scores: Sequence[int] = (), **more: Any) -> Annotation:
    """One call; every attribute of a completion gets the same score."""
    ratings = tuple(
        Rating(completion_id=c.id, scores=dict.fromkeys(ATTRIBUTES, s)) for c, s in zip(shown, scores, strict=False)
    )
    made = {
        "id": f"{prompt.id}-{more.get('pass_index', 0)}-{'-'.join(str(c.index) for c in shown)}",
        "prompt_id": prompt.id,
        "mode": "listwise",
        "pass_index": 0,
        "shown_order": tuple(c.id for c in shown),
        "ratings": ratings,
        "backend": "written",
        "model": "out",
        "rubric": "helpsteer",
        "rubric_sha256": "0" * 64,
        "request_sha256": "0",
    }
    return Annotation(**made | more)


def rated(number: int, grade: Grade, *, passes: int = 1, texts: Sequence[str] = "abcd", seed: int = 0) -> Annotated:
    """A prompt whose completions were shown as the stage shows them, and graded by `grade`."""
    prompt = prompt_of(number)
    completions = completions_of(prompt, texts)
    annotations = []
    for k in range(passes):
        order = shown_order(len(texts), position=number, pass_index=k, seed=seed)
        scores = [grade(index, place, k) for place, index in enumerate(order)]
        annotations.append(annotation(prompt, [completions[i] for i in order], scores, pass_index=k))
    return Annotated(prompt=prompt, completions=completions, annotations=tuple(annotations))


def card_of(annotated: Sequence[Annotated], checks: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    given = {"funnel": {}, "cost_usd": 0.0, "calls": 0, "failures": ()} | more
    made = calibration_card(annotated, given.pop("failures"), checks, **given)
    assert_honest(made)
    return made


def assert_honest(card: Any) -> None:
    """Whatever is null says why; nothing is infinite; every figure says how many prompts it rests on."""
    json.dumps(card, allow_nan=False)
    if isinstance(card, dict):
        if "value" in card:
            assert "n" in card, card
            assert (card["value"] is None) <= bool(card.get("why")), card
            assert "low" not in card or (card["low"] is None) <= bool(card.get("why")), card
        for part in card.values():
            assert_honest(part)
    elif isinstance(card, list):
        for part in card:
            assert_honest(part)


def levels(card: dict[str, Any]) -> dict[str, str]:
    return {f.topic: f.level for f in findings(card)}


def known(figure: dict[str, Any]) -> tuple[float, int]:
    return figure["value"], figure["n"]


def check(kind: str, record: Annotated, change: Callable[[str, int], int] = lambda name, score: score) -> dict:
    """A check with the completions in the order of pass 0 and its scores after `change`."""
    ratings = record.annotations[0].ratings
    scores = [{name: change(name, score) for name, score in r.scores.items()} for r in ratings]
    shown = [r.completion_id for r in ratings]
    return {"kind": kind, "prompt_id": record.prompt.id, "shown": shown, "scores": scores}


def twenty(passes: int = 1) -> list[Annotated]:
    return [rated(i, lambda index, place, k: 1 + index % 3, passes=passes) for i in range(20)]


def compared(number: int, prefer: Callable[[Completion, Completion], str], passes: int = 2) -> Annotated:
    """Two completions, the second of them twice as long; in the second pass they change places."""
    prompt = prompt_of(number)
    a, b = completions_of(prompt, ("short", "long, long"))
    orders = [(a, b), (b, a)][:passes] if number % 2 else [(b, a), (a, b)][:passes]
    annotations = tuple(
        annotation(prompt, shown, mode="pairwise", preference=prefer(*shown), pass_index=k)
        for k, shown in enumerate(orders)
    )
    return Annotated(prompt=prompt, completions=(a, b), annotations=annotations)


def failed(number: int, reason: Reason) -> Failure:
    return Failure(stage="annotate", record_id=prompt_of(number).id, reason=reason)


def everything(seed: int = 0) -> tuple[list[Annotated], list[Failure], list[dict[str, Any]]]:
    """A run with all there is: two passes, noise, failures, every check."""
    dice = random.Random(seed)
    records = [
        rated(i, lambda index, place, k: min(4, index + dice.randint(0, 1)), passes=2, texts=TEXTS) for i in range(14)
    ]
    lines = [check(kind, r) for kind in ("wrong_image", "blind") for r in records]
    for record in records:
        line = check("duplicate", record)
        lines.append(
            line | {"shown": [*line["shown"], line["shown"][2]], "scores": [*line["scores"], line["scores"][2]]}
        )
    return records, [failed(40 + i, Reason.BLOCKED if i else Reason.CUT_OFF) for i in range(3)], lines
