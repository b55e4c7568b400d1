r"""VQAv2: short questions on COCO images, ten answers each (Goyal et al. 2017).

MLAN's vision QA set (Appendix A, Table 3: 44.4k of the 443,757 training questions; which is not said: `--n 44400`
draws them). Questions and answers come in two files, which belong into one folder:

    v2_OpenEnded_mscoco_train2014_questions.json
        {"questions": [{"image_id": 9, "question": "What colour …?", "question_id": 9000}, …]}
    v2_mscoco_train2014_annotations.json
        {"annotations": [{"question_id": 9000, "image_id": 9, "multiple_choice_answer": "red", "answer_type": "other",
            "question_type": "what color is the",
            "answers": [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}, …]}, …]}
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from source_command import main
from source_files import json_items, plain_or_zipped
from sources import Hub, Part, Raw, Row, Source, embedded, id_of, list_of, number_of, optional_text, text_of
from sources import with_image_first as shown

from annotate.errors import RecordError, UserError

QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
PINNED = "32665d35052eb4a6d4414851c3c829a72754915a"
ANNOTATIONS = "v2_mscoco_train2014_annotations.json"


def read(raw: Raw, _type: str) -> Iterator[Row]:
    question, answer = text_of(raw, "question").strip(), text_of(raw, "multiple_choice_answer").strip()
    given = [answer.get("answer") if isinstance(answer, dict) else answer for answer in list_of(raw, "answers")]
    if not all(isinstance(one, str) for one in given):
        raise RecordError("field 'answers' holds something other than answers")
    image: dict[str, Any] = (
        {"image_bytes": (embedded(raw["image"], "image"),)}
        if "image" in raw
        else {"image_files": (f"COCO_train2014_{number_of(raw, 'image_id'):012}.jpg",)}
    )
    meta = {
        "task": "short_answer", "question": question, "answer": answer, "answers": given,
        "answer_type": optional_text(raw, "answer_type"),
    }  # fmt: skip
    turns = (("user", shown(question)), ("assistant", answer))
    yield Row(id=id_of(raw, "question_id"), turns=turns, meta=meta, **image)


class _Annotation(msgspec.Struct):
    """What is kept of an annotation while the questions are read: 443,757 of them, so not as dictionaries."""

    question_id: int
    multiple_choice_answer: str
    answer_type: str
    answers: list[_Answer]


class _Answer(msgspec.Struct):
    answer: str


def beside(path: Path) -> Iterable[Path]:
    return (plain_or_zipped(path.with_name(path.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))),)


def unpack(path: Path) -> Iterator[tuple[str, Any]]:
    """Each question with its annotation."""
    (other,) = beside(path)
    if not other.is_file() or other == path:
        raise UserError(f"{path}: its answers are missing; put {ANNOTATIONS} beside it, from {SOURCE.url}")
    answers: dict[int, bytes] = {}
    packed, unpacked = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
    for place, raw in json_items(other, "annotations"):
        try:
            found = msgspec.convert(raw, _Annotation)
        except msgspec.ValidationError as error:
            yield place, RecordError(f"not an annotation: {error}")
            continue
        answers[found.question_id] = packed.encode(found)
    for place, raw in json_items(path, "questions"):
        key = raw.get("question_id") if isinstance(raw, dict) else None
        if key not in answers:
            yield place, RecordError(f"question_id {key!r:.20} has no annotation in {other.name}")
            continue
        yield place, {**unpacked.decode(answers[key]), **raw}


SOURCE = Source(
    name="vqav2",
    title="VQAv2",
    licence="CC BY 4.0, as its files state; images: COCO, Flickr's terms",
    url="https://visualqa.org/download.html",
    rows=443_757,
    modality="image",
    images="the folder train2014 of COCO (http://images.cocodataset.org/zips/train2014.zip)",
    subsets={
        "train": (
            Part(
                files=(QUESTIONS,),
                hub=Hub(id="lmms-lab/VQAv2", data_files="data/train-*.parquet", revision=PINNED, images_inside=True),
            ),
        ),
    },
    read=read,
    unpack=unpack,
    beside=beside,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
