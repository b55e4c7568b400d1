"""`accelerate launch -m align ...` on two CPU processes, with the shipped configurations; and a recipe for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from small_run import ROOT, environment, finish
from tiny_llava import ask_about, pair, save_image, save_tiny_llava

from align.recipe import load_recipe
from annotate.jsonl import write_records

RECIPE = """\
name: small
model: {folder}/model
prompts: {{file: {folder}/prompts.jsonl, image_root: {folder}/images}}
sample: {{n: 2}}
annotate: {{backend: rules}}
pairs: {{}}
dpo:
  lora: {{r: 4, alpha: 8, dropout: 0.0}}
  batches: mixed
  checkpoint_every: 2
  trl: {{per_device_train_batch_size: 2, max_steps: 6, learning_rate: 1.0e-2}}
"""


def dpo_recipe(folder: Path) -> Path:
    """A recipe whose pairs are there: of sixteen prompts every other one has an image, or two."""
    folder.mkdir(exist_ok=True)
    (folder / "images").mkdir()
    save_tiny_llava(folder / "model")
    images = [save_image(folder / "images", f"{i}.png", seed=i) for i in range(4)]
    shown = [() if i % 2 else tuple(images[i % 4 : i % 4 + 1 + i % 3]) for i in range(16)]
    asked = [ask_about(*images, text=f"Which is number {i}?") for i, images in enumerate(shown)]
    write_records(folder / "prompts.jsonl", asked)
    (folder / "small.yaml").write_text(RECIPE.format(folder=folder))
    recipe = load_recipe(folder / "small.yaml", [f"runs={folder / 'runs'}"])
    finish(recipe, "sample", {"completions.jsonl": [], "failures.jsonl": []})
    finish(recipe, "annotate", {"annotated.jsonl": [], "failures.jsonl": []})
    finish(recipe, "pairs", {"preference.jsonl": [pair(prompt) for prompt in asked]})
    return folder / "small.yaml"


def start(config: str, verb: str, recipe: Path, *changes: str) -> subprocess.Popen[str]:
    """Two processes; standard output and error of all in two pipes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["--config_file", ROOT / "recipes/accelerate" / config, "--num_processes", 2, "--main_process_port", port]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, "-m", "align", verb, recipe]
    return subprocess.Popen(
        [*map(str, command), f"runs={recipe.parent / 'runs'}", *changes],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment("") | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], *, seconds: float = 200) -> tuple[int, str, str]:
    """Exit code, output and errors; whatever is still there after `seconds` is killed, and that fails the test."""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, errors


def alone(verb: str, recipe: Path, *changes: str) -> None:
    """The same in one process."""
    command = [sys.executable, "-m", "align", verb, str(recipe), f"runs={recipe.parent / 'runs'}", *changes]
    subprocess.run(command, check=True, capture_output=True, env=environment("") | {"OMP_NUM_THREADS": "1"})


def log_of(recipe: Path) -> list[dict[str, Any]]:
    path = recipe.parent / "runs/small/dpo/log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def rank_processes(process: subprocess.Popen[str]) -> dict[int, int]:
    """Rank -> process id of the launcher's children that run `align`."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == process.pid:
                place = dict(e.split("=", 1) for e in (folder / "environ").read_text().split("\0") if "=" in e)
                if "RANK" in place:
                    found[int(place["RANK"])] = int(folder.name)
        except (OSError, ValueError, IndexError):
            continue
    return found


def wait_for(folder: Path, pattern: str, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, pattern
        time.sleep(0.02)
