"""What a format is: rows of one tool's data file, and how they become records and records become rows.

A format is one small file of this folder that ends in a `Format`. Its two functions are pure: `read` makes records of
rows, `write` makes rows of records; files, image stores, line numbers and errors are `reading.py`'s and `writing.py`'s.

    {"image": "cat.jpg", "prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}    a row of VL-RLHF
    -> PreferencePair(prompt=..., chosen=..., rejected=..., margin=None, rule="vl_rlhf", meta={})

What a row holds beyond the record goes to `meta[<name of the format>]` (of the pair, the example or the prompt), and is
put back by the same format's `write`: a round trip loses nothing. Reference log-probabilities are more widely of use:
they stand in `meta["reference"]` of a pair, as `REFERENCE` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from annotate.records import Annotated, Example, Image, PreferencePair, Prompt

Row = Mapping[str, Any]
Made = Prompt | Annotated | PreferencePair | Example
Kind = Literal["prompts", "annotated", "pairs", "examples"]
Container = Literal["json", "jsonl", "parquet"]
KINDS: Mapping[type[Made], Kind] = {
    Prompt: "prompts",
    Annotated: "annotated",
    PreferencePair: "pairs",
    Example: "examples",
}
REFERENCE = {"logp": float, "avg_logp": float, "per_token_logp": list}
"""`meta["reference"] = {"chosen": {"logp": -41.2, ...}, "rejected": {...}}`: log-probabilities by the reference model,
summed and averaged over the completion, and per token as the tool stored them (the LLaVA family: of the whole
sequence, image positions included); any of them may be missing."""


class Images(Protocol):
    """Where the images of a file are; `images.py` has the real one."""

    def named(self, path: str) -> Image:
        """An image that a row names by a path below the image root. Raises `RecordError` where it cannot be used."""

    def embedded(self, data: bytes, name: str = "") -> Image:
        """An image whose bytes stand in the row: kept below the image folder under its sha256."""

    def bytes_of(self, image: Image) -> bytes:
        """The bytes, for formats that embed them. Raises `RecordError` where there is no such file."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One outside format; see the module's docstring for what its functions promise."""

    name: str
    title: str
    """One line for `align convert --help`."""
    layout: str
    """The source file and version from which the layout was read."""
    kinds: tuple[Kind, ...]
    """What it can hold. A format of pairs is not written from annotated prompts: `align pairs` makes pairs of those."""
    container: Container
    """What is written; on reading, JSON list, JSON Lines and parquet are told apart by their first bytes."""
    recognises: Callable[[Row], bool] = field(default=lambda row: False)
    """Whether a first row is of this format: by keys that no other format has together."""
    read: Callable[[Row, Images], Sequence[Made]] | None = None
    """The records of one row (mostly one). Raises `RecordError` naming the field at fault and the remedy."""
    write: Callable[[Made, Images], Sequence[dict[str, Any]]] | None = None
    """The rows of one record. Raises `RecordError` where the format cannot hold it, saying why."""
    line: Callable[[Made], bytes] | None = None
    """Instead of `write` in JSON Lines: the record as a line, where that takes no row of Python objects."""
    group_key: Callable[[Row], str] | None = None
    """For flat formats, with one completion a row (HelpSteer): what rows of one prompt have in common."""
    key_fields: tuple[str, ...] = ()
    """The fields that `group_key` looks at: of JSON Lines nothing else is decoded to sort them. Empty: all."""
    read_group: Callable[[Sequence[Row], Images], Sequence[Made]] | None = None
    """For flat formats, instead of `read`: the record of all rows of a prompt, in any order."""
    read_lines: Callable[[Sequence[bytes], Images], Sequence[Made]] | None = None
    """The same, faster, of lines that hold what most do. Nothing where they do not: then `read_group` takes them."""
    companions: Callable[[Path, Kind], Mapping[Path, Any]] | None = None
    """Further JSON files that the tool wants beside the written one, e.g. LLaMA-Factory's dataset_info.json."""
    parquet_schema: Callable[[Kind], Any] | None = None
    """The pyarrow schema of the written parquet file; pyarrow's own guess where it is None."""


def turn_text(texts: Sequence[str], *, images: int) -> str:
    """A user's text for an image without a placeholder: the image first, as LLaVA was trained."""
    return "<image>\n" * images + "\n".join(texts)
