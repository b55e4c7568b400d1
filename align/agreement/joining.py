"""Which prompts and completions of two files are the same ones.

Ids are hashes of content and agree where both files were made from the same images and sampled by the same model. Files
of other tools know neither: there, prompts are the same if they say the same (spacing, Unicode form and the place of
the image aside) about the same images, and completions if their texts are the same. An image is the sha256 of its
bytes; where one file names images that were not opened, it is its file name.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from align.formats.format import Made
from align.formats.store import UNOPENED
from align.prints import file_name
from annotate.records import IMAGE_PLACEHOLDER, Annotated, Completion, Image, PreferencePair, Prompt

V = TypeVar("V")
_SIGNS = {"first": 1, "second": -1, "tie": 0}


class Opinion(Struct, frozen=True, kw_only=True):
    """What people prefer of two completions; several judgements of one pair are one opinion, that of the majority."""

    prompt: Prompt
    first: Completion
    second: Completion
    preferred: int
    """1 the first, -1 the second, 0 neither."""
    ordered: bool
    """Whether the file says which came first; a pair of chosen and rejected does not."""
    judgements: int = 1


def opinions_in(records: Iterable[Made]) -> list[Opinion]:
    """The opinions in pairwise annotations and in preference pairs; other records have none."""
    votes: dict[tuple[str, str, str], list[Opinion]] = defaultdict(list)
    for record in records:
        for vote in _votes(record):
            low, high = sorted((vote.first.id, vote.second.id))
            votes[vote.prompt.id, low, high].append(vote)
    return [_majority(votes[key]) for key in sorted(votes)]


def _votes(record: Made) -> list[Opinion]:
    if isinstance(record, PreferencePair):
        return [Opinion(prompt=record.prompt, first=record.chosen, second=record.rejected, preferred=1, ordered=False)]
    if not isinstance(record, Annotated):
        return []
    by_id = {c.id: c for c in record.completions}
    return [
        Opinion(
            prompt=record.prompt,
            first=by_id[a.shown_order[0]],
            second=by_id[a.shown_order[1]],
            preferred=_SIGNS[a.preference],
            ordered=True,
        )
        for a in record.annotations
        if a.preference is not None
    ]


def _majority(votes: Sequence[Opinion]) -> Opinion:
    """One opinion of several. Where they were not shown in one order, none is kept: the completions go by id."""
    orders = {(vote.first.id, vote.second.id) for vote in votes}
    ordered = len(orders) == 1 and all(vote.ordered for vote in votes)
    one = min(votes, key=lambda vote: (vote.first.id, vote.second.id))
    first, second = (one.first, one.second) if ordered else sorted((one.first, one.second), key=lambda c: c.id)
    total = sum(vote.preferred if vote.first.id == first.id else -vote.preferred for vote in votes)
    return Opinion(
        prompt=one.prompt, first=first, second=second, preferred=(total > 0) - (total < 0), ordered=ordered,
        judgements=len(votes),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- prompts


class Lookup(Generic[V]):
    """Things of prompts, found by any prompt that asks the same."""

    def __init__(self) -> None:
        self._by_text: dict[tuple[tuple[str, str], ...], list[tuple[Prompt, V]]] = defaultdict(list)

    def add(self, prompt: Prompt, value: V) -> None:
        self._by_text[_said(prompt)].append((prompt, value))

    def find(self, prompt: Prompt) -> list[V]:
        """What was added under the same prompt, that of the same id first."""
        here = self._by_text.get(_said(prompt), ())
        found = [(p.id != prompt.id, p.id, value) for p, value in here if _same_images(p, prompt)]
        found.sort(key=lambda item: item[:2])
        return [value for _, _, value in found]


def plain(text: str) -> str:
    """A text as it is compared."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _said(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    return tuple((turn.role, plain(turn.text.replace(IMAGE_PLACEHOLDER, " "))) for turn in prompt.turns)


def _same_images(a: Prompt, b: Prompt) -> bool:
    return len(a.images) == len(b.images) and all(map(_same_image, a.images, b.images))


def _same_image(a: Image, b: Image) -> bool:
    if a.sha256 == b.sha256:
        return True
    unopened = a.sha256.startswith(UNOPENED) or b.sha256.startswith(UNOPENED)
    return unopened and file_name(a.path) == file_name(b.path)


# --------------------------------------------------------------------------------------------------- completions


def match(wanted: Sequence[Completion], there: Sequence[Completion]) -> tuple[Mapping[str, str], bool]:
    """Id of each wanted completion that is there -> the id it has there; and whether all were found by id.

    Each completion is given away once, the first of equal texts first.
    """
    left = {c.id: plain(c.text) for c in sorted(there, key=lambda c: (c.index, c.id))}
    found = {c.id: c.id for c in wanted if left.pop(c.id, None) is not None}
    by_id = len(found)
    by_text: dict[str, list[str]] = defaultdict(list)
    for id, text in left.items():
        by_text[text].append(id)
    for c in sorted(wanted, key=lambda c: (c.index, c.id)):
        if c.id not in found and by_text[plain(c.text)]:
            found[c.id] = by_text[plain(c.text)].pop(0)
    return found, by_id == len(found)
