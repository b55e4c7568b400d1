"""Rows of a file for visual instruction tuning: which are taken, and whether with their images.

In: JSONL of `Example`, of `Prompt` with a reference, or of `Conversation`, mixed as they come. Out: `TrainRow`s in the
order of the file, and a Failure for each taken row that cannot be one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.train.lora_rows import TrainRow
from align.train.rows import Conversation
from annotate.errors import RecordError, UserError
from annotate.jsonl import no_json, read_lines
from annotate.records import IMAGE_PLACEHOLDER, Example, Failure, Prompt, Reason, Record, Turn, content_id

KINDS: Mapping[str, type[Record]] = {kind.SCHEMA: kind for kind in (Example, Prompt, Conversation)}


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """`read` rows stand in the file, `fitting` of them are of the kind that was selected."""

    rows: tuple[TrainRow, ...]
    failures: tuple[Failure, ...]
    read: int
    fitting: int


def read_file_rows(
    file: Path,
    root: Path,
    *,
    stage: str,
    seed: int = 0,
    images: Literal["keep", "strip"] = "keep",
    select: Mapping[str, Any] | None = None,
    n: int | None = None,
    whole: bool = True,
) -> FileRows:
    """The rows to train on. `whole`: the loss falls on every answer of a dialogue.

    `n` of the rows that fit `select` are drawn: those with the smallest hashes of seed and content, so a smaller
    draw is part of a larger one and the order of the file does not matter.

    Raises `UserError` with all lines that are no records, and where fewer than `n` rows fit.
    """
    read, fitting = 0, []
    for record in records_of(file):
        read += 1
        if _fits(record, select or {}):
            fitting.append(row_of(record, root, whole=whole))
    if not fitting:
        raise UserError(f"{stage}.rows: {file}: {_none(read, select or {})}")
    taken = _drawn(fitting, n, seed, f"{stage}.n", file)
    if images == "strip":
        stripped = [_stripped(row, stage) for row in taken]
        taken = [made for made in stripped if isinstance(made, TrainRow)]
        failures = tuple(made for made in stripped if isinstance(made, Failure))
    else:
        failures = ()
    return FileRows(rows=tuple(taken), failures=failures, read=read, fitting=len(fitting))


def records_of(file: Path) -> Iterator[Record]:
    """The records of the file, one after another. Raises `UserError` at its end with all lines that are none."""
    faults: list[str] = []
    for number, line in read_lines(file):
        if number == 1 and file.suffix != ".jsonl" and line.lstrip().startswith(b"["):
            made = file.with_suffix(".jsonl")
            raise UserError(f"{file}: is a JSON list, no JSON Lines; first: align convert {file} {made} --to mmalign")
        try:
            yield _record_of(line)
        except RecordError as error:
            faults.append(f"{file}:{number}: {error}")
        except (ValueError, RecursionError) as error:
            faults.append(no_json(file, number, error))
        if len(faults) == 1000:
            break
    if faults:
        raise UserError(*faults)


def _record_of(line: bytes) -> Record:
    """Raises `RecordError` for what is no row to train on, `ValueError` for what is no JSON."""
    raw = json.loads(line.decode())
    if not isinstance(raw, dict):
        raise RecordError(f"expected a JSON object, got {type(raw).__name__}")
    schema = raw.get("schema")
    kind = KINDS.get(schema) if isinstance(schema, str) else None
    if kind is None:
        raise RecordError(
            f"schema {schema!r} is none of {', '.join(KINDS)}; data/prepare_*.py, `align mix` and `align convert` "
            "write such rows"
        )
    record = kind.from_json(raw)
    if isinstance(record, Prompt) and not record.reference:
        raise RecordError("a prompt without a reference has no answer to learn; add `reference`")
    return record


def _fits(record: Record, select: Mapping[str, Any]) -> bool:
    """Whether the row's `meta`, or its prompt's, says for every key the value, or one of the values."""
    if not select:
        return True
    prompt = record.prompt if isinstance(record, Example) else None
    told = {"source": getattr(record, "source", ""), **(prompt.meta if prompt else {}), **getattr(record, "meta", {})}
    wanted = {key: value if isinstance(value, list | tuple) else (value,) for key, value in select.items()}
    return all(told.get(key) in values for key, values in wanted.items())


def _none(read: int, select: Mapping[str, Any]) -> str:
    wanted = ", ".join(f"{key}: {value}" for key, value in select.items())
    return f"none of its {read:,} rows says {wanted} in its meta" if read else "has no rows"


def row_of(record: Record, root: Path, *, whole: bool = True) -> TrainRow:
    """One record as a row; see `read_file_rows`."""
    if isinstance(record, Example):
        prompt, answer, id_ = record.prompt, record.completion, record.id
    elif isinstance(record, Prompt):
        prompt, answer, id_ = record, record.reference or "", record.id
    else:
        assert isinstance(record, Conversation)
        prompt, answer = Prompt.of(record.turns[:-1]), record.turns[-1].text
        id_ = content_id([prompt.id, answer])
    return _train_row(id_, prompt, answer, root, whole)


def _train_row(id_: str, prompt: Prompt, answer: str, root: Path, whole: bool) -> TrainRow:
    return TrainRow(
        id=id_,
        prompt=prompt,
        images=tuple(root / image.path for image in prompt.images),
        completions=(answer,),
        whole=whole and any(turn.role == "assistant" for turn in prompt.turns),
    )


def _drawn(rows: Sequence[TrainRow], n: int | None, seed: int, key: str, file: Path) -> list[TrainRow]:
    if n is None or n == len(rows):
        return list(rows)
    if n > len(rows):
        raise UserError(f"{key}: {n:,} rows are wanted, {file} has {len(rows):,} that fit; lower it or leave it out")
    order = sorted(range(len(rows)), key=lambda i: (_number(seed, rows[i]), i))
    return [rows[i] for i in sorted(order[:n])]


def _number(seed: int, row: TrainRow) -> bytes:
    return hashlib.sha256(f"{seed}/{row.prompt.id}/{row.completions[0]}".encode()).digest()


def _stripped(row: TrainRow, stage: str) -> TrainRow | Failure:
    """The row without its images; Sight Beyond Text, section 3.3, removes the image and does not say what becomes of
    the placeholder: it goes too, with the line break that sets it apart.
    """
    if not row.images:
        return row
    turns = tuple(Turn(role=turn.role, text=without_images(turn.text)) for turn in row.prompt.turns)
    assert not any(IMAGE_PLACEHOLDER in turn.text for turn in turns)
    try:
        prompt = Prompt.of(turns)
    except RecordError as error:
        return Failure(stage=stage, record_id=row.id, reason=Reason.INVALID_INPUT, detail=f"without its image: {error}")
    return TrainRow(id=row.id, prompt=prompt, images=(), completions=row.completions, whole=row.whole)


def without_images(text: str) -> str:
    """A turn's text without placeholders, and without the line breaks between them and the words."""
    pieces = [piece.strip("\n") for piece in text.split(IMAGE_PLACEHOLDER)]
    return "\n".join(piece for piece in pieces if piece.strip()) if len(pieces) > 1 else text
