"""Verbs on bare files: `align validate FILE`, `align pairs FILE OUTDIR`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from align.console import Console
from align.recipe_reader import Faults, read_block
from align.settings import Pairs, Prompts
from align.yaml_lines import parse_value
from annotate import records
from annotate.errors import RecordError, UserError
from annotate.jsonl import read_rows
from annotate.rubric import check_scores

_KINDS: dict[str, type[records.Record]] = {
    kind.SCHEMA: kind
    for kind in (
        records.Completion, records.Annotation, records.Annotated, records.PreferencePair, records.Example,
        records.Item, records.Metric, records.Failure,
    )
}  # fmt: skip


def validate(options: argparse.Namespace, console: Console) -> int:
    """Check one file, whatever it holds. Raises `UserError` with every fault."""
    path = Path(options.file)
    if path.suffix in (".yaml", ".yml"):
        from align.recipe import load_recipe
        from align.state import present

        stages = [stage.name for stage in present(load_recipe(path))]
        console.result(f"{path}: a sound recipe: {', '.join(stages)}", kind="recipe", stages=stages)
        return 0
    first = _first(path)
    kind = _KINDS.get(str(first.get("schema"))) if isinstance(first, dict) else None
    if kind is not None:
        count = _check_records(path, kind)
        console.result(f"{path}: {count} records, {kind.SCHEMA}", kind=kind.SCHEMA, records=count)
    elif isinstance(first, dict) and "questions" in first:
        from align.evaluate.benchmark import load_rows

        count = len(load_rows(path, suite=path.stem))
        console.result(f"{path}: {count} benchmark questions", kind="bench/1", records=count)
    else:
        from align.prompts import load_prompts

        try:
            found = load_prompts(Prompts(file=str(path), image_root=options.image_root))
        except UserError as error:  # here the root is an option of the command, not of a recipe
            raise UserError(*(text.replace("prompts.image_root", "--image-root") for text in error.faults)) from None
        text = f"{path}: {len(found.prompts)} prompts, {found.duplicates} duplicates"
        console.result(text, kind="prompts", records=len(found.prompts), duplicates=found.duplicates)
    return 0


def _first(path: Path) -> object:
    """The first line as JSON; None where it is not JSON by itself (a list over many lines, or damage)."""
    try:
        with path.open(encoding="utf-8") as stream:
            return json.loads(stream.readline())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    except ValueError:
        return None


def _check_records(path: Path, kind: type[records.Record]) -> int:
    """How many records there are. Raises `UserError` with every line that is none, or scores outside its rubric."""
    faults = []
    count = 0
    for number, row in read_rows(path):
        count += 1
        try:
            record = kind.from_json(row)
            if isinstance(record, records.Annotated):
                check_scores(record)
        except RecordError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise UserError(*faults)
    return count


def pair_arguments(parser: argparse.ArgumentParser) -> None:
    """What `align pairs` takes for bare files."""
    files = parser.add_argument_group("for bare files")
    files.add_argument("--from", dest="form", default="auto", metavar="FORMAT", help="what FILE is (default: its keys)")
    files.add_argument("--rubric", help="the rubric that was followed, where it is not a shipped one")
    files.add_argument("--image-root", metavar="DIR", help="folder that image paths are relative to: opens and hashes")
    files.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    files.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per processor for files of 32 MB and more)"
    )


def pairs(options: argparse.Namespace, console: Console) -> int:
    """Training sets from a file of ratings of any format: `align pairs FILE OUTDIR [min_margin=3 ...]`."""
    from align.pairs.build import build_files

    if not options.changes or "=" in options.changes[0]:
        raise UserError("align pairs FILE OUTDIR [key=value ...]: say where the training sets are to go")
    outdir, *changes = options.changes
    faults = Faults("command line", {})
    settings = Pairs(**read_block(Pairs, dict(_parsed(changes)), "", faults))
    if faults.texts:
        raise UserError(*faults.texts)
    root = getattr(options, "image_root", None)
    bar = console.bar("pairs", 0, 0)
    try:
        funnel = build_files(
            Path(options.recipe), Path(outdir), settings, options.seed, rubric=options.rubric,
            form=getattr(options, "form", "auto"), image_root=Path(root) if root else None,
            workers=getattr(options, "workers", None),
            progress=lambda done, total: bar.set(done >> 20, total >> 20, "MB"),
        )  # fmt: skip
    finally:
        bar.close()
    text = json.dumps(funnel, indent=1, ensure_ascii=False)
    console.result(f"{text}\nwritten to {outdir}", outdir=outdir, funnel=funnel)
    return 0


def _parsed(changes: list[str]) -> Iterator[tuple[str, object]]:
    for change in changes:
        key, equals, text = change.partition("=")
        try:
            value = parse_value(text)
        except ValueError as error:
            raise UserError(f"command line  {key}: {error}") from None
        if not equals:
            raise UserError(f"command line  {change}: write key=value, e.g. min_margin=3")
        yield key.removeprefix("pairs."), value
