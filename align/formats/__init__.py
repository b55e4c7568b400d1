"""The data files of other tools, read and written: one file per format, `format.py` says what a format is.

align convert RLAIF-V-Dataset_000.parquet pairs.json --to llama_factory --image-dir images
align validate pairs.json

reading.py    a file of any format -> records          containers.py    JSON list, JSON Lines, parquet
writing.py    records -> a file of any format          store.py         where the images are
grouping.py   one completion a row -> one prompt, on disk
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from align.formats.format import Format
from annotate.errors import UserError

MODULES = (
    "llava",
    "mllm_dpo",
    "povid",
    "vl_rlhf",
    "rlaif_v",
    "llava_human_preference",
    "trl",
    "llama_factory",
    "ms_swift",
    "helpsteer",
    "ultrafeedback",
    "vlfeedback",
    "nemo",
    "own",
)


@cache
def formats() -> Mapping[str, Format]:
    """Every format by its name, in the order of MODULES. Each module has a `FORMAT`, or several `FORMATS`."""
    found: list[Format] = []
    for name in MODULES:
        module = import_module(f"align.formats.{name}")
        found += getattr(module, "FORMATS", None) or (module.FORMAT,)
    return {form.name: form for form in found}


def format_named(name: str) -> Format:
    """Raises `UserError` with the names there are."""
    found = formats().get(name)
    if found is not None:
        return found
    from difflib import get_close_matches

    near = get_close_matches(name, formats(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no format {name!r}{hint}  Formats: {', '.join(formats())}")
