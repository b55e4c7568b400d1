"""Rounds: sample from the model that was just aligned, annotate its answers, align it again.

    rounds: 3
    runs/<name>/                   round 1, as without the key
    runs/<name>/round-2/model/     the model of round 1 with its DPO adapter merged: what round 2 begins with
    runs/<name>/round-2/<stage>/   the same stages from there; runs/<name>/round-3/ ...

Each round is a run of its own, so what makes a stage stale is as ever: a new adapter is another model, and everything
after it is made anew. What does not depend on the model (the annotator's own answers) is taken from the round before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from align.base import Models
from align.console import Console
from align.models.merge import merge_adapter
from align.recipe import Recipe
from align.sweep.grid import Point
from align.sweep.run import Outcome, Plan, Run
from align.sweep.share import Kin, SharingRunner
from align.workspace import locked


def recipes_of(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe of each round; the first is the recipe itself."""
    yield dataclasses.replace(recipe, rounds=1)
    for number in range(2, recipe.rounds + 1):
        folder = recipe.folder / f"round-{number}"
        backbone = str(recipe.folder / "language" / "model") if recipe.language else recipe.backbone
        report = recipe.report
        if report is not None:
            report = dataclasses.replace(report, title=f"{report.title or recipe.name}, round {number}")
        yield dataclasses.replace(
            recipe, name=folder.name, runs=str(recipe.folder), model=str(folder / "model"), backbone=backbone,
            language=None, connect=None, tune=None, pretrain=None, instruct=None, report=report, rounds=1, sweep={},
        )  # fmt: skip


def run_rounds(recipe: Recipe, console: Console, *, yes: bool = False) -> Plan:
    """Bring rounds 2, 3, ... up to date; the first must be. Returns all of them, as points of a table."""
    first, *others = recipes_of(recipe)
    done = [first]
    with locked(first.folder):  # so that nobody changes what the others begin with
        for number, this in enumerate(others, 2):
            console.tell("round", f"\nround {number} of {recipe.rounds}", round=number, of=recipe.rounds)
            with locked(this.folder):
                _begin(done[-1], this, console)
            SharingRunner(this, console, Kin([other.folder for other in done]), yes=yes).bring(None)
            done.append(this)
    runs = [Run(point=Point(name=f"round-{i}", values={"round": i}), recipe=r) for i, r in enumerate(done, 1)]
    axis = {"round": [run.point.values["round"] for run in runs]}
    return Plan(recipe=dataclasses.replace(first, sweep=axis), runs=runs, common=frozenset())


def outcomes_of(plan: Plan) -> dict[str, Outcome]:
    """All rounds were brought to their end, or there would be no plan."""
    return {run.point.name: Outcome() for run in plan.runs}


def _begin(before: Recipe, this: Recipe, console: Console) -> None:
    """The model that a round begins with: that of the round before, aligned."""
    source = Models(before).model.path
    if merge_adapter(source, before.folder / "dpo" / "adapter", Path(this.model)):
        console.tell("merged", f"model: {source} with the adapter of {before.folder}/dpo", model=this.model)
