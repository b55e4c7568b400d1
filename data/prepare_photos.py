r"""Photographs that ship inside scikit-image and scikit-learn as a LLaVA-format file: an example of "your own data".

    python data/prepare_photos.py --out data/photos

writes `data/photos/images/*.jpg` and `data/photos/llava.json`, a list of rows such as

    {"id": "chelsea-0", "image": "chelsea.jpg",
     "conversations": [{"from": "human", "value": "<image>\nIs there a cat in the photo? Answer in one sentence."},
                       {"from": "gpt", "value": "Yes, there is a cat in the photo."}],
     "answer_key": {...}}

`answer_key` is optional: with it the `rules` annotator can grade the answers without any service (its form is described
in `data/prepare_demo.py`); a paid annotator needs none. Origin and licence of each photograph: `data/README.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

# What each photograph shows, and things it does not show: positive and negative questions, as in LRV-Instruct.
PHOTOS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "astronaut": (("woman", "flag"), ("dog", "bridge")),
    "camera": (("man", "camera"), ("cat", "car")),
    "chelsea": (("cat",), ("dog", "boat")),
    "coffee": (("cup", "spoon"), ("horse", "tree")),
    "coins": (("coin",), ("flower", "bicycle")),
    "horse": (("horse",), ("rocket", "cup")),
    "hubble_deep_field": (("galaxy",), ("house", "cat")),
    "moon": (("crater",), ("tree", "woman")),
    "motorcycle_left": (("motorcycle",), ("horse", "boat")),
    "rocket": (("rocket", "tower"), ("cow", "bridge")),
    "china": (("building", "tree"), ("cat", "rocket")),
    "flower": (("flower",), ("motorcycle", "man")),
}
FORMS = {"sentence": "Answer in one sentence.", "word": "Answer with one word."}


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def image_file(name: str) -> Path:
    """Where the installed libraries keep the photograph `name`."""
    from importlib.util import find_spec

    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            fail(f"this script needs {package}: make setup, then .venv/bin/python {sys.argv[0]}")
        for suffix in (".png", ".jpg"):
            path = Path(spec.submodule_search_locations[0]) / folder / (name + suffix)
            if path.exists():
                return path
    return fail(f"{name}: not in this version of scikit-image and scikit-learn")


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Yes-or-no questions about one photograph, half of them about things that are not there."""
    present, absent = PHOTOS[name]
    questions = [(thing, "yes") for thing in present] + [(thing, "no") for thing in absent]
    for number, (thing, truth) in enumerate(questions):
        form = "sentence" if number % 2 == 0 else "word"
        sentence = (
            f"Yes, there is a {thing} in the photo." if truth == "yes" else f"No, there is no {thing} in the photo."
        )
        yield {
            "id": f"{name}-{number}",
            "image": f"{name}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\nIs there a {thing} in the photo? {FORMS[form]}"},
                {"from": "gpt", "value": sentence if form == "sentence" else truth.capitalize() + "."},
            ],
            "answer_key": {"form": form, "claims": [{"vocabulary": ["yes", "no"], "truth": [truth], "given": []}]},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/photos"), help="folder to write (default data/photos)")
    arguments = parser.parse_args()
    files = {name: image_file(name) for name in PHOTOS}
    from PIL import Image

    images = arguments.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        with Image.open(file) as photo:
            photo.convert("RGB").save(images / f"{name}.jpg", quality=92)
    questions = [row for name in PHOTOS for row in rows(name)]
    (arguments.out / "llava.json").write_text(json.dumps(questions, indent=1), encoding="utf-8")
    print(f"{arguments.out}: {len(questions)} questions about {len(PHOTOS)} photographs")


if __name__ == "__main__":
    main()
