"""The language model alone out of a vision-language model: a plain causal LM that any tool loads and examines.

    extract_language_model(Path("llava-1.5-7b-hf"), Path("lm"), adapter=Path("runs/x/dpo/adapter"))

Goes in: a VLM in Hugging Face layout, and an adapter that is merged first. Comes out: the weights of decoder and head
in the dtype that the checkpoint has, tokenizer, generation configuration, chat template, licence; tower and projector
are left behind. Before the folder gets its name the model is loaded from it again, and must say of a few texts exactly
what the VLM says. The file `extracted_from` tells what it was made of:

    {"model": "91ab…", "adapter": null, "model_type": "llava", "tried": {"tokens": 150, "largest_difference": 0.0}}
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.digest import model_digest
from align.models.load import _load, _merge, check_adapter, check_folder, first_line, is_clip
from align.models.quiet import quiet
from align.scratch import scratch
from annotate.errors import UserError

RECEIPT = "extracted_from"
CARRIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "spiece.model",
    "sentencepiece*", "chat_template.jinja", "generation_config.json", "LICEN[CS]E*", "NOTICE*", "COPYING*",
    "USE_POLICY*",
)  # fmt: skip
"""What a language model has beside its weights. The rest is the VLM's: processor, preprocessor, its card."""
PLAIN: Mapping[str, str] = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Text models whose positions have three axes, equal where there is no image: then they are these."""
TRIED = (
    "USER: Is there a red bus in the picture? ASSISTANT: No.",
    "The capital of France is Paris, and 17 times 3 makes 51.",
    "def add(a, b):\n    return a + b  # größer, 数, ≤\n",
)
N_DRAWN = 64
"""Tokens of a sequence drawn from the vocabulary, which is tried beside these."""
WITHIN = 8
"""Rounding steps of the dtype, at the largest logit, that two ways to compute the same may differ by."""
TAKES_TEXT = """\
{%- set plain = namespace(messages=[]) -%}\
{%- for m in messages -%}{%- set plain.messages = plain.messages + [dict(m, content=[{'type': 'text', 'text': \
m['content']}] if m['content'] is string else m['content'])] -%}{%- endfor -%}\
{%- set messages = plain.messages -%}
"""
"""Stands before a VLM's chat template that would drop the words of a message whose content is plain text."""


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What was made of what; the content of the receipt."""

    model: str
    """Digest of the VLM's files."""
    adapter: str | None
    model_type: str
    """Of the VLM."""
    architecture: str
    """Of the language model, as transformers calls it."""
    parameters: int
    dtype: str
    tried: Mapping[str, float]


def extract_language_model(folder: Path, out: Path, *, adapter: Path | None = None) -> Extracted:
    """Write the language model to the folder `out`, whole or not at all.

    Raises `UserError` where there is no such VLM, where transformers has no class for its language model alone, or
    where what was written answers otherwise than the VLM.
    """
    check_folder(folder)
    check_out(out)
    if adapter is not None:
        check_adapter(folder, adapter)
    with quiet():
        kind = _kind(folder)
        tokenizer = _tokenizer(folder)
        from transformers import AutoModelForImageTextToText

        vlm = _load(AutoModelForImageTextToText, folder, "cpu", dtype="auto")
        vlm = vlm if adapter is None else _merge(vlm, adapter)
        ids = _to_try(tokenizer, vlm)
        expected = _logits(vlm, ids)
        lm = _alone(vlm, folder)
        del vlm
        out.parent.mkdir(parents=True, exist_ok=True)
        with scratch(out.parent, f".{out.name}-") as work:
            new = work / "model"
            lm.save_pretrained(new)
            made = type(lm).__name__, lm.num_parameters(), str(lm.dtype).removeprefix("torch.")
            del lm
            _carry(folder, new, tokenizer)
            extracted = Extracted(
                model=model_digest(folder),
                adapter=None if adapter is None else model_digest(adapter),
                model_type=kind,
                architecture=made[0],
                parameters=made[1],
                dtype=made[2],
                tried=_check(new, folder, ids, expected),
            )
            (new / RECEIPT).write_text(json.dumps(asdict(extracted), indent=1) + "\n", encoding="utf-8")
            if out.exists():
                out.rmdir()
            new.rename(out)
    return extracted


def check_out(out: Path) -> None:
    """Raise `UserError` unless `out` is free to be written."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; OUTDIR is a folder that is made")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; nothing is overwritten, name another folder")
    inside = next((up for up in out.absolute().parents if up.exists()), None)
    if inside is not None and not inside.is_dir():
        raise UserError(f"{inside}: is a file; {out} cannot be made there")


def _kind(folder: Path) -> str:
    """The VLM's type. Raises `UserError` for what is no VLM."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{folder}: its configuration cannot be read ({first_line(error)})") from error
    if is_clip(config):
        raise UserError(f"{folder}: {config.model_type} is a vision tower; there is no language model in it")
    if config.get_text_config() is config:
        raise UserError(
            f"{folder}: {config.model_type} is a language model already; there is nothing to take it out of"
        )
    return str(config.model_type)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({first_line(error)})") from error


# ------------------------------------------------------------------------------------------------------------ the model


