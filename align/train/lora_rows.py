"""Rows of a LoRA training: from records to what the trainer is fed, checked before the first step.

A row is a prompt with one completion (SFT) or two, chosen and rejected (DPO). Its ids are the template's bytes and
nothing else; a row that does not fit is a Failure, never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    asked: str = ""
    """Id of the prompt that this one was made of by adding wishes (SteerLM); empty: it is itself."""
    whole: bool = False
    """The loss falls on every answer of the dialogue, on those within the prompt too."""

    @property
    def question(self) -> str:
        """Rows that have it in common begin alike."""
        return self.asked or self.prompt.id


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
        asked=str(example.meta.get("prompt_id", "")),
    )


def rows_sha256(rows: Sequence[TrainRow]) -> str:
    """What the rows teach: prompts by content, completions, and their order."""
    return sha256_of([[row.prompt.id, list(row.completions), *(["whole"] if row.whole else [])] for row in rows])


class Size(NamedTuple):
    """Tokens of a row: of its prompt, image tokens included, and of each of its completions."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def shared(self) -> int:
        """Computed where the completions share the prompt."""
        return self.prompt + sum(self.completions)

    @property
    def apart(self) -> int:
        """Computed where each has a row of its own, padded to the longest."""
        return len(self.completions) * (self.prompt + max(self.completions))


def check_rows(
    rows: Sequence[TrainRow], encoder: Encoder, *, limit: int | None, stage: str
) -> tuple[list[TrainRow], list[Failure]]:
    """The rows that can be trained on, and a Failure for each that cannot, in order."""
    good, failures = measure_rows(rows, encoder, limit=limit, stage=stage)
    return [row for row, _ in good], failures


def measure_rows(
    rows: Sequence[TrainRow], encoder: Encoder, *, limit: int | None, stage: str, built_for: int | None = None
) -> tuple[list[tuple[TrainRow, Size]], list[Failure]]:
    """As `check_rows`, with the sizes: every image is opened for it once, and not again before it is trained on.

    `built_for`: tokens that the model takes at most, where its configuration says.
    """
    good: list[tuple[TrainRow, Size]] = []
    failures: list[Failure] = []
    for row in rows:
        found = _measure(row, encoder, limit, built_for, stage)
        if isinstance(found, Size):
            good.append((row, found))
        else:
            failures.append(Failure(stage=stage, record_id=row.id, reason=found[0], detail=found[1]))
    return good, failures


def check_images(rows: Sequence[TrainRow], stage: str) -> None:
    """Raise `UserError` for rows that tower and projector do not see: a batch of them would have no gradient at all."""
    text = [row.id for row in rows if not row.images]
    if text:
        named = f"{len(text)} row(s) of text alone, e.g. {text[0]}"
        raise UserError(f"{stage}: {named}, teach nothing where the language model is frozen; leave them out")


def _measure(
    row: TrainRow, encoder: Encoder, limit: int | None, built_for: int | None, stage: str
) -> Size | tuple[Reason, str]:
    """The row's size, or what is wrong with it and what to do."""
    if not all(text.strip() for text in row.completions):
        return Reason.COMPLETION_EMPTY, "a completion has no text to learn from; leave the row out"
    try:
        prompt = encoder.prompt(row.prompt.turns, row.images)
        size = Size(len(prompt.ids), tuple(len(encoder.completion(row.prompt.turns, t)) for t in row.completions))
        if row.whole:
            answers_within(row, encoder, prompt.ids)
    except UserError as error:
        return Reason.INVALID_INPUT, str(error)
    except UnreadableImage as error:
        return Reason.IMAGE_UNREADABLE, f"an image {error}"
    except FileNotFoundError:
        return Reason.IMAGE_UNREADABLE, "an image is missing; is image_root right?"
    except (OSError, ValueError) as error:  # its text may hold a path of this machine
        return Reason.IMAGE_UNREADABLE, f"an image cannot be decoded ({type(error).__name__})"
    if min(size.completions) == 0:
        return Reason.COMPLETION_EMPTY, "a completion has no tokens to learn from; leave the row out"
    if limit is not None and size.prompt + max(size.completions) > limit:
        n_image = sum(token == encoder.image_id for token in prompt.ids)
        known = f" (the model takes {built_for})" if built_for is not None else ""
        remedy = f"raise {stage}.max_length{known} or shorten" if limit != built_for else "the model takes no more"
        return Reason.TOO_LONG, f"{_length(size, n_image, len(row.images))}; the limit is {limit}: {remedy}"
    return size


def _length(size: Size, n_image: int, n_images: int) -> str:
    """How long a row is, and what of it is images."""
    shown = f" ({n_image} of them of {n_images} image{'s' * (n_images > 1)})" if n_image else ""
    longest = max(size.completions)
    return f"{size.prompt + longest} tokens, {size.prompt} of the prompt{shown} and {longest} of the completion"


@dataclass(frozen=True)
class Spoken:
    """Prompt and one completion as one row of the batch."""

    prompt: Encoded
    after: list[int]
    images: tuple[Path, ...]
    answers: tuple[slice, ...] = ()
    """Where in the prompt earlier answers stand that are learnt too."""

    @property
    def ids(self) -> list[int]:
        return self.prompt.ids + self.after


def spoken(row: TrainRow, completion: str, encoder: Encoder) -> Spoken:
    prompt = encoder.prompt(row.prompt.turns, row.images)
    answers = answers_within(row, encoder, prompt.ids) if row.whole else ()
    return Spoken(prompt, encoder.completion(row.prompt.turns, completion), row.images, answers)


