r"""Training rows of the base, beside `Example`: compact, strict, torch-free.

    {"schema":"conversation/1","turns":[{"role":"user","text":"<image>\nIs there a 7?","images":[...]},
     {"role":"assistant","text":"Yes","images":[]}, ...],"source":"digits","level":2}

    {"schema":"patches/1","image":{"path":...,"sha256":...},"words":[["red","7"],[],...]}

In a Conversation the loss falls on *every* assistant turn (in an `Example` on the completion alone): several questions
on one image share its tokens, which makes look-ups learnable in few steps.
"""

from __future__ import annotations

from typing import ClassVar

from annotate.errors import RecordError
from annotate.records import Image, Record, Turn


class Conversation(Record, frozen=True, kw_only=True):
    """User and assistant in turn, the assistant last."""

    SCHEMA: ClassVar[str] = "conversation/1"
    turns: tuple[Turn, ...]
    source: str = ""
    level: int = 0
    """How hard it is: a curriculum admits higher levels later."""

    def __post_init__(self) -> None:
        roles = [t.role for t in self.turns]
        if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
            raise RecordError(f"turns must alternate user, assistant, ..., assistant; got {', '.join(roles) or 'none'}")

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for turn in self.turns for image in turn.images)


class Patches(Record, frozen=True, kw_only=True):
    """An image and the words that each of its patches stands for, row by row; none: background."""

    SCHEMA: ClassVar[str] = "patches/1"
    image: Image
    words: tuple[tuple[str, ...], ...]
