"""`align agreement ANNOTATED`: does the annotator agree with people, with itself, with another annotator?"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.console import Console
from annotate.errors import UserError
from annotate.records import Annotated, PreferencePair

if TYPE_CHECKING:
    from align.formats.format import Made

NOTES = """examples:
  align agreement runs/demo/annotate/annotated.jsonl                   itself: passes, shuffled orders
  align agreement annotated.jsonl --human llava_7b_v1_preference.json  people: the heat map of the paper's Figure 3
  align agreement annotated.jsonl --with other/annotated.jsonl --score helpfulness,correctness
  align agreement annotated.jsonl --with helpsteer.jsonl               people who rated, as HelpSteer's did

Every file may be of any format that `align convert --help` lists; pairs of chosen and rejected are preferences too.
Prompts and completions are joined by id, or else by their texts and the images' names; what is not joined is counted.
"""
UNJOINED = (
    "check that both are of the same prompts and completions, and that their images are the same: equal bytes where "
    "both files were made with --image-root, else equal file names"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="ANNOTATED", help="annotated prompts; by people, where nobody else annotated them"
    )
    parser.add_argument(
        "--from", "--format", dest="form", default="auto", metavar="FORMAT",
        help="what ANNOTATED is, and the file of --with (default: their keys tell)",
    )  # fmt: skip
    parser.add_argument("--human", metavar="FILE", help="what people prefer: pairwise annotations, or preference pairs")
    parser.add_argument(
        "--human-from", default="auto", metavar="FORMAT", help="what the file of --human is (default: its keys tell)"
    )
    parser.add_argument(
        "--with", dest="other", metavar="FILE", help="the same prompts, rated by another annotator, or by people"
    )
    parser.add_argument(
        "--score",
        metavar="NAME,NAME",
        help="attributes whose sum tells the better response (default: helpfulness,correctness,coherence where rated)",
    )
    parser.add_argument("--out", metavar="DIR", help="for agreement.json and agreement.html (default: FILE.agreement)")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = NOTES


def run(options: argparse.Namespace, console: Console) -> int:
    """Compare; raises `UserError` for what cannot be read, and then nothing is written."""
    from align.agreement import Collected, agreement, agreement_text, opinions_in
    from align.formats.containers import check_input
    from align.report.agreement import agreement_page
    from align.report.folder import check_folder, write_files
    from align.workers import unstoppable

    for file in filter(None, (options.file, options.human, options.other)):
        check_input(Path(file))
    path = Path(options.file)
    out = Path(options.out) if options.out else path.with_name(f"{path.name}.agreement")
    check_folder(out)
    opinions = None
    if options.human:
        opinions = opinions_in(_read(Path(options.human), options.human_from, console))
        if not opinions:
            raise UserError(
                f"{options.human}: no preference in it; expected pairwise annotations or preference pairs "
                "(ratings, of people too, are what --with compares)"
            )
    other = _annotated(Path(options.other), options.form, console) if options.other else None
    collected = Collected(opinions, other)
    for row in _annotated(path, options.form, console):
        collected.add(row)
    score = [name.strip() for name in options.score.split(",")] if options.score else None
    try:
        report = agreement(collected, score=score)
    except UserError as error:
        raise UserError(*(f"{path}: {fault}" for fault in error.faults)) from None
    _check_joined(report, path, options)
    files = [Path(file).name for file in (options.file, options.human, options.other) if file]
    report |= {"files": files, "command": _command(options)}
    made = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = agreement_page(report)
    with unstoppable():  # what is written is told
        write_files(out, {"agreement.html": page, "agreement.json": made})
        console.result(f"{agreement_text(report)}\nwritten to {out}", out=str(out), report=report)
    return 0


def _command(options: argparse.Namespace) -> str:
    """What was called, by the names of files without their folders, which are no one else's business."""
    called = ["align", "agreement", Path(options.file).name]
    for option, file in (("--human", options.human), ("--with", options.other)):
        called += [option, Path(file).name] if file else []
    return shlex.join([*called, *(["--score", options.score] if options.score else [])])


def _check_joined(report: dict[str, Any], path: Path, options: argparse.Namespace) -> None:
    """Raise `UserError` where a file that was given has nothing in common with the annotated one."""
    from align.agreement.words import joined_text, twins_text

    told = {"human": (options.human, joined_text), "other": (options.other, twins_text)}
    lost = [
        f"{file}: has nothing in common with {path}: {text(report[name]['joined'])}"
        for name, (file, text) in told.items()
        if file and not report[name]["joined"]["joined"]
    ]
    if lost:
        raise UserError(*lost, UNJOINED)


def _annotated(path: Path, form: str, console: Console) -> Iterator[Annotated]:
    for record in _read(path, form, console):
        if not isinstance(record, Annotated):
            said = "preference pairs" if isinstance(record, PreferencePair) else "no annotated prompts"
            raise UserError(f"{path}: holds {said}; expected annotated prompts, such as annotate/annotated.jsonl")
        yield record


def _read(path: Path, form: str, console: Console) -> Iterator[Made]:
    """All records of a file; images are taken by their names, and not opened."""
    from align.formats.reading import read_file
    from align.formats.store import ImageStore

    bar = console.bar(path.name, 0, 0)
    try:
        yield from read_file(
            path, form=form, images=ImageStore(root=None), progress=lambda done, total: bar.set(done, total)
        )
    finally:
        bar.close()