def answers_within(row: TrainRow, encoder: Encoder, ids: Sequence[int]) -> tuple[slice, ...]:
    """Where the answers of the earlier turns stand in a prompt's `ids`, end markers included.

    Raises `UserError` where the chat template writes an answer in the middle of a dialogue otherwise than at its end.
    """
    found: list[slice] = []
    turns = row.prompt.turns
    for n in (n for n, turn in enumerate(turns) if turn.role == "assistant"):
        images = row.images[: sum(len(turn.images) for turn in turns[:n])]
        start = len(encoder.prompt(turns[:n], images).ids)
        after = encoder.completion(turns[:n], turns[n].text)
        if list(ids[start : start + len(after)]) != after:
            raise UserError(
                f"answer {len(found) + 1} of the dialogue cannot be found in its tokens; say learn: last_answer"
            )
        found.append(slice(start, start + len(after)))
    return tuple(found)


Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
"""From items of `as_dataset` to the trainer's batch."""

Reference = Callable[[Sequence[TrainRow], Sequence[Spoken]], dict[str, "torch.Tensor"]]
"""From the rows, and their chosen and then their rejected as tokens: the reference's log-probabilities for TRL."""


def collate_preferences(
    rows: Sequence[TrainRow], encoder: Encoder, *, sharing: bool = False, reference: Reference | None = None
) -> Collator:
    """For TRL's DPOTrainer: the chosen of all rows, then the rejected of all rows."""

    def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch_rows = _rows_of(rows, items)
        sequences = [spoken(row, row.completions[side], encoder) for side in (0, 1) for row in batch_rows]
        batch = batch_of(sequences, encoder, sharing=sharing)
        return batch | (reference(batch_rows, sequences) if reference is not None else {})

    return collate


def collate_examples(rows: Sequence[TrainRow], encoder: Encoder, *, sharing: bool = False) -> Collator:
    """For TRL's SFTTrainer: only the completion's tokens have labels.

    With `sharing`, rows of one question share as much as they have in common before their completions.
    """

    def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch_rows = _rows_of(rows, items)
        sequences = [spoken(row, row.completions[0], encoder) for row in batch_rows]
        questions = [row.question for row in batch_rows]
        batch = batch_of(sequences, encoder, sharing=sharing, together=questions)
        completion_mask = batch.pop("completion_mask")
        return batch | {"labels": batch["input_ids"].masked_fill(completion_mask == 0, IGNORED)}

    return collate


def as_dataset(rows: Sequence[TrainRow], *, by_prompt: bool = False) -> Any:
    """What the trainer shuffles: row numbers. The column `images` makes TRL leave all processing to our collator.

    `by_prompt`: an item is all rows of one question, and so a batch of n items is the rows of n questions.
    """
    from datasets import Dataset

    numbers = items_of(rows, by_prompt=by_prompt)
    return Dataset.from_dict({"images": [[] for _ in numbers], "row": numbers if by_prompt else list(range(len(rows)))})


def items_of(rows: Sequence[TrainRow], *, by_prompt: bool) -> list[list[int]]:
    """The rows of each item that the trainer shuffles: one, or all of a question."""
    groups: dict[Any, list[int]] = {}
    for n, row in enumerate(rows):
        groups.setdefault(row.question if by_prompt else n, []).append(n)
    return list(groups.values())


def _rows_of(rows: Sequence[TrainRow], items: Sequence[Mapping[str, Any]]) -> list[TrainRow]:
    numbers = [item["row"] for item in items]
    return [rows[n] for number in numbers for n in ([number] if isinstance(number, int) else number)]


def batch_of(
    sequences: Sequence[Spoken], encoder: Encoder, *, sharing: bool = False, together: Sequence[str] | None = None
) -> dict[str, Any]:
    """Right-padded rows, and a mask of the same shape that is 1 on completion tokens.

    With `sharing` the batch also holds the packed rows, and each image once instead of once per row; `together`: see
    `align.train.packing.pack`.
    """
    import torch

    from align.models.encode import join_images

    width = max(len(row.ids) for row in sequences)
    shape = (len(sequences), width)
    ids = torch.full(shape, encoder.pad_id)
    attention, completion = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for b, row in enumerate(sequences):
        ids[b, : len(row.ids)] = torch.tensor(row.ids)
        attention[b, : len(row.ids)] = 1
        for learnt in (*row.answers, slice(len(row.prompt.ids), len(row.ids))):
            completion[b, learnt] = 1
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}
    for name in {name for row in sequences for name in row.prompt.alongside}:
        batch[name] = torch.tensor(
            [row.prompt.alongside[name] + [0] * (width - len(row.prompt.ids)) for row in sequences]
        )
    return batch | (
        _packed(sequences, encoder, together) if sharing else join_images([row.prompt for row in sequences])
    )


def _packed(sequences: Sequence[Spoken], encoder: Encoder, together: Sequence[str] | None) -> dict[str, Any]:
    """Images of the batch, each once, and the rows that share their prompts."""
    from align.models.encode import Encoded, join_images
    from align.train.packing import PackRow, pack

    numbers: dict[Path, int] = {}
    seen: list[Encoded] = []
    for row in sequences:
        for i, path in enumerate(row.images):
            if path not in numbers:
                numbers[path] = len(seen)
                seen.append(Encoded([], images={name: t[i : i + 1] for name, t in row.prompt.images.items()}))
    rows = [
        PackRow(tuple(row.ids), len(row.prompt.ids), tuple(numbers[path] for path in row.images)) for row in sequences
    ]
    return join_images(seen) | {
        "packed": pack(rows, pad_id=encoder.pad_id, image_id=encoder.image_id, together=together)
    }
