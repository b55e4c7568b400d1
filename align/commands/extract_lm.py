"""`align extract-lm CHECKPOINT OUTDIR`: the language model alone out of a VLM, as a folder that any tool loads.

CHECKPOINT is a folder or a hub name, a recipe (its model), or what a stage of a run made; there an adapter is merged
into the model that it was trained on, which is known by its digest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from align.base import SHIPPED, Models, resolve
from align.console import Console
from align.digest import model_digest
from align.recipe import Recipe, load_recipe
from annotate.errors import UserError

EPILOG = """\
Written: weights in the checkpoint's own dtype, tokenizer, generation configuration, chat template, licence, and
`extracted_from` with digests of what it was made of. It is loaded again and must say of some texts what the VLM says;
else nothing is left. lm-eval reads it: lm_eval --model hf --model_args pretrained=OUTDIR --tasks ..."""
_ADAPTER = "adapter_config.json"
_TRAINED_ON = "trained_on"
_FIRST = ("instruct", "tune", "pretrain")
"""Stages whose model the adapters of a run may have been trained on."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a VLM: its folder, a hub name, a recipe, or runs/<name>/<stage>"
    )
    parser.add_argument("out", metavar="OUTDIR", help="the folder that is made; it must not hold anything yet")
    parser.add_argument("--adapter", metavar="DIR", help="a LoRA adapter, or the stage that trained it, to be merged")
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Extract; raises `UserError` before the weights are read where something is missing."""
    from align.models.extract import RECEIPT, check_out, extract_language_model

    out = Path(options.out)
    check_out(out)
    folder, adapter = _find(options.checkpoint)
    if options.adapter is not None:
        if adapter is not None:
            raise UserError(f"{options.checkpoint}: has an adapter of its own; give its model, or leave out --adapter")
        adapter = _adapter_in(Path(options.adapter))
        if adapter is None:
            raise UserError(f"--adapter: {options.adapter} holds no {_ADAPTER}; give the folder that PEFT saved")
    made = extract_language_model(folder, out, adapter=adapter)
    merged = "" if adapter is None else f" with {adapter}"
    console.result(
        f"{folder}{merged}: {made.architecture}, {made.parameters:,} parameters in {made.dtype}, written to {out}\n"
        f"tried on {made.tried['tokens']} tokens: differs from the VLM by at most {made.tried['largest_difference']:g} "
        f"in a logit ({RECEIPT})",
        written=str(out), folder=str(folder), adapter=None if adapter is None else str(adapter), made={
            "architecture": made.architecture, "parameters": made.parameters, "dtype": made.dtype, "tried": made.tried,
        },
    )  # fmt: skip
    return 0


def _find(name: str) -> tuple[Path, Path | None]:
    """Model and adapter of what was named. Raises `UserError` with a remedy."""
    path = Path(name)
    if name.endswith((".yaml", ".yml")):
        return _of_recipe(load_recipe(name)), None
    if path.is_dir() and not (path / "config.json").is_file():
        if (path / "model" / "config.json").is_file():
            return path / "model", None
        if (adapter := _adapter_in(path)) is not None:
            return _trained_on(adapter), adapter
        stages = [str(inner.parent) for kind in ("model", "adapter") for inner in sorted(path.glob(f"*/{kind}"))]
        hint = f"; name a stage: {', '.join(stages)}" if stages else "; give a checkpoint in Hugging Face layout"
        raise UserError(f"{path}: no config.json, no model/ and no adapter/{hint}")
    return resolve(name, key="CHECKPOINT", stage="", shipped=SHIPPED).path, None


def _of_recipe(recipe: Recipe) -> Path:
    if recipe.model_stage is not None:
        return resolve(str(recipe.path), key="CHECKPOINT", stage="tune", shipped=SHIPPED / "vlm").path
    if not recipe.model:
        raise UserError(f"{recipe.path}: names no `model` and trains none; give the checkpoint itself")
    return Models(recipe).model.path


def _adapter_in(folder: Path) -> Path | None:
    """The adapter that lies in a folder: itself, or a stage's."""
    return next((place for place in (folder, folder / "adapter") if (place / _ADAPTER).is_file()), None)


def _trained_on(adapter: Path) -> Path:
    """The model that a run's adapter belongs to. Raises `UserError` where none with its digest is found."""
    remedy = f"say it: align extract-lm MODEL OUTDIR --adapter {adapter}"
    try:
        told = (adapter / _TRAINED_ON).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError(f"{adapter}: does not say which model it was trained on; {remedy}") from None
    for folder in _candidates(adapter):
        if (folder / "config.json").is_file() and model_digest(folder) == told:
            return folder
    raise UserError(
        f"{adapter}: was trained on a model (sha256 {told:.16}…) that is neither in its run nor named by a recipe of "
        f"that run in recipes/; {remedy}"
    )


def _candidates(adapter: Path) -> Iterator[Path]:
    """Where the model of a run's adapter may lie: made by the run, named by its recipe, shipped."""
    # the run is two folders up, of a snapshot four: run/instruct/snapshots/step-500/adapter
    runs = [adapter.absolute().parents[up] for up in (1, 3) if up < len(adapter.absolute().parents)]
    for run in runs:
        for place in (*(run / stage for stage in _FIRST), run):  # a round's model lies beside its stages
            yield place / "model"
    yield SHIPPED / "vlm"
    for file in sorted(Path("recipes").rglob("*.yaml")):
        try:
            recipe = load_recipe(file)
            if recipe.folder.resolve() in [run.resolve() for run in runs]:
                yield _of_recipe(recipe)
        except UserError:
            continue  # not a recipe, or of a model that is not here
