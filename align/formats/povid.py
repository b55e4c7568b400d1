r"""POVID's JSON: LLaVA's dialogue twice, as it should and as it should not end.

    {"id": "COCO_train2014_000000000009", "image": "coco/9.jpg",
     "conversations":          [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A mat."}],
     "rejected_conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}

Both must be equal up to the last answer, as a pair has one prompt. Keys beyond these go to the prompt's `meta`, as they
do in `llava.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from align.formats.format import Format, Images, Made, Row
from align.formats.llava import conversation, prompt_of, read_dialogue, row_of, turns_in
from align.formats.parts import agrees_with, at_most_one_image, one_image, pair_from, pair_of, restored, with_beyond
from annotate.errors import RecordError
from annotate.records import Prompt

_KNOWN = {"id", "image", "images", "source", "conversations", "rejected_conversations"}


def _read(row: Row, images: Images) -> Sequence[Made]:
    for field in ("conversations", "rejected_conversations"):
        if field not in row:
            raise RecordError(f"{field}: missing; every row needs it")
    one_image(row)
    dialogue = read_dialogue(row)
    if dialogue.answer is None:
        raise RecordError("conversations: ends with a question; a pair needs the answer that is to be preferred")
    turns = turns_in(row["rejected_conversations"], "rejected_conversations")
    if turns[-1][0] != "assistant":
        raise RecordError("rejected_conversations: ends with a question; a pair needs the answer that is to be avoided")
    _check_equal(dialogue.turns, turns[:-1])
    meta = {key: value for key, value in dialogue.meta.items() if key not in _KNOWN}
    prompt = prompt_of(dialogue, images, meta=meta)
    at_most_one_image(prompt, "povid")
    pair = pair_from(prompt, dialogue.answer, turns[-1][1], rule="povid")
    return [with_beyond(pair, "povid", row, _plain(prompt, dialogue.answer, turns[-1][1]))]


def _check_equal(preferred: Sequence[tuple[str, str]], avoided: Sequence[tuple[str, str]]) -> None:
    for i, (ours, theirs) in enumerate(zip_longest(preferred, avoided)):
        if ours != theirs:
            raise RecordError(
                f"rejected_conversations[{i}]: differs from conversations[{i}] before the last answer, but a pair has "
                "one prompt; cut both dialogues after the first answers that differ"
            )


def _plain(prompt: Prompt, chosen: str, rejected: str) -> dict[str, Any]:
    return row_of(prompt, chosen) | {"rejected_conversations": conversation(prompt, rejected)}


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    pair = pair_of(record, "povid")
    at_most_one_image(pair.prompt, "povid")
    plain = _plain(pair.prompt, pair.chosen.text, pair.rejected.text)
    return [restored(plain, pair.meta.get("povid"), known=_KNOWN, agrees=agrees_with(pair, _read))]


FORMAT = Format(
    name="povid",
    title="POVID's JSON: LLaVA's conversations, with rejected_conversations",
    layout="YiyangZhou/POVID 92c7c67, README.md (Stage 1) and llava/train/train_dpo.py",
    kinds=("pairs",),
    container="json",
    recognises=lambda row: "rejected_conversations" in row,
    read=_read,
    write=_write,
)
