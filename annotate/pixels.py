"""An image file as the pixels that are looked at: by the sampler, trainer and evaluator, and by the annotator.

    rgb(Path("cat.png"))     upright, on white, 8 bits of red, green and blue; the first frame where there are several
    to_send(data)            the bytes for an annotator: as they are where everybody sees the same in them, else redrawn

An 8-bit image without transparency, animation and rotation is what it always was: its pixels, or its very bytes. What
becomes of each other kind of file stands in one table, in `align/formats/images.py`.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol, runtime_checkable

from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from PIL.Image import Image as Picture
from PIL.Image import Transpose

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded. Pillow knows more, some by starting other programs (EPS), which no data set should be able to do."""
LONGEST: Final = 200
"""How many times its height an image may be wide, and the other way round. Models bring the shorter side to a fixed
size: of 10 x 1,000,000 pixels would come 336 x 33,600,000."""
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_EIGHT_BIT: Final = ("1", "L", "P", "RGB", "RGBX", "RGBA", "LA", "PA", "CMYK", "YCbCr")
_SENT: Final = ("PNG", "JPEG", "MPO", "WEBP")
"""What every service takes. MPO is a JPEG with a second picture (depth, the other eye) behind it."""


_WARNINGS = threading.Lock()


@runtime_checkable
class Drawn(Protocol):
    """A picture that is made when it is looked at, and lies nowhere. Equal ones show the same."""

    def draw(self) -> Picture: ...


class UnreadableImage(OSError):
    """Bytes that are no usable image; the text says why, without a path."""


def rgb(source: Path | BinaryIO, *, max_pixels: int | None = None) -> Picture:
    """The pixels of an image. Raises `UnreadableImage`, or the `OSError` of a file that is not there.

    Without `max_pixels` Pillow's own limit remains, 179 million.
    """
    with quiet(), opened(source, max_pixels=max_pixels) as image:
        return _drawn(image)


