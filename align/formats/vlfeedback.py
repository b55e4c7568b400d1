r"""VLFeedback: four answers about an image, each rated 1 to 5 by GPT-4V on three aspects. Read only.

    {"id": "svit-1", "prompt": "What is it?", "models": ["llava", ...], "img_path": "svit/cat.jpg", "completions": [
        {"model": "llava", "response": "A cat.", "annotations": {"Helpfulness": {"Rating": "4", "Rationale": "..."},
         "Ethical Considerations": {...}, "Visual Faithfulness": {...}}}, ...]}

`datasets` turns the list of completions into an object of lists, `{"model": [...], "response": [...], ...}`: that is
read too, as is a picture in the row (`image`) in the place of `img_path`. The scores become `helpfulness`,
`ethical_considerations` and `visual_faithfulness`; there is no guide of ours for them, so the ranges are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row, turn_text
from align.formats.messages import image_of
from align.formats.parts import prompt_from, text_in
from align.formats.rated import annotated_of
from align.formats.ultrafeedback import answer_in, completions_of
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Rubric, Scale

NAME = "vlfeedback"
ASPECTS: Mapping[str, str] = {
    "Helpfulness": "helpfulness",
    "Ethical Considerations": "ethical_considerations",
    "Visual Faithfulness": "visual_faithfulness",
}
RUBRIC = Rubric(name=NAME, sha256="", attributes={name: Scale(low=1, high=5) for name in ASPECTS.values()})
_OURS = ("prompt", "id", "img_path", "image", "completions")


def _recognises(row: Row) -> bool:
    return {"prompt", "models", "completions"} <= set(row) and bool({"img_path", "image"} & set(row))


def _read(row: Row, images: Images) -> Sequence[Made]:
    text = text_in(row, "prompt")
    answers = [answer_in(each, ASPECTS, f"completions[{i}]") for i, each in enumerate(_completions(row))]
    key = "image" if row.get("image") is not None else "img_path"
    shown = (image_of(row.get(key), images, key),)
    given = row.get("id")
    more = {key: value for key, value in row.items() if key not in _OURS}
    prompt = prompt_from(
        [("user", text if IMAGE_PLACEHOLDER in text else turn_text([text], images=1))],
        shown,
        where="prompt",
        source=NAME,
        source_id=given if isinstance(given, str) else "",
        meta={NAME: more} if more else {},
    )
    return [annotated_of(prompt, answers, rubric=RUBRIC, backend=NAME, model="gpt-4v")]


def _completions(row: Row) -> Sequence[Mapping[str, Any]]:
    """A list of objects, also out of an object of lists."""
    found = row.get("completions")
    if not isinstance(found, Mapping):
        return completions_of(row)
    columns = {key: value for key, value in found.items() if isinstance(value, list)}
    lengths = {len(value) for value in columns.values()}
    if len(columns) != len(found) or len(lengths) != 1:
        raise RecordError("completions: expected lists of one length, or a list of objects")
    return [{key: value[i] for key, value in columns.items()} for i in range(lengths.pop())]


FORMAT = Format(
    name=NAME,
    title="VLFeedback: answers about images with GPT-4V's ratings on three aspects, 1 to 5",
    layout="vlf-silkie/VLFeedback de0bff35: run_dpo.py, annotation_template.py; "
    "huggingface.co/datasets/MMInstruction/VLFeedback 0bd5e14: README.md",
    kinds=("annotated",),
    container="jsonl",
    recognises=_recognises,
    read=_read,
)
