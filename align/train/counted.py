"""Tokens of rows before they are trained on, from tokenizer and processor alone; no weights are read.

for row in asked_rows(Path("data/mixes/mlan_v/examples.jsonl"), Path("data/images")): ...
count(rows, lengths, limit=4096)      ->  Counted(tokens=Tokens(rows=80000, lm=14939955, ...), left_out={...})
model_of(folder, config, settings)    ->  Model: the shapes behind `align.tokens.training_flops`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.models.lengths import Asked, Length, Lengths
from align.settings import Train
from align.tokens import FORMULA, Model, Stack, Tokens, training_flops
from align.train.file_rows import records_of, row_of
from align.train.lora_rows import TrainRow
from align.train.modules import tensors
from align.train.parts import Part, part_of
from align.train.preflight import look_ahead
from annotate.errors import UserError
from annotate.pixels import UnreadableImage
from annotate.records import Reason

if TYPE_CHECKING:
    from align.train.meter import Measured

TOGETHER = 256
"""Rows that are tokenised in one call."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The account of the rows that can be trained on, and why others cannot: reason -> how many, and the first one's
    detail.
    """

    tokens: Tokens
    left_out: Mapping[str, int]
    details: Mapping[str, str]


def asked_of(rows: Iterable[TrainRow]) -> Iterator[Asked]:
    """What is counted of rows that are trained on."""
    return (Asked(row.prompt.turns, row.images, row.completions[0], row.whole) for row in rows)


def asked_rows(file: Path, root: Path) -> Iterator[Asked]:
    """The rows of a file, one after another: `Example`, `Prompt` with a reference, `Conversation`, mixed as they come.

    Raises `UserError` naming file and lines.
    """
    return asked_of(row_of(record, root) for record in records_of(file))


def count(
    rows: Iterable[Asked],
    lengths: Lengths,
    *,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Counted:
    """The account of `rows`, which may be endless in number: they are looked at a few at a time.

    `limit`: tokens of a row at most.
    """
    total = Counter[str]()
    left_out, details = Counter[str](), dict[str, str]()
    asked = iter(rows)
    while some := list(islice(asked, TOGETHER)):
        for row, found in zip(some, lengths.measure(some), strict=True):
            fault = _fault(row, found, limit)
            if fault is None:
                assert isinstance(found, Length)
                trained = found.completion + found.earlier * row.whole
                n = found.tokens
                total.update(
                    rows=1, with_images=bool(row.images), images=len(row.images), views=found.views,
                    lm=n, image=found.image, trained=trained, squared=n * n,
                )  # fmt: skip
            else:
                left_out[fault[0].value] += 1
                details.setdefault(fault[0].value, fault[1])
        progress(len(some))
    return Counted(tokens=Tokens(**total), left_out=dict(left_out), details=details)


def _fault(row: Asked, found: Length | Exception, limit: int | None) -> tuple[Reason, str] | None:
    """Why a row cannot be trained on, as the training itself would find."""
    if not row.completion.strip():
        return Reason.COMPLETION_EMPTY, "a completion has no text to learn from"
    match found:
        case Length():
            if limit is not None and found.tokens > limit:
                return Reason.TOO_LONG, f"{found.tokens} tokens; the limit is {limit}"
            return None
        case UserError():
            return Reason.INVALID_INPUT, str(found)
        case UnreadableImage():
            return Reason.IMAGE_UNREADABLE, f"an image {found}"
        case FileNotFoundError():
            return Reason.IMAGE_UNREADABLE, "an image is missing; is the image root right?"
    return Reason.IMAGE_UNREADABLE, f"an image cannot be decoded ({type(found).__name__})"


# ----------------------------------------------------------------------------------------------- planned and measured


def account(
    model: Path, settings: Train, rows: Sequence[TrainRow], measured: Measured, log: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """What `tokens.json` says of a finished training: its rows once, all its steps, and what they cost.

        {"rows_once": {"rows": 4, "lm": 120, …}, "epochs": 2.0, "measured": {"rows": 8, "lm": 240, "padded": 252, …}, …}

    Both are counted apart, so they can be held against each other: with whole epochs, and no row that comes again,
    `measured` is `rows_once` times `epochs`, but for padding. `seconds` is for whom may read times.
    """
    ahead = look_ahead(model)
    once = count(asked_of(rows), Lengths(ahead.encoder)).tokens
    shapes = model_of(list(tensors(model)), ahead.config, settings)
    costs = {"flops_once": training_flops(once, shapes), "flops": training_flops(measured.tokens, shapes)}
    return {
        "rows_once": asdict(once),
        "epochs": log[-1]["epoch"],
        "measured": asdict(measured.tokens)
        | {"tower_calls": measured.tower_calls, "tower_calls_of_text": measured.tower_calls_of_text},
        **{name: asdict(found) | {"total": found.total} for name, found in costs.items()},
        "formula": FORMULA,
        "seconds": measured.seconds,
    }


def notes_of(told: Mapping[str, Any]) -> dict[str, str]:
    """The same for the card."""
    once, all_steps = told["rows_once"], told["measured"]
    padding = all_steps["padded"] - all_steps["lm"]
    calls, of_text = all_steps["tower_calls"], all_steps["tower_calls_of_text"]
    return {
        "tokens of all rows, once": f"{once['lm']:,}, {once['image']:,} of them images, {once['trained']:,} with loss",
        "tokens that were read": f"{all_steps['lm']:,}, and {padding:,} of padding, in {all_steps['rows']:,} rows",
        "vision tower": f"{calls:,} calls, {of_text:,} of them in batches of text; {all_steps['views']:,} pictures",
        "floating-point operations": f"{told['flops']['total']:.3g}, by the formula in tokens.json",
    }


# ------------------------------------------------------------------------------------------------------------- shapes


def model_of(shapes: Sequence[tuple[str, Sequence[int]]], config: Any, settings: Train) -> Model:
    """What computes in a model, from the shapes of its weights (`modules.tensors`) and its configuration."""
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    names = {name.rpartition(".")[0].rpartition(".")[2] for name, _ in shapes}
    looked_up = ("position_embedding", *(["embed_tokens"] if "lm_head" in names else []))  # tied: it is the head, too
    matrices: dict[Part, int] = {"tower": 0, "projector": 0, "language": 0}
    for name, shape in shapes:
        if len(shape) > 1 and not name.removesuffix(".weight").endswith(looked_up):
            matrices[part_of(name)] += prod(shape)
    adapter = 0
    if settings.parts.language == "lora":
        target = re.compile(settings.lora.target)
        adapted = (
            shape for name, shape in shapes if len(shape) == 2 and target.fullmatch(name.removesuffix(".weight"))
        )
        adapter = settings.lora.r * sum(map(sum, adapted))
    patches = 0 if vision is None else (vision.image_size // vision.patch_size) ** 2
    return Model(
        language=Stack(weights=matrices["language"], layers=text.num_hidden_layers, width=_width(text)),
        projector=matrices["projector"],
        tower=None
        if vision is None
        else Stack(weights=matrices["tower"], layers=vision.num_hidden_layers, width=_width(vision)),
        patches=patches + any("class_embedding" in name for name, _ in shapes),
        projected=patches,
        adapter=adapter,
        learns={part: getattr(settings.parts, part) for part in matrices},
    )


def _width(config: Any) -> int:
    """Of all heads together."""
    heads = config.num_attention_heads
    return int(heads * (getattr(config, "head_dim", None) or config.hidden_size // heads))
