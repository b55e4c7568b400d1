"""A-OKVQA: questions on COCO images that need knowledge, four choices, with rationales (Schwenk et al. 2022).

MLAN's vision commonsense set (Appendix A, Table 3: 25k, the size of all splits together; the training split, which is
what may be trained on, has 17,056). A row of `aokvqa_v1p0_train.json`:

    {"split": "train", "image_id": 299207, "question_id": "22MexNkBPpdZGX6sxbxVBH", "question": "What is …?",
     "choices": ["…", "…", "…", "…"], "correct_choice_idx": 3, "direct_answers": ["ride", "ride", …],
     "difficult_direct_answer": false, "rationales": ["…", "…", "…"]}
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Any

from source_command import main
from sources import (
    Excluded,
    Hub,
    Part,
    Raw,
    Row,
    Source,
    embedded,
    id_of,
    multiple_choice,
    number_of,
    text_of,
    texts_of,
)

from annotate.errors import RecordError


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    if raw.get("correct_choice_idx") is None:  # the test split is published without
        yield Excluded("no answer")
        return
    rationales = [text.strip() for text in texts_of(raw, "rationales") if text.strip()]
    image: dict[str, Any] = (
        {"image_bytes": (embedded(raw["image"], "image"),)}
        if "image" in raw
        else {"image_files": (f"{number_of(raw, 'image_id'):012}.jpg",)}
    )
    yield multiple_choice(
        id=id_of(raw, "question_id"),
        question=text_of(raw, "question").strip(),
        choices=texts_of(raw, "choices"),
        index=number_of(raw, "correct_choice_idx"),
        meta={
            "answers": list(dict.fromkeys(_direct(raw))),
            "rationales": rationales,
            **({"rationale": rationales[0]} if rationales else {}),
        },
        **image,
    )


def _direct(raw: Raw) -> list[str]:
    """The free answers: a list, in the hub's copy a list written out as text."""
    given = raw.get("direct_answers")
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            raise RecordError(f"field 'direct_answers' is {given!r:.40}, not a list") from None
    return texts_of({"direct_answers": given}, "direct_answers")


SOURCE = Source(
    name="aokvqa",
    title="A-OKVQA",
    licence="Apache-2.0 for its repository; none is stated for the data; images: COCO, Flickr's terms",
    url="https://allenai.org/project/a-okvqa (aokvqa_v1p0.tar.gz)",
    rows=17_056,
    modality="image",
    images="the folder train2017 of COCO (http://images.cocodataset.org/zips/train2017.zip)",
    subsets={
        "train": (
            Part(
                files=("aokvqa_v1p0_train.json", "train-*.parquet", "data/train-*.parquet"),
                hub=Hub(id="HuggingFaceM4/A-OKVQA", images_inside=True),
            ),
        )
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
