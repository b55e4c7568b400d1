"""Planted questions, whose right answer is known before they are asked; paid like any other, and never trained upon.

    duplicate     one completion stands in the list twice; both should get the same scores
    wrong_image   the image is another prompt's; what is said of the right one should no longer be correct
    blind         there is no image at all; scores that stay as they were did not come from looking

What was answered goes to checks.jsonl, one line a check; `scores` stand in the order of `shown`:

    {"kind":"blind","prompt_id":"91…","shown":["c2…","a0…"],"scores":[{"helpfulness":3,…},{…}]}
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from annotate.errors import UserError
from annotate.prompting import Mode
from annotate.records import IMAGE_PLACEHOLDER, Completion, Image, Prompt, replace

Kind = Literal["duplicate", "wrong_image", "blind"]


class CheckSettings(Protocol):
    """How many prompts to check in each way (`align.settings.Checks`)."""

    @property
    def duplicate(self) -> int: ...
    @property
    def wrong_image(self) -> int: ...
    @property
    def blind(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Check:
    """One planted question: `prompt` as it is sent, and which it was made of."""

    kind: Kind
    of: Prompt
    prompt: Prompt
    shown: tuple[Completion, ...]


def plan_checks(
    prompts: Sequence[Prompt],
    completions: Mapping[str, tuple[Completion, ...]],
    wanted: CheckSettings,
    *,
    mode: Mode,
    seed: int,
) -> list[Check]:
    """Seeded draws among `prompts`, nested: asking for more keeps those already asked. Raises `UserError`."""
    if mode == "pairwise" and (wanted.duplicate or wanted.wrong_image or wanted.blind):
        raise UserError("annotate.checks compare scores; they need mode listwise or pointwise")
    if mode == "pointwise" and wanted.duplicate:
        raise UserError("annotate.checks.duplicate shows one completion twice in a list; it needs mode listwise")
    made = list(_duplicates(_drawn(prompts, "duplicate", seed)[: wanted.duplicate], completions, seed))
    seeing = [p for p in prompts if p.images]
    for kind, n in (("wrong_image", wanted.wrong_image), ("blind", wanted.blind)):
        for prompt in _drawn(seeing, kind, seed)[:n]:
            sent = _blind(prompt) if kind == "blind" else _with_other_image(prompt, seeing, seed)
            if sent is not None:
                shown = _shuffled(completions[prompt.id], kind, prompt, seed)
                shown = shown[:1] if mode == "pointwise" else shown
                made.append(Check(kind=kind, of=prompt, prompt=sent, shown=shown))  # type: ignore[arg-type]
    return made


def _drawn(prompts: Sequence[Prompt], kind: str, seed: int) -> list[Prompt]:
    """The prompts in an order of the check's own, which other prompts do not change."""
    return sorted(prompts, key=lambda p: random.Random(f"{seed}/{kind}/{p.id}").random())


def _shuffled(completions: Sequence[Completion], kind: str, prompt: Prompt, seed: int) -> tuple[Completion, ...]:
    shown = list(completions)
    random.Random(f"{seed}/{kind}/{prompt.id}/order").shuffle(shown)
    return tuple(shown)


def _duplicates(
    prompts: Sequence[Prompt], completions: Mapping[str, tuple[Completion, ...]], seed: int
) -> Iterator[Check]:
    for prompt in prompts:
        own = completions[prompt.id]
        twice = random.Random(f"{seed}/twice/{prompt.id}").choice(own)
        yield Check(
            kind="duplicate", of=prompt, prompt=prompt, shown=_shuffled((*own, twice), "duplicate", prompt, seed)
        )


def _blind(prompt: Prompt) -> Prompt:
    turns = tuple(
        replace(turn, text=turn.text.replace(IMAGE_PLACEHOLDER, "").strip(), images=()) for turn in prompt.turns
    )
    return Prompt.of(turns, source=prompt.source, reference=prompt.reference, meta=prompt.meta)


def _with_other_image(prompt: Prompt, among: Sequence[Prompt], seed: int) -> Prompt | None:
    """The prompt with images of another one; None where all show the same."""
    own = {image.sha256 for image in prompt.images}
    others = {i.sha256: i for p in among for i in p.images if i.sha256 not in own}
    if not others:
        return None
    # Each has its own lot: an image more, or one less, rarely changes which is drawn.
    drawn = sorted(others, key=lambda sha256: random.Random(f"{seed}/other/{prompt.id}/{sha256}").random())
    turns = []
    for turn in prompt.turns:
        images: tuple[Image, ...] = tuple(others[drawn[n % len(drawn)]] for n in range(len(turn.images)))
        turns.append(replace(turn, images=images))
    return Prompt.of(tuple(turns), source=prompt.source, reference=prompt.reference, meta=prompt.meta)
