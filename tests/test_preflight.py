"""Before the first step: faulty rows by name, memory by arithmetic, the longest batch without a trace."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_rig import LORA, config, lora, our_trainer, row_of
from tiny_llava import FolderContext, ask_about, pair, run_stage, save_image

from align.context import PromptSet
from align.models.load import load_vlm
from align.recipe import Recipe
from align.settings import Lora, Train
from align.train import dpo
from align.train.lora_rows import Size, TrainRow, as_dataset, collate_preferences, measure_rows
from align.train.lora_run import train_lora
from align.train.preflight import Memory, costs, look_ahead, memory_needed, rehearse, wants_checkpointing
from annotate.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


# --------------------------------------------------------------------------------------------------------------- rows


def test_rows_that_cannot_be_trained_on_are_named_with_a_remedy(folder: Path, root: Path, tmp_path: Path) -> None:
    """Through the stage: nine image tokens each, 100 tokens at most."""
    good, missing = ask_about(save_image(root, "a.png", seed=1)), ask_about(save_image(root, "gone.png", seed=2))
    (root / "gone.png").unlink()
    many = ask_about(*[save_image(root, f"{i}.png", seed=i) for i in range(9)], text="Which?")
    prompts = [good, missing, many, ask_about(text="Hi"), ask_about(text="Ho")]
    pairs = [pair(good), pair(missing), pair(many), pair(prompts[3], chosen="why " * 90), pair(prompts[4], rejected="")]
    context = FolderContext(
        recipe=Recipe(path=root / "r.yaml", seed=1, dpo=Train(lora=LORA, max_length=80, trl={"max_steps": 1})),
        stage="dpo",
        model=folder,
        prompt_set=PromptSet(prompts=tuple(prompts), failures=(), duplicates=0, root=root),
        inputs={("pairs", "preference.jsonl"): pairs},
    )
    compiled, _ = run_stage(dpo.work(context), tmp_path)
    told: dict[str, str] = {f.record_id: f.detail for f in compiled.files["failures.jsonl"]}  # type: ignore[union-attr]
    assert told == {
        missing.id: "an image is missing; is image_root right?",
        many.id: told[many.id],
        prompts[3].id: told[prompts[3].id],
        prompts[4].id: "a completion has no text to learn from; leave the row out",
    }
    for prompt in (many, prompts[3]):  # nothing is cut, image tokens least of all
        assert told[prompt.id].endswith("; the limit is 80: raise dpo.max_length (the model takes 512) or shorten")
    assert told[many.id].startswith("114 tokens, 99 of the prompt (81 of them of 9 images) and 15 of the completion;")
    assert (compiled.units, compiled.outputs, compiled.failures) == (5, 1, 4)
    assert "| completions of one prompt | share its image and question" in str(compiled.files["card.md"])


def test_images_and_placeholders_are_counted_row_by_row(folder: Path, root: Path) -> None:
    """LLaVA's processor counts over the batch: an image too many here would serve a row that lacks one."""
    image = save_image(root, "a.png", seed=1)
    path = root / "a.png"
    rows = [
        TrainRow(id="two", prompt=ask_about(image), images=(path, path), completions=("a", "b")),
        TrainRow(id="none", prompt=ask_about(image), images=(), completions=("a", "b")),
    ]
    kept, failures = measure_rows(rows, look_ahead(folder).encoder, limit=None, stage="dpo")
    assert kept == []
    assert [(f.record_id, f.detail) for f in failures] == [
        ("two", "1 <image> placeholder(s) but 2 image(s) in one prompt"),
        ("none", "1 <image> placeholder(s) but 0 image(s) in one prompt"),
    ]


def test_rows_are_checked_before_the_weights_are_read(folder: Path, root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes() if path.suffix != ".safetensors" else b"not weights")
    with pytest.raises(UserError, match=r"dpo: no row to train on \(completion_empty\)"):
        train_lora(
            method="dpo",
            stage="dpo",
            rows=[row_of(ask_about(text="Hi"), root, "", "")],
            model=broken,
            settings=Train(lora=LORA),
            seed=1,
            folder=tmp_path / "out",
            progress=lambda done, total, note="": None,
        )


def test_a_batch_begins_with_bos_and_trains_eos(folder: Path, root: Path) -> None:
    vlm = load_vlm(folder)
    rows = [row_of(ask_about(save_image(root, "a.png", seed=1)), root, "Yes.", "No, it is not.")]
    packed = collate_preferences(rows, vlm.encoder, sharing=True)([{"row": 0}])["packed"]
    said = vlm.tokenizer.decode(packed["input_ids"][0], skip_special_tokens=False)
    assert said == "<s>USER: " + "<image>" * 9 + "\nWhich digit is blue? ASSISTANT: Yes.: No, it is not."
    labels = packed["labels"][0]
    assert vlm.tokenizer.decode(labels[labels != -100], skip_special_tokens=False) == " Yes.</s> No, it is not.</s>"


