"""`align audit VLM [--backbone LM]`: what visual tuning did to a language model, without any recipe or alignment.

What is run is a recipe all the same: it is written to `OUT/audit.yaml`, so that an audit that was cut short goes on
where it was, and can be extended by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.console import Console
from annotate.errors import UserError

if TYPE_CHECKING:
    from align.benchmarks.suite import Suite

EPILOG = """\
VLM and LM are folders in Hugging Face layout, or hub names: LLaVA, and any family whose processor transformers loads.
Without --backbone there are scores but no verdict: whether text got worse takes the model from before.

examples:
  align audit llava-1.5-7b-hf --backbone vicuna-7b-v1.5 --folder data/demo/bench/test
  align audit my-vlm --folder bench --suites pope choice --image-root val2014 --out audits/my-vlm"""
RECIPE = """\
# Written by `align audit`; `align run {path}` does the same.
name: {name}
runs: {runs}
model: {model}
{backbone}prompts: {{image_root: {images}}}
evaluate:
  folder: {folder}
  suites: {suites}
  max_new_tokens: {tokens}
  batch_size: {batch}
  limit: {limit}
report: {{title: {title}}}
"""
_OPTIONS = {
    "model": "VLM",
    "backbone": "--backbone",
    "name": "--out",
    "evaluate.folder": "--folder",
    "evaluate.suites": "--suites",
    "evaluate.max_new_tokens": "--max-new-tokens",
    "evaluate.batch_size": "--batch-size",
    "evaluate.limit": "--limit",
    "prompts.image_root": "--image-root",
}
"""Keys of the recipe, and where their values come from."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vlm", metavar="VLM", help="the vision-language model: a folder, or a hub name")
    parser.add_argument("--backbone", metavar="LM", help="the language model it was made of: a folder, or a hub name")
    parser.add_argument(
        "--suites", nargs="+", metavar="SUITE", help="which benchmarks (default: all whose file lies in --folder)"
    )
    parser.add_argument("--folder", required=True, metavar="BENCH", help="benchmark files, one <suite>.jsonl each")
    parser.add_argument(
        "--image-root", metavar="DIR", help="folder of the images (default: `images` in BENCH or up to two above it)"
    )
    parser.add_argument("--out", metavar="DIR", help="where everything goes (default: runs/audit-<name of VLM>)")
    parser.add_argument("--limit", type=int, metavar="N", help="first so many questions of each suite")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="of each answer (default: 256)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="questions per batch (default: 32)")
    parser.epilog = EPILOG


def run(options: argparse.Namespace, console: Console) -> int:
    """Evaluate and report; raises `UserError` before any model is loaded where something is missing."""
    from align.recipe import load_recipe
    from align.runner import Runner

    faults = [*_vlm_faults(options.vlm), *_backbone_faults(options.backbone, options.vlm)]
    bench = Path(options.folder)
    if not bench.is_dir():
        faults.append(f"--folder: {bench} is no folder; it holds the benchmark files, one <suite>.jsonl each")
    if faults:
        raise UserError(*faults)
    images = Path(options.image_root) if options.image_root else _images_near(bench)
    suites = options.suites or _suites_in(bench)
    out = Path(options.out) if options.out else Path("runs") / f"audit-{Path(options.vlm).name}"
    recipe_file = _write_recipe(options, out, suites, images)
    try:
        recipe = load_recipe(recipe_file)
        Runner(recipe, console).bring(None)
    except UserError as error:
        raise UserError(*(_in_options(fault, recipe_file) for fault in error.faults)) from None
    report = recipe.folder / "report"
    table = (report / "table.txt").read_text(encoding="utf-8").rstrip()
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    console.result(
        f"\n{table}\n\n{report / 'report.html'}",
        page=str(report / "report.html"), recipe=str(recipe_file), sentence=found["sentence"],
        verdicts=found["verdicts"], metrics=found["metrics"],
    )  # fmt: skip
    return 0


