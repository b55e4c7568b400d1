"""The model, the batches and the trainers of bench_dpo.py and bench_reference.py."""

from __future__ import annotations

import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from align.models.encode import Encoded
from align.models.tiny import build_processor, build_tokenizer
from align.settings import Lora
from align.train.lora_rows import Spoken, as_dataset, batch_of
from align.train.trainers import PreferenceTrainer, keep_tower_out_of_the_graph

PAD, IMAGE, VOCABULARY = 0, 3, 512
IMAGE_TOKENS = 576
ENCODER: Any = SimpleNamespace(pad_id=PAD, processor=SimpleNamespace(image_token_id=IMAGE))
"""All that a batch asks of its encoder: the ids are drawn."""


def build_model() -> Any:
    """LLaVA-1.5-7B scaled down: of the work of a forward pass, tower 4-6% and LM head 2%."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=4096,
        pad_token_id=PAD,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=IMAGE_TOKENS)
    return LlavaForConditionalGeneration(config)


def as_on_a_gpu() -> None:
    """Both sides: TRL's head scores only the completions' tokens, as it does on a GPU; on a CPU it scores all."""
    import trl.trainer.utils as utils

    utils._use_triton = lambda device: True


def draw_pairs(prompts: int, completions: int, pairs: str) -> list[Spoken]:
    """Chosen of all pairs, then rejected: 53 to 67 tokens beside the image's, answers of 72 to 149.

    `pairs`: "one", "best" (the first against each other), "all".
    """
    draw = random.Random(1)
    sides: tuple[list[Spoken], list[Spoken]] = ([], [])
    generator = torch.Generator().manual_seed(1)
    for number in range(prompts):
        text = [draw.randrange(4, VOCABULARY) for _ in range(draw.randint(53, 67))]
        pixels = {"pixel_values": torch.randn(1, 3, 336, 336, generator=generator)}
        prompt = Encoded(text[:5] + [IMAGE] * IMAGE_TOKENS + text[5:], images=pixels)
        answers = [[draw.randrange(4, VOCABULARY) for _ in range(draw.randint(72, 149))] for _ in range(completions)]
        said = [Spoken(prompt, answer, (Path(f"{number}.png"),)) for answer in answers]
        for better, worse in combinations(said, 2):
            if pairs == "all" or better is said[0]:
                sides[0].append(better)
                sides[1].append(worse)
    return [*sides[0], *sides[1]]


def trainer(*, ours: bool, checkpointing: bool, reference: bool = False) -> Any:
    """TRL's DPOTrainer or ours, LoRA r 16 on all projections of the language model, dropout 0, adapter not zero."""
    from peft import LoraConfig
    from transformers import set_seed
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        gradient_checkpointing=checkpointing,
        use_cpu=True,
        bf16=False,
        report_to="none",
        remove_unused_columns=False,
        max_length=None,
    )
    row: Any = SimpleNamespace(prompt=SimpleNamespace(id="-"))
    set_seed(0)
    common: dict[str, Any] = {
        "model": build_model(),
        "args": args,
        "train_dataset": as_dataset([row]),
        "data_collator": lambda items: {},
        "processing_class": build_processor(build_tokenizer(["a"], 300)),
        "peft_config": LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules=Lora().target, task_type="CAUSAL_LM"
        ),
    }
    if ours:
        made = PreferenceTrainer(sharing=True, has_reference=reference, **common)
        keep_tower_out_of_the_graph(made.model.get_base_model())
    else:
        made = DPOTrainer(**common)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02, generator=generator)
    if checkpointing:
        made.model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    made.model.train()
    return made


def make_batch(sequences: Sequence[Spoken], *, sharing: bool) -> dict[str, Any]:
    return batch_of(sequences, ENCODER, sharing=sharing)


def fresh(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as a collator hands it over: pixels that were never seen, or ours would remember their features."""
    return batch | {"pixel_values": batch["pixel_values"].clone()}


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def machine() -> str:
    model = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "")
    load = os.getloadavg()[0]
    return f"{model or platform.machine()}, 1 thread, torch {torch.__version__}, load average at the end {load:.1f}"