# ------------------------------------------------------------------------------------------------------------- memory


def test_costs_are_the_tokens_of_an_item(root: Path) -> None:
    one, two = ask_about(text="1"), ask_about(text="2")
    measured = [
        (row_of(one, root, "a", "b"), Size(10, (3, 4))),
        (row_of(two, root, "a", "b"), Size(20, (1, 2))),
        (row_of(one, root, "a", "c"), Size(10, (3, 6))),
    ]
    assert costs(measured, by_prompt=False, sharing=True) == [17, 23, 19]
    assert costs(measured, by_prompt=False, sharing=False) == [28, 44, 32]
    assert costs(measured, by_prompt=True, sharing=True) == [10 + 3 + 4 + 6, 23]  # "a" is computed once
    assert costs(measured, by_prompt=True, sharing=False) == [60, 44]


def test_memory_is_counted_from_the_shapes(folder: Path) -> None:
    ahead = look_ahead(folder)
    model = load_vlm(folder).model
    needed = memory_needed(folder, ahead.config, Train(lora=Lora(r=4)), [50, 80, 70], batch_size=2, itemsize=4)
    assert needed.weights == sum(p.numel() for p in model.parameters()) * 4
    projections = [m for n, m in model.named_modules() if ".language_model." in n and n.endswith("_proj")]
    assert needed.adapter == sum(4 * (m.in_features + m.out_features) for m in projections) * 16
    text = ahead.config.text_config
    layer = int(20.8 * text.hidden_size * 2 * 80 * 4)
    assert needed.kept == layer * text.num_hidden_layers
    assert needed.kept_checkpointed == text.hidden_size * 2 * 80 * 4 * text.num_hidden_layers + layer


def test_the_rule_of_thumb_is_near_what_autograd_keeps(tmp_path: Path, root: Path) -> None:
    """Within a third, on a Llama of LLaVA's proportions; exact counts would follow every release."""
    from align.building import ConnectSettings, LanguageSettings
    from align.models.tiny import build_language_model, build_processor, build_tokenizer, build_vlm

    tokenizer = build_tokenizer(["a"], 300)
    language = build_language_model(LanguageSettings(width=128, layers=6, heads=4), tokenizer)
    build_vlm(language, ConnectSettings(), tokenizer).save_pretrained(tmp_path / "m")
    build_processor(tokenizer).save_pretrained(tmp_path / "m")
    vlm = load_vlm(tmp_path / "m")
    trainer = our_trainer(vlm, config(tmp_path / "out"))
    row = row_of(ask_about(text="why " * 40), root, "because " * 12, "since " * 14)
    (measured, _) = measure_rows([row], vlm.encoder, limit=None, stage="dpo")
    tokens = costs(measured, by_prompt=False, sharing=True)
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = collate_preferences([row], vlm.encoder, sharing=True)([{"row": 0}])
    inputs |= {"ref_chosen_logps": torch.zeros(1), "ref_rejected_logps": torch.zeros(1)}
    trainer.precompute_ref_logps = True
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model, inputs)
    kept = sum(size for pointer, size in held.items() if pointer not in own)
    guess = memory_needed(tmp_path / "m", vlm.model.config, Train(lora=LORA), tokens, batch_size=1, itemsize=4).kept
    assert loss.item() > 0
    assert 0.67 < guess / kept < 1.5


@pytest.mark.parametrize(("itemsize", "dropout"), [(4, 0.0), (4, 0.05), (2, 0.0)])
def test_the_rule_of_thumb_holds_for_dropout_and_two_bytes(tmp_path: Path, itemsize: int, dropout: float) -> None:
    """Within a quarter. Adapters are in float32 beside a bfloat16 model, as PEFT makes them."""
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=688, num_hidden_layers=2, num_attention_heads=4
    )
    plain = LlamaForCausalLM(shape).to(torch.float32 if itemsize == 4 else torch.bfloat16)
    plain.save_pretrained(tmp_path)
    made = lora()
    made.lora_dropout, made.target_modules = dropout, r".*_proj"
    model = get_peft_model(plain, made).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    bf16 = torch.autocast("cpu", dtype=torch.bfloat16, enabled=itemsize == 2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), bf16:
        model.get_base_model().model(input_ids=torch.randint(0, 64, (1, 300)), use_cache=False)
    kept = sum(t.untyped_storage().nbytes() for pointer, t in held.items() if pointer not in own)
    settings = Train(lora=Lora(r=4, target=r".*_proj", dropout=dropout))
    guess = memory_needed(tmp_path, shape, settings, [300], batch_size=1, itemsize=itemsize, dropout=dropout > 0)
    assert 0.8 < guess.kept / kept < 1.25


