"""Pictures made worse on purpose: what a model answers when the photograph is noisy, blurred, pale or too bright.

In: an RGB picture, the name of a corruption, a severity of 1 to 5. Out: an RGB picture of the same size, never written
to a disk. Four corruptions of Hendrycks & Dietterich (arXiv:1903.12261, appendix B) with the strengths of their
ImageNet-C, which `imagecorruptions` applies to COCO ("COCO-C"); the paper's grid is these four at severities 1, 3, 5.

The noise of a picture comes from the seed and the picture's own bytes (its sha256), so that it is the same in any
order, batch or process, and for any two models that are compared. The other three draw nothing.

And pictures that have nothing to say, to be put before a question that needs none (noisy-image MT-Bench).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from annotate.errors import UserError
from annotate.pixels import rgb

Pixels = NDArray[np.float64]  # height, width, channel; 0 to 1

SEVERITIES = (1, 2, 3, 4, 5)
PAPER_SEVERITIES = (1, 3, 5)

# Mean and spread of a channel over the pictures that CLIP was trained on, 0 to 1: what its processor subtracts and
# divides by. A picture of the mean is zero after it; noise of the mean and spread is standard normal, clipped.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_SPREAD = (0.26862954, 0.26130258, 0.27577711)


def _gaussian_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    spread = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return pixels + rng.normal(size=pixels.shape, scale=spread)


def _defocus_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return _filtered(pixels, _disk(radius, softness))


def _contrast(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean: Pixels = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * kept + mean


def _brightness(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Value of hue, saturation, value goes up. At fixed hue and saturation that scales the three channels alike."""
    more = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    value: Pixels = pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + more, 1.0)
    share = np.divide(pixels, value, out=np.ones_like(pixels), where=value > 0)  # black has no hue: it turns grey
    return share * brighter


VERSION = "corruptions/1"
"""Of the arithmetic; goes into the hash of what a model is shown."""

_BY_NAME: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "gaussian_noise": _gaussian_noise,
    "defocus_blur": _defocus_blur,
    "contrast": _contrast,
    "brightness": _brightness,
}
CORRUPTIONS = tuple(_BY_NAME)


@dataclass(frozen=True)
class Corruption:
    """One place of the grid."""

    name: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in _BY_NAME:
            near = difflib.get_close_matches(self.name, CORRUPTIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"no corruption {self.name!r}{hint}  Known: {', '.join(CORRUPTIONS)}")
        if self.severity not in SEVERITIES:
            raise UserError(f"severity of {self.name}: {self.severity}; it goes from 1 to 5")

    def __str__(self) -> str:
        return f"{self.name}_{self.severity}"

    @classmethod
    def of(cls, text: str) -> Corruption:
        """Of `gaussian_noise_3`. Raises `UserError`."""
        name, _, severity = text.rpartition("_")
        if not severity.isdecimal():
            raise UserError(f"corruption {text!r}: expected a name and a severity, such as {CORRUPTIONS[0]}_3")
        return cls(name, int(severity))


@dataclass(frozen=True)
class CorruptedImage:
    """An image file that is made worse when it is looked at; equal ones show the same."""

    path: Path
    sha256: str
    corruption: Corruption

    def draw(self) -> Image.Image:
        """Raises what `annotate.pixels.rgb` raises."""
        how = self.corruption
        return corrupt(rgb(self.path), how.name, how.severity, seed=how.seed, sha256=self.sha256)


GRID = tuple(Corruption(name, severity) for name in CORRUPTIONS for severity in PAPER_SEVERITIES)


def corrupt(image: Image.Image, name: str, severity: int, *, seed: int, sha256: str) -> Image.Image:
    """The picture made worse; `sha256` is that of the picture's file, and decides its noise together with the seed."""
    Corruption(name, severity)  # raises
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    worse = _BY_NAME[name](pixels, severity, _generator(seed, sha256, name, severity))
    return _picture(worse)


def noise_image(kind: Literal["blank", "gaussian"], size: tuple[int, int], seed: int, key: str) -> Image.Image:
    """A picture without content: CLIP's mean colour, or noise of its mean and spread; `key` names the question."""
    width, height = size
    mean = np.broadcast_to(np.array(CLIP_MEAN), (height, width, 3))
    if kind == "blank":
        return Image.fromarray(np.round(mean * 255).astype(np.uint8))
    rng = _generator(seed, key, "noise_image", *size)
    return _picture(mean + rng.normal(size=mean.shape) * np.array(CLIP_SPREAD))


def _generator(*what: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8))  # cut off, as the originals do


def _disk(radius: int, softness: float) -> Pixels:
    """What a point becomes out of focus: a disk of sum 1, its edge softened. In single precision, as the originals."""
    reach, taps = (8, 1) if radius <= 8 else (radius, 2)
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across[None, :] ** 2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    edge = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * softness**2))
    edge /= edge.sum()
    padded = np.pad(disk.astype(np.float64), taps, mode="reflect")
    rows = sum(weight * padded[i : i + len(across)] for i, weight in enumerate(edge))
    columns = sum(weight * rows[:, i : i + len(across)] for i, weight in enumerate(edge))
    return np.asarray(columns, dtype=np.float32).astype(np.float64)


def _filtered(pixels: Pixels, kernel: Pixels) -> Pixels:
    """Convolution; beyond its border the picture is its own mirror image. The kernel is symmetric."""
    height, width, _ = pixels.shape
    reach = len(kernel) // 2
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    shape = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, shape)[:, :, None]
    return np.fft.irfft2(spectrum, shape, axes=(0, 1))[2 * reach :, 2 * reach :][:height, :width]
