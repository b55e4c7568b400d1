"""`align validate FILE`: what is wrong with a file before anything is trained on it, and what it holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from align.console import Console
from align.formats import formats
from align.formats.checks import Length, Report, check_file, tokenizer_count
from align.formats.containers import read_rows
from align.formats.format import Format
from align.formats.store import ImageStore
from annotate import records
from annotate.errors import RecordError, UserError
from annotate.jsonl import read_rows as read_lines
from annotate.rubric import check_scores, load_rubric

_KINDS: dict[str, type[records.Record]] = {
    kind.SCHEMA: kind
    for kind in (
        records.Completion, records.Annotation, records.Annotated, records.PreferencePair, records.Example,
        records.Item, records.Metric, records.Failure,
    )
}  # fmt: skip
_PAIRED = (records.Annotated, records.PreferencePair, records.Example)


def _is_read(form: Format) -> bool:
    return form.read is not None or form.read_group is not None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="records, a data file of another tool, questions, or a recipe")
    parser.add_argument(
        "--from",
        "--format",
        "--form",
        dest="form",
        default="auto",
        metavar="FORMAT",
        help=f"what FILE is (default: its keys tell): {', '.join(n for n, f in formats().items() if _is_read(f))}",
    )
    parser.add_argument(
        "--image-root",
        metavar="DIR",
        help="folder that image paths are relative to (default: .; images of mmalign's own pairs, examples and "
        "annotated prompts are opened only where it is given)",
    )
    parser.add_argument("--rubric", help="the rubric whose ranges scores must keep (default: the one they name)")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens of a row in training: what will be cut?")
    parser.add_argument(
        "--tokenizer", metavar="PATH", help="folder with tokenizer.json, for --max-length: exact counts"
    )
    parser.add_argument(
        "--image-tokens",
        type=int,
        default=576,
        metavar="N",
        help="tokens of an image, for --max-length (default: 576)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Check one file, whatever it holds. Raises `UserError` with every fault."""
    path = Path(options.file)
    if path.suffix in (".yaml", ".yml"):
        return _recipe(path, console)
    if options.image_root and not Path(options.image_root).is_dir():
        raise UserError(f"--image-root: {options.image_root} is not a folder; image paths are relative to it")
    length = _length(options)
    first = next((placed.value for placed in read_rows(path)), None) if options.form == "auto" else None
    row: dict[str, Any] = first if isinstance(first, dict) else {}
    kind = _KINDS.get(str(row.get("schema")))
    if kind is not None and kind not in _PAIRED:
        return _own_records(path, kind, console)
    if "questions" in row:
        return _questions(path, console)
    if options.form == "auto" and not length and ("conversations" in row or row.get("schema") == "prompt/1"):
        if all(not form.recognises(row) for name, form in formats().items() if name not in ("llava", "mmalign")):
            return _prompts(path, options.image_root, console)
    root = options.image_root or (None if row.get("schema") in _KINDS else ".")
    images = ImageStore(root=Path(root) if root else None, root_name=_root_name(options.image_root))
    return _any_format(path, options, images, length, console)


def _root_name(given: str | None) -> str:
    """The root as faults call it: an option of this command, not of a recipe."""
    return "--image-root" if given else "the current folder (give --image-root)"


def _length(options: argparse.Namespace) -> Length | None:
    if options.max_length is None:
        if options.tokenizer:
            raise UserError("--tokenizer: says how tokens are counted; give --max-length too")
        return None
    if options.max_length < 1 or options.image_tokens < 0:
        raise UserError("--max-length and --image-tokens: expected numbers of tokens, 1 and more, 0 and more")
    count = tokenizer_count(Path(options.tokenizer)) if options.tokenizer else None
    return Length(max_length=options.max_length, image_tokens=options.image_tokens, count=count)


def _recipe(path: Path, console: Console) -> int:
    from align.inputs import missing_files
    from align.recipe import load_recipe
    from align.state import present

    recipe = load_recipe(path)
    stages = [stage.name for stage in present(recipe)]
    missing = missing_files(recipe)
    told = f"{path}: a sound recipe: {', '.join(stages)}" + f"\nfiles missing: {', '.join(missing)}" * bool(missing)
    console.result(told, kind="recipe", stages=stages, missing=missing)
    return 0


