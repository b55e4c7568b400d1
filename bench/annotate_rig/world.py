"""The rows of a benchmark run, as a user has them: prompts with real JPEG files, four completions each, a recipe.

    world = make_world(folder, n=600)
    world.write_recipe(backend="gemini", options={"base_url": "http://127.0.0.1:8123"}, requests_per_minute=1200)
    # then: align annotate FOLDER/bench.yaml runs=FOLDER/runs

Every image has other bytes and every completion another text, so that a service which derives its scores from what it
receives shows each swap and each loss. The first rows of a larger world are those of a smaller one.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_run
from PIL import Image as Picture

from align.recipe import load_recipe
from annotate.jsonl import write_records
from annotate.records import Completion, Image, Prompt, Turn

N_COMPLETIONS = 4
_WORDS = "a red small box stands left of two green round cups on the old table near an open window".split()


@dataclass(frozen=True, kw_only=True)
class World:
    folder: Path
    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]

    @property
    def recipe(self) -> Path:
        return self.folder / "bench.yaml"

    @property
    def run(self) -> Path:
        """Where `align annotate` leaves its stages."""
        return self.folder / "runs" / "bench"

    def write_recipe(self, *, backend: str, options: Mapping[str, Any], **annotate: Any) -> None:
        """The recipe, and its stage `sample` as finished. `annotate`: further keys of the block, None left out."""
        told = {"backend": backend, "model": "judge", "options": dict(options)}
        told |= {key: value for key, value in annotate.items() if value is not None}
        self.recipe.write_text(
            f"name: bench\nmodel: {self.folder}/model\n"
            f"prompts: {{file: {self.folder}/prompts.jsonl, image_root: {self.folder}/images}}\n"
            f"sample: {{n: {N_COMPLETIONS}}}\n"
            f"annotate: {json.dumps(told)}\n"
        )
        recipe = load_recipe(self.recipe, [f"runs={self.folder / 'runs'}"])
        sampled = {"completions.jsonl": self.completions, "failures.jsonl": []}
        small_run.finish(recipe, "sample", sampled, units=len(self.prompts))


def make_world(folder: Path, n: int, *, image_bytes: int = 0) -> World:
    """`n` rows below `folder`, their images about `image_bytes` large (0: as small as a JPEG is)."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    picture = _jpeg(image_bytes)
    prompts, completions = [], []
    for i in range(n):
        data = _with_comment(picture, f"picture {i}")
        path = folder / "images" / f"{i}.jpg"
        if not path.exists():
            path.write_bytes(data)
        image = Image(path=path.name, sha256=hashlib.sha256(data).hexdigest())
        text = f"<image>\nWhat stands on the table in picture {i}?"
        prompt = Prompt.of((Turn(role="user", text=text, images=(image,)),), source="bench", source_id=str(i))
        prompts.append(prompt)
        completions += [
            Completion.of(prompt_id=prompt.id, model="vlm", index=k, text=_completion(i, k))
            for k in range(N_COMPLETIONS)
        ]
    write_records(folder / "prompts.jsonl", prompts)
    return World(folder=folder, prompts=tuple(prompts), completions=tuple(completions))


def _completion(i: int, k: int) -> str:
    draw = random.Random(f"{i}/{k}")
    return f"In picture {i}, as I see it, {' '.join(draw.choices(_WORDS, k=draw.randint(8, 60)))}."


def _jpeg(image_bytes: int) -> bytes:
    """Noise; at this quality five pixels take four bytes."""
    side = max(8, round((1.265 * image_bytes) ** 0.5))
    picture = Picture.frombytes("L", (side, side), random.Random(0).randbytes(side * side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _with_comment(jpeg: bytes, comment: str) -> bytes:
    """The same picture in other bytes: a comment segment behind the start-of-image marker."""
    text = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]
