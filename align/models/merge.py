"""A model with an adapter merged into its weights, as a folder of its own that any tool can load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from align.digest import model_digest

RECEIPT = "merged_from"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pth")


def merge_adapter(folder: Path, adapter: Path, out: Path) -> bool:
    """Write the model in `folder` with `adapter` to `out`; False where it lies there already.

    The weights are those that `load_vlm` answers with. Tokenizer and processor are copied as they are. A kill leaves
    nothing at `out`.
    """
    made_from = json.dumps({"model": model_digest(folder), "adapter": model_digest(adapter)})
    receipt = out / RECEIPT
    if receipt.is_file() and receipt.read_text(encoding="utf-8") == made_from:
        return False
    from align.models.load import load_vlm
    from align.models.quiet import quiet

    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with quiet():
        load_vlm(folder, adapter=adapter).model.save_pretrained(new)
    copy_beside_weights(folder, new)
    (new / RECEIPT).write_text(made_from, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)
    return True


def copy_beside_weights(folder: Path, new: Path, *, replace: bool = False) -> None:
    """Give the weights in `new` all that lies beside those in `folder`: tokenizer, processor, licence.

    `replace`: configurations too, which `save_pretrained` has written anew.
    """
    weights = {path for pattern in _WEIGHTS for path in folder.glob(pattern)}
    for file in sorted(set(folder.iterdir()) - weights):
        if file.is_file() and file.name != RECEIPT and (replace or not (new / file.name).exists()):
            shutil.copyfile(file, new / file.name)
