r"""LLaVA-Instruct: GPT-written dialogues, descriptions and reasoning about COCO images (Liu et al. 2023), 158k or 80k.

Three types, one file each; `llava_instruct_150k.json` is their union and `llava_instruct_80k.json` one row an image.
In those two a row does not say its type: it is looked up in the type files where they lie in the same folder, and is
`unknown` where they do not. Sight Beyond Text, section 3.1, trains on 20,000 of each type: `--type detail --n 20000`.

    {"id": "000000033471", "image": "000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus?"}, {"from": "gpt", "value": "Red."}, …]}
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from source_command import main
from source_files import plain_or_zipped, read_file
from sources import Excluded, Hub, Part, Raw, Row, Source, id_of, made_unique, spoken, text_of

from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER

TYPE_FILES = {
    "conversation": "conversation_58k.json",
    "detail": "detail_23k.json",
    "reasoning": "complex_reasoning_77k.json",
}
TASKS = {"detail": "description", "reasoning": "reasoning"}
ON_HUB = "liuhaotian/LLaVA-Instruct-150K"


def read(raw: Raw, part_type: str) -> Iterator[Row | Excluded]:
    turns = spoken(raw.get("conversations"))
    own_id = made_unique(id_of(raw, "id"), turns[0][1])
    if turns[-1][0] != "assistant":
        yield Excluded("the dialogue ends without an answer")
        return
    type_ = part_type or str(raw.get("type") or "unknown")
    meta = {"task": TASKS.get(type_, "conversation")}
    yield Row(id=own_id, turns=tuple(turns), image_files=(text_of(raw, "image"),), type=type_, meta=meta)


def unpack(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a file, those of a union with the type that the type files beside it give them."""
    types = {} if _has_a_type(path) else _types(path.parent)
    for place, raw in read_file(path):
        if types and isinstance(raw, dict) and (key := _key(raw)):
            raw["type"] = types.get(key, "unknown")
        yield place, raw


def beside(path: Path) -> Iterable[Path]:
    if _has_a_type(path):
        return ()
    return [file for name in TYPE_FILES.values() if (file := plain_or_zipped(path.parent / name)).is_file()]


def _has_a_type(path: Path) -> bool:
    return path.name.removesuffix(".gz") in TYPE_FILES.values()


@cache
def _types(folder: Path) -> Mapping[int, str]:
    """Hash of (id, first question) -> type, of every row of the type files in the folder."""
    found: dict[int, str] = {}
    for type_, name in TYPE_FILES.items():
        file = plain_or_zipped(folder / name)
        if file.is_file():
            for _, raw in read_file(file):
                if isinstance(raw, dict) and (key := _key(raw)):
                    found[key] = type_
    return found


def _key(raw: dict[str, Any]) -> int | None:
    try:
        first = spoken(raw.get("conversations"))[0][1].replace(IMAGE_PLACEHOLDER, "").strip()
        return hash((id_of(raw, "id"), first))
    except RecordError:
        return None  # `read` tells


def _on_hub(name: str) -> Hub:
    return Hub(id=ON_HUB, data_files=name, revision="011f884bcf152693aca1d531d067f31e748bea02")


SOURCE = Source(
    name="llava_instruct",
    title="LLaVA-Instruct-150K",
    licence="CC BY 4.0 by its card (at first CC BY-NC 4.0), under OpenAI's terms of use; images: COCO, Flickr's terms",
    url=f"https://huggingface.co/datasets/{ON_HUB}",
    rows=157_712,
    modality="image",
    types=("conversation", "detail", "reasoning", "unknown"),
    images="the folder train2017 of COCO (http://images.cocodataset.org/zips/train2017.zip)",
    subsets={
        "types": tuple(Part(files=(name,), type=type_, hub=_on_hub(name)) for type_, name in TYPE_FILES.items()),
        "150k": (Part(files=("llava_instruct_150k.json",), hub=_on_hub("llava_instruct_150k.json")),),
        "80k": (Part(files=("llava_instruct_80k.json",), hub=_on_hub("llava_instruct_80k.json")),),
    },
    read=read,
    unpack=unpack,
    beside=beside,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
