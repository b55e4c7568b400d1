"""Single rows and records through a format, for its tests; the rows of whole files are in `formats/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from align.formats import format_named
from align.formats.parts import placed
from align.formats.store import ImageStore
from annotate.records import Prompt

FIXTURES = Path(__file__).parent / "formats"
LAMP = "images/lamp.png"
KITE = "images/kite.png"


def human(text: Any) -> dict[str, Any]:
    return {"from": "human", "value": text}


def gpt(text: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


# a sound row of every format
LLAVA = {"id": "1", "image": LAMP, "conversations": [human("<image>\nWhat?"), gpt("A lamp.")]}
POVID = {**LLAVA, "rejected_conversations": [human("<image>\nWhat?"), gpt("A dog.")]}
VL_RLHF = {"image": LAMP, "prompt": "What?", "chosen": "A lamp.", "rejected": "A dog."}
MLLM_DPO = {
    "image": LAMP,
    "question": human("<image>\nWhat?"),
    "chosen": gpt("A lamp."),
    "rejected": gpt("A dog."),
    "ref_win_logp": -1.5,
}
TALK = [human("<image>\nWhat?"), gpt("A lamp."), human("On?"), gpt("Yes.")]
RLAIF_V = {
    "ds_name": "RLAIF-V",
    "image": {"bytes": (FIXTURES / LAMP).read_bytes(), "path": "lamp.png"},
    "question": "What?",
    "chosen": "A lamp.",
    "rejected": "A dog.",
    "origin_dataset": "COCO",
    "origin_split": "{}",
    "idx": "3",
    "image_path": "coco/lamp.png",
    "logps": json.dumps({"logps": [-1.0, -0.5, [-0.5], -2.0, -1.0, [-1.0]]}),
}
HUMAN = {
    **LLAVA,
    "output_1": {"from": "llava", "value": "A lamp."},
    "output_2": {"from": "llava", "value": "A dog."},
    "preference": 1,
}


def store(folder: Path | None = None) -> ImageStore:
    return ImageStore(root=FIXTURES, folder=folder)


def read(name: str, row: dict[str, Any], images: Any = None) -> Any:
    form = format_named(name)
    assert form.read is not None or form.read_group is not None
    (record,) = form.read(row, images or store()) if form.read else form.read_group([row], images or store())
    return record


def write(name: str, record: Any, images: Any = None) -> dict[str, Any]:
    form = format_named(name)
    assert form.write is not None
    (row,) = form.write(record, images or store())
    return row


def asked(text: str, *paths: str) -> Prompt:
    """A question about images of the fixtures."""
    return Prompt.of(placed([("user", text)], [store().named(path) for path in paths]))
