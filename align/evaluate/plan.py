"""What is to be asked: every model, every suite it can take, in batches fixed from the whole input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.benchmarks.rows import Row, load_rows
from align.benchmarks.suite import Suite
from align.benchmarks.suites import find_suites
from align.evaluate.answers import input_sha256
from align.evaluate.models import Contestant
from align.formats.images import check_images
from align.models.template import render_prompt
from align.settings import Evaluate, Prompts
from annotate.errors import UserError
from annotate.records import sha256_of
from annotate.stage import Unit


@dataclass(frozen=True)
class Exam:
    """One suite with its questions."""

    suite: Suite
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Batch:
    """One model asked some rows of one suite: the payload of a unit."""

    contestant: Contestant
    suite: Suite
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Probe:
    """Some rows of a batch asked one by one: does what else is in a batch change an answer?"""

    batch: Batch


def load_exams(settings: Evaluate, prompts: Prompts) -> tuple[Exam, ...]:
    """All benchmark files, checked whole: rows, what each suite needs of them, images. All faults at once."""
    suites = find_suites(settings.suites)
    if not suites and settings.text is None:
        raise UserError("evaluate.suites: none; name at least one")
    exams: list[Exam] = []
    looked_at: set[tuple[str, str]] = set()
    faults: list[str] = []
    root = Path(prompts.image_root)
    for suite in suites:
        file = Path(settings.folder) / f"{suite.file}.jsonl"
        try:
            rows = load_rows(file, suite=suite.name, limit=settings.limit)
        except UserError as error:
            faults += error.faults
            continue
        faults += [f"{file}: item {row.id}: {fault}" for row in rows if (fault := suite.fault(row))]
        if (suite.file, suite.images) not in looked_at:  # corrupted ones begin with the same files
            faults += _image_faults(suite, rows, file, root, prompts.max_image_pixels)
            looked_at.add((suite.file, suite.images))
        exams.append(Exam(suite, rows))
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return tuple(Exam(exam.suite.asking(exam.rows), exam.rows) for exam in exams)


def _image_faults(suite: Suite, rows: Sequence[Row], file: Path, root: Path, max_pixels: int) -> Iterator[str]:
    images = {} if suite.images == "none" else {row.id: image for row in rows if (image := suite.image(row))}
    checked = check_images(root, {image.path for image in images.values()}, max_pixels=max_pixels)
    for row_id, image in images.items():
        found = checked[image.path]
        if found.fault:
            yield f"{file}: item {row_id}: image {image.path!r}: {found.fault}"
        elif found.sha256 != image.sha256:
            yield f"{file}: item {row_id}: image {image.path!r} has other bytes than its record says; was it edited?"


def plan_units(
    contestants: Sequence[Contestant], exams: Sequence[Exam], *, batch_size: int, max_new_tokens: int
) -> list[Unit]:
    """One unit per batch; its key hashes all that decides the answers, and nothing of what is right."""
    units = []
    for contestant in contestants:
        for exam in exams:
            if contestant.takes(exam.suite):
                for rows in batches(exam, batch_size):
                    batch = Batch(contestant, exam.suite, rows)
                    units.append(Unit(batch_key(batch, max_new_tokens), batch, len(rows)))
    return units


def plan_probes(answers: Sequence[Unit], max_new_tokens: int, n: int = 3) -> list[Unit]:
    """The first rows of each suite in which the model that is to be aligned writes answers."""
    first: dict[str, Batch] = {}
    for unit in answers:
        if unit.payload.contestant.name == "vlm" and not unit.payload.suite.chooses:
            first.setdefault(unit.payload.suite.name, unit.payload)
    probes = [Batch(b.contestant, b.suite, b.rows[:n]) for b in first.values()]
    return [Unit(sha256_of(["one by one", batch_key(b, max_new_tokens)]), Probe(b), len(b.rows)) for b in probes]


def batches(exam: Exam, size: int) -> list[tuple[Row, ...]]:
    """Rows of like length together, so that little is padded; equal lengths keep the order of the file."""
    ordered = sorted(exam.rows, key=lambda row: len(render_prompt([exam.suite.first_turn(row)])))
    return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]


def batch_key(batch: Batch, max_new_tokens: int) -> str:
    """Answers are reused exactly where model, questions, circumstances and batch mates are the same."""
    contestant = batch.contestant
    return sha256_of(
        {
            "model": contestant.sha256,
            "suite": batch.suite.name,
            "decoding": decoding(batch.suite, max_new_tokens),
            "inputs": [input_sha256(batch.suite, row, contestant.conditioning) for row in batch.rows],
            "ids": [row.id for row in batch.rows],
        }
    )


def decoding(suite: Suite, max_new_tokens: int) -> dict[str, object]:
    """How answers are made; goes into every Item."""
    return {"method": "likelihood"} if suite.chooses else {"temperature": 0.0, "max_new_tokens": max_new_tokens}
