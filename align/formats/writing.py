"""Records, as a file of any format.

    write_file(read_file(source), Path("dpo.json"), format_named("llama_factory"), images=store)

Records that the format cannot hold are faults, told all at once (nothing is written then), or left out and listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from align.formats.containers import SUFFIXES, write_rows
from align.formats.format import KINDS, Format, Images, Kind, Made
from align.formats.own import FORMAT as OWN_FORMAT
from align.formats.reading import Fault
from annotate.errors import RecordError, UserError
from annotate.jsonl import write_text
from annotate.records import Annotated

OWN = OWN_FORMAT.name
REMEDY = {
    "annotated": "annotated prompts become pairs and examples with `align pairs FILE OUTDIR`; convert those",
    "prompts": "prompts alone hold no answer",
    "pairs": "these are pairs",
    "examples": "these are examples of plain fine-tuning",
}


def write_file(
    records: Iterable[Made],
    out: Path,
    form: Format,
    *,
    images: Images,
    faults: list[Fault] | None = None,
    skip: bool = False,
) -> Counter[str]:
    """Write all records; returns how many rows, and how many records of each kind.

    `faults` may hold those found in reading as the records stream through. Unless `skip`, any of them, early or late,
    is a `UserError` with all of them, and nothing is written.
    """
    if form.write is None:
        raise UserError(f"{form.name} is only read, not written")
    container = SUFFIXES.get(out.suffix, form.container)
    counts: Counter[str] = Counter()
    gathered: list[Fault] = [] if faults is None else faults
    rows = iter(records)
    first = next(rows, None)
    if first is None and gathered:
        raise UserError(*map(str, gathered))
    kind: Kind = form.kinds[0] if first is None else KINDS[type(first)]
    if kind not in form.kinds:
        raise UserError(f"{form.name} holds {' or '.join(form.kinds)}, not {kind}: {REMEDY[kind]}")
    schema = form.parquet_schema(kind) if form.parquet_schema is not None and container == "parquet" else None
    line = form.line if container == "jsonl" else None
    beside = form.companions(out, kind) if form.companions is not None else {}
    with write_rows(out, container, schema=schema) as put:
        for record in [] if first is None else _chain(first, rows):
            try:
                if KINDS[type(record)] != kind and form.name != OWN:
                    raise RecordError(
                        f"is one of {KINDS[type(record)]}, but the file began with {kind}; --to {OWN} takes both"
                    )
                for row in form.write(record, images) if line is None else (line(record),):
                    put(row)
                    counts["rows"] += 1
                counts[kind] += 1
            except RecordError as error:
                gathered.append(Fault(where=f"{kind} {_id(record)}", text=str(error)))
        if gathered and not skip:
            raise UserError(*map(str, gathered))
        if not counts["rows"]:
            raise UserError(f"{out}: nothing to write: no record could be read", *map(str, gathered))
    for path, value in beside.items():
        write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
    return counts


def _chain(first: Made, rest: Iterable[Made]) -> Iterable[Made]:
    yield first
    yield from rest


def _id(record: Made) -> str:
    return record.prompt.id if isinstance(record, Annotated) else record.id
