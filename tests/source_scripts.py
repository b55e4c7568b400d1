"""Runs the scripts of data/ as their command line does, and keeps the fixtures' places in one spot."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(__file__).resolve().parent / "sources"
IMAGES = FIXTURES / "images"
TRAIN2017 = IMAGES / "coco" / "train2017"

if str(ROOT / "data") not in sys.path:
    sys.path.insert(0, str(ROOT / "data"))

from source_command import main  # noqa: E402


def prepare(name: str, out: Path, *options: str | Path) -> int:
    """`python data/prepare_NAME.py --out OUT OPTIONS`; returns the exit code."""
    source = import_module(f"prepare_{name}").SOURCE
    code: int = main(source, ["--out", str(out), "--quiet", *map(str, options)])
    return code


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def by_id(out: Path) -> dict[str, dict[str, Any]]:
    return {record["source_id"]: record for record in records(out)}


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.with_name(f"{out.name}.manifest.json").read_text(encoding="utf-8"))
    return found


def fixture(*parts: str) -> Any:
    """A JSON fixture, or the rows of a JSON Lines one."""
    path = FIXTURES.joinpath(*parts)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return json.loads(path.read_text(encoding="utf-8"))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path
