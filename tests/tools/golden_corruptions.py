"""Makes `tests/benchmark_golden/corruptions.json`: what `imagecorruptions` makes of a small picture of ours.

Numbers of the pictures are base64 of height x width x 3 bytes. Needs an environment of its own, and is run by hand:

    pip install imagecorruptions==1.1.2 "setuptools<81" opencv-python-headless scikit-image numba
    python tests/tools/golden_corruptions.py
"""

import base64
import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from imagecorruptions import corruptions

GOLDEN = Path(__file__).parent.parent / "benchmark_golden" / "corruptions.json"
NOISE_SEED = 3  # of numpy's global generator, from which gaussian_noise draws


def picture(height: int = 14, width: int = 16) -> np.ndarray:
    """Slopes of two colours, a black and a white square, and a grey corner with a speck."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(10, 250, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(200, 30, height).astype(np.uint8)[:, None]
    pixels[..., 2] = 90
    pixels[2:7, 2:7] = 0
    pixels[2:7, 10:14] = 255
    pixels[9:, :6] = 128
    pixels[11, 3] = (255, 0, 60)
    return pixels


def text(pixels: np.ndarray) -> str:
    return base64.b64encode(np.uint8(pixels).tobytes()).decode()


def main() -> int:
    pixels = picture()
    made = {}
    for name in ("gaussian_noise", "defocus_blur", "contrast", "brightness"):
        for severity in (1, 2, 3, 4, 5):
            np.random.seed(NOISE_SEED)
            made[f"{name}/{severity}"] = text(getattr(corruptions, name)(Image.fromarray(pixels), severity))
    packages = ("imagecorruptions", "opencv-python-headless", "scikit-image", "scipy", "numpy")
    golden = {
        "made_with": ", ".join(f"{package} {version(package)}" for package in packages),
        "noise_seed": NOISE_SEED,
        "shape": pixels.shape,
        "picture": text(pixels),
        "corrupted": made,
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
