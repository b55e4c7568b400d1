"""A finished evaluation as the analyses read it: a run's folder, or the recipe that made it.

    run = read_run("runs/demo")
    run.models                              ("backbone", "vlm", "sft", …)
    run.outcomes("pope", "dpo")             [Outcome(id="ac7e…", value={"accuracy": 1.0, …}, cluster="91ab…"), …]

Questions that share an image are drawn together. Which these are stands in the run (`questions.json`); a run of before
there was this file needs the benchmark's own files, which count only if they are the bytes that were evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from align.benchmarks.measures import Measure, Outcome, mean
from align.benchmarks.places import Place, Places, read_places
from align.benchmarks.rows import load_rows
from align.benchmarks.suite import Suite
from align.benchmarks.suites import suites_of
from align.benchmarks.text_rows import measures_of
from align.benchmarks.text_tasks import KNOWN
from align.digest import file_sha256
from align.state import read_manifest
from annotate.errors import UserError
from annotate.jsonl import read_records
from annotate.records import Item, Manifest, Metric

JUDGED = ":judge"
"""Behind a suite's name: the judge's grades of its answers."""
RUBRIC, RUBRIC_SCALE = "rubric", 12.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stage `evaluate` left; read when it is asked for."""

    name: str
    folder: Path
    """Of the run, above `evaluate`."""
    manifest: Manifest
    verdicts: Mapping[str, Any]
    bench: Path | None = None
    """Where the benchmark files may lie, for runs that say nothing of clusters."""

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.verdicts["models"])

    @cached_property
    def headlines(self) -> dict[str, str]:
        """Suite -> the measure that models are compared by; a judge's grades are a suite of their own."""
        named = {s["suite"]: s["headline"] for s in self.verdicts["suites"]}
        judged = dict.fromkeys(item.suite for item in self.items if item.suite.endswith(JUDGED))
        return named | dict.fromkeys(judged, RUBRIC)

    @cached_property
    def controls(self) -> frozenset[str]:
        """Suites that say whether a benchmark can be trusted; models are not compared by them."""
        return frozenset(s["suite"] for s in self.verdicts["suites"] if s["control"])

    @cached_property
    def items(self) -> Sequence[Item]:
        return tuple(read_records(self.folder / "evaluate" / "items.jsonl", Item))

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        return tuple(read_records(self.folder / "evaluate" / "metrics.jsonl", Metric))

    @cached_property
    def answers(self) -> Mapping[tuple[str, str], Sequence[Item]]:
        """(suite, model) -> items."""
        found: dict[tuple[str, str], list[Item]] = {}
        for item in self.items:
            found.setdefault((item.suite, item.model), []).append(item)
        return found

    @cached_property
    def places(self) -> Places:
        """What is known of each question; a suite that nothing is known of is absent."""
        kept = self.folder / "evaluate" / "questions.json"
        if kept.is_file():
            return read_places(json.loads(kept.read_text(encoding="utf-8")))
        return {name: found for name in self.headlines if (found := self._from_files(name))}

    def _from_files(self, name: str) -> dict[str, Place]:
        known = suite_of(name)
        if self.bench is None or known is None:
            return {}
        file = self.bench / f"{known.file}.jsonl"
        if not file.is_file() or file_sha256(file) != self.manifest.inputs.get(f"benchmark {file.name}"):
            return {}
        return {row.id: Place(row.cluster, row.category, row.group) for row in load_rows(file, suite=known.clean)}

    @cached_property
    def edited(self) -> tuple[str, ...]:
        """Files of the stage whose bytes are no longer those it wrote."""
        folder, told = self.folder / "evaluate", self.manifest.outputs
        return tuple(
            name for name in ("items.jsonl", "verdicts.json", "questions.json")
            if name in told and (folder / name).is_file() and file_sha256(folder / name) != told[name]
        )  # fmt: skip

    def outcomes(self, suite: str, model: str, *, items: Sequence[Item] | None = None) -> Sequence[Outcome]:
        """The answers of one model as statistics see them; `items`: some of them only."""
        places = self.places.get(suite.removesuffix(JUDGED), {})
        found = [
            Outcome(id=i.id, value=i.value, state=i.state, **places.get(i.id, Place())._asdict())
            for i in (self.answers.get((suite, model), ()) if items is None else items)
        ]
        known = suite_of(suite)
        return known.pool(found) if known and known.pool and suite in self.places else found

    def measures(self, suite: str) -> tuple[Measure, ...]:
        """The headline first."""
        headline, ours = self.headlines[suite], suite_of(suite)
        known = ours.measures if ours else self._text_measures(suite) or (mean(headline),)
        return tuple(sorted(known, key=lambda measure: measure.name != headline))

    def _text_measures(self, suite: str) -> tuple[Measure, ...]:
        """Of a text benchmark whose parts are known; nothing for other suites."""
        if suite not in KNOWN or suite not in self.places:
            return ()
        values = next((item.value for item in self.items if item.suite == suite and item.state == "ok"), {})
        return measures_of(suite, [place.category for place in self.places[suite].values()], values)

    def scale(self, suite: str) -> float:
        """What the headline can be at most."""
        known = suite_of(suite)
        return known.scale if known else RUBRIC_SCALE if suite.endswith(JUDGED) else 1.0


def suite_of(name: str) -> Suite | None:
    """A suite by the name it has in a run; None for a judge's grades and the suites of lm-eval."""
    try:
        found = suites_of(name)
    except UserError:
        return None
    return next((suite for suite in found if suite.name == name), None)


def read_run(name: str, bench: Path | None = None) -> Run:
    """A run by its folder or its recipe. Raises `UserError` where it is not evaluated yet."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        from align.recipe import load_recipe

        recipe = load_recipe(path)
        folder, remedy = recipe.folder, f"say `align evaluate {path}` first"
        bench = bench or (Path(recipe.evaluate.folder) if recipe.evaluate else None)
    else:
        folder, remedy = path, "name the folder of a run (runs/<name>) that has been evaluated, or its recipe"
        if path.name == "evaluate" and not (path / "evaluate").is_dir():
            folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; {remedy}")
    manifest = read_manifest(folder / "evaluate")
    if manifest is None:
        raise UserError(f"{folder}: its stage evaluate is not finished; {remedy}")
    missing = [f for f in ("items.jsonl", "metrics.jsonl", "verdicts.json") if not (folder / "evaluate" / f).is_file()]
    if missing:
        raise UserError(f"{folder}/evaluate: {', '.join(missing)} is missing; {remedy}")
    verdicts = _verdicts(folder / "evaluate" / "verdicts.json")
    return Run(name=folder.resolve().name, folder=folder, manifest=manifest, verdicts=verdicts, bench=bench)


def _verdicts(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.get("schema") != "verdicts/1":
            raise ValueError("no verdicts/1")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as verdicts ({error}); run `align evaluate` again") from None
    return found


def renamed(runs: Sequence[Run]) -> list[Run]:
    """The runs with names that differ: the folder above is put before where two are called alike."""
    names = [run.name for run in runs]
    return [
        replace(r, name=f"{r.folder.resolve().parent.name}/{r.name}" if names.count(r.name) > 1 else r.name)
        for r in runs
    ]