def _alone(vlm: Any, folder: Path) -> Any:
    """A causal LM that holds the same tensors as the VLM's decoder and head, without a copy of them."""
    import torch
    from transformers import AutoModelForCausalLM

    config = _text_config(vlm)
    decoder, head = vlm.get_decoder().base_model, vlm.get_output_embeddings()
    try:
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        lm.base_model.load_state_dict(decoder.state_dict(), assign=True)
        lm.get_output_embeddings().load_state_dict(head.state_dict(), assign=True)
    except (ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{folder}: transformers has no language model that {config.model_type} is by itself ({first_line(error)})"
        ) from error
    lm.tie_weights()
    return lm.eval()


def _text_config(vlm: Any) -> Any:
    """The configuration of the language model, with what only the VLM's says."""
    from transformers import AutoConfig

    config = copy.deepcopy(vlm.config.get_text_config())
    if config.model_type in PLAIN:
        told = config.to_dict()
        rope = {key: value for key, value in (told.get("rope_parameters") or {}).items() if key != "mrope_section"}
        dropped = ("model_type", "architectures", "rope_parameters", "transformers_version")
        told = {key: value for key, value in told.items() if key not in dropped}
        config = AutoConfig.for_model(PLAIN[config.model_type], **told, rope_parameters=rope)
    embeddings, head = vlm.get_input_embeddings(), vlm.get_output_embeddings()
    config.tie_word_embeddings = embeddings.weight.data_ptr() == head.weight.data_ptr()
    config.vocab_size = embeddings.weight.shape[0]
    config.dtype = embeddings.weight.dtype
    config.name_or_path = ""  # a path of this machine
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name, None) is None:
            setattr(config, name, getattr(vlm.config, name, None))
    return config


# --------------------------------------------------------------------------------------------------- the same on a text


def _to_try(tokenizer: Any, model: Any) -> list[Any]:
    """Rows of ids without images: some texts, and words of the whole vocabulary."""
    import torch

    special = set(tokenizer.all_special_ids)
    limit = min(len(tokenizer), model.get_input_embeddings().weight.shape[0])
    ordinary = torch.tensor([i for i in range(limit) if i not in special])
    drawn = torch.randint(len(ordinary), (N_DRAWN,), generator=torch.Generator().manual_seed(0))
    rows = [torch.tensor(tokenizer(text)["input_ids"]) for text in TRIED]
    return [row[None] for row in (*rows, ordinary[drawn])]


def _logits(model: Any, ids: Sequence[Any]) -> list[Any]:
    import torch

    with torch.inference_mode():
        return [model(input_ids=row, attention_mask=torch.ones_like(row)).logits for row in ids]


def _check(new: Path, folder: Path, ids: Sequence[Any], expected: Sequence[Any]) -> dict[str, float]:
    """Load what was written as anybody would, and compare. Raises `UserError` where it says something else."""
    import torch
    from transformers import AutoModelForCausalLM

    texts = [_tokenizer(new)(text)["input_ids"] for text in TRIED]
    if texts != [row[0].tolist() for row in ids[: len(TRIED)]]:
        raise UserError(f"{folder}: the tokenizer that was carried over reads a text otherwise; nothing was written")
    lm = _load(AutoModelForCausalLM, new, "cpu", dtype="auto")
    largest = 0.0
    for found, wanted in zip(_logits(lm, ids), expected, strict=True):
        difference = (found.float() - wanted.float()).abs().max().item()
        if not difference <= WITHIN * torch.finfo(wanted.dtype).eps * wanted.float().abs().max().item():
            raise UserError(
                f"{folder}: its language model alone ({type(lm).__name__}) says something else than within it, by up "
                f"to {difference:.3g} in a logit: it does more than transformers' class for it; nothing was written"
            )
        largest = max(largest, difference)
    return {"sequences": len(ids), "tokens": sum(row.numel() for row in ids), "largest_difference": largest}


# --------------------------------------------------------------------------------------------------- beside the weights


def _carry(folder: Path, new: Path, tokenizer: Any) -> None:
    """Give the weights in `new` what belongs to a language model of that which lies beside those in `folder`."""
    for file in sorted({path for pattern in CARRIED for path in folder.glob(pattern) if path.is_file()}):
        shutil.copyfile(file, new / file.name)
    settings = new / "tokenizer_config.json"
    if settings.is_file():
        told = json.loads(settings.read_text(encoding="utf-8"))
        if told.pop("processor_class", None):
            settings.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    template = _chat_template(folder, tokenizer)
    if template:
        (new / "chat_template.jinja").write_text(template, encoding="utf-8")


def _chat_template(folder: Path, tokenizer: Any) -> str:
    """The checkpoint's own, made to take plain texts where it takes lists of texts and images only."""
    template = tokenizer.chat_template
    older = folder / "chat_template.json"  # of a processor; tokenizers do not read it
    if not template and older.is_file():
        template = json.loads(older.read_text(encoding="utf-8")).get("chat_template")
    if not isinstance(template, str):  # none, or several by name, which are the tokenizer's own
        return ""
    asked = [{"role": "user", "content": "probe"}]
    try:
        told = tokenizer.apply_chat_template(asked, chat_template=template, tokenize=False)
    except Exception:  # whatever the template raises: it does not take a plain text
        told = ""
    return template if "probe" in told else TAKES_TEXT + template
