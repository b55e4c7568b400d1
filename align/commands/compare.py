"""`align compare RUN_A RUN_B`: two finished runs, question by question."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from align.console import Console
from annotate.errors import UserError

EPILOG = """\
A run is its folder (runs/<name>) or its recipe. Differences are B minus A, over the questions that both models were
asked in the same words and with the same images; what is not joined is counted.

examples:
  align compare runs/demo-seed0 runs/demo-seed1
  align compare runs/demo runs/demo --model sft=dpo      two models of one run
  align compare a.yaml b.yaml --all --html out           every measure; compare.html and compare.json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs=2, metavar="RUN", help="the folder of a finished run, or its recipe")
    parser.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="A[=B]",
        help="which models: of one name in both runs, or A's=B's (default: all of one name)",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="every measure of each suite, not the headline alone")
    parser.add_argument("--margin", type=float, help="a difference below this share of the scale counts as none")
    parser.add_argument(
        "--folder", metavar="BENCH", help="benchmark files, for runs that do not say what belongs together"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of intervals and tests (default: 0)")
    parser.add_argument("--html", metavar="DIR", help="write compare.html and compare.json there")
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Compare; raises `UserError` where there is nothing to compare."""
    from align.analyses.compare import compare_runs
    from align.analyses.runs import read_run, renamed
    from align.report.compare import render_page, render_text
    from align.report.folder import check_folder, write_files

    if options.margin is not None and not 0 <= options.margin <= 1:
        raise UserError("--margin: a share of the scale, 0 to 1")
    if options.seed < 0:
        raise UserError(f"--seed: {options.seed}; expected 0 or more")
    out = Path(options.html) if options.html else None
    if out:
        check_folder(out)
    bench = Path(options.folder) if options.folder else None
    first, second = renamed([read_run(name, bench) for name in options.runs])
    margin = options.margin if options.margin is not None else max(r.verdicts["margin"] for r in (first, second))
    models = _models(options.model, first.models, second.models)
    found = compare_runs(first, second, models=models, margin=margin, seed=options.seed, all_measures=options.all)
    if out:
        made = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_files(out, {"compare.html": render_page(found), "compare.json": made})
    where = f"\n{out / 'compare.html'}" if out else ""
    console.result(f"{render_text(found).rstrip()}{where}", **found)
    return 0


def _models(asked: list[str], first: tuple[str, ...], second: tuple[str, ...]) -> dict[str, str]:
    """Model of the first run -> model of the second."""
    if not asked:
        return {name: name for name in first if name in second}
    pairs = {a: b or a for a, _, b in (text.partition("=") for text in asked)}
    faults = [f"--model: the first run has no {a!r}; it has {', '.join(first)}" for a in pairs if a not in first]
    faults += [
        f"--model: the second run has no {b!r}; it has {', '.join(second)}" for b in pairs.values() if b not in second
    ]
    if faults:
        raise UserError(*faults)
    return pairs
