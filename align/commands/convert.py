"""`align convert IN... OUT --to FORMAT`: a data file of one tool as a data file of another."""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from align.console import Bar, Console
from align.formats import format_named, formats
from align.formats.containers import Progress, check_input, write_place
from align.formats.format import Format, Made
from align.formats.reading import Fault, format_of, read_file
from align.formats.store import ImageStore
from align.formats.writing import write_file
from align.scratch import scratch
from align.workers import unstoppable
from annotate.errors import UserError
from annotate.jsonl import write_records
from annotate.records import Failure, Reason


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="IN... OUT", help="files to read (shards of one set), one to write")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="what to write; see below")
    parser.add_argument(
        "--from", "--format", dest="form", default="auto", metavar="FORMAT", help="what IN is (default: its keys tell)"
    )
    parser.add_argument("--image-root", metavar="DIR", help="folder that image paths are relative to: opens and hashes")
    parser.add_argument(
        "--image-dir", metavar="DIR", help="where embedded images are written (default: OUT.images, beside OUT)"
    )
    parser.add_argument(
        "--invalid",
        choices=("error", "skip"),
        default="error",
        help="a bad row: list all and write nothing, or leave it out and list it in OUT.failures.jsonl",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _formats_text()


def _formats_text() -> str:
    lines = ["formats (r: read, w: written):"]
    for form in formats().values():
        ways = ("r" if form.read or form.read_group else "-") + ("w" if form.write else "-")
        lines.append(f"  {form.name:24} {ways}  {form.title} [{', '.join(form.kinds)}]")
    return "\n".join(lines)


def run(options: argparse.Namespace, console: Console) -> int:
    """Convert; raises `UserError` with every bad row, and then nothing is written."""
    if len(options.files) < 2:
        raise UserError("align convert IN... OUT --to FORMAT: say where the result is to go")
    *sources, out = (Path(name) for name in options.files)
    if out.exists() and any(source.exists() and source.samefile(out) for source in sources):
        raise UserError(f"{out}: is both read and written; give OUT another name")
    for source in sources:
        check_input(source)
    write_place(out)
    target = format_named(options.to)
    if options.image_root and not Path(options.image_root).is_dir():
        raise UserError(f"--image-root: {options.image_root} is not a folder; image paths are relative to it")
    image_dir = Path(options.image_dir) if options.image_dir else out.with_name(out.name + ".images")
    for folder, what in ((out.parent, "OUT"), (image_dir, "--image-dir")):
        if in_the_way := next((at for at in (folder, *folder.parents) if at.exists() and not at.is_dir()), None):
            raise UserError(f"{what}: {in_the_way} is a file; a folder of that name is needed there")
    near = next(folder for folder in out.absolute().parents if folder.is_dir())
    where = near
    with ExitStack() as end:
        try:
            with scratch(near, f".{out.name}.images-") as folder:
                images = folder / "images"
                store = ImageStore(root=Path(options.image_root) if options.image_root else None, folder=images)
                told = _convert(sources, out, target, store, options, console, end)
                where = image_dir
                for image in images.glob("*"):
                    image_dir.mkdir(parents=True, exist_ok=True)
                    shutil.move(image, image_dir / image.name)
        except OSError as error:
            raise UserError(f"{where}: cannot be written ({error.strerror})") from None
        console.result(told.pop("text"), **told)
    return 0


def _convert(
    sources: Sequence[Path], out: Path, target: Format, store: ImageStore, options: argparse.Namespace,
    console: Console, end: ExitStack,
) -> dict[str, Any]:  # fmt: skip
    """What is told in the end. The images of the rows lie in the store's folder.

    From when all is read, and only to be put in its place, to `end`, no Ctrl-C is heard.
    """
    read: Counter[str] = Counter()
    faults: list[Fault] = []

    def records() -> Iterator[Made]:
        for source in sources:
            form = format_of(source, options.form)
            bar = console.bar(source.name, 0, 0)
            try:
                for record in read_file(source, form=form.name, images=store, faults=faults, progress=_moves(bar)):
                    read["records"] += 1
                    yield record
            finally:
                bar.close()
        end.enter_context(unstoppable())

    counts = write_file(records(), out, target, images=store, faults=faults, skip=options.invalid == "skip")
    skipped = out.with_name(out.name + ".failures.jsonl")
    skipped.unlink(missing_ok=True)  # of an earlier run
    if faults:
        write_records(skipped, [_failure(fault) for fault in faults])
    text = f"{out}: {counts['rows']:,} rows of {target.name}, from {read['records']:,} records"
    return {
        "text": text + (f"; {len(faults):,} left out, see {skipped}" if faults else ""),
        "out": str(out),
        "format": target.name,
        "rows": counts["rows"],
        "records": read["records"],
        "failures": len(faults),
    }


def _moves(bar: Bar) -> Progress:
    return lambda done, total: bar.set(done, total)


def _failure(fault: Fault) -> Failure:
    return Failure(stage="convert", record_id=Path(fault.where).name, reason=Reason.INVALID_INPUT, detail=fault.text)
