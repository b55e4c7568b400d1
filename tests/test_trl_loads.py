"""What `align convert --to trl` writes, loaded by `datasets` and taken by TRL's own collators and trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from tiny_llava import OTHER_TEMPLATE, ask_about, pair, save_image

from align.formats import format_named
from align.formats.store import ImageStore
from align.formats.writing import write_file
from align.models.load import LoadedModel, load_vlm
from annotate.records import Example, PreferencePair, Prompt, Turn


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    """With a chat template of its processor's, as models on the hub have one: TRL asks for it."""
    found = load_vlm(folder)
    found.processor.chat_template = OTHER_TEMPLATE
    return found


def prompts(root: Path) -> list[Prompt]:
    """One image; two; none; and a dialogue with a system turn, an image at its end."""
    a, b, c = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("abc"))
    dialogue = (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="Name a fruit."),
        Turn(role="assistant", text="Apple."),
        Turn(role="user", text="Is it <image> that?", images=(c,)),
    )
    return [ask_about(a), ask_about(b, c, text="Which is brighter?"), ask_about(text="Hi"), Prompt.of(dialogue)]


def loaded(root: Path, tmp_path: Path, records: list[Any]) -> Any:
    """The records through a parquet file, as `datasets` has them."""
    from datasets import load_dataset

    out = tmp_path / "set.parquet"
    write_file(records, out, format_named("trl"), images=ImageStore(root=root))
    return load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))


def pairs(root: Path) -> list[PreferencePair]:
    return [pair(prompt) for prompt in prompts(root)]


def test_datasets_gives_pictures(tmp_path: Path) -> None:
    found = loaded(tmp_path, tmp_path, pairs(tmp_path))
    assert found.column_names == ["prompt", "chosen", "rejected", "images", "mmalign_meta"]
    assert [len(row["images"]) for row in found] == [1, 2, 0, 1]
    with Pillow.open(tmp_path / "a.png") as original:
        assert found[0]["images"][0].tobytes() == original.tobytes()
    assert found[0]["prompt"][0]["content"] == [
        {"type": "image", "text": None},
        {"type": "text", "text": "Which digit is blue?"},
    ]


def test_trls_preference_collator_makes_the_batch(vlm: LoadedModel, tmp_path: Path) -> None:
    """Every image in, every answer whole, and the loss on answers alone."""
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    rows = [dict(row) for row in loaded(tmp_path, tmp_path, pairs(tmp_path))]
    batch = DataCollatorForVisionPreference(vlm.processor)(rows)
    tokenizer = vlm.processor.tokenizer
    image_tokens = batch["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")
    assert image_tokens.sum(-1).tolist() == [9, 18, 0, 9] * 2
    assert list(batch["pixel_values"].shape) == [8, 3, 48, 48]
    answers = [
        tokenizer.decode(ids[mask.bool()], skip_special_tokens=True).strip()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert answers == ["The 4 is blue, I am sure."] * 4 + ["No"] * 4


def test_trls_dpo_trainer_takes_a_step(vlm: LoadedModel, folder: Path, tmp_path: Path) -> None:
    import math

    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=load_vlm(folder).model,
        ref_model=vlm.model,
        args=DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=4,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=loaded(tmp_path, tmp_path, pairs(tmp_path)),
        processing_class=vlm.processor,
    )
    trainer.train()
    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the policy is the reference still


def test_trls_sft_collator_takes_prompt_and_completion(vlm: LoadedModel, tmp_path: Path) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    examples = [Example.of(prompt=p, completion="Yes, it is.", source="rejection") for p in prompts(tmp_path)]
    rows = [dict(row) for row in loaded(tmp_path, tmp_path, examples)]
    batch = DataCollatorForVisionLanguageModeling(vlm.processor, completion_only_loss=True)(rows)
    tokenizer = vlm.processor.tokenizer
    trained = [tokenizer.decode(row[row != -100], skip_special_tokens=True).strip() for row in batch["labels"]]
    assert trained == ["Yes, it is."] * 4
    assert list(batch["pixel_values"].shape) == [4, 3, 48, 48]
