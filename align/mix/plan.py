"""A mix as it is asked for: a YAML file, checked whole; and how many rows each data set gives.

    name: mlan-v
    budget: 80000
    vision_percent: 12.5
    sources:
      - {file: data/prompts/squad.jsonl, task: question_answering, dataset: squad, modality: text}
      - {file: data/prompts/vqav2.jsonl, task: question_answering, dataset: vqav2, modality: vision}

    quotas(load_mix(path))  ->  {Pool("text", "question_answering", "squad"): 70000, Pool("vision", …): 10000}

Every step of the division (rows to modalities, to tasks, to data sets) gives each part as much or more when there is
more to divide. So the rows of a smaller budget are among those of a larger one, whatever the ratio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from align.recipe_reader import Faults, read_block
from align.settings import option
from align.templates import Templates
from align.yaml_lines import parse_value, read_yaml
from annotate.errors import UserError

MODALITIES: tuple[Literal["text", "vision"], ...] = ("text", "vision")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of rows: prompt records with a reference (`data/prepare_*.py`), or examples."""

    file: str = option("", "JSONL of prompt records that have an answer, or of examples")
    task: str = option("", "what kind of task it is; budgets are divided among tasks first")
    dataset: str = option("", "its name; several files of one name, task and modality are one data set")
    modality: Literal["text", "vision"] = option(
        "text", "rows without images, or with; others of the file are left out"
    )
    answers: Literal["auto", "multiple_choice", "short_answer", "true_false", "as_is"] = option(
        "auto", "the type of its answers, which templates go by (auto: each row's `meta.task`)"
    )


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What `align mix` is asked for."""

    name: str = option("", "for the manifest; the file's name where left out")
    seed: int = option(0, "of every draw", low=0, high=2**32 - 1)
    budget: int = option(80_000, "rows of the mix", low=1)
    vision_percent: float = option(0.0, "of the rows, those with images", low=0, high=100)
    divide: Literal["tasks", "datasets"] = option(
        "tasks", "a modality's rows go in equal parts to its tasks and then to their data sets, or to its data sets"
    )
    short: Literal["fill", "evenly", "error"] = option(
        "fill",
        "a data set with too few rows: every row once and the rest drawn again with replacement, as MLAN (Appendix A) "
        "fills up; or no row twice before each was there once; or an error",
    )
    templates: Templates = field(default_factory=Templates, metadata={"help": "instructions and targets"})
    sources: tuple[Source, ...] = option((), "the data sets")


class Pool(NamedTuple):
    """The rows that a part of the budget is drawn from."""

    modality: str
    task: str
    dataset: str


def load_mix(path: Path, overrides: Sequence[str] = ()) -> Mix:
    """Read and check a mix, with `key=value` overrides on top. Raises `UserError` with every fault."""
    document = read_yaml(path)
    faults = Faults(str(path), document.lines)
    for line, key, what in document.faults:
        faults.add_at(line, key, what)
    values = document.values
    for override in overrides:
        _override(values, override, faults)
    mix = Mix(**{"name": path.stem, **read_block(Mix, values, "", faults)})
    _check(mix, faults)
    if faults.texts:
        raise UserError(*faults.texts)
    return mix


def _override(values: dict[str, Any], override: str, faults: Faults) -> None:
    key, equals, text = override.partition("=")
    faults.mark_override(key)
    outer, _, inner = key.rpartition(".")
    if not equals or outer not in ("", "templates"):
        faults.add(key, f"write key=value, e.g. budget=20000 or templates.choice=letter; got {override!r}")
        return
    try:
        block = values.setdefault(outer, {}) if outer else values
        block[inner] = parse_value(text)
    except ValueError as error:
        faults.add(key, str(error))
    except TypeError:  # `templates: 3`, which is a fault of its own
        faults.add(key, f"`{outer}` is no block in the file")


def _check(mix: Mix, faults: Faults) -> None:
    """What makes no sense beyond types and ranges."""
    if not mix.sources and not faults.has("sources"):
        faults.add("sources", "a mix is made of data sets: [{file: ..., task: ..., dataset: ..., modality: text}]")
    seen: dict[tuple[Pool, str], int] = {}
    for i, source in enumerate(mix.sources):
        line = min((at for key, at in faults.lines.items() if key.startswith(f"sources.{i}.")), default=None)
        for key in ("file", "task", "dataset"):
            if not getattr(source, key).strip() and not faults.has(f"sources.{i}.{key}"):
                faults.add_at(line, f"sources.{i}.{key}", "is missing; a source has file, task, dataset and modality")
        if source.file and modality_rows(mix)[source.modality]:  # others are not read, and need not be there
            if not Path(source.file).is_file():
                faults.add(f"sources.{i}.file", f"{source.file}: no such file; data/prepare_*.py make them")
            elif not source.file.endswith(".jsonl"):
                faults.add(f"sources.{i}.file", f"{source.file}: is no .jsonl; `align convert` makes one")
        if seen.setdefault((pool_of(source), source.file), i) != i:
            faults.add_at(
                line, f"sources.{i}", f"stands twice, first as source {seen[pool_of(source), source.file] + 1}"
            )
    if mix.sources and not faults.texts:
        there = {source.modality for source in mix.sources}
        for modality, n in modality_rows(mix).items():
            if n and modality not in there:
                faults.add(
                    "vision_percent", f"{n:,} rows of {modality} are wanted, and no source has modality {modality}"
                )


def pool_of(source: Source) -> Pool:
    return Pool(source.modality, source.task, source.dataset)


# ------------------------------------------------------------------------------------------------------- the division


def modality_rows(mix: Mix) -> Mapping[str, int]:
    """Rows without and with images: the exact percentage, a half rounded up to vision."""
    share = Fraction(repr(mix.vision_percent)) / 100
    vision = int(mix.budget * share + Fraction(1, 2))
    return {"text": mix.budget - vision, "vision": vision}


def quotas(mix: Mix) -> dict[Pool, int]:
    """Rows of each data set; they sum up to the budget. Which parts get the odd rows is drawn by the seed."""
    pools = sorted({pool_of(source) for source in mix.sources})
    found: dict[Pool, int] = {}
    for modality, n in modality_rows(mix).items():
        here = [pool for pool in pools if pool.modality == modality]
        if mix.divide == "datasets":
            found |= _equal(n, here, mix.seed)
            continue
        for task, rows in _equal(n, sorted({pool.task for pool in here}), mix.seed).items():
            found |= _equal(rows, [pool for pool in here if pool.task == task], mix.seed)
    return found


def _equal(n: int, parts: Sequence[Any], seed: int) -> dict[Any, int]:
    """Equal parts; the first of them, in an order drawn by the seed, have one more where it does not come out even."""
    order = sorted(parts, key=lambda part: hashlib.sha256(repr((seed, part)).encode()).digest())
    return {part: n // len(order) + (place < n % len(order)) for place, part in enumerate(order)}
