"""Where the images of a data file are: those it names by path, and those whose bytes stand in its rows.

    ImageStore(root=Path("coco"))                    paths are looked up below coco/, opened, decoded, hashed
    ImageStore(root=None)                            paths are trusted: nothing is opened
    ImageStore(root=None, folder=Path("images"))     embedded images are kept as images/<sha256>.jpg, each once

An image that was not opened has `path:<its path>` for its sha256, so that one question about two images stays two
prompts; a stage that needs the pixels refuses it and says so.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from align.formats.images import check_bytes, check_image, inside
from annotate.errors import RecordError
from annotate.records import Image

UNOPENED = "path:"
MAX_PIXELS = 50_000_000


@dataclass(kw_only=True)
class ImageStore:
    """Looks each image up once; see the module's docstring."""

    root: Path | None
    folder: Path | None = None
    max_pixels: int = MAX_PIXELS
    root_name: str = "--image-root"
    """What sets the root: in a recipe it is `prompts.image_root`."""
    known: dict[str, Image | str] = field(default_factory=dict)
    """Path, or sha256 of embedded bytes -> the image, or why it cannot be used."""

    def named(self, path: str) -> Image:
        """An image by its path. Raises `RecordError` where it is no usable image below the root."""
        if self.root is None:  # nothing to look up, and nothing to remember
            return Image(path=path, sha256=UNOPENED + path)
        found = self.known.get(path)
        if found is None:
            found = self.known[path] = self._looked_up(self.root, path)
        if isinstance(found, str):
            raise RecordError(f"image {path!r}: {found}")
        return found

    def _looked_up(self, root: Path, path: str) -> Image | str:
        checked = check_image(root, path, max_pixels=self.max_pixels)
        return checked.fault.replace("prompts.image_root", self.root_name) or Image(path=path, sha256=checked.sha256)

    def embedded(self, data: bytes, name: str = "") -> Image:
        """An image by its bytes. Raises `RecordError` where they are none; `name` is for the words of the error."""
        sha256 = hashlib.sha256(data).hexdigest()
        found = self.known.get(sha256)
        if found is None:
            found = self.known[sha256] = self._kept(data, sha256)
        if isinstance(found, str):
            raise RecordError(f"embedded image {name!r}: {found}" if name else f"embedded image: {found}")
        return found

    def _kept(self, data: bytes, sha256: str) -> Image | str:
        checked = check_bytes(data, max_pixels=self.max_pixels)
        if checked.fault:
            return checked.fault
        name = f"{sha256}.{checked.ending}"
        if self.folder is not None and not (self.folder / name).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{name}.{os.getpid()}.tmp"
            temporary.write_bytes(data)
            temporary.replace(self.folder / name)
        return Image(path=name, sha256=sha256)

    def bytes_of(self, image: Image) -> bytes:
        """The bytes of an image. Raises `RecordError` where there is no such file, or it was changed."""
        for folder in (self.folder, self.root):
            file = inside(folder, image.path) if folder is not None else None
            if file is not None and file.is_file():
                data = file.read_bytes()
                if not image.sha256.startswith(UNOPENED) and hashlib.sha256(data).hexdigest() != image.sha256:
                    raise RecordError(f"image {image.path!r}: was changed since its record was written")
                return data
        raise RecordError(f"image {image.path!r}: this format embeds images; say where they are with --image-root")
