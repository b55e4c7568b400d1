"""`align doctor FILE... | RECIPE`: what is wrong with a preference data set."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.console import Bar, Console
from annotate.errors import Stopped, UserError

if TYPE_CHECKING:
    from align.overlap import Overlap

EXAMPLES = """examples:
  align doctor preference.jsonl
  align doctor annotated.jsonl preference.jsonl             scores and pairs together: drift can be known
  align doctor rlaif_v.parquet --from rlaif_v --out doctor
  align doctor recipes/demo.yaml                            what the run's finished stages annotate and pairs left
  align doctor pairs.jsonl --image-root coco --against pope=llava_pope_test.jsonl,val2014 --against mt=question.jsonl
  align doctor pairs.jsonl --fail-on max_length_win_rate=0.6 max_leakage=0 max_contradictions=0     exit 3 if broken

thresholds of --fail-on (a figure that cannot be known breaks its limit; the limit itself is allowed):
"""
AGAINST = (
    "an evaluation set to look for. Read are: rows of question_id with text or turns (POPE, MT-bench); rows with "
    "question, prompt or instruction (VQA, AlpacaEval); any format of align convert; our benchmark files; *.txt with "
    "one question a line"
)
STAGES = {"annotate": "annotated.jsonl", "pairs": "preference.jsonl"}
"""What the doctor reads of a run, by the stage that leaves it."""


def arguments(parser: argparse.ArgumentParser) -> None:
    from align.doctor.thresholds import table_text

    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="annotated rows and pairs in any format, or a recipe and key=value"
    )
    parser.add_argument(
        "--from",
        "--format",
        dest="form",
        default="auto",
        metavar="FORMAT",
        help="what FILE is (default: its keys tell)",
    )
    parser.add_argument("--image-root", metavar="DIR", help="folder that image paths of FILE are relative to")
    parser.add_argument("--against", action="append", default=[], metavar="NAME=FILE[,IMAGE_ROOT]", help=AGAINST)
    parser.add_argument(
        "--ngram", type=int, action="append", metavar="N", help="words of an n-gram, the longest first (default: 13 8)"
    )
    parser.add_argument(
        "--image-distance",
        type=int,
        default=5,
        metavar="BITS",
        help="bits of 64 two near images differ in (default: 5)",
    )
    parser.add_argument(
        "--fail-on", nargs="+", action="extend", default=[], metavar="NAME=LIMIT", help="exit 3 where a limit is broken"
    )
    parser.add_argument(
        "--fail-by",
        choices=("estimate", "interval"),
        default="estimate",
        help="estimate: what the page shows decides; interval: the whole 95%% interval must lie beyond the limit",
    )
    parser.add_argument("--out", metavar="DIR", help="where doctor.json and doctor.html go (default: FILE.doctor)")
    parser.add_argument("--seed", type=int, default=0, help="seed of intervals and tests (default: 0)")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES + table_text()


def run(options: argparse.Namespace, console: Console) -> int:
    """Examine; raises `UserError` for what cannot be read and `Stopped` where a limit is broken."""
    from align.doctor import Collector, examine
    from align.doctor.sets import Gallery, entry_of
    from align.doctor.thresholds import read_limits
    from align.report.folder import check_folder

    limits = read_limits(options.fail_on)
    if not options.files:
        raise UserError("which data? align doctor FILE…, e.g. align doctor preference.jsonl; FILE goes first")
    if options.seed < 0:
        raise UserError(f"--seed: {options.seed}; expected 0 or more")
    subject = _recipe(options) if _is_recipe(options.files[0]) else _files(options)
    if subject.image_root is not None and not subject.image_root.is_dir():
        raise UserError(f"--image-root: {subject.image_root} is not a folder; image paths are relative to it")
    out = Path(options.out) if options.out else subject.out
    check_folder(out)
    sets = _sets(options, console)
    gallery = Gallery(subject.image_root, prints=bool(sets))
    collector = Collector()
    bad: list[str] = []
    for path in subject.files:
        for record in _records(path, options.form, gallery, bad, console):
            collector.add(record)
            if sets:
                entry = entry_of(record, gallery)
                for overlap in sets:
                    overlap.add(entry)
    if not collector.n_records:
        raise UserError(*bad or [f"{subject.files[0]}: no records in it"])
    report = examine(
        collector.tables(), score=subject.score, leakage=[overlap.result() for overlap in sets], bad_rows=bad,
        limits=limits, by=options.fail_by, funnel=subject.funnel, seed=options.seed,
    )  # fmt: skip
    report |= {"files": [path.name for path in subject.files], "command": _command(options, subject.files)}
    return _tell(report, out, console)


def _command(options: argparse.Namespace, files: Sequence[Path]) -> str:
    """What was called, by the names of files without their folders, which are no one else's business."""
    called = ["align", "doctor", *(path.name for path in files)]
    called += ["--from", options.form] if options.form != "auto" else []
    for option in options.against:
        name, file, _ = _named(option)
        called += ["--against", f"{name}={Path(file).name}"]
    return shlex.join([*called, *(["--fail-on", *options.fail_on] if options.fail_on else [])])


