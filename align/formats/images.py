"""Which image files can be used, and what each of them is to everybody who looks: one answer, given here.

| The path                                         | What happens                                                    |
|--------------------------------------------------|-----------------------------------------------------------------|
| relative, below the root; also by a link         | used                                                            |
| nothing there, a folder, a pipe                  | refused, `image_missing`                                        |
| absolute, Windows drive or share, `..`           | refused, `invalid_input`, wherever it would lead                |
| a link that leads out of the root                | refused, `invalid_input`                                        |
| a web address, `data:`                           | refused, `invalid_input`: nothing is fetched                    |
| unreadable: permission, NUL, loop, too long      | refused, `image_unreadable`                                     |

| The bytes                                        | The pixels that are seen              | What annotators get     |
|--------------------------------------------------|---------------------------------------|-------------------------|
| PNG, JPEG, WebP: 8 bits, opaque, still, upright  | as decoded, as RGB                    | the file's own bytes    |
| the same as BMP, TIFF, PPM, GIF                  | as decoded, as RGB                    | PNG                     |
| grey, black and white, palette                   | as RGB                                | own bytes (or as above) |
| alpha; a palette or a colour that is transparent | laid over white                       | PNG                     |
| turned by EXIF, or by XMP                        | upright; damaged EXIF turns nothing   | JPEG (95), PNG of others|
| CMYK                                             | Pillow's plain formula                | JPEG (95), PNG of others|
| 16 bits of grey or colour                        | the upper 8 bits                      | grey: PNG; colour: own  |
| colour profile (ICC)                             | not applied                           | own bytes               |
| animated GIF, PNG, WebP; TIFF of several pages   | the first frame                       | PNG                     |
| JPEG with a second picture behind it (MPO)       | the first                             | own bytes               |
| bytes after the image's end                      | not looked at                         | own bytes               |
| grey of 32 bits, real numbers, LAB               | refused, `image_unreadable`: no black and white are defined     |
| empty, text, HTML, PDF, EPS, SVG, HEIC           | refused, `image_unreadable`: no image of `FORMATS`              |
| cut off, a bit flipped, a wrong checksum         | refused, `image_unreadable`: nothing is guessed                 |
| more pixels than `max_pixels`, by the header     | refused, `image_unreadable`, before a pixel is decoded          |
| longer than 200 times its width                  | refused, `image_unreadable`: no model sees anything in it       |

First frames are taken, since data sets hold GIFs as pictures, and since a refusal would cost the row. White, since a
page is. `annotate/pixels.py` makes the pixels, for sampler, trainer and evaluator, and the bytes that annotators get;
this file looks at every image once, before any work. What passes here, passes there.

An image is the sha256 of its bytes: the same bytes under two names are one image, and one question about them is one
prompt (`same_bytes` lists them); the same picture saved twice is two, which `align/overlap.py` finds.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from annotate.errors import RecordError
from annotate.pixels import FORMATS, UnreadableImage, opened, quiet
from annotate.records import Reason

__all__ = ["FORMATS", "CheckedImage", "check_bytes", "check_image", "check_images", "inside", "same_bytes"]

_ENDINGS = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm",
}  # fmt: skip
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """The verdict on one image: a hash, or a fault and its reason."""

    sha256: str = ""
    fault: str = ""
    reason: Reason = Reason.IMAGE_UNREADABLE
    ending: str = ""
    """What a file of this kind is called: `jpg`, `png`, ..."""


def check_images(root: Path, paths: Collection[str], *, max_pixels: int) -> dict[str, CheckedImage]:
    """Each path (relative to `root`) checked once, several at a time: decoding leaves Python's lock."""
    below = root.resolve()
    ordered = sorted(paths)
    with quiet(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checked = pool.map(lambda path: _check(below, path, max_pixels), ordered)
        return dict(zip(ordered, checked, strict=True))


def check_image(root: Path, path: str, *, max_pixels: int) -> CheckedImage:
    """One path, where they come one by one."""
    with quiet():
        return _check(root.resolve(), path, max_pixels)


def check_bytes(data: bytes, *, max_pixels: int) -> CheckedImage:
    """An image that stands in a row of a data file."""
    with quiet():
        return _decoded(BytesIO(data), hashlib.sha256(data).hexdigest(), max_pixels)


def same_bytes(checked: Mapping[str, CheckedImage]) -> list[tuple[str, ...]]:
    """The paths that name one image, in groups of two and more, in order."""
    groups: dict[str, list[str]] = {}
    for path, image in sorted(checked.items()):
        if image.sha256:
            groups.setdefault(image.sha256, []).append(path)
    return sorted(tuple(paths) for paths in groups.values() if len(paths) > 1)


def inside(root: Path, path: str) -> Path:
    """Where `path` is. Raises `RecordError` where it leaves `root`; for images that are read without being checked."""
    try:
        leaves = _leaves(root.resolve(), path)
    except (OSError, ValueError, RuntimeError) as error:
        leaves = _unread(error)
    if leaves:
        raise RecordError(f"image {path!r}: {leaves}")
    return root / path


def _check(root: Path, path: str, max_pixels: int) -> CheckedImage:
    try:
        leaves = _leaves(root, path)
        if leaves:
            return CheckedImage(fault=leaves, reason=Reason.INVALID_INPUT)
        file = root / path
        if not file.is_file():
            return CheckedImage(fault=_missing(file, path), reason=Reason.IMAGE_MISSING)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            return _decoded(stream, sha256, max_pixels)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, NUL in the name, a loop of links
        return CheckedImage(fault=_unread(error))


def _unread(error: Exception) -> str:
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _missing(file: Path, path: str) -> str:
    if file.is_dir():
        return "no such file below prompts.image_root: it is a folder"
    if "\\" in path:
        return "no such file below prompts.image_root; write its folders with / instead of \\"
    return "no such file below prompts.image_root"


def _leaves(root: Path, path: str) -> str:
    """Why `path` is not below `root`, or nothing."""
    if _ADDRESS.match(path):
        return "is an address; nothing is fetched: save the image below prompts.image_root"
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\"):
        return "is absolute; write it relative to prompts.image_root"
    if ".." in PurePosixPath(path).parts or ".." in PureWindowsPath(path).parts:
        return "leaves its root by '..'; set prompts.image_root higher instead"
    if not (root / path).resolve().is_relative_to(root):
        return "is a link that leaves its root; set prompts.image_root to where the files are"
    return ""


def _decoded(stream: BinaryIO, sha256: str, max_pixels: int) -> CheckedImage:
    """Decoded once, to see that it can be."""
    try:
        with opened(stream, max_pixels=max_pixels, checksums=True) as image:
            return CheckedImage(sha256=sha256, ending=_ENDINGS.get(image.format or "", "bin"))
    except UnreadableImage as error:
        return CheckedImage(fault=str(error))
