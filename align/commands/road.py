"""`align run` and `align STAGE`: the road, or a part of it."""

from __future__ import annotations

import argparse

from align.console import Console
from annotate.errors import UserError


def run(options: argparse.Namespace, console: Console) -> int:
    """Bring the stage that the verb names, or all of them, up to date."""
    verb: str = options.verb
    if verb == "pairs" and not options.recipe.endswith((".yaml", ".yml")):
        from align.commands import pairs

        return pairs.run(options, console)
    from align.recipe import load_recipe
    from align.runner import Runner

    asks = verb in ("annotate", "teach")
    changes = [*options.changes, *([f"{verb}.wait_quota=true"] if asks and options.wait_quota else [])]
    if asks and options.retry_failed and options.reparse:
        raise UserError("--reparse asks nothing and --retry-failed asks again; say one of them")
    recipe = load_recipe(options.recipe, changes)
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
    console.tell("finished", f"done: {recipe.folder}", run=str(recipe.folder))
    return 0
