"""A LLaVA small enough to train from nothing on a CPU: tokenizer, Llama, CLIP tower, MLP projector, processor.

Takes in texts and sizes, gives out transformers objects that save and load like any hub LLaVA. 48x48 images make
nine 16x16 patches; there is no resampling of images that already have that size.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from align.building import ConnectSettings, LanguageSettings
from align.models.template import BOS, EOS
from annotate.records import IMAGE_PLACEHOLDER

PAD = "<pad>"
IMAGE_SIZE, PATCH_SIZE = 48, 16
MAX_POSITIONS = 512


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text can be written, frequent words are one token each."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, IMAGE_PLACEHOLDER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE_PLACEHOLDER},
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
        "bos_token_id": tokenizer.convert_tokens_to_ids(BOS),
        "eos_token_id": tokenizer.convert_tokens_to_ids(EOS),
    }


def build_language_model(settings: LanguageSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama; weights come from torch's current seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=settings.init_std,
        tie_word_embeddings=False,
        **token_ids(tokenizer),
    )
    return LlamaForCausalLM(config)


def build_vlm(
    language: LlamaForCausalLM, settings: ConnectSettings, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """An untrained tower and projector before the given language model."""
    text = copy.deepcopy(language.config)
    text.name_or_path = ""  # else the folder it was loaded from would be saved with the VLM
    vision = CLIPVisionConfig(
        hidden_size=text.hidden_size,
        intermediate_size=3 * text.hidden_size,
        projection_dim=text.hidden_size,
        num_hidden_layers=settings.tower_layers,
        num_attention_heads=text.num_attention_heads,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        # a two-layer tower has no spare layer to skip: LLaVA's -2 would leave one
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **token_ids(tokenizer),
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    with torch.no_grad():
        for name, weight in model.model.multi_modal_projector.named_parameters():
            weight.normal_(0.0, settings.projector_std) if "weight" in name else weight.zero_()
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor; torchvision is not needed. Other image sizes are resized and cropped as CLIP does."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def save_small(model: Any, folder: Path, saver: Any) -> None:
    """Write weights in half precision and say float32 in the config, so that loading gives float32 again."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    model.float()
    for config in (model.config, model.config.get_text_config()):
        config.dtype = torch.float32
        config.use_cache = True  # training switched it off
    model.config.save_pretrained(folder)
    saver.save_pretrained(folder)


def pixel_values(images: Sequence[Any], processor: LlavaProcessor) -> torch.Tensor:
    """uint8 HxWx3 arrays of the model's own size, as the processor would give them, but a batch at a time."""
    p = processor.image_processor
    pixels_BHWC = torch.stack([torch.from_numpy(i) for i in images]).float() * p.rescale_factor
    mean, std = torch.tensor(p.image_mean), torch.tensor(p.image_std)
    return ((pixels_BHWC - mean) / std).permute(0, 3, 1, 2).contiguous()
