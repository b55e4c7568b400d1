"""Which prompts are run together: fixed from the whole input, so that a resumed run makes the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from align.models.template import render_prompt
from annotate.records import Turn

T = TypeVar("T")


IMAGE_TOKENS = 576
"""Of LLaVA-1.5; a guess for other families."""
CHARACTERS_PER_TOKEN = 3
"""Fewer than English has: a batch is better too small than too large."""


def plan_batches(
    items: Sequence[T],
    size: int,
    turns: Callable[[T], Sequence[Turn]],
    *,
    most_tokens: int | None = None,
    tokens: Callable[[T], int] = lambda item: 0,
) -> list[list[T]]:
    """Batches of at most `size`: prompts with the same number of images together, and of like length, so that little
    is padded. Ties keep the order of `items`.

    Where `most_tokens` is given, a batch's longest item times its number of items is no more, unless it is one item.
    """
    by_length = sorted(items, key=lambda item: (_n_images(turns(item)), len(render_prompt(turns(item)))))
    batches: list[list[T]] = []
    for item in by_length:
        mates = batches[-1] if batches else []
        alike = bool(mates) and _n_images(turns(mates[0])) == _n_images(turns(item))
        # the longest so far is this one
        fits = most_tokens is None or (len(mates) + 1) * tokens(item) <= most_tokens
        if alike and len(mates) < size and fits:
            mates.append(item)
        else:
            batches.append([item])
    return batches


def tokens_of(turns: Sequence[Turn]) -> int:
    """Tokens of a prompt, roughly: a plan knows no tokenizer."""
    return _n_images(turns) * IMAGE_TOKENS + len(render_prompt(turns)) // CHARACTERS_PER_TOKEN


def _n_images(turns: Sequence[Turn]) -> int:
    return sum(len(turn.images) for turn in turns)
