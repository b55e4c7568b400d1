"""Pictures that have nothing to do with the question behind them: one for each row, the same for every model.

    blank       CLIP's mean colour                gaussian    noise of CLIP's mean and spread
    photo       one of a folder of photographs    corrupted   such a photograph with Gaussian noise of severity 3

Which photograph, and which noise, is decided by the seed of the run and the row's id. A picture that is made is known
by how it is made; it is drawn when it is first looked at, and kept below the stage's workspace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow

from align.benchmarks.corruptions import corrupt, noise_image
from align.benchmarks.rows import Row
from align.benchmarks.suite import NoiseKind
from annotate.errors import UserError
from annotate.pixels import rgb
from annotate.records import Image, replace, sha256_of

SIZE = (336, 336)
"""Of the pictures that are made: the resolution of LLaVA-1.5's tower."""
SEVERITY = 3
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How one picture is made."""

    kind: NoiseKind
    seed: int
    key: str
    photo: Path | None = None
    photo_sha256: str = ""

    @property
    def sha256(self) -> str:
        """The photograph's own, or a hash of how the picture is made."""
        if self.kind == "photo":
            return self.photo_sha256
        return sha256_of([self.kind, self.seed, self.key, list(SIZE), SEVERITY, self.photo_sha256])

    @property
    def image(self) -> Image:
        shown = self.photo.name if self.photo else f"{self.key or 'all'}.png"
        return Image(path=f"{self.kind}/{shown}", sha256=self.sha256)

    def file(self, folder: Path) -> Path:
        """Where it can be looked at; made below `folder` where it is not there yet."""
        if self.kind == "photo":
            assert self.photo is not None
            return self.photo
        path = folder / f"{self.sha256}.png"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            self._drawn().save(part, "PNG")
            part.replace(path)
        return path

    def _drawn(self) -> Pillow.Image:
        if self.photo is None:
            return noise_image("blank" if self.kind == "blank" else "gaussian", SIZE, self.seed, self.key)
        return corrupt(rgb(self.photo), "gaussian_noise", SEVERITY, seed=self.seed, sha256=self.photo_sha256)


def with_pictures(
    rows: Sequence[Row], kind: NoiseKind, *, seed: int, photos: str = ""
) -> tuple[tuple[Row, ...], Mapping[str, Picture]]:
    """The rows, each with a picture as its irrelevant image; and the pictures by their hash."""
    files = _photos(photos) if kind in ("photo", "corrupted") else []
    hashes: dict[Path, str] = {}
    made: dict[str, Picture] = {}
    shown = []
    for row in rows:
        photo = files[_number(seed, row.id) % len(files)] if files else None
        if photo is not None and photo not in hashes:
            hashes[photo] = hashlib.sha256(photo.read_bytes()).hexdigest()
        sha256 = hashes[photo] if photo else ""
        picture = Picture(kind=kind, seed=seed, key="" if kind == "blank" else row.id, photo=photo, photo_sha256=sha256)
        made[picture.sha256] = picture
        shown.append(replace(row, noise_image=picture.image))
    return tuple(shown), made


def _photos(folder: str) -> list[Path]:
    if not folder:
        raise UserError("evaluate.files.mt_bench.photos: missing; name a folder of photographs to draw from")
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in ENDINGS)
    if not found:
        raise UserError(f"{folder}: no photographs in it ({', '.join(ENDINGS)})")
    return found


def _number(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}/photo".encode()).digest()[:8], "big")
