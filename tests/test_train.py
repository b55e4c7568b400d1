"""LoRA trainings with TRL: on our bytes, on the language model alone, and the same after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from tiny_llava import FolderContext, ask_about, pair, run_stage, save_image

from align.context import PromptSet
from align.models.load import LoadedModel, load_vlm
from align.recipe import Recipe
from align.settings import Lora, Train
from align.train import dpo, rejection, sft, steerlm
from align.train.lora_rows import TrainRow, check_rows, collate_examples, collate_preferences, preference_row
from align.train.lora_run import train_lora
from annotate.errors import UserError
from annotate.records import Completion, Example, Prompt, Turn

SMALL = Lora(r=4, alpha=8, dropout=0.2)
QUICK = {"per_device_train_batch_size": 4, "max_steps": 6, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    return load_vlm(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def prompts(root: Path) -> list[Prompt]:
    """One image, two images, none, and a text follow-up."""
    a, b, c = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("abc"))
    follow_up = (
        Turn(role="user", text="Name a fruit."),
        Turn(role="assistant", text="Apple."),
        Turn(role="user", text="Another."),
    )
    return [ask_about(a), ask_about(b, c, text="Which is brighter?"), ask_about(text="Hi"), Prompt.of(follow_up)]


def preference_rows(prompts: list[Prompt], root: Path) -> list[TrainRow]:
    return [preference_row(pair(p), root) for p in prompts]


def stage_context(
    folder: Path, root: Path, prompts: list[Prompt], stage: str, train: Train, **rest: Any
) -> FolderContext:
    return FolderContext(
        recipe=Recipe(path=root / "r.yaml", seed=1, **{stage: train}),
        stage=stage,
        model=folder,
        prompt_set=PromptSet(prompts=tuple(prompts), failures=(), duplicates=0, root=root),
        **rest,
    )


# ------------------------------------------------------------------------------------------------------------- rows


def test_a_preference_batch_is_the_templates_bytes(vlm: LoadedModel, prompts: list[Prompt], root: Path) -> None:
    rows = preference_rows(prompts, root)
    batch = collate_preferences(rows, vlm.encoder)([{"row": i} for i in range(4)])
    texts = [
        vlm.tokenizer.decode(ids[mask == 1], skip_special_tokens=False)
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    nine = "<image>" * 9
    before = [
        f"<s>USER: {nine}\nWhich digit is blue? ASSISTANT:",
        f"<s>USER: {nine}\n{nine}\nWhich is brighter? ASSISTANT:",
        "<s>USER: Hi ASSISTANT:",
        "<s>USER: Name a fruit. ASSISTANT: Apple.</s>USER: Another. ASSISTANT:",
    ]
    chosen, rejected = " The 4 is blue, I am sure.</s>", " No</s>"
    assert texts == [p + chosen for p in before] + [p + rejected for p in before]
    # the completion, end marker included, is what is compared; nothing else is
    completions = [
        vlm.tokenizer.decode(ids[mask == 1], skip_special_tokens=False)
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert completions == [chosen] * 4 + [rejected] * 4
    assert batch["pixel_values"].shape == (6, 3, 48, 48)


def test_only_completion_tokens_carry_loss(vlm: LoadedModel, prompts: list[Prompt], root: Path) -> None:
    rows = [
        TrainRow(id=r.id, prompt=r.prompt, images=r.images, completions=("Yes, it is.",))
        for r in preference_rows(prompts, root)
    ]
    batch = collate_examples(rows, vlm.encoder)([{"row": i} for i in range(4)])
    for labels in batch["labels"]:
        assert vlm.tokenizer.decode(labels[labels != -100], skip_special_tokens=False) == " Yes, it is.</s>"


def test_our_batch_is_the_one_trl_would_make(vlm: LoadedModel, prompts: list[Prompt], root: Path) -> None:
    """Ours is made of cached parts; TRL's collator processes each row anew, from the template's text."""
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    rows = preference_rows(prompts, root)
    ours = collate_preferences(rows, vlm.encoder)([{"row": i} for i in range(4)])
    theirs = DataCollatorForVisionPreference(vlm.processor)(
        [
            {
                "images": [PILImage.open(path).convert("RGB") for path in row.images],
                "prompt": vlm.encoder.render(row.prompt.turns)[0],
                "chosen": vlm.encoder.render(row.prompt.turns, row.completions[0])[1],
                "rejected": vlm.encoder.render(row.prompt.turns, row.completions[1])[1],
            }
            for row in rows
        ]
    )
    assert set(ours) == set(theirs)
    width = ours["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(ours[name] * ours["attention_mask"], (theirs[name] * theirs["attention_mask"])[:, :width])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_rows_that_do_not_fit_are_failures_and_never_cut(vlm: LoadedModel, prompts: list[Prompt], root: Path) -> None:
    good, *_ = prompts
    lost = ask_about(save_image(root, "lost.png", seed=9))
    (root / "lost.png").write_bytes(b"not an image")
    rows = [
        preference_row(pair(good), root),
        preference_row(pair(good, chosen="why " * 100), root),
        preference_row(pair(good, rejected="See <image>."), root),
        preference_row(pair(good, rejected=" "), root),
        preference_row(pair(lost), root),
        TrainRow(id="two", prompt=good, images=preference_row(pair(good), root).images * 2, completions=("a", "b")),
    ]
    kept, failures = check_rows(rows, vlm.encoder, limit=100, stage="dpo")
    assert kept == rows[:1]
    assert [f.reason.value for f in failures] == [
        "too_long",
        "invalid_input",
        "completion_empty",
        "image_unreadable",
        "invalid_input",
    ]
    assert failures[0].detail == (
        "424 tokens, 22 of the prompt (9 of them of 1 image) and 402 of the completion; the limit is 100: "
        "raise dpo.max_length or shorten"
    )
    assert "1 <image> placeholder(s) but 2 image(s)" in failures[4].detail
    assert not any(str(root) in f.detail for f in failures)


# --------------------------------------------------------------------------------------------------------- trainings


def test_dpo_starts_at_ln_2_and_learns_on_the_language_model_alone(
    folder: Path, prompts: list[Prompt], root: Path, tmp_path: Path
) -> None:
    context = stage_context(
        folder,
        root,
        prompts,
        "dpo",
        Train(lora=SMALL, trl=QUICK),
        inputs={("pairs", "preference.jsonl"): [pair(p) for p in prompts]},
    )
    compiled, notes = run_stage(dpo.work(context), tmp_path)
    log = [json.loads(line) for line in str(compiled.files["log.jsonl"]).splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert log[0]["rewards/margins"] == 0.0
    assert log[-1]["loss"] < 0.6
    assert log[-1]["rewards/accuracies"] == 1.0
    assert notes[0] == "loss 0.693"
    assert len(notes) == 6

    adapter = compiled.files["adapter"]
    assert isinstance(adapter, Path)
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trained_on",
    ]
    assert not list(tmp_path.rglob("checkpoint-*"))
    before, after = (dict(load_vlm(folder, adapter=a).model.state_dict()) for a in (None, adapter))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name for name in before if ".language_model.layers." in name and name.endswith("_proj.weight")}
    assert changed == layers
    assert (compiled.units, compiled.outputs, compiled.failures) == (4, 4, 0)
    assert "| rows given / trained on | 4 / 4 |" in str(compiled.files["card.md"])


def test_our_dpo_is_trls(folder: Path, prompts: list[Prompt], root: Path, tmp_path: Path) -> None:
    """The same losses and gradient norms as TRL's trainer with TRL's collator on the template's text."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from peft import LoraConfig
    from transformers import set_seed
    from trl import DPOConfig, DPOTrainer

    rows = preference_rows(prompts, root)
    ours = train_lora(
        method="dpo",
        stage="dpo",
        rows=rows,
        model=folder,
        settings=Train(lora=SMALL, trl=QUICK),
        seed=1,
        folder=tmp_path / "ours",
        progress=lambda done, total, note="": None,
    )
    plain = load_vlm(folder)
    set_seed(1)
    text = Value("string")
    trainer = DPOTrainer(
        model=plain.model,
        args=DPOConfig(
            output_dir=str(tmp_path / "theirs"),
            seed=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            max_length=None,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **QUICK,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "images": [str(path) for path in row.images],
                    "prompt": plain.encoder.render(row.prompt.turns)[0],
                    "chosen": plain.encoder.render(row.prompt.turns, row.completions[0])[1],
                    "rejected": plain.encoder.render(row.prompt.turns, row.completions[1])[1],
                }
                for row in rows
            ],
            features=Features({"images": List(ImageFeature()), "prompt": text, "chosen": text, "rejected": text}),
        ),
        processing_class=plain.processor,
        peft_config=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2, target_modules=SMALL.target, task_type="CAUSAL_LM"),
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("loss", "grad_norm", "learning_rate", "rewards/margins"):
        assert [e[name] for e in ours.log] == pytest.approx([e[name] for e in theirs], rel=1e-4, abs=1e-6), name


