"""Whether image files can be used: inside their root, there, whole, of sane size; and the sha256 of their bytes."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from annotate.records import Reason

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded. Pillow knows more, some by starting other programs (EPS), which no data set should be able to do."""


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """The verdict on one path: a hash, or a fault and its reason."""

    sha256: str = ""
    fault: str = ""
    reason: Reason = Reason.IMAGE_UNREADABLE


def check_images(root: Path, paths: Collection[str], *, max_pixels: int) -> dict[str, CheckedImage]:
    """Each path (relative to `root`) checked once, several at a time: decoding leaves Python's lock."""
    inside = root.resolve()
    with warnings.catch_warnings():
        # Pillow warns from 89 megapixels on; `max_pixels` is our limit and is checked on the header.
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            ordered = sorted(paths)
            checked = pool.map(lambda path: _check(inside, path, max_pixels), ordered)
            return dict(zip(ordered, checked, strict=True))


def _check(root: Path, path: str, max_pixels: int) -> CheckedImage:
    try:
        leaves = _leaves(root, path)
        if leaves:
            return CheckedImage(fault=leaves, reason=Reason.INVALID_INPUT)
        file = root / path
        if not file.is_file():
            return CheckedImage(fault="no such file below prompts.image_root", reason=Reason.IMAGE_MISSING)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError, RuntimeError) as error:  # no permission, NUL in the name, a loop of links
        return CheckedImage(fault=f"cannot be read ({getattr(error, 'strerror', None) or error})")
    fault = _undecodable(file, max_pixels)
    return CheckedImage(fault=fault) if fault else CheckedImage(sha256=sha256)


def _leaves(root: Path, path: str) -> str:
    """Why `path` is not below `root`, or nothing."""
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\"):
        return "is absolute; write it relative to prompts.image_root"
    if ".." in PurePosixPath(path).parts or ".." in PureWindowsPath(path).parts:
        return "leaves its root by '..'; set prompts.image_root higher instead"
    if not (root / path).resolve().is_relative_to(root):
        return "is a link that leaves its root; set prompts.image_root to where the files are"
    return ""


def _undecodable(file: Path, max_pixels: int) -> str:
    """Why the bytes are no usable image, or nothing. The size is read from the header, before any pixel is."""
    try:
        with Pillow.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return (
                    f"is {width} x {height} pixels, more than prompts.max_image_pixels ({max_pixels}); "
                    "shrink it, or raise the limit if you trust it"
                )
            image.verify()
        with Pillow.open(file, formats=FORMATS) as image:  # verify() leaves the image unusable
            image.load()
    except Pillow.DecompressionBombError:
        return f"has more pixels than prompts.max_image_pixels ({max_pixels}) by far; is it a decompression bomb?"
    except UnidentifiedImageError:
        return f"is not an image ({', '.join(FORMATS)}), or one cut off in its header"
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, ... on corrupt files
        return f"is corrupt ({type(error).__name__}: {str(error).replace(str(file), file.name)[:120]})"
    return ""
