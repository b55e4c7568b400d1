"""Corrupted pictures are those of `imagecorruptions` (asked by `tests/tools/golden_corruptions.py`), and repeatable."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from align.benchmarks import corruptions
from align.benchmarks.corruptions import CORRUPTIONS, GRID, corrupt, noise_image
from annotate.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "benchmark_golden" / "corruptions.json").read_text(encoding="utf-8"))


def pixels_of(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(GOLDEN["shape"])


PICTURE = Image.fromarray(pixels_of(GOLDEN["picture"]))


def made(name: str, severity: int, *, image: Image.Image = PICTURE, seed: int = 0, sha256: str = "ab" * 32) -> bytes:
    return corrupt(image, name, severity, seed=seed, sha256=sha256).tobytes()


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["defocus_blur", "contrast", "brightness"])
def test_pictures_are_those_of_imagecorruptions(name: str, severity: int) -> None:
    ours = np.frombuffer(made(name, severity), np.uint8).reshape(GOLDEN["shape"]).astype(int)
    difference = np.abs(ours - pixels_of(GOLDEN["corrupted"][f"{name}/{severity}"]))
    # A value that lies on a whole number is cut off to either side of it, as rounding has it; no other difference.
    assert difference.max() <= 1
    assert (difference > 0).mean() <= (0.02 if name == "brightness" else 0.0)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_noise_is_that_of_imagecorruptions_when_drawn_from_its_generator(severity: int) -> None:
    theirs = np.random.RandomState(GOLDEN["noise_seed"])
    noisy = corruptions._gaussian_noise(np.asarray(PICTURE) / 255, severity, theirs)  # type: ignore[arg-type]
    assert (
        corruptions._picture(noisy).tobytes() == pixels_of(GOLDEN["corrupted"][f"gaussian_noise/{severity}"]).tobytes()
    )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_picture_is_the_same_each_time_and_no_size_is_too_small(name: str) -> None:
    assert made(name, 3) == made(name, 3)
    assert made(name, 1) != made(name, 5)
    for size in ((1, 1), (2, 30), (30, 3)):
        tiny = corrupt(Image.new("RGB", size, (10, 200, 30)), name, 5, seed=0, sha256="cd")
        assert (tiny.size, tiny.mode) == (size, "RGB")


def test_noise_is_another_for_another_picture_seed_or_severity() -> None:
    draws = {
        made("gaussian_noise", 3),
        made("gaussian_noise", 3, seed=1),
        made("gaussian_noise", 3, sha256="cd" * 32),
        made("gaussian_noise", 4),
    }
    assert len(draws) == 4


def test_noise_has_the_spread_it_should() -> None:
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    noisy = np.frombuffer(made("gaussian_noise", 1, image=grey), np.uint8)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert noisy.mean() == pytest.approx(128 - 0.5, abs=0.5)  # cut off to whole numbers


def test_grey_and_transparent_pictures_come_out_in_colour() -> None:
    for mode in ("L", "RGBA", "P"):
        assert corrupt(PICTURE.convert(mode), "contrast", 1, seed=0, sha256="ab").mode == "RGB"


def test_white_stays_white_and_black_turns_grey_where_it_is_brighter() -> None:
    def lit(colour: tuple[int, int, int]) -> object:
        one = Image.new("RGB", (1, 1), colour)
        return corrupt(one, "brightness", 3, seed=0, sha256="ab").getpixel((0, 0))

    assert lit((255, 255, 255)) == (255, 255, 255)
    assert lit((0, 0, 0)) == (76, 76, 76)  # 0.3 of 255
    assert lit((100, 50, 0)) == (176, 88, 0)  # hue and saturation stay


def test_the_grid_of_the_paper_has_twelve_places() -> None:
    assert len(GRID) == 12
    assert list(map(str, GRID[:3])) == ["gaussian_noise_1", "gaussian_noise_3", "gaussian_noise_5"]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"no corruption 'fog'  Known: gaussian_noise, defocus_blur, contrast"):
        made("fog", 1)
    with pytest.raises(UserError, match=r"severity of contrast: 6; it goes from 1 to 5"):
        made("contrast", 6)


def test_a_blank_picture_is_zero_to_the_model_and_noise_is_standard_normal() -> None:
    mean, spread = np.array(corruptions.CLIP_MEAN), np.array(corruptions.CLIP_SPREAD)
    blank = noise_image("blank", (336, 200), 0, "question 81")
    assert blank.size == (336, 200)
    assert blank.getextrema() == ((123, 123), (117, 117), (104, 104))
    assert np.abs((np.asarray(blank) / 255 - mean) / spread).max() < 0.01
    noise = noise_image("gaussian", (336, 200), 0, "question 81")
    seen = (np.asarray(noise) / 255 - mean) / spread
    assert abs(seen.mean()) < 0.05
    assert 0.85 < seen.std() < 1.0  # clipping at black and white takes the ends
    assert noise.tobytes() == noise_image("gaussian", (336, 200), 0, "question 81").tobytes()
    assert noise.tobytes() != noise_image("gaussian", (336, 200), 0, "question 82").tobytes()
    assert noise.tobytes() != noise_image("gaussian", (336, 200), 1, "question 81").tobytes()
