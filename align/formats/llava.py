r"""Reading LLaVA's conversation JSON: what comes in, and the turns that come out.

    {"id": "p1", "image": "cat.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is on the mat?"},
        {"from": "gpt",   "value": "A cat."}]}

The last answer is dropped, so that the question becomes a prompt, and kept as its `reference`; earlier answers stay, as
the dialogue so far. `image` is a path, a list of paths, or absent (text only). Keys that LLaVA does not know, such as
`polarity`, go to `meta`; `source` names the collection. Images are only named here: `align.prompts` opens and hashes
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Image, Turn

Role = Literal["system", "user", "assistant"]
ROLES: Mapping[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}
_KNOWN = {"id", "image", "images", "source", "conversations"}


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One row, its images still without hashes: `turns_with` needs those to make the turns of a prompt."""

    turns: tuple[tuple[Role, str], ...]
    image_paths: tuple[str, ...]
    source: str = ""
    source_id: str = ""
    reference: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def turns_with(self, sha256: Mapping[str, str]) -> tuple[Turn, ...]:
        """The turns, each with the images of its own placeholders, in order."""
        images = iter([Image(path=path, sha256=sha256[path]) for path in self.image_paths])
        return tuple(
            Turn(role=role, text=text, images=tuple(next(images) for _ in range(text.count(IMAGE_PLACEHOLDER))))
            for role, text in self.turns
        )


def is_dialogue(row: Any) -> bool:
    """Whether a JSON value is meant as a LLaVA row."""
    return isinstance(row, Mapping) and "conversations" in row


def read_dialogue(row: Any) -> Dialogue:
    """One LLaVA row. Raises `RecordError` saying what is wrong with it."""
    if not is_dialogue(row):
        raise RecordError('a LLaVA row is an object with "conversations"')
    turns = _turns(row["conversations"])
    reference = None
    if turns[-1][0] == "assistant":
        reference = turns[-1][1].strip() or None
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
        reference=reference,
        meta={key: value for key, value in row.items() if key not in _KNOWN},
    )


def _source_id(row: Mapping[str, Any]) -> str:
    given = row.get("id", "")
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise RecordError(f"id: expected text or a number, got {type(given).__name__}")
    return str(given)


def _turns(conversation: Any) -> tuple[tuple[Role, str], ...]:
    if not isinstance(conversation, Sequence) or isinstance(conversation, str) or not conversation:
        raise RecordError('"conversations" must be a list with at least one turn')
    turns: list[tuple[Role, str]] = []
    for i, turn in enumerate(conversation):
        speaker = turn.get("from") if isinstance(turn, Mapping) else None
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise RecordError(f"conversations[{i}].from: {speaker!r} is none of {', '.join(ROLES)}")
        text = turn.get("value")
        if not isinstance(text, str):
            raise RecordError(f"conversations[{i}].value: expected text, got {type(text).__name__}")
        turns.append((ROLES[speaker], text))
    return tuple(turns)


def _image_paths(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row.get("image") is not None and row.get("images") is not None:
        raise RecordError('both "image" and "images" are given; keep one')
    given = row.get("image") if row.get("image") is not None else row.get("images")
    paths = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise RecordError("image: expected a path or a list of paths")
    return tuple(paths)
