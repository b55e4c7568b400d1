"""A LLaVA out of a language model and a CLIP tower, with a new projector between them: what stage 1 begins with.

    join(Path("llama-2-7b-hf"), Path("clip-vit-large-patch14-336"), Path("out"), projector="mlp", seed=0)

leaves a folder in Hugging Face layout that `LlavaForConditionalGeneration` loads without any code of ours. The
language model may be of any family whose head is a plain matrix; whether it still says the same inside of the VLM is
tried before anything is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

from align.models.load import check_folder, first_line, is_clip, ready
from align.models.template import JINJA
from annotate.errors import UserError
from annotate.records import IMAGE_PLACEHOLDER

Projector = Literal["mlp", "linear"]
ACTIVATION: Mapping[Projector, str] = {"mlp": "gelu", "linear": "linear"}
"""transformers' projector has two layers; with no activation and the identity as its second it is one."""
ROWS_IN = 64
"""Embeddings are filled up to a multiple of so many rows where one is missing for the image token."""


def join(
    language: Path,
    tower: Path,
    out: Path,
    *,
    projector: Projector = "mlp",
    feature_layer: int = -2,
    weights: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Write the VLM to the folder `out`, whole or not at all.

    `weights`: of the projector, `linear_1.weight` ..., where they are known; else they are drawn from `seed`. The
    projector of `linear` has the identity as its second layer, which must not learn (`align.train.parts`).

    Raises `UserError` where the language model or the tower is none, or they cannot be put together.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, set_seed

    check_folder(language)
    lm, tokenizer = _language_model(language)
    vision, images = _tower(tower)
    image_id = _image_token(lm, tokenizer)
    tried = _try(lm)
    patches = (vision.config.image_size // vision.config.patch_size) ** 2
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=lm.config,
        image_token_index=image_id,
        image_seq_length=patches,
        projector_hidden_act=ACTIVATION[projector],
        vision_feature_select_strategy="default",
        vision_feature_layer=feature_layer,
        tie_word_embeddings=bool(lm.config.tie_word_embeddings),
    )
    config.get_text_config().name_or_path = ""  # else the folder it was loaded from would be saved
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    set_seed(seed)
    between = type(model.model.multi_modal_projector)(config)
    _begin(between, projector, weights)
    model.model.language_model = lm.base_model
    model.model.vision_tower = vision.to(lm.dtype)
    model.model.multi_modal_projector = between.to(lm.dtype)
    model.lm_head = lm.get_output_embeddings()
    if lm.generation_config is not None:
        model.generation_config = consistent(lm.generation_config)
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        model.save_pretrained(new)
        _processor(images, tokenizer, vision.config.patch_size).save_pretrained(new)
        _check(new, language, tried)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    new.rename(out)


def consistent(generation: Any) -> Any:
    """Without what is only for drawing where nothing is drawn: transformers saves no such thing, but Vicuna has it."""
    if not generation.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(generation, name, None)
    return generation


def _language_model(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_language(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a language model ({first_line(error)})") from error
    head = lm.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None or lm.base_model is lm:
        raise UserError(f"{folder}: {type(lm).__name__} has no plain head; a LLaVA cannot be built on it")
    if tokenizer.eos_token is None:
        raise UserError(f"{folder}: its tokenizer has no end-of-text token; set eos_token in its configuration")
    return lm.eval(), tokenizer


def _check_language(folder: Path) -> None:
    """Raise `UserError` for a VLM and for a CLIP, before transformers says so in its own words."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a language model ({first_line(error)})") from error
    if is_clip(config):
        raise UserError(f"{folder}: {config.model_type} is a vision tower, no language model")
    if hasattr(config, "vision_config"):
        raise UserError(f"{folder}: {config.model_type} is a VLM; `align extract-lm` takes its language model out")


def ahead_of_joining(language: Path, tower: Path) -> tuple[Any, Any]:
    """Configuration and processor of the VLM that `join` would make of them; no weights are read."""
    from transformers import AutoConfig, AutoTokenizer, LlavaConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    check_folder(language)
    _check_language(language)
    try:
        tokenizer = AutoTokenizer.from_pretrained(language, trust_remote_code=False)
        text = AutoConfig.from_pretrained(language, trust_remote_code=False)
        vision = _vision_config(tower)
        images = CLIPImageProcessorPil.from_pretrained(tower)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{language}, {tower}: cannot be looked at ({first_line(error)})") from error
    _mark(tokenizer)
    config = LlavaConfig(vision_config=vision, text_config=text)
    return config, _processor(images, ready(tokenizer), vision.patch_size)


def _vision_config(folder: Path) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not is_clip(config):
        raise UserError(f"{folder}: {config.model_type} is no tower that is known here; take a CLIP")
    return getattr(config, "vision_config", config)


def _tower(folder: Path) -> tuple[Any, Any]:
    """The vision half of a CLIP, and what prepares images for it."""
    from transformers import CLIPVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    try:
        _vision_config(folder)
        vision = CLIPVisionModel.from_pretrained(folder, dtype="auto")
        images = CLIPImageProcessorPil.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, UnpicklingError) as error:
        raise UserError(f"{folder}: cannot be loaded as a vision tower ({first_line(error)})") from error
    return vision.eval(), images


def _image_token(lm: Any, tokenizer: Any) -> int:
    """The id of `<image>`, new where the tokenizer has none; its rows of the embeddings are the mean of all others."""
    import torch

    image_id = _mark(tokenizer)
    rows = lm.get_input_embeddings().num_embeddings
    if image_id >= rows:
        lm.resize_token_embeddings(image_id + 1, pad_to_multiple_of=ROWS_IN, mean_resizing=False)
        with torch.no_grad():
            for table in (lm.get_input_embeddings().weight, lm.get_output_embeddings().weight):
                table[rows:] = table[:rows].float().mean(dim=0).to(table.dtype)
    return image_id


def _mark(tokenizer: Any) -> int:
    """Let the tokenizer know `<image>`, where it does not; its id."""
    if tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_PLACEHOLDER]})
    tokenizer.init_kwargs["image_token"] = tokenizer.image_token = IMAGE_PLACEHOLDER
    image_id: int = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)
    return image_id


def _begin(between: Any, kind: Projector, weights: Mapping[str, Any] | None) -> None:
    """Torch's own first weights of a linear layer, as LLaVA begins; or those that are known."""
    import torch

    for layer in (between.linear_1, between.linear_2):
        layer.reset_parameters()
    if kind == "linear":
        torch.nn.init.eye_(between.linear_2.weight)
        torch.nn.init.zeros_(between.linear_2.bias)
    if weights is not None:
        try:
            between.load_state_dict({**between.state_dict(), **weights})
        except RuntimeError as error:
            raise UserError(f"the projector does not fit this tower and language model ({first_line(error)})") from None


def _processor(images: Any, tokenizer: Any, patch_size: int) -> Any:
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which is not passed on
        image_token=IMAGE_PLACEHOLDER,
        chat_template=JINJA,
    )


def _try(lm: Any) -> tuple[Any, Any]:
    """Ids, and what the language model makes of them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, lm.get_input_embeddings().num_embeddings, (2, 12), generator=generator)
    with torch.no_grad():
        return ids, lm(input_ids=ids).logits


def _check(new: Path, language: Path, tried: tuple[Any, Any]) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    ids, expected = tried
    model, report = AutoModelForImageTextToText.from_pretrained(new, dtype="auto", output_loading_info=True)
    with torch.no_grad():
        found = model.eval()(input_ids=ids).logits
    if report["missing_keys"] or not torch.equal(found, expected):
        raise UserError(
            f"{language}: says something else inside of a LLaVA (its head does more than a matrix); it cannot be used"
        )
