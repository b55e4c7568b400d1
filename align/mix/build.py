"""From the files of a mix to its rows: read once to draw, and once more, only where the drawn rows stand, to write.

In: the sources of a `Mix`. Out: `examples.jsonl`, one `Example` a line in an order drawn by the seed, and `mix.json`,
which says what each data set gave, which rows came more than once, what was left out and why.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from align.digest import file_sha256
from align.doctor.sets import Gallery, entry_of
from align.mix.draw import Drawn, Place, Urn, number_of
from align.mix.hygiene import Exam
from align.mix.plan import Mix, Pool, Source, pool_of, quotas
from align.scratch import scratch
from align.templates import answer_type, as_instruction, check_row
from align.workers import stopped_once, unstoppable
from annotate.errors import RecordError, UserError
from annotate.jsonl import write_text
from annotate.records import Example, Prompt, content_id

EXAMPLES, MANIFEST = "examples.jsonl", "mix.json"
Progress = Callable[[int, int], None]
KINDS: Mapping[str, type[Prompt] | type[Example]] = {kind.SCHEMA: kind for kind in (Prompt, Example)}


@dataclass
class Account:
    """What a data set gave: `drawn` + `repeats` = `quota`."""

    quota: int
    read: int = 0
    other_modality: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that were drawn but cannot be used, by reason; others were drawn for them."""
    copies: int = 0
    """Rows that ask and answer the same as a drawn one."""
    drawn: int = 0
    """Different rows in the mix."""
    repeats: int = 0
    """Rows of the mix that were there before."""
    most_often: int = 0
    with_rationale: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"left_out": dict(sorted(self.left_out.items()))}


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is to be written: rows in their order."""

    mix: Mix
    rows: Sequence[Drawn]
    accounts: Mapping[Pool, Account]


# ---------------------------------------------------------------------------------------------------------- first time


_MOST_FAULTS = 1000
"""A file with more of them is another kind of file."""


def _quiet(done: int, total: int) -> None:
    """No progress is shown."""


def draw_mix(
    mix: Mix,
    *,
    exams: Sequence[Exam] = (),
    gallery: Gallery | None = None,
    progress: Progress = _quiet,
) -> Draw:
    """Read every source and draw. With `exams`, rows that ask what they ask are left out.

    Raises `UserError` with all rows that are no records, and for a data set that has nothing to draw.
    """
    accounts = {pool: Account(quota) for pool, quota in quotas(mix).items()}
    urns = {pool: Urn(account.quota) for pool, account in accounts.items()}
    used = [(number, source) for number, source in enumerate(mix.sources) if accounts[pool_of(source)].quota]
    total = sum(Path(source.file).stat().st_size for _, source in used)
    faults: list[str] = []
    done = 0
    for number, source in used:
        pool = pool_of(source)
        reader = _Reader(mix, source, number, accounts[pool], exams, gallery)
        for at, start, line in _lines(Path(source.file)):
            if at % 1000 == 0:
                progress(done + start, total)
            try:
                reader.offer(line, start, urns[pool])
            except RecordError as error:
                faults.append(f"{source.file}:{at}: {error}")
                if len(faults) >= _MOST_FAULTS:
                    raise UserError(*faults) from None
        done += Path(source.file).stat().st_size
    if faults:
        raise UserError(*faults)
    rows = [row for pool, urn in urns.items() for row in _drawn(mix, pool, urn, accounts[pool])]
    rows.sort(key=lambda row: (number_of(mix.seed, "order", row.number, row.copy), row.place))
    assert len(rows) == mix.budget
    return Draw(mix=mix, rows=rows, accounts=accounts)


class _Reader:
    """Looks at the rows of one source, one after the other."""

    def __init__(
        self, mix: Mix, source: Source, number: int, account: Account, exams: Sequence[Exam], gallery: Gallery | None
    ) -> None:
        self.mix, self.source, self.number, self.account, self.exams = mix, source, number, account, exams
        self.gallery = gallery or Gallery(None)

    def offer(self, line: bytes, start: int, urn: Urn) -> None:
        """Count a row and, if it can be drawn, offer it. Raises `RecordError` for what is no record."""
        record = record_of(line)
        self.account.read += 1
        prompt = record if isinstance(record, Prompt) else record.prompt
        if bool(prompt.images) != (self.source.modality == "vision"):
            self.account.other_modality += 1
            return
        answer = (record.reference or "") if isinstance(record, Prompt) else record.completion
        number = number_of(self.mix.seed, self.source.dataset, prompt.id, answer)
        urn.offer(number, line, Place(self.number, start, len(line)), lambda: self._why_not(record))

    def _why_not(self, record: Prompt | Example) -> str:
        try:
            if isinstance(record, Prompt):
                check_row(record, answer_type(record, self.source.answers), self.mix.templates)
            elif not record.completion.strip():
                raise RecordError("its completion is empty")
        except RecordError as error:
            return f"unusable: {error}"[:120]
        if not self.exams:
            return ""
        entry = entry_of(record, self.gallery)
        return next((f"asked by {exam.name}" for exam in self.exams if exam.asks(entry)), "")


def record_of(line: bytes) -> Prompt | Example:
    """A line as what it says it is. Raises `RecordError`."""
    kind = next((kind for head, kind in _HEADS if line.startswith(head)), None) or _kind_of(line)
    try:
        return kind.from_line(line)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not a line of JSON ({error})") from None


_HEADS = [
    (b'{"schema":%b"%b"' % (space, schema.encode()), kind) for schema, kind in KINDS.items() for space in (b"", b" ")
]
"""How lines begin, as we write them and as `json.dumps` does."""


class _Schema(msgspec.Struct):
    schema: str = ""


def _kind_of(line: bytes) -> type[Prompt] | type[Example]:
    try:
        schema = msgspec.json.decode(line, type=_Schema).schema
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"not a record ({error})") from None
    if schema not in KINDS:
        raise RecordError(
            f"schema {schema!r} is none of {', '.join(KINDS)}; data/prepare_*.py and `align convert` make such files"
        )
    return KINDS[schema]


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Each line that is not blank: its number from 1, where it starts, its bytes."""
    start = 0
    try:
        with path.open("rb", buffering=1 << 20) as stream:
            for number, line in enumerate(stream, start=1):
                at, start = start, start + len(line)
                if number == 1 and line.startswith(_BOM):
                    at, line = at + len(_BOM), line.removeprefix(_BOM)
                if line.strip():
                    yield number, at, line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None


