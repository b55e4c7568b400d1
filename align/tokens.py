"""What training on a set of rows costs: tokens that the language model reads, and floating-point operations.

    mlan = Tokens(rows=2, images=0, lm=300, trained=20, ...);  vision = Tokens(rows=2, images=2, lm=1452, ...)
    vision.times(mlan)                   4.84      MLAN's Table 2 (section 3.2) counts tokens of the visual prefix too
    training_flops(vision, model)        Flops(language=…, attention=…, projector=…, tower=…)
    print(table({"mlan": mlan, "llava": vision}))

Counting is done where tokenizers are, in `align.train.counted`; here is arithmetic alone, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The account of a set of rows, each once."""

    rows: int = 0
    with_images: int = 0
    images: int = 0
    views: int = 0
    """Pictures that the vision tower is shown: one an image, more where a model cuts images into pieces."""
    lm: int = 0
    """All tokens that the language model reads: images, prompts, answers."""
    image: int = 0
    """Of these, the images': the visual prefix."""
    trained: int = 0
    """Of these, the ones that carry the loss: answers, their end markers included."""
    squared: int = 0
    """The sum of the rows' squared lengths, by which attention grows."""
    padded: int | None = None
    """`lm`, and what fills up the rows of a batch to the longest; None where batches are not known."""

    def __add__(self, other: Tokens) -> Tokens:
        mine, its = asdict(self), asdict(other)
        padded = (its.pop("padded"), mine.pop("padded"))
        together = {name: mine[name] + its[name] for name in mine}
        return Tokens(**together, padded=None if None in padded else sum(padded))

    @property
    def prompt(self) -> int:
        """Tokens of text that carry no loss."""
        return self.lm - self.image - self.trained

    def times(self, base: Tokens) -> float:
        """How many times the tokens of `base` these are: "4.6x" in MLAN, section 1."""
        return self.lm / base.lm

    def increase(self, base: Tokens) -> float:
        """By how many percent they are more than those of `base`: MLAN, Table 2."""
        return 100 * (self.times(base) - 1)

    def fewer(self, other: Tokens) -> float:
        """By how many percent they are fewer than those of `other`: "78%" in MLAN, section 1."""
        return 100 * (1 - self.times(other))


# -------------------------------------------------------------------------------------------------------------- flops

Learns = Literal["full", "lora", "frozen"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers of a transformer."""

    weights: int
    """Numbers in the matrices that every token passes: no embeddings looked up, the head included."""
    layers: int
    width: int
    """Of all heads together: heads times the size of one."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The parts of a VLM that compute, and which of them learn."""

    language: Stack
    projector: int = 0
    """Weights that every patch passes."""
    tower: Stack | None = None
    patches: int = 0
    """Of one picture, before the tower; the class token, where there is one, counts."""
    projected: int = 0
    """Of these, how many the projector is given."""
    adapter: int = 0
    """Weights of the LoRA matrices."""
    learns: Mapping[Literal["language", "projector", "tower"], Learns]


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations, by where they are spent."""

    language: int
    attention: int
    """Of the language model: what grows with the square of a row's length."""
    projector: int
    tower: int

    @property
    def total(self) -> int:
        return self.language + self.attention + self.projector + self.tower


FORMULA = (
    "a token costs 2 operations per weight forward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), 2 for the "
    "gradient of activations where something before or in the weight's layer learns, 2 for the weight's own gradient "
    "where it learns: 6 in all for what is trained whole (Hoffmann et al. 2022, arXiv:2203.15556, Appendix F), 4 for a "
    "frozen language model with an adapter or a learning projector, 2 for a frozen vision tower, once an image. "
    "Attention adds 4 x layers x width x length^2 forward, twice that again backward, the whole square, causal or not. "
    "Not counted: padding, norms, softmax, the optimizer, and the second forward pass of gradient checkpointing"
)


def training_flops(tokens: Tokens, model: Model) -> Flops:
    """Operations of one pass over the rows, forward and backward; the formula is in words in `FORMULA`.

    A frozen language model is taken to stand between the loss and what learns, in rows of text too.
    """
    tower_learns, projector_learns = (model.learns[part] == "full" for part in ("tower", "projector"))
    through_projector = tower_learns or projector_learns
    language = tokens.lm * (model.language.weights * _per_weight(True, model.learns["language"] == "full"))
    language += tokens.lm * model.adapter * _per_weight(True, True)
    tower = 0
    if model.tower is not None:
        each = model.patches * model.tower.weights * _per_weight(tower_learns, tower_learns)
        each += _attention(model.tower, model.patches**2, backward=tower_learns)
        tower = tokens.views * each
    return Flops(
        language=language,
        attention=_attention(model.language, tokens.squared, backward=True),
        projector=tokens.views * model.projected * model.projector * _per_weight(through_projector, projector_learns),
        tower=tower,
    )


def _per_weight(activations: bool, learns: bool) -> int:
    return 2 + 2 * activations + 2 * learns


def _attention(stack: Stack, squared: int, *, backward: bool) -> int:
    """Queries with keys, and weights with values: 2 operations each per pair of tokens and number of the width."""
    return 4 * stack.layers * stack.width * squared * (3 if backward else 1)


# --------------------------------------------------------------------------------------------------------------- told


def table(
    accounts: Mapping[str, Tokens],
    *,
    flops: Mapping[str, Flops] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """One line per account, against the one with the fewest tokens: MLAN's Table 2, and what stands behind it."""
    base = smallest(accounts.values())
    head = ["", "LM tokens", "increase", "times", "of images", "trained", "rows", "with images"]
    lines = [head + ["FLOPs"] * bool(flops) + ["seconds", "tokens/s"] * bool(seconds)]
    for name, its in accounts.items():
        more = its.increase(base) if base.lm else 0.0
        line = [name, f"{its.lm:,}", f"+{more:.2f}%" if more else "", f"{its.times(base):.2f}x" if base.lm else ""]
        line += [f"{its.image:,}", f"{its.trained:,}", f"{its.rows:,}", f"{its.with_images:,}"]
        if flops:
            line.append(f"{flops[name].total:.3g}" if name in flops else "-")
        if seconds:
            told = seconds.get(name)
            line += [f"{told:,.1f}", f"{its.lm / told:,.0f}"] if told else ["-", "-"]
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    put = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(side(cell, w) for side, cell, w in zip(put, line, widths, strict=True)).rstrip() for line in lines
    )


def as_json(tokens: Tokens, base: Tokens, flops: Flops | None = None) -> dict[str, Any]:
    """The account with its increase over `base`, and what it costs where that is known."""
    told: dict[str, Any] = asdict(tokens) | {
        "increase_percent": round(tokens.increase(base), 2) if base.lm else None,
        "times": round(tokens.times(base), 4) if base.lm else None,
    }
    return told | ({"flops": asdict(flops) | {"total": flops.total}} if flops else {})


def smallest(accounts: Iterable[Tokens]) -> Tokens:
    """The one with the fewest tokens, against which the others are told."""
    return min(accounts, key=lambda its: its.lm)
