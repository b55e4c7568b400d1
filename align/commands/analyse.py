"""`align analyse WHAT RUN...`: the figures and tables of the papers, of runs that are finished."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from align.console import Console
from annotate.errors import UserError

KINDS = ("table", "correlation", "scaling", "trajectory", "capabilities")
EPILOG = """\
table         models by suites, with differences to the VLM and the backbone of the same run (a dash: no such run)
correlation   two benchmarks over all models: R2, Pearson's r with interval, p, n; RUNs, or one CSV of scores
scaling       score against the rows that were trained on, over the points of a sweep
trajectory    scores of checkpoints, in the order given or by --steps
capabilities  one suite by what its questions ask for

A RUN is the folder of a finished run (runs/<name>) or its recipe; of a sweep, its folder.

examples:
  align analyse table runs/demo-seed0 runs/demo-seed1 --out analyses
  align analyse correlation runs/demo-seed* --x open_visual --y text_instructions
  align analyse correlation scores.csv --x mm_vet --y mt_bench --out analyses
  align analyse scaling runs/demo/sweep --suites text_instructions --models dpo
  align analyse trajectory runs/step-100 runs/step-200 --models dpo --steps 100 200
  align analyse capabilities runs/mine --suite mt_bench"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=KINDS, metavar="WHAT", help=", ".join(KINDS))
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs; for correlation also one *.csv")
    parser.add_argument("--x", metavar="SUITE", help="correlation: the one score")
    parser.add_argument("--y", metavar="SUITE", help="correlation: the other")
    parser.add_argument("--suites", nargs="+", default=[], metavar="SUITE", help="which (default: all but controls)")
    parser.add_argument("--suite", metavar="SUITE", help="capabilities: of which suite")
    parser.add_argument("--parts", nargs="+", default=[], metavar="MEASURE", help="capabilities: which measures")
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="scaling, trajectory: which models")
    parser.add_argument(
        "--steps", nargs="+", type=float, default=[], metavar="N", help="trajectory: where each run stands"
    )
    parser.add_argument(
        "--folder", metavar="BENCH", help="benchmark files, for runs that do not say what belongs together"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of intervals and tests (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="write WHAT.html (with the figure) and WHAT.json there")
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Read, compute, show; raises `UserError` for what is not there."""
    from align.report.analyses import render_page, render_text
    from align.report.folder import check_folder, write_files

    out = Path(options.out) if options.out else None
    if options.seed < 0:
        raise UserError(f"--seed: {options.seed}; expected 0 or more")
    if out:
        check_folder(out)
    found = _found(options)
    if out:
        made = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_files(out, {f"{options.what}.html": render_page(found), f"{options.what}.json": made})
    where = f"\n{out / f'{options.what}.html'}" if out else ""
    console.result(f"{render_text(found).rstrip()}{where}", **found)
    return 0


def _found(options: argparse.Namespace) -> dict[str, Any]:
    from align.analyses import scores

    if options.what == "correlation" and not (options.x and options.y):
        raise UserError("align analyse correlation: say which scores, --x SUITE --y SUITE")
    if options.what == "capabilities" and not options.suite:
        raise UserError("align analyse capabilities: say of which suite, --suite SUITE")
    bench = Path(options.folder) if options.folder else None
    if options.what == "correlation" and [Path(name).suffix for name in options.runs] == [".csv"]:
        return scores.correlation(scores.read_table(Path(options.runs[0]), options.x, options.y), options.x, options.y)
    runs = scores.read_runs(options.runs, bench)
    if options.what == "correlation":
        return scores.correlation(scores.read_systems(runs, options.x, options.y), options.x, options.y)
    if options.what == "capabilities":
        return scores.capabilities(runs, options.suite, options.parts, seed=options.seed)
    suites = scores.suites_in(runs, options.suites)
    known = dict.fromkeys(model for one in runs for model in one.models)
    faults = [f"--models: no run has {m!r}; they have {', '.join(known)}" for m in options.models if m not in known]
    if faults:
        raise UserError(*faults)
    if options.what == "scaling":
        return scores.scaling(runs, suites, options.models)
    if options.what == "trajectory":
        return scores.trajectory(runs, suites, options.models, options.steps)
    return scores.grid(runs, suites, seed=options.seed)
