"""The account of a stage in words, and what of it may be done again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from annotate.estimate import spelled
from annotate.records import Manifest
from annotate.stage import Estimate, Line, Unit, Work


def price(estimate: Estimate) -> str:
    """An estimate in words: `412 calls, about 310,000 + 90,000 tokens, about $1.20`."""
    return "; ".join(spelled(estimate))


def failed(work: Work, unit: Unit, line: Line) -> bool:
    """Whether a line tells of a unit that came to nothing and may be tried again."""
    own = getattr(work, "failed", None)  # a stage that keeps raw replies reads them with the parser of today
    return bool(own(unit, line) if own else line.get("outcome", "ok") != "ok")


def recall(work: Work, lines: Mapping[str, Line], workspace: Path) -> None:
    """Hand a stage whose units work on what others of its units gave, all that its journal holds."""
    if take := getattr(work, "recall", None):
        take(lines, workspace)


def outputs_of(manifest: Manifest) -> int:
    return manifest.units - manifest.failures


def counts(manifest: Manifest) -> str:
    failed = f", {manifest.failures} failed" if manifest.failures else ""
    return f"{outputs_of(manifest)} of {manifest.units} records{failed}"
