"""A small real LLaVA that looks hard at single tokens, batches for it, and two trainers to compare: TRL's and ours."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from tiny_llava import CORPUS, ask_about, save_image

from align.building import ConnectSettings, LanguageSettings
from align.models.load import LoadedModel
from align.models.tiny import build_language_model, build_processor, build_tokenizer, build_vlm
from align.settings import Lora
from align.train.lora_rows import TrainRow, collate_preferences
from annotate.records import Prompt

LORA = Lora(r=4, alpha=8, dropout=0.0)
WORDS = "red blue seven four pear plum yes no maybe the a digit picture is was not".split()


def save_sharp_llava(folder: Path) -> Path:
    """Queries and keys six times as large: a wrong mask or image cannot hide in an average."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(CORPUS, 400)
    language = build_language_model(LanguageSettings(width=48, layers=3, heads=4, init_std=0.12), tokenizer)
    model = build_vlm(language, ConnectSettings(projector_std=0.3), tokenizer)
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 6
        layer.self_attn.k_proj.weight.data *= 6
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def draw_rows(root: Path, *, seed: int) -> list[TrainRow]:
    """Pairs of one to three prompts with 0, 1 or 2 images (some shown twice) and 2 to 6 completions each."""
    draw = random.Random(seed)
    images = [save_image(root, f"{i}.png", seed=i) for i in range(3)]
    rows: list[TrainRow] = []
    for number in range(draw.randint(1, 3)):
        shown = [draw.choice(images) for _ in range(draw.choice((0, 1, 1, 2)))]
        prompt = ask_about(*shown, text=f"{number} {_words(draw, 1, 12)}?")
        texts = [_words(draw, 1, 14) for _ in range(draw.randint(2, 6))]
        pairs = list(combinations(range(len(texts)), 2))
        if draw.random() < 0.5:
            pairs = [p for p in pairs if p[0] == 0]  # the best against the rest
        rows += [row_of(prompt, root, texts[a], texts[b]) for a, b in pairs[:7]]
    draw.shuffle(rows)
    return rows


def _words(draw: random.Random, low: int, high: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def row_of(prompt: Prompt, root: Path, chosen: str, rejected: str) -> TrainRow:
    images = tuple(root / image.path for image in prompt.images)
    return TrainRow(id=f"{prompt.id}/{chosen}/{rejected}", prompt=prompt, images=images, completions=(chosen, rejected))


def config(folder: Path, **options: Any) -> Any:
    from trl import DPOConfig

    quiet = {"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "use_cpu": True, "bf16": False}
    fixed = {"max_length": None, "logging_steps": 1, "save_strategy": "no", "remove_unused_columns": False}
    return DPOConfig(output_dir=str(folder), **{"gradient_checkpointing": False, "seed": 1} | quiet | fixed | options)


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=LORA.r, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules=LORA.target, task_type="CAUSAL_LM"
    )


def trl_trainer(vlm: LoadedModel, rows: Sequence[TrainRow], args: Any) -> Any:
    """TRL's own trainer and collator, on the template's text."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from transformers import set_seed
    from trl import DPOTrainer

    text = Value("string")
    render = vlm.encoder.render
    data = Dataset.from_list(
        [
            {
                "images": [str(path) for path in row.images],
                "prompt": render(row.prompt.turns)[0],
                "chosen": render(row.prompt.turns, row.completions[0])[1],
                "rejected": render(row.prompt.turns, row.completions[1])[1],
            }
            for row in rows
        ],
        features=Features({"images": List(ImageFeature()), "prompt": text, "chosen": text, "rejected": text}),
    )
    set_seed(args.seed)
    return DPOTrainer(
        model=vlm.model, args=args, train_dataset=data, processing_class=vlm.processor, peft_config=lora()
    )


def our_trainer(vlm: LoadedModel, args: Any, *, sharing: bool = True) -> Any:
    """Ours, to be given batches."""
    from transformers import set_seed

    from align.train.lora_rows import as_dataset
    from align.train.trainers import PreferenceTrainer, keep_tower_out_of_the_graph

    set_seed(args.seed)
    trainer = PreferenceTrainer(
        model=vlm.model,
        args=args,
        train_dataset=as_dataset([row_of(ask_about(), Path(), "a", "b")]),
        data_collator=lambda items: {},
        processing_class=vlm.processor,
        peft_config=lora(),
        sharing=sharing,
    )
    keep_tower_out_of_the_graph(trainer.model.get_base_model())
    return trainer


def unlike_its_reference(trainer: Any) -> Any:
    """The trainer, its adapter no longer zero."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return trainer


def loss_and_gradient(trainer: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    trainer.model.zero_grad(set_to_none=True)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return loss.item(), torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in trained])


def measures(trainer: Any) -> dict[str, float]:
    """What TRL has noted for the log, and forgets now."""
    found = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items()}
    trainer._metrics["train"].clear()
    return {name: float(value) for name, value in found.items() if name != "num_tokens"}


def in_double(vlm: LoadedModel) -> LoadedModel:
    """Sharp attention makes rounding large; in float64 two ways of computing the same number agree."""
    vlm.model.double()
    return vlm


def batch(vlm: LoadedModel, rows: Sequence[TrainRow], *, sharing: bool, **more: Any) -> dict[str, Any]:
    """All rows in one batch, pixels in the model's precision."""
    made = collate_preferences(rows, vlm.encoder, sharing=sharing, **more)([{"row": i} for i in range(len(rows))])
    return {name: value.to(vlm.model.dtype) if name == "pixel_values" else value for name, value in made.items()}
