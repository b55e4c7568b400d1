"""What is to be asked: every model, every suite it can take, in batches fixed from the whole input."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from align.benchmarks.pictures import Picture, with_pictures
from align.benchmarks.rows import Row
from align.benchmarks.suite import Suite
from align.benchmarks.suites import SUITES, find_suites
from align.evaluate.answers import input_sha256
from align.evaluate.exam_files import Held, look_at, read_asked
from align.evaluate.models import Contestant
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
    root: Path | None = None
    """Where its images lie, if not below the recipe's `prompts.image_root`."""
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    """Irrelevant images that are made, by their hash."""
    held: Held | None = None
    """Images that stand in its rows, not in files."""


@dataclass(frozen=True)
class Batch:
    """One model asked some rows of one suite: the payload of a unit."""

    contestant: Contestant
    suite: Suite
    rows: tuple[Row, ...]
    root: Path | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    held: Held | None = None


@dataclass(frozen=True)
class Probe:
    """Some rows of a batch asked one by one: does what else is in a batch change an answer?"""

    batch: Batch


def load_exams(settings: Evaluate, prompts: Prompts, seed: int = 0) -> tuple[Exam, ...]:
    """All benchmark files, checked whole: rows, what each suite needs of them, images. All faults at once."""
    suites = find_suites(settings.suites)
    if not suites and settings.text is None:
        raise UserError("evaluate.suites: none; name at least one")
    exams: list[Exam] = []
    seen: dict[tuple[str, str], tuple[Row, ...]] = {}
    faults = list(_unknown(settings))
    for suite in suites:
        pictures: Mapping[str, Picture] = {}
        try:
            asked = read_asked(suite, settings)
            rows = asked.rows
            if suite.noise:
                photos = settings.files.get(suite.file, {}).get("photos", "")
                rows, pictures = with_pictures(rows, suite.noise, seed=seed, photos=photos)
        except UserError as error:
            faults += error.faults
            continue
        faults += [f"{asked.file}: item {row.id}: {fault}" for row in rows if (fault := suite.fault(row))]
        key = (suite.file, suite.images)
        if not pictures and key not in seen:  # corrupted ones begin with the same files
            seen[key], wrong = look_at(suite, asked, prompts)
            faults += wrong
        exams.append(Exam(suite, rows if pictures else seen[key], asked.root, pictures, asked.held))
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return tuple(replace(exam, suite=exam.suite.asking(exam.rows)) for exam in exams)


def _unknown(settings: Evaluate) -> Iterator[str]:
    known = {suite.file for suite in SUITES.values()}
    for name in settings.files:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"evaluate.files: no benchmark {name!r}{hint}  Known: {', '.join(sorted(known))}"


def limit_of(suite: Suite, settings: Evaluate) -> int:
    """Tokens of an answer at most."""
    return settings.judge.answer_tokens if suite.judged and settings.judge else settings.max_new_tokens


def limit_option(suite: Suite) -> str:
    """Where the recipe says that limit."""
    return "evaluate.judge.answer_tokens" if suite.judged else "evaluate.max_new_tokens"


def room_faults(settings: Evaluate, model: Path) -> Iterator[str]:
    """Limits that leave no room for any question in the positions that the model's configuration names."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    room = (config.get("text_config") or config).get("max_position_embeddings")
    for suite in find_suites(settings.suites) if isinstance(room, int) else ():
        limit = limit_of(suite, settings)
        if not suite.chooses and limit >= room:
            where = f"the model's {room} positions"
            yield f"{limit_option(suite)}: {limit} leaves no room for a question in {where}; lower it"


def plan_units(contestants: Sequence[Contestant], exams: Sequence[Exam], settings: Evaluate, seed: int) -> list[Unit]:
    """One unit per batch; its key hashes all that decides the answers, and nothing of what is right."""
    units = []
    for contestant in contestants:
        for exam in exams:
            if contestant.takes(exam.suite):
                for rows in batches(exam, settings.batch_size):
                    batch = Batch(contestant, exam.suite, rows, exam.root, exam.pictures, exam.held)
                    units.append(Unit(batch_key(batch, limit_of(exam.suite, settings), seed), batch, len(rows)))
    return units


def plan_probes(answers: Sequence[Unit], settings: Evaluate, seed: int, n: int = 3) -> list[Unit]:
    """The first rows of each suite in which the model that is to be aligned writes answers."""
    first: dict[str, Batch] = {}
    for unit in answers:
        if unit.payload.contestant.name == "vlm" and not unit.payload.suite.chooses:
            first.setdefault(unit.payload.suite.name, unit.payload)
    probes = [replace(b, rows=b.rows[:n]) for b in first.values()]
    keys = [batch_key(b, limit_of(b.suite, settings), seed) for b in probes]
    return [Unit(sha256_of(["one by one", key]), Probe(b), len(b.rows)) for key, b in zip(keys, probes, strict=True)]


def batches(exam: Exam, size: int) -> list[tuple[Row, ...]]:
    """Rows of like length together, so that little is padded; equal lengths keep the order of the file.

    Rows that are answered at different temperatures never share a batch.
    """
    ordered = sorted(exam.rows, key=lambda row: len(render_prompt([exam.suite.first_turn(row)])))
    found: list[tuple[Row, ...]] = []
    for temperature in sorted({row.temperature for row in ordered}):
        alike = [row for row in ordered if row.temperature == temperature]
        found += [tuple(alike[i : i + size]) for i in range(0, len(alike), size)]
    return found


def batch_key(batch: Batch, max_new_tokens: int, seed: int = 0) -> str:
    """Answers are reused exactly where model, questions, circumstances and batch mates are the same."""
    contestant = batch.contestant
    return sha256_of(
        {
            "model": contestant.sha256,
            "suite": batch.suite.name,
            "decoding": decoding(batch.suite, max_new_tokens, batch.rows[0].temperature, seed),
            "inputs": [input_sha256(batch.suite, row, contestant.conditioning) for row in batch.rows],
            "ids": [row.id for row in batch.rows],
        }
    )


def decoding(suite: Suite, max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> dict[str, object]:
    """How answers are made; goes into every Item. The seed is of draws, so greedy answers have none."""
    if suite.chooses:
        return {"method": "likelihood"}
    made: dict[str, object] = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    return made | ({"seed": seed} if temperature else {})
