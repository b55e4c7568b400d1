"""`align import-llava CHECKPOINT OUTDIR`: LLaVA in its authors' layout as a folder in Hugging Face layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from align.base import SHIPPED, resolve
from align.console import Console
from annotate.errors import UserError

EPILOG = """\
CHECKPOINT is one of
  mm_projector.bin, or a folder with it       the connector of stage 1; takes --language
  a folder with non_lora_trainables.bin       and the LoRA adapter beside it; takes --language
  a whole checkpoint, model_type llava_llama  pytorch_model-*.bin or safetensors
Pickles are read weights-only: nothing in them is run, and one that holds more than tensors is refused.
OUTDIR is a LLaVA that transformers, `model:` of a recipe and every verb here load."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder (or hub name) in the original layout")
    parser.add_argument("out", metavar="OUTDIR", help="the folder that is made; it must not hold anything yet")
    parser.add_argument("--language", metavar="LM", help="the language model it was trained on: a folder or hub name")
    parser.add_argument(
        "--tower",
        metavar="CLIP",
        help="the vision tower: a folder or hub name (default: mm_vision_tower of config.json)",
    )
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Import; raises `UserError` with nothing left behind."""
    from align.models.original import import_llava, tower_of

    path = Path(options.checkpoint)
    checkpoint = path if path.exists() else _place("CHECKPOINT", options.checkpoint)
    tower = options.tower or tower_of(checkpoint)
    if tower is None:
        raise UserError(f"{checkpoint}: no config.json that names its mm_vision_tower; say it: --tower CLIP")
    language = None if options.language is None else _place("--language", options.language)
    out = Path(options.out)
    made = import_llava(checkpoint, out, tower=_place("--tower", tower), language=language)
    lines = [f"{checkpoint}: a LLaVA with a projector `{made['projector']}`, written to {out}"]
    if made["tokens"]:
        lines.append(
            f"it was trained with {' and '.join(made['tokens'])} in the vocabulary; where images stood between "
            "<im_start> and <im_end>, prompts must say so: <im_start><image><im_end>"
        )
    console.result("\n".join(lines), written=str(out), made=made)
    return 0


def _place(key: str, name: str) -> Path:
    return resolve(name, key=key, stage="", shipped=SHIPPED).path
