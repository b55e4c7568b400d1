"""Where each question of an evaluation stands: what it is drawn together with, its category, what it is counted with.

    {"schema": "questions/1", "suites": {"pope": {"ac7e…": ["91ab… (image)", "adversarial", ""], …}}}

Kept beside the answers, so that two runs can be compared without the benchmark's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align.benchmarks.rows import Row

SCHEMA = "questions/1"


class Place(NamedTuple):
    """One question. Empty: it stands alone, has no category, is counted by itself."""

    cluster: str = ""
    category: str = ""
    group: str = ""


Places = Mapping[str, Mapping[str, Place]]
"""Suite -> question -> its place."""


def places_json(rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The content of questions.json, from suite -> rows."""
    found = {suite: {row.id: [row.cluster, row.category, row.group] for row in mine} for suite, mine in rows.items()}
    return {"schema": SCHEMA, "suites": found}


def read_places(found: Mapping[str, Any]) -> Places:
    """questions.json as it was read."""
    return {suite: {key: Place(*row) for key, row in rows.items()} for suite, rows in found["suites"].items()}
