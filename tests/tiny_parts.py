"""What a VLM is put together of, small enough for a test: language models of several families, and a CLIP."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_llava import CORPUS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MARKS = {
    "llama": {"bos_token": "<s>", "eos_token": "</s>"},
    "qwen2": {"eos_token": "<|endoftext|>"},
    "gpt_neox": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
}
"""Family -> the markers of its tokenizer; none of them knows `<image>`."""


def save_language_model(folder: Path, family: str = "llama", *, seed: int = 0, rows: int | None = None) -> Path:
    """A language model of random weights with a tokenizer of its own; `rows`: of its embeddings."""
    tokenizer = _tokenizer(MARKS[family])
    common = {"vocab_size": rows or len(tokenizer), "max_position_embeddings": 256, "initializer_range": 0.2, **SIZES}
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in MARKS[family].items()}
    configs = {
        "llama": lambda: LlamaConfig(**common, tie_word_embeddings=False, **ids),
        "qwen2": lambda: Qwen2Config(**common, num_key_value_heads=2, tie_word_embeddings=True, **ids),
        "gpt_neox": lambda: GPTNeoXConfig(**common, **ids),
        "gemma": lambda: GemmaConfig(**common, head_dim=16, num_key_value_heads=2, **ids),
    }
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(configs[family]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_clip(folder: Path, *, seed: int = 0) -> Path:
    """A vision tower that makes nine patches of 48 x 48 pixels."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(**{**SIZES, "num_hidden_layers": 3}, projection_dim=32, image_size=48, patch_size=16)
    CLIPVisionModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def _tokenizer(marks: dict[str, str]) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = sorted(set(marks.values()))
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, model_max_length=256, clean_up_tokenization_spaces=False, **marks
    )