def example(prompt: Prompt, source: str) -> Example:
    return Example.of(prompt=prompt, completion="The 4 is blue.", source=source)


def test_rejection_and_steerlm_learn_their_answers(
    folder: Path, prompts: list[Prompt], root: Path, tmp_path: Path
) -> None:
    (tmp_path / "conditioning.json").write_text('{"text": "\\nHelpfulness:4", "attributes": {}, "rubric": "r"}')
    for module, name in ((rejection, "rejection"), (steerlm, "steerlm")):
        context = stage_context(
            folder,
            root,
            prompts,
            name,
            Train(lora=SMALL, trl=QUICK),
            inputs={("pairs", f"{name}.jsonl"): [example(p, name) for p in prompts]},
            files={("pairs", "conditioning.json"): tmp_path / "conditioning.json"},
        )
        compiled, _ = run_stage(module.work(context), tmp_path / name)
        log = [json.loads(line) for line in str(compiled.files["log.jsonl"]).splitlines()]
        assert log[-1]["loss"] < log[0]["loss"] - 0.5
        assert compiled.files.get("conditioning.txt") == ("\nHelpfulness:4" if name == "steerlm" else None)


def test_sft_learns_the_answers_of_the_teacher_and_accounts_for_long_ones(
    folder: Path, prompts: list[Prompt], root: Path, tmp_path: Path
) -> None:
    answers = [
        Completion.of(prompt_id=p.id, model="teacher", index=0, text="Looking closely, it is 4." if i else "so " * 99)
        for i, p in enumerate(prompts)
    ]
    context = stage_context(
        folder,
        root,
        prompts,
        "sft",
        Train(lora=SMALL, max_length=80, trl=QUICK),
        inputs={("teach", "completions.jsonl"): answers},
    )
    compiled, _ = run_stage(sft.work(context), tmp_path)
    (failure,) = compiled.files["failures.jsonl"]  # type: ignore[misc]
    assert failure.reason.value == "too_long"
    assert (compiled.units, compiled.outputs, compiled.failures) == (4, 3, 1)
    assert compiled.funnel == {"rows": 4, "failed: too_long": 1, "rows trained on": 3, "optimizer steps": 6}


def test_a_training_without_rows_says_why(folder: Path, prompts: list[Prompt], root: Path, tmp_path: Path) -> None:
    context = stage_context(
        folder,
        root,
        prompts,
        "dpo",
        Train(lora=SMALL, max_length=3, trl=QUICK),
        inputs={("pairs", "preference.jsonl"): [pair(p) for p in prompts]},
    )
    with pytest.raises(UserError, match=r"dpo: no row to train on \(too_long\)"):
        run_stage(dpo.work(context), tmp_path)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Train(trl={"save_steps": 5, "report_to": "wandb"}), "dpo.trl.report_to: cannot be set; .*\n.*save_steps"),
        (
            Train(lora=Lora(target=".*no_such"), trl=QUICK),
            "dpo.lora.target: '.*no_such' matches no module of this model",
        ),
    ],
)
def test_options_that_cannot_be_are_named(
    folder: Path, prompts: list[Prompt], root: Path, tmp_path: Path, train: Train, message: str
) -> None:
    context = stage_context(
        folder, root, prompts, "dpo", train, inputs={("pairs", "preference.jsonl"): [pair(p) for p in prompts]}
    )
    with pytest.raises(UserError, match=message):
        run_stage(dpo.work(context), tmp_path)
