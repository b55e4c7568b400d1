r"""LLaVA-RLHF's 10,000 human preferences: a pairwise annotation of each row. Only read.

    {"id": "9", "image": "9.jpg",
     "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "…"}],
     "output_1": {"from": "llava", "value": "A cat."}, "output_2": {"from": "llava", "value": "A dog."},
     "preference": 1}

A last answer in `conversations` only keeps the place of the outputs, and is dropped; `conversations` may also be a list
around that list. `preference` is 1 or 2, never a tie. Rows that ask the same about the same image are one `Annotated`
with several annotations, whose majority `basis: preferences` follows. Keys beyond these go to the prompt's
`meta["llava_human_preference"]`, below `rows` where there are several. The companion image_to_caption.json (captions by
image, for a reward model that is told more than it sees) is no file of rows, and not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align.formats.format import Format, Images, Made, Row
from align.formats.llava import Dialogue, prompt_of, read_dialogue
from align.formats.parts import UNKNOWN_MODEL, answer
from annotate.errors import RecordError
from annotate.records import Annotated, Annotation, Completion, content_id, sha256_of

NAME = "llava_human_preference"
_RUBRIC = "llava_rlhf_human"
_FIELDS = {"id", "image", "images", "source", "conversations", "output_1", "output_2", "preference"}


def _group_key(row: Row) -> str:
    """What is asked, and about which image."""
    dialogue = _dialogue(row)
    return json.dumps([dialogue.turns, dialogue.image_paths])


def _read_group(rows: Sequence[Row], images: Images) -> Sequence[Made]:
    compared = sorted((_compared(row) for row in rows), key=lambda one: one.said)
    first = compared[0].dialogue
    beyond = [one.beyond for one in compared]
    meta: dict[str, Any] = {NAME: beyond[0] if len(rows) == 1 else {"rows": beyond}} if any(beyond) else {}
    prompt = prompt_of(first, images, meta=meta)
    # a text that several rows compare is one completion; twice in one row it is two
    places = list(dict.fromkeys(place for one in compared for place in one.places))
    try:
        completions = tuple(
            Completion.of(prompt_id=prompt.id, model=UNKNOWN_MODEL, index=index, text=text)
            for index, (text, _) in enumerate(places)
        )
    except UnicodeEncodeError:
        raise RecordError("output_1 or output_2: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    by_place = dict(zip(places, completions, strict=True))
    annotations = []
    for number, one in enumerate(compared):
        shown = tuple(by_place[place].id for place in one.places)
        same = sum(other.said == one.said for other in compared[:number])  # two people may say the same
        said = [NAME, prompt.id, shown, one.said[2], *([same] if same else [])]
        annotations.append(
            Annotation(
                id=content_id(said),
                prompt_id=prompt.id,
                mode="pairwise",
                pass_index=number,
                shown_order=shown,
                ratings=(),
                preference="first" if one.said[2] == 1 else "second",
                backend="human",
                model="human",
                rubric=_RUBRIC,
                rubric_sha256=sha256_of(_RUBRIC),
                request_sha256=sha256_of([NAME, prompt.id, shown]),
            )
        )
    return [Annotated(prompt=prompt, completions=completions, annotations=tuple(annotations))]


class _Compared(NamedTuple):
    """What one row says."""

    said: tuple[str, str, int]
    """output_1, output_2, preference; by this rows are sorted, so that their order in the file changes nothing."""
    dialogue: Dialogue
    beyond: dict[str, Any]

    @property
    def places(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(text, which of that text) of both."""
        one, other, _ = self.said
        return (one, 0), (other, int(one == other))


def _compared(row: Row) -> _Compared:
    preference = row.get("preference")
    if type(preference) is not int or preference not in (1, 2):
        raise RecordError(f"preference: {preference!r:.40} is neither 1 (output_1) nor 2 (output_2)")
    dialogue = _dialogue(row)
    beyond = {key: value for key, value in dialogue.meta.items() if key not in _FIELDS}
    return _Compared((_output(row, "output_1"), _output(row, "output_2"), preference), dialogue, beyond)


def _dialogue(row: Row) -> Dialogue:
    return read_dialogue({**row, "conversations": _flat(row)})


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
    group_key=_group_key,
    read_group=_read_group,
)
