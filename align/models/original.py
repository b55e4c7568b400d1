"""LLaVA in the layout of its authors' code, as a folder in Hugging Face layout that everything here loads.

    import_llava(Path("llava-v1.5-7b-lora"), Path("out"), language=Path("vicuna-7b-v1.5"), tower=Path("clip-vit-l-336"))

Goes in one of: a connector (`mm_projector.bin`, stage 1); `non_lora_trainables.bin` beside a LoRA adapter; a whole
checkpoint (`model_type: llava_llama`, safetensors or pickled shards). Pickles are read weights-only: one that holds
anything else is refused, and nothing in it is run.

The names are those that liuhaotian's checkpoints have: `model.mm_projector.{0,2}.weight` (mlp2x_gelu) or
`model.mm_projector.weight` (linear), `model.vision_tower.vision_tower.*`, and `base_model.model.` before them where
PEFT was around. `imported_from` in the folder tells what it was made of.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.digest import file_sha256, model_digest
from align.models.extract import check_out
from align.models.joined import Projector, consistent, join
from align.models.load import first_line
from align.models.quiet import quiet
from align.scratch import scratch
from annotate.errors import UserError

RECEIPT = "imported_from"
CONNECTOR, BESIDE_LORA = "mm_projector.bin", "non_lora_trainables.bin"
LANGUAGE = {"llava_llama": "llama", "llava": "llama", "llava_mistral": "mistral"}
"""Type of the checkpoint -> of its language model."""
_ADDED = {"mm_use_im_patch_token": ("<im_patch>",), "mm_use_im_start_end": ("<im_start>", "<im_end>")}
"""Option of the original training -> the tokens it added, in this order."""
_PROJECTORS: Mapping[Projector, Mapping[str, str]] = {
    "linear": {"weight": "linear_1.weight", "bias": "linear_1.bias"},
    "mlp": {
        "0.weight": "linear_1.weight", "0.bias": "linear_1.bias",
        "2.weight": "linear_2.weight", "2.bias": "linear_2.bias",
    },
}  # fmt: skip
_PART = re.compile(r"(?:base_model\.model\.)?(?:(?:model\.)?(mm_projector|vision_tower(?:\.vision_tower)?)\.)?(.+)")
_OTHERS = ("image_newline", "vision_resampler")
"""Tensors of models that are more than LLaVA-1.5."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """What a folder in the original layout holds."""

    config: Mapping[str, Any]
    projector: Mapping[str, Any]
    tower: Mapping[str, Any]
    """Empty where it was left as it is."""
    language: Mapping[str, Any]
    """All of it, or the few tensors that were trained beside the projector."""
    whole: bool
    lora: Path | None
    files: Sequence[Path] = field(default=())


def import_llava(checkpoint: Path, out: Path, *, tower: Path, language: Path | None = None) -> dict[str, Any]:
    """Write a LLaVA in Hugging Face layout to the folder `out`, whole or not at all; returns what the receipt says.

    Raises `UserError` where the checkpoint is none of the three, holds more than weights, or the parts do not fit.
    """
    check_out(out)
    original = read_original(checkpoint)
    config = original.config
    if language is None and not original.whole:
        told = config.get("_name_or_path")
        raise UserError(
            f"{checkpoint}: holds no language model; give the one it was trained on: --language LM"
            + (f" (its config.json says {told})" if told else "")
        )
    if config.get("image_aspect_ratio") == "anyres":
        raise UserError(f"{checkpoint}: a LLaVA-NeXT (anyres); take the converted checkpoint, llava-hf/llava-v1.6-...")
    kind, weights = _projector(original, checkpoint)
    layer = int(config.get("mm_vision_select_layer", -2))
    out.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), scratch(out.parent, f".{out.name}-") as work:
        lm = _language_folder(original, checkpoint, language, work)
        eye = _tower_folder(original, tower, work)
        new = work / "joined"
        join(lm, eye, new, projector=kind, feature_layer=layer, weights=weights)
        _as_it_was_shown(config, new)
        receipt = {
            "files": {file.name: file_sha256(file) for file in original.files},
            "language": None if language is None else model_digest(language),
            "tower": model_digest(tower),
            "projector": kind,
            "tokens": list(_added(config)),
        }
        (new / RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        new.rename(out)
    return receipt


# --------------------------------------------------------------------------------------------------------- what is read


def read_original(checkpoint: Path) -> Original:
    """The tensors of a folder in the original layout, by part. Raises `UserError` for what is none."""
    folder = checkpoint.parent if checkpoint.name == CONNECTOR else checkpoint
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    shards = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("adapter_model")]
    shards = shards or sorted(folder.glob("pytorch_model*.bin"))
    lora = folder if (folder / "adapter_config.json").is_file() else None
    if lora is not None:
        files, wanted = [folder / BESIDE_LORA], f"beside the adapter: the connector lies in {BESIDE_LORA}"
    elif shards:
        files, wanted = shards, ""
        if config.get("model_type") not in LANGUAGE or "mm_vision_tower" not in config:
            said = config.get("model_type") or "nothing"
            raise UserError(
                f"{folder}: is no original LLaVA, whose config.json says llava_llama and mm_vision_tower; it says "
                f"{said}. In Hugging Face layout none needs to be imported"
            )
        _check_index(folder)
    else:
        files, wanted = [folder / CONNECTOR], f"no {BESIDE_LORA} with an adapter and no pytorch_model*.bin"
    if not files[0].is_file():
        raise UserError(f"{folder}: no {files[0].name} ({wanted})")
    parts: dict[str, dict[str, Any]] = {"mm_projector": {}, "vision_tower": {}, "": {}}
    for path in files:
        for name, tensor in read_tensors(path).items():
            match = _PART.fullmatch(name)
            assert match, name
            parts[(match[1] or "").partition(".")[0]][match[2]] = tensor
    others = [name for name in parts[""] if any(other in name for other in _OTHERS)]
    if others:
        raise UserError(f"{folder}: holds {others[0]}, so it is no LLaVA or LLaVA-1.5; it cannot be imported")
    language = {name: tensor for name, tensor in parts[""].items() if not name.endswith("rotary_emb.inv_freq")}
    return Original(
        config=config, projector=parts["mm_projector"], tower=parts["vision_tower"], language=language,
        whole=lora is None and bool(shards), lora=lora, files=files,
    )  # fmt: skip


def tower_of(checkpoint: Path) -> str | None:
    """The name of the vision tower, as the checkpoint's configuration has it."""
    config = (checkpoint.parent if checkpoint.name == CONNECTOR else checkpoint) / "config.json"
    return _json(config).get("mm_vision_tower") if config.is_file() else None


