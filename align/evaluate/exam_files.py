"""The rows of a suite, out of `<folder>/<suite>.jsonl` or out of the benchmark's own files, and where its images are.

    evaluate: {folder: data/bench}                                                             our own files
    evaluate: {files: {pope: {labels: pope/coco, images: val2014}}}                            POPE's
    evaluate: {files: {mme: {hub: lmms-lab/MME, split: test}}}                                 a data set of the hub

Images that stand in the rows themselves are looked at as the rows are read, and written below the stage's workspace, by
the hash of their bytes, when a model is first asked about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.benchmarks.published import HUB_ROLES, NAMES, Source, hashed
from align.benchmarks.rows import Row, load_rows
from align.benchmarks.suite import Suite
from align.formats.images import check_images
from align.formats.store import UNOPENED, ImageStore
from align.settings import Evaluate, Prompts
from annotate.errors import UserError
from annotate.records import Reason


@dataclass(frozen=True)
class Held:
    """Images whose bytes stand in published rows."""

    suite: Suite
    files: Mapping[str, str]

    def unpack(self, rows: Sequence[Row], folder: Path) -> None:
        """Write those that are not there yet, each once."""
        if not all((folder / image.path).is_file() for row in rows for image in row.prompt.images):
            assert self.suite.read is not None
            self.suite.read(Source(files=self.files, images=ImageStore(root=None, folder=folder)))


@dataclass(frozen=True)
class Asked:
    """What a suite asks: its rows, not yet looked at, and where they come from."""

    rows: tuple[Row, ...]
    file: Path
    root: Path | None = None
    """Where its images lie, if not below the recipe's `prompts.image_root`."""
    held: Held | None = None


def read_asked(suite: Suite, settings: Evaluate) -> Asked:
    """The rows of one suite. Raises `UserError` with every fault of the files, and of the keys that name them."""
    given = settings.files.get(suite.file, {})
    if not given:
        file = Path(settings.folder) / f"{suite.file}.jsonl"
        return Asked(load_rows(file, suite=suite.name, limit=settings.limit), file)
    key = f"evaluate.files.{suite.file}"
    if suite.read is None:
        raise UserError(f"{key}: {suite.name} is read from <folder>/{suite.file}.jsonl alone; take the key out")
    faults = _role_faults(suite, given, key)
    if faults:
        raise UserError(*faults)
    rows = _limited(suite, tuple(suite.read(Source(files=given))), settings.limit)
    if not rows:
        raise UserError(f"{key}: no questions in {', '.join(given.values())}")
    file = Path(next(given[role] for role in ("questions", "folder", "hub", *given) if role in given))
    images = [image for row in rows for image in row.prompt.images]
    held = bool(images) and not any(image.sha256.startswith(UNOPENED) for image in images)
    root = given.get("images", given.get("folder"))
    return Asked(rows, file, Path(root) if root else None, Held(suite, given) if held else None)


def _limited(suite: Suite, rows: tuple[Row, ...], limit: int | None) -> tuple[Row, ...]:
    """The first so many; of rows that are counted together, the first so many groups, each whole."""
    if limit is None or suite.pool is None:
        return rows[:limit]
    kept = set(list(dict.fromkeys(row.group for row in rows))[:limit])
    return tuple(row for row in rows if row.group in kept)


def _role_faults(suite: Suite, given: Mapping[str, str], key: str) -> list[str]:
    hub = () if suite.judged else HUB_ROLES  # what a judge is told of (references, rules) is in files of its own
    known = (
        dict.fromkeys(hub, False) if hub and "hub" in given else {**suite.roles, **({"split": False} if hub else {})}
    )
    faults = [f"{key}.{role}: missing" for role, needed in known.items() if needed and role not in given]
    for role, path in given.items():
        if role not in known:
            or_hub = f"; or of a data set of the hub: {', '.join(hub)}" if hub else ""
            faults.append(f"{key}.{role}: unknown; known: {', '.join(suite.roles)}{or_hub}")
        elif not isinstance(path, str) or not path:
            faults.append(
                f"{key}.{role}: expected {'a name' if role in NAMES else 'a file or a folder'}, found {path!r}"
            )
        elif role not in NAMES and not Path(path).exists():
            faults.append(f"{key}.{role}: {path}: no such file or folder")
    return faults


def look_at(suite: Suite, asked: Asked, prompts: Prompts) -> tuple[tuple[Row, ...], list[str]]:
    """The rows with the hashes of their images, and what is wrong with those; every image is looked at once."""
    if asked.held or suite.images == "none":
        return asked.rows, []
    root = asked.root or Path(prompts.image_root)
    images = {row.id: image for row in asked.rows if (image := suite.image(row))}
    checked = check_images(root, {image.path for image in images.values()}, max_pixels=prompts.max_image_pixels)
    faults = []
    for row_id, image in images.items():
        name = repr(image.path) if len(image.path) <= 200 else f"{image.path[:60]!r} (and so on)"
        found, where = checked[image.path], f"{asked.file}: item {row_id}: image {name}"
        if found.fault:
            fault = found.fault.replace("prompts.image_root", str(asked.root)) if asked.root else found.fault
            if not asked.root and found.reason is Reason.IMAGE_MISSING:
                or_files = f", or `evaluate.files.{suite.file}.images: DIR`" if "images" in suite.roles else ""
                fault += f" ({root}); name the folder of the images: `prompts: {{image_root: DIR}}`{or_files}"
            faults.append(f"{where}: {fault}")
        elif found.sha256 != image.sha256 and not image.sha256.startswith(UNOPENED):
            faults.append(f"{where} has other bytes than its record says; was it edited?")
    return tuple(hashed(asked.rows, checked)), faults
