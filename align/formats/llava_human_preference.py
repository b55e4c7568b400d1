r"""LLaVA-RLHF's 10,000 human preferences, as one pairwise annotation each. Only read.

    {"id": "9", "image": "9.jpg",
     "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "…"}],
     "output_1": {"from": "llava", "value": "A cat."}, "output_2": {"from": "llava", "value": "A dog."},
     "preference": 1}

A last answer in `conversations` only keeps the place of the outputs, and is dropped; `conversations` may also be a list
around that list. `preference` is 1 or 2, never a tie. Keys beyond these go to the prompt's
`meta["llava_human_preference"]`. The companion image_to_caption.json (captions by image, for a reward model that is
told more than it sees) is no file of rows, and not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row
from align.formats.llava import prompt_of, read_dialogue
from align.formats.parts import UNKNOWN_MODEL, answer
from annotate.errors import RecordError
from annotate.records import Annotated, Annotation, Completion, content_id, sha256_of

NAME = "llava_human_preference"
_RUBRIC = "llava_rlhf_human"
_PREFERRED = {1: "first", 2: "second"}
_FIELDS = {"id", "image", "images", "source", "conversations", "output_1", "output_2", "preference"}


def _read(row: Row, images: Images) -> Sequence[Made]:
    preference = row.get("preference")
    if type(preference) is not int or preference not in _PREFERRED:
        raise RecordError(f"preference: {preference!r:.40} is neither 1 (output_1) nor 2 (output_2)")
    dialogue = read_dialogue({**row, "conversations": _flat(row)})
    extra = {key: value for key, value in dialogue.meta.items() if key not in _FIELDS}
    prompt = prompt_of(dialogue, images, meta={NAME: extra} if extra else {})
    try:
        completions = tuple(
            Completion.of(prompt_id=prompt.id, model=UNKNOWN_MODEL, index=index, text=_output(row, field))
            for index, field in enumerate(("output_1", "output_2"))
        )
    except UnicodeEncodeError:
        raise RecordError("output_1 or output_2: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    shown = tuple(completion.id for completion in completions)
    annotation = Annotation(
        id=content_id([NAME, prompt.id, shown, preference]),
        prompt_id=prompt.id,
        mode="pairwise",
        pass_index=0,
        shown_order=shown,
        ratings=(),
        preference="first" if preference == 1 else "second",
        backend="human",
        model="human",
        rubric=_RUBRIC,
        rubric_sha256=sha256_of(_RUBRIC),
        request_sha256=sha256_of([NAME, prompt.id, shown]),
    )
    return [Annotated(prompt=prompt, completions=completions, annotations=(annotation,))]


def _flat(row: Row) -> Any:
    if "conversations" not in row:
        raise RecordError("conversations: missing; every row needs it")
    given = row["conversations"]
    return given[0] if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list) else given


def _output(row: Row, field: str) -> str:
    given = row.get(field)
    text = given.get("value") if isinstance(given, Mapping) else None
    if not isinstance(text, str):
        raise RecordError(f'{field}: expected {{"from": "...", "value": "an answer"}}, got {given!r:.40}')
    return answer(text, f"{field}.value")


FORMAT = Format(
    name=NAME,
    title="LLaVA-RLHF's human preferences: conversations, output_1, output_2, preference 1 or 2 (only read)",
    layout="llava-rlhf/LLaVA-RLHF 830a083, RLHF/data_utils/data_utils_rm.py (preprocess_for_reward_modeling)",
    kinds=("annotated",),
    container="json",
    recognises=lambda row: {"output_1", "output_2", "preference"} <= set(row),
    read=_read,
)
