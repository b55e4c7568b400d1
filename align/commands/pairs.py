"""`align pairs FILE OUTDIR`: training sets from ratings made elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from align.console import Console
from align.recipe_reader import Faults, read_block
from align.settings import SCORES, Pairs
from align.yaml_lines import parse_value
from annotate.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `align pairs` takes for bare files."""
    files = parser.add_argument_group("for bare files")
    files.add_argument(
        "--from", "--format", dest="form", default="auto", metavar="FORMAT", help="what FILE is (default: its keys)"
    )
    files.add_argument("--rubric", help="the rubric that was followed, where it is not a shipped one")
    files.add_argument("--image-root", metavar="DIR", help="folder that image paths are relative to: opens and hashes")
    files.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    files.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per processor for files of 32 MB and more)"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Training sets from a file of ratings of any format: `align pairs FILE OUTDIR [min_margin=3 ...]`."""
    from align.pairs.account import in_words
    from align.pairs.build import build_files

    if not options.changes or "=" in options.changes[0]:
        raise UserError("align pairs FILE OUTDIR [key=value ...]: say where the training sets are to go")
    outdir, *changes = options.changes
    faults = Faults("command line", {})
    values = dict(_parsed(changes))
    score = values.get("score")
    if isinstance(score, str) and score not in SCORES:  # an attribute, where a list of them or a sum is wanted
        names = ", ".join(SCORES)
        faults.add("score", f"{str(values.pop('score'))!r} is none of {names}; for one attribute write [{score}]")
    settings = Pairs(**read_block(Pairs, values, "", faults))
    if faults.texts:
        raise UserError(*faults.texts)
    if settings.also:
        raise UserError("also: is for recipes; give each file to `align pairs`, then name their preference.jsonl there")
    root = getattr(options, "image_root", None)
    if root and not Path(root).is_dir():
        raise UserError(f"--image-root: {root} is not a folder; image paths are relative to it")
    workers = getattr(options, "workers", None)
    if workers is not None and workers < 1:
        raise UserError(f"--workers: {workers}; expected 1 or more")
    bar = console.bar("pairs", 0, 0)
    try:
        funnel = build_files(
            Path(options.recipe), Path(outdir), settings, options.seed, rubric=options.rubric,
            form=getattr(options, "form", "auto"), image_root=Path(root) if root else None,
            workers=workers,
            progress=lambda done, total: bar.set(done >> 20, total >> 20, "MB"),
        )  # fmt: skip
    finally:
        bar.close()
    console.result(f"{in_words(funnel)}\nwritten to {outdir}", outdir=outdir, funnel=funnel)
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
