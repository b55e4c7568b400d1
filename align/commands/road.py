"""`align run` and `align STAGE`: the road, or a part of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from align.console import Console
from annotate.errors import UserError

if TYPE_CHECKING:
    from align.recipe import Recipe


def run(options: argparse.Namespace, console: Console) -> int:
    """Bring the stage that the verb names, or all of them, up to date."""
    verb: str = options.verb
    if verb == "pairs" and not options.recipe.endswith((".yaml", ".yml")):
        from align.commands import pairs

        return pairs.run(options, console)
    from align.commands.recipes import recipe_of
    from align.runner import Runner

    asks = verb in ("annotate", "teach")
    changes = [*options.changes, *([f"{verb}.wait_quota=true"] if asks and options.wait_quota else [])]
    if asks and options.retry_failed and options.reparse:
        raise UserError("--reparse asks nothing and --retry-failed asks again; say one of them")
    recipe = recipe_of(verb, options.recipe, changes)
    rounds = verb == "run" and recipe.rounds > 1
    if rounds:
        from align.commands.sweep import check_figures

        check_figures()
    runner = Runner(
        recipe,
        console,
        yes=options.yes,
        retry=asks and options.retry_failed,
        reparse=asks and options.reparse,
    )
    runner.bring(None if verb == "run" else verb)
    report = recipe.folder / "report"
    if verb in ("run", "report") and recipe.report is not None:
        table = (report / "table.txt").read_text(encoding="utf-8").rstrip()
        console.tell("report", f"\n{table}\n\n{report / 'report.html'}", page=str(report / "report.html"))
    if rounds:
        _rounds(recipe, console, yes=options.yes)
    console.tell("finished", f"done: {recipe.folder}", run=str(recipe.folder))
    return 0


def _rounds(recipe: Recipe, console: Console, *, yes: bool) -> None:
    """The rounds after the first, and what came of all of them."""
    from align.commands.sweep import write_table
    from align.rounds import outcomes_of, run_rounds

    plan = run_rounds(recipe, console, yes=yes)
    folder = recipe.folder / "rounds"
    folder.mkdir(exist_ok=True)
    write_table(plan, outcomes_of(plan), folder)
    table = (folder / "table.txt").read_text(encoding="utf-8").rstrip()
    console.tell("rounds", f"\n{table}\n\n{folder / 'sweep.html'}", page=str(folder / "sweep.html"))
