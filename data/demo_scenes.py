"""The drawn half of the demo world: handwritten digits on a 3x3 grid, and bar charts, 48x48 pixels.

The digits are the UCI handwritten digits that ship inside scikit-learn (CC BY 4.0, see data/README.md). Their first
half is for training, the third quarter for the dev benchmarks, the last quarter for the test benchmarks: no
handwriting that a model was trained on is ever asked about in a benchmark. Charts have no handwriting; their splits
differ by pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from demo_text import COLOURS, DIGITS, Context, Question, random_objects, scene_makers, value, yes_no
from PIL import Image as PIL

SIZE, CELL = 48, 16
RGB = {
    "red": (220, 40, 40),
    "blue": (40, 70, 220),
    "green": (30, 160, 60),
    "yellow": (235, 190, 20),
    "purple": (140, 40, 170),
    "black": (30, 30, 30),
}
LEVELS, LEVEL_PIXELS = 6, 7
SPLIT = {"train": (0.0, 0.5), "dev": (0.5, 0.75), "test": (0.75, 1.0)}


@dataclass(frozen=True)
class Picture:
    """An image, what each of its 3x3 cells shows (row by row; None is background), and the questions about it."""

    pixels: np.ndarray
    cells: tuple[tuple[str, str] | None, ...]
    context: Context
    level: int
    """How many things there are to tell apart: the curriculum goes by it. A chart counts as 1."""


@cache
def handwriting(split: str) -> dict[str, list[np.ndarray]]:
    """Digit -> its 14x14 ink masks (0..1) in that split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    low, high = (int(len(data.target) * f) for f in SPLIT[split])
    masks: dict[str, list[np.ndarray]] = {d: [] for d in DIGITS}
    for image, target in zip(data.images[low:high], data.target[low:high], strict=True):
        small = PIL.fromarray((image / 16 * 255).astype(np.uint8))
        masks[str(target)].append(np.asarray(small.resize((14, 14), PIL.Resampling.BILINEAR), np.float32) / 255)
    return masks


def background(noise: np.random.Generator) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), noise.integers(225, 256, 3), np.float32)


def tint(colour: str, noise: np.random.Generator) -> np.ndarray:
    return np.clip(np.array(RGB[colour]) + noise.integers(-18, 19, 3), 0, 255).astype(np.float32)


def draw_digits(rng: Random, n: int, split: str) -> Picture:
    noise = np.random.default_rng(rng.getrandbits(32))
    objects = random_objects(rng, n)
    places = sorted(rng.sample(range(9), n))
    pixels = background(noise)
    cells: list[tuple[str, str] | None] = [None] * 9
    for place, (colour, digit) in zip(places, objects, strict=True):
        mask = rng.choice(handwriting(split)[digit])[..., None]
        y = place // 3 * CELL + rng.randint(0, 2)
        x = place % 3 * CELL + rng.randint(0, 2)
        window = pixels[y : y + 14, x : x + 14]
        window[:] = window * (1 - mask) + tint(colour, noise) * mask
        cells[place] = (colour, digit)
    return Picture(pixels.round().astype(np.uint8), tuple(cells), Context("", scene_makers(objects)), n)


def chart_makers(bars: list[tuple[str, int]]) -> dict[str, object]:
    """Questions about a bar chart; heights are all different."""
    colours = [c for c, _ in bars]
    by_height = sorted(bars, key=lambda bar: bar[1])

    def bar_exist(r: Random) -> Question:
        holds = r.random() < 0.5
        c = r.choice(colours if holds else [x for x in COLOURS if x not in colours])
        yes, no = f"there is a {c} bar", f"there is no {c} bar"
        return yes_no("bar_exist", f"Is there a {c} bar?", holds, yes, no, asked=c, among=COLOURS)

    def height(r: Random) -> Question:
        c, level = r.choice(bars)
        return value("height", f"How high is the {c} bar?", str(level), f"The {c} bar is {level} high.", DIGITS)

    def place(r: Random) -> Question:
        where, index = r.choice((("left", 0), ("right", 2), ("middle", 1)))
        c = colours[index]
        return value("place", f"What color is the {where} bar?", c, f"The {where} bar is {c}.", COLOURS)

    def extreme(kind: str, bar: tuple[str, int]) -> object:
        return lambda _: value(kind, f"Which bar is the {kind}?", bar[0], f"The {kind} bar is {bar[0]}.", COLOURS)

    return {
        "bar_exist": bar_exist,
        "height": height,
        "place": place,
        "tallest": extreme("tallest", by_height[-1]),
        "shortest": extreme("shortest", by_height[0]),
    }


def draw_chart(rng: Random, split: str) -> Picture:
    del split
    noise = np.random.default_rng(rng.getrandbits(32))
    bars = list(zip(rng.sample(COLOURS, 3), rng.sample(range(1, LEVELS + 1), 3), strict=True))
    pixels = background(noise)
    cells: list[tuple[str, str] | None] = [None] * 9
    for column, (colour, level) in enumerate(bars):
        top, left = SIZE - 2 - level * LEVEL_PIXELS, column * CELL + 2 + rng.randint(-1, 1)
        pixels[top : SIZE - 2, left : left + 12] = tint(colour, noise)
        for row in range(top // CELL, 3):
            cells[row * 3 + column] = (colour, str(level))
    return Picture(pixels.round().astype(np.uint8), tuple(cells), Context("", chart_makers(bars)), 1)


DRAW_WEIGHTS = {
    "exist": 4, "colour_exist": 2, "colour": 3, "which": 3, "scene_count": 1, "scene_largest": 1,
    "bar_exist": 1, "height": 1, "place": 1, "tallest": 1, "shortest": 1,
}  # fmt: skip


def ask_weighted(context: Context, rng: Random) -> Question:
    """Content look-ups are what is hard to learn, so they are asked most."""
    kinds = sorted(context.makers)
    return context.ask(rng, rng.choices(kinds, weights=[DRAW_WEIGHTS[k] for k in kinds])[0])


def ask_many(context: Context, rng: Random, n: int) -> list[Question]:
    """As many questions, that differ in text."""
    asked: dict[str, Question] = {}
    while len(asked) < n:
        question = ask_weighted(context, rng)
        asked.setdefault(question.text, question)
    return list(asked.values())


def with_options(question: Question, rng: Random) -> Question:
    """The same question as a multiple choice of four, options in the prompt."""
    (slot,) = question.claims
    truth = slot["truth"][0]
    options = [truth, *rng.sample([v for v in slot["vocabulary"] if v != truth], 3)]
    rng.shuffle(options)
    text = f"{question.text} Options: {', '.join(options)}."
    return Question(question.kind, text, question.accepted, question.claims, options=tuple(options))
