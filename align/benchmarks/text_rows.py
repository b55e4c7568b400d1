"""The rows of text benchmarks, from local files or the hub, checked whole before any work.

    evaluate: {text: {tasks: [ethics, truthfulqa_mc1, mmlu, gsm8k], folder: data/text}}

reads `data/text/ethics_cm.jsonl`, ... (or `.parquet`), each in the columns of its data set on the hub, and the examples
of few-shot tasks from `gsm8k.shots.jsonl` (the train split; of MMLU the dev split). Without `folder` all of it comes
from the hub. Neither torch nor lm-eval is imported here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from align.benchmarks.measures import Measure, average, mean, within
from align.benchmarks.text_tasks import GROUPS, TASKS, Hub, Row, TextTask
from align.settings import Text
from annotate.errors import UserError
from annotate.jsonl import read_rows
from annotate.records import sha256_of

Ask = Literal["likelihood", "templates", "phrase"]
MACRO = "macro"
"""The mean of the parts of a suite, each weighing alike."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One question of a text benchmark."""

    id: str
    """Hash of the row, so that models are joined on what was asked, whatever the file's order."""
    sha256: str
    cluster: str
    category: str
    """The part of its suite: `cm` of Ethics, `anatomy` of MMLU."""
    row: Row
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One task of lm-eval with its questions: a suite of its own, or a part of one (Ethics, MMLU)."""

    name: str
    """As lm-eval calls it: ethics_cm, mmlu_anatomy."""
    task: str
    """As the recipe calls it: ethics_cm, mmlu."""
    ask: Ask
    spec: TextTask
    yaml: str
    documents: tuple[Document, ...]
    shots: int
    examples: tuple[Row, ...]
    """What examples are drawn from; empty without shots."""


@dataclass(frozen=True, kw_only=True)
class TextSuite:
    """One column of the table."""

    name: str
    parts: tuple[Part, ...]

    @property
    def spec(self) -> TextTask:
        return self.parts[0].spec

    @property
    def documents(self) -> tuple[Document, ...]:
        return tuple(d for part in self.parts for d in part.documents)

    @property
    def headline(self) -> str:
        return headline_of(self.name)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What comes out."""
        keys = self.spec.measures if self.parts[0].ask == "likelihood" else ("acc",)
        return measures_of(self.name, [document.category for document in self.documents], keys)


def headline_of(suite: str) -> str:
    """Of a group the mean of its parts; of MMLU that of its questions, as its authors and lm-eval have it."""
    return MACRO if suite in GROUPS else TASKS[suite].headline


def measures_of(suite: str, categories: Iterable[str], keys: Iterable[str]) -> tuple[Measure, ...]:
    """What comes out of a suite whose items hold these values; of a suite of parts both means and each part."""
    if suite not in GROUPS and suite != "mmlu":
        return tuple(mean(name) for name in keys)
    each = [within(mean("acc"), category, category) for category in dict.fromkeys(categories)]
    macro, micro = average(MACRO, each), mean("acc")
    return (macro, micro, *each) if headline_of(suite) == MACRO else (micro, macro, *each)


def load_text(settings: Text) -> tuple[TextSuite, ...]:
    """All questions and examples, checked whole. Raises `UserError` with every fault found."""
    faults: list[str] = []
    suites = []
    for name in settings.tasks:
        parts: list[Part] = []
        for task in GROUPS.get(name, (name,)):
            try:
                parts += _parts(task, settings)
            except UserError as error:
                faults += error.faults
        suites.append(TextSuite(name=name, parts=tuple(parts)))
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return tuple(suites)


def text_files(settings: Text) -> list[Path]:
    """The local files these tasks are read from, for hashing; nothing where they come from the hub."""
    tasks = [task for name in settings.tasks for task in GROUPS.get(name, (name,))]
    if not settings.folder:
        return []
    asked = [_file(settings, task) for task in tasks]
    return asked + [_file(settings, f"{task}.shots") for task in tasks if shots_of(task, settings)]


def shots_of(task: str, settings: Text) -> int:
    """How many examples stand before each question; a group's number goes for its parts."""
    if settings.ask != "likelihood":
        return 0
    group = next((name for name, parts in GROUPS.items() if task in parts and name in settings.shots), task)
    return settings.shots.get(task, settings.shots.get(group, TASKS[task].shots))


