"""What a training took: tokens that the language model read, operations, seconds. Counts are exact: no interval.

    instruct/tokens.json     {"rows_once": {…}, "measured": {"rows": 80000, "lm": 10110681, …},
                              "flops": {"total": 408…}, …}

Tokens and operations are both of what was measured: all that the steps read, every epoch, the visual prefix included,
padding not. MLAN (Table 2) counts one pass over the rows, and trains one epoch. Seconds are of the stage's manifest.
All three belong to the model that the stage made, and to no other one of the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.digest import file_sha256
from align.state import read_manifest

STAGE = "instruct"
MADE = "vlm"
"""What an evaluation calls the model that the stage made."""
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
        value = found["measured"]["lm"] if name == "tokens" else found["flops"]["total"]
        rows = found["measured"]["rows"]
    except (ValueError, KeyError, TypeError):
        return f"{path}: holds no {name} and rows that were measured"
    if not _is_count(value) or not _is_count(rows):
        return f"{path}: holds no {name} and rows that were measured"
    return Count(value=float(value), rows=int(rows), sha256=file_sha256(path))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
