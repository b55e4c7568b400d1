"""Tokens of rows before they are trained on, from tokenizer and processor alone; no weights are read.

for row in asked_rows(Path("data/mixes/mlan_v/examples.jsonl"), Path("data/images")): ...
count(rows, lengths, limit=4096)      ->  Counted(tokens=Tokens(rows=80000, lm=14939955, ...), left_out={...})
model_of(folder, config, settings)    ->  Model: the shapes behind `align.tokens.training_flops`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from align.models.lengths import Asked, Length, Lengths
from align.settings import Train
from align.tokens import Model, Stack, Tokens
from align.train.lora_rows import TrainRow
from align.train.modules import tensors
from align.train.parts import Part, part_of
from align.train.rows import Conversation
from annotate.errors import RecordError, UserError
from annotate.jsonl import no_json, read_lines
from annotate.pixels import UnreadableImage
from annotate.records import Example, Prompt, Reason, Record

KINDS: Mapping[str, type[Record]] = {kind.SCHEMA: kind for kind in (Example, Prompt, Conversation)}
TOGETHER = 256
"""Rows that are tokenised in one call."""


class _Schema(msgspec.Struct):
    schema: str = ""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The account of the rows that can be trained on, and why others cannot: reason -> how many, and the first one's
    detail.
    """

    tokens: Tokens
    left_out: Mapping[str, int]
    details: Mapping[str, str]


def asked_rows(path: Path, root: Path) -> Iterator[Asked]:
    """The rows of a file, one after another: `Example`, `Prompt` with a reference, `Conversation`, mixed as they come.

    Raises `UserError` naming file and line.
    """
    for number, line in read_lines(path):
        try:
            yield _asked(line, root)
        except RecordError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise UserError(no_json(path, number, error)) from None


def _asked(line: bytes, root: Path) -> Asked:
    schema = msgspec.json.decode(line, type=_Schema).schema
    if schema not in KINDS:
        raise RecordError(
            f"schema {schema!r} is none of {', '.join(KINDS)}; `align mix`, data/prepare_*.py and `align convert` make "
            "such files"
        )
    record = KINDS[schema].from_line(line)
    if isinstance(record, Conversation):
        turns, answer = record.turns[:-1], record.turns[-1].text
    elif isinstance(record, Prompt):
        if not record.reference:
            raise RecordError("a prompt without a reference has no answer to learn; add `reference`")
        turns, answer = record.turns, record.reference
    else:
        assert isinstance(record, Example)
        turns, answer = record.prompt.turns, record.completion
    return Asked(turns, [root / image.path for turn in turns for image in turn.images], answer)


def asked_of(rows: Iterable[TrainRow]) -> Iterator[Asked]:
    return (Asked(row.prompt.turns, row.images, row.completions[0]) for row in rows)


def count(
    rows: Iterable[Asked],
    lengths: Lengths,
    *,
    limit: int | None = None,
    all_answers: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Counted:
    """The account of `rows`, which may be endless in number: they are looked at a few at a time.

    `limit`: tokens of a row at most; `all_answers`: whether the loss falls on the earlier answers of a dialogue, too.
    """
    total = Counter[str]()
    left_out, details = Counter[str](), dict[str, str]()
    asked = iter(rows)
    while some := list(islice(asked, TOGETHER)):
        for row, found in zip(some, lengths.measure(some), strict=True):
            fault = _fault(row, found, limit)
            if fault is None:
                assert isinstance(found, Length)
                trained = found.completion + found.earlier * all_answers
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


# ------------------------------------------------------------------------------------------------------------- shapes


def model_of(folder: Path, config: Any, settings: Train) -> Model:
    """What computes in a model, from the heads of its weights' files and its configuration."""
    shapes = list(tensors(folder))
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
