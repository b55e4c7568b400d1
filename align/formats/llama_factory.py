r"""LLaMA-Factory's sharegpt layout: `ranking: true` for DPO, plain for supervised fine-tuning.

    {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}],
     "chosen": {"from": "gpt", "value": "A cat."}, "rejected": {"from": "gpt", "value": "A dog."},
     "images": ["cat.jpg"]}

`dataset_info.json` beside the file is written (or added to), so that `dataset: <name of the file>` finds it; image
paths are relative to LLaMA-Factory's `media_dir`. What is written has `images` in every row, were it empty: the columns
that dataset_info.json names are looked up in each. `system` may be a column, or the first message, as it is written.
Fine-tuning rows end with the answer in `conversations`; LLaMA-Factory trains earlier answers too, unless
`mask_history: true`. Tool calls (`function_call`, `observation`, `tools`), videos and audios have no place in a record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.formats.format import Format, Images, Kind, Made, Row
from align.formats.messages import (
    TOOL_CALL,
    Tags,
    example_from,
    images_of,
    last_answer,
    refuse,
    role_of,
    said,
    spoken,
    written,
)
from align.formats.parts import agrees_with, answer, pair_from, prompt_from, restored, with_beyond
from annotate.errors import RecordError, UserError
from annotate.records import Example, PreferencePair

NAME = "llama_factory"
TAGS = Tags(
    role="from",
    content="value",
    roles={"human": "user", "gpt": "assistant", "system": "system"},
    refused={"function_call": TOOL_CALL, "observation": TOOL_CALL},
)
_KNOWN = ("conversations", "chosen", "rejected", "images", "system")
_UNHELD = ("tools", "videos", "audios", "kto_tag")


def _recognises(row: Row) -> bool:
    """A fine-tuning row without `images` is a LLaVA row, letter for letter: that one has to be said."""
    last = row["conversations"][-1] if isinstance(row.get("conversations"), list) and row["conversations"] else None
    ranked = all(isinstance(row.get(side), Mapping) and "from" in row[side] for side in ("chosen", "rejected"))
    plain = isinstance(row.get("images"), list) and isinstance(last, Mapping) and last.get("from") == "gpt"
    plain = plain and not {"chosen", "rejected", "rejected_conversations"} & set(row)
    return "conversations" in row and (ranked or plain)


def _read(row: Row, images: Images) -> Sequence[Made]:
    record = _bare(row, images)
    return [with_beyond(record, NAME, row, _plain(record))]


def _bare(row: Row, images: Images) -> PreferencePair | Example:
    """The record of a row, whatever form the row has."""
    refuse(row, _UNHELD)
    talk = spoken(row.get("conversations"), TAGS, "conversations")
    if row.get("system") and talk[0][0] != "system":  # LLaMA-Factory too lets a system message outdo the column
        talk = [("system", said(row["system"], "system")), *talk]
    shown = images_of(row.get("images"), images, "images")
    if "chosen" not in row and "rejected" not in row:
        before, last = last_answer(talk, "conversations")
        return example_from(prompt_from(before, shown, where="conversations"), last, source=NAME)
    chosen, rejected = (_answer_in(row.get(side), side) for side in ("chosen", "rejected"))
    return pair_from(prompt_from(talk, shown, where="conversations"), chosen, rejected, rule=NAME)


def _answer_in(message: Any, side: str) -> str:
    if role_of(message, TAGS, side) != "assistant":
        raise RecordError(f"{side}.from: {message['from']!r}, but an answer is the assistant's: 'gpt'")
    return answer(said(message.get("value"), f"{side}.value"), f"{side}.value")


def _plain(record: PreferencePair | Example) -> dict[str, Any]:
    """The row that the record makes by itself."""
    turns = written(record.prompt.turns, TAGS)
    paths = [image.path for image in record.prompt.images]
    if isinstance(record, Example):
        return {"conversations": [*turns, _spoken(record.completion, "completion")], "images": paths}
    chosen, rejected = _spoken(record.chosen.text, "chosen"), _spoken(record.rejected.text, "rejected")
    return {"conversations": turns, "chosen": chosen, "rejected": rejected, "images": paths}


def _spoken(text: str, where: str) -> dict[str, str]:
    return {"from": "gpt", "value": answer(text, where)}


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, PreferencePair | Example)
    agrees = agrees_with(record, lambda row, by_path: [_bare(row, by_path)])
    row = restored(_plain(record), record.meta.get(NAME), known=_KNOWN, agrees=agrees)
    return [row if "images" in row else {**row, "images": []}]


def _companions(path: Path, kind: Kind) -> Mapping[Path, Any]:
    """`dataset_info.json` with an entry for the file; entries of other data sets in it stay."""
    columns = {"messages": "conversations", "images": "images"}
    entry: dict[str, Any] = {"file_name": path.name, "formatting": "sharegpt", "columns": columns}
    if kind == "pairs":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
        entry["ranking"] = True
    info = path.with_name("dataset_info.json")
    known: Any = {}
    if info.exists():
        try:
            known = json.loads(info.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{info}: not JSON ({error}); mend it, or write to another folder") from None
        if not isinstance(known, dict):
            raise UserError(f"{info}: expected an object, data sets by name; mend it, or write to another folder")
    return {info: {**known, path.stem: entry}}


FORMAT = Format(
    name=NAME,
    title="LLaMA-Factory sharegpt, DPO (ranking) and fine-tuning, with dataset_info.json",
    layout="hiyouga/LLaMA-Factory ff6d4d12: data/README.md, src/llamafactory/data/{parser,converter}.py",
    kinds=("pairs", "examples"),
    container="json",
    recognises=_recognises,
    read=_read,
    write=_write,
    companions=_companions,
)
