"""Which prompts are run together: fixed from the whole input, so that a resumed run makes the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from align.models.template import render_prompt
from annotate.records import Turn

T = TypeVar("T")


def plan_batches(items: Sequence[T], size: int, turns: Callable[[T], Sequence[Turn]]) -> list[list[T]]:
    """Batches of at most `size`: prompts with the same number of images together, and of like length, so that little
    is padded. Ties keep the order of `items`.
    """
    by_length = sorted(items, key=lambda item: (_n_images(turns(item)), len(render_prompt(turns(item)))))
    batches: list[list[T]] = []
    for item in by_length:
        mates = batches[-1] if batches else []
        if mates and len(mates) < size and _n_images(turns(mates[0])) == _n_images(turns(item)):
            mates.append(item)
        else:
            batches.append([item])
    return batches


def _n_images(turns: Sequence[Turn]) -> int:
    return sum(len(turn.images) for turn in turns)