def _own_records(path: Path, kind: type[records.Record], console: Console) -> int:
    """Every line as the record it says it is, scores within the rubric they name."""
    faults = []
    count = 0
    for number, row in read_lines(path):
        count += 1
        try:
            record = kind.from_json(row)
            if isinstance(record, records.Annotated):
                check_scores(record)
        except RecordError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise UserError(*faults)
    console.result(f"{path}: {count} records, {kind.SCHEMA}", kind=kind.SCHEMA, records=count)
    return 0


def _questions(path: Path, console: Console) -> int:
    from align.benchmarks.rows import load_rows

    count = len(load_rows(path, suite=path.stem))
    console.result(f"{path}: {count} benchmark questions", kind="bench/1", records=count)
    return 0


def _prompts(path: Path, image_root: str | None, console: Console) -> int:
    """As a recipe's `prompts` are checked."""
    from align.prompts import load_prompts
    from align.settings import Prompts

    try:
        found = load_prompts(Prompts(file=str(path), image_root=image_root or "."))
    except UserError as error:
        name = _root_name(image_root)
        raise UserError(*(fault.replace("prompts.image_root", name) for fault in error.faults)) from None
    text = f"{path}: {len(found.prompts)} prompts, {found.duplicates} duplicates"
    console.result(text, kind="prompts", records=len(found.prompts), duplicates=found.duplicates)
    return 0


def _any_format(
    path: Path, options: argparse.Namespace, images: ImageStore, length: Length | None, console: Console
) -> int:
    rubric = load_rubric(options.rubric)[0] if options.rubric else None
    bar = console.bar(path.name, 0, 0)
    try:
        report = check_file(
            path,
            form=options.form,
            images=images,
            rubric=rubric,
            length=length,
            progress=lambda done, total: bar.set(done, total),
        )
    finally:
        bar.close()
    console.result("\n".join(_lines(path, report, length)), **_figures(report, length))
    if report.faults:
        raise UserError(*report.faults)
    return 0


def _figures(report: Report, length: Length | None) -> dict[str, Any]:
    """The summary for machines."""
    return {
        "kind": report.form,
        "records": sum(report.records.values()),
        "kinds": dict(report.records),
        "faults": len(report.faults),
        "text_only": report.text_only,
        "repeated": report.repeated,
        "empty_completions": report.empty_completions,
        "images": len(report.images),
        "different_images": len(set(report.images.values())),
        "same_bytes": [list(paths) for paths in report.same_bytes],
        "longest": report.longest if length else None,
        "too_long": report.too_long if length else None,
        "lengths_are": None if length is None else "counted" if length.count else "estimated",
    }


def _lines(path: Path, report: Report, length: Length | None) -> list[str]:
    """The summary for people."""
    held = ", ".join(f"{n:,} {kind}" for kind, n in report.records.items()) or "no record"
    lines = [f"{path}: {held} ({report.form}); faults: {len(report.faults):,}"]
    if report.images:
        lines.append(f"  images      {len(report.images):,} looked at, {len(set(report.images.values())):,} different")
    for paths in report.same_bytes[:5]:
        lines.append(f"  same bytes  {' = '.join(paths)}")
    if len(report.same_bytes) > 5:
        lines.append(f"  same bytes  ... and {len(report.same_bytes) - 5:,} more")
    for name, n in (("text only", report.text_only), ("repeated", report.repeated)):
        if n:
            lines.append(f"  {name:11} {n:,} of {sum(report.records.values()):,}")
    if report.empty_completions:
        lines.append(f"  empty       {report.empty_completions:,} completions say nothing; no builder takes them")
    if length is not None:
        lines.append(_length_line(report, length))
    return lines


def _length_line(report: Report, length: Length) -> str:
    if length.count is not None:
        return f"  length      {report.longest:,} tokens at most, {report.too_long:,} rows above {length.max_length:,}"
    return (
        f"  length      about {report.longest:,} tokens at most, {report.too_long:,} rows above {length.max_length:,}: "
        "estimated, 4 characters a token; --tokenizer counts"
    )
