r"""LLaVA-Human-Preference-10K: people's choice between two answers of LLaVA to a COCO question (Sun et al. 2023).

Multi-Modal Preference Alignment, section 5, compares its annotator with 500 of these (`--n 500`). A row of
`llava_7b_v1_preference.json`:

    {"id": "000000033471", "image": "000000033471.jpg", "conversations": [{"from": "human", "value": "<image>\n…?"}],
     "output_1": {"from": "llava", "value": "…"}, "output_2": {"from": "llava", "value": "…"},
     "hallucination": true, "preference": 1}

The dialogue ends with the question, or with an empty answer that keeps the place of the outputs and is dropped. The
preferred answer is the reference, both answers and the choice stand in `meta`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from source_command import main
from sources import Hub, Part, Raw, Row, Source, id_of, made_unique, number_of, spoken, text_of

from annotate.errors import RecordError

FILE = "llava_7b_v1_preference.json"


def read(raw: Raw, _type: str) -> Iterator[Row]:
    turns = spoken(raw.get("conversations"))
    if len(turns) > 1 and turns[-1][0] == "assistant" and not turns[-1][1].strip():
        turns = turns[:-1]  # it only keeps the place of the outputs
    outputs = [_value(raw, "output_1"), _value(raw, "output_2")]
    preference = number_of(raw, "preference")
    if preference not in (1, 2):
        raise RecordError(f"field 'preference' is {preference}, neither 1 nor 2")
    if turns[-1][0] != "user":
        raise RecordError("the dialogue does not end with a question")
    meta: dict[str, Any] = {"task": "conversation", "output_1": outputs[0], "output_2": outputs[1]}
    meta |= {"preference": preference}
    if isinstance(raw.get("hallucination"), bool):
        meta["hallucination"] = raw["hallucination"]
    yield Row(
        id=made_unique(id_of(raw, "id"), "\n".join([text for _, text in turns] + outputs)),
        turns=(*turns, ("assistant", outputs[preference - 1])),
        image_files=(text_of(raw, "image"),),
        meta=meta,
    )


def _value(raw: Raw, key: str) -> str:
    said = raw.get(key)
    if not isinstance(said, dict):
        raise RecordError(f"field {key!r} is {said!r:.40}, not an object with from and value")
    return text_of(said, "value").strip()


SOURCE = Source(
    name="human_preference",
    title="LLaVA-Human-Preference-10K",
    licence="Apache-2.0, by its card; images: COCO, Flickr's terms",
    url="https://huggingface.co/datasets/zhiqings/LLaVA-Human-Preference-10K",
    rows=10_000,
    modality="image",
    images="the folder train2017 of COCO (http://images.cocodataset.org/zips/train2017.zip)",
    subsets={
        "default": (
            Part(
                files=(FILE,),
                hub=Hub(
                    id="zhiqings/LLaVA-Human-Preference-10K",
                    data_files=FILE,
                    revision="e60c9e520dde0c331f1b833ec991789ed238554c",
                ),
            ),
        )
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
