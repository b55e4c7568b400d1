r"""LLaVA-Pretrain: captions as dialogues, for joining a vision tower to a language model. 595K, or its sibling.

`595k` is the concept-balanced part of CC-3M that LLaVA, Sight Beyond Text (section 2) and, by its text, MLAN (section
2.2) name; `558k` the LAION/CC/SBU set with BLIP captions, which LLaVA 1.5 and MLAN's published script read. A row:

    {"id": "004539375", "image": "00453/004539375.jpg", "conversations": [
        {"from": "human", "value": "Render a clear and concise summary of the photo.\n<image>"},
        {"from": "gpt", "value": "select luxury furniture 3 - inch gel memory foam mattress topper"}]}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_command import main
from sources import Hub, Part, Raw, Row, Source, id_of, spoken, text_of

from annotate.errors import RecordError


def read(raw: Raw, _type: str) -> Iterator[Row]:
    turns = spoken(raw.get("conversations"))
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise RecordError("a caption row is one question and one answer")
    yield Row(id=id_of(raw, "id"), turns=tuple(turns), image_files=(text_of(raw, "image"),), meta={"task": "caption"})


SOURCE = Source(
    name="llava_pretrain",
    title="LLaVA-Pretrain",
    licence="'other' by its cards: the terms of CC-3M (595k), of CC-3M and BLIP (558k); images as their owners allow",
    url="https://huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K (558k: .../liuhaotian/LLaVA-Pretrain)",
    rows=595_375,
    modality="image",
    images="the unpacked images.zip of the same repository",
    subsets={
        "595k": (
            Part(files=("chat.json",), hub=Hub(id="liuhaotian/LLaVA-CC3M-Pretrain-595K", data_files="chat.json")),
        ),
        "558k": (
            Part(
                files=("blip_laion_cc_sbu_558k.json",),
                hub=Hub(id="liuhaotian/LLaVA-Pretrain", data_files="blip_laion_cc_sbu_558k.json"),
            ),
        ),
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