@pytest.mark.parametrize(("free_gb", "wanted"), [(80, False), (24, False), (20, True), (16, True), (None, False)])
def test_checkpointing_is_chosen_by_memory(free_gb: float | None, wanted: bool) -> None:
    needed = Memory(weights=14 * 10**9, adapter=10**9, kept=5 * 10**9, kept_checkpointed=10**9)
    assert wants_checkpointing(needed, None if free_gb is None else int(free_gb * 1e9)) is wanted
    assert needed.told(checkpointing=False) == (
        "about 20.0 GB: weights 14.0 GB, adapter and optimizer 1.0 GB, activations of the longest batch 5.0 GB"
    )
    assert needed.told(checkpointing=True).endswith("activations of the longest batch 1.0 GB, gradient checkpointing")


def test_llava_7b_at_its_real_shapes(tmp_path: Path) -> None:
    """About 14 GB of weights, and 5.6 GB kept for a pair of 636 + 2 x 110 tokens, in bfloat16."""
    import json
    import struct

    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, vocab_size=32064)
    vision = CLIPVisionConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    shape = LlavaConfig(text_config=text, vision_config=vision, image_token_id=32000)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(shape)
    head = json.dumps({n: {"dtype": "BF16", "shape": list(p.shape)} for n, p in model.named_parameters()}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    needed = memory_needed(tmp_path, shape, Train(), [856], batch_size=1, itemsize=2)
    assert round(needed.weights / 1e9, 1) == 14.1
    assert round(needed.adapter / 1e9, 1) == 5.1  # r 128 on all projections: 320 million numbers
    assert round(needed.kept / 1e9, 1) == 5.6
    assert needed.kept_checkpointed < 0.4e9
    quantised = memory_needed(tmp_path, shape, Train(quantize="nf4"), [856], batch_size=1, itemsize=2)
    assert round(quantised.weights / 1e9, 1) == 4.5  # 6.5 billion weights at 4.13 bits, the rest as before


# ---------------------------------------------------------------------------------------------------------- rehearsal


def test_the_longest_batch_is_run_and_leaves_no_trace(folder: Path, root: Path, tmp_path: Path) -> None:
    vlm = load_vlm(folder)
    rows = [row_of(ask_about(text="why " * n), root, "yes", "no") for n in (1, 30, 4, 9)]
    trainer = our_trainer(vlm, config(tmp_path / "out", per_device_train_batch_size=2, disable_dropout=False))
    trainer.train_dataset = as_dataset(rows)
    seen: list[list[int]] = []

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append([item["row"] for item in items])
        return collate_preferences(rows, vlm.encoder, sharing=True)(items)

    trainer.data_collator = collate
    before = [p.clone() for p in trainer.model.parameters()]
    state = torch.random.get_rng_state()
    rehearse(trainer, [20, 90, 40, 60], [row.id for row in rows])
    assert seen == [[1, 3]]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(p.grad is None for p in trainer.model.parameters())
    assert not trainer._metrics["train"]
    assert trainer._total_train_tokens == 0


def test_a_batch_that_does_not_fit_is_named(folder: Path, root: Path, tmp_path: Path) -> None:
    """A mask of 2^22 x 2^22 is more than this machine has."""
    vlm = load_vlm(folder)
    rows = [row_of(ask_about(text="Hi"), root, "yes", "no")]
    trainer = our_trainer(vlm, config(tmp_path / "out"))

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate_preferences(rows, vlm.encoder, sharing=True)(items)
        batch["packed"]["segments"] = torch.zeros(1, 2**22, dtype=torch.long)
        return batch

    trainer.train_dataset, trainer.data_collator = as_dataset(rows), collate
    with pytest.raises(
        UserError, match=r"the longest batch does not fit into memory .rows .*/yes/no.; lower trl.per_de"
    ):
        rehearse(trainer, [20], [row.id for row in rows])


def test_the_recipe_decides_about_checkpointing_and_the_bytes_stay(folder: Path, root: Path, tmp_path: Path) -> None:
    rows = [row_of(ask_about(save_image(root, f"{i}.png", seed=i)), root, "yes", "no") for i in range(3)]
    made = [
        train_lora(
            method="dpo",
            stage="dpo",
            rows=rows,
            model=folder,
            settings=Train(
                lora=LORA, trl={"max_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": flag}
            ),
            seed=1,
            folder=tmp_path / str(flag),
            progress=lambda done, total, note="": None,
        )
        for flag in (False, True)
    ]
    assert made[0].log == made[1].log
    assert made[0].log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    weights = [hashlib.sha256((m.adapter / "adapter_model.safetensors").read_bytes()).hexdigest() for m in made]
    assert weights[0] == weights[1]
