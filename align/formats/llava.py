r"""LLaVA's conversation JSON: what comes in, and the turns or the example that come out.

    {"id": "p1", "image": "cat.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is on the mat?"},
        {"from": "gpt",   "value": "A cat."}]}

`read_dialogue`, for `align.prompts`: the last answer is dropped, so that the question becomes a prompt, and kept as its
`reference`; earlier answers stay, as the dialogue so far. `image` is a path, a list of paths, or absent (text only).
Keys that LLaVA does not know, such as `polarity`, go to the prompt's `meta`; `source` names the collection.

`FORMAT`: the same prompt, and the last answer is the completion of an `Example`; a row without one is a `Prompt`. Both
are written; a prompt's `reference` stands as the answer. Earlier answers are context here, while LLaVA's trainer learns
them too. That trainer opens one image a row; its successors take lists, so several images are written as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.formats.format import Format, Images, Made, Row
from align.formats.parts import Role, agrees_with, answer, placed, prompt_from, restored, with_beyond
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Example, Image, Prompt, Turn

ROLES: Mapping[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}
SPEAKERS = {role: speaker for speaker, role in ROLES.items()}
_KNOWN = {"id", "image", "images", "source", "conversations"}


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One row, its images still without hashes: `turns_with` needs those to make the turns of a prompt."""

    turns: tuple[tuple[Role, str], ...]
    image_paths: tuple[str, ...]
    source: str = ""
    source_id: str = ""
    answer: str | None = None
    """The last answer as it stands; None where the dialogue ends with a question."""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str | None:
        """The last answer, tidied."""
        return (self.answer or "").strip() or None

    def turns_with(self, sha256: Mapping[str, str]) -> tuple[Turn, ...]:
        """The turns, each with the images of its own placeholders, in order."""
        return placed(self.turns, [Image(path=path, sha256=sha256[path]) for path in self.image_paths])


def is_dialogue(row: Any) -> bool:
    """Whether a JSON value is meant as a LLaVA row."""
    return isinstance(row, Mapping) and "conversations" in row


def read_dialogue(row: Any) -> Dialogue:
    """One LLaVA row. Raises `RecordError` saying what is wrong with it."""
    if not is_dialogue(row):
        raise RecordError('a LLaVA row is an object with "conversations"')
    turns = turns_in(row["conversations"])
    said = None
    if turns[-1][0] == "assistant":
        said = turns[-1][1]
        turns = turns[:-1]
    paths = _image_paths(row)
    n = sum(text.count(IMAGE_PLACEHOLDER) for _, text in turns)
    if n != len(paths):
        raise RecordError(
            f"{n} {IMAGE_PLACEHOLDER} placeholder(s) but {len(paths)} image(s): write one {IMAGE_PLACEHOLDER} per "
            "image into the human's text"
        )
    return Dialogue(
        turns=turns,
        image_paths=paths,
        source=row["source"] if isinstance(row.get("source"), str) else "",
        source_id=_source_id(row),
        answer=said,
        meta={key: value for key, value in row.items() if key not in _KNOWN},
    )


def _source_id(row: Mapping[str, Any]) -> str:
    given = row.get("id", "")
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise RecordError(f"id: expected text or a number, got {type(given).__name__}")
    return str(given)


def turns_in(conversation: Any, where: str = "conversations") -> tuple[tuple[Role, str], ...]:
    """A list of {"from", "value"} as roles and texts. Raises `RecordError` naming the turn at fault."""
    if not isinstance(conversation, Sequence) or isinstance(conversation, str) or not conversation:
        raise RecordError(f'"{where}" must be a list with at least one turn')
    turns: list[tuple[Role, str]] = []
    for i, turn in enumerate(conversation):
        turns.append(turn_in(turn, f"{where}[{i}]"))
    return tuple(turns)


def turn_in(turn: Any, where: str) -> tuple[Role, str]:
    """One {"from", "value"} as role and text."""
    speaker = turn.get("from") if isinstance(turn, Mapping) else None
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise RecordError(f"{where}.from: {speaker!r} is none of {', '.join(ROLES)}")
    text = turn.get("value")
    if not isinstance(text, str):
        raise RecordError(f"{where}.value: expected text, got {type(text).__name__}")
    return ROLES[speaker], text


def _image_paths(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row.get("image") is not None and row.get("images") is not None:
        raise RecordError('both "image" and "images" are given; keep one')
    given = row.get("image") if row.get("image") is not None else row.get("images")
    paths = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise RecordError("image: expected a path or a list of paths")
    return tuple(paths)


# ----------------------------------------------------------------------------------------------- the row as an example


def prompt_of(dialogue: Dialogue, images: Images, *, meta: dict[str, Any] | None = None) -> Prompt:
    """The prompt of a dialogue, its images looked up."""
    return prompt_from(
        dialogue.turns,
        [images.named(path) for path in dialogue.image_paths],
        where="conversations",
        source=dialogue.source,
        source_id=dialogue.source_id,
        meta=dialogue.meta if meta is None else meta,
    )


def row_of(prompt: Prompt, said: str | None) -> dict[str, Any]:
    """The row of a prompt and its answer, with the prompt's own meta as further keys."""
    row: dict[str, Any] = {"id": prompt.source_id} if prompt.source_id else {}
    paths = [image.path for image in prompt.images]
    if paths:
        row["image"] = paths[0] if len(paths) == 1 else paths
    row["conversations"] = conversation(prompt, said)
    if prompt.source:
        row["source"] = prompt.source
    return row | {key: value for key, value in prompt.meta.items() if key not in _KNOWN}


def conversation(prompt: Prompt, said: str | None) -> list[dict[str, str]]:
    """The turns of a prompt and the answer as LLaVA's {"from", "value"}."""
    turns = [{"from": SPEAKERS[turn.role], "value": turn.text} for turn in prompt.turns]
    return turns if said is None else [*turns, {"from": "gpt", "value": said}]


def _read(row: Row, images: Images) -> Sequence[Made]:
    dialogue = read_dialogue(row)
    prompt = prompt_of(dialogue, images)
    if dialogue.answer is None:
        return [prompt]
    said = answer(dialogue.answer, f"conversations[{len(dialogue.turns)}].value")
    try:
        example = Example.of(prompt=prompt, completion=said, source="llava")
    except UnicodeEncodeError:
        raise RecordError("conversations: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    return [with_beyond(example, "llava", row, row_of(prompt, said))]


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    if isinstance(record, Prompt):
        return [row_of(record, record.reference)]
    if not isinstance(record, Example):
        raise RecordError(f"llava holds examples and prompts, not {type(record).__name__}; see `align pairs`")
    plain = row_of(record.prompt, answer(record.completion, "completion"))
    return [restored(plain, record.meta.get("llava"), known=_KNOWN, agrees=agrees_with(record, _read))]


def _recognises(row: Row) -> bool:
    others = {"rejected_conversations", "output_1", "chosen", "rejected", "mask", "images"}  # images: LLaMA-Factory's
    return "conversations" in row and not others & set(row)


FORMAT = Format(
    name="llava",
    title="LLaVA's conversation JSON: id, image, conversations [{from, value}]; for supervised fine-tuning",
    layout="haotian-liu/LLaVA c121f04, docs/Finetune_Custom_Data.md and llava/train/train.py (LazySupervisedDataset)",
    kinds=("examples", "prompts"),
    container="json",
    recognises=_recognises,
    read=_read,
    write=_write,
)