def read_tensors(path: Path) -> dict[str, Any]:
    """Name -> tensor, of safetensors or of a pickle that holds nothing else; nothing in it is run."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as weights, and nothing in it was run; it is damaged or holds other objects than "
            f"tensors ({first_line(error)[:120]})"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise UserError(f"{path}: is no table of tensors by name")
    return found


def _check_index(folder: Path) -> None:
    for index in folder.glob("*.index.json"):
        named = set(_json(index).get("weight_map", {}).values())
        missing = sorted(name for name in named if not (folder / name).is_file())
        if missing:
            raise UserError(f"{folder}: {index.name} names {missing[0]}, which is not there; was it copied whole?")


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: not a JSON object") from None
    if not isinstance(told, dict):
        raise UserError(f"{path}: not a JSON object")
    return told


# ------------------------------------------------------------------------------------------------------------ the parts


def _projector(original: Original, checkpoint: Path) -> tuple[Projector, dict[str, Any]]:
    """Its kind, and its tensors by the names that transformers gives them."""
    names = set(original.projector)
    for kind, renamed in _PROJECTORS.items():
        if names == set(renamed):
            return kind, {renamed[name]: original.projector[name] for name in names}
    if not names:
        raise UserError(f"{checkpoint}: none of its {len(original.language)} tensors is of an mm_projector")
    told = original.config.get("mm_projector_type", "one")
    raise UserError(
        f"{checkpoint}: its mm_projector ({told}) has {', '.join(sorted(names))}; known are linear (weight, bias) and "
        "mlp2x_gelu (0.weight, 0.bias, 2.weight, 2.bias)"
    )


def _tower_folder(original: Original, tower: Path, work: Path) -> Path:
    """The tower as it is, or with the weights that the checkpoint has of it."""
    if not original.tower:
        return tower
    from transformers import AutoConfig, CLIPVisionConfig, CLIPVisionModel

    try:
        config = AutoConfig.from_pretrained(tower, trust_remote_code=False)
        config = config if isinstance(config, CLIPVisionConfig) else config.vision_config
        state = dict(original.tower)
        dtype = next(iter(state.values())).dtype
        model, report = CLIPVisionModel.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"--tower: {tower} does not fit the checkpoint's own weights ({first_line(error)})") from error
    if report["missing_keys"]:
        raise UserError(f"{original.files[0].parent}: of its tower {sorted(report['missing_keys'])[0]} is missing")
    model.save_pretrained(work / "tower")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (tower / name).is_file():
            shutil.copyfile(tower / name, work / "tower" / name)
    return work / "tower"


def _language_folder(original: Original, checkpoint: Path, language: Path | None, work: Path) -> Path:
    """The language model with all that was trained of it, as a folder with safetensors."""
    from transformers import AutoTokenizer

    plain = not original.whole and original.lora is None and not original.language and not _added(original.config)
    if plain and language is not None and any(language.glob("*.safetensors")):
        return language
    lm = _whole(original, checkpoint) if original.whole else _loaded(language)
    if original.lora is not None:
        lm = _merged(lm, original.lora, work)
    own = checkpoint.is_dir() and any(checkpoint.glob("tokenizer*"))
    source = checkpoint if own or language is None else language
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{source}: its tokenizer cannot be loaded ({first_line(error)})") from error
    tokenizer.add_tokens([token for token in _added(original.config) if token not in tokenizer.get_vocab()], True)
    if not original.whole:
        _put(lm, original.language, checkpoint, len(tokenizer))
    lm.save_pretrained(work / "language")
    tokenizer.save_pretrained(work / "language")
    return work / "language"


def _added(config: Mapping[str, Any]) -> list[str]:
    return [token for option, tokens in _ADDED.items() if config.get(option) for token in tokens]


def _whole(original: Original, checkpoint: Path) -> Any:
    """The language model of a whole checkpoint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    drop = ("model_type", "architectures", "auto_map", "_name_or_path", "transformers_version")
    told = {key: value for key, value in original.config.items() if key not in drop and "mm_" not in key}
    try:
        config = AutoConfig.for_model(LANGUAGE[original.config["model_type"]], **told)
        config.dtype = next(iter(original.language.values())).dtype
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config)
        lm.load_state_dict(dict(original.language), assign=True)
    except (ValueError, RuntimeError, StopIteration) as error:
        found = " ".join(str(error).split())[:200] or "it has none"
        raise UserError(f"{checkpoint}: its language model is not whole ({found})") from error
    return lm


