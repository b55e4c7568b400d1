"""Rows of a LoRA training: from records to what the trainer is fed, checked before the first step.

A row is a prompt with one completion (SFT) or two, chosen and rejected (DPO). Its ids are the template's bytes and
nothing else; a row that does not fit is a Failure, never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate.errors import UserError
from annotate.pixels import UnreadableImage
from annotate.records import Example, Failure, PreferencePair, Prompt, Reason, sha256_of

if TYPE_CHECKING:
    import torch

    from align.models.encode import Encoded, Encoder

IGNORED = -100
"""The label of tokens that carry no loss."""


@dataclass(frozen=True, kw_only=True)
class TrainRow:
    """`completions`: (answer,) for SFT, (chosen, rejected) for DPO."""

    id: str
    prompt: Prompt
    images: tuple[Path, ...]
    completions: tuple[str, ...]


def preference_row(pair: PreferencePair, root: Path) -> TrainRow:
    return TrainRow(
        id=pair.id,
        prompt=pair.prompt,
        images=tuple(root / image.path for image in pair.prompt.images),
        completions=(pair.chosen.text, pair.rejected.text),
    )


def example_row(example: Example, root: Path) -> TrainRow:
    return TrainRow(
        id=example.id,
        prompt=example.prompt,
        images=tuple(root / image.path for image in example.prompt.images),
        completions=(example.completion,),
    )


def rows_sha256(rows: Sequence[TrainRow]) -> str:
    """What the rows teach: prompts by content, completions, and their order."""
    return sha256_of([[row.prompt.id, list(row.completions)] for row in rows])


def check_rows(
    rows: Sequence[TrainRow], encoder: Encoder, *, limit: int | None, stage: str
) -> tuple[list[TrainRow], list[Failure]]:
    """The rows that can be trained on, and a Failure for each that cannot, in order."""
    good: list[TrainRow] = []
    failures: list[Failure] = []
    for row in rows:
        found = _fault(row, encoder, limit)
        if found is None:
            good.append(row)
        else:
            failures.append(Failure(stage=stage, record_id=row.id, reason=found[0], detail=found[1]))
    return good, failures


def _fault(row: TrainRow, encoder: Encoder, limit: int | None) -> tuple[Reason, str] | None:
    if not all(text.strip() for text in row.completions):
        return Reason.COMPLETION_EMPTY, "a completion has no text to learn from"
    try:
        prompt = encoder.prompt(row.prompt.turns, row.images)
        longest = max(len(encoder.completion(row.prompt.turns, text)) for text in row.completions)
    except UserError as error:
        return Reason.INVALID_INPUT, str(error)
    except UnreadableImage as error:
        return Reason.IMAGE_UNREADABLE, f"an image {error}"
    except (OSError, ValueError) as error:  # its text may hold a path of this machine
        return Reason.IMAGE_UNREADABLE, f"an image cannot be decoded ({type(error).__name__})"
    if limit is not None and len(prompt.ids) + longest > limit:
        return Reason.TOO_LONG, f"{len(prompt.ids)} prompt + {longest} completion tokens; the limit is {limit}"
    return None


@dataclass(frozen=True)
class _Sequence:
    """Prompt and one completion as one row of the batch."""

    prompt: Encoded
    after: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt.ids + self.after


Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, "torch.Tensor"]]


def collate_preferences(rows: Sequence[TrainRow], encoder: Encoder) -> Collator:
    """For TRL's DPOTrainer: the chosen of all rows, then the rejected of all rows."""

    def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, completion_mask = _pad(_sequences([rows[item["row"]] for item in items], encoder), encoder.pad_id)
        return batch | {"completion_mask": completion_mask}

    return collate


def collate_examples(rows: Sequence[TrainRow], encoder: Encoder) -> Collator:
    """For TRL's SFTTrainer: only the completion's tokens have labels."""

    def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, completion_mask = _pad(_sequences([rows[item["row"]] for item in items], encoder), encoder.pad_id)
        return batch | {"labels": batch["input_ids"].masked_fill(completion_mask == 0, IGNORED)}

    return collate


def as_dataset(rows: Sequence[TrainRow]) -> Any:
    """What the trainer shuffles: row numbers. The column `images` makes TRL leave all processing to our collator."""
    from datasets import Dataset

    return Dataset.from_dict({"images": [[] for _ in rows], "row": list(range(len(rows)))})


def _sequences(rows: Sequence[TrainRow], encoder: Encoder) -> list[_Sequence]:
    return [
        _Sequence(
            encoder.prompt(row.prompt.turns, row.images), encoder.completion(row.prompt.turns, row.completions[i])
        )
        for i in range(len(rows[0].completions))
        for row in rows
    ]


def _pad(rows: Sequence[_Sequence], pad_id: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Right-padded batch, and a mask of the same shape that is 1 on completion tokens."""
    import torch

    from align.models.encode import join_images

    width = max(len(row.ids) for row in rows)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_id)
    attention, completion = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = torch.tensor(row.ids)
        attention[b, : len(row.ids)] = 1
        completion[b, len(row.prompt.ids) : len(row.ids)] = 1
    batch = {"input_ids": ids, "attention_mask": attention, **join_images([row.prompt for row in rows])}
    for name in {name for row in rows for name in row.prompt.alongside}:
        batch[name] = torch.tensor([row.prompt.alongside[name] + [0] * (width - len(row.prompt.ids)) for row in rows])
    return batch, completion
