"""What stages are handed, looked at before any of them works: hours of training are no time to find a fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from align.recipe import Recipe
from align.settings import Evaluate, Prompts, Train
from align.stages import Stage
from annotate.errors import UserError
from annotate.lanes import check_backend

METHODS: Mapping[str, Literal["dpo", "sft"]] = {
    "pretrain": "sft",
    "instruct": "sft",
    "dpo": "dpo",
    "steerlm": "sft",
    "rejection": "sft",
    "sft": "sft",
}


def input_faults(recipe: Recipe, stages: Sequence[Stage], *, asking: bool, model: Path | None = None) -> list[str]:
    """What these stages will not be able to work with.

    `asking`: annotators are to be asked, not only read again; `model`: the folder of the model, where it is there.
    """
    faults: list[str] = []
    prompts = recipe.prompts or Prompts()
    for stage in stages:
        block = recipe.block(stage.name)
        asked = getattr(block, "judge", None) if stage.name == "evaluate" else block
        if asked is not None and hasattr(asked, "backend") and asking:
            with gathered(faults):
                check_backend(asked)
        if stage.name == "sample":
            from align.sample.stage import check

            with gathered(faults):
                check(block)
        if stage.name == "pairs" and block.also:
            from align.pairs.also import read_also

            with gathered(faults):
                read_also(block.also, Path(prompts.image_root))
        if stage.name in METHODS:
            from align.train.lora_run import check_options

            with gathered(faults):
                check_options(block or Train(), stage.name, METHODS[stage.name])
            if model is not None and stage.uses_model:
                from align.train.modules import model_faults

                with gathered(faults):
                    faults += [f"{stage.name}.{fault}" for fault in model_faults(model, block or Train())]
        if stage.name == "evaluate":
            from align.evaluate.plan import load_exams, room_faults

            with gathered(faults):
                load_exams(block, prompts)
                faults += dict.fromkeys(room_faults(block, model) if model is not None else ())
            if block.text:
                from align.benchmarks.text_rows import load_text

                with gathered(faults):
                    load_text(block.text)
            if block.judge:
                from align.benchmarks.judge_prompts import load_judge_prompts

                with gathered(faults):
                    load_judge_prompts(block.judge.prompts)
    return faults


def missing_files(recipe: Recipe) -> list[str]:
    """What the recipe names and is not there, as `prompts.file data/prompts.jsonl`; a stage would end with it."""
    named: dict[str, str] = {}
    if recipe.prompts:
        named |= {"prompts.file": recipe.prompts.file, "prompts.image_root": recipe.prompts.image_root}
    for stage in ("language", "connect", "tune", "pretrain", "instruct"):
        block = recipe.block(stage)
        named |= {f"{stage}.{name}": getattr(block, name, "") for name in ("rows", "image_root")}
    for i, file in enumerate(recipe.pairs.also if recipe.pairs else ()):
        named[f"pairs.also.{i}"] = file
    if recipe.evaluate:
        named |= _benchmark_files(recipe.evaluate)
    return [f"{key} {path}" for key, path in named.items() if path and not Path(path).exists()]


def _benchmark_files(evaluate: Evaluate) -> dict[str, str]:
    """Key -> path of what the suites are read from; the folder only where one of them has no files of its own."""
    from align.benchmarks.published import NAMES
    from align.benchmarks.suites import find_suites

    used = {suite.file for suite in find_suites(evaluate.suites)}
    own = {suite: files for suite, files in evaluate.files.items() if suite in used}
    named = {
        f"evaluate.files.{suite}.{role}": path
        for suite, files in own.items()
        for role, path in files.items()
        if role not in NAMES
    }
    return named | ({"evaluate.folder": evaluate.folder} if used - own.keys() else {})


def missing_packages(recipe: Recipe, stages: Sequence[Stage]) -> list[str]:
    """What is not installed, with the command that installs it."""
    quantized = any(getattr(recipe.block(s.name), "quantize", "none") != "none" for s in stages)
    text = any(getattr(recipe.block(s.name), "text", None) is not None for s in stages)
    wanted: dict[str, tuple[str, ...]] = {
        "train": ("torch", "transformers", "trl", "peft") if any(s.tensors for s in stages) else (),
        "qlora": ("bitsandbytes",) if quantized else (),
        "text": ("lm_eval",) if text else (),
        "report": ("jinja2", "matplotlib") if any(s.name == "report" for s in stages) else (),
    }
    missing = {extra: [name for name in names if find_spec(name) is None] for extra, names in wanted.items()}
    return [f"not installed: {', '.join(names)}; pip install 'mmalign[{e}]'" for e, names in missing.items() if names]


@contextmanager
def gathered(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        faults += error.faults
