"""LLaMA-Factory and ms-swift load what `align convert` writes, each in an environment of its own, to one batch.

Not part of the normal suite: the first time, a few hundred megabytes are installed (see tools/environments.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_llava import ask_about, pair, save_image, save_tiny_llava

from align.formats import format_named
from align.formats.store import ImageStore
from align.formats.writing import write_file
from annotate.records import Example, Prompt, Turn

TOOLS = Path(__file__).parent / "tools"
sys.path.insert(0, str(TOOLS))
from environments import LLAMA_FACTORY, MS_SWIFT, Tool, Unavailable, python_of  # noqa: E402

pytestmark = pytest.mark.slow
GOOD, BAD = "The 4 is blue, I am sure.", "No"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pictures, and one file of pairs and one of examples for each tool."""
    root = tmp_path_factory.mktemp("world")
    save_tiny_llava(root / "model")
    a, b, c = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("abc"))
    dialogue = (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="<image>\nName a fruit.", images=(a,)),
        Turn(role="assistant", text="Apple."),
        Turn(role="user", text="Is it <image> that? ¿Sí?", images=(c,)),
    )
    prompts = [ask_about(a), ask_about(b, c, text="Which?"), ask_about(text="Hi"), Prompt.of(dialogue)]
    images = ImageStore(root=root)
    for name, ending in (("llama_factory", "json"), ("ms_swift", "jsonl")):
        form = format_named(name)
        examples = [Example.of(prompt=prompt, completion=GOOD, source="rejection") for prompt in prompts]
        write_file([pair(prompt, GOOD, BAD) for prompt in prompts], root / f"{name}.{ending}", form, images=images)
        write_file(examples, root / f"{name}_sft.{ending}", form, images=images)
    return root


def batch_of(tool: Tool, world: Path, script: str, *words: str) -> Any:
    """What the tool says of its batch; skipped, with the reason, where it cannot be installed."""
    try:
        python = python_of(tool)
    except Unavailable as error:
        pytest.skip(f"{tool.name} cannot be installed here: {error}")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(world / "hf"), "MODELSCOPE_CACHE": str(world / "ms")}
    done = subprocess.run(
        [python, TOOLS / script, world / "model", *words],
        cwd=world,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("stage", "file"), [("dpo", "llama_factory"), ("sft", "llama_factory_sft")])
def test_llama_factory_trains_on_what_we_write(world: Path, stage: str, file: str) -> None:
    batch = batch_of(LLAMA_FACTORY, world, "load_llama_factory.py", str(world), file, stage, str(world))
    both = stage == "dpo"
    assert batch["rows"] == 4
    assert batch["image_tokens"] == [9, 18, 0, 18] * (1 + both)  # nine for each image, nothing cut off
    assert batch["pixel_values"] == [5 * (1 + both), 3, 48, 48]
    # earlier answers are trained upon too in its fine-tuning, as the format's page says
    assert batch["trained_on"] == ([GOOD] * 4 + [BAD] * 4 if both else [GOOD, GOOD, GOOD, f"Apple.{GOOD}"])
    assert "Be brief.USER: " in batch["texts"][3] and " that? ¿Sí? ASSISTANT:" in batch["texts"][3]
    assert batch["loss"] > 0


@pytest.mark.parametrize(("mode", "file"), [("rlhf", "ms_swift.jsonl"), ("train", "ms_swift_sft.jsonl")])
def test_ms_swift_trains_on_what_we_write(world: Path, mode: str, file: str) -> None:
    batch = batch_of(MS_SWIFT, world, "load_ms_swift.py", file, mode)
    both = mode == "rlhf"
    assert batch["rows"] == 4
    assert batch["image_tokens"] == [9, 18, 0, 18] * (1 + both)
    assert batch["pixel_values"] == [5 * (1 + both), 3, 48, 48]
    assert batch["trained_on"] == [GOOD] * 4 + [BAD] * 4 * both
    assert "<s>Be brief.\nUSER: " in batch["texts"][3] and " that? ¿Sí?\nASSISTANT:" in batch["texts"][3]
    assert batch["loss"] > 0
