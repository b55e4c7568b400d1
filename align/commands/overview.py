"""`align status`, `align estimate`, `align verify`: they look, and change nothing."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from align.account import failed, recall
from align.commands.recipes import recipe_of
from align.console import Console
from align.inputs import missing_files
from align.recipe import load_recipe
from align.runner import RunContext, Runner
from align.settings import Sample
from align.stages import STAGES, Stage, make_work
from align.state import State, present, read_manifest, state_of
from align.workspace import StageFolder
from annotate.errors import UserError
from annotate.estimate import spelled
from annotate.journal import read_journal
from annotate.records import Completion, Manifest, Record
from annotate.stage import Estimate
from annotate.work import AskingWork

R = TypeVar("R", bound=Record)


def status(options: argparse.Namespace, console: Console) -> int:
    """One line per stage."""
    recipe = recipe_of("status", options.recipe, options.changes)
    runner = Runner(recipe, console)
    rows = []
    for stage in present(recipe):
        try:
            state = state_of(recipe, stage, runner.models)
            kind, manifest = state.kind, state.manifest
            why = "; ".join(filter(None, [state.why, state.remedy]))
        except UserError as error:
            kind, why, manifest = "stale", error.faults[0], read_manifest(recipe.folder / stage.name)
        rows.append({"stage": stage.name, "state": kind, "why": why, **_figures(manifest)})
    lines = [f"{'stage':10} {'state':10} {'outputs':>8} {'failed':>7} {'cost':>8} {'seconds':>8}  why"]
    lines += [_line(row) for row in rows]
    missing = missing_files(recipe)
    lines += [f"files missing: {', '.join(missing)}"] * bool(missing)
    cost = sum(row["cost_usd"] or 0 for row in rows)
    told = "\n".join(line.rstrip() for line in lines)
    console.result(told, run=str(recipe.folder), stages=rows, cost_usd=cost, missing=missing)
    return 0


def _figures(manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {"outputs": None, "failures": None, "cost_usd": None, "seconds": None}
    return {
        "outputs": manifest.units - manifest.failures,
        "failures": manifest.failures,
        "cost_usd": manifest.cost_usd,
        "seconds": manifest.seconds,
    }


def _line(row: dict[str, Any]) -> str:
    if row["outputs"] is None:
        figures = f"{'-':>8} {'-':>7} {'-':>8} {'-':>8}"
    else:
        figures = f"{row['outputs']:>8} {row['failures']:>7} {row['cost_usd']:>8.2f} {row['seconds']:>8.1f}"
    return f"{row['stage']:10} {row['state']:10} {figures}  {row['why']}"


# ----------------------------------------------------------------------------------------------------- before spending


def estimate(options: argparse.Namespace, console: Console) -> int:
    """What every stage that is not done would still take."""
    recipe = recipe_of("estimate", options.recipe, options.changes)
    runner = Runner(recipe, console)
    lines, rows = [], []
    for stage in present(recipe):
        state = state_of(recipe, stage, runner.models)
        if state.kind == "done":
            lines.append(f"{stage.name:10} up to date")
            continue
        found, exact = _estimate(runner, stage, state)
        if found is None:
            lines.append(f"{stage.name:10} not known yet: {state.why}")
            continue
        rows.append({"stage": stage.name, "exact": exact, **asdict(found)})
        first, *more = spelled(found)
        lines.append(f"{stage.name:10} {first}{'' if exact else ' (at most: nothing is sampled yet)'}")
        lines += [f"{'':10} {line}" for line in more]
    dollars: Any = [row["usd"] for row in rows]
    total = None if None in dollars else sum(dollars)
    lines.append(f"{'in all':10} {'price unknown' if total is None else f'${total:.2f}'}")
    console.result("\n".join(lines), stages=rows, usd=total)
    return 0


def _estimate(runner: Runner, stage: Stage, state: State) -> tuple[Estimate | None, bool]:
    """The estimate and whether it is exact; None where it depends on what is not there yet."""
    context = runner.context(stage)
    if stage.name in ("pretrain", "instruct"):
        from align.train.planned import estimate_training

        bar = runner.console.bar(stage.name, 0, 0)
        try:
            return estimate_training(context, stage.name, progress=bar.set), True
        finally:
            bar.close()
    exact = not state.why.startswith("waits for")
    if not exact:
        if stage.name != "annotate":
            return None, False
        context = _Unsampled(context)
    work = make_work(stage, context)
    lines = read_journal(runner.recipe.folder / stage.name / "journal.jsonl")
    again = state.kind == "stale" and not getattr(work, "paid", False)
    pending = [u for u in work.units if u.key not in lines or (again and failed(work, u, lines[u.key]))]
    if isinstance(work, AskingWork):
        return work.estimate(pending, lines), exact
    recall(work, lines, StageFolder(runner.recipe.folder, stage.name).workspace)
    return work.estimate(pending), exact


class _Unsampled(RunContext):
    """Stands in for completions that are still to be sampled, each as long as it may become."""

    def __init__(self, context: RunContext) -> None:
        self.__dict__.update(context.__dict__)

    def records(self, stage: str, file: str, kind: type[R]) -> Sequence[R]:
        settings = self.recipe.sample or Sample()
        text = "word " * settings.max_new_tokens
        longest = [
            Completion.of(prompt_id=prompt.id, model="", index=index, text=text)
            for prompt in self.prompts().prompts
            for index in range(settings.n)
        ]
        return tuple(kind.from_json(completion.to_json()) for completion in longest)


# --------------------------------------------------------------------------------------------------------- afterwards


def verify(options: argparse.Namespace, console: Console) -> int:
    """Hash every output anew. Raises `UserError` naming each file that is not what its manifest says."""
    run = load_recipe(options.run).folder if options.run.endswith((".yaml", ".yml")) else Path(options.run)
    folders = [run / name for name in STAGES] + sorted((run / "superseded").glob("*"))
    faults: list[str] = []
    files = 0
    manifests = {folder: found for folder in folders if (found := read_manifest(folder)) is not None}
    if not manifests:
        raise UserError(f"{run}: no manifest below it; is it the folder of a run (runs/<name>)?")
    for folder, manifest in manifests.items():
        for name, sha256 in manifest.outputs.items():
            files += 1
            faults += _fault(folder / name, sha256)
        for name, sha256 in manifest.inputs.items() if folder.parent == run else ():
            stage, _, output = name.partition("/")
            made = manifests.get(run / stage)
            if made is not None and made.outputs.get(output) != sha256:
                faults.append(f"{folder.name} was made from another {name} than lies there; `align status` says more")
    if faults:
        raise UserError(*faults)
    count = len(manifests)
    console.result(f"{run}: {files} files of {count} manifests are what they were", files=files, manifests=count)
    return 0


def _fault(path: Path, sha256: str) -> list[str]:
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    return [] if found == sha256 else [f"{path}: was changed after it was made"]
