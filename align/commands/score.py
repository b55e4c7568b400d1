"""`align score BENCHMARK --answers FILE ...`: answers that somebody already has, in the benchmark's own layout."""

from __future__ import annotations

import argparse
import difflib
import json
from dataclasses import asdict
from pathlib import Path

from align.benchmarks.scorers import SCORERS
from align.benchmarks.sheet import Files, Result, Scorer, take
from align.console import Console
from annotate.errors import UserError

_FILES = ("answers", "questions", "labels", "judgments")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="BENCHMARK", help=", ".join(SCORERS))
    parser.add_argument("--answers", nargs="+", default=[], metavar="FILE", help="what the model said")
    parser.add_argument("--questions", nargs="+", default=[], metavar="FILE", help="what it was asked")
    parser.add_argument("--labels", nargs="+", default=[], metavar="FILE", help="what is right (a file or a folder)")
    parser.add_argument("--judgments", nargs="+", default=[], metavar="FILE", help="a judge's; several are repeats")
    parser.add_argument("--parser", default="", metavar="NAME", help="how answers are read, where there are ways")
    parser.add_argument("--draws", type=int, metavar="N", help="bootstrap resamples (default: 8000, 2000 or 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples (default: 0)")
    parser.add_argument(
        "--least-coverage", type=float, default=0.8, metavar="SHARE",
        help="no number where a smaller share of the answers has a score (default: 0.8)",
    )  # fmt: skip
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "files of each benchmark:\n" + "\n".join(
        f"  {name:16} {scorer.help}" + (f"; --parser {' or '.join(scorer.parsers)}" if scorer.parsers else "")
        for name, scorer in SCORERS.items()
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Print each measure with its 95% interval and counts; raises `UserError` for files that cannot be joined."""
    scorer = _scorer(options.benchmark)
    result = take(scorer, _files(scorer, options), seed=options.seed, draws=options.draws, least=options.least_coverage)
    if options.json:
        metrics = [asdict(figure) for figure in result.figures]
        found = {"benchmark": result.benchmark, "metrics": metrics, "warnings": list(result.warnings)}
        print(json.dumps(found, allow_nan=False))
    else:
        print(_text(result))
    return 0


def _scorer(name: str) -> Scorer:
    if name in SCORERS:
        return SCORERS[name]
    near = difflib.get_close_matches(name, SCORERS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"align score: no benchmark {name!r}{hint}  Known: {', '.join(SCORERS)}")


def _files(scorer: Scorer, options: argparse.Namespace) -> Files:
    given = {name: tuple(map(Path, getattr(options, name))) for name in _FILES}
    faults = [f"align score {scorer.name}: --{name} is missing" for name in scorer.needs if not given[name]]
    unused = [name for name in _FILES if given[name] and name not in (*scorer.needs, *scorer.takes)]
    faults += [f"align score {scorer.name}: takes no --{name}" for name in unused]
    if options.parser and options.parser not in scorer.parsers:
        faults.append(f"align score {scorer.name}: --parser: {' or '.join(scorer.parsers) or 'there is one way only'}")
    if not 0 < options.least_coverage <= 1:
        faults.append("align score: --least-coverage: a share above 0, at most 1")
    if options.draws is not None and options.draws < 100:
        faults.append("align score: --draws: at least 100, or an interval says nothing")
    missing = [str(path) for paths in given.values() for path in paths if not path.exists()]
    faults += [f"{path}: no such file" for path in missing]
    if faults:
        raise UserError(*faults, f"It reads {scorer.help}")
    return Files(**given, parser=options.parser)


def _text(result: Result) -> str:
    rows = [("", "value", "95% interval", "n", "failed")]
    for f in result.figures:
        value = "no number" if f.value is None else f"{f.value:.4g}"
        between = "" if f.low is None or f.high is None else f"{f.low:.4g} to {f.high:.4g}"
        rows.append((f.name, value, between, f"{f.n:,}", f"{f.n_failed:,}"))
    first, *rest = (max(len(row[i]) for row in rows) for i in range(len(rows[0])))
    lines = [
        "  ".join([name.ljust(first), *(cell.rjust(w) for cell, w in zip(cells, rest, strict=True))])
        for name, *cells in rows
    ]
    return "\n".join([result.benchmark, *lines, *(f"! {warning}" for warning in result.warnings)])
