"""A sweep: every point a run of its own below `runs/<name>/sweep/`, in the end one table of all.

    runs/<name>/                     stages that all points have in common, as `align run` makes them
    runs/<name>/sweep/<point>/       the others; finished stages that are equal are linked, journals lend their lines
    runs/<name>/sweep/reference/     the reference's log-probabilities, kept once for all points
    runs/<name>/sweep/table.csv  table.json  table.txt  sweep.html

A point that fails is noted and the others go on. Killed at any moment and started again, finished points are passed.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.base import Models
from align.console import Console
from align.recipe import Recipe, load_recipe
from align.runner import Runner
from align.stages import STAGES
from align.state import State, present, states
from align.sweep.grid import Point, points, read_sweep
from align.sweep.share import Kin, SharingRunner, fingerprints
from align.workspace import locked
from annotate.errors import MmalignError, Stopped, UserError

FOLDER = "sweep"
EVERYWHERE = ("report", "sweep")
"""Blocks that a point has not: the table of the sweep is the report on all of them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A point with its recipe, whose folder is the point's."""

    point: Point
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a point ended; `exit_code` as the command line would give it for this point alone."""

    exit_code: int = 0
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The recipe, its points, and the stages that all of them share with it."""

    recipe: Recipe
    runs: Sequence[Run]
    common: frozenset[str]

    @property
    def folder(self) -> Path:
        return self.recipe.folder / FOLDER

    def alone(self, stage: str) -> bool:
        """Whether the stage is a point's own matter."""
        return stage not in self.common


def make_plan(path: Path | str, changes: Sequence[str] = (), *, one_by_one: bool = False) -> Plan:
    """Every point as a checked recipe. Raises `UserError` with what is wrong, of all points at once."""
    recipe = load_recipe(path, changes)
    if not recipe.sweep:
        raise UserError(f"{path}: has no sweep; add `sweep: {{dpo.trl.beta: [0.1, 0.2]}}`, or say it as key=value")
    faults: dict[str, None] = {}
    runs = []
    for point in points(read_sweep(recipe.sweep), one_by_one=one_by_one):
        try:
            runs.append(Run(point=point, recipe=_recipe_of(point, recipe, path, changes)))
        except UserError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise UserError(*faults)
    whole = fingerprints(recipe)
    found = [fingerprints(run.recipe) for run in runs]
    common = {
        name
        for name, made in whole.items()
        if name != "evaluate" and any(name in f for f in found) and all(f.get(name, made) == made for f in found)
    }
    return Plan(recipe=recipe, runs=runs, common=frozenset(common - set(EVERYWHERE)))


def _recipe_of(point: Point, recipe: Recipe, path: Path | str, changes: Sequence[str]) -> Recipe:
    changed = point.changes | dict.fromkeys(EVERYWHERE)
    made = load_recipe(path, changes, point=changed)
    folder = recipe.folder / FOLDER
    made = dataclasses.replace(made, runs=str(folder), name=point.name)
    if made.dpo is not None and not made.dpo.reference_folder:
        made = dataclasses.replace(made, dpo=dataclasses.replace(made.dpo, reference_folder=str(folder / "reference")))
    return made


# ------------------------------------------------------------------------------------------------------------ running


def run_sweep(plan: Plan, console: Console, *, yes: bool = False) -> Mapping[str, Outcome]:
    """Bring all points up to date; point -> how it ended. Raises where what they have in common cannot be made."""
    with locked(plan.folder):
        _bring_common(plan, console, yes)
        kin = Kin([plan.recipe.folder, *sorted(p for p in plan.folder.iterdir() if p.is_dir())])
        outcomes: dict[str, Outcome] = {}
        for i, run in enumerate(plan.runs, 1):
            name = run.point.name
            console.tell("point", f"\npoint {i} of {len(plan.runs)}: {name}", point=name, number=i, of=len(plan.runs))
            outcomes[name] = _bring_point(run, console, kin, yes)
            kin.add(run.recipe.folder)
            _tidy()
        return outcomes


def _bring_common(plan: Plan, console: Console, yes: bool) -> None:
    """What all points share is made where `align run` makes it, so that neither does it twice."""
    if plan.common:
        left_out: dict[str, Any] = {name: None for name in STAGES if plan.alone(name)}
        Runner(dataclasses.replace(plan.recipe, **left_out), console, yes=yes).bring(None)


def _bring_point(run: Run, console: Console, kin: Kin, yes: bool) -> Outcome:
    try:
        SharingRunner(run.recipe, console, kin, yes=yes).bring(None)
    except MmalignError as error:
        outcome = Outcome(exit_code=error.exit_code, why=str(error))
    except Exception as error:
        # Our fault, or that of a library under these options: the other points need not suffer from it.
        traceback.print_exc()
        outcome = Outcome(exit_code=1, why=f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        return Outcome()
    text = f"{run.point.name}: failed; {outcome.why}"
    console.tell("point", text, point=run.point.name, state="failed", why=outcome.why, exit=outcome.exit_code)
    return outcome


def _tidy() -> None:
    """Let go of a point's model before the next one loads its own."""
    torch = sys.modules.get("torch")
    if torch is not None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def exit_code(outcomes: Mapping[str, Outcome]) -> int:
    """0: all done. Else the gravest: 1 our fault, 2 the user's mistake, 3 stopped by a limit."""
    codes = {outcome.exit_code for outcome in outcomes.values()}
    return next((code for code in (1, 2, Stopped.exit_code) if code in codes), 0)


# ---------------------------------------------------------------------------------------------------------- foresight


def foresee(plan: Plan) -> dict[str, dict[str, str]]:
    """Point -> stage -> `done`, `common`, `as <point>` (taken from there) or `runs`; and why it is stale, if it is.

    `runs` is at most: a stage may turn out to be equal once its inputs are there.
    """
    first: dict[tuple[str, str], str] = {}
    found: dict[str, dict[str, str]] = {}
    for run in plan.runs:
        name, prints = run.point.name, fingerprints(run.recipe)
        known = _states(run.recipe)
        found[name] = {}
        for stage, made in prints.items():
            owner = first.setdefault((stage, made), name)
            state = known.get(stage)
            if state is not None and state.kind == "done":
                word = "done"
            elif not plan.alone(stage):
                word = "common"
            else:
                word = "runs" if owner == name else f"as {owner}"
            found[name][stage] = word
    return found


def common_states(plan: Plan) -> dict[str, str]:
    """Stage -> its state in the recipe's own run, for those that all points share."""
    known = _states(plan.recipe)
    return {
        stage.name: known[stage.name].kind if stage.name in known else "?"
        for stage in present(plan.recipe)
        if stage.name in plan.common
    }


def _states(recipe: Recipe) -> dict[str, State]:
    """As far as they can be told: a model or file that is missing is told when the sweep is run."""
    try:
        return states(recipe, Models(recipe), present(recipe))
    except UserError:
        return {}
