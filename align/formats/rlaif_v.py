r"""RLAIF-V's parquet: the image itself in every row, the question without a placeholder.

    {"ds_name": "…", "image": {"bytes": b"\xff\xd8…", "path": "9.jpg"}, "question": "What is it?", "chosen": "A cat.",
     "rejected": "A dog.", "origin_dataset": "COCO", "origin_split": "{\"model\": …, \"type\": …}", "idx": "17",
     "image_path": "coco/9.jpg", "logps": "{\"logps\": [-3.1, -0.8, [-0.2, …], -9.0, -1.5, [-0.4, …]]}"}

`question` is shown after the image, always. `origin_dataset` becomes the prompt's source; `origin_split` is JSON and
kept to the letter. `logps`, in the files that its trainer writes, is JSON of six: log-probability, average and list per
token of chosen, then of rejected; as a bare list in older files. They go to `meta["reference"]`; those per token run
over the whole sequence, prompt and image positions included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row, turn_text
from align.formats.parts import (
    one_question,
    pair_from,
    pair_of,
    prompt_from,
    reference_from,
    restored,
    six_of,
    text_in,
    with_beyond,
)
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Image, PreferencePair

NAME = "rlaif_v"
_LOGPS = tuple(f"logps[{i}]" for i in range(6))
_FIRST = turn_text([""], images=1)


def _read(row: Row, images: Images) -> Sequence[Made]:
    question, chosen, rejected = (text_in(row, field) for field in ("question", "chosen", "rejected"))
    if IMAGE_PLACEHOLDER in question:
        raise RecordError(
            f"question: contains {IMAGE_PLACEHOLDER}; RLAIF-V puts the image before the question: remove it"
        )
    for field in ("ds_name", "origin_dataset", "origin_split", "image_path"):
        if not isinstance(row.get(field), str | None):
            raise RecordError(f"{field}: expected text, got {type(row[field]).__name__}")
    _check_split(row.get("origin_split"))
    cell, image = _image(row, images)
    prompt = prompt_from(
        [("user", _FIRST + question)], [image], where="question", source=row.get("origin_dataset") or ""
    )
    reference = _reference(row)
    pair = pair_from(prompt, chosen, rejected, rule=NAME, meta={"reference": reference} if reference else None)
    return [with_beyond(pair, NAME, {**row, "image": cell}, _plain(pair))]


def _image(row: Row, images: Images) -> tuple[dict[str, Any], Image]:
    """What the image's cell holds beside the bytes, and the image."""
    cell = row.get("image")
    if not isinstance(cell, Mapping) or not isinstance(cell.get("bytes"), bytes) or not cell["bytes"]:
        raise RecordError(
            'image: expected {"bytes": ..., "path": ...} with the image itself, as RLAIF-V embeds it; with `datasets`, '
            'write the file after `cast_column("image", Image(decode=False))`'
        )
    name = cell.get("path") or row.get("image_path") or ""
    return {key: value for key, value in cell.items() if key != "bytes"}, images.embedded(cell["bytes"], str(name))


def _check_split(text: str | None) -> None:
    try:
        json.loads("{}" if text is None else text)
    except (ValueError, RecursionError):
        raise RecordError(
            f'origin_split: {text!r:.60} is not JSON, which the trainer reads it as; write "{{}}"'
        ) from None


def _reference(row: Row) -> dict[str, dict[str, Any]]:
    if row.get("logps") is None:
        return {}
    text = text_in(row, "logps")
    try:
        six = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"logps: {text!r:.40} is not JSON; compute the log-probabilities again") from None
    six = six.get("logps") if isinstance(six, Mapping) else six
    if not isinstance(six, list) or len(six) != 6:
        raise RecordError("logps: expected six values: logp, avg_logp, per_token_logp of chosen, then of rejected")
    if any(value is None for value in six):
        raise RecordError("logps: one of the six is null; compute the log-probabilities again")
    return reference_from(six, _LOGPS)


def _plain(pair: PreferencePair) -> dict[str, Any]:
    """The row, without the image's bytes."""
    turn = one_question(pair.prompt, NAME)
    question = turn.text.removeprefix(_FIRST)
    if len(turn.images) != 1 or question == turn.text:
        at = "text only" if not turn.images else "the image stands elsewhere"
        raise RecordError(f"{NAME} holds one image, before the question, in every row; here {at}: leave the pair out")
    row = {
        "ds_name": "mmalign",
        "image": {"path": turn.images[0].path},
        "question": question,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "origin_dataset": pair.prompt.source,
        "origin_split": "{}",
        "idx": pair.id,
        "image_path": turn.images[0].path,
    }
    six = six_of(pair.meta.get("reference"))
    if all(value is None for value in six):
        return row
    if any(value is None for value in six):
        raise RecordError(f"{NAME} holds all six reference log-probabilities or none; take `reference` out of the meta")
    return {**row, "logps": json.dumps({"logps": six})}


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    pair = pair_of(record, NAME)

    def agrees(row: Row) -> bool:
        try:
            return _reference(row) == (pair.meta.get("reference") or {})
        except RecordError:
            return False

    row = restored(_plain(pair), pair.meta.get(NAME), known={"logps"}, agrees=agrees)
    row["image"] = {"bytes": images.bytes_of(pair.prompt.images[0]), **row["image"]}
    return [row]


def _recognises(row: Row) -> bool:
    texts = all(isinstance(row.get(field), str) for field in ("question", "chosen", "rejected"))
    return texts and isinstance(row.get("image"), Mapping)


FORMAT = Format(
    name=NAME,
    title="RLAIF-V's parquet: image {bytes, path}, question, chosen, rejected, origin_*, logps",
    layout="RLHF-V/RLAIF-V 83d917b, muffin/data/datasets.py (RLAIFVDataset) and muffin/eval/muffin_inference_logp.py; "
    "the card of openbmb/RLAIF-V-Dataset",
    kinds=("pairs",),
    container="parquet",
    recognises=_recognises,
    read=_read,
    write=_write,
)
