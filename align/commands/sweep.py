"""`align sweep RECIPE`: the recipe at many values of its options, and one table of what came of each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from align.console import Console
from align.sweep.run import Outcome, Plan, common_states, exit_code, foresee, make_plan, run_sweep
from annotate.errors import UserError
from annotate.jsonl import write_text

EPILOG = """\
The values stand in the recipe, below `sweep`, under the same dotted keys as key=value here; a list is an axis, anything
else a change for all points:

  sweep:
    dpo.trl.beta: [0.1, 0.2]
    pairs.fraction: [0, 0.25, 0.5, 1]     # nested subsets of the prompts; 0 is the untouched model
    pairs.flip: [0, 0.5]                  # label noise
    evaluate.folder: data/demo/bench/dev  # the report's questions stay unseen
    select: text_instructions             # by which suite the best point is told; without it none is

examples:
  align sweep recipes/sweep_demo.yaml --list
  align sweep recipes/sweep_demo.yaml
  align sweep recipes/demo.yaml "sweep.pairs.fraction=[0, 0.5, 1]" "sweep.dpo.trl.beta=[0.1, 0.3]" --one-by-one

Each point is a run of its own, runs/<name>/sweep/<point>/. What points have in common is made once, nothing is bought
twice, and a sweep that was cut short goes on where it was. In the end: table.csv, table.json, table.txt and sweep.html
in runs/<name>/sweep/. A point that fails is noted there and the others go on; the exit code is then not 0."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `align sweep` takes."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe, *.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="dotted keys of the recipe, for all points")
    parser.add_argument("--list", action="store_true", help="show the points and what each would do; do nothing")
    parser.add_argument(
        "--one-by-one", action="store_true", help="vary each axis alone, the others as in the recipe; no full grid"
    )
    parser.add_argument("--yes", action="store_true", help="spend money where a stage would")
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Run a sweep, or say what it would do."""
    plan = make_plan(options.recipe, options.changes, one_by_one=options.one_by_one)
    if options.list:
        return _list(plan, console)
    check_figures()
    outcomes = run_sweep(plan, console, yes=options.yes)
    folder = plan.folder
    table = write_table(plan, outcomes, folder)
    text = (folder / "table.txt").read_text(encoding="utf-8").rstrip()
    where = f"{folder / 'table.csv'}  {folder / 'sweep.html'}"
    console.result(f"\n{text}\n\n{where}", folder=str(folder), table=table)
    return exit_code(outcomes)


def check_figures() -> None:
    """Raise `UserError` where the figure cannot be drawn: told before the first point, not after the last."""
    if find_spec("matplotlib") is None:
        raise UserError("not installed: matplotlib; pip install 'mmalign[report]'")


def write_table(plan: Plan, outcomes: Mapping[str, Outcome], folder: Path) -> dict[str, Any]:
    """The four files of a sweep, or of rounds; returns the content of table.json."""
    from align.report.sweep import render_page, render_text
    from align.sweep.table import csv_text, sweep_table

    table = sweep_table(plan, outcomes)
    files = {
        "table.json": json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "table.csv": csv_text(table),
        "table.txt": render_text(table),
        "sweep.html": render_page(table),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return table


def _list(plan: Plan, console: Console) -> int:
    found = foresee(plan)
    common = common_states(plan)
    shared = ", ".join(f"{stage} ({state})" for stage, state in common.items()) or "nothing"
    lines = [f"{len(plan.runs)} points in {plan.folder}", f"all share: {shared}", ""]
    width = max(len(name) for name in found)
    for name, stages in found.items():
        words: dict[str, list[str]] = {}
        for stage, word in stages.items():
            if word != "common":
                words.setdefault(word, []).append(stage)
        told = "; ".join(f"{word}: {', '.join(names)}" for word, names in words.items())
        lines.append(f"{name:{width}}  {told or 'nothing of its own'}".rstrip())
    lines += ["", "runs: at most; what turns out equal once its inputs are there is taken from the other point"]
    console.result("\n".join(lines), folder=str(plan.folder), common=common, points=found)
    return 0