def _tell(report: Mapping[str, Any], out: Path, console: Console) -> int:
    from align.doctor.words import findings, limit_text, verdict_text
    from align.report.doctor import doctor_page
    from align.report.folder import write_files
    from align.workers import unstoppable

    made = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = doctor_page(report)
    with unstoppable():  # what is written is told
        write_files(out, {"doctor.html": page, "doctor.json": made})
        console.result(
            f"{verdict_text(report)}written to {out}", out=str(out), limits=report["limits"],
            findings=[{"level": f.level, "topic": f.topic, "text": f.text} for f in findings(report)],
        )  # fmt: skip
    broken = [limit_text(checked) for checked in report["limits"] if checked["broken"]]
    if broken:
        raise Stopped("\n".join(["limits of --fail-on are broken:", *broken]))
    return 0


# ------------------------------------------------------------------------------------------------- what is examined


class _Subject:
    """The files, and what is known of them."""

    def __init__(self, files: Sequence[Path], out: Path, image_root: Path | None) -> None:
        self.files, self.out, self.image_root = files, out, image_root
        self.score: Sequence[str] | Mapping[str, float] | None = None
        self.funnel: Mapping[str, int] | None = None


def _is_recipe(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


def _files(options: argparse.Namespace) -> _Subject:
    from align.formats.containers import check_input

    files = [Path(name) for name in options.files]
    faults = [_folder_text(file) for file in files if file.is_dir()]
    if faults:
        raise UserError(*faults)
    for file in files:
        check_input(file)
    out = files[0].with_name(f"{files[0].name}.doctor")
    return _Subject(files, out, Path(options.image_root) if options.image_root else None)


def _folder_text(folder: Path) -> str:
    """What to give instead of a folder: the pairs and ratings that lie in it or one below."""
    there = sorted(f for name in STAGES.values() for f in (folder / name, *folder.glob(f"*/{name}")) if f.is_file())
    said = f"try align doctor {' '.join(map(str, there))}" if there else f"e.g. {folder / STAGES['pairs']}"
    return f"{folder}: is a folder; name the files in it, {said}"


def _recipe(options: argparse.Namespace) -> _Subject:
    """What the finished stages of a run left. Raises `UserError` where there is nothing yet."""
    from align.recipe import load_recipe
    from align.state import read_manifest

    recipe = load_recipe(options.files[0], options.files[1:])
    files = [recipe.folder / s / name for s, name in STAGES.items() if read_manifest(recipe.folder / s) is not None]
    if not files:
        raise UserError(
            f"{options.files[0]}: neither annotate nor pairs has run in {recipe.folder}; "
            f"`align pairs {options.files[0]}` does both"
        )
    root = options.image_root or (recipe.prompts.image_root if recipe.prompts else None)
    subject = _Subject(files, recipe.folder / "doctor", Path(root) if root else None)
    subject.score = recipe.pairs.score if recipe.pairs and not isinstance(recipe.pairs.score, str) else None
    funnel = recipe.folder / "pairs" / "funnel.json"
    if funnel.exists():
        subject.funnel = json.loads(funnel.read_text(encoding="utf-8"))["total"]
    return subject


def _records(path: Path, form: str, gallery: Any, bad: list[str], console: Console) -> Any:
    from align.formats.reading import Fault, format_of, read_file

    faults: list[Fault] = []
    bar: Bar = console.bar(path.name, 0, 0)
    try:
        chosen = format_of(path, form)
        yield from read_file(path, form=chosen.name, images=gallery, faults=faults, progress=lambda d, n: bar.set(d, n))
    finally:
        bar.close()
        bad += map(str, faults)


def _named(option: str) -> tuple[str, str, str]:
    """NAME=FILE[,IMAGE_ROOT] in its parts; a comma may stand in the name of a file that there is."""
    name, _, rest = option.partition("=")
    file, comma, root = rest.rpartition(",")
    return (name, rest, "") if not comma or Path(rest).exists() else (name, file, root)


def _sets(options: argparse.Namespace, console: Console) -> list[Overlap]:
    """The evaluation sets, indexed. Raises `UserError` with what is wrong with an option."""
    from align.doctor.sets import load_set
    from align.overlap import SIZES, Overlap

    named: dict[str, tuple[Path, Path | None]] = {}
    for option in options.against:
        name, path, below = _named(option)
        if not (name and path) or name in named:
            raise UserError(f"--against {option}: write NAME=FILE or NAME=FILE,IMAGE_ROOT, each NAME once")
        named[name] = (Path(path), Path(below) if below else None)
    sizes = tuple(options.ngram or SIZES)
    if min(sizes) < 2 or not 0 <= options.image_distance <= 32:
        raise UserError("--ngram: at least 2 words; --image-distance: 0 to 32 bits")
    made = []
    for name, (file, root) in named.items():
        console.tell("against", f"{name}: reading {file}", name=name, file=str(file))
        questions = load_set(name, file, root)
        made.append(Overlap(name, questions, sizes=sizes, distance=options.image_distance))
    return made
