"""Our own records, one JSON line each, so that everything converts from and to them.

    {"schema":"preference_pair/1","id":"5c0e…","prompt":{…},"chosen":{…},"rejected":{…},"margin":4.0,"rule":"…"}

`reading.py` reads these lines without going through rows; `read` here serves the same lines inside a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import KINDS, Format, Images, Made, Row
from annotate.errors import RecordError

SCHEMAS: Mapping[str, type[Made]] = {kind.SCHEMA: kind for kind in KINDS}


def kind_of(schema: object) -> type[Made]:
    """The record that a `schema` names. Raises `RecordError` for others."""
    found = SCHEMAS.get(schema) if isinstance(schema, str) else None
    if found is None:
        raise RecordError(f"schema: {schema!r} is none of {', '.join(SCHEMAS)}")
    return found


def _read(row: Row, images: Images) -> Sequence[Made]:
    return [kind_of(row.get("schema")).from_json(row)]


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    return [record.to_json()]


FORMAT = Format(
    name="mmalign",
    title="mmalign's own records: prompts, annotated prompts, preference pairs, examples",
    layout="annotate/records.py",
    kinds=("prompts", "annotated", "pairs", "examples"),
    container="jsonl",
    recognises=lambda row: row.get("schema") in SCHEMAS,
    read=_read,
    write=_write,
    line=lambda record: record.to_line(),
)
