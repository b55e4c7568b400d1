"""Runs of the stage `annotate` against the loopback service, through the command line, as a user has them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import small_run
from loopback import expected_scores
from PIL import Image as Picture

from align.recipe import load_recipe
from annotate.jsonl import read_records, write_records
from annotate.records import Annotated, Completion, Image, Prompt, Turn

KEY = "the-secret-of-the-service"
TEXTS = ("A cup.", "A red cup on the table, as it seems to me.", "Nothing is there.", "Two cups, one of them green.")


def make(folder: Path, questions: Sequence[str], *, url: str, backend: str = "gemini", **annotate: Any) -> Path:
    """A recipe whose stage `sample` is finished: a question, an image of its own and four completions per prompt."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    prompts = list(_prompts(folder / "images", questions))
    write_records(folder / "prompts.jsonl", prompts)
    options = {"base_url": url, "key_env": "SERVICE_KEY", **annotate.pop("options", {})}
    block = {"backend": backend, "model": "judge", "options": options, "requests_per_minute": 6000, **annotate}
    recipe = folder / "service.yaml"
    recipe.write_text(
        f"name: service\nmodel: {folder}/model\n"
        f"prompts: {{file: {folder}/prompts.jsonl, image_root: {folder}/images}}\n"
        f"sample: {{n: 4}}\nannotate: {json.dumps(block)}\n"
    )
    completions = [
        Completion.of(prompt_id=p.id, model="vlm", index=k, text=f"{text} ({i})")
        for i, p in enumerate(prompts)
        for k, text in enumerate(TEXTS)
    ]
    files = {"completions.jsonl": completions, "failures.jsonl": []}
    small_run.finish(load_recipe(recipe, [f"runs={folder / 'runs'}"]), "sample", files, units=len(prompts))
    return recipe


def _prompts(folder: Path, questions: Sequence[str]) -> Iterator[Prompt]:
    for i, question in enumerate(questions):
        stream = io.BytesIO()
        Picture.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(stream, "PNG")
        (folder / f"{i}.png").write_bytes(stream.getvalue())
        image = Image(path=f"{i}.png", sha256=hashlib.sha256(stream.getvalue()).hexdigest())
        turn = Turn(role="user", text=f"<image>\n{question}", images=(image,))
        yield Prompt.of((turn,), source="service", source_id=str(i))


def annotated(folder: Path) -> list[Annotated]:
    return list(read_records(folder / "runs/service/annotate/annotated.jsonl", Annotated))


def wrong_scores(records: Sequence[Annotated]) -> int:
    """Completions whose scores are not those that the service derives from its text and the prompt's image."""
    scale = {name: (0, 4) for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")}
    wrong = 0
    for record in records:
        images = [image.sha256 for image in record.prompt.images]
        scores = record.scores()
        wrong += sum(scores[c.id] != expected_scores(c.text, images, scale) for c in record.completions)
    return wrong
