"""What a benchmark is: what a model is shown, how its answer is read, which measures come out.

Suites are values, not classes to inherit from; each file beside this one holds those of one kind. A suite reads
recorded outputs only, so that an old run can be scored again without the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from align.evaluate.benchmark import Row
from annotate.records import Image, Turn

Value = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What became of one answer: its values, or that it could not be read."""

    value: dict[str, float]
    state: Literal["ok", "unparsed"] = "ok"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of the table as a ratio of two sums over items, so that F1 is resampled like a mean is."""

    name: str
    of: Callable[[Value], float]
    per: Callable[[Value], float] = lambda _: 1.0


def mean(name: str) -> Measure:
    """The average of one value."""
    return Measure(name=name, of=lambda value: value[name])


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One benchmark. `score` takes a row and one recorded output per question."""

    name: str
    file: str
    """Stem of the benchmark file; two suites may ask the same questions in different circumstances."""
    text: bool
    """Text suites are what the verdict on the regression is about."""
    parser: str
    """Name and version; goes into every Item."""
    score: Callable[[Row, Sequence[str]], Score]
    measures: tuple[Measure, ...]
    headline: str
    """The measure that is compared between models."""
    images: Literal["none", "own", "noise", "blank"] = "own"
    """What is shown: nothing, the row's image, the row's irrelevant image, or uniform grey in its image's place."""
    chooses: bool = False
    """The output is the log-likelihood of each option, not text."""

    def image(self, row: Row) -> Image | None:
        """The file that is looked at (for `blank`: the one whose size the grey image takes)."""
        if self.images == "noise":
            return row.noise_image
        return row.prompt.images[0] if row.prompt.images else None

    def first_turn(self, row: Row) -> Turn:
        """The first user turn as it is shown."""
        turn = row.prompt.turns[0]
        if self.images == "noise" and row.noise_image is not None:
            return Turn(role="user", text=f"<image>\n{turn.text}", images=(row.noise_image,))
        return turn

    def fault(self, row: Row) -> str:
        """Why this row cannot be asked in this suite, or nothing."""
        n_images = len(row.prompt.images)
        if self.images in ("own", "blank") and n_images != 1:
            return f"{self.name} asks about one image, this item has {n_images}"
        if self.images in ("none", "noise") and n_images:
            return f"{self.name} is a text suite, this item brings an image"
        if self.images == "noise" and row.noise_image is None:
            return f"{self.name} needs a `noise_image` (an irrelevant picture)"
        if self.file != "text_instructions" and len(row.questions) != 1:
            return f"{self.name} asks one question, this item has {len(row.questions)}"
        if self.file == "pope" and row.questions[0].polarity is None:
            return "question.polarity: a yes/no item needs positive or negative"
        if self.chooses and len(row.questions[0].options) < 2:
            return "question.options: a choice needs at least two"
        return ""
