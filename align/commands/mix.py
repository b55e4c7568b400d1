"""`align mix MIX.yaml OUT`: an instruction mix of exact size; `align preview MIX`: some of its rows on the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.console import Console
from align.mix.build import Draw, counts, draw_mix, write_mix
from align.mix.hygiene import load_exams
from align.mix.plan import Mix, load_mix
from annotate.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mix", metavar="MIX", help="a mix, *.yaml: budget, vision_percent, sources, ... (see below)")
    parser.add_argument("rest", nargs="*", metavar="OUT [key=value]", help="the folder that is written, and changes")
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=FILE[,IMAGE_ROOT]",
        help="an evaluation set that no row may ask; what is read: see align doctor --help",
    )  # fmt: skip
    parser.add_argument("--leave-out", action="store_true", help="draw others for rows that --against finds")
    parser.add_argument("--image-root", metavar="DIR", help="folder that image paths are relative to, for --against")
    parser.add_argument("--dry-run", action="store_true", help="count what would be drawn; write nothing")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _keys()


def _keys() -> str:
    """The keys of a mix, with defaults and help."""
    import dataclasses

    from align.mix.plan import Source
    from align.templates import Templates

    lines = ["keys of a mix:"]
    for prefix, kind in (("", Mix), ("templates.", Templates), ("sources.", Source)):
        for spec in dataclasses.fields(kind):
            default = "" if dataclasses.MISSING in (spec.default,) else f" (default: {spec.default!r})"
            if "low" in spec.metadata:
                lines.append(f"  {prefix + spec.name:24} {spec.metadata['help']}{default}")
    return "\n".join(lines)


def run(options: argparse.Namespace, console: Console) -> int:
    """Mix; raises `UserError` with everything that is wrong, and then nothing is written."""
    from align.doctor.sets import Gallery

    out, changes = _out(options)
    mix = load_mix(Path(options.mix), changes)
    if options.leave_out and not options.against:
        raise UserError("--leave-out: of what? say --against NAME=FILE")
    root = Path(options.image_root) if options.image_root else None
    if root is not None and not root.is_dir():
        raise UserError(f"--image-root: {root} is not a folder; image paths are relative to it")
    exams = load_exams(options.against)
    gallery = Gallery(root, prints=bool(exams))
    bar = console.bar("mix", 0, 0)
    try:
        draw = draw_mix(
            mix, exams=exams if options.leave_out else (), gallery=gallery,
            progress=lambda done, total: bar.set(done >> 20, total >> 20, "MB read"),
        )  # fmt: skip
        if options.dry_run:
            console.result(table(draw), written=None, counts=counts(draw))
            return 0
        assert out is not None
        manifest = write_mix(
            draw, out, exams=exams, gallery=gallery, left_out=options.leave_out,
            progress=lambda done, total: bar.set(done, total, "rows written"),
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        bar.close()
    text = "\n".join([table(draw), *_leaks(manifest["against"]), f"written to {out}"])
    console.result(text, written=str(out), counts=manifest["counts"], against=manifest["against"])
    return 0


def _out(options: argparse.Namespace) -> tuple[Path | None, Sequence[str]]:
    """The folder, and the `key=value` changes."""
    places = [word for word in options.rest if "=" not in word]
    changes = [word for word in options.rest if "=" in word]
    if len(places) > 1 or (not places and not options.dry_run):
        raise UserError("align mix MIX.yaml OUT [key=value ...]: say to which folder it is to go, or --dry-run")
    out = Path(places[0]) if places else None
    for place in () if out is None else (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"{place}: is a file; OUT is a folder, in which examples.jsonl and mix.json are written")
    return out, changes


def table(draw: Draw) -> str:
    """The mix by data set, as it is told."""
    rows: list[tuple[str, ...]] = [("", "", "", "rows", "different", "repeated", "of", "left out")]
    for pool, account in draw.accounts.items():
        figures = (account.quota, account.drawn, account.repeats, account.read, account.left_out.total())
        rows.append((*pool, *(f"{figure:,}" for figure in figures)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    put = (str.ljust,) * 3 + (str.rjust,) * 5
    lines = ["  ".join(side(cell, w) for side, cell, w in zip(put, row, widths, strict=True)) for row in rows]
    found = counts(draw)
    shares = ", ".join(f"{n:,} {modality}" for modality, n in found["by_modality"].items() if n)
    lines.append(
        f"{draw.mix.name}: {found['rows']:,} rows: {shares}; {found['repeats']:,} repeats; seed {draw.mix.seed}"
    )
    for pool, account in draw.accounts.items():
        lines += [f"  {pool.dataset}: {n:,} left out, {why}" for why, n in account.left_out.most_common(5)]
        if account.other_modality:
            lines.append(f"  {pool.dataset}: {account.other_modality:,} rows are not {pool.modality}")
    return "\n".join(line.rstrip() for line in lines)


def _leaks(against: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was found of each evaluation set in the mix as it is written."""
    lines = []
    for found in against:
        asked = sum(finding["leaked"] is True for finding in found["findings"])
        more = f", {found['n_unknown']:,} unknown (images could not be compared)" if found["n_unknown"] else ""
        sign = "!!" if found["leaked"]["value"] else "ok"
        shown = f"{asked:,}" if found["n_findings"] == len(found["findings"]) else f"{found['leaked']['value']:.2%}"
        lines.append(f"{sign} {found['name']}: {shown} of {found['n']:,} questions are asked in the mix{more}")
    return lines
