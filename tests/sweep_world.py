"""A recipe whose samples lie ready, on a tiny LLaVA and the small demo world: the rest of the road takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import small_run
from tiny_llava import save_tiny_language_model, save_tiny_llava

from align.prompts import load_prompts
from align.recipe import load_recipe
from annotate.records import Completion

RECIPE = """\
name: small
threads: 1
model: {folder}/vlm
backbone: {folder}/language
prompts: {{file: {folder}/demo/prompts.jsonl, image_root: {folder}/demo/images, limit: 12}}
sample: {{n: 2}}
annotate: {{backend: rules}}
pairs: {{min_margin: 1}}
dpo: {{lora: {{r: 4, alpha: 8}}, trl: {{per_device_train_batch_size: 4, max_steps: 2, learning_rate: 1.0e-2}}}}
steerlm: {{lora: {{r: 4, alpha: 8}}, trl: {{per_device_train_batch_size: 8, max_steps: 2, learning_rate: 1.0e-2}}}}
evaluate:
  folder: {folder}/demo/bench/dev
  suites: [text_instructions, open_visual]
  limit: 4
  max_new_tokens: 4
report: {{}}
"""


def make(folder: Path) -> Path:
    """The recipe; its `sample` is finished: the true answer of each prompt, and one that says nothing."""
    save_tiny_llava(folder / "vlm")
    save_tiny_language_model(folder / "language")
    script = [sys.executable, str(small_run.ROOT / "data/prepare_demo.py"), "--small", "--no-training"]
    subprocess.run([*script, "--out", str(folder / "demo")], check=True, capture_output=True)
    (folder / "small.yaml").write_text(RECIPE.format(folder=folder))
    recipe = load_recipe(folder / "small.yaml", [f"runs={folder / 'runs'}"])
    assert recipe.prompts is not None
    completions = [
        Completion.of(prompt_id=prompt.id, model="vlm", index=i, text=text)
        for prompt in load_prompts(recipe.prompts).prompts
        for i, text in enumerate((prompt.reference or "", "Maybe."))
    ]
    files = {"completions.jsonl": completions, "failures.jsonl": []}
    small_run.finish(recipe, "sample", files, units=len(completions) // 2)
    return folder / "small.yaml"
