"""What an image is compared by: a sha256 of its bytes and two hashes of what it shows.

    read_print(Path("cat.jpg"))  ->  ImagePrint(sha256="5c1e…", dct=0x9db8c2c7445dbb24, gradient=0xbfbf3a383c3870e0)
    near(ours, theirs, distance) ->  which of two arrays of hashes differ in at most `distance` bits

Two images are near where the hash of their lowest frequencies (DCT) and the hash of their gradients both differ in few
of 64 bits. That finds copies that were resized, stretched, recompressed, turned grey or made lighter, and most that
were cropped by 1% at each side; not mirrored, turned or further cropped ones. Flat images have no hashes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from align.formats.store import MAX_PIXELS
from annotate.pixels import UnreadableImage, rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

DISTANCE = 5
"""Bits of 64: resized and recompressed photographs differ in 0 to 3, others in 20 and up, charts in 6 and up."""
FLAT = 4.0
"""Standard deviation, of 255 grey levels at 32 x 32 pixels, below which an image shows too little to be told by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePrint:
    """What an image is compared by; hashes None: flat, or only the sha256 of its bytes is known."""

    sha256: str
    dct: int | None = None
    gradient: int | None = None
    flat: bool = False
    name: str = ""
    """The file's name without its folders, by which an image that could not be opened is known."""


def file_name(path: str) -> str:
    """Without its folders: "val2014/1.jpg" -> "1.jpg"."""
    return PurePosixPath(path.replace("\\", "/")).name


def fingerprint(picture: Picture) -> tuple[int, int] | None:
    """The two hashes of an image as `annotate.pixels.rgb` draws it, None where it is flat.

    The same bits as `phash` and `dhash` of ImageHash 4.3; ours, since the library would bring scipy and PyWavelets
    (150 MB) for a cosine transform of 32 x 32 pixels.
    """
    import numpy as np
    from PIL.Image import Resampling

    grey = picture.convert("L")
    small = np.asarray(grey.resize((32, 32), Resampling.LANCZOS), dtype=np.float64)
    if small.std() < FLAT:
        return None
    low = _cosines() @ small @ _cosines().T
    steps = np.asarray(grey.resize((9, 8), Resampling.LANCZOS), dtype=np.int16)
    return _bits(low > np.median(low)), _bits(steps[:, 1:] > steps[:, :-1])


@cache
def _cosines() -> NDArray[np.float64]:
    """The eight lowest frequencies of a DCT-II over 32 points."""
    import numpy as np

    return np.asarray(2 * np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32) + 1) / 64))


def _bits(of: NDArray[np.bool_]) -> int:
    import numpy as np

    return int.from_bytes(np.packbits(of).tobytes(), "big")


def read_print(path: Path) -> ImagePrint | None:
    """What the image in a file is compared by; None where there is no usable one."""
    try:
        return fingerprint_of(path.read_bytes()) if path.is_file() else None
    except OSError:
        return None


def fingerprint_of(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImagePrint | None:
    """What an image is compared by, of its bytes; None where they are no usable image."""
    try:
        found = fingerprint(rgb(BytesIO(data), max_pixels=max_pixels))
    except UnreadableImage:
        return None
    dct, gradient = found or (None, None)
    return ImagePrint(sha256=hashlib.sha256(data).hexdigest(), dct=dct, gradient=gradient, flat=found is None)


def near(a: NDArray[np.uint64], b: NDArray[np.uint64], distance: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All (i, j) for which a[i] and b[j] differ in at most `distance` bits, without comparing each with each.

    Of four 16-bit quarters at least one then differs in at most distance // 4 bits (Norouzi et al. 2012): each quarter
    of `a` looks up its few neighbours in a table of that quarter of `b`.
    """
    import numpy as np

    nothing = np.empty(0, dtype=np.intp)
    if not len(a) or not len(b):
        return nothing, nothing
    rows, columns = [nothing], [nothing]
    for quarter in range(4):
        shift = np.uint64(16 * quarter)
        ours, theirs = ((x >> shift).astype(np.uint16) for x in (a, b))
        order = np.argsort(theirs, kind="stable")
        begins = np.searchsorted(theirs[order], np.arange(2**16 + 1))
        for mask in _masks(distance // 4):
            wanted = ours ^ np.uint16(mask)
            counts = begins[wanted.astype(np.intp) + 1] - begins[wanted]
            i = np.repeat(np.arange(len(a)), counts)
            within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
            j = order[np.repeat(begins[wanted], counts) + within]
            close = _popcount(a[i] ^ b[j]) <= distance
            rows.append(i[close])
            columns.append(j[close])
    both = np.unique(np.stack([np.concatenate(rows), np.concatenate(columns)]), axis=1)
    return both[0], both[1]


@cache
def _masks(radius: int) -> list[int]:
    """All 16-bit numbers with at most `radius` bits set."""
    return [mask for mask in range(2**16) if mask.bit_count() <= radius]


def _popcount(x: NDArray[np.uint64]) -> NDArray[np.int64]:
    import numpy as np

    return np.asarray(sum(_ones()[(x >> np.uint64(16 * quarter)).astype(np.uint16)] for quarter in range(4)))


@cache
def _ones() -> NDArray[np.int64]:
    """How many bits of each 16-bit number are set."""
    import numpy as np

    bits = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16)
    return np.asarray(bits.sum(axis=1, dtype=np.int64))
