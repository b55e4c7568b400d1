"""VL-RLHF's `plain_dpo` JSON, for its DPO, DDPO and paired KTO.

    {"image": "cat.jpg", "prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}

`image` is absent where there is none. VL-RLHF puts the image before a prompt without a placeholder, and else where the
placeholder stands; so does this reader, and the writer leaves out a placeholder that comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row, turn_text
from align.formats.parts import (
    agrees_with,
    one_image,
    one_question,
    pair_from,
    pair_of,
    prompt_from,
    restored,
    text_in,
    with_beyond,
)
from annotate.records import IMAGE_PLACEHOLDER, PreferencePair

_KNOWN = {"image", "prompt", "chosen", "rejected"}


def _read(row: Row, images: Images) -> Sequence[Made]:
    question, chosen, rejected = (text_in(row, field) for field in ("prompt", "chosen", "rejected"))
    path = one_image(row)
    shown = [] if path is None else [images.named(path)]
    if shown and IMAGE_PLACEHOLDER not in question:
        question = turn_text([question], images=1)
    prompt = prompt_from([("user", question)], shown, where="prompt")
    pair = pair_from(prompt, chosen, rejected, rule="vl_rlhf")
    return [with_beyond(pair, "vl_rlhf", row, _plain(pair))]


def _plain(pair: PreferencePair) -> dict[str, Any]:
    turn = one_question(pair.prompt, "vl_rlhf")
    bare = turn.text.removeprefix(turn_text([""], images=1))
    row: dict[str, Any] = {"image": turn.images[0].path} if turn.images else {}
    text = turn.text if IMAGE_PLACEHOLDER in bare else bare
    return row | {"prompt": text, "chosen": pair.chosen.text, "rejected": pair.rejected.text}


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    pair = pair_of(record, "vl_rlhf")
    return [restored(_plain(pair), pair.meta.get("vl_rlhf"), known=_KNOWN, agrees=agrees_with(pair, _read))]


def _recognises(row: Row) -> bool:
    # Text-only rows look like TRL's; a first row without an image is said with --from vl_rlhf.
    texts = all(isinstance(row.get(field), str) for field in ("prompt", "chosen", "rejected"))
    return texts and isinstance(row.get("image"), str) and not {"question", "images", "messages"} & set(row)


FORMAT = Format(
    name="vl_rlhf",
    title="VL-RLHF's plain_dpo JSON: image, prompt, chosen, rejected",
    layout="TideDra/VL-RLHF e9737dc, README.md (Customized Dataset) and src/vlrlhf/utils/data.py",
    kinds=("pairs",),
    container="json",
    recognises=_recognises,
    read=_read,
    write=_write,
)