_BOM = b"\xef\xbb\xbf"


def _drawn(mix: Mix, pool: Pool, urn: Urn, account: Account) -> list[Drawn]:
    """The rows of one data set, and its account of them."""
    rows = list(urn.draw(mix.short, mix.seed, pool.dataset))
    account.drawn, account.copies, account.left_out = urn.n_rows, urn.n_copies, urn.refused
    account.repeats = len(rows) - account.drawn
    account.most_often = max((row.copy + 1 for row in rows), default=0)
    if len(rows) == account.quota:
        return rows
    what = (
        f"{pool.dataset} ({pool.modality}, {pool.task}): {account.quota:,} rows are wanted, there are {account.drawn:,}"
    )
    read = f"of {account.read:,} read, {account.other_modality:,} of the other modality"
    why = "".join(f"; {n:,} left out, {reason}" for reason, n in account.left_out.most_common(3))
    remedy = "" if mix.short == "error" and rows else "; nothing can be drawn again"
    raise UserError(f"{what} ({read}{why}){remedy or '; `short: fill` draws rows again'}")


# ---------------------------------------------------------------------------------------------------------- and again


def rendered(record: Prompt | Example, source: Source, mix: Mix, copy: int) -> Example:
    """A row as it stands in the mix."""
    meta: dict[str, Any] = {"dataset": source.dataset, "task": source.task, "modality": source.modality}
    meta |= {"copy": copy} if copy else {}
    if isinstance(record, Example):
        prompt, target = record.prompt, record.completion
    else:
        kind = answer_type(record, source.answers)
        made = as_instruction(record, kind, mix.templates, seed=mix.seed, copy=copy)
        prompt, target = made.prompt, made.target
        meta |= {"row": record.id}
        if made.type is not None:
            meta |= {"type": made.type, "answer": made.answer, "instruction": made.instruction}
            meta |= {"direct_answer": made.direct_answer, "rationale": made.rationale}
        if made.type == "multiple_choice":
            meta |= {"choices": list(record.meta["choices"]), "answer_index": record.meta["answer_index"]}
    # Rows that are there twice have ids of their own, as everything that is told of a row is told by its id.
    made_id = content_id([prompt.id, target, "instruct", *([copy] if copy else [])])
    return Example(id=made_id, prompt=prompt, completion=target, source="instruct", meta=meta)