def _parts(task: str, settings: Text) -> Iterator[Part]:
    spec, shots = TASKS[task], shots_of(task, settings)
    rows = _rows(task, settings, examples=False)
    examples = _rows(task, settings, examples=True) if shots else ()
    if task == "race" and settings.race == "alone":
        rows = [{**row, "problems": repr(ast.literal_eval(row["problems"])[-1:])} for row in rows]
    by_subject = {"": rows}
    if task == "mmlu":
        by_subject = {s: [row for row in rows if row["subject"] == s] for s in sorted({r["subject"] for r in rows})}
    for subject, mine in by_subject.items():
        shown = tuple(e for e in examples if not subject or e["subject"] == subject)
        if len(shown) < shots:
            of = f" of {subject}" if subject else ""
            raise UserError(
                f"{_where(task, settings, examples=True)}: {len(shown)} example(s){of} for {shots} shots; bring more, "
                f"or set evaluate.text.shots: {{{task}: {len(shown)}}}"
            )
        yield Part(
            name=f"{task}_{subject}" if subject else task,
            task=task,
            ask=settings.ask,
            spec=spec,
            yaml=spec.yaml.format(subject=subject),
            documents=tuple(_documents(mine, spec, subject or task.partition("_")[2])),
            shots=shots,
            examples=shown,
        )


def _documents(rows: Sequence[Row], spec: TextTask, category: str) -> Iterator[Document]:
    seen: dict[str, int] = {}
    for row in rows:
        sha256 = sha256_of(row)
        seen[sha256] = seen.get(sha256, 0) + 1
        again = f"-{seen[sha256]}" if seen[sha256] > 1 else ""
        cluster = sha256_of([row[name] for name in spec.cluster]) if spec.cluster else sha256
        yield Document(id=f"{sha256[:16]}{again}", sha256=sha256, cluster=cluster, category=category, row=row)


def _rows(task: str, settings: Text, *, examples: bool) -> list[Row]:
    spec = TASKS[task]
    where = _where(task, settings, examples=examples)
    numbered = _local(_file(settings, f"{task}{'.shots' * examples}")) if settings.folder else _hub(spec.hub, examples)
    faults: list[str] = []
    rows: list[Row] = []
    for number, row in numbered:
        fault = _type_fault(row, spec.columns) or spec.fault(row)
        if fault:
            faults.append(f"{where}:{number}: {fault}")
        rows.append(row)
        if settings.limit and len(rows) == settings.limit and not examples and task != "mmlu":
            break
    if not rows:
        faults.append(f"{where}: no rows in it")
    if faults:
        raise UserError(*faults)
    if task == "mmlu" and settings.limit and not examples:  # so many of each subject, as lm-eval's limit has it
        subjects = dict.fromkeys(row["subject"] for row in rows)
        rows = [row for s in subjects for row in [r for r in rows if r["subject"] == s][: settings.limit]]
    return rows


def _where(task: str, settings: Text, *, examples: bool) -> str:
    if settings.folder:
        return str(_file(settings, f"{task}{'.shots' * examples}"))
    hub = TASKS[task].hub
    return f"{hub.path} ({hub.shots if examples else hub.split})"


def _file(settings: Text, stem: str) -> Path:
    parquet = Path(settings.folder) / f"{stem}.parquet"
    return parquet if parquet.is_file() else parquet.with_suffix(".jsonl")


def _local(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file (nor .parquet); evaluate.text.folder must hold one per task, in the columns of the "
            "hub's data set, and <task>.shots.jsonl where examples are shown; leave `folder` out to take the hub's"
        )
    if path.suffix == ".jsonl":
        yield from read_rows(path)
        return
    if find_spec("pyarrow") is None:
        raise UserError(f"{path}: reading parquet needs pyarrow; pip install 'mmalign[formats]'")
    import pyarrow
    from pyarrow import parquet

    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from None


def _hub(hub: Hub, examples: bool) -> Iterator[tuple[int, Any]]:
    split = hub.shots if examples else hub.split
    if split is None:
        raise UserError(f"{hub.path}: has no split to take examples from; set its shots to 0")
    if find_spec("datasets") is None:
        raise UserError(f"{hub.path}: reading from the hub needs datasets; pip install 'mmalign[formats]'")
    from datasets import load_dataset

    try:
        found = load_dataset(hub.path, hub.name, split=split)
    except (OSError, ValueError) as error:  # no network, no such data set: its errors are all of these kinds
        raise UserError(
            f"{hub.path}: cannot be had from the hub ({str(error).splitlines()[0]}); with the files at hand set "
            "evaluate.text.folder"
        ) from None
    yield from enumerate(found, start=1)


def _type_fault(row: Any, columns: Mapping[str, Any]) -> str:
    """Which column is missing or of another kind, or nothing."""
    if not isinstance(row, dict):
        return f"expected an object with {', '.join(columns)}"
    for name, kind in columns.items():
        if name not in row:
            return f"no column {name!r}; it needs {', '.join(columns)}"
        value, of = row[name], get_args(kind)
        if not isinstance(value, get_origin(kind) or kind) or isinstance(value, bool):
            return f"{name}: expected {_NAMES[get_origin(kind) or kind]}, got {type(value).__name__} {value!r:.40}"
        if of and not all(isinstance(item, of[0]) for item in value):
            return f"{name}: expected a list of texts"
    return ""


_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
