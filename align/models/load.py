"""A folder in Hugging Face layout as a model that can be sampled, scored and trained.

    vlm = load_vlm(Path("llava-1.5-7b-hf"), adapter=Path("runs/x/dpo/adapter"))
    backbone = load_language_model(Path("vicuna-7b-v1.5"))

Both give a `LoadedModel`, so that `align.sample.engine` need not care which it holds. Weights are read from safetensors
only and code in the checkpoint is never run. float32 on a CPU, bfloat16 on a GPU.

`quantize="nf4"` keeps the language model's linear layers in 4 bits (bitsandbytes): to train an adapter on, not to
sample from. Vision tower and projector stay as they are: they are a twentieth of the weights, and what they round away
no adapter of the language model can bring back; so does the head, whose matrix TRL's loss reads itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from align.digest import model_digest
from align.models.encode import Encoder
from align.models.quiet import quiet
from annotate.errors import UserError
from annotate.records import sha256_of

Device = Literal["auto", "cpu", "cuda"]
Quantize = Literal["none", "nf4"]

TRAINED_ON = "trained_on"
"""Beside an adapter's files: the digest of the model it was trained on."""
UNQUANTIZED = ("(?!.*language_model).*", ".*lm_head")
"""Regular expressions over module names, as transformers matches them."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode, and what turns records into its inputs."""

    model: Any
    tokenizer: Any
    processor: Any | None
    """None: a language model; it cannot be shown images."""
    encoder: Encoder
    digest: str
    """Of the files it was loaded from."""

    @property
    def n_positions(self) -> int | None:
        """The longest sequence the language model was built for, where its configuration says."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit


def load_vlm(
    folder: Path, *, adapter: Path | None = None, device: Device = "auto", quantize: Quantize = "none"
) -> LoadedModel:
    """A vision-language model, with the adapter merged into its weights where one is given."""
    check_folder(folder)
    if adapter is not None:
        check_adapter(folder, adapter)
    with quiet():
        from transformers import AutoModelForImageTextToText

        processor = load_processor(folder)
        model = _load(AutoModelForImageTextToText, folder, device, quantize)
        model = model if adapter is None else _merge(model, adapter)
    return LoadedModel(
        model=model,
        tokenizer=processor.tokenizer,
        processor=processor,
        encoder=Encoder(processor.tokenizer, processor),
        digest=digest_of(folder, adapter),
    )


def load_processor(folder: Path) -> Any:
    """What turns text and images into a vision-language model's inputs; no weights are read."""
    from transformers import AutoProcessor

    try:
        # PIL by name: which library resizes an image must not depend on what else is installed.
        processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{folder}: its processor cannot be loaded ({first_line(error)})") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise UserError(
            f"{folder}: needed is a vision-language model, with tokenizer and image processor; a recipe names a "
            "language model as `backbone`, a vision tower as `pretrain.tower`"
        )
    processor.tokenizer = ready(processor.tokenizer)
    return processor


def load_language_model(folder: Path, *, device: Device = "auto") -> LoadedModel:
    """A text-only language model: the backbone before visual tuning. It gets the same template as the VLM."""
    check_folder(folder)
    with quiet():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = ready(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{folder}: its tokenizer cannot be loaded ({first_line(error)})") from error
        model = _load(AutoModelForCausalLM, folder, device)
    return LoadedModel(
        model=model, tokenizer=tokenizer, processor=None, encoder=Encoder(tokenizer), digest=digest_of(folder)
    )


def digest_of(folder: Path, adapter: Path | None = None) -> str:
    """One hash for the model in `folder` with, where one is given, the adapter on top."""
    base = model_digest(folder)
    return base if adapter is None else sha256_of([base, model_digest(adapter)])


def check_folder(folder: Path) -> None:
    """Raise `UserError` unless the folder looks like a checkpoint that can be loaded. Torch-free."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; is it a checkpoint in Hugging Face layout?")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise UserError(f"{folder}/config.json: not a JSON object") from None
    if kind in ("llava_llama", "llava_mistral"):
        raise UserError(f"{folder}: the original LLaVA layout; first: align import-llava {folder} OUTDIR --tower CLIP")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
        remedy = "convert its pickled weights to safetensors" if pickled else "download the weights too"
        raise UserError(f"{folder}: no *.safetensors; {remedy}")


def _load(
    auto_class: Any, folder: Path, device: Device, quantize: Quantize = "none", dtype: Literal["auto"] | None = None
) -> Any:
    """`dtype`: "auto" is the checkpoint's own."""
    import torch
    from safetensors import SafetensorError

    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    computed = torch.bfloat16 if where == "cuda" else torch.float32
    smaller = {} if quantize == "none" else {"quantization_config": _nf4(computed)}
    try:
        model, report = auto_class.from_pretrained(
            folder, dtype=dtype or computed, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            **smaller,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); was it copied whole?") from error
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise UserError(f"{folder}: {len(names)} weight(s) are not in the files, e.g. {names[0]}; is it complete?")
    if quantize == "none":
        return model.to(where).eval()
    _check_quantized(model)
    return model.eval()  # it was put where it belongs while it was quantised


def _nf4(compute: Any) -> Any:
    """QLoRA's own setting (arXiv:2305.14314, section 3): NormalFloat4, its constants quantised too."""
    if find_spec("bitsandbytes") is None:
        raise UserError("quantize: nf4 needs bitsandbytes; pip install 'mmalign[qlora]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(UNQUANTIZED),  # the name is of older days: it serves 4 bits too
    )


def _check_quantized(model: Any) -> None:
    """The language model is in 4 bits and nothing else is, however this version of transformers names modules."""
    small = [name for name, parameter in model.named_parameters() if type(parameter).__name__ == "Params4bit"]
    outside = [name for name in small if "language_model" not in name or "lm_head" in name]
    if not small or outside:
        raise RuntimeError(f"quantised {len(small)} weight(s), {outside[:1]} among them; it should be the LM's alone")


def check_adapter(folder: Path, adapter: Path) -> None:
    """Raise `UserError` unless the adapter is whole, and was trained on this model, where it says on which. Torch-free.

    One of another model fits as well where the shapes are equal, and then spoils every answer.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise UserError(f"{adapter}: no {name}; is it a finished adapter?")
    try:
        told = (adapter / TRAINED_ON).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return  # made elsewhere, or before adapters said so
    here = model_digest(folder)
    if told != here:
        raise UserError(
            f"{adapter}: was trained on another model (sha256 {told:.16}…) than {folder} ({here:.16}…); give that one, "
            f"or delete the file {TRAINED_ON} there if it is meant"
        )


def _merge(model: Any, adapter: Path) -> Any:
    """The model with the adapter added to its weights: as fast as the plain model, and the same class."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{adapter}: does not fit this model ({first_line(error)})") from error


def is_clip(config: Any) -> bool:
    """Whether it is a CLIP or its vision half, by its configuration: a tower, without a language model."""
    return config.model_type in ("clip", "clip_vision_model")


def ready(tokenizer: Any) -> Any:
    """The tokenizer with a token to fill rows up with."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def first_line(error: BaseException) -> str:
    """What a library says went wrong, without its traceback and advice."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