def _write_recipe(options: argparse.Namespace, out: Path, suites: list[str], images: Path) -> Path:
    from align.report.folder import check_folder
    from annotate.jsonl import write_text

    name = out.resolve().name
    check_folder(out)
    path = out / "audit.yaml"
    made = RECIPE.format(
        path=path,
        name=_yaml(name),
        runs=_yaml(str(out.parent)),
        model=_yaml(_place(options.vlm)),
        backbone=f"backbone: {_yaml(_place(options.backbone))}\n" if options.backbone else "",
        images=_yaml(str(images)),
        folder=_yaml(_place(options.folder)),
        suites=_yaml(suites),
        tokens=options.max_new_tokens,
        batch=options.batch_size,
        limit="null" if options.limit is None else options.limit,
        title=_yaml(f"Audit of {Path(options.vlm).name}"),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, made)
    return path


def _in_options(fault: str, recipe: Path) -> str:
    """A fault of the recipe that nobody wrote, as one of the option that it comes from."""
    said = re.sub(rf"^{re.escape(str(recipe))}(:\d+)?  ?", "", fault)
    for key, name in _OPTIONS.items():
        said = re.sub(rf"^{re.escape(key)}(\.\d+)?: ", f"{name}: ", said)
    return said.replace("`prompts: {image_root: DIR}`", "--image-root DIR").replace(
        "prompts.image_root", "--image-root"
    )


def _place(name: str) -> str:
    """A folder wherever the recipe is run from; a hub name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _yaml(value: Any) -> str:
    """JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------- what is there to be asked


def _vlm_faults(name: str) -> list[str]:
    """What is wrong with a folder as a vision-language model; a hub name is looked up later."""
    folder = Path(name)
    faults = _folder_faults(name)
    seeing = ("preprocessor_config.json", "processor_config.json")
    if folder.is_dir() and not faults and not any((folder / file).is_file() for file in seeing):
        faults.append(
            f"{name}: no {seeing[0]} and no {seeing[1]}: nothing that prepares images. A language model is given by "
            "--backbone; a vision-language model needs its processor beside the weights"
        )
    return faults


def _backbone_faults(name: str | None, vlm: str) -> list[str]:
    if not name:
        return []
    faults = [f"--backbone: {fault}" for fault in _folder_faults(name)]
    if Path(name).is_dir() and Path(name).resolve() == Path(vlm).resolve():
        faults.append(f"--backbone: {name} is the VLM itself; name the language model from before visual tuning")
    return faults


def _folder_faults(name: str) -> list[str]:
    from align.models.load import check_folder

    folder = Path(name)
    if not folder.is_dir():
        hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
        return [] if hub else [f"{name}: no such folder; give a checkpoint in Hugging Face layout or owner/model"]
    try:
        check_folder(folder)
    except UserError as error:
        return list(error.faults)
    return []


def _images_near(bench: Path) -> Path:
    places = [bench / "images", *(up / "images" for up in list(bench.resolve().parents)[:2])]
    return next((place for place in places if place.is_dir()), bench)


def _suites_in(bench: Path) -> list[str]:
    """The suites whose questions lie in a folder and can be asked; what another suite's file lacks is no fault here."""
    from align.benchmarks.suites import SUITES

    found = [name for name, suite in SUITES.items() if _can_be_asked(suite, bench / f"{suite.file}.jsonl")]
    if not found:
        files = ", ".join(dict.fromkeys(f"{suite.file}.jsonl" for suite in SUITES.values()))
        raise UserError(f"--folder: {bench} holds no benchmark that can be asked; known files: {files}")
    return found


def _can_be_asked(suite: Suite, file: Path) -> bool:
    from align.benchmarks.rows import load_rows

    if not file.is_file() or suite.judged:  # a judge is named in a recipe
        return False
    rows = load_rows(file, suite=suite.name)  # a file that is broken is told, not passed over
    return not any(suite.fault(row) for row in rows)
