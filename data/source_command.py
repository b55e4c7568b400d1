"""The command line that all `prepare_*.py` of sources share, and the manifest beside what they write."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from source_draw import Candidates, Counts, Store, Taking, collect
from source_files import Found, files_below, find_files, fingerprint, read_file, read_hub, resolved_revision
from sources import Hub, Source

from align.console import Console
from align.settings import Prompts
from annotate.errors import MmalignError, UserError
from annotate.jsonl import write_records, write_text

RULE = (
    "the n rows with the smallest first 8 bytes of sha256 over [seed, source, id, turns] as JSON, smallest first; "
    "with --balance the types take turns"
)
EVERY = 2_000


def main(source: Source, argv: Sequence[str] | None = None) -> int:
    """Run one script; returns its exit code."""
    options = parser(source).parse_args(argv)
    console = Console(machine=options.json, quiet=options.quiet)
    try:
        _check(source, options)
        prepare(source, options, console)
        return 0
    except MmalignError as error:
        if options.json:
            faults = list(error.faults) if isinstance(error, UserError) else [str(error)]
            print(json.dumps({"event": "error", "exit": error.exit_code, "faults": faults}, ensure_ascii=False))
        else:
            print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read our lines (`| head`) has seen enough, and all is written by now
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130


def parser(source: Source) -> argparse.ArgumentParser:
    script = Path(sys.argv[0]).name if sys.argv[0].endswith(".py") else f"prepare_{source.name}.py"
    made = argparse.ArgumentParser(
        prog=f"python data/{script}",
        description="\n\n".join(
            filter(None, (f"{source.title}: prompt records with a manifest.", _terms(source), source.note))
        ),
        epilog=_examples(source, script),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of = made.add_mutually_exclusive_group(required=True)
    of.add_argument("--folder", type=Path, metavar="DIR", help="where the source's own files lie (or one of them)")
    hub_id = next((part.hub.id for parts in source.subsets.values() for part in parts if part.hub), None)
    of.add_argument(
        "--hub", nargs="?", const="", metavar="ID_OR_DIR",
        help=f"load it with `datasets` (default {hub_id}); or a folder laid out like that repository",
    )  # fmt: skip
    made.add_argument("--revision", help="commit or branch of the hub's repository; the manifest names the commit")
    made.add_argument("--stream", action="store_true", help="with --hub: read over the network, keep nothing on disk")
    names = list(source.subsets)
    made.add_argument("--subset", choices=names, default=names[0], help=f"which of {', '.join(names)}")
    made.add_argument(
        "--n", default=source.n or "all", type=_count, help=f"how many, or 'all' (default {source.n or 'all'})"
    )
    made.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    if source.types:
        made.add_argument("--type", default="", help=f"only these, with commas: {', '.join(source.types)}")
        made.add_argument("--balance", action="store_true", help="as many of each type (or of each that --type names)")
    made.add_argument(
        "--turn", choices=("first", "last"), default=source.turn,
        help=f"which question of a dialogue is asked (default {source.turn}); with first, what follows is kept in meta",
    )  # fmt: skip
    if source.modality == "image":
        made.add_argument("--image-root", type=Path, metavar="DIR", help=source.images or "where the image files lie")
        made.add_argument("--image-prefix", default="", metavar="PATH", help="put before each path: coco/train2017")
        made.add_argument(
            "--image-dir", type=Path, metavar="DIR",
            help="where images that come inside the rows are written, by sha256; it is then their image root",
        )  # fmt: skip
        made.add_argument("--max-image-pixels", type=int, default=_max_pixels(), help="larger ones are refused")
    made.add_argument(
        "--invalid", choices=("error", "skip"), default="error",
        help="rows that cannot be used: refuse all (default), or go on and list them in OUT.failures.jsonl",
    )  # fmt: skip
    made.add_argument("--out", type=Path, help="JSON Lines to write; OUT.manifest.json goes beside it")
    made.add_argument("--dry-run", action="store_true", help="read and draw, write nothing, print the manifest")
    made.add_argument("--json", action="store_true", help="one JSON event a line")
    made.add_argument("--quiet", action="store_true", help="the result only")
    return made


def _terms(source: Source) -> str:
    return f"licence: {source.licence}\nfrom:    {source.url}"


def _examples(source: Source, script: str) -> str:
    image = " --image-root IMAGES" if source.modality == "image" else ""
    lines = [f"python data/{script} --folder downloads/{source.name}{image} --out data/prompts/{source.name}.jsonl"]
    if hub := next((part.hub for parts in source.subsets.values() for part in parts if part.hub), None):
        image = " --image-dir data/images" if hub.images_inside else image
        lines.append(f"python data/{script} --hub{image} --n 1000 --seed 1 --out data/prompts/{source.name}_1k.jsonl")
    if source.types:
        lines.append(f"python data/{script} --folder downloads/{source.name} --type {source.types[0]} --dry-run")
    return "examples:\n  " + "\n  ".join(lines)


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'all' nor a whole number from 1")
    return int(text)


def _max_pixels() -> int:
    return Prompts.max_image_pixels


def _check(source: Source, options: argparse.Namespace) -> None:
    """What the options must agree on; `types`, `hub_mode` and the folder of images are put where they are used."""
    options.types = tuple(filter(None, getattr(options, "type", "").split(",")))
    options.balanced = getattr(options, "balance", False)
    faults = [f"--type {name}: none of {', '.join(source.types)}" for name in options.types if name not in source.types]
    if options.out is None and not options.dry_run:
        faults.append("--out is missing: say which file to write (or --dry-run)")
    if options.out is not None and not options.dry_run and not options.out.parent.is_dir():
        faults.append(f"--out {options.out}: there is no folder {options.out.parent}")
    if options.hub is None and (options.revision or options.stream):
        faults.append("--revision and --stream are for --hub")
    if options.hub is not None and not all(part.hub for part in source.subsets[options.subset] if part.required):
        faults.append(f"--subset {options.subset} of {source.title} is not on the hub in a form that can be loaded; "
                      f"get the files from {source.url} and use --folder")  # fmt: skip
    if source.modality == "image":
        options.root = options.image_dir or options.image_root
        if options.image_dir and options.image_root:
            faults.append("--image-root is for files that are there, --image-dir for images inside the rows; give one")
        if options.root is None and not options.dry_run:
            faults.append("--image-root is missing (or --image-dir, if the images come inside the rows): each image is "
                          "opened and hashed, as its sha256 is part of the prompt")  # fmt: skip
        if options.image_root and not options.image_root.is_dir():
            faults.append(f"--image-root {options.image_root}: no such folder")
    else:
        options.root = options.image_dir = options.image_root = None
        options.image_prefix, options.max_image_pixels = "", _max_pixels()
    if faults:
        raise UserError(*faults)


# -------------------------------------------------------------------------------------------------------------- doing


class Origin:
    """Where the rows come from this time: files found in a folder, or datasets of the hub."""

    def __init__(self, source: Source, options: argparse.Namespace) -> None:
        self.source, self.stream = source, options.stream
        self.files: list[Found] = []
        self.absent: list[str] = []
        self.hubs: list[tuple[str, Hub]] = []
        if options.hub is None:
            self.files, self.absent = find_files(source, options.subset, options.folder)
            return
        for part in source.subsets[options.subset]:
            if part.hub:
                hub = replace(part.hub, id=options.hub or part.hub.id, revision=options.revision or part.hub.revision)
                self.hubs.append((part.type, hub))

    def rows(self) -> Iterator[tuple[str, str, Any]]:
        """(place, type of the part, row) of everything."""
        for part, path in self.files:
            for place, row in (self.source.unpack or read_file)(path):
                yield place, part.type, row
        for type_, hub in self.hubs:
            rows = read_hub(hub, stream=self.stream)
            for place, row in self.source.gather(rows) if self.source.gather else rows:
                yield place, type_, row

    def as_json(self) -> dict[str, Any]:
        """For the manifest: what was read, so that it can be found again and compared."""
        if self.files:
            paths = [path for _, path in self.files]
            beside = [other for path in paths for other in self.source.beside(path)]
            unique = dict.fromkeys([*paths, *beside])
            return {"files": [fingerprint(path) for path in unique], "absent": self.absent}
        told: list[dict[str, Any]] = []
        for _, hub in self.hubs:
            local = Path(hub.id).is_dir()
            told.append({
                "id": Path(hub.id).name if local else hub.id, "config": hub.config, "split": hub.split,
                "data_files": hub.data_files, "revision": None if local else hub.revision or "main",
                "commit": resolved_revision(hub),
                **({"files": [fingerprint(path) for path in files_below(Path(hub.id))]} if local else {}),
            })  # fmt: skip
        return {"hub": told, "datasets": version("datasets")}


def prepare(source: Source, options: argparse.Namespace, console: Console) -> None:
    """Read, draw, look at the images, write. Raises `UserError`; then nothing was written."""
    origin, counts = Origin(source, options), Counts()
    capacity = None if options.n is None else 2 * options.n + 1000  # spare ones for images that are missing
    bar = console.bar(f"reading {source.name}", source.rows, 0)
    if options.image_dir and not options.dry_run:
        options.image_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.out.parent if options.out and not options.dry_run else None) as spill:
        candidates = Candidates(spill, capacity, options.balanced)

        def watched() -> Iterator[tuple[str, str, Any]]:
            for number, row in enumerate(origin.rows(), start=1):
                if number % EVERY == 0:
                    bar.set(number, max(number, source.rows), "rows read")
                yield row

        collect(source, watched(), candidates, counts, types=options.types, seed=options.seed)
        bar.close()
        if options.balanced:
            _refuse_one_side(source, options, counts)
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) if options.dry_run and options.image_dir else options.root
            inside = bool(options.image_dir)
            store = Store(root, inside=inside, prefix=options.image_prefix, max_pixels=options.max_image_pixels)
            taking = _taking(source, options, counts, store, console)
            try:
                _write(source, options, console, origin, taking, candidates)
            finally:
                store.clear()


def _refuse_one_side(source: Source, options: argparse.Namespace, counts: Counts) -> None:
    """As many of each type: of each there must be some."""
    wanted = options.types or [name for name in source.types if name != "unknown"]
    if missing := [name for name in wanted if not counts.eligible[name]]:
        read = ", ".join(f"{n} {name or 'of no type'}" for name, n in sorted(counts.eligible.items())) or "none at all"
        raise UserError(
            f"--balance: no row is {' or '.join(missing)} (rows read: {read}); add the files that hold some, or name "
            "the types to balance with --type"
        )


def _taking(source: Source, options: argparse.Namespace, counts: Counts, store: Store, console: Console) -> Taking:
    total = min(options.n or counts.eligible.total(), counts.eligible.total())
    bar = console.bar(f"taking {source.name}", total, 0)
    return Taking(
        source=source, counts=counts, store=store, n=options.n, turn=options.turn, skip=options.invalid == "skip",
        tell=lambda taken: bar.close() if taken >= total else bar.set(taken, total, "prompts"),
    )  # fmt: skip


def _write(
    source: Source, options: argparse.Namespace, console: Console, origin: Origin, taking: Taking, found: Candidates
) -> None:
    counts = taking.counts
    if options.dry_run:
        if source.modality == "text" or options.root:
            for _ in taking.prompts(found):
                pass
        manifest = _manifest(source, options, origin, counts)
        console.result(json.dumps(manifest, indent=1, ensure_ascii=False), **manifest)
        return
    write_records(options.out, taking.prompts(found))
    failures = options.out.with_name(f"{options.out.name}.failures.jsonl")
    if counts.failures:
        write_records(failures, counts.failures)
    else:
        failures.unlink(missing_ok=True)
    written = taking.store.settle(taking.paths)
    manifest = _manifest(source, options, origin, counts)
    manifest["output"] = fingerprint(options.out)
    manifest["images"] = {"distinct": len(taking.paths), "written": written}
    beside = options.out.with_name(f"{options.out.name}.manifest.json")
    write_text(beside, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    numbers = counts.as_json()
    text = (
        f"{options.out}: {numbers['taken']} of {numbers['available']} rows taken"
        f" ({', '.join(f'{k} {v}' for k, v in sorted(counts.taken.items()) if k) or 'one type'})"
        f"; {numbers['duplicates']} duplicates, {sum(numbers['unusable'].values())} unusable, "
        f"{sum(numbers['malformed'].values())} malformed, {sum(numbers['excluded'].values())} excluded"
        f"\nlicence: {source.licence}\nmanifest: {beside}"
    )
    console.result(text, out=str(options.out), manifest=str(beside), counts=numbers)


def _manifest(source: Source, options: argparse.Namespace, origin: Origin, counts: Counts) -> dict[str, Any]:
    types = sorted(set(counts.eligible) | set(counts.taken))
    return {
        "schema": "source_manifest/1",
        "source": source.name,
        "title": source.title,
        "licence": source.licence,
        "url": source.url,
        "subset": options.subset,
        "origin": origin.as_json(),
        "seed": options.seed,
        "n": options.n,
        "types": list(options.types),
        "balance": options.balanced,
        "turn": options.turn,
        "invalid": options.invalid,
        "image_prefix": options.image_prefix,
        "rule": RULE,
        "counts": counts.as_json(),
        "by_type": {t or "-": {"eligible": counts.eligible[t], "taken": counts.taken[t]} for t in types},
        "mmalign": version("mmalign"),
    }
