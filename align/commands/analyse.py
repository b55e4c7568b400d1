"""`align analyse WHAT RUN...`: the figures and tables of the papers, of finished runs and of training sets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from align.console import Bar, Console
from annotate.errors import UserError

KINDS = ("table", "correlation", "scaling", "trajectory", "capabilities", "diversity", "paper")
RUNS = "runs"
EPILOG = """\
table         models by suites, with differences to the VLM and the backbone of the same run (a dash: no such run)
correlation   two benchmarks over all models: R2, Pearson's r with interval, p, n; RUNs, or one CSV of scores
scaling       score against the rows that were trained on, over the points of a sweep
trajectory    scores of checkpoints, in the order given or by --steps
capabilities  one suite by what its questions ask for
diversity     of training files: how alike questions about images, of language alone, and of both kinds are
paper         all tables and figures of a paper by its LAYOUT.yaml (recipes/*/paper.yaml), of the runs below --runs

A RUN is the folder of a finished run (runs/<name>) or its recipe; of a sweep, its folder. For diversity it is a folder
of align mix or a file of any format of align convert.

examples:
  align analyse table runs/demo-seed0 runs/demo-seed1 --out analyses
  align analyse correlation runs/demo-seed* --x open_visual --y text_instructions
  align analyse correlation scores.csv --x mm_vet --y mt_bench --out analyses
  align analyse scaling runs/demo/sweep --suites text_instructions --models dpo
  align analyse trajectory runs/step-100 runs/step-200 --models dpo --steps 100 200
  align analyse capabilities runs/mine --suite mt_bench
  align analyse diversity data/mixes/mlan_v --out analyses
  align analyse diversity llava_instruct.json alpaca.jsonl --embedder models/all-MiniLM-L6-v2
  align analyse paper recipes/sight_beyond_text/paper.yaml --out analyses"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=KINDS, metavar="WHAT", help=", ".join(KINDS))
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="finished runs; or one *.csv (correlation), files (diversity), a layout (paper)",
    )
    parser.add_argument("--x", metavar="SUITE", help="correlation: the one score")
    parser.add_argument("--y", metavar="SUITE", help="correlation: the other")
    parser.add_argument("--suites", nargs="+", default=[], metavar="SUITE", help="which (default: all but controls)")
    parser.add_argument("--suite", metavar="SUITE", help="capabilities: of which suite")
    parser.add_argument("--parts", nargs="+", default=[], metavar="MEASURE", help="capabilities: which measures")
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="scaling, trajectory: which models")
    parser.add_argument(
        "--steps", nargs="+", type=float, default=[], metavar="N", help="trajectory: where each run stands"
    )
    parser.add_argument("--runs", dest="below", metavar="DIR", help="paper: where runs lie (default: runs)")
    parser.add_argument(
        "--folder", metavar="BENCH", help="benchmark files, for runs that do not say what belongs together"
    )
    parser.add_argument(
        "--embedder",
        metavar="NAME",
        help="diversity: a model of sentence-transformers by hub name or folder, or ngrams (default: all-MiniLM-L6-v2; "
        "where it cannot be had, ngrams)",
    )
    parser.add_argument(
        "--text",
        choices=("question", "turn"),
        default="question",
        help="diversity: the question alone, as in MLAN (default), or with passage, instruction and options",
    )
    parser.add_argument(
        "--pairs", type=int, default=10_000, metavar="N", help="diversity: of each kind (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of intervals, tests and pairs (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="write WHAT.html (with the figure) and WHAT.json there")
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Read, compute, show; raises `UserError` for what is not there."""
    from align.report.folder import check_folder, write_files

    if options.what == "paper":
        from align.report.paper import render_page, render_text
    else:
        from align.report.analyses import render_page, render_text
    out = Path(options.out) if options.out else None
    if options.seed < 0:
        raise UserError(f"--seed: {options.seed}; expected 0 or more")
    if out:
        check_folder(out)
    found = _diversity(options, console) if options.what == "diversity" else _found(options)
    if out:
        made = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_files(out, {f"{options.what}.html": render_page(found), f"{options.what}.json": made})
    where = f"\n{out / f'{options.what}.html'}" if out else ""
    console.result(f"{render_text(found).rstrip()}{where}", **found)
    return 0


def _diversity(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from align.analyses.diversity import diversity
    from align.analyses.embedders import embedder_named
    from align.analyses.questions import files_of

    if options.pairs < 1:
        raise UserError(f"--pairs: {options.pairs}; expected 1 or more")
    files = files_of(options.runs)
    embedder = embedder_named(options.embedder, lambda text: console.tell("note", text, note=text))
    bars: dict[str, Bar] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.close()
            bars[what] = console.bar(what, total, 0)
        bars[what].set(done, total)

    try:
        return diversity(files, embedder, asked=options.text, pairs=options.pairs, seed=options.seed, progress=progress)
    finally:
        for bar in bars.values():
            bar.close()


def _found(options: argparse.Namespace) -> dict[str, Any]:
    from align.analyses import scores

    if options.what == "paper":
        return _paper(options)
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


def _paper(options: argparse.Namespace) -> dict[str, Any]:
    from align.analyses.layout import read_layout
    from align.analyses.paper import make_paper

    if len(options.runs) != 1:
        raise UserError("align analyse paper: takes one layout (*.yaml); where runs lie is said with --runs DIR")
    layout = read_layout(Path(options.runs[0]))
    below = Path(RUNS if options.below is None else options.below)
    if options.below is not None and not below.is_dir():
        raise UserError(f"{below}: no such folder; --runs says where runs lie")
    found = make_paper(layout, below)
    if not below.is_dir() and not found["runs"]:  # rows may name recipes, whose runs lie elsewhere
        begin = "begin with `align run RECIPE`, or say with --runs DIR where runs lie"
        raise UserError(f"{below}: no such folder: nothing was run yet; {begin}")
    return found
