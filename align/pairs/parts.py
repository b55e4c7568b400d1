"""One part of a file of ratings: read, checked, built and written; what a worker does.

    build_part(job, Part(place=3, start=25165824, end=33554432))
    ->  <workspace>/part-000003.preference.jsonl, ... and Built(rows=2291, faults=[], account=..., ...)

A part is a range of bytes of a file of lines, a bucket of a file with one completion a row, or a whole file of a kind
that cannot be cut. Numbers of rows count from the beginning of the part: only who has all parts knows where it stands.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from align.formats import format_named
from align.formats.containers import decoded, read_rows
from align.formats.format import KINDS, Images, Made
from align.formats.grouping import Partition, key_decoder, records
from align.formats.store import ImageStore
from align.pairs.account import Account
from align.pairs.lengths import Gaps, gap
from align.pairs.sets import Maker
from align.settings import Pairs
from annotate.errors import RecordError
from annotate.jsonl import read_lines
from annotate.records import Annotated, Failure, PreferencePair, Rubric
from annotate.rubric import check_scores

OWN = "mmalign"
TOGETHER = 16
"""Prompts that each step is done for before the next: its code stays in the processor's cache, and so do they."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all parts of a file."""

    path: Path
    lines: bool
    """Whether the file is one of plain lines, which can be cut."""
    form: str
    settings: Pairs
    seed: int
    rubric: Rubric | None
    image_root: Path | None
    image_folder: Path | None
    workspace: Path
    in_parts: bool
    """Whether every part has output files of its own; else they all append to the same, one after the other."""
    buckets: int = 0
    first_numbers: tuple[int, ...] = ()
    """Of a file that was dealt into buckets: rows before each of the parts it was read in."""

    def output(self, name: str, part: int) -> Path:
        return self.workspace / (f"part-{part:06}.{name}.jsonl" if self.in_parts else f"{name}.jsonl")

    def images(self) -> Images:
        """A store of its own for each part: what it remembers would grow with the file."""
        return ImageStore(root=self.image_root, folder=self.image_folder)


class Part(NamedTuple):
    place: int
    start: int = 0
    end: int | None = None


@dataclass
class Built:
    """What came of a part, besides its files."""

    rows: int = 0
    """Rows read, also bad ones and empty lines."""
    faults: list[tuple[int, str]] = field(default_factory=list)
    """(number, what is wrong)"""
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """The prompts, by the 8 bytes of their ids."""
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    """And where they stand."""
    rubrics: set[tuple[str, str]] = field(default_factory=set)
    account: Account | None = None

    def told(self, number: int, error: object) -> None:
        self.faults.append((number, str(error)))


# ------------------------------------------------------------------------------------------------------------ reading


def deal_part(job: Job, part: Part) -> Built:
    """Pass 1 for a file with one completion a row: its rows into the buckets, see `grouping.py`."""
    built = Built()
    form = format_named(job.form)
    assert form.group_key is not None
    partition = Partition(job.workspace, job.buckets, form.group_key)
    if job.lines and form.key_fields:
        key_of = key_decoder(form.key_fields)
        for number, line in _lines(job, part, built):
            try:
                row: Any = key_of(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                placed = decoded(number, line)
                if placed.fault:
                    built.told(number, placed.fault)
                    continue
                row = placed.value
            partition.add(part.place, number, row, built.told, line)
    else:
        for number, row in _rows(job, part, built):
            partition.add(part.place, number, row, built.told)
    partition.flush(built.told)
    return built


def _rows(job: Job, part: Part, built: Built) -> Iterator[tuple[int, Any]]:
    """The number and the value of each row that has one; the others are told."""
    if not job.lines:
        for placed in read_rows(job.path):
            if placed.fault:
                built.told(placed.number, placed.fault)
            else:
                yield placed.number, placed.value
        return
    decode = msgspec.json.Decoder().decode
    for number, line in _lines(job, part, built):
        try:
            value = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            placed = decoded(number, line)  # which takes its time to say why
            if placed.fault:
                built.told(number, placed.fault)
                continue
            value = placed.value
        yield number, value


def _lines(job: Job, part: Part, built: Built) -> Iterator[tuple[int, bytes]]:
    """The lines of a part that hold anything."""
    number = 0
    for number, line in read_lines(job.path, part.start, part.end):
        if not line.isspace():
            yield number, line
    built.rows = number


def _annotated(job: Job, part: Part, built: Built) -> Iterator[tuple[int, Annotated]]:
    """The sound records of a part, each with the number of its (first) row; what is wrong with the others is told."""
    for number, made in _records(job, part, built):
        try:
            if not isinstance(made, Annotated):
                raise RecordError(f"one of {KINDS[type(made)]}; training sets are made of annotated prompts")
            if job.rubric is not None or job.form == OWN:  # the others say which rubric, and have looked
                check_scores(made, job.rubric)
        except RecordError as error:
            built.told(number, error)
        else:
            yield number, made


def _records(job: Job, part: Part, built: Built) -> Iterator[tuple[int, Made]]:
    if job.form == OWN and job.lines:
        yield from _own_records(job, part, built)
        return
    form, images = format_named(job.form), job.images()
    if job.buckets:
        yield from records(job.workspace, part.place, job.first_numbers, form, images, built.told)
        return
    assert form.read is not None
    for number, row in _rows(job, part, built):
        try:
            if not isinstance(row, dict):
                raise RecordError(f"expected an object, got {type(row).__name__}")
            for made in form.read(row, images):
                yield number, made
        except RecordError as error:
            built.told(number, error)


def _own_records(job: Job, part: Part, built: Built) -> Iterator[tuple[int, Annotated]]:
    for number, line in _lines(job, part, built):
        try:
            yield number, Annotated.from_line(line)
        except RecordError as error:
            built.told(number, error)
        except (ValueError, RecursionError) as error:
            built.told(number, f"not a line of JSON ({error}); cut in half, or not UTF-8?")


# ----------------------------------------------------------------------------------------------------------- building


def build_part(job: Job, part: Part) -> Built:
    """All training sets of a part. After the first fault only checks go on: nothing will be kept."""
    built = Built(account=Account(job.settings))
    maker = Maker(job.settings, seed=job.seed)
    account, ids, numbers = built.account, built.ids, built.numbers
    assert account is not None
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {
            name: stack.enter_context(job.output(name, part.place).open("ab", buffering=1 << 18))
            for name in (*maker.sets, "failures")
        }
        rows = _annotated(job, part, built)
        while some := list(islice(rows, TOGETHER)):
            ids.extend([int(row.prompt.id, 16) for _, row in some])
            numbers.extend([number for number, _ in some])
            built.rubrics.update([(a.rubric, a.rubric_sha256) for _, row in some for a in row.annotations])
            if built.faults:
                continue
            made = [maker(row) for _, row in some]
            for one in made:
                account.add(one)
            for name in maker.sets:
                several = [one.sets[name] for one in made]
                files[name].writelines([r.to_line() for rs in several if type(rs[0]) is not Failure for r in rs])
                if name == "preference":
                    failures = [rs[0].to_line() for rs in several if type(rs[0]) is Failure]
                    files["failures"].writelines(failures)
    return built


def gaps_of_part(job: Job, part: Part) -> Gaps:
    """How much longer the chosen texts of a part are, for `length_gap: balance`; what is wrong is told later."""
    maker = Maker(job.settings, seed=job.seed)
    found = Gaps()
    for _, row in _annotated(job, part, Built()):
        found.count.update(gap(pair) for pair in maker(row).sets["preference"] if isinstance(pair, PreferencePair))
    return found
