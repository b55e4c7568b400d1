"""Loads the model of a judge: like any other VLM, or in four bits, or spread over several GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.models.encode import Encoder
from align.models.load import LoadedModel, check_folder, digest_of, first_line, load_vlm, ready
from align.models.quiet import quiet
from annotate.errors import UserError

if TYPE_CHECKING:
    from align.models.judge import JudgeSettings


def load_judge(settings: JudgeSettings) -> LoadedModel:
    """The model in evaluation mode. Raises `UserError` where it cannot be loaded."""
    from safetensors import SafetensorError

    try:
        if settings.quantize or settings.device == "spread":
            loaded = _load_placed(settings)
        else:
            loaded = load_vlm(settings.folder, device=settings.device)
            if settings.dtype != "auto":
                loaded.model.to(_dtype(settings.dtype))
    except SafetensorError as error:
        raise UserError(f"{settings.folder}: cannot be loaded ({first_line(error)}); was it copied whole?") from error
    if settings.template != "auto":
        loaded.encoder.own_template = settings.template == "vicuna"
    return loaded


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _load_placed(settings: JudgeSettings) -> LoadedModel:
    """Weights go to their device while they are read, where they are quantized."""
    folder: Path = settings.folder
    check_folder(folder)
    with quiet():
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

        gpu = torch.cuda.is_available() and settings.device != "cpu"
        dtype = _dtype(settings.dtype) if settings.dtype != "auto" else torch.bfloat16 if gpu else torch.float32
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        try:
            processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
            model = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=dtype,
                device_map="auto" if settings.device == "spread" else {"": 0 if gpu else "cpu"},
                quantization_config=four_bits if settings.quantize else None,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"{folder}: cannot be loaded ({first_line(error)})") from error
    tokenizer = ready(processor.tokenizer)
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        processor=processor,
        encoder=Encoder(tokenizer, processor),
        digest=digest_of(folder),
    )
