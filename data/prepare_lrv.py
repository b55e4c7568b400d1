r"""LRV-Instruction: questions on Visual Genome about what is there and what is not (Liu et al. 2023), 3,000 as prompts.

Multi-Modal Preference Alignment, section 3.1, takes 3,000, positive (about present objects) and negative (about absent
ones), without giving the ratio: by default the draw keeps the source's own, `--balance` takes as many of each. A row:

    {"image_id": "2392588", "question": "Is a teapot on the stove?", "answer": "No teapot …", "task": "negative"}

`task` names the task, and is `negative` for a negative instruction: that is the polarity. A row without a task (the
chart file, and copies that dropped the field, such as the one on the hub) has polarity `unknown`; it is not guessed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

from source_command import main
from sources import Hub, Part, Raw, Row, Source, embedded, id_of, list_of, made_unique, optional_text, text_of
from sources import with_image_first as shown

from annotate.errors import RecordError


def polarity_of(task: str) -> str:
    """negative, positive or unknown."""
    return "negative" if task.lower().startswith("negative") else "positive" if task else "unknown"


def read(raw: Raw, _type: str) -> Iterator[Row]:
    if "texts" in raw:
        yield from _of_finevision(raw)
        return
    image, question = id_of(raw, "image_id"), text_of(raw, "question")
    task = optional_text(raw, "task")
    file = image if "." in image else f"{image}.jpg"  # charts are named with their suffix
    yield _row(made_unique(image, question), question, text_of(raw, "answer"), task, image_files=(file,))


def _of_finevision(raw: Raw) -> Iterator[Row]:
    """FineVision keeps all questions on an image in one row, and no task."""
    images = tuple(embedded(image, "images") for image in list_of(raw, "images"))
    if len(images) != 1 or images[0] is None:
        raise RecordError(f"field 'images' holds {len(images)} image(s) with bytes, expected one")
    for i, turn in enumerate(list_of(raw, "texts")):
        if not isinstance(turn, dict):
            raise RecordError(f"texts[{i}] is not an object with user and assistant")
        question = text_of(turn, "user")
        own_id = made_unique(hashlib.sha256(images[0]).hexdigest()[:16], question)
        yield _row(own_id, question, text_of(turn, "assistant"), "", image_bytes=images)


def _row(own_id: str, question: str, answer: str, task: str, **image: tuple[str | bytes | None, ...]) -> Row:
    polarity = polarity_of(task)
    meta = {"task": "conversation", "polarity": polarity, **({"lrv_task": task} if task else {})}
    turns = (("user", shown(question)), ("assistant", answer.strip()))
    return Row(id=own_id, turns=turns, type=polarity, meta=meta, **image)  # type: ignore[arg-type]


SOURCE = Source(
    name="lrv",
    title="LRV-Instruction",
    licence="BSD-3-Clause by its repository; images: Visual Genome CC BY 4.0, the charts (statista.com) not stated",
    url="https://github.com/FuxiaoLiu/LRV-Instruction (download.txt)",
    rows=340_000,
    n=3_000,
    modality="image",
    types=("positive", "negative", "unknown"),
    images="the folder `image` of image.tar.gz (Visual Genome as LRV hosts it); for charts `chart_image`",
    note="filter_cap1.json and filter_cap_more1.json are the texts without coordinates (which are inaccurate);\n"
    "where they are absent filter_cap.json and filter_cap_more.json are read.",
    subsets={
        "vg": (
            Part(
                files=("filter_cap1.json", "filter_cap.json"),
                hub=Hub(id="HuggingFaceM4/FineVision", config="lrv_normal(filtered)", images_inside=True),
            ),
            Part(files=("filter_cap_more1.json", "filter_cap_more.json"), required=False),
        ),
        "chart": (
            Part(
                files=("chart_release_update.json", "chart_release.json"),
                hub=Hub(id="HuggingFaceM4/FineVision", config="lrv_chart", images_inside=True),
            ),
        ),
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