def size(path: Path) -> tuple[int, int]:
    """Width and height of what `rgb` gives for a file, told from its header: no pixel is decoded.

    Raises as `rgb` does for a file that is not there, or no image by its header; what is broken behind it is not seen.
    """
    with quiet(), opened(path, decode=False) as image:
        turned = _UPRIGHT.get(1 if image.format == "PNG" and _unmarked(path.read_bytes()) else _orientation(image))
        swapped = turned in (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
        return (image.height, image.width) if swapped else image.size


def is_sent_as_it_is(data: bytes) -> bool:
    """Whether everybody sees the same in the bytes of a file, told from its header; also where they are no image at
    all, which is left to the annotator to refuse.
    """
    try:
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            return _is_plain(image, data)
    except (UnidentifiedImageError, Pillow.DecompressionBombError):
        return True
    except Exception:  # a header that is damaged: decoding will say how
        return False


def to_send(data: bytes) -> bytes:
    """The bytes an annotator gets, for the bytes of a file. Raises `UnreadableImage` where they cannot be redrawn.

    Services decode by rules of their own (which frame, which colour behind glass, upright or not), and some take no
    GIF, BMP, TIFF or PPM. Photographs are redrawn as JPEG of quality 95, since as PNG they would outgrow a request.
    """
    if is_sent_as_it_is(data):
        return data
    with quiet(), opened(io.BytesIO(data)) as image:
        lossy, picture = image.format in ("JPEG", "MPO"), _drawn(image)
    made = io.BytesIO()
    if lossy:
        picture.save(made, "JPEG", quality=95, subsampling=0)
    else:
        picture.save(made, "PNG")
    return made.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, of large images and damaged metadata: each has its answer here.

    Python keeps one list of warnings for all threads, hence the lock; who decodes in many threads takes it around them.
    """
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(
    source: Path | BinaryIO, *, max_pixels: int | None = None, checksums: bool = False, decode: bool = True
) -> Iterator[Picture]:
    """An image whose first frame is decoded, of sane size; `UnreadableImage` for whatever goes wrong on the way.

    The size is read from the header, before any pixel is. With `checksums`, those of a PNG are compared, which decoding
    it does not do; without `decode`, the header is all that is read.
    """
    try:
        if checksums:
            with Pillow.open(source, formats=FORMATS) as image:
                image.verify()  # nothing is decoded, and the image is of no use after it
        with Pillow.open(source, formats=FORMATS) as image:
            if (fault := _unfit(image, max_pixels)) is not None:
                raise UnreadableImage(fault)
            if decode:
                image.load()
            yield image
    except Pillow.DecompressionBombError:
        limit = "Pillow ever opens" if max_pixels is None else f"prompts.max_image_pixels ({max_pixels})"
        raise UnreadableImage(f"has more pixels than {limit} by far; is it a decompression bomb?") from None
    except UnidentifiedImageError:
        said = f"is not an image ({', '.join(FORMATS)}), or one cut off in its header"
        raise UnreadableImage(said) from None
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, ... on corrupt files
        if isinstance(error, OSError) and error.errno is not None:  # no such file, no permission, ...
            raise
        raise UnreadableImage(_why_corrupt(error)) from error


def _why_corrupt(error: Exception) -> str:
    return f"is corrupt ({type(error).__name__}: {str(error)[:120]})"


def _unfit(image: Picture, max_pixels: int | None) -> str | None:
    """What speaks against an image by its header."""
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        return (
            f"is {width} x {height} pixels, more than prompts.max_image_pixels ({max_pixels}); "
            "shrink it, or raise the limit if you trust it"
        )
    if max(width, height) > LONGEST * min(width, height):
        return f"is {width} x {height} pixels, a strip longer than {LONGEST} times its width; cut it into pieces"
    if image.mode not in _EIGHT_BIT and not _is_deep(image):
        return (
            f"has pixels of kind {image.mode!r}, whose black and white are not defined; "
            "save it with 8 bits of grey, or of red, green and blue"
        )
    return None


def _is_deep(image: Picture) -> bool:
    """Whether its grey has 16 bits. Pillow gives colour with 16 bits as 8 by itself."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


# ------------------------------------------------------------------------------------------------------- the pixels


def _drawn(image: Picture) -> Picture:
    """A decoded image upright, on white, as RGB."""
    method = _UPRIGHT.get(_orientation(image))
    glass = image.has_transparency_data and not _is_deep(image)
    made = image if method is None else image.transpose(method)
    if _is_deep(made):
        made = _upper_bytes(made)
    if glass:
        shown = made.convert("RGBA")
        made = Pillow.alpha_composite(Pillow.new("RGBA", shown.size, "white"), shown)
    return made.convert("RGB")


def _orientation(image: Picture) -> int:
    """As EXIF has it, or else XMP: 1 to 8. Damaged metadata turns nothing."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _upper_bytes(image: Picture) -> Picture:
    """16 bits of grey as the upper 8, as Pillow does with colour; its own conversion makes all above 255 white."""
    width = 4 if image.mode == "I" else 2
    big = image.mode == "I;16B"
    upper = image.tobytes()[0 if big else 1 :: width]
    return Pillow.frombytes("L", image.size, upper)


def _is_plain(image: Picture, data: bytes) -> bool:
    """Whether everybody sees the same in these bytes, told from the header alone."""
    if image.format not in _SENT or image.mode not in ("1", "L", "P", "RGB") or image.has_transparency_data:
        return False
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return False
    if image.format == "PNG":  # asked for its EXIF, a PNG would be decoded whole: it may stand behind the pixels
        if _unmarked(data):
            return True
    return _orientation(image) not in _UPRIGHT


def _unmarked(data: bytes) -> bool:
    """Whether a PNG says nothing of how it is to be turned."""
    return not any(mark in data for mark in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"))
