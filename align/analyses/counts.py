"""What a training took: tokens that the language model read, operations, seconds. Counts are exact: no interval.

    instruct/tokens.json     {"rows_once": {"rows": 80000, "lm": 10110681, …}, "measured": {"rows": 80000, …},
                              "flops": {"total": 408…}, …}

Tokens are those of all rows, each once, the visual prefix included (MLAN, Table 2); operations are those of all steps.
Seconds are the stage's, of its manifest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.digest import file_sha256
from align.state import read_manifest

STAGE = "instruct"
CountName = Literal["tokens", "flops", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Count:
    """A number of the training of `rows` rows; `sha256` is that of the file it stands in."""

    value: float
    rows: int
    sha256: str


def read_count(folder: Path | None, name: CountName) -> Count | str:
    """The count of a run's instruct stage, or why there is none."""
    if folder is None:
        return "of results from elsewhere no training is recorded"
    stage = folder / STAGE
    if name == "seconds":
        manifest = read_manifest(stage)
        rows = manifest.funnel.get("rows trained on", 0) if manifest else 0
        if manifest is None or not manifest.seconds or rows < 1:
            return f"{folder.name}: its stage {STAGE} has recorded no seconds"
        return Count(value=manifest.seconds, rows=rows, sha256=file_sha256(stage / "manifest.json"))
    path = stage / "tokens.json"
    if not path.is_file():
        return f"{folder.name}: no {STAGE}/tokens.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        value = found["rows_once"]["lm"] if name == "tokens" else found["flops"]["total"]
        rows = found["rows_once" if name == "tokens" else "measured"]["rows"]
    except (ValueError, KeyError, TypeError):
        return f"{path}: holds no {name} and rows"
    if not _is_count(value) or not _is_count(rows):
        return f"{path}: holds no {name} and rows"
    return Count(value=float(value), rows=int(rows), sha256=file_sha256(path))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