def _loaded(folder: Path | None) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False, weights_only=True)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"--language: {folder} cannot be loaded ({first_line(error)[:200]})") from error
    lm.generation_config = consistent(lm.generation_config)
    return lm


def _merged(lm: Any, folder: Path, work: Path) -> Any:
    """The language model with the adapter added to its weights; every tensor of the adapter must have found a place."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import save_file

    files = [folder / name for name in ("adapter_model.safetensors", "adapter_model.bin")]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise UserError(f"{folder}: adapter_config.json, but no adapter_model.bin and no adapter_model.safetensors")
    tensors = {name: tensor.contiguous() for name, tensor in read_tensors(file).items()}
    adapter = work / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(folder / "adapter_config.json", adapter / "adapter_config.json")
    try:
        model = PeftModel.from_pretrained(lm, str(adapter))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: its adapter does not fit the language model ({first_line(error)})") from error
    strangers = sorted(tensors.keys() ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys())
    if strangers:
        raise UserError(f"{folder}: {strangers[0]} of the adapter has no counterpart; is it of another language model?")
    return model.merge_and_unload()


def _put(lm: Any, trained: Mapping[str, Any], checkpoint: Path, vocabulary: int) -> None:
    """Tensors that were trained beside the projector into their places; tables of tokens grow by those that are new.

    Of new tokens alone the rows may be given. A new row that nobody gives is the mean of all others, as there.
    """
    import torch

    state = lm.state_dict()
    old = lm.get_input_embeddings().num_embeddings
    rows = max(
        [vocabulary, *(len(trained[n]) for n in trained if n.endswith(("embed_tokens.weight", "lm_head.weight")))]
    )
    if rows > old:
        lm.resize_token_embeddings(rows, mean_resizing=False)
        state = lm.state_dict()
        with torch.no_grad():
            for table in (lm.get_input_embeddings().weight, lm.get_output_embeddings().weight):
                table[old:] = table[:old].float().mean(dim=0).to(table.dtype)
    for name, tensor in trained.items():
        place = state.get(name)
        if place is not None and place.shape[1:] == tensor.shape[1:] and len(tensor) in (len(place), rows - old, old):
            with torch.no_grad():
                (place[old:] if len(tensor) == rows - old else place[: len(tensor)]).copy_(tensor)
            continue
        raise UserError(f"{checkpoint}: {name} of shape {tuple(tensor.shape)} has no place in the language model")


def _as_it_was_shown(config: Mapping[str, Any], new: Path) -> None:
    """What decides how images reach the model, as the original code has it."""
    model, processor = _json(new / "config.json"), _json(new / "processor_config.json")
    if config.get("mm_vision_select_feature") == "cls_patch":
        model |= {"vision_feature_select_strategy": "full", "image_seq_length": model["image_seq_length"] + 1}
        processor["vision_feature_select_strategy"] = "full"
    if config.get("image_aspect_ratio") == "pad":  # to a square, with the mean colour; else the sides are cut off
        processor["image_processor"] |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    for name, told in (("config.json", model), ("processor_config.json", processor)):
        (new / name).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
