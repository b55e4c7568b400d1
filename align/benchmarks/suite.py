"""What a benchmark is: what a model is shown, how its answer is read, which measures come out.

Suites are values, not classes to inherit from; each file beside this one holds those of one kind. A suite reads
recorded outputs only, so that an old run can be scored again without the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from align.benchmarks.corruptions import Corruption
from align.benchmarks.measures import Measure, Outcome, Value, mean, ratio
from align.benchmarks.rows import Row
from annotate.errors import UserError
from annotate.records import Image, Turn, sha256_of

if TYPE_CHECKING:
    from align.benchmarks.judge_asks import Judged
    from align.benchmarks.published import Source

__all__ = ["Measure", "NoiseKind", "Outcome", "Score", "Suite", "Value", "mean", "ratio"]

_ROLES: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
NoiseKind = Literal["blank", "gaussian", "photo", "corrupted"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What became of one answer: its values, or that it could not be read."""

    value: dict[str, float]
    state: Literal["ok", "unparsed"] = "ok"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One benchmark. `score` takes a row and one recorded output per question; `judged` asks a judge instead."""

    name: str
    file: str
    """Stem of the benchmark file; two suites may ask the same questions in different circumstances."""
    text: bool
    """Text suites are what the verdict on the regression is about."""
    parser: str
    """Name and version; goes into every Item."""
    measures: tuple[Measure, ...]
    headline: str
    """The value (of an outcome) that is compared between models; also the name of the first column of the table."""
    score: Callable[[Row, Sequence[str]], Score] | None = None
    """None: a judge says what an answer is worth."""
    judged: Judged | None = None
    """How the judge is asked (`evaluate.judge`)."""
    scale: float = 1.0
    """What the headline can be at most; the verdict's margin is a share of it."""
    images: Literal["none", "own", "any", "noise", "blank"] = "own"
    """What is shown: nothing, the row's image, the row's irrelevant image, or uniform grey in its image's place.
    `any`: the row's image, where it has one."""
    chooses: bool = False
    """The output is the log-likelihood of each option, not text."""
    turns: int | None = 1
    """How many questions a row asks; None: any number."""
    needs: Callable[[Row], str] = lambda row: ""
    """What a row lacks for this suite, or nothing."""
    read: Callable[[Source], Sequence[Row]] | None = None
    """Reads the benchmark's own published files into rows; None where only `<file>.jsonl` will do."""
    roles: Mapping[str, bool] = field(default_factory=dict)
    """What those files are called in `evaluate.files`, and whether each of them is needed."""
    noise: NoiseKind | None = None
    """Which picture is made for each row as its irrelevant image; None: the rows bring theirs."""
    pool: Callable[[Sequence[Outcome]], Sequence[Outcome]] | None = None
    """Makes one outcome of several rows where the benchmark counts them together (MMBench's circular passes)."""

    among: Callable[[Sequence[Row]], Callable[[Row, Sequence[str]], Score]] | None = None
    """Makes `score` where it depends on all rows that are asked (CIDEr-D: how rare a word is)."""
    measured: Callable[[Sequence[str]], tuple[Measure, ...]] | None = None
    """Makes `measures` of the categories that are asked about, where they are not always the same (MME's tasks)."""
    lacking: Callable[[Sequence[str]], str] | None = None
    """Says what cannot be told, given the categories that are asked about; nothing where all can."""
    corruption: Corruption | None = None
    """What is done to the image before it is looked at."""

    demonstrations: int = 0
    """So many questions about other images, with their answers and as text alone, stand before the own one."""
    answer: Callable[[Row], str] = lambda row: row.questions[0].answer
    """What a demonstration says."""
    shown: tuple[Row, ...] = ()
    """Rows of which the demonstrations are made, each about another image."""

    def asking(self, rows: Sequence[Row]) -> Suite:
        """The suite for these rows. Raises `UserError` where there are too few to demonstrate with."""
        suite = replace(self, score=self.among(rows), among=None) if self.among else self
        if self.demonstrations:
            suite = replace(suite, shown=_one_of_each_image(rows, self.demonstrations + 1, self.name))
        categories = list(dict.fromkeys(row.category for row in rows))
        return replace(suite, measures=self.measured(categories), measured=None) if self.measured else suite

    def lacks(self, rows: Sequence[Row]) -> str:
        """Which numbers of the benchmark these rows cannot give, and why; or nothing."""
        return self.lacking(list(dict.fromkeys(row.category for row in rows))) if self.lacking else ""

    @property
    def clean(self) -> str:
        """Name of the suite about the images as they are."""
        return self.name.partition("+")[0]

    @property
    def stands_apart(self) -> bool:
        """Shows how a model takes other circumstances, not how good it is: in no comparison of models."""
        return self.images == "blank" or self.corruption is not None

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

    def opening(self, row: Row) -> list[Turn]:
        """What is said up to the first answer: demonstrations, if there are any, and the first user turn."""
        others = [other for other in self.shown if other.cluster != row.cluster][: self.demonstrations]
        said = [(other.questions[0].text, self.answer(other)) for other in others]
        turns = [Turn(role=role, text=text) for pair in said for role, text in zip(_ROLES, pair, strict=True)]
        return [*turns, self.first_turn(row)]

    def fault(self, row: Row) -> str:
        """Why this row cannot be asked in this suite, or nothing."""
        n_images = len(row.prompt.images)
        if self.images in ("own", "blank") and n_images != 1:
            return f"{self.name} asks about one image, this item has {n_images}"
        if self.images == "any" and n_images > 1:
            return f"{self.name} asks about one image or none, this item has {n_images}"
        if self.images in ("none", "noise") and n_images:
            return f"{self.name} is a text suite, this item brings an image"
        if self.images == "noise" and row.noise_image is None:
            return f"{self.name} needs a `noise_image` (an irrelevant picture)"
        if self.turns is not None and len(row.questions) != self.turns:
            asks = "one question" if self.turns == 1 else f"{self.turns} questions"
            return f"{self.name} asks {asks}, this item has {len(row.questions)}"
        if self.chooses and len(row.questions[0].options) < 2:
            return "question.options: a choice needs at least two"
        return self.needs(row)


def _one_of_each_image(rows: Sequence[Row], n: int, name: str) -> tuple[Row, ...]:
    """The first n in an order that has nothing to do with the file's."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: sha256_of(["demonstration", row.id])):
        if len(found) < n:
            found.setdefault(row.cluster, row)
    if len(found) < n:
        raise UserError(f"{name}: asks about {len(found)} images; it takes {n} to demonstrate with others each time")
    return tuple(found.values())
