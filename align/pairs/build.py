"""All training sets from a file of ratings, and the account of where every prompt went.

    align pairs runs/demo/annotate/annotated.jsonl out/
    align pairs helpsteer.jsonl out/ --workers 8

    out/preference.jsonl  steerlm.jsonl  rejection.jsonl  failures.jsonl  conditioning.json  funnel.json  card.md

The file is cut into parts; each is read, checked, built and written in one go (`parts.py`), by as many processes as
there are processors, and what they wrote is put together in the order of the parts: the same bytes whatever the number
of processes. Rows of formats with one completion a row are brought together by prompt first, on disk
(`align/formats/grouping.py`). Memory holds one part a process, however long the file.

Everything wrong with the file is told at once, and then nothing is written.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from align.formats import format_named
from align.formats.containers import Progress, container_of, placed_at
from align.formats.grouping import buckets_for
from align.formats.reading import format_of
from align.pairs.account import Account
from align.pairs.card import dataset_card
from align.pairs.lengths import Gaps
from align.pairs.parts import Built, Job, Part, build_part, deal_part, gaps_of_part
from align.pairs.score import check_settings
from align.pairs.sets import SETS
from align.pairs.steerlm import conditioning
from align.scratch import scratch
from align.settings import Pairs
from align.workers import InOrder, crew, processors, stopped_once, unstoppable
from annotate.errors import UserError
from annotate.records import Rubric, replace
from annotate.rubric import followed, load_rubric

T = TypeVar("T")
FILES = (*(f"{name}.jsonl" for name in SETS), "failures.jsonl", "conditioning.json", "card.md", "funnel.json")
"""In the order in which they are put in place: the last one says that all are there."""
PART_BYTES = 8 << 20
WORTH_WORKERS = 32 << 20
"""Bytes from which on several processes are started unasked."""


def build_files(
    ratings: Path,
    outdir: Path,
    settings: Pairs,
    seed: int,
    *,
    rubric: str | None = None,
    form: str = "auto",
    image_root: Path | None = None,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
    context: BaseContext | None = None,
    part_bytes: int = PART_BYTES,
) -> dict[str, Any]:
    """From a file of ratings, in any format that holds some, to the files above; returns the funnel.

    All files are written, or none. conditioning.json needs to know the highest scores: from `rubric` (name or path), or
    from the shipped rubric that the annotations say they followed; else it is left out. Images are opened and hashed
    only with an `image_root`. `workers`: processes; by default one per processor if the file is worth it. `context`:
    how they are started. `part_bytes`: how finely the file is cut; nothing that is written depends on it.
    `KeyboardInterrupt` says what there is.
    """
    check_settings(settings)
    given = load_rubric(rubric)[0] if rubric else None
    target = _target(outdir)
    size, lines, form = _looked_at(ratings, form)
    if workers is None:
        workers = processors() if size >= WORTH_WORKERS else 1
    written = False
    try:
        near = next(folder for folder in (target, *target.parents) if folder.exists())
        with stopped_once(), scratch(near, f".{target.name}.pairs-", target.parent) as workspace:
            job = Job(
                path=ratings, lines=lines, form=form, settings=settings, seed=seed, rubric=given, image_root=image_root,
                image_folder=workspace / "images", workspace=workspace, in_parts=workers > 1,
            )  # fmt: skip
            with crew(workers, context=context) as work:
                made = _build(job, size, part_bytes, work, progress)
            funnel = _write_summaries(made, job)
            with unstoppable():
                _move(workspace, target)
                written = True
            return funnel
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"all is written to {outdir}" if written else "nothing was written") from None
    except OSError as error:
        raise UserError(f"{outdir}: cannot be written ({error.strerror})") from None


def _looked_at(path: Path, form: str) -> tuple[int, bool, str]:
    """Size of the file, whether it can be cut into parts, and the name of its format."""
    lines = container_of(path) == "jsonl"
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    return size, lines and not zipped, format_of(path, form, kind="annotated").name


def _target(outdir: Path) -> Path:
    """The folder that is meant, links followed."""
    try:
        target = outdir.resolve()
        a_file = target.exists() and not target.is_dir()
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "is a link to itself"
        raise UserError(f"{outdir}: cannot be written ({why})") from None
    if a_file:
        raise UserError(f"{outdir}: is a file; give a folder to write to")
    if target == target.parent:
        raise UserError(f"{outdir}: is the root of all files; give a folder to write to")
    return target


def _move(workspace: Path, outdir: Path) -> None:
    """What was made, to where it is wanted; what an earlier run made and this one did not goes."""
    for image in (workspace / "images").glob("*"):
        (outdir / "images").mkdir(parents=True, exist_ok=True)
        shutil.move(image, outdir / "images" / image.name)  # which may lie elsewhere by a link
    outdir.mkdir(parents=True, exist_ok=True)
    (outdir / FILES[-1]).unlink(missing_ok=True)  # were we killed now, no one would take old and new for a whole
    for name in FILES:
        if (workspace / name).exists():
            (workspace / name).replace(outdir / name)
        else:
            (outdir / name).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- parts and the whole


@dataclass
class _Whole:
    """What the parts add up to."""

    settings: Pairs
    account: Account
    rubrics: set[tuple[str, str]] = field(default_factory=set)
    ids: array[int] = field(default_factory=lambda: array("Q"))
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    faults: list[tuple[int, str]] = field(default_factory=list)

    def add(self, built: Built, before: int) -> None:
        """`before`: rows of the file before those that the part counts from 1."""
        self.faults += [(before + number, text) for number, text in built.faults]
        self.rubrics |= built.rubrics
        self.ids += built.ids
        self.numbers.extend([before + number for number in built.numbers] if before else built.numbers)
        if built.account is not None:
            self.account.update(built.account)


def _build(job: Job, size: int, part_bytes: int, work: InOrder, progress: Progress) -> _Whole:
    cut = [Part(i, at, at + part_bytes) for i, at in enumerate(range(0, size, part_bytes))]
    parts = cut if job.lines else [Part(0)]
    flat = format_named(job.form).read_group is not None
    passes = 1 + flat + (job.settings.length_gap == "balance")
    done = _Steps(size, passes, progress)
    faults: list[tuple[int, str]] = []
    if flat:
        job = replace(job, buckets=buckets_for(size, part_bytes))
        job, faults = _dealt(job, parts, work, done)
        parts = [Part(bucket) for bucket in range(job.buckets)]
    if job.settings.length_gap == "balance":
        job = replace(job, settings=_balanced(job, parts, work, done))
    whole = _Whole(job.settings, Account(job.settings), faults=faults)
    before = 0
    for part, built in zip(parts, done(work(partial(build_part, job), parts), len(parts)), strict=True):
        whole.add(built, 0 if flat else before)
        before += built.rows
        if job.in_parts:
            _append(job, part)
    whole.faults += _twice(whole.ids, whole.numbers)
    if whole.faults:
        container = container_of(job.path)
        raise UserError(*(f"{placed_at(job.path, container, number)}: {text}" for number, text in sorted(whole.faults)))
    return whole


class _Steps:
    """Tells how far all passes over all parts are, in bytes."""

    def __init__(self, size: int, passes: int, progress: Progress) -> None:
        self.size, self.total, self.progress = size, size * passes, progress
        self.before = 0

    def __call__(self, results: Iterator[T], n: int) -> Iterator[T]:
        for i, result in enumerate(results, start=1):
            yield result
            self.progress(self.before + self.size * i // n, self.total)
        self.before += self.size


def _dealt(job: Job, parts: Sequence[Part], work: InOrder, done: _Steps) -> tuple[Job, list[tuple[int, str]]]:
    """Pass 1 of a flat format."""
    first_numbers, faults = [0], list[tuple[int, str]]()
    for built in done(work(partial(deal_part, job), parts), len(parts)):
        faults += [(first_numbers[-1] + number, text) for number, text in built.faults]
        first_numbers.append(first_numbers[-1] + built.rows)
    return replace(job, first_numbers=tuple(first_numbers)), faults


def _balanced(job: Job, parts: Sequence[Part], work: InOrder, done: _Steps) -> Pairs:
    """A pass to find the bounds at which both sides are as long; see `lengths.py`."""
    loose = replace(job, settings=replace(job.settings, length_gap=None))
    found = Gaps()
    for gaps in done(work(partial(gaps_of_part, loose), parts), len(parts)):
        found.count.update(gaps.count)
    return replace(job.settings, length_gap=found.bounds()) if found.count else loose.settings


def _append(job: Job, part: Part) -> None:
    """What a part wrote, to the end of what the parts before it did."""
    for name in (*job.settings.sets, "failures"):
        written = job.output(name, part.place)
        if written.stat().st_size:
            with written.open("rb") as source, (job.workspace / f"{name}.jsonl").open("ab") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        written.unlink()


def _twice(ids: array[int], numbers: array[int]) -> Iterator[tuple[int, str]]:
    """The prompts that are there more than once: (number, what is wrong). Sorted in shares, so that memory is flat."""
    shares = [array("Q") for _ in range(256)]
    for id in ids:
        shares[id >> 56].append(id)
    twice: set[int] = set()
    for share in shares:
        in_order = sorted(share)
        twice.update(one for one, other in pairwise(in_order) if one == other)
    first: dict[int, int] = {}
    for id, number in zip(ids, numbers, strict=True) if twice else ():
        if id in twice and first.setdefault(id, number) != number:
            yield number, f"prompt {id:016x} is there twice, first in row {first[id]}; merge its annotations"


# ------------------------------------------------------------------------------------------------------- the summaries


def _write_summaries(made: _Whole, job: Job) -> dict[str, Any]:
    if len(made.rubrics) > 1:
        names = ", ".join(f"{name} ({sha256[:8]})" for name, sha256 in sorted(made.rubrics))
        raise UserError(
            f"{job.path}: annotated by {len(made.rubrics)} rubrics ({names}), whose scores are not comparable"
        )
    made.account.require_pairs()
    funnel = made.account.to_json()
    _write_json(job.workspace / "funnel.json", funnel)
    (job.workspace / "card.md").write_text(dataset_card(funnel, made.settings), encoding="utf-8")
    used = job.rubric or next((followed(*rubric) for rubric in made.rubrics), None)
    if used is not None:
        _write_json(job.workspace / "conditioning.json", conditioning_json(used, made.settings))
    return funnel


def conditioning_json(rubric: Rubric, settings: Pairs) -> dict[str, Any]:
    """What is appended to prompts when the SteerLM model answers: the highest value of every attribute."""
    highest = {name: scale.high for name, scale in rubric.attributes.items()}
    return {"text": conditioning(highest, settings), "attributes": highest, "rubric": rubric.name}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
