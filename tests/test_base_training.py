"""The base from nothing, a few steps long: it joins up, it resumes exactly, it trains on the bytes of the template."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.building import ConnectSettings, LanguageSettings, TuneSettings
from align.train.rows import Conversation, Patches
from annotate.records import Image, Turn

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {"steps": 4, "batch_size": 4, "save_every": 2}
LANGUAGE = LanguageSettings(width=32, layers=1, heads=2, **SMALL)
CONNECT = ConnectSettings(tower_layers=1, **SMALL)
TUNE = TuneSettings(curriculum_steps=2, text_share=0.3, **SMALL)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    command = [sys.executable, str(ROOT / "data" / "prepare_demo.py"), "--out", str(out), "--small"]
    subprocess.run(command, check=True, capture_output=True)
    return out


def rows(world: Path, name: str, kind: Any) -> list[Any]:
    return [kind.from_json(json.loads(line)) for line in (world / f"{name}.jsonl").read_text().splitlines()]


def build(world: Path, out: Path, kill_at: int | None = None) -> None:
    """The three stages into `out`; with `kill_at`, each stage dies once at that step and starts again."""
    from align.train.connect import train_connect
    from align.train.language import train_language
    from align.train.tune import train_tune

    images = world / "images"

    def once(stage: str, train: Any) -> None:
        workspace, model = out / f"{stage}-workspace", out / stage
        if kill_at is not None:

            def die(step: int, steps: int, loss: float) -> None:
                if step == kill_at:
                    raise Killed

            with pytest.raises(Killed):
                train(workspace, model, die)
            half = workspace / f"checkpoint-{kill_at}"  # what a kill while saving leaves: no completion marker
            half.mkdir(exist_ok=True)
            (half / "model.safetensors").write_bytes(b"torn")
        log = train(workspace, model, None)
        assert [row["step"] for row in log] == [1, 2, 3, 4]

    language, connect = rows(world, "language", Conversation), rows(world, "connect", Patches)
    tune = rows(world, "tune", Conversation)
    once("language", lambda w, m, p: train_language(language, LANGUAGE, 0, w, m, p))
    once("connect", lambda w, m, p: train_connect(connect, out / "language", images, CONNECT, 0, w, m, p))
    once("tune", lambda w, m, p: train_tune(tune, out / "connect", images, TUNE, 0, w, m, p))


@pytest.fixture(scope="module")
def built(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build(world, out)
    return out


def test_a_killed_run_ends_with_the_same_bytes(world: Path, built: Path, tmp_path: Path) -> None:
    build(world, tmp_path, kill_at=3)
    for stage in ("language", "connect", "tune"):
        one, other = (folder / stage / "model.safetensors" for folder in (built, tmp_path))
        assert one.read_bytes() == other.read_bytes(), stage


def test_each_stage_changes_what_it_should(built: Path) -> None:
    from safetensors.torch import load_file

    language, connect, tune = (load_file(built / s / "model.safetensors") for s in ("language", "connect", "tune"))
    shared = "model.layers.0.mlp.up_proj.weight"
    in_vlm = f"language_model.{shared}"
    assert torch.equal(language[shared], connect[in_vlm])
    assert not torch.equal(connect[in_vlm], tune[in_vlm])
    tower = [name for name in connect if "vision_tower" in name]
    assert tower and all(torch.equal(connect[name], tune[name]) for name in tower)


def test_what_is_saved_loads_as_float32_with_its_processor(built: Path) -> None:
    from transformers import AutoProcessor, LlamaForCausalLM, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(built / "tune")
    processor = AutoProcessor.from_pretrained(built / "tune", backend="pil")
    assert model.dtype == torch.float32 and model.config.text_config.use_cache
    assert LlamaForCausalLM.from_pretrained(built / "language").config.vocab_size == len(processor.tokenizer)


def test_a_batch_decodes_to_the_template_and_its_labels_to_the_answers(built: Path) -> None:
    from transformers import AutoProcessor

    from align.train.base import IGNORED, encode, pad

    tokenizer = AutoProcessor.from_pretrained(built / "tune", backend="pil").tokenizer
    image = Image(path="x.png", sha256="0" * 64)
    talk = Conversation(
        turns=(
            Turn(role="user", text="<image>\nIs there a 7?", images=(image,)),
            Turn(role="assistant", text="Yes"),
            Turn(role="user", text="What color is it?"),
            Turn(role="assistant", text="The 7 is red."),
        )
    )
    batch = pad([encode(talk, tokenizer, image_tokens=9)], tokenizer.pad_token_id)
    decoded = tokenizer.decode(batch["input_ids"][0], skip_special_tokens=False)
    assert decoded == (
        f"<s>USER: {'<image>' * 9}\nIs there a 7? ASSISTANT: Yes</s>"
        "USER: What color is it? ASSISTANT: The 7 is red.</s>"
    )
    labels = batch["labels"][0]
    assert tokenizer.decode(labels[labels != IGNORED]) == " Yes</s> The 7 is red.</s>"


def test_pixels_are_those_of_the_processor(world: Path, built: Path) -> None:
    from PIL import Image as PIL
    from transformers import AutoProcessor

    from align.models.tiny import pixel_values
    from align.train.connect import read_pixels

    processor = AutoProcessor.from_pretrained(built / "tune", backend="pil")
    path = next((world / "images" / "train").iterdir())
    theirs = processor.image_processor(images=PIL.open(path), return_tensors="pt")["pixel_values"]
    assert torch.allclose(theirs, pixel_values([read_pixels(path)], processor), atol=1e-6)


def test_the_curriculum_admits_levels_step_by_step(world: Path) -> None:
    from align.train.tune import plan_order

    data = rows(world, "tune", Conversation)
    settings = replace(TUNE, steps=40, curriculum_steps=20)
    order = plan_order(data, settings, seed=0)
    levels = [max(data[i].level for i in order[k * 4 : k * 4 + 20]) for k in range(0, 40, 5)]
    assert len(order) == 160 and levels == sorted(levels) and levels[0] == 1 and levels[-1] == 4
    assert 0 < sum(not data[i].images for i in order) < 80
