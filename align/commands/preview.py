"""`align preview MIX`: rows of a mix as the model will see them, and whether every target reads back as its answer."""

from __future__ import annotations

import argparse
import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.answers import Reading, read_answer, same_answer
from align.console import Console
from align.mix.build import EXAMPLES
from align.mix.draw import number_of
from annotate.errors import UserError
from annotate.jsonl import read_records
from annotate.records import Example


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mix", metavar="MIX", help="the folder that align mix wrote, or a file of examples")
    parser.add_argument("-n", type=int, default=8, metavar="N", help="so many rows (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which rows (default: 0)")
    parser.add_argument("--dataset", metavar="NAME", help="rows of this data set only")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print seeded rows, and the share of targets that cannot be read back; raises `UserError` for other files."""
    path = Path(options.mix)
    path = path / EXAMPLES if path.is_dir() else path
    if options.n < 1:
        raise UserError(f"-n: {options.n}; expected 1 or more")
    tally = Tally()
    shown = heapq.nsmallest(options.n, _numbered(path, options, tally), key=lambda found: found[:2])
    if not tally.rows:
        names = ", ".join(sorted(tally.datasets)) or "none"
        raise UserError(f"{path}: no rows of {options.dataset or 'any data set'}; it holds {names}")
    for place, (_, _, example) in enumerate(shown, start=1):
        console.tell("row", _text(example, place, len(shown)), row=example.to_json())
    console.result(tally.text(), rows=tally.rows, **tally.as_json())
    return 0


class Tally:
    """Over all rows: how many targets state an answer, and how many of them read back as something else or nothing."""

    def __init__(self) -> None:
        self.rows = 0
        self.datasets: Counter[str] = Counter()
        self.how: Counter[str] = Counter()
        self.wrong = 0

    def add(self, example: Example) -> None:
        self.rows += 1
        if "type" in example.meta:
            found = reading(example)
            self.how[found.how] += 1
            self.wrong += found.text is not None and not _right(example, found)

    def as_json(self) -> dict[str, Any]:
        asked = self.how.total()
        return {
            "with_answer": asked, "unread": self.how["none"], "misread": self.wrong,
            "failure_rate": (self.how["none"] + self.wrong) / asked if asked else None,
        }  # fmt: skip

    def text(self) -> str:
        found = self.as_json()
        if not found["with_answer"]:
            return f"{self.rows:,} rows, none with an answer to read back"
        return (
            f"{self.rows:,} rows; {found['with_answer']:,} targets state an answer, {found['failure_rate']:.2%} of "
            f"them cannot be read back ({found['unread']:,} unread, {found['misread']:,} misread)"
        )


def reading(example: Example) -> Reading:
    """The target of a row of a mix, read as a model's answer would be."""
    meta = example.meta
    return read_answer(example.completion, meta["type"], meta.get("choices", ()))


def _right(example: Example, found: Reading) -> bool:
    if found.index is not None:
        return bool(found.index == example.meta["answer_index"])
    return same_answer(found.text or "", example.meta["answer"])


def _numbered(path: Path, options: argparse.Namespace, tally: Tally) -> Iterator[tuple[int, int, Example]]:
    """Each row with a number of its own, whatever its place in the file."""
    for line, example in enumerate(read_records(path, Example)):
        tally.datasets[str(example.meta.get("dataset", example.source))] += 1
        if options.dataset in (None, example.meta.get("dataset", example.source)):
            tally.add(example)
            yield number_of(options.seed, "preview", example.id), line, example


def _text(example: Example, place: int, n: int) -> str:
    meta = example.meta
    what = " · ".join(str(meta[key]) for key in ("dataset", "task", "modality", "type") if key in meta)
    said = [f"{turn.role}: {turn.text}" for turn in example.prompt.turns]
    said += [f"assistant: {example.completion}"]
    if "type" in meta:
        found = reading(example)
        said.append(f"({'read as: ' + found.text if found.text is not None else 'not to be read'})")
    body = "\n".join("  " + line for text in said for line in text.split("\n"))
    return f"── {place}/{n}  {what or example.source}  {example.id}\n{body}\n"