def write_mix(
    draw: Draw, out: Path, *, exams: Sequence[Exam] = (), gallery: Gallery | None = None, left_out: bool = False,
    progress: Progress = _quiet,
) -> dict[str, Any]:  # fmt: skip
    """Write the rows and the manifest into the folder `out`, both or neither; returns the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with stopped_once(), scratch(out, ".mix-") as folder:
            sha256 = _write_rows(draw, folder / EXAMPLES, exams, gallery or Gallery(None), progress)
            manifest = _manifest(draw, sha256, exams, left_out)
            write_text(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
            with unstoppable():
                (out / MANIFEST).unlink(missing_ok=True)  # of an earlier mix: it must never stand beside other rows
                for name in (EXAMPLES, MANIFEST):
                    (folder / name).replace(out / name)
    finally:
        with suppress(OSError):
            out.rmdir()  # if nothing came of it
    return manifest


def _write_rows(draw: Draw, path: Path, exams: Sequence[Exam], gallery: Gallery, progress: Progress) -> str:
    """Each row is read where it stands: the sources stay in their files. Returns the sha256 of what is written."""
    sha256 = hashlib.sha256()
    sources = draw.mix.sources
    with ExitStack() as files, path.open("wb", buffering=1 << 20) as stream:
        used = {row.place.source for row in draw.rows}
        handles = {i: files.enter_context(Path(sources[i].file).open("rb")).fileno() for i in used}
        for n, (_, place, copy) in enumerate(draw.rows):
            source = sources[place.source]
            record = record_of(os.pread(handles[place.source], place.length, place.start))
            example = rendered(record, source, draw.mix, copy)
            draw.accounts[pool_of(source)].with_rationale += bool(example.meta.get("rationale"))
            line = example.to_line()
            sha256.update(line)
            stream.write(line)
            if exams and not copy:
                entry = entry_of(record, gallery)
                for exam in exams:
                    exam.overlap.add(entry)
            if n % 1000 == 0:
                progress(n, len(draw.rows))
        stream.flush()
        os.fsync(stream.fileno())
    return sha256.hexdigest()


def _manifest(draw: Draw, sha256: str, exams: Sequence[Exam], left_out: bool) -> dict[str, Any]:
    mix = draw.mix
    return {
        "schema": "mix/1",
        **{key: value for key, value in asdict(mix).items() if key != "sources"},
        "counts": counts(draw),
        "inputs": [
            asdict(source) | {"sha256": file_sha256(Path(source.file))}
            for source in mix.sources
            if draw.accounts[pool_of(source)].quota
        ],
        "output": {"file": EXAMPLES, "rows": len(draw.rows), "sha256": sha256},
        "against": [
            {"file": exam.file.name, "sha256": file_sha256(exam.file), "left_out": left_out, **exam.overlap.result()}
            for exam in exams
        ],
        "mmalign": version("mmalign"),
    }


def counts(draw: Draw) -> dict[str, Any]:
    """Rows by modality, task and data set, and each data set's account."""
    by: dict[str, Counter[str]] = {"modality": Counter(), "task": Counter(), "dataset": Counter()}
    for pool, account in draw.accounts.items():
        for name, value in zip(by, pool, strict=True):
            by[name][value] += account.drawn + account.repeats
    return {
        "rows": len(draw.rows),
        **{f"by_{name}": dict(sorted(counter.items())) for name, counter in by.items()},
        "repeats": sum(account.repeats for account in draw.accounts.values()),
        "datasets": [pool._asdict() | account.as_json() for pool, account in draw.accounts.items()],
    }
